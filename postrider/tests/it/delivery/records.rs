//! Attempts in flight are recorded once and correctly, whatever is locked, cut, dropped or killed at the same time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Process;
use crate::support::stack::{Stack, own_servers};
use crate::support::wire::Wire;
use crate::support::{Bed, OLD_PARTITIONS, eventually, within};

/// Starts a receiver that delays its response to events of the type `slow`.
async fn slow_receiver(delay: Duration) -> Receiver {
    Receiver::start(move |webhook| {
        let is_slow = webhook.json()["type"] == "slow";
        Reply { delay: if is_slow { delay } else { Duration::ZERO }, ..Reply::from(200) }
    })
    .await
}

async fn outcomes(producer: &Producer, delivery: &Value) -> Vec<String> {
    producer.attempts(delivery).await.iter().map(|attempt| text(&attempt["outcome"])).collect()
}

/// Cuts the sessions that show that deliverers are alive.
const CUT: &str = "select count(pg_terminate_backend(l.pid)) from pg_locks l
    where l.locktype = 'advisory' and l.granted and l.mode = 'ExclusiveLock'
      and l.database = (select oid from pg_database where datname = current_database())
      and (select query from pg_stat_activity a where a.pid = l.pid) not like '%inbox%'";

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_lease_row_is_lost_is_sent_again() {
    let bed = Bed::new().await;
    let (api, _relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    api.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let mut dying = Process::start(&bed, "deliverer", &[("FAILPOINTS", "deliverer.after_send=1*return")]);
    let accepted = producer.publish("a", json!({})).await;
    dying.died().await;
    bed.sql().await.batch_execute("delete from leases").await.expect("lost");
    let _deliverer = Process::start(&bed, "deliverer", &[]);
    let delivery = producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    assert_eq!(outcomes(&producer, &delivery).await, ["unknown", "succeeded"]);
    bed.finish().await;
}

/// An event of 50 days ago with an open delivery.
const OLD_EVENT: &str = "
    insert into events (id, application_id, event_type, payload, idempotency_key)
        select first_id(now() - interval '50 days'), id, 'slow', '{}', 'old' from applications;
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts)
        select first_id(now() - interval '50 days'), application_id, first_id(now() - interval '50 days'), id,
               'slow', 5
        from endpoints limit 1;
    insert into outbox (delivery_id, endpoint_id, application_id)
        select first_id(now() - interval '50 days'), endpoint_id, application_id from deliveries;";

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_cannot_be_stored_holds_up_no_other_record() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    sql.batch_execute(OLD_PARTITIONS).await.expect("old partitions");
    let keep = [("POSTRIDER_RETENTION_DAYS", "3650")];
    let (api, _relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &keep));
    let deliverer = Process::start(&bed, "deliverer", &[]);
    api.ready().await;
    let receiver = slow_receiver(Duration::from_secs(2)).await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    sql.batch_execute(OLD_EVENT).await.expect("an old event");
    receiver.wait_for(1).await;
    sql.batch_execute(
        "do $$ begin
             execute format('drop table %I', (select name from partitions
                 where parent = 'delivery_attempts' order by ends_at limit 1));
         end $$",
    )
    .await
    .expect("there is no partition for its attempts any more");
    let old = "select count(*) from deliveries where event_type = 'slow' and status = 'succeeded'";
    eventually("the old delivery to end", async || (bed.count(old).await == 1).then_some(())).await;
    for number in 0..5 {
        let accepted = producer.publish("quick", json!({ "n": number })).await;
        producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    }
    assert!(deliverer.terminate().await, "it exits 0");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_delivery_holds_up_no_other_record() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = slow_receiver(Duration::from_millis(1500)).await;
    let producer = Producer::new(stack.api.listen).await;
    for path in ["/a", "/b"] {
        producer.endpoint(json!({"url": receiver.url(path), "rate_limit": null})).await;
    }
    let slow = text(&producer.publish("slow", json!({})).await["event_id"]);
    receiver.wait_for(2).await;
    let mut blocker = bed.sql().await;
    let held = blocker.transaction().await.expect("a transaction");
    held.execute("select from deliveries for update", &[]).await.expect("locked");
    for number in 0..20 {
        producer.publish("quick", json!({ "n": number })).await;
    }
    bed.all_succeeded(40).await;
    // The health says that two records have been waiting.
    eventually("the deliverer to say what it waits for", async || {
        let (status, answer) = stack.deliverer.health("ready").await?;
        let reason = answer["parts"]["deliverer_records"]["reason"].as_str()?;
        (status == 503 && reason.contains("2 attempts")).then_some(())
    })
    .await;
    // On a slow machine this is longer than the leases: the sweep must not have touched what is locked.
    assert_eq!(bed.count("select count(*) from deliveries where status = 'in_progress'").await, 2);
    held.rollback().await.expect("released");
    bed.all_succeeded(42).await;
    stack.deliverer.ready().await;
    for delivery in producer.deliveries(&slow).await {
        assert_eq!(outcomes(&producer, &delivery).await, ["succeeded"]);
    }
    assert_eq!(receiver.count(), 42, "nothing was sent twice");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_that_loses_its_session_keeps_its_claims() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = slow_receiver(Duration::from_secs(6)).await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "max_attempts": 1})).await;
    let event = text(&producer.publish("slow", json!({})).await["event_id"]);
    receiver.wait_for(1).await;
    for _ in 0..3 {
        eventually("a session to cut", async || (bed.count(CUT).await > 0).then_some(())).await;
    }
    let delivery = producer.delivery_in(&event, "succeeded").await;
    assert_eq!(outcomes(&producer, &delivery).await, ["succeeded"]);
    assert_eq!(receiver.count(), 1);
    bed.finish().await;
}

