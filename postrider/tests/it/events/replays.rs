//! `/v1/replays`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use postrider_store::{DatabaseConfig, Store, replay_steps};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::{Process, Services};
use crate::support::{Bed, eventually};

/// Publishes many events at once, and returns their ids.
pub(crate) async fn publish_many(producer: &Producer, event_type: &str, count: usize) -> Vec<String> {
    let events: Vec<_> = (0..count)
        .map(|n| json!({"idempotency_key": format!("{event_type}-{n}"), "event_type": event_type, "data": {"n": n}}))
        .collect();
    let mut ids = Vec::new();
    for events in events.chunks(1_000) {
        let answer = producer.post("/v1/events/batch", &json!({ "events": events })).await;
        ids.extend(answer["results"].as_array().expect("results").iter().map(|r| text(&r["event_id"])));
    }
    ids
}

pub(crate) async fn current(producer: &Producer, replay: &Value) -> Value {
    producer.get(&format!("/v1/replays/{}", text(&replay["id"]))).await
}

/// Starts a replay, and waits for its end.
pub(crate) async fn run(producer: &Producer, body: Value) -> Value {
    let replay = producer.post("/v1/replays", &body).await;
    completed(producer, &replay).await
}

pub(crate) async fn completed(producer: &Producer, replay: &Value) -> Value {
    eventually("the end of a replay", async || {
        let replay = current(producer, replay).await;
        assert!(
            ["pending", "running", "completed"].contains(&replay["status"].as_str().expect("one")),
            "{replay}"
        );
        (replay["status"] == "completed").then_some(replay)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_the_requested_events_again() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let stranger = Producer::new(services.api).await;
    publish_many(&stranger, "user.created", 3).await;
    let early = publish_many(&producer, "user.created", 120).await;
    // So that the next events have a newer millisecond.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let first = producer.publish("invoice.paid", json!({"n": 0})).await;
    let at = text(&producer.get(&format!("/v1/events/{}", text(&first["event_id"]))).await["created_at"]);
    publish_many(&producer, "invoice.paid", 29).await;
    let late = publish_many(&producer, "user.deleted", 40).await;
    let settings =
        json!({"url": receiver.url("/users"), "event_types": ["user.*"], "filter": {"data.n": {"lt": 100}}});
    let users = text(&producer.endpoint(settings).await["id"]);
    let all = text(&producer.endpoint(json!({"url": receiver.url("/all")})).await["id"]);
    producer.endpoint(json!({"url": receiver.url("/off"), "is_active": false})).await;

    for (selection, expected) in [
        (json!({}), 140 + 190),
        (json!({"endpoint_ids": [users]}), 140),
        (json!({"endpoint_ids": [users, all], "event_types": ["user.created"]}), 100 + 120),
        (json!({"endpoint_ids": [all], "created_after": at}), 70),
        (json!({"endpoint_ids": [all], "created_before": at}), 120),
        (json!({"event_types": ["user"]}), 0),
    ] {
        let mut body = selection.clone();
        body["mode"] = json!("replay");
        body["dry_run"] = json!(true);
        let counted = run(&producer, body).await;
        assert_eq!(counted["matched_count"], expected, "{selection} {counted}");
        assert_eq!((&counted["progress"], &counted["dry_run"]), (&json!(1.0), &json!(true)));
    }
    assert_eq!(bed.count("select count(*) from deliveries").await, 0, "a dry run changes nothing");

    let body = json!({"mode": "replay", "endpoint_ids": [users], "created_after": at});
    let replay = run(&producer, body).await;
    assert_eq!((&replay["matched_count"], &replay["scanned_count"]), (&json!(40), &json!(190)));
    assert!(replay["started_at"].is_string() && replay["completed_at"].is_string());
    assert!(replay["rate_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    let mut got: Vec<_> = receiver.wait_for(40).await.iter().map(|w| w.id().to_owned()).collect();
    got.sort();
    let mut expected = late.clone();
    expected.sort();
    assert_eq!(got, expected);
    // Events that arrive after the request are not part of the replay.
    producer.publish("user.created", json!({"n": 500})).await;
    receiver.wait_for(41).await;
    eventually("all to be delivered", async || {
        let open = "select count(*) from deliveries where completed_at is null";
        (bed.count(open).await == 0).then_some(())
    })
    .await;
    services.stop().await;
    assert_eq!(receiver.count(), 41);
    assert_eq!(early.len(), 120);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_reopens_dead_letters_with_one_more_attempt() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let status = Arc::new(AtomicU16::new(422));
    let receiver = Receiver::start({
        let status = status.clone();
        move |_| status.load(Ordering::Relaxed)
    })
    .await;
    let producer = Producer::new(services.api).await;
    let endpoint = text(
        &producer
            .endpoint(
                json!({"url": receiver.url("/a"), "event_types": ["user.*"], "permanent_statuses": [422]}),
            )
            .await["id"],
    );
    producer
        .endpoint(
            json!({"url": receiver.url("/b"), "event_types": ["invoice.*"], "permanent_statuses": [422]}),
        )
        .await;
    publish_many(&producer, "user.created", 60).await;
    publish_many(&producer, "invoice.paid", 20).await;
    let dead = "select count(*) from deliveries where status = 'dead_letter'";
    eventually("80 dead letters", async || (bed.count(dead).await == 80).then_some(())).await;
    for (selection, expected) in [
        (json!({}), 80),
        (json!({"endpoint_ids": [endpoint]}), 60),
        (json!({"event_types": ["invoice.paid", "x"]}), 20),
        (json!({"statuses": ["cancelled", "failed"]}), 0),
        (json!({"statuses": ["dead_letter", "failed"]}), 80),
        (json!({"created_before": "2020-01-01T00:00:00Z"}), 0),
    ] {
        let mut body = selection.clone();
        body["mode"] = json!("redrive");
        body["dry_run"] = json!(true);
        assert_eq!(run(&producer, body).await["matched_count"], expected, "{selection}");
    }
    assert_eq!(bed.count(dead).await, 80);

    // They are still refused: each has had one more attempt, and is a dead letter again.
    assert_eq!(run(&producer, json!({"mode": "redrive"})).await["matched_count"], 80);
    let again = "select count(*) from deliveries where status = 'dead_letter' and attempt_count = 2";
    eventually("80 dead letters again", async || (bed.count(again).await == 80).then_some(())).await;
    status.store(200, Ordering::Relaxed);
    assert_eq!(
        run(&producer, json!({"mode": "redrive", "endpoint_ids": [endpoint]})).await["matched_count"],
        60
    );
    let done = "select count(*) from deliveries where status = 'succeeded' and attempt_count = 3 and max_attempts = 3";
    eventually("60 to succeed", async || (bed.count(done).await == 60).then_some(())).await;
    services.stop().await;
    assert_eq!(receiver.count(), 80 + 80 + 60);
    assert_eq!(bed.count(dead).await, 20);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_of_failed_deliveries_retries_them_at_once() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 200 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [3600]})).await;
    publish_many(&producer, "user.created", 20).await;
    let failed = "select count(*) from deliveries where status = 'failed'";
    eventually("20 failed ones", async || (bed.count(failed).await == 20).then_some(())).await;
    assert_eq!(run(&producer, json!({"mode": "redrive", "statuses": ["failed"]})).await["matched_count"], 20);
    let done = "select count(*) from deliveries where status = 'succeeded' and max_attempts = 10";
    eventually("20 to succeed", async || (bed.count(done).await == 20).then_some(())).await;
    services.stop().await;
    assert_eq!(receiver.count(), 40);
    bed.finish().await;
}

/// Relays are killed repeatedly, before and after a step is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_resumes_where_it_was_when_its_relay_was_killed() {
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let events = publish_many(&producer, "user.created", 3_000).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let replay = producer.post("/v1/replays", &json!({"mode": "replay"})).await;
    let matched = async || current(&producer, &replay).await["matched_count"].as_i64().expect("a count");
    for (point, moves) in [
        ("relay.in_replay_step=1*return", false),
        ("relay.after_replay_step=1*return", true),
        ("relay.in_replay_step=1*off->1*return", true),
        ("relay.after_replay_step=2*off->1*return", true),
    ] {
        let before = matched().await;
        let mut relay = Process::start(&bed, "relay", &[("FAILPOINTS", point)]);
        relay.died().await;
        assert_eq!(matched().await > before, moves, "{point}");
    }
    assert_eq!(current(&producer, &replay).await["status"], "running");
    // Two relays at the same time finish it without duplicates.
    services.relay(&bed, &[]);
    services.relay(&bed, &[]);
    services.deliverer(&bed, &[]);
    assert_eq!(completed(&producer, &replay).await["matched_count"], 3_000);
    eventually("all to be delivered", async || {
        let done = "select count(*) from deliveries where status = 'succeeded'";
        (bed.count(done).await == 3_000).then_some(())
    })
    .await;
    services.stop().await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for webhook in receiver.received() {
        *counts.entry(webhook.id().to_owned()).or_default() += 1;
    }
    assert_eq!(counts.len(), events.len());
    assert!(counts.values().all(|&count| count == 1), "some webhooks were sent twice");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_traffic_goes_before_replayed_events() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    publish_many(&producer, "user.created", 1_000).await;
    producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": 50})).await;
    let replay = run(&producer, json!({"mode": "replay"})).await;
    assert_eq!(replay["matched_count"], 1_000);
    for round in 1..=3 {
        let before = receiver.wait_for(30 * round).await.len();
        let live = text(&producer.publish("user.deleted", json!({})).await["event_id"]);
        let position = eventually("the live event", async || {
            receiver.received().iter().position(|webhook| webhook.id() == live)
        })
        .await;
        assert!(position < before + 40, "{} webhooks were sent before it", position - before);
    }
    assert!(
        bed.count("select count(*) from outbox where bulk").await > 500,
        "the replay is far from its end"
    );
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_replay_withdraws_unsent_deliveries() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    publish_many(&producer, "user.created", 400).await;
    let ordered = json!({"url": receiver.url("/ordered"), "ordered": true, "rate_limit": 20});
    producer.endpoint(ordered).await;
    producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": 20})).await;
    let replay = run(&producer, json!({"mode": "replay"})).await;
    assert_eq!(replay["matched_count"], 800);
    // It has queued everything and sent only a little.
    let cancelled = producer.post(&cancel(&replay), &json!({})).await;
    assert_eq!(
        (&cancelled["status"], &cancelled["completed_at"]),
        (&json!("cancelled"), &replay["completed_at"])
    );

    // This one is still open, because it waits for a relay.
    let replay = producer.post("/v1/replays", &json!({"mode": "replay"})).await;
    let cancelled = producer.post(&cancel(&replay), &json!({})).await;
    assert_eq!(cancelled["status"], "cancelled");
    assert!(cancelled["completed_at"].is_string());
    let counted = run(&producer, json!({"mode": "replay", "dry_run": true})).await;
    for closed in [&replay, &counted] {
        let (status, problem) = producer.refused(&cancel(closed), &json!({})).await;
        assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("replay_closed")));
    }
    let live = text(&producer.publish("user.deleted", json!({})).await["event_id"]);
    eventually("everything to be closed", async || {
        (bed.count("select count(*) from deliveries where completed_at is null").await == 0).then_some(())
    })
    .await;
    let withdrawn = bed
        .count("select count(*) from deliveries where status = 'cancelled' and attempt_count = 0 and last_error like '%replay%'")
        .await;
    assert!(withdrawn > 500, "{withdrawn}");
    services.stop().await;
    let sent = receiver.received();
    assert_eq!(sent.iter().filter(|webhook| webhook.id() == live).count(), 2);
    assert_eq!(
        bed.count("select count(*) from deliveries where status = 'succeeded'").await,
        sent.len() as i64
    );
    bed.finish().await;
}

