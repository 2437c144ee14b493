//! Operational events: Postrider reports what happens as webhooks to endpoints that subscribe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Received, Receiver};
use crate::support::service::{Process, Services};
use crate::support::{Bed, eventually};

/// The webhooks that arrived on a path, by type.
fn webhooks_by_type(receiver: &Receiver, path: &str) -> BTreeMap<String, Vec<Received>> {
    let mut told: BTreeMap<String, Vec<Received>> = BTreeMap::new();
    for webhook in receiver.received() {
        if webhook.path == path {
            told.entry(text(&webhook.json()["type"])).or_default().push(webhook);
        }
    }
    told
}

async fn wait_for(receiver: &Receiver, path: &str, event_type: &str) -> Value {
    eventually(event_type, async || {
        webhooks_by_type(receiver, path).get(event_type)?.first().map(Received::json)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_are_told_of_dead_letters_and_disabled_endpoints() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/dead" => 422,
        "/gone" => 410,
        _ => 204,
    })
    .await;
    let producer = Producer::new(services.api).await;
    let operations =
        producer.endpoint(json!({"url": receiver.url("/operations"), "event_types": ["postrider.*"]})).await;
    producer.endpoint(json!({"url": receiver.url("/all")})).await;
    let dead = producer
        .endpoint(json!({"url": receiver.url("/dead"), "event_types": ["dead"], "max_attempts": 1}))
        .await;
    let gone = producer.endpoint(json!({"url": receiver.url("/gone"), "event_types": ["gone"]})).await;
    // An endpoint of another application, which gets nothing about this one.
    let stranger = Producer::new(services.api).await;
    stranger.endpoint(json!({"url": receiver.url("/stranger"), "event_types": ["postrider.*"]})).await;

    let accepted = producer.publish("dead", json!({"n": 1})).await;
    let event = wait_for(&receiver, "/operations", "postrider.delivery.dead_letter").await;
    assert_eq!(event["data"]["event_id"], accepted["event_id"]);
    assert_eq!(event["data"]["endpoint_id"], dead["id"]);
    assert_eq!(event["data"]["event_type"], "dead");
    assert_eq!(event["data"]["last_response_status"], 422);
    let delivery = producer.get(&format!("/v1/deliveries/{}", text(&event["data"]["delivery_id"]))).await;
    assert_eq!(delivery["status"], "dead_letter");

    producer.publish("gone", json!({})).await;
    let event = wait_for(&receiver, "/operations", "postrider.endpoint.disabled").await;
    assert_eq!((&event["data"]["endpoint_id"], &event["data"]["by"]), (&gone["id"], &json!("postrider")));
    let disabled = producer.get(&producer.endpoint_path(&gone, "")).await;
    assert_eq!(
        (&disabled["is_active"], &disabled["disabled_reason"]),
        (&json!(false), &event["data"]["reason"])
    );
    assert!(text(&event["data"]["reason"]).contains("410"));

    producer.patch(&producer.endpoint_path(&gone, ""), &json!({"is_active": true})).await;
    let event = wait_for(&receiver, "/operations", "postrider.endpoint.enabled").await;
    assert_eq!((&event["data"]["endpoint_id"], &event["data"]["by"]), (&gone["id"], &json!("hand")));

    for webhook in webhooks_by_type(&receiver, "/operations").into_values().flatten() {
        webhook.verify(&text(&operations["secret"]));
    }
    // They can be read like any other event, and no producer can post one.
    let listed = producer.get("/v1/events?event_type=postrider.endpoint.disabled").await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1));
    let posted =
        producer.try_publish("k", "postrider.endpoint.disabled", &json!({})).await.expect("a response");
    assert_eq!(posted.status(), 422);
    let open = "select count(*) from deliveries where completed_at is null";
    eventually("the end of all deliveries", async || (bed.count(open).await == 0).then_some(())).await;
    services.stop().await;
    assert!(webhooks_by_type(&receiver, "/stranger").is_empty());
    let all: Vec<_> = webhooks_by_type(&receiver, "/all").into_keys().collect();
    assert_eq!(all, ["dead", "gone"], "`*` does not match operational events");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operational_events_cause_no_operational_events() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|_| 422).await;
    let producer = Producer::new(services.api).await;
    let operations =
        json!({"url": receiver.url("/operations"), "event_types": ["postrider.*"], "max_attempts": 1});
    producer.endpoint(operations).await;
    let dead = producer.endpoint(json!({"url": receiver.url("/dead"), "max_attempts": 1})).await;

    let accepted = producer.publish("a", json!({})).await;
    producer.delivery_in(&text(&accepted["event_id"]), "dead_letter").await;
    producer.post(&producer.endpoint_path(&dead, "/test"), &json!({})).await;
    eventually("three dead letters", async || {
        let dead = "select count(*) from deliveries where status = 'dead_letter'";
        (bed.count(dead).await == 3).then_some(())
    })
    .await;
    services.stop().await;
    assert_eq!(
        bed.count("select count(*) from events").await,
        3,
        "the event, its operational event, the test"
    );
    assert_eq!(bed.count("select count(*) from deliveries").await, 3);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_only_fails_for_five_days_is_disabled() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/operations" => 204,
        "/recovers" if webhook.json()["data"]["n"] == 2 => 204,
        _ => 500,
    })
    .await;
    let producer = Producer::new(services.api).await;
    let settings = |path: &str, event_types: Value| json!({"url": receiver.url(path), "event_types": event_types, "retry_schedule": [60]});
    producer.endpoint(settings("/operations", json!(["postrider.endpoint.*"]))).await;
    let fails = producer.endpoint(settings("/fails", json!(["a"]))).await;
    let recovers = producer.endpoint(settings("/recovers", json!(["a"]))).await;
    let silent = producer.endpoint(settings("/silent", json!(["a"]))).await;
    let sql = bed.sql().await;
    let failing = async |count: i64| {
        eventually("failures to be noted", async || {
            let noted = "select count(*) from endpoint_health where failing_since is not null";
            (bed.count(noted).await == count).then_some(())
        })
        .await;
    };

    producer.publish("a", json!({"n": 1})).await;
    failing(3).await;
    // One success in between resets the failures.
    producer.publish("a", json!({"n": 2})).await;
    failing(2).await;
    let passes = "update endpoint_health
                  set failing_since = failing_since - interval '6 days',
                      last_failed_at = last_failed_at - case when endpoint_id::text = $1 then interval '3 days'
                                                             else interval '30 hours' end";
    sql.execute(passes, &[&text(&silent["id"])]).await.expect("time passes");
    producer.publish("a", json!({"n": 3})).await;

    let event = wait_for(&receiver, "/operations", "postrider.endpoint.disabled").await;
    assert_eq!(event["data"]["endpoint_id"], fails["id"]);
    assert_eq!(event["data"]["reason"], "every attempt has failed for 5 days");
    let disabled = producer.get(&producer.endpoint_path(&fails, "")).await;
    assert_eq!(disabled["disabled_reason"], "every attempt has failed for 5 days");
    // Two days without an attempt do not count as days of failure. The longest gap of the default schedule is shorter.
    failing(3).await;
    for endpoint in [&recovers, &silent] {
        assert_eq!(producer.get(&producer.endpoint_path(endpoint, "")).await["is_active"], true);
    }
    // An endpoint that is enabled again starts with a clean record.
    producer.patch(&producer.endpoint_path(&fails, ""), &json!({"is_active": true})).await;
    let since = "select count(*) from endpoint_health where failing_since < now() - interval '1 day'";
    assert_eq!(bed.count(since).await, 0);
    let log = "select count(*) from audit_log where actor = 'postrider' and action = 'endpoint.update'";
    assert_eq!(bed.count(log).await, 1);
    assert_eq!(producer.refusal(Method::GET, "/v1/events?limit=0", None, 422).await, "validation_failed");
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_is_reported_once_when_it_opens_and_once_when_it_closes() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let is_up = Arc::new(AtomicBool::new(false));
    let up = is_up.clone();
    let receiver =
        Receiver::start(
            move |webhook| {
                if webhook.path == "/operations" || up.load(Ordering::Relaxed) { 204 } else { 500 }
            },
        )
        .await;
    let producer = Producer::new(services.api).await;
    producer
        .endpoint(json!({"url": receiver.url("/operations"), "event_types": ["postrider.endpoint.*"]}))
        .await;
    let settings = json!({
        "url": receiver.url("/"), "event_types": ["a"], "retry_schedule": [3], "max_attempts": 20,
    });
    let endpoint = producer.endpoint(settings).await;
    producer.publish("a", json!({"n": 1})).await;
    producer.publish("a", json!({"n": 2})).await;
    let opened = wait_for(&receiver, "/operations", "postrider.endpoint.breaker_opened").await;
    assert_eq!(opened["data"]["endpoint_id"], endpoint["id"]);
    assert_eq!(opened["data"]["reason"], "the receiver answered 500");
    let health = producer.get(&producer.endpoint_path(&endpoint, "/health")).await;
    assert_ne!(health["state"], "closed");
    // A failed probe opens the breaker again, which is not reported again.
    eventually("a probe that has failed", async || {
        let next = "select count(*) from endpoint_health where updated_at > (select min(created_at) from events where event_type = 'postrider.endpoint.breaker_opened')";
        (bed.count(next).await > 0).then_some(())
    })
    .await;
    is_up.store(true, Ordering::Relaxed);
    let closed = wait_for(&receiver, "/operations", "postrider.endpoint.breaker_closed").await;
    assert_eq!(closed["data"]["endpoint_id"], endpoint["id"]);
    services.stop().await;
    let told: Vec<_> =
        webhooks_by_type(&receiver, "/operations").into_iter().map(|(name, all)| (name, all.len())).collect();
    assert_eq!(
        told,
        [
            ("postrider.endpoint.breaker_closed".to_owned(), 1),
            ("postrider.endpoint.breaker_opened".to_owned(), 1),
        ]
    );
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_bulk_replay_is_reported() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer
        .endpoint(json!({"url": receiver.url("/operations"), "event_types": ["postrider.replay.finished"]}))
        .await;
    producer.endpoint(json!({"url": receiver.url("/all")})).await;
    producer.publish("a", json!({})).await;
    let replay = producer.post("/v1/replays", &json!({"mode": "replay", "event_types": ["a"]})).await;
    let event = wait_for(&receiver, "/operations", "postrider.replay.finished").await;
    let expected = json!({
        "replay_id": replay["id"], "mode": "replay", "dry_run": false, "status": "completed",
        "scanned_count": 1, "matched_count": 1, "last_error": null,
    });
    assert_eq!(event["data"], expected);
    services.stop().await;
    assert_eq!(webhooks_by_type(&receiver, "/operations").into_values().flatten().count(), 1);
    bed.finish().await;
}

