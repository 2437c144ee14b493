//! `GET /v1/events` and `GET /v1/deliveries`.

use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;
use crate::support::{Bed, eventually};

/// Follows a list to its end, and returns the items of each page.
async fn pages(producer: &Producer, path: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = producer.get(&format!("{path}{cursor}")).await;
        pages.push(page["data"].as_array().expect("a page").clone());
        assert!(pages.len() < 100, "{path} never ends");
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return pages,
        }
    }
}

async fn ids(producer: &Producer, path: &str) -> Vec<String> {
    pages(producer, path).await.concat().iter().map(|item| text(&item["id"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_can_be_filtered_by_type_time_and_content() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let stranger = Producer::new(services.api).await;
    stranger.publish("user.created", json!({"user": {"id": 7}})).await;
    let mut posted = Vec::new();
    for (event_type, data) in [
        ("user.created", json!({"user": {"id": 7, "name": "Ada"}, "tags": ["a", "b"]})),
        ("user.deleted", json!({"user": {"id": 7}})),
        ("invoice.paid", json!({"amount": 10, "tags": ["b"]})),
    ] {
        posted.push(text(&producer.publish(event_type, data).await["event_id"]));
        // So that the next event has a newer millisecond.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let [created, deleted, paid] = &posted[..] else { panic!("three events") };
    let at = async |id: &str| text(&producer.get(&format!("/v1/events/{id}")).await["created_at"]);
    let (first, second) = (at(created).await, at(deleted).await);

    for (query, expected) in [
        (String::new(), vec![paid, deleted, created]),
        ("event_type=user.created".into(), vec![created]),
        ("event_type=invoice.paid&event_type=user.deleted".into(), vec![paid, deleted]),
        ("event_type=user".into(), vec![]),
        (format!("created_after={second}"), vec![paid, deleted]),
        (format!("created_before={second}"), vec![created]),
        (format!("created_after={first}&created_before={second}"), vec![created]),
        (format!("created_after={second}&created_before={first}"), vec![]),
        (r#"data_contains={"user":{"id":7}}"#.into(), vec![deleted, created]),
        (r#"data_contains={"user":{"id":7.0},"tags":["b"]}"#.into(), vec![created]),
        (r#"data_contains={"tags":["b"]}&event_type=invoice.paid"#.into(), vec![paid]),
        (r#"data_contains={"tags":["c"]}"#.into(), vec![]),
    ] {
        let expected: Vec<_> = expected.into_iter().cloned().collect();
        assert_eq!(ids(&producer, &format!("/v1/events?limit=2&{query}")).await, expected, "{query}");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_can_be_filtered_by_every_documented_field() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/gone" => 422,
        "/busy" => 503,
        _ => 200,
    })
    .await;
    let producer = Producer::new(services.api).await;
    let mut endpoints = Vec::new();
    for path in ["/good", "/gone", "/busy"] {
        let settings =
            json!({"url": receiver.url(path), "retry_schedule": [3600], "permanent_statuses": [422]});
        endpoints.push(text(&producer.endpoint(settings).await["id"]));
    }
    let [good, gone, busy] = &endpoints[..] else { panic!("three endpoints") };
    let paid = text(&producer.publish("invoice.paid", json!({})).await["event_id"]);
    let created = text(&producer.publish("user.created", json!({})).await["event_id"]);
    let all = eventually("six attempts", async || {
        let list = pages(&producer, "/v1/deliveries?limit=250").await.concat();
        let is_done =
            list.iter().filter(|delivery| delivery["last_response_status"].is_number()).count() == 6;
        is_done.then_some(list)
    })
    .await;
    let created_at = |event: &str| {
        let of = |delivery: &&Value| delivery["event_id"] == event;
        text(&all.iter().rfind(of).expect("its delivery")["created_at"])
    };

    let expect = async |query: &str, wanted: &dyn Fn(&Value) -> bool| {
        let found = ids(&producer, &format!("/v1/deliveries?limit=2&{query}")).await;
        let expected: Vec<_> = all.iter().filter(|item| wanted(item)).map(|item| text(&item["id"])).collect();
        assert_eq!(found, expected, "{query}");
        found.len()
    };
    assert_eq!(expect("", &|_| true).await, 6);
    assert_eq!(expect("status=succeeded", &|d| d["endpoint_id"] == **good).await, 2);
    assert_eq!(expect("status=dead_letter", &|d| d["endpoint_id"] == **gone).await, 2);
    assert_eq!(expect("status=failed&status=dead_letter", &|d| d["endpoint_id"] != **good).await, 4);
    assert_eq!(expect("status=pending", &|_| false).await, 0);
    assert_eq!(expect(&format!("endpoint_id={busy}"), &|d| d["status"] == "failed").await, 2);
    assert_eq!(
        expect(&format!("endpoint_id={busy}&endpoint_id={good}&event_type=user.created"), &|d| {
            d["event_id"] == *created && d["endpoint_id"] != **gone
        })
        .await,
        2
    );
    assert_eq!(expect(&format!("event_id={paid}"), &|d| d["event_id"] == *paid).await, 3);
    assert_eq!(expect("last_response_status=422", &|d| d["endpoint_id"] == **gone).await, 2);
    assert_eq!(
        expect("last_response_status=503&last_response_status=200", &|d| d["endpoint_id"] != **gone).await,
        4
    );
    let later = created_at(&created);
    assert_eq!(expect(&format!("created_after={later}"), &|d| d["event_id"] == *created).await, 3);
    assert_eq!(expect(&format!("created_before={later}"), &|d| d["event_id"] == *paid).await, 3);
    let dead = "status=dead_letter&event_type=invoice.paid&last_response_status=422";
    assert_eq!(expect(dead, &|d| d["endpoint_id"] == **gone && d["event_id"] == *paid).await, 1);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_stable_while_new_events_arrive() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    for _ in 0..7 {
        producer.publish("user.created", json!({})).await;
    }
    for path in ["/v1/events", "/v1/deliveries"] {
        let before = ids(&producer, &format!("{path}?limit=250")).await;
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = producer.get(&format!("{path}?limit=3{cursor}")).await;
            producer.publish("user.created", json!({})).await;
            seen.extend(page["data"].as_array().expect("a page").iter().map(|item| text(&item["id"])));
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, before, "{path}");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_call_reads_a_bounded_number_of_rows_and_bytes() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let fill = "insert into events (id, application_id, event_type, payload, idempotency_key)
                select uuid_v7(), $1::text::uuid, case when n = 1 then 'rare' else 'common' end,
                       jsonb_build_object('n', n, 'noise', $3::text), n::text
                from generate_series(1, $2::integer) n";
    let sql = bed.sql().await;
    sql.execute(fill, &[&producer.application_id, &4_500, &""]).await.expect("events");
    let rare = pages(&producer, "/v1/events?event_type=rare").await;
    assert_eq!(rare.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 1]);
    let rare = pages(&producer, r#"/v1/events?data_contains={"n":1}"#).await;
    assert_eq!(rare.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 1]);

    // Data that does not compress is stored at its full size.
    let noisy = Producer::new(services.api).await;
    sql.batch_execute("create extension if not exists pgcrypto").await.expect("pgcrypto");
    sql.execute(
        "insert into events (id, application_id, event_type, payload, idempotency_key)
         select uuid_v7(), $1::text::uuid, 'noise',
                jsonb_build_object('n', n, 'noise', (select string_agg(encode(gen_random_bytes(1000), 'base64'), '')
                                                     from generate_series(1, 150 + 0 * n))), n::text
         from generate_series(1, 200) n",
        &[&noisy.application_id],
    )
    .await
    .expect("noise");
    let found = pages(&noisy, r#"/v1/events?data_contains={"n":1}"#).await;
    assert!((2..=4).contains(&found.len()), "{} pages", found.len());
    assert_eq!(found.concat().len(), 1);
    // Pages of large events end early and lose none.
    let all = pages(&noisy, "/v1/events?limit=250").await;
    assert!(all.len() > 5 && all.iter().all(|page| page.len() < 30), "{} pages", all.len());
    assert_eq!(all.concat().len(), 200);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_every_list_are_bounded_in_bytes() {
    const MAX_BYTES: usize = 5 << 20;
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    producer.publish("user.created", json!({})).await;
    // Each list gets 200 items of 48 kB or more: 9.6 MB.
    let large = "jsonb_build_object('a', repeat('x', 48000))";
    let delivery = "insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts)
        select uuid_v7(), application_id, id, uuid_v7(), event_type, 250 from events where application_id = $1::text::uuid
        returning id::text";
    let sql = bed.sql().await;
    let delivery: String =
        sql.query_one(delivery, &[&producer.application_id]).await.expect("a delivery").get(0);
    let endpoints = format!("/v1/applications/{}/endpoints?limit=250", producer.application_id);
    let attempts = format!("/v1/deliveries/{delivery}/attempts?limit=250");
    for (path, table, columns, values) in [
        (
            "/v1/audit-log?limit=250",
            "audit_log",
            "application_id, actor, action, resource_type, resource_id, after",
            format!("owner, 'admin', 'a.b', 'a', n::text, {large}"),
        ),
        (
            "/v1/event-types?limit=250",
            "event_types",
            "application_id, name, example",
            format!("owner, 'n' || n, {large}"),
        ),
        (
            "/v1/emit-rejections?limit=250",
            "emit_rejections",
            "application_id, application, event_type, data, idempotency_key, code, detail, errors, emitted_at",
            "owner, 'a', 'b', '{}', n::text, 'c', 'd',
             jsonb_build_array(jsonb_build_object('field', 'a', 'message', repeat('x', 48000))), now()"
                .to_owned(),
        ),
        (
            &endpoints,
            "endpoints",
            "application_id, url, metadata",
            format!("owner, 'http://a.test/', {large}"),
        ),
        (
            "/v1/replays?limit=250",
            "replays",
            "application_id, mode, event_types, created_before, cursor_id, end_id, status",
            "owner, 'replay', array[repeat('x', 48000)], now(), uuid_v7(), uuid_v7(), 'completed'".to_owned(),
        ),
        (
            "/v1/deliveries?limit=250",
            "deliveries",
            "id, application_id, event_id, endpoint_id, event_type, max_attempts, last_error",
            "uuid_v7(), owner, uuid_v7(), uuid_v7(), 'a', 1, repeat('x', 48000)".to_owned(),
        ),
        (
            &attempts,
            "delivery_attempts",
            "delivery_id, attempt_number, outcome, response_body",
            // Six times as large in JSON.
            format!("'{delivery}', n, 'failed', decode(repeat('01', 8000), 'hex')"),
        ),
    ] {
        let before = pages(&producer, path).await.concat().len();
        let insert = format!(
            "insert into {table} ({columns})
             select {values} from generate_series(1, 200) n, (select $1::text::uuid as owner) o"
        );
        sql.execute(&insert, &[&producer.application_id]).await.expect(path);
        let all = pages(&producer, path).await;
        assert_eq!(all.concat().len(), before + 200, "{path}");
        let largest = all.iter().map(|page| json!(page).to_string().len()).max();
        assert!(largest.is_some_and(|bytes| bytes < MAX_BYTES), "{path}: {largest:?} bytes");
    }
    services.stop().await;
    bed.finish().await;
}
