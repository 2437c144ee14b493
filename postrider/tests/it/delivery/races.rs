//! Concurrent changes: users, deliverers and relays change the same rows at the same time, and results arrive late.

use std::time::{Duration, Instant};

use postrider_domain::attempt::{Exchange, Recorded, Verdict};
use postrider_domain::delivery::ErrorClass;
use postrider_domain::endpoint::BreakerChange;
use postrider_domain::ids::{DelivererNumber, DeliveryId, EndpointId};
use postrider_secrets::claim::{self, Claimed};
use postrider_store::{DatabaseConfig, Store, cleanups, health, record};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

fn store(bed: &Bed) -> Store {
    Store::new(&bed.source.read(DatabaseConfig::read).expect("the configuration"))
}

/// Records one attempt, and returns the deliveries that it changed.
async fn record(store: &Store, attempt: Recorded) -> Vec<DeliveryId> {
    let written = record::record(store, DelivererNumber(1), &[&attempt], &[], true).await.expect("recorded");
    written.moved.iter().map(|moved| moved.delivery_id).collect()
}

fn id(value: &Value) -> Uuid {
    text(value).parse().expect("an id")
}

/// Claims a delivery, as a deliverer does.
async fn claim(store: &Store, delivery: &Value) -> Claimed {
    let ids = [DeliveryId(id(&delivery["id"]))];
    let mut claim = claim::claim(store, DelivererNumber(1), &ids, None).await.expect("a claim");
    claim.claimed.pop().expect("it is due")
}

