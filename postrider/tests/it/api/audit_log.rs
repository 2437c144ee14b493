//! The audit log: who changed which resource, when, from what to what.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Bed;
use crate::support::producer::{Producer, text};
use crate::support::service::Services;

const TOKEN: &str = "an-admin-token-of-tests";

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_logged_with_its_author_and_the_old_and_new_values() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", TOKEN)]).await;
    let admin = Producer::admin(services.api).with_key(TOKEN);
    let created = admin.post("/v1/applications", &json!({"name": "Acme", "metadata": {"n": 1}})).await;
    let producer =
        Producer { application_id: text(&created["id"]), ..admin.with_key(text(&created["api_key"])) };
    let prefix = text(&created["api_key"])[..11].to_owned();

    admin.patch(&producer.path(""), &json!({"uid": "acme"})).await;
    producer.patch(&producer.path(""), &json!({"metadata": {"n": 12345678901234567890u64}})).await;
    producer.patch(&producer.path(""), &json!({})).await;
    let endpoint = producer
        .endpoint(json!({
            "url": "https://example.com", "headers": {"x-token": "very-secret"}, "sensitive_headers": ["x-token"],
            "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        }))
        .await;
    let path = producer.endpoint_path(&endpoint, "");
    producer.patch(&path, &json!({"max_attempts": 8, "headers": {"x-token": "even-more-secret"}})).await;
    producer
        .post(&producer.endpoint_path(&endpoint, "/secret/rotate"), &json!({"overlap_seconds": 60}))
        .await;
    producer.get(&producer.endpoint_path(&endpoint, "/secret")).await;
    producer.delete(&path).await;
    let key = producer.post(&producer.path("/api-keys"), &json!({"name": "k", "scopes": ["read"]})).await;
    producer.delete(&producer.path(&format!("/api-keys/{}", text(&key["id"])))).await;

    let page = producer.get("/v1/audit-log").await;
    let entries = page["data"].as_array().expect("a page");
    let told: Vec<_> = entries
        .iter()
        .rev()
        .map(|entry| {
            (text(&entry["actor"]), text(&entry["action"]), entry["before"].clone(), entry["after"].clone())
        })
        .map(|(actor, action, before, after)| (format!("{actor} {action}"), before, after))
        .collect();
    let actions: Vec<_> = told.iter().map(|(action, ..)| action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "admin application.create",
            "admin api_key.create",
            "admin application.update",
            "api_key application.update",
            "api_key endpoint.create",
            "api_key endpoint.update",
            "api_key endpoint.rotate_secret",
            "api_key endpoint.read_secret",
            "api_key endpoint.delete",
            "api_key api_key.create",
            "api_key api_key.delete",
        ]
    );
    let changes = |index: usize| (told[index].1.clone(), told[index].2.clone());
    assert_eq!(changes(0).0, Value::Null);
    assert_eq!(changes(0).1["name"], "Acme");
    assert_eq!(changes(2), (json!({"uid": null}), json!({"uid": "acme"})));
    let digits = json!({"metadata": {"n": 12345678901234567890u64}});
    assert_eq!(changes(3), (json!({"metadata": {"n": 1}}), digits));
    assert_eq!(
        changes(5),
        (
            json!({"max_attempts": 10, "headers": {"x-token": "***"}}),
            json!({"max_attempts": 8, "headers": {"x-token": "*** (new)"}})
        )
    );
    assert_eq!(changes(6), (Value::Null, json!({"algorithm": "hmac-sha256", "overlap_seconds": 60})));
    assert_eq!(changes(7), (Value::Null, Value::Null));
    assert_eq!((&changes(8).0["url"], changes(8).1), (&json!("https://example.com"), Value::Null));
    assert_eq!(changes(10).0["scopes"], json!(["read"]));

    for entry in entries {
        let is_key = entry["actor"] == "api_key";
        assert_eq!(entry["api_key_prefix"], if is_key { json!(prefix) } else { Value::Null }, "{entry}");
        assert_eq!(entry["api_key_id"].is_string(), is_key, "{entry}");
        assert_eq!(entry["application_id"], created["id"]);
    }
    for secret in ["very-secret", "even-more-secret", "C2FVsBQIhrscChlQIMV", &text(&key["api_key"])[11..]] {
        assert!(!page.to_string().contains(secret), "{secret}");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_on_deliveries_and_event_types_are_logged_too() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": "https://example.com"})).await;
    let event = text(&producer.publish("a", json!({})).await["event_id"]);
    let delivery = text(&producer.deliveries(&event).await[0]["id"]);
    producer.post(&format!("/v1/deliveries/{delivery}/retry"), &json!({})).await;
    producer.post(&format!("/v1/deliveries/{delivery}/cancel"), &json!({})).await;
    producer
        .post("/v1/event-types", &json!({"name": "a.b", "example": {"n": 12345678901234567890u64}}))
        .await;
    producer.patch("/v1/event-types/a.b", &json!({"description": "b"})).await;
    let long = json!({"name": "a.c", "example": {"text": "x".repeat(10_000)}});
    producer.post("/v1/event-types", &long).await;
    producer.delete("/v1/event-types/a.b").await;

    let of = async |resource: &str| {
        let page = producer.get(&format!("/v1/audit-log?resource_id={resource}")).await;
        let entries = page["data"].as_array().expect("a page").clone();
        entries
            .iter()
            .map(|entry| (text(&entry["action"]), entry["before"].clone(), entry["after"].clone()))
            .collect::<Vec<_>>()
    };
    let of_delivery = of(&delivery).await;
    let cancelled = (json!({"status": "pending"}), json!({"status": "cancelled"}));
    assert_eq!((of_delivery[0].1.clone(), of_delivery[0].2.clone()), cancelled);
    assert_eq!((of_delivery[0].0.as_str(), of_delivery[1].0.as_str()), ("delivery.cancel", "delivery.retry"));
    assert!(of_delivery[1].2["next_retry_at"].is_string());
    let of_type = of("a.b").await;
    let actions: Vec<_> = of_type.iter().map(|(action, ..)| action.as_str()).collect();
    assert_eq!(actions, ["event_type.delete", "event_type.update", "event_type.create"]);
    assert_eq!(of_type[1].2, json!({"description": "b"}));
    assert_eq!(of_type[2].2["example"].to_string(), r#"{"n":12345678901234567890}"#);

    // The log is kept forever, so that only the beginning of long values is stored.
    let example = of("a.c").await[0].2["example"].clone();
    assert_eq!(example["bytes"], 10_012);
    assert!(text(&example["beginning"]).starts_with(r#"{"text": "xxx"#));

    producer.post(&format!("/v1/events/{event}/replay"), &json!({})).await;
    for _ in 0..2 {
        producer.post(&format!("/v1/events/{event}/expunge"), &json!({})).await;
    }
    let none = Value::Null;
    assert_eq!(
        of(&event).await,
        [
            ("event.expunge".to_owned(), json!({"has_data": true}), json!({"has_data": false})),
            ("event.replay".to_owned(), none, json!({"endpoint_ids": null, "deliveries_queued": 1})),
        ]
    );
    let replay = producer.post("/v1/replays", &json!({"mode": "redrive", "event_types": ["a"]})).await;
    let replay = text(&replay["id"]);
    producer.post(&format!("/v1/replays/{replay}/cancel"), &json!({})).await;
    let of_replay = of(&replay).await;
    let cancelled = (json!({"status": "pending"}), json!({"status": "cancelled"}));
    assert_eq!((of_replay[0].1.clone(), of_replay[0].2.clone()), cancelled);
    assert_eq!((of_replay[0].0.as_str(), of_replay[1].0.as_str()), ("replay.cancel", "replay.create"));
    assert_eq!((&of_replay[1].2["mode"], &of_replay[1].2["event_types"]), (&json!("redrive"), &json!(["a"])));

    for resource in ["a%20b", "", "a/b"] {
        let path = format!("/v1/audit-log?resource_id={resource}");
        assert_eq!(producer.refusal(Method::GET, &path, None, 422).await, "validation_failed");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_reads_its_own_log_and_the_admin_reads_all() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", TOKEN)]).await;
    let admin = Producer::admin(services.api).with_key(TOKEN);
    let mut producers = Vec::new();
    for name in ["one", "two"] {
        let created = admin.post("/v1/applications", &json!({"name": name, "uid": name})).await;
        let key = text(&created["api_key"]);
        let producer = Producer { application_id: text(&created["id"]), ..admin.with_key(key) };
        producer.endpoint(json!({"url": "https://example.com"})).await;
        producers.push(producer);
    }
    let count = async |who: &Producer, query: &str| {
        who.get(&format!("/v1/audit-log{query}")).await["data"].as_array().map(Vec::len)
    };
    assert_eq!(count(&admin, "").await, Some(6));
    assert_eq!(count(&admin, "?application_id=two").await, Some(3));
    for producer in &producers {
        assert_eq!(count(producer, "").await, Some(3));
        assert_eq!(count(producer, &format!("?resource_id={}", producer.application_id)).await, Some(1));
    }
    let foreign = "/v1/audit-log?application_id=two";
    assert_eq!(producers[0].refusal(Method::GET, foreign, None, 404).await, "application_not_found");
    assert_eq!(count(&producers[0], &format!("?resource_id={}", producers[1].application_id)).await, Some(0));

    // Page by page, newest first.
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = admin.get(&format!("/v1/audit-log{query}")).await;
        seen.extend(page["data"].as_array().expect("a page").iter().map(|entry| text(&entry["created_at"])));
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.is_sorted_by(|newer, older| newer >= older), "{seen:?}");
    let after = format!("?created_after={}", seen[0]);
    assert!(count(&admin, &after).await < Some(6));
    services.stop().await;
    bed.finish().await;
}
