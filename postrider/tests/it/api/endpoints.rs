//! Endpoints are changed, disabled, enabled and deleted, and their deliveries follow.

use std::collections::BTreeSet;
use std::time::Duration;

use postrider_domain::event::{Accepted, NewEvent, Producer as EventProducer, SchemaCheck};
use postrider_domain::event_type::EventType;
use postrider_store::{DatabaseConfig, Store, accept};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

/// A response after a delay.
fn slowly(status: u16, delay: Duration) -> Reply {
    Reply { delay, ..status.into() }
}

async fn wait_for_status(producer: &Producer, event_id: &Value, status: &str) -> Value {
    producer.delivery_in(&text(event_id), status).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_keeps_absent_fields_and_resets_null_fields() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let created = producer
        .endpoint(json!({
            "url": "https://example.com/a", "description": "one", "metadata": {"n": 1.10}, "event_types": ["a.*"],
            "headers": {"X-Team": "blue"}, "rate_limit": 10, "concurrency_limit": 10, "max_attempts": 10,
            "retry_schedule": [10], "permanent_statuses": [404], "timeout_seconds": 10,
        }))
        .await;
    let path = producer.endpoint_path(&created, "");

    let changed = producer.patch(&path, &json!({"description": "two", "event_types": ["b"]})).await;
    let mut expected = producer.get(&path).await;
    assert_eq!(changed, expected);
    assert_eq!((&changed["description"], &changed["event_types"]), (&json!("two"), &json!(["b"])));
    assert_ne!(changed["updated_at"], created["updated_at"]);
    for field in ["description", "event_types", "updated_at"] {
        expected[field] = created[field].clone();
    }
    for field in ["secret", "public_key"] {
        expected[field] = created[field].clone();
    }
    assert_eq!(expected, created, "nothing else was changed");

    let reset = producer
        .patch(
            &path,
            &json!({
                "description": null, "metadata": null, "event_types": null, "filter": null, "headers": null,
                "rate_limit": null, "concurrency_limit": null, "max_attempts": null, "retry_schedule": null,
                "permanent_statuses": null, "timeout_seconds": null, "ordered": null,
            }),
        )
        .await;
    let fresh = producer.endpoint(json!({"url": "https://example.com/a", "rate_limit": null})).await;
    for (field, value) in reset.as_object().expect("an object") {
        if !["id", "created_at", "updated_at"].contains(&field.as_str()) {
            assert_eq!(*value, fresh[field], "{field}");
        }
    }
    assert_eq!((&reset["max_attempts"], &reset["permanent_statuses"]), (&json!(10), &json!([])));
    for (body, field) in [
        (json!({"url": null}), "url"),
        (json!({"url": "http://10.0.0.1"}), "url"),
        (json!({"is_active": null}), "is_active"),
        (json!({"secret": "x"}), "secret"),
        (json!({"id": created["id"]}), "id"),
    ] {
        let (status, problem) = producer.call(Method::PATCH, &path, Some(&body)).await;
        assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!(field)), "{problem}");
    }
    assert_eq!(producer.get(&path).await, reset, "the refused change has changed nothing");
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_an_update_is_stored() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let created = producer.endpoint(json!({"url": "https://example.com/a"})).await;
    let path = producer.endpoint_path(&created, "");
    let update = json!({
        "url": "https://example.com/b", "description": "two", "metadata": {"n": 2}, "event_types": ["b"],
        "filter": {"data.a": 1}, "headers": {"x-team": "red"}, "sensitive_headers": [], "rate_limit": 7,
        "concurrency_limit": 7, "max_attempts": 7, "retry_schedule": [7], "permanent_statuses": [407],
        "timeout_seconds": 7, "ordered": true, "is_active": false, "disabled_reason": "maintenance",
        "open_deliveries": "keep",
    });
    let (_, document) = producer.call(Method::GET, "/openapi.json", None).await;
    let specified = &document["components"]["schemas"]["UpdateEndpointRequest"]["properties"];
    let names =
        |object: &Value| object.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&update), names(specified), "this test sets every field that an update can have");

    producer.patch(&path, &update).await;
    let stored = producer.get(&path).await;
    // An instruction, not a setting.
    for name in names(&update).iter().filter(|&name| name != "open_deliveries") {
        assert_eq!(stored[name], update[name], "{name}");
        assert!(update[name] == json!([]) || stored[name] != created[name], "{name} is not the default");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_deliveries_follow_the_new_settings() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.path == "/new" { 204 } else { 500 }).await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/old"), "retry_schedule": [1]})).await;

    let accepted = producer.publish("a", json!({})).await;
    wait_for_status(&producer, &accepted["event_id"], "failed").await;
    let change = json!({"url": receiver.url("/new"), "headers": {"x-version": "2"}});
    producer.patch(&producer.endpoint_path(&endpoint, ""), &change).await;
    wait_for_status(&producer, &accepted["event_id"], "succeeded").await;
    let webhook = receiver.received().pop().expect("a webhook");
    assert_eq!((webhook.path.as_str(), webhook.header("x-version")), ("/new", "2"));
    webhook.verify(&text(&endpoint["secret"]));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_wait_for_a_disabled_endpoint_are_sent_when_it_is_enabled() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|_| slowly(204, Duration::from_millis(300))).await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/"), "concurrency_limit": 1})).await;
    let path = producer.endpoint_path(&endpoint, "");
    let mut events = Vec::new();
    for number in 0..10 {
        events.push(text(&producer.publish("a", json!({"n": number})).await["event_id"]));
    }
    receiver.wait_for(1).await;

    let disabled = producer.patch(&path, &json!({"is_active": false, "disabled_reason": "they moved"})).await;
    assert_eq!((&disabled["is_active"], &disabled["disabled_reason"]), (&json!(false), &json!("they moved")));
    assert_eq!(producer.publish("a", json!({})).await["deliveries_queued"], 0);
    // What is in flight ends as usual. The rest is parked.
    eventually("parked deliveries and nothing in flight", async || {
        let count = "select count(*) from deliveries where lease_id is not null";
        let parked = bed.count("select count(*) from outbox where parked").await;
        let open = bed.count("select count(*) from deliveries where completed_at is null").await;
        (bed.count(count).await == 0 && parked == open).then_some(())
    })
    .await;
    let received = receiver.count();
    assert!(received < 10, "{received}");
    let waiting = producer.delivery_in(&events[9], "pending").await;
    assert_eq!((&waiting["waiting_for"], &waiting["attempt_count"]), (&json!("disabled"), &json!(0)));

    let enabled = producer.patch(&path, &json!({"is_active": true})).await;
    assert_eq!((&enabled["is_active"], &enabled["disabled_reason"]), (&json!(true), &Value::Null));
    for event in &events {
        producer.delivery_in(event, "succeeded").await;
    }
    services.stop().await;
    assert_eq!(receiver.count(), 10, "each was sent once");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_waited_their_turn_are_sent_when_ordering_is_turned_off() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.json()["data"]["n"] == 0 { 500 } else { 204 }).await;
    let producer = Producer::new(services.api).await;
    let settings = json!({"url": receiver.url("/"), "ordered": true, "retry_schedule": [600]});
    let endpoint = producer.endpoint(settings).await;
    let mut events = Vec::new();
    for number in 0..5 {
        events.push(text(&producer.publish("a", json!({"n": number})).await["event_id"]));
    }
    producer.delivery_in(&events[0], "failed").await;
    assert_eq!(producer.delivery_in(&events[4], "pending").await["waiting_for"], "order");
    eventually("no pending look at the endpoint", async || {
        let queued = bed.count("select count(*) from outbox where due_at <= now()").await;
        (queued == 0 && bed.is_queue_empty().await).then_some(())
    })
    .await;

    producer.patch(&producer.endpoint_path(&endpoint, ""), &json!({"ordered": false})).await;
    for event in &events[1..] {
        producer.delivery_in(event, "succeeded").await;
    }
    assert_eq!(producer.delivery_in(&events[0], "failed").await["waiting_for"], Value::Null);
    services.stop().await;
    assert_eq!(receiver.count(), 5);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_deliveries_are_cancelled_on_request() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| {
        if webhook.path == "/other" { Reply::from(204) } else { slowly(500, Duration::from_millis(700)) }
    })
    .await;
    let producer = Producer::new(services.api).await;
    let settings = json!({"url": receiver.url("/"), "concurrency_limit": 1, "retry_schedule": [60]});
    let endpoint = producer.endpoint(settings).await;
    let path = producer.endpoint_path(&endpoint, "");
    let mut events = Vec::new();
    for number in 0..5 {
        events.push(text(&producer.publish("a", json!({"n": number})).await["event_id"]));
    }
    producer.delivery_in(&events[0], "failed").await;
    receiver.wait_for(2).await;

    producer.patch(&path, &json!({"is_active": false, "open_deliveries": "cancel"})).await;
    for event in &events {
        let cancelled = producer.delivery_in(event, "cancelled").await;
        assert!(text(&cancelled["last_error"]).contains("disabled"), "{cancelled}");
        assert_eq!(cancelled["next_retry_at"], Value::Null);
    }
    // The delivery that was in flight: its attempt is recorded, and it stays cancelled.
    let under_way = producer.deliveries(&events[1]).await.remove(0);
    let attempt = eventually("the attempt that was in flight", async || {
        producer.attempts(&under_way).await.into_iter().next()
    })
    .await;
    assert_eq!(attempt["response_status"], 500);
    assert_eq!(producer.deliveries(&events[1]).await[0]["status"], "cancelled");

    producer.patch(&path, &json!({"is_active": true, "url": receiver.url("/other")})).await;
    let accepted = producer.publish("a", json!({})).await;
    wait_for_status(&producer, &accepted["event_id"], "succeeded").await;
    services.stop().await;
    assert_eq!(receiver.received().iter().filter(|webhook| webhook.path == "/other").count(), 1);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_endpoint_gets_nothing_more_and_its_open_deliveries_are_cancelled() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| {
        if webhook.path == "/kept" { Reply::from(204) } else { slowly(500, Duration::from_millis(700)) }
    })
    .await;
    let producer = Producer::new(services.api).await;
    let settings = json!({"url": receiver.url("/gone"), "concurrency_limit": 1, "retry_schedule": [60]});
    let endpoint = producer.endpoint(settings).await;
    producer.endpoint(json!({"url": receiver.url("/kept")})).await;
    let path = producer.endpoint_path(&endpoint, "");
    let failed = producer.publish("a", json!({"n": 1})).await;
    let deliveries = format!("/v1/deliveries?endpoint_id={}", text(&endpoint["id"]));
    eventually("a failed delivery", async || {
        (producer.get(&deliveries).await["data"][0]["status"] == "failed").then_some(())
    })
    .await;
    producer.publish("a", json!({"n": 2})).await;
    producer.publish("a", json!({"n": 3})).await;
    // One has failed, one is in flight, one waits.
    receiver.wait_for(4).await;

    producer.delete(&path).await;
    assert_eq!(producer.refusal(Method::GET, &path, None, 404).await, "endpoint_not_found");
    assert_eq!(producer.refusal(Method::DELETE, &path, None, 404).await, "endpoint_not_found");
    assert_eq!(producer.refusal(Method::PATCH, &path, Some(&json!({})), 404).await, "endpoint_not_found");
    assert_eq!(producer.publish("a", json!({"n": 4})).await["deliveries_queued"], 1);
    let listed = eventually("cancelled deliveries", async || {
        let page = producer.get(&deliveries).await;
        let all = page["data"].as_array().expect("a page").clone();
        all.iter().all(|delivery| delivery["status"] == "cancelled").then_some(all)
    })
    .await;
    assert_eq!(listed.len(), 3, "they can be read as before");
    assert!(listed.iter().all(|delivery| delivery["last_error"] == "the endpoint was deleted"));
    assert_eq!(listed[2]["event_id"], failed["event_id"]);

    // A minute later everything is settled, and the endpoint is removed.
    let sql = bed.sql().await;
    sql.execute("update cleanups set created_at = now() - interval '2 minutes', not_before = now()", &[])
        .await
        .expect("time passes");
    eventually("the end of the cleanup", async || {
        let left = "select (select count(*) from cleanups) + (select count(*) from endpoints where deleted_at is not null)";
        (bed.count(left).await == 0).then_some(())
    })
    .await;
    assert_eq!(bed.count("select count(*) from endpoint_secrets").await, 1);
    assert_eq!(producer.get(&deliveries).await["data"].as_array().map(Vec::len), Some(3));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_receiver_sees_the_value_of_a_sensitive_header() {
    let bed = Bed::new().await;
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let services = Services::start_with(&bed, &[("POSTRIDER_MASTER_KEY", key)]).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let created = producer
        .endpoint(json!({
            "url": receiver.url("/"),
            "headers": {"Authorization": "Bearer very-secret", "X-Team": "blue"},
            "sensitive_headers": ["authorization"],
        }))
        .await;
    let masked = json!({"authorization": "***", "x-team": "blue"});
    assert_eq!(created["headers"], masked);
    let path = producer.endpoint_path(&created, "");
    assert_eq!(producer.get(&path).await["headers"], masked);
    assert_eq!(producer.get(&producer.path("/endpoints")).await["data"][0]["headers"], masked);

    let accepted = producer.publish("a", json!({})).await;
    let delivery = wait_for_status(&producer, &accepted["event_id"], "succeeded").await;
    assert_eq!(receiver.received()[0].header("authorization"), "Bearer very-secret");
    let sent = producer.attempts(&delivery).await.remove(0)["request_headers"].clone();
    assert!(sent.to_string().contains(r#"{"name":"authorization","value":"***"}"#), "{sent}");

    // A response can be sent back: `***` keeps the value.
    let change = json!({"headers": {"authorization": "***", "x-team": "red"}});
    assert_eq!(producer.patch(&path, &change).await["headers"]["authorization"], "***");
    producer.publish("a", json!({})).await;
    let webhook = receiver.wait_for(2).await.remove(1);
    assert_eq!((webhook.header("authorization"), webhook.header("x-team")), ("Bearer very-secret", "red"));
    // A header cannot stop being sensitive unless its value is sent again.
    let (status, problem) =
        producer.call(Method::PATCH, &path, Some(&json!({"sensitive_headers": []}))).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("sensitive_headers")));

    let stored = bed.sql().await.query_one("select string_agg(headers::text, '') from endpoints", &[]).await;
    let stored: String = stored.expect("a row").get(0);
    assert!(stored.contains("sealed") && !stored.contains("very-secret"), "{stored}");
    let anywhere = "select count(*) from audit_log a where a::text like '%very-secret%'";
    assert_eq!(bed.count(anywhere).await, 0);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_would_break_signing_or_framing_are_refused() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": "https://example.com"})).await;
    let path = producer.endpoint_path(&endpoint, "");
    for name in
        ["webhook-id", "Webhook-Signature", "content-length", "Host", "transfer-encoding", "Content-Type"]
    {
        let body = json!({"headers": {name: "x"}});
        assert_eq!(
            producer.refusal(Method::PATCH, &path, Some(&body), 422).await,
            "reserved_header",
            "{name}"
        );
    }
    for (name, value) in [("x", "a\r\nb: c"), ("x y", "z"), ("x", "ü"), ("x", "\u{7f}")] {
        let body = json!({"headers": {name: value}});
        assert_eq!(producer.refusal(Method::PATCH, &path, Some(&body), 422).await, "validation_failed");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_event_goes_only_to_its_endpoint_and_is_attempted_once() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.path == "/bad" { 500 } else { 204 }).await;
    let producer = Producer::new(services.api).await;
    let good = producer.endpoint(json!({"url": receiver.url("/good"), "event_types": ["invoice.*"]})).await;
    let bad = producer.endpoint(json!({"url": receiver.url("/bad"), "event_types": ["postrider.*"]})).await;

    let sent = producer.post(&producer.endpoint_path(&good, "/test"), &json!({})).await;
    let webhook = receiver.wait_for(1).await.remove(0);
    assert_eq!((webhook.path.as_str(), webhook.id()), ("/good", text(&sent["event_id"]).as_str()));
    webhook.verify(&text(&good["secret"]));
    assert_eq!(webhook.json()["type"], "postrider.test");
    assert_eq!(webhook.json()["data"]["endpoint_id"], good["id"]);
    let delivery = wait_for_status(&producer, &sent["event_id"], "succeeded").await;
    assert_eq!(delivery["id"], sent["delivery_id"]);

    let sent = producer.post(&producer.endpoint_path(&bad, "/test"), &json!({})).await;
    let delivery = wait_for_status(&producer, &sent["event_id"], "dead_letter").await;
    assert_eq!((&delivery["attempt_count"], &delivery["last_response_status"]), (&json!(1), &json!(500)));

    producer.patch(&producer.endpoint_path(&bad, ""), &json!({"is_active": false})).await;
    let path = producer.endpoint_path(&bad, "/test");
    assert_eq!(producer.refusal(Method::POST, &path, None, 409).await, "endpoint_inactive");
    let path = producer.path("/endpoints/0198f1a3-5d6e-7f70-8182-93a4b5c6d7e8/test");
    assert_eq!(producer.refusal(Method::POST, &path, None, 404).await, "endpoint_not_found");
    services.stop().await;
    assert_eq!(receiver.count(), 2);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_their_window_and_say_how_far_back_they_reach() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.json()["data"]["n"].as_i64() {
        Some(0) => 422,
        Some(1) if webhook.attempt == 1 => 500,
        _ => 200,
    })
    .await;
    let producer = Producer::new(services.api).await;
    let settings = json!({"url": receiver.url("/"), "retry_schedule": [0], "permanent_statuses": [422]});
    let endpoint = producer.endpoint(settings).await;
    producer.endpoint(json!({"url": receiver.url("/other"), "permanent_statuses": [422]})).await;
    let path = producer.endpoint_path(&endpoint, "/stats");
    let empty = producer.get(&path).await;
    assert_eq!((&empty["success_rate"], &empty["deliveries"]["total"]), (&Value::Null, &json!(0)));
    assert_eq!(empty["attempt_duration_ms"]["p99"], Value::Null);

    for number in 0..4 {
        producer.publish("a", json!({"n": number})).await;
    }
    let open = "select count(*) from deliveries where completed_at is null";
    eventually("the end of all deliveries", async || (bed.count(open).await == 0).then_some(())).await;
    let stats = producer.get(&format!("{path}?window_seconds=3600")).await;
    assert_eq!(
        stats["deliveries"],
        json!({"total": 4, "pending": 0, "in_progress": 0, "succeeded": 3, "failed": 0, "dead_letter": 1, "cancelled": 0})
    );
    assert_eq!(stats["success_rate"], 0.75);
    assert_eq!(stats["attempts"], json!({"succeeded": 3, "failed": 2, "unknown": 0}));
    assert_eq!(stats["is_complete"], true);
    for field in ["attempt_duration_ms", "success_latency_ms"] {
        let percentile = |name| stats[field][name].as_f64().unwrap_or_else(|| panic!("{field} {name}"));
        assert!(percentile("p50") <= percentile("p95") && percentile("p95") <= percentile("p99"));
    }

    // Attempts before the window are not counted.
    let sql = bed.sql().await;
    sql.execute("update deliveries set created_at = now() - interval '2 hours'", &[])
        .await
        .expect("time passes");
    let stats = producer.get(&format!("{path}?window_seconds=3600")).await;
    assert_eq!(stats["deliveries"]["total"], 0);
    for window in ["59", "2592001", "x"] {
        let path = format!("{path}?window_seconds={window}");
        assert_eq!(producer.refusal(Method::GET, &path, None, 422).await, "validation_failed");
    }
    services.stop().await;
    bed.finish().await;
}