/// A failed attempt of this claim.
fn failure(claimed: &Claimed, verdict: Verdict) -> Recorded {
    Recorded {
        delivery_id: claimed.delivery_id,
        lease_id: claimed.lease_id,
        attempt_number: claimed.attempt_number,
        began: Instant::now(),
        exchange: Exchange {
            error_class: Some(ErrorClass::Http),
            error_message: Some("the receiver answered 400".to_owned()),
            response_status: Some(400),
            ..Exchange::default()
        },
        verdict,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_failure_does_not_undo_a_manual_retry() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let store = store(&bed);
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    let event = text(&producer.publish("a", json!({})).await["event_id"]);
    let delivery = producer.deliveries(&event).await.remove(0);
    let path = format!("/v1/deliveries/{}", text(&delivery["id"]));
    let first = claim(&store, &delivery).await;
    producer.call(Method::POST, &format!("{path}/cancel"), Some(&json!({}))).await;
    let (status, _) = producer.call(Method::POST, &format!("{path}/retry"), Some(&json!({}))).await;
    assert!(status.is_success());
    for verdict in [Verdict::Dead, Verdict::Retry(Duration::from_secs(3_600))] {
        let moved = record(&store, failure(&first, verdict)).await;
        assert_eq!(moved, []);
        assert_eq!(producer.get(&path).await["status"], "pending");
    }
    assert_eq!(producer.attempts(&delivery).await.len(), 1, "the attempt is kept anyway");
    let second = claim(&store, &delivery).await;
    assert_eq!(second.attempt_number, 2);

    // Without a manual change in between, a late failure counts if it is that of the last attempt.
    let sql = bed.sql().await;
    let sweep = "update deliveries set status = 'failed', lease_id = null, next_retry_at = now()";
    sql.batch_execute(sweep).await.expect("swept");
    assert_eq!(record(&store, failure(&first, Verdict::Dead)).await, []);
    let moved = record(&store, failure(&second, Verdict::Dead)).await;
    assert_eq!(moved, [second.delivery_id]);
    assert_eq!(producer.get(&path).await["status"], "dead_letter");
    services.stop().await;
    bed.finish().await;
}

/// Claims reach the disk late, so that a crash may lose one whose webhook was sent.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_claim_was_lost_is_recorded_and_the_delivery_continues() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let store = store(&bed);
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    let event = text(&producer.publish("a", json!({})).await["event_id"]);
    let delivery = producer.deliveries(&event).await.remove(0);
    let claimed = claim(&store, &delivery).await;
    let sql = bed.sql().await;
    sql.batch_execute(
        "update deliveries set status = 'pending', lease_id = null, attempt_count = 0; delete from leases;
         delete from outbox",
    )
    .await
    .expect("lost");
    let retry = failure(&claimed, Verdict::Retry(Duration::ZERO));
    assert_eq!(record(&store, retry).await, [claimed.delivery_id]);
    assert_eq!(bed.count("select count(*) from outbox").await, 1);
    assert_eq!(claim(&store, &delivery).await.attempt_number, 2);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_two_deliverers_open_at_once_is_reported_once() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let store = store(&bed);
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/o", "event_types": ["postrider.*"]})).await;
    let endpoint_id = EndpointId(id(&endpoint["id"]));
    let told = "select count(*) from events where event_type like 'postrider.endpoint.breaker_%'";
    let opened = BreakerChange::Opened {
        endpoint_id,
        probe_after: Duration::from_secs(5),
        failing_for: Duration::from_secs(10),
    };
    let closed = BreakerChange::Closed { endpoint_id };
    let mut expected = 0;
    for change in [opened, closed, opened] {
        let mut blocker = bed.sql().await;
        let held = blocker.transaction().await.expect("a transaction");
        held.execute("select from endpoint_health for update", &[]).await.expect("held");
        let notes: Vec<_> = (0..2)
            .map(|_| {
                let store = store.clone();
                // Like a deliverer, retries after waiting too long for a lock.
                tokio::spawn(async move {
                    loop {
                        match health::note(&store, &[(change, None)]).await {
                            Err(error) if error.is_contention() => {}
                            noted => return noted,
                        }
                    }
                })
            })
            .collect();
        // Both have begun by now, except on the slowest machine.
        tokio::time::sleep(Duration::from_millis(100)).await;
        held.rollback().await.expect("released");
        for note in notes {
            note.await.expect("a task").expect("noted");
        }
        expected += 1;
        // It is reported through the inbox.
        eventually(&format!("{change:?} to be reported"), async || {
            (bed.count("select count(*) from inbox").await == 0).then_some(())
        })
        .await;
        assert_eq!(bed.count(told).await, expected, "{change:?}");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enabled_endpoint_is_not_disabled_for_earlier_failures() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let store = store(&bed);
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    let endpoint_id = EndpointId(id(&endpoint["id"]));
    let limit = Duration::from_secs(5 * 86_400);
    let days = async |count: i32| {
        let passes = "update endpoint_health set failing_since = failing_since - make_interval(days => $1),
                      last_failed_at = last_failed_at - interval '2 hours'";
        bed.sql().await.execute(passes, &[&count]).await.expect("time passes");
    };
    let fail = async || health::note_attempts(&store, &[], &[endpoint_id], limit).await.expect("noted");
    assert_eq!(fail().await, []);
    days(6).await;
    assert_eq!(fail().await, [endpoint_id]);
    let path = producer.endpoint_path(&endpoint, "");
    producer.patch(&path, &json!({"is_active": false})).await;
    producer.patch(&path, &json!({"is_active": true})).await;
    // Redis has seen only failures for six days.
    let opened = BreakerChange::Opened {
        endpoint_id,
        probe_after: Duration::from_secs(60),
        failing_for: Duration::from_secs(6 * 86_400),
    };
    health::note(&store, &[(opened, None)]).await.expect("noted");
    assert_eq!(fail().await, []);
    assert_eq!(fail().await, []);
    days(6).await;
    assert_eq!(fail().await, [endpoint_id]);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_410_from_an_old_url_does_not_disable_the_endpoint() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/old" => Reply { delay: Duration::from_millis(800), ..Reply::from(410) },
        _ => Reply::from(204),
    })
    .await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/old")})).await;
    let path = producer.endpoint_path(&endpoint, "");
    let accepted = producer.publish("a", json!({})).await;
    receiver.wait_for(1).await;
    producer.patch(&path, &json!({"url": receiver.url("/new")})).await;
    producer.delivery_in(&text(&accepted["event_id"]), "dead_letter").await;
    let accepted = producer.publish("a", json!({})).await;
    producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    services.stop().await;
    assert_eq!(bed.count("select count(*) from endpoints where is_active").await, 1);
    bed.finish().await;
}