/// A deliverer is cut off from PostgreSQL for longer than its leases last, while the other services continue.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_success_of_a_last_attempt_undoes_its_dead_letter() {
    let bed = Bed::new().await;
    let wire = Wire::to(&bed).await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    let through = format!("{} application_name=cut", wire.url);
    let deliverer = Process::start(&bed, "deliverer", &[("DATABASE_URL", &through)]);
    for process in [&api, &relay, &deliverer] {
        process.ready().await;
    }
    let receiver = slow_receiver(Duration::from_secs(1)).await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "max_attempts": 1, "timeout_seconds": 2})).await;
    let event = text(&producer.publish("slow", json!({})).await["event_id"]);
    receiver.wait_for(1).await;
    wire.close();
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and application_name = 'cut'";
    assert!(bed.count(cut).await > 0);
    let delivery = producer.delivery_in(&event, "dead_letter").await;
    assert_eq!(outcomes(&producer, &delivery).await, ["unknown"]);
    wire.open();
    let delivery = producer.delivery_in(&event, "succeeded").await;
    assert_eq!(outcomes(&producer, &delivery).await, ["succeeded"]);
    assert_eq!((&delivery["last_error"], &delivery["last_response_status"]), (&Value::Null, &json!(200)));
    assert_eq!(receiver.count(), 1);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_claim_whose_deliverer_dies_leaves_an_attempt() {
    let bed = Bed::new().await;
    let mut stack = Stack::start(&bed).await;
    let receiver = slow_receiver(Duration::from_secs(30)).await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let event = text(&producer.publish("slow", json!({})).await["event_id"]);
    receiver.wait_for(1).await;
    let delivery = producer.deliveries(&event).await.remove(0);
    let path = format!("/v1/deliveries/{}/cancel", text(&delivery["id"]));
    let (status, _) = producer.call(Method::POST, &path, Some(&json!({}))).await;
    assert!(status.is_success());
    stack.deliverer.kill();
    let attempts = eventually("the attempt", async || {
        let attempts = producer.attempts(&delivery).await;
        (!attempts.is_empty()).then_some(attempts)
    })
    .await;
    assert_eq!(attempts[0]["outcome"], "unknown");
    let began: DateTime<Utc> = text(&attempts[0]["created_at"]).parse().expect("a time");
    let delivery = producer.deliveries(&event).await.remove(0);
    assert_eq!((&delivery["status"], &delivery["attempt_count"]), (&json!("cancelled"), &json!(1)));
    let completed: DateTime<Utc> = text(&delivery["completed_at"]).parse().expect("a time");
    assert!(began < completed, "it began with the claim, before the delivery was cancelled");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_do_not_wait_for_a_locked_endpoint() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.path == "/gone" { 410 } else { 200 }).await;
    let producer = Producer::new(stack.api.listen).await;
    let gone = producer.endpoint(json!({"url": receiver.url("/gone"), "event_types": ["gone"]})).await;
    producer.endpoint(json!({"url": receiver.url("/"), "event_types": ["quick"]})).await;
    let mut blocker = bed.sql().await;
    let held = blocker.transaction().await.expect("a transaction");
    held.execute("select from endpoints for update", &[]).await.expect("locked");
    let waits = "select count(*) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock' and query like '%endpoints%'";
    let event = text(&producer.publish("gone", json!({})).await["event_id"]);
    producer.delivery_in(&event, "dead_letter").await;
    eventually("a session that waits for the endpoint", async || (bed.count(waits).await > 0).then_some(()))
        .await;
    for number in 0..10 {
        producer.publish("quick", json!({ "n": number })).await;
    }
    bed.all_succeeded(10).await;
    // It is still remembered.
    held.rollback().await.expect("released");
    let path = producer.endpoint_path(&gone, "");
    eventually("the endpoint to be disabled", async || {
        (producer.get(&path).await["is_active"] == false).then_some(())
    })
    .await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_recorded_after_an_outage_has_the_time_it_was_sent() {
    let (_directory, mut servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let stack = Stack::start(&bed).await;
    let receiver = slow_receiver(Duration::from_secs(1)).await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let event = text(&producer.publish("slow", json!({})).await["event_id"]);
    receiver.wait_for(1).await;
    let unwritten = "select (pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn())::bigint";
    eventually("the claim on disk", async || (bed.count(unwritten).await <= 0).then_some(())).await;
    servers.stop_postgres(postrider_embedded::Stop::Immediate).await.expect("stopped");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let back = Utc::now();
    servers.start_postgres().await.expect("started");
    bed.all_succeeded(1).await;
    let delivery = producer.delivery_in(&event, "succeeded").await;
    let attempts = producer.attempts(&delivery).await;
    assert_eq!(attempts.len(), 1);
    let began: DateTime<Utc> = text(&attempts[0]["created_at"]).parse().expect("a time");
    assert!(began < back, "{began} is not before {back}");
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_deliveries_of_an_interrupted_expunge_are_cancelled() {
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.endpoint(json!({"url": receiver.url("/ordered"), "ordered": true})).await;
    let event = text(&producer.publish("a", json!({})).await["event_id"]);
    let next = text(&producer.publish("a", json!({})).await["event_id"]);
    // Everything that its first step has done.
    let id: uuid::Uuid = event.parse().expect("an id");
    let mark = "update events set payload = '{}', expunged_at = now() where id = $1";
    bed.sql().await.execute(mark, &[&id]).await.expect("marked");
    let (_relay, _deliverer) = (Process::start(&bed, "relay", &[]), Process::start(&bed, "deliverer", &[]));
    let deliveries = within(Duration::from_secs(45), "both to be closed", async || {
        let deliveries = producer.deliveries(&event).await;
        deliveries.iter().all(|delivery| delivery["completed_at"].is_string()).then_some(deliveries)
    })
    .await;
    for delivery in deliveries {
        assert_eq!(delivery["status"], "cancelled");
        assert_eq!(delivery["last_error"], "the payload of the event was removed on request");
        assert_eq!(delivery["attempt_count"], 0, "nothing was sent");
    }
    for delivery in producer.deliveries(&next).await {
        let path = format!("/v1/deliveries/{}", text(&delivery["id"]));
        eventually("the next event", async || {
            (producer.get(&path).await["status"] == "succeeded").then_some(())
        })
        .await;
    }
    bed.finish().await;
}
