//! Something locks a whole table, as `create index` and `vacuum full` do.

use std::time::Duration;

use postrider_store::{DatabaseConfig, Store, outbox};
use serde_json::json;

use crate::support::producer::Producer;
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Process;
use crate::support::stack::Stack;
use crate::support::{Bed, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_is_named_by_the_services_that_need_it() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let mut sql = bed.sql().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let all = [("api", &stack.api), ("relay", &stack.relay), ("deliverer", &stack.deliverer)];
    for (round, (table, mode, concerned)) in (1..).zip([
        ("leases", "access exclusive", &["relay", "deliverer"][..]),
        ("outbox", "share", &["api", "relay", "deliverer"]),
        ("deliveries", "share", &["api", "relay", "deliverer"]),
        ("endpoints", "access exclusive", &["api", "relay", "deliverer"]),
        ("applications", "access exclusive", &["api"]),
        ("idempotency_keys", "share", &["api"]),
    ]) {
        let held = sql.transaction().await.expect("a transaction");
        held.batch_execute(&format!("lock table {table} in {mode} mode")).await.expect("locked");
        for (role, process) in all.iter().filter(|(role, _)| concerned.contains(role)) {
            eventually(&format!("the {role} to name {table}"), async || {
                let (status, answer) = process.health("ready").await?;
                let reason = answer["parts"][format!("{role}_locks")]["reason"].as_str()?;
                (status == 503 && reason.contains(&format!("the table {table}"))).then_some(())
            })
            .await;
        }
        held.rollback().await.expect("unlocked");
        for (_, process) in &all {
            process.ready().await;
        }
        producer.publish_until_accepted(table, "user.created", &json!({})).await;
        bed.all_succeeded(round).await;
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_is_not_reported_as_a_busy_key() {
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let mut sql = bed.sql().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    for table in ["idempotency_keys", "events", "outbox"] {
        let held = sql.transaction().await.expect("a transaction");
        held.batch_execute(&format!("lock table {table} in share mode")).await.expect("locked");
        let response = producer.try_publish(table, "user.created", &json!({})).await.expect("a response");
        assert_eq!((response.status().as_u16(), response.headers().contains_key("retry-after")), (503, true));
        let problem: serde_json::Value = response.json().await.expect("a problem");
        assert_eq!(problem["code"], "busy", "{table}");
        let events: Vec<_> = (0..20)
            .map(|n| json!({"idempotency_key": format!("{table}-{n}"), "event_type": "user.created", "data": {}}))
            .collect();
        let (status, problem) = producer.refused("/v1/events/batch", &json!({ "events": events })).await;
        assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("busy")), "{table}");
        held.rollback().await.expect("unlocked");
        producer.publish_until_accepted(table, "user.created", &json!({})).await;
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_whose_claims_meet_a_lock_still_stops() {
    const ENDPOINTS: usize = 40;
    let mut bed = Bed::new().await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    api.ready().await;
    relay.ready().await;
    let producer = Producer::new(api.listen).await;
    for number in 0..ENDPOINTS {
        producer.endpoint(json!({"url": format!("http://127.0.0.1:9/{number}")})).await;
    }
    // Halving what it has reserved, down to single ids, takes ten minutes if each statement waits this long.
    let url = bed.source.get("DATABASE_URL").expect("it was set");
    bed.source.set("DATABASE_URL", format!("{url} options='-c lock_timeout=8s'"));
    let mut sql = bed.sql().await;
    let held = sql.transaction().await.expect("a transaction");
    held.batch_execute("lock table leases").await.expect("locked");
    producer.publish("user.created", json!({})).await;
    let queued = "select count(*) from outbox where not parked";
    eventually("the ids to be queued", async || {
        let is_due = bed.queue_holds(b":q:").await;
        (is_due && bed.count(queued).await == 0).then_some(())
    })
    .await;
    let deliverer = Process::start(&bed, "deliverer", &[]);
    let waiting = "select count(*) from pg_locks l join pg_stat_activity a using (pid)
                   where not l.granted and l.locktype = 'relation' and a.query like '-- deliveries.claim%'";
    eventually("a claim to wait", async || (bed.count(waiting).await > 0).then_some(())).await;
    assert!(deliverer.terminate().await, "it exits 0 while the table is locked");
    held.rollback().await.expect("unlocked");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_record_meets_a_lock_is_recorded_later_and_not_sent_again() {
    const ENDPOINTS: usize = 40;
    let bed = Bed::new().await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    let deliverer = Process::start(&bed, "deliverer", &[("POSTRIDER_DELIVERER_CONCURRENCY", "64")]);
    for process in [&api, &relay, &deliverer] {
        process.ready().await;
    }
    let receiver = Receiver::start(|_| Reply { delay: Duration::from_secs(2), ..Reply::from(200) }).await;
    let producer = Producer::new(api.listen).await;
    for number in 0..ENDPOINTS {
        producer.endpoint(json!({"url": receiver.url(&format!("/{number}"))})).await;
    }
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(ENDPOINTS).await;
    let mut sql = bed.sql().await;
    let held = sql.transaction().await.expect("a transaction");
    held.batch_execute("lock table delivery_attempts in share mode").await.expect("locked");
    eventually("the deliverer to say what it waits for", async || {
        let (_, answer) = deliverer.health("ready").await?;
        let reason = answer["parts"]["deliverer_locks"]["reason"].as_str()?;
        reason.contains("the table delivery_attempts").then_some(())
    })
    .await;
    held.rollback().await.expect("unlocked");
    bed.all_succeeded(ENDPOINTS as i64).await;
    assert_eq!(receiver.count(), ENDPOINTS, "nothing was sent twice");
    assert_eq!(bed.unknown_attempts().await, 0);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_that_meets_a_lock_reports_the_cause_and_not_its_effects() {
    let bed = Bed::new().await;
    let store = Store::new(&bed.source.read(DatabaseConfig::read).expect("a configuration"));
    let mut sql = bed.sql().await;
    let held = sql.transaction().await.expect("a transaction");
    held.batch_execute("lock table queue_epoch").await.expect("locked");
    let mut client = store.relaxed().await.expect("a session");
    match outbox::take(&mut client, 10, None).await {
        Ok(_) => panic!("it is locked"),
        Err(error) => assert!(error.is_contention(), "{error}"),
    }
    held.rollback().await.expect("unlocked");
    bed.finish().await;
}
