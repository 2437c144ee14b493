//! `POST /v1/events/batch`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;
use crate::support::{Bed, eventually};

fn event(key: impl Into<String>, event_type: &str, data: Value) -> Value {
    json!({"idempotency_key": key.into(), "event_type": event_type, "data": data})
}

async fn results(producer: &Producer, events: Vec<Value>) -> Vec<Value> {
    let answer = producer.post("/v1/events/batch", &json!({ "events": events })).await;
    answer["results"].as_array().expect("results").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_items_are_answered_in_order_and_do_not_affect_each_other() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "event_types": ["user.*"]})).await;

    let results = results(
        &producer,
        vec![
            event("a", "user.created", json!({"n": 1})),
            event("b", "not a type", json!({})),
            event("c", "other", json!({})),
            event("a", "user.created", json!({"n": 1})),
            event("a", "user.created", json!({"n": 2})),
            json!({"event_type": "user.created", "data": {}}),
            event("d", "user.deleted", json!({"id": "12345678901234567890.5"})),
            event("e", "user.created", json!({"big": "x".repeat(262_145)})),
        ],
    )
    .await;
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["index"], index);
        assert_eq!(result["status"] == "accepted", result["error"].is_null(), "{result}");
    }
    let seen: Vec<_> = results
        .iter()
        .map(|result| match result["error"]["code"].as_str() {
            Some(code) => {
                assert!(result["event_id"].is_null() && result["duplicate"].is_null());
                (code, result["error"]["status"].clone(), Value::Null)
            }
            None => ("", result["deliveries_queued"].clone(), result["duplicate"].clone()),
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("", json!(1), json!(false)),
            ("event_type_invalid", json!(422), Value::Null),
            ("", json!(0), json!(false)),
            ("", json!(1), json!(true)),
            ("idempotency_key_reused", json!(409), Value::Null),
            ("validation_failed", json!(422), Value::Null),
            ("", json!(1), json!(false)),
            ("data_too_large", json!(413), Value::Null),
        ]
    );
    assert_eq!(results[3]["event_id"], results[0]["event_id"]);
    assert_eq!(results[5]["error"]["errors"][0]["field"], "idempotency_key");

    let mut ids: Vec<_> = receiver.wait_for(2).await.iter().map(|webhook| webhook.id().to_owned()).collect();
    ids.sort();
    let mut expected = [text(&results[0]["event_id"]), text(&results[6]["event_id"])];
    expected.sort();
    assert_eq!(ids, expected);
    services.stop().await;
    assert_eq!(receiver.count(), 2);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_batch_is_stored_once_however_often_it_is_sent() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    let filler = "x".repeat(4_000);
    let events: Vec<_> = (0..1_000)
        .map(|n| event(format!("key-{n}"), "user.created", json!({"n": n, "filler": filler})))
        .collect();
    let body = json!({ "events": events }).to_string();
    assert!(body.len() > 4_000_000 && body.len() <= 4 << 20, "{}", body.len());

    let send = async || {
        let request = producer.request(Method::POST, "/v1/events/batch");
        let request = request.header("content-type", "application/json").body(body.clone());
        let answer: Value = request.send().await.expect("a response").json().await.expect("a body");
        answer["results"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    };
    let (first, second) = tokio::join!(send(), send());
    for (a, b) in first.iter().zip(&second) {
        assert_eq!((&a["status"], &a["event_id"]), (&json!("accepted"), &b["event_id"]));
        assert_ne!(a["duplicate"], b["duplicate"], "{a} {b}");
    }
    assert_eq!(first.len(), 1_000);
    assert_eq!(bed.count("select count(*) from events").await, 1_000);
    assert_eq!(bed.count("select count(*) from deliveries").await, 1_000);
    assert!(send().await.iter().all(|result| result["duplicate"] == true));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_with_many_deliveries_are_fanned_out_completely() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    bed.sql()
        .await
        .execute(
            "insert into endpoints (application_id, url)
             select $1::text::uuid, 'http://127.0.0.1:9/' from generate_series(1, 900)",
            &[&producer.application_id],
        )
        .await
        .expect("endpoints");
    let events = || (0..40).map(|n| event(format!("key-{n}"), "user.created", json!({ "n": n }))).collect();
    for result in results(&producer, events()).await {
        assert_eq!(result["deliveries_queued"], 900, "{result}");
    }
    assert_eq!(bed.count("select count(*) from deliveries").await, 36_000);
    assert_eq!(bed.count("select count(*) from outbox").await, 36_000);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_beside_a_batch_that_waits_for_locks() {
    const HELD: usize = 24;
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    // From the first event on it is known what a producer's events cost, so that those of a batch are stored together.
    producer.publish("a", json!({})).await;
    let mut holder = bed.sql().await;
    let transaction = holder.transaction().await.expect("a transaction");
    let hold = format!(
        "insert into idempotency_keys (application_id, idempotency_key, event_id, event_hash, deliveries_queued)
         select a.id, 'held-' || n, uuid_v7(), '', 0 from applications a, generate_series(1, {HELD}) n"
    );
    assert_eq!(transaction.execute(&hold, &[]).await.expect("keys"), HELD as u64);

    let batch: Vec<_> = (1..=HELD).map(|n| event(format!("held-{n}"), "a", json!({}))).collect();
    // Each statement waits a quarter of a second for one of the keys, and there are dozens of statements.
    let stuck = tokio::spawn({
        let (producer, batch) = (producer.clone(), batch.clone());
        async move { results(&producer, batch).await }
    });
    let waiting = "select count(*) from pg_locks where not granted and locktype = 'transactionid'";
    eventually("the batch to wait", async || (bed.count(waiting).await > 0).then_some(())).await;
    for _ in 0..5 {
        producer.publish("a", json!({})).await;
    }
    assert!(!stuck.is_finished(), "they were stored after the batch, not beside it");

    transaction.rollback().await.expect("the keys are free");
    for result in stuck.await.expect("a response") {
        let is_busy = result["error"]["code"] == "idempotency_key_busy";
        assert!(result["status"] == "accepted" || is_busy, "{result}");
    }
    let all = results(&producer, batch).await;
    assert!(all.iter().all(|result| result["status"] == "accepted"), "{all:?}");
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_permission_is_refused_as_a_whole() {
    let bed = Bed::new().await;
    let token = "an-admin-token-of-the-test";
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", token)]).await;
    let admin = Producer { key: Some(token.to_owned()), ..Producer::admin(services.api) };
    let application = admin.post("/v1/applications", &json!({"name": "a", "uid": "acme"})).await;
    let path = format!("/v1/applications/{}/api-keys", text(&application["id"]));
    let reader = admin.post(&path, &json!({"name": "reader", "scopes": ["read"]})).await;
    let with = |key: &str| Producer { key: Some(key.to_owned()), ..admin.clone() };
    let owner = with(&text(&application["api_key"]));
    let batch = json!({"events": [event("a", "user.created", json!({}))]});

    let refused = async |producer: &Producer, path: &str, body: &str| {
        let request = producer.request(Method::POST, path).header("content-type", "application/json");
        let response = request.body(body.to_owned()).send().await.expect("a response");
        let status = response.status();
        let problem: Value = response.json().await.expect("a problem body");
        (status, text(&problem["code"]))
    };
    let path = "/v1/events/batch";
    let good = batch.to_string();
    for (producer, path, body, status, code) in [
        (&with("pr_unknown"), path, "{", StatusCode::UNAUTHORIZED, "credentials_invalid"),
        (&with(&text(&reader["api_key"])), path, "{", StatusCode::FORBIDDEN, "scope_required"),
        (&admin, path, &good, StatusCode::UNPROCESSABLE_ENTITY, "application_required"),
        (&admin, "/v1/events/batch?application_id=x", &good, StatusCode::NOT_FOUND, "application_not_found"),
        (&owner, path, "{", StatusCode::BAD_REQUEST, "malformed_json"),
        (&owner, path, r#"{"events":[]}"#, StatusCode::UNPROCESSABLE_ENTITY, "validation_failed"),
        (&owner, path, &" ".repeat((4 << 20) + 1), StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
    ] {
        assert_eq!(refused(producer, path, body).await, (status, code.to_owned()));
    }
    let accepted = admin.post("/v1/events/batch?application_id=acme", &batch).await;
    assert_eq!(accepted["results"][0]["status"], "accepted");
    assert_eq!(owner.post(path, &batch).await["results"][0]["duplicate"], true);
    services.stop().await;
    bed.finish().await;
}