/// Dead letters of endpoints that all subscribe to operational events: each makes thirty deliveries.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_makes_deliveries_of_operational_events_and_the_recorder_does_not() {
    const ENDPOINTS: i64 = 30;
    let bed = Bed::new().await;
    let api = Services::api_alone(&bed, &[]).await;
    // Every second operational webhook fails too. An endpoint that only failed would be probed for many minutes.
    let told = AtomicUsize::new(0);
    let receiver = Receiver::start(move |webhook| {
        let is_told = serde_json::from_slice::<Value>(&webhook.body).expect("JSON")["type"] != "order.made";
        if is_told && told.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { 204 } else { 404 }
    })
    .await;
    let producer = Producer::new(api.api).await;
    for _ in 0..ENDPOINTS {
        let types = json!(["order.made", "postrider.delivery.dead_letter"]);
        let endpoint = json!({"url": receiver.url("/"), "event_types": types, "max_attempts": 1});
        producer.endpoint(endpoint).await;
    }
    producer.publish("order.made", json!({})).await;
    api.stop().await;
    let relay = Process::start(&bed, "relay", &[]);
    let deliverer = Process::start(&bed, "deliverer", &[]);
    let dead = "select count(*) from deliveries where status = 'dead_letter'";
    eventually("dead letters", async || (bed.count(dead).await == ENDPOINTS).then_some(())).await;
    assert_eq!(bed.count("select count(*) from deliveries").await, ENDPOINTS);
    assert_eq!(bed.count("select count(*) from inbox where is_operational").await, ENDPOINTS);
    drop((relay, deliverer));

    let services = Services::start(&bed).await;
    let told = "select count(*) from deliveries
                where event_type = 'postrider.delivery.dead_letter' and completed_at is not null";
    let all = ENDPOINTS * ENDPOINTS;
    eventually("the reports", async || (bed.count(told).await == all).then_some(())).await;
    assert!(bed.count(dead).await > ENDPOINTS, "some of it failed");
    // Nothing more is reported about these.
    assert_eq!(bed.count("select count(*) from inbox").await, 0);
    assert_eq!(bed.count("select count(*) from deliveries").await, ENDPOINTS + all);
    services.stop().await;
    bed.finish().await;
}

