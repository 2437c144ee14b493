//! `/v1/replays` in the mode `missing` sends only what never arrived.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::replays::{cancel, completed, current, publish_many, run};
use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::{Process, Services};
use crate::support::{Bed, eventually};

async fn all_closed(bed: &Bed) {
    let open = "select count(*) from deliveries where completed_at is null";
    eventually("the end of all deliveries", async || (bed.count(open).await == 0).then_some(())).await;
}

/// Does a dry run first, whose count must match what is then sent.
async fn send_missing(producer: &Producer, selection: &Value) -> Value {
    let mut body = selection.clone();
    body["mode"] = json!("missing");
    body["dry_run"] = json!(true);
    let counted = run(producer, body.clone()).await["matched_count"].clone();
    body["dry_run"] = json!(false);
    let sent = run(producer, body).await;
    assert_eq!(sent["matched_count"], counted, "{sent}");
    counted
}

/// How often each path got each event.
fn arrivals(receiver: &Receiver) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for webhook in receiver.received() {
        *counts.entry((webhook.path.clone(), webhook.id().to_owned())).or_default() += 1;
    }
    counts
}

fn sent_to(receiver: &Receiver, path: &str) -> usize {
    receiver.received().iter().filter(|webhook| webhook.path == path).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_missing_events_are_sent() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let is_up = Arc::new(AtomicBool::new(false));
    let up = is_up.clone();
    let receiver = Receiver::start(move |webhook| match webhook.path.as_str() {
        "/down" if !up.load(Ordering::Relaxed) => 500,
        "/waiting" => 500,
        _ => 204,
    })
    .await;
    let producer = Producer::new(services.api).await;
    let stranger = Producer::new(services.api).await;
    stranger.endpoint(json!({"url": receiver.url("/stranger")})).await;
    let settings =
        |path: &str| json!({"url": receiver.url(path), "event_types": ["user.*"], "max_attempts": 1});
    producer.endpoint(settings("/up")).await;
    let down = text(&producer.endpoint(settings("/down")).await["id"]);
    let off = producer.endpoint(settings("/off")).await;
    let mut waiting = settings("/waiting");
    waiting["max_attempts"] = json!(2);
    waiting["retry_schedule"] = json!([3600]);
    producer.endpoint(waiting).await;
    let expunged = text(&producer.publish("user.left", json!({"n": 0})).await["event_id"]);
    let before = publish_many(&producer, "user.created", 4).await;
    let attempted = |count: i64| {
        let bed = &bed;
        async move {
            let attempts = "select count(*) from deliveries where attempt_count > 0 and lease_id is null";
            eventually("first attempts", async || (bed.count(attempts).await == count).then_some(())).await;
        }
    };
    attempted(20).await;
    producer.post(&format!("/v1/events/{expunged}/expunge"), &json!({})).await;
    producer.patch(&producer.endpoint_path(&off, ""), &json!({"is_active": false})).await;
    let during = publish_many(&producer, "user.changed", 6).await;
    publish_many(&producer, "invoice.paid", 3).await;
    attempted(20 + 18).await;

    is_up.store(true, Ordering::Relaxed);
    let mut late = settings("/late");
    late["filter"] = json!({"data.n": {"lt": 3}});
    producer.endpoint(late).await;
    let mut disabled = settings("/disabled");
    disabled["is_active"] = json!(false);
    producer.endpoint(disabled).await;

    // Only what was selected, at endpoints that are active now: the dead letters of one, and what the other missed.
    assert_eq!(send_missing(&producer, &json!({"endpoint_ids": [off["id"]]})).await, 0, "it is disabled");
    producer.patch(&producer.endpoint_path(&off, ""), &json!({"is_active": true})).await;
    let selection = json!({"endpoint_ids": [down], "event_types": ["user.created"]});
    assert_eq!(send_missing(&producer, &selection).await, 4);
    assert_eq!(
        send_missing(&producer, &selection).await,
        0,
        "open and succeeded deliveries are not sent again"
    );
    assert_eq!(send_missing(&producer, &json!({})).await, 6 + 6 + 6);
    assert_eq!(send_missing(&producer, &json!({})).await, 0);
    let open = "select count(*) from deliveries where completed_at is null and status <> 'failed'";
    eventually("all to be sent", async || (bed.count(open).await == 0).then_some(())).await;
    assert_eq!(send_missing(&producer, &json!({})).await, 0);
    services.stop().await;

    let arrived = arrivals(&receiver);
    for event in before.iter().chain(&during) {
        let count = |path: &str| arrived.get(&(path.to_owned(), event.clone())).copied().unwrap_or_default();
        assert_eq!(
            [count("/up"), count("/down"), count("/off"), count("/waiting")],
            [1, 2, 1, 1],
            "a dead letter is reopened, a delivery that waits for its retry is left alone"
        );
    }
    assert_eq!(
        sent_to(&receiver, "/late"),
        6,
        "by its current filter, including events older than the endpoint"
    );
    assert_eq!(sent_to(&receiver, "/disabled") + sent_to(&receiver, "/stranger"), 0);
    let expunged = |(_, event): &&(String, String)| *event == expunged;
    assert_eq!(arrived.keys().filter(expunged).count(), 4, "an expunged event is not sent again");
    let pairs = "select count(*) - count(distinct (event_id, endpoint_id)) from deliveries";
    assert_eq!(bed.count(pairs).await, 0, "no pair has a second delivery");
    let dead = "select count(*) from deliveries d join events v on v.id = d.event_id
                where d.status = 'dead_letter' and v.expunged_at is null";
    assert_eq!(bed.count(dead).await, 0);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_events_are_sent_once_despite_killed_relays_and_two_replays() {
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let events = publish_many(&producer, "user.created", 3_000).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let mut replays = Vec::new();
    for _ in 0..3 {
        replays.push(producer.post("/v1/replays", &json!({"mode": "missing"})).await);
    }
    for point in [
        "relay.in_replay_step=1*return",
        "relay.after_replay_step=1*return",
        "relay.in_replay_step=1*off->1*return",
    ] {
        Process::start(&bed, "relay", &[("FAILPOINTS", point)]).died().await;
    }
    assert_eq!(current(&producer, &replays[0]).await["status"], "running");
    services.relay(&bed, &[]);
    services.relay(&bed, &[]);
    services.deliverer(&bed, &[]);
    let mut matched = Vec::new();
    for replay in &replays {
        matched.push(completed(&producer, replay).await["matched_count"].clone());
    }
    assert_eq!(matched, [3_000, 0, 0]);
    all_closed(&bed).await;
    services.stop().await;
    let arrived = arrivals(&receiver);
    assert_eq!(arrived.len(), events.len());
    assert!(arrived.values().all(|&count| count == 1), "some webhooks were sent twice");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_of_a_cancelled_replay_count_as_missing() {
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    services.relay(&bed, &[]);
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    publish_many(&producer, "user.created", 50).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let replay = run(&producer, json!({"mode": "missing"})).await;
    assert_eq!(replay["matched_count"], 50);
    assert_eq!(send_missing(&producer, &json!({})).await, 0, "it is on its way");
    producer.post(&cancel(&replay), &json!({})).await;
    assert_eq!(send_missing(&producer, &json!({})).await, 50);
    services.deliverer(&bed, &[]);
    bed.all_succeeded(50).await;
    services.stop().await;
    assert_eq!(receiver.count(), 50);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_an_ordered_endpoint_dead_letters_return_to_their_place_and_new_deliveries_go_last() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver =
        Receiver::start(
            |webhook| {
                if webhook.attempt == 1 && webhook.json()["data"]["n"] == 0 { 500 } else { 204 }
            },
        )
        .await;
    let producer = Producer::new(services.api).await;
    let endpoint =
        producer.endpoint(json!({"url": receiver.url("/"), "ordered": true, "max_attempts": 1})).await;
    producer.publish("a", json!({"n": 0})).await;
    producer.publish("a", json!({"n": 1})).await;
    all_closed(&bed).await;
    producer.patch(&producer.endpoint_path(&endpoint, ""), &json!({"is_active": false})).await;
    producer.publish("a", json!({"n": 2})).await;
    producer.publish("a", json!({"n": 3})).await;
    producer.patch(&producer.endpoint_path(&endpoint, ""), &json!({"is_active": true})).await;
    assert_eq!(send_missing(&producer, &json!({})).await, 3);
    all_closed(&bed).await;
    services.stop().await;
    let order: Vec<_> =
        receiver.received().iter().map(|webhook| webhook.json()["data"]["n"].clone()).collect();
    assert_eq!(order, [0, 1, 0, 2, 3]);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_reads_few_events_when_there_are_many_endpoints() {
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    publish_many(&producer, "user.created", 60).await;
    let endpoints = "insert into endpoints (application_id, url)
                     select id, 'http://127.0.0.1:9/' from applications, generate_series(1, 1000)";
    bed.sql().await.execute(endpoints, &[]).await.expect("endpoints");
    for mode in ["missing", "replay"] {
        let replay = producer.post("/v1/replays", &json!({"mode": mode, "dry_run": true})).await;
        Process::start(&bed, "relay", &[("FAILPOINTS", "relay.after_replay_step=1*return")]).died().await;
        let first = current(&producer, &replay).await;
        assert_eq!((&first["scanned_count"], &first["matched_count"]), (&json!(4), &json!(4_000)), "{mode}");
        producer.post(&cancel(&replay), &json!({})).await;
    }
    services.relay(&bed, &[]);
    let counted = run(&producer, json!({"mode": "missing", "dry_run": true})).await;
    assert_eq!(counted["matched_count"], 60_000);
    services.stop().await;
    bed.finish().await;
}