/// A filter that takes about 2,000 steps behind `[*]` and cannot be cheaper.
fn costly_filter(values: usize) -> Value {
    json!({"data.items[*].sku": {"in": (0..values).collect::<Vec<_>>()}})
}

#[tokio::test(flavor = "multi_thread")]
async fn matching_an_event_against_endpoints_takes_a_bounded_number_of_steps() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[("POSTRIDER_MAX_MATCHING_STEPS", "40000")]).await;
    let (producer, other) = (Producer::new(services.api).await, Producer::new(services.api).await);
    let settings = |filter: Value| json!({"url": "https://receiver.invalid", "filter": filter});
    // 2,204 steps each: twice one key on each of two paths, and a hundred times one key and ten values.
    let mut endpoints = Vec::new();
    for _ in 0..18 {
        endpoints.push(producer.endpoint(settings(costly_filter(10))).await);
    }
    let path = producer.path("/endpoints");
    let (status, problem) = producer.refused(&path, &settings(costly_filter(10))).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("matching_too_costly")), "{problem}");
    assert!(text(&problem["detail"]).contains("41933 steps"), "{problem}");
    // A cheap filter is not refused, and another application has its own limit.
    let cheap = producer.endpoint(settings(json!({"data.n": 1}))).await;
    producer.endpoint(json!({"url": "https://receiver.invalid"})).await;
    other.endpoint(settings(costly_filter(10))).await;

    // A change cannot bypass the limit. A change that does not affect the cost, or lowers it, is accepted.
    let dear = json!({"filter": costly_filter(10)});
    let code = producer.refusal(Method::PATCH, &producer.endpoint_path(&cheap, ""), Some(&dear), 422).await;
    assert_eq!(code, "matching_too_costly");
    let one = producer.endpoint_path(&endpoints[0], "");
    producer.patch(&one, &json!({"description": "still here"})).await;
    producer.patch(&one, &json!({"filter": costly_filter(9)})).await;
    producer.patch(&one, &json!({"filter": null})).await;
    producer.patch(&producer.endpoint_path(&cheap, ""), &dear).await;
    // Deleted endpoints no longer count. Of many concurrent requests, only as many succeed as fit.
    producer.delete(&producer.endpoint_path(&endpoints[1], "")).await;
    producer.delete(&producer.endpoint_path(&endpoints[2], "")).await;
    let crowd = (0..8).map(|_| async {
        producer.call(Method::POST, &path, Some(&settings(costly_filter(10)))).await.0.as_u16()
    });
    let mut statuses = futures_util::future::join_all(crowd).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 201, 422, 422, 422, 422, 422, 422]);
    services.stop().await;
    bed.finish().await;
}