/// Makes a statement fail repeatedly as if it had taken too long.
async fn make_statement_fail(bed: &Bed, on: &str, application: &str) {
    bed.sql()
        .await
        .batch_execute(&format!(
            "create function too_slow() returns trigger language plpgsql as $$
             begin raise exception 'canceling statement due to statement timeout' using errcode = '57014'; end $$;
             create trigger too_slow before {on} on deliveries for each row
             when (old.application_id = '{application}') execute function too_slow()"
        ).replace("old.", if on == "insert" { "new." } else { "old." }))
        .await
        .expect("a trigger");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_with_slow_steps_holds_up_no_other() {
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    let producers = [Producer::new(services.api).await, Producer::new(services.api).await];
    let mut replays = Vec::new();
    for producer in &producers {
        producer.publish("a", json!({})).await;
        producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
        replays.push(producer.post("/v1/replays", &json!({"mode": "replay"})).await);
    }
    make_statement_fail(&bed, "insert", &producers[0].application_id).await;
    services.relay(&bed, &[]);
    let status = async |number: usize| {
        let path = format!("/v1/replays/{}", text(&replays[number]["id"]));
        text(&producers[number].get(&path).await["status"])
    };
    eventually("the end of the other one", async || (status(1).await == "completed").then_some(())).await;
    eventually("smaller steps", async || {
        let small = "select count(*) from replays where step_size < 10 and completed_at is null";
        (bed.count(small).await == 1).then_some(())
    })
    .await;
    bed.sql().await.batch_execute("drop trigger too_slow on deliveries").await.expect("dropped");
    eventually("its own end", async || (status(0).await == "completed").then_some(())).await;
    assert_eq!(bed.count("select count(*) from deliveries").await, 2);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_deletion_holds_up_no_other() {
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    let producers = [Producer::new(services.api).await, Producer::new(services.api).await];
    let admin = Producer::admin(services.api);
    for producer in &producers {
        producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
        producer.publish("a", json!({})).await;
    }
    make_statement_fail(&bed, "delete", &producers[0].application_id).await;
    for producer in &producers {
        admin.delete(&format!("/v1/applications/{}", producer.application_id)).await;
    }
    services.relay(&bed, &[]);
    let left = async |producer: &Producer| {
        let id = &producer.application_id;
        bed.count(&format!("select count(*) from deliveries where application_id = '{id}'")).await
    };
    eventually("the other to be removed", async || (left(&producers[1]).await == 0).then_some(())).await;
    assert_eq!(left(&producers[0]).await, 1);
    bed.sql().await.batch_execute("drop trigger too_slow on deliveries").await.expect("dropped");
    eventually("the first to be removed", async || (left(&producers[0]).await == 0).then_some(())).await;
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_recorded_while_its_application_is_removed_is_removed_too() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let store = store(&bed);
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    producer.publish("a", json!({})).await;
    let path = format!("/v1/applications/{}", producer.application_id);
    Producer::admin(services.api).delete(&path).await;
    let mut recorder = bed.sql().await;
    let recording = recorder.transaction().await.expect("a transaction");
    recording
        .batch_execute(
            "update deliveries set last_response_status = 200;
             insert into delivery_attempts (delivery_id, attempt_number, outcome, response_body)
             select id, 1, 'succeeded', 'what the tenant''s receiver said' from deliveries",
        )
        .await
        .expect("an attempt");
    let removing = tokio::spawn(async move { cleanups::step(&store).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    recording.commit().await.expect("recorded");
    assert!(removing.await.expect("a task").expect("a step"));
    for table in ["deliveries", "delivery_attempts"] {
        assert_eq!(bed.count(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_open_no_more_than_ten_replays() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let asking: Vec<_> = (0..24)
        .map(|_| {
            let producer = producer.clone();
            tokio::spawn(async move {
                producer.call(Method::POST, "/v1/replays", Some(&json!({"mode": "replay"}))).await.0
            })
        })
        .collect();
    for asked in asking {
        let status = asked.await.expect("a response");
        let expected = [StatusCode::CREATED, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE];
        assert!(expected.contains(&status), "{status}");
    }
    assert!(bed.count("select count(*) from replays").await <= 10);
    services.stop().await;
    bed.finish().await;
}

/// Everything that is called while another transaction holds the rows is refused, and nothing is changed in part.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_locked_by_another_transaction_is_a_503_and_stays_unchanged() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let admin = Producer::admin(services.api);
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/o", "event_types": ["postrider.*"]})).await;
    let event = text(&producer.publish("a", json!({})).await["event_id"]);
    let delivery = text(&producer.deliveries(&event).await[0]["id"]);
    let replay = text(&producer.post("/v1/replays", &json!({"mode": "replay"})).await["id"]);
    let sum = "select hashtextextended(string_agg(row, ' ' order by row), 0) from (
                   select a::text from applications a union all select e::text from endpoints e
                   union all select s::text from endpoint_secrets s union all select v::text from events v
                   union all select d::text from deliveries d union all select r::text from replays r
                   union all select o::text from outbox o union all select l::text from audit_log l
                   union all select c::text from cleanups c -- When a key was used last is noted now and then.
                   union all select (to_jsonb(k) - 'last_used_at')::text from api_keys k
               ) all_rows (row)";
    let before = bed.count(sum).await;
    let mut blocker = bed.sql().await;
    let held = blocker.transaction().await.expect("a transaction");
    for table in ["applications", "endpoints", "events", "deliveries", "replays"] {
        held.execute(&format!("select from {table} for update"), &[]).await.expect("held");
    }
    let endpoint = producer.endpoint_path(&endpoint, "");
    for (caller, method, path, body) in [
        (&producer, Method::POST, format!("/v1/deliveries/{delivery}/retry"), json!({})),
        (&producer, Method::POST, format!("/v1/deliveries/{delivery}/cancel"), json!({})),
        (&producer, Method::POST, format!("/v1/replays/{replay}/cancel"), json!({})),
        (&producer, Method::POST, "/v1/replays".to_owned(), json!({"mode": "redrive"})),
        (&producer, Method::POST, format!("/v1/events/{event}/expunge"), json!({})),
        (
            &producer,
            Method::PATCH,
            endpoint.clone(),
            json!({"is_active": false, "open_deliveries": "cancel"}),
        ),
        (&producer, Method::POST, format!("{endpoint}/secret/rotate"), json!({"overlap_seconds": 0})),
        (&producer, Method::DELETE, endpoint.clone(), Value::Null),
        (&producer, Method::PATCH, producer.path(""), json!({"name": "other"})),
        (&admin, Method::DELETE, producer.path(""), Value::Null),
    ] {
        let request = caller.request(method.clone(), &path);
        let request = if body.is_null() { request } else { request.json(&body) };
        let response = request.send().await.expect("a response");
        let status = response.status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{method} {path}");
        assert_eq!(response.headers()["retry-after"], "1", "{method} {path}");
        let problem: Value = response.json().await.expect("a problem");
        assert_eq!(problem["code"], "busy", "{method} {path}");
    }
    held.rollback().await.expect("released");
    assert_eq!(bed.count(sum).await, before);
    services.stop().await;
    bed.finish().await;
}

/// Users, two deliverers, two relays and a replay work on the same deliveries for some seconds. Prints the seed.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_manual_actions_always_finish() {
    let bed = Bed::new().await;
    let mut services = Services::start(&bed).await;
    services.relay(&bed, &[]);
    services.deliverer(&bed, &[]);
    let receiver = Receiver::start(|webhook| {
        let status = match (webhook.attempt + webhook.body.len()) % 4 {
            0 => 500,
            1 => 422,
            _ => 204,
        };
        Reply { delay: Duration::from_millis(15), ..Reply::from(status) }
    })
    .await;
    let producer = Producer::new(services.api).await;
    for (path, ordered) in [("/a", false), ("/b", true)] {
        producer
            .endpoint(json!({"url": receiver.url(path), "ordered": ordered, "max_attempts": 3,
                             "retry_schedule": [0]}))
            .await;
    }
    let mut deliveries = Vec::new();
    let mut events = Vec::new();
    for number in 0..40 {
        let event = text(&producer.publish("a", json!({"n": "x".repeat(number % 7)})).await["event_id"]);
        deliveries.extend(producer.deliveries(&event).await.iter().map(|delivery| text(&delivery["id"])));
        events.push(event);
    }
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let until = std::time::Instant::now() + Duration::from_secs(4);
    let people: Vec<_> = (0..6)
        .map(|person| {
            let (producer, deliveries, events) = (producer.clone(), deliveries.clone(), events.clone());
            let mut state = seed.wrapping_add(person);
            tokio::spawn(async move {
                while std::time::Instant::now() < until {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let draw = (state >> 33) as usize;
                    let delivery = &deliveries[draw / 16 % deliveries.len()];
                    let (path, body) = match draw % 16 {
                        0..=5 => (format!("/v1/deliveries/{delivery}/retry"), json!({})),
                        6..=10 => (format!("/v1/deliveries/{delivery}/cancel"), json!({})),
                        11 => (format!("/v1/events/{}/expunge", events[draw / 16 % 8]), json!({})),
                        12 => ("/v1/replays".to_owned(), json!({"mode": "replay"})),
                        _ => (
                            "/v1/replays".to_owned(),
                            json!({"mode": "redrive", "statuses": ["dead_letter", "cancelled", "failed"]}),
                        ),
                    };
                    let (status, answer) = producer.call(Method::POST, &path, Some(&body)).await;
                    let is_expected = status.is_success() || [409, 503].contains(&status.as_u16());
                    assert!(is_expected, "{path}: {status} {answer}");
                    if path == "/v1/replays" && status.is_success() && draw.is_multiple_of(2) {
                        let path = format!("/v1/replays/{}/cancel", text(&answer["id"]));
                        producer.call(Method::POST, &path, Some(&json!({}))).await;
                    }
                }
            })
        })
        .collect();
    for person in people {
        person.await.expect("a person");
    }
    bed.without_stillness("everything to be closed", async || {
        let open = "select (select count(*) from deliveries where completed_at is null)
                           + (select count(*) from replays where completed_at is null)";
        (bed.count(open).await == 0).then_some(())
    })
    .await;
    services.stop().await;
    for (what, query) in [
        ("is closed and leased", "lease_id is not null"),
        ("is closed and due", "next_retry_at is not null"),
        ("is no dead letter and says so", "(dead_at is not null) <> (status = 'dead_letter')"),
        (
            "has an attempt that is not counted",
            "attempt_count <> (select count(*) from delivery_attempts a where a.delivery_id = deliveries.id)",
        ),
        (
            "has succeeded without a successful attempt",
            "status = 'succeeded' and not exists (select from delivery_attempts a
             where a.delivery_id = deliveries.id and a.outcome = 'succeeded')",
        ),
    ] {
        let query = format!("select count(*) from deliveries where {query}");
        assert_eq!(bed.count(&query).await, 0, "a delivery {what}; seed {seed}");
    }
    bed.finish().await;
}