pub(crate) fn cancel(replay: &Value) -> String {
    format!("/v1/replays/{}/cancel", text(&replay["id"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_replay_requests_are_bounded_too() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let asked: Vec<_> = (0..40)
        .map(|_| producer.request(Method::POST, "/v1/replays").json(&json!({"mode": "replay"})).send())
        .map(tokio::spawn)
        .collect();
    let mut statuses = BTreeMap::new();
    for answer in asked {
        let status = answer.await.expect("no panic").expect("a response").status().as_u16();
        *statuses.entry(status).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(201, 10), (409, 30)]));

    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_are_bounded_listed_and_private_to_their_application() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let stranger = Producer::new(services.api).await;
    let foreign = text(&stranger.endpoint(json!({"url": "http://127.0.0.1:9/"})).await["id"]);
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.insert(0, text(&producer.post("/v1/replays", &json!({"mode": "replay"})).await["id"]));
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let (status, problem) = producer.refused("/v1/replays", &json!({"mode": "replay"})).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("too_many_replays")));
    let page = producer.get("/v1/replays?limit=6").await;
    let cursor = text(&page["next_cursor"]);
    let rest = producer.get(&format!("/v1/replays?limit=6&cursor={cursor}")).await;
    let listed: Vec<_> = [page, rest]
        .iter()
        .flat_map(|page| page["data"].as_array().expect("a page").clone())
        .map(|replay| text(&replay["id"]))
        .collect();
    assert_eq!(listed, ids);
    assert_eq!(stranger.get("/v1/replays").await["data"], json!([]));
    for (method, path) in [(Method::GET, ""), (Method::POST, "/cancel")] {
        let request = stranger.request(method, &format!("/v1/replays/{}{path}", ids[0]));
        assert_eq!(request.send().await.expect("a response").status(), StatusCode::NOT_FOUND);
    }
    let (status, problem) =
        producer.refused("/v1/replays", &json!({"mode": "replay", "endpoint_ids": [foreign]})).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["field"]), (422, &json!("endpoint_ids[0]")));
    let created =
        stranger.request(Method::POST, "/v1/replays").json(&json!({"mode": "redrive"})).send().await;
    let created = created.expect("a response");
    assert_eq!(created.status(), StatusCode::CREATED);
    let location = created.headers()["location"].to_str().expect("text").to_owned();
    assert_eq!(stranger.get(&location).await["status"], "pending");
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_take_turns_however_many_open_replays_one_has() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let (many, one) = (Producer::new(services.api).await, Producer::new(services.api).await);
    let mut replays = Vec::new();
    for producer in [&many, &one] {
        publish_many(producer, "user.created", 400).await;
    }
    for producer in [&many, &many, &many, &many, &one] {
        let replay = producer.post("/v1/replays", &json!({"mode": "replay"})).await;
        replays.push(text(&replay["id"]));
    }
    let store = Store::new(&bed.source.read(DatabaseConfig::read).expect("the configuration"));
    let mut turns = Vec::new();
    for _ in 0..6 {
        let step = replay_steps::step(&store).await.expect("a step").expect("something to do");
        turns.push(replays.iter().position(|id| *id == step.replay_id.to_string()).expect("one of these"));
    }
    assert_eq!(turns, [0, 4, 1, 4, 2, 4]);
    services.stop().await;
    bed.finish().await;
}