/// Neither application can publish any more, and both still get reports of dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn operational_events_reach_inactive_and_strict_applications() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.path == "/dead" { 404 } else { 204 }).await;
    let admin = Producer::admin(services.api);
    for (name, change) in
        [("strict", json!({"strict_event_types": true})), ("inactive", json!({"is_active": false}))]
    {
        let producer = Producer::new(services.api).await;
        producer.post("/v1/event-types", &json!({"name": "order.made"})).await;
        let dead = json!({"url": receiver.url("/dead"), "event_types": ["order.made"]});
        let endpoint = producer.endpoint(dead).await;
        let path = format!("/{name}");
        producer.endpoint(json!({"url": receiver.url(&path), "event_types": ["postrider.*"]})).await;
        let application = format!("/v1/applications/{}", producer.application_id);
        let changed =
            admin.request(Method::PATCH, &application).json(&change).send().await.expect("a response");
        assert_eq!(changed.status(), 200);
        let endpoint = format!("{application}/endpoints/{}", text(&endpoint["id"]));
        let disable = admin.request(Method::PATCH, &endpoint).json(&json!({"is_active": false}));
        assert_eq!(disable.send().await.expect("a response").status(), 200);
        wait_for(&receiver, &path, "postrider.endpoint.disabled").await;
    }
    assert_eq!(bed.count("select count(*) from emit_rejections").await, 0);
    services.stop().await;
    bed.finish().await;
}
