//! `/v1/event-types`, and its effects on events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::Bed;
use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;

async fn send(producer: &Producer, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let response = producer.request(method, path).json(body).send().await.expect("a response");
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.expect("a body")).unwrap_or_default())
}

async fn change(producer: &Producer, name: &str, body: Value) -> Value {
    let (status, body) = send(producer, Method::PATCH, &format!("/v1/event-types/{name}"), &body).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Publishes under a key. Returns the status, and the code or `""`.
async fn publish(producer: &Producer, key: &str, event_type: &str, data: &Value) -> (u16, String) {
    let response = producer.try_publish(key, event_type, data).await.expect("a response");
    let status = response.status().as_u16();
    let body: Value = response.json().await.expect("a body");
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn ok() -> (u16, String) {
    (202, String::new())
}

fn refused(code: &str) -> (u16, String) {
    (422, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_can_be_written_and_read() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let schema = json!({"type": "object", "required": ["id"], "properties": {"n": {"maximum": 10}}});
    let created = producer
        .request(Method::POST, "/v1/event-types")
        .json(&json!({"name": "invoice.paid", "description": "Paid.", "example": {"id": 1}, "json_schema": schema}))
        .send()
        .await
        .expect("a response");
    assert_eq!(created.status(), StatusCode::CREATED);
    assert_eq!(created.headers()["location"], "/v1/event-types/invoice.paid");
    let created: Value = created.json().await.expect("a body");
    assert_eq!((&created["json_schema"], &created["is_archived"]), (&schema, &json!(false)));
    assert_eq!(producer.get("/v1/event-types/invoice.paid").await, created);
    let (status, problem) = producer.refused("/v1/event-types", &json!({"name": "invoice.paid"})).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("event_type_exists")));

    // Absent fields stay, null fields are removed.
    let changed = change(&producer, "invoice.paid", json!({"description": null, "example": {"id": 2}})).await;
    assert_eq!((&changed["description"], &changed["example"]), (&json!(""), &json!({"id": 2})));
    assert_eq!(changed["json_schema"], schema);
    let changed = change(&producer, "invoice.paid", json!({"json_schema": null, "is_archived": true})).await;
    assert_eq!((&changed["json_schema"], &changed["is_archived"]), (&Value::Null, &json!(true)));

    for name in ["user.created", "a", "user.deleted"] {
        producer.post("/v1/event-types", &json!({"name": name})).await;
    }
    let names = async |path: &str| {
        let page = producer.get(path).await;
        let names: Vec<_> =
            page["data"].as_array().expect("a page").iter().map(|t| text(&t["name"])).collect();
        (names, page["next_cursor"].as_str().map(str::to_owned))
    };
    let (first, cursor) = names("/v1/event-types?limit=2").await;
    assert_eq!(first, ["a", "user.created"]);
    let (second, end) = names(&format!("/v1/event-types?limit=2&cursor={}", cursor.expect("more"))).await;
    assert_eq!((second, end), (vec!["user.deleted".to_owned()], None));
    assert_eq!(names("/v1/event-types?include_archived=true").await.0.len(), 4);

    let stranger = Producer::new(services.api).await;
    assert_eq!(stranger.get("/v1/event-types").await["data"], json!([]));
    let list = [json!("a list"), json!({})];
    let (status, problem) = send(&producer, Method::PATCH, "/v1/event-types/a", &json!(list)).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("body")));
    for (producer, method, path, body, status) in [
        (&stranger, Method::GET, "/v1/event-types/a", json!({}), 404),
        (&stranger, Method::PATCH, "/v1/event-types/a", json!({}), 404),
        (&stranger, Method::DELETE, "/v1/event-types/a", json!({}), 404),
        (&producer, Method::GET, "/v1/event-types/a-b", json!({}), 404),
        (&producer, Method::POST, "/v1/event-types", json!({"name": "postrider.a"}), 422),
        (&producer, Method::POST, "/v1/event-types", json!({"name": "a b"}), 422),
        (&producer, Method::POST, "/v1/event-types", json!({"name": "b", "x": 1}), 422),
        (&producer, Method::POST, "/v1/event-types", json!({"name": "b", "example": 1}), 422),
        (&producer, Method::POST, "/v1/event-types", json!({"name": "b", "json_schema": {"type": 1}}), 422),
        (
            &producer,
            Method::POST,
            "/v1/event-types",
            json!({"name": "b", "json_schema": {"$ref": "https://x.example/"}}),
            422,
        ),
        (
            &producer,
            Method::PATCH,
            "/v1/event-types/a",
            json!({"json_schema": {"x": "y".repeat(65_536)}}),
            422,
        ),
        (&producer, Method::DELETE, "/v1/event-types/a", json!({}), 204),
        (&producer, Method::DELETE, "/v1/event-types/a", json!({}), 404),
    ] {
        let (answered, problem) = send(producer, method.clone(), path, &body).await;
        assert_eq!(answered, status, "{method} {path} {problem}");
    }
    let body = json!({"name": "b", "json_schema": {"properties": {"a": {"pattern": 1}}}});
    let (_, problem) = producer.refused("/v1/event-types", &body).await;
    assert_eq!(problem["code"], "json_schema_invalid");
    assert_eq!(problem["errors"][0]["field"], "json_schema.properties.a.pattern");
    let body =
        json!({"name": "b", "example": {"a": 1}, "json_schema": {"properties": {"a": {"type": "string"}}}});
    let (_, problem) = producer.refused("/v1/event-types", &body).await;
    assert_eq!(
        (&problem["code"], &problem["errors"][0]["field"]),
        (&json!("schema_violation"), &json!("example.a"))
    );
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_must_match_the_current_schema_of_its_type() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    // Another replica does not know of changes that were made through the first one.
    let other = Services::api_alone(&bed, &[]).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let elsewhere = Producer { api: other.api, ..producer.clone() };
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let numeric = json!({"properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]});
    let textual = json!({"properties": {"n": {"type": "string"}}});
    let (good, bad) = (json!({"n": 5}), json!({"n": "five"}));

    for producer in [&producer, &elsewhere] {
        assert_eq!(publish(producer, "before", "order.made", &bad).await, ok());
    }
    producer.post("/v1/event-types", &json!({"name": "order.made", "json_schema": numeric})).await;
    for producer in [&elsewhere, &producer] {
        assert_eq!(publish(producer, "x", "order.made", &bad).await, refused("schema_violation"));
        assert_eq!(publish(producer, "a", "order.made", &good).await, ok());
        assert_eq!(publish(producer, "b", "order.other", &bad).await, ok());
        // What was accepted once stays accepted.
        assert_eq!(publish(producer, "before", "order.made", &bad).await, ok());
    }
    let response =
        producer.try_publish("c", "order.made", &json!({"n": 0, "m": []})).await.expect("a response");
    let problem: Value = response.json().await.expect("a problem");
    assert_eq!(
        problem["errors"],
        json!([{"field": "data.n", "message": "it is less than the minimum of 1"}])
    );

    change(&producer, "order.made", json!({"json_schema": textual})).await;
    for producer in [&elsewhere, &producer] {
        assert_eq!(publish(producer, "d", "order.made", &good).await, refused("schema_violation"));
        assert_eq!(publish(producer, "e", "order.made", &bad).await, ok());
    }
    change(&producer, "order.made", json!({"is_archived": true})).await;
    for producer in [&elsewhere, &producer] {
        assert_eq!(publish(producer, "d", "order.made", &good).await, ok());
    }
    change(&producer, "order.made", json!({"is_archived": false})).await;
    assert_eq!(publish(&elsewhere, "f", "order.made", &good).await, refused("schema_violation"));
    let deleted =
        producer.request(Method::DELETE, "/v1/event-types/order.made").send().await.expect("a response");
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(publish(&elsewhere, "f", "order.made", &good).await, ok());

    // A caller that may not publish learns that, and nothing about the schema.
    let unknown = Producer { key: Some(format!("pr_{}", "x".repeat(43))), ..producer.clone() };
    assert_eq!(publish(&unknown, "g", "order.made", &bad).await.0, 401);
    services.stop().await;
    other.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checking_a_schema_loses_no_digits() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let schema = json!({"properties": {"n": {"type": "number"}, "m": {"minimum": 0}}});
    producer.post("/v1/event-types", &json!({"name": "a", "json_schema": schema})).await;
    let data = r#"{"m": 1e400, "n": 12345678901234567890.10}"#;
    let request = producer.request(Method::POST, "/v1/events").header("idempotency-key", "k");
    let request = request.header("content-type", "application/json");
    let answer =
        request.body(format!(r#"{{"event_type":"a","data":{data}}}"#)).send().await.expect("a response");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let body = receiver.wait_for(1).await.remove(0).body;
    let body = String::from_utf8(body).expect("text");
    assert!(
        body.contains("12345678901234567890.10") && body.contains(&format!("1{}", "0".repeat(400))),
        "{body}"
    );
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_application_accepts_only_known_types() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let data = json!({});
    assert_eq!(publish(&producer, "a", "order.made", &data).await, ok());
    let strict = "update applications set strict_event_types = true";
    bed.sql().await.batch_execute(strict).await.expect("strict");
    assert_eq!(publish(&producer, "b", "order.made", &data).await, refused("unknown_event_type"));
    assert_eq!(publish(&producer, "a", "order.made", &data).await, ok(), "it was accepted before");
    producer.post("/v1/event-types", &json!({"name": "order.made"})).await;
    assert_eq!(publish(&producer, "b", "order.made", &data).await, ok());
    change(&producer, "order.made", json!({"is_archived": true})).await;
    assert_eq!(publish(&producer, "c", "order.made", &data).await, refused("unknown_event_type"));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_checked_item_by_item() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    for name in ["even", "odd"] {
        let schema = json!({"properties": {"kind": {"const": name}}});
        producer.post("/v1/event-types", &json!({"name": name, "json_schema": schema})).await;
    }
    let events: Vec<_> = (0..300)
        .map(|n| {
            let event_type = if n % 2 == 0 { "even" } else { "odd" };
            let kind = if n % 3 == 0 { "even" } else { "odd" };
            json!({"idempotency_key": n.to_string(), "event_type": event_type, "data": {"kind": kind}})
        })
        .collect();
    for duplicate in [false, true] {
        let answer = producer.post("/v1/events/batch", &json!({ "events": events })).await;
        for (n, result) in answer["results"].as_array().expect("results").iter().enumerate() {
            if (n % 2 == 0) == (n % 3 == 0) {
                assert_eq!(
                    (&result["status"], &result["duplicate"]),
                    (&json!("accepted"), &json!(duplicate))
                );
            } else {
                assert_eq!(result["error"]["code"], "schema_violation");
                assert_eq!(result["error"]["errors"][0]["field"], "data.kind");
            }
        }
    }
    services.stop().await;
    bed.finish().await;
}

/// Every stored event matches the schema that was set when it was stored, however fast the schema changes.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_slips_through_while_the_schema_changes() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let schema = |kind: &str| json!({"properties": {"n": {"type": kind}}});
    producer.post("/v1/event-types", &json!({"name": "a", "json_schema": schema("integer")})).await;
    let sql = bed.sql().await;
    // A trigger stores, beside each event, the schema that its statement saw.
    sql.batch_execute(
        "alter table events add column schema_then jsonb;
         create function note_schema() returns trigger language plpgsql stable as $$
         begin
             select json_schema into new.schema_then from event_types where name = new.event_type;
             return new;
         end $$;
         create trigger note_schema before insert on events for each row execute function note_schema();",
    )
    .await
    .expect("a trigger");
    let (is_over, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let publishers: Vec<_> = (0..4)
        .map(|number| {
            let (producer, is_over, accepted) = (producer.clone(), is_over.clone(), accepted.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let data = if count % 2 == 0 { json!({"n": 1}) } else { json!({"n": "1"}) };
                    let (status, code) = publish(&producer, &format!("{number}-{count}"), "a", &data).await;
                    assert!(
                        matches!(
                            (status, code.as_str()),
                            (202, "") | (422, "schema_violation") | (503, "schema_changing")
                        ),
                        "{status} {code}"
                    );
                    accepted.fetch_add(u32::from(status == 202), Ordering::Relaxed);
                    count += 1;
                }
            })
        })
        .collect();
    for (round, kind) in ["string", "integer"].into_iter().cycle().take(2_000).enumerate() {
        change(&producer, "a", json!({"json_schema": schema(kind)})).await;
        if round >= 40 && accepted.load(Ordering::Relaxed) > 40 {
            break;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.expect("a task");
    }
    let kept = "select count(*) from events where schema_then #>> '{properties,n,type}' =
                case jsonb_typeof(payload->'n') when 'number' then 'integer' else 'string' end";
    let total = bed.count("select count(*) from events").await;
    assert!(total > 40, "only {total} events");
    assert_eq!(bed.count(kept).await, total);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_lists_the_types_of_all_applications() {
    let bed = Bed::new().await;
    let token = "the-admin-of-this-test";
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", token)]).await;
    let admin = Producer { key: Some(token.to_owned()), ..Producer::admin(services.api) };
    for uid in ["first", "second"] {
        admin.post("/v1/applications", &json!({"name": uid, "uid": uid})).await;
        for name in ["b", "a"] {
            let path = format!("/v1/event-types?application_id={uid}");
            let created = admin.request(Method::POST, &path).json(&json!({"name": name})).send().await;
            let created = created.expect("a response");
            assert_eq!(created.status(), StatusCode::CREATED);
            let location = created.headers()["location"].to_str().expect("text").to_owned();
            assert_eq!(admin.get(&location).await["name"], name);
        }
    }
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/v1/event-types?limit=1{cursor}")).await;
        names.extend(page["data"].as_array().expect("a page").iter().map(|entry| text(&entry["name"])));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, ["a", "b", "a", "b"]);
    let of_one = admin.get("/v1/event-types?application_id=second").await;
    assert_eq!(of_one["data"].as_array().expect("a page").len(), 2);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_has_a_bounded_number_of_event_types() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let sql = bed.sql().await;
    sql.batch_execute(
        "insert into event_types (application_id, name, is_archived)
         select id, 'type_' || n, n % 2 = 0 from applications, generate_series(1, 999) n",
    )
    .await
    .expect("999 types");
    let add =
        async |name: &str| send(&producer, Method::POST, "/v1/event-types", &json!({"name": name})).await;
    assert_eq!(add("last").await.0, 201);
    let (status, problem) = add("one_too_many").await;
    assert_eq!((status, &problem["code"]), (409, &json!("too_many_event_types")), "{problem}");
    let removed = producer.request(Method::DELETE, "/v1/event-types/last").send().await.expect("a response");
    assert_eq!(removed.status(), 204);
    assert_eq!(add("another").await.0, 201);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_with_too_much_pattern_in_total_is_refused() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let pattern = |number| json!({"pattern": format!("(?:{})+[b-z]{number}", "a?".repeat(620))});
    let schema = json!({"allOf": (0..48).map(pattern).collect::<Vec<_>>()});
    let body = json!({"name": "a", "json_schema": schema});
    let (status, problem) = send(&producer, Method::POST, "/v1/event-types", &body).await;
    assert_eq!((status, &problem["code"]), (422, &json!("json_schema_invalid")), "{problem}");
    let error = &problem["errors"][0];
    assert!(
        error["field"].as_str().is_some_and(|field| field.starts_with("json_schema.allOf[")),
        "{problem}"
    );
    assert!(error["message"].as_str().is_some_and(|message| message.contains("20000 states")), "{problem}");
    services.stop().await;
    bed.finish().await;
}