/// An event that matches nothing is still compared with every pattern, and is stored apart from cheap events.
#[tokio::test(flavor = "multi_thread")]
async fn patterns_that_do_not_match_count_toward_the_cost_of_matching() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let prefix = format!("{}.", "p".repeat(240));
    let patterns: Vec<_> = (0..100).map(|number| format!("{prefix}n{number}")).collect();
    for _ in 0..20 {
        producer.endpoint(json!({"url": "https://receiver.invalid", "event_types": patterns})).await;
    }
    let config = bed.source.read(DatabaseConfig::read).expect("the configuration");
    let store = Store::new(&config);
    let event = NewEvent {
        producer: EventProducer::Admin(producer.application_id.parse().expect("an id")),
        idempotency_key: "1".to_owned(),
        event_type: EventType::parse("order.made").expect("a type"),
        data: "{}".into(),
        schema: SchemaCheck::Unchecked,
        is_admitted: true,
    };
    let accepted = accept::accept(&store, &[event], false).await.expect("stored");
    let [Accepted::Stored { deliveries_queued: 0, cost, .. }] = accepted[..] else { panic!("{accepted:?}") };
    // At twenty endpoints: a hundred patterns of 3 steps and 24,390 bytes, 64 bytes per step; forty steps per delivery.
    assert_eq!(cost, 20 * (300 + 381) / 40);
    services.stop().await;
    bed.finish().await;
}
