//! Manual actions on deliveries: retry and cancel.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::producer::{Producer, sent, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

fn path(delivery: &Value, action: &str) -> String {
    format!("/v1/deliveries/{}/{action}", text(&delivery["id"]))
}

async fn current(producer: &Producer, delivery: &Value) -> Value {
    producer.get(&format!("/v1/deliveries/{}", text(&delivery["id"]))).await
}

async fn empty_outbox(bed: &Bed) {
    eventually("an empty outbox", async || {
        (bed.count("select count(*) from outbox").await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_concurrent_retries_of_a_scheduled_delivery_make_one_attempt() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 200 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [2]})).await;
    let event = text(&producer.publish("user.created", json!({})).await["event_id"]);
    let failed = producer.delivery_in(&event, "failed").await;

    let retries: Vec<_> = (0..50)
        .map(|_| {
            let (producer, path) = (producer.clone(), path(&failed, "retry"));
            tokio::spawn(async move {
                sent(|| producer.request(reqwest::Method::POST, &path)).await.status().as_u16()
            })
        })
        .collect();
    for retry in retries {
        let status = retry.await.expect("a task");
        assert!([202, 409].contains(&status), "{status}");
    }
    // A late retry has reopened it. The other rows, including the scheduled one, find nothing to do.
    let delivery = producer.delivery_in(&event, "succeeded").await;
    empty_outbox(&bed).await;
    let attempts = producer.attempts(&producer.delivery_in(&event, "succeeded").await).await;
    assert_eq!(attempts.len(), receiver.count());
    assert!(attempts.len() >= 2 && delivery["completed_at"].is_string());
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_retry_is_sent_at_once_and_the_schedule_continues_from_there() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt < 3 { 500 } else { 200 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [3600, 1]})).await;
    let event = text(&producer.publish("user.created", json!({})).await["event_id"]);
    let failed = producer.delivery_in(&event, "failed").await;
    let retried = producer.post(&path(&failed, "retry"), &json!({})).await;
    assert_eq!((&retried["status"], &retried["max_attempts"]), (&json!("failed"), &json!(10)));
    let delivered = producer.delivery_in(&event, "succeeded").await;
    assert_eq!((&delivered["attempt_count"], &delivered["max_attempts"]), (&json!(3), &json!(10)));
    services.stop().await;
    assert_eq!(receiver.count(), 3);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_delivery_is_reopened_with_one_more_attempt() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 2 { 422 } else { 200 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "max_attempts": 1})).await;
    let event = text(&producer.publish("user.created", json!({"n": 1})).await["event_id"]);
    for (status, attempts) in [("succeeded", 1), ("dead_letter", 2), ("succeeded", 3)] {
        let delivery = producer.delivery_in(&event, status).await;
        let count = json!(attempts);
        assert_eq!(delivery["attempt_count"], count);
        assert_eq!(producer.attempts(&delivery).await.len(), attempts);
        if attempts < 3 {
            let opened = producer.post(&path(&delivery, "retry"), &json!({})).await;
            assert_eq!(opened["max_attempts"], attempts + 1);
        }
    }
    let webhooks = receiver.received();
    assert!(webhooks.iter().all(|webhook| webhook.id() == event && webhook.body == webhooks[0].body));
    services.stop().await;
    assert_eq!(receiver.count(), 3);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_in_flight_can_be_cancelled_but_not_retried() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| {
        let delay = if webhook.attempt == 1 { Duration::from_secs(2) } else { Duration::ZERO };
        Reply { delay, ..Reply::from(503) }
    })
    .await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [0]})).await;
    let event = text(&producer.publish("user.created", json!({})).await["event_id"]);
    receiver.wait_for(1).await;
    let delivery = producer.delivery_in(&event, "in_progress").await;
    let (status, problem) = producer.refused(&path(&delivery, "retry"), &json!({})).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (409, Some("delivery_in_progress")));

    let cancelled = producer.post(&path(&delivery, "cancel"), &json!({})).await;
    assert_eq!((&cancelled["status"], &cancelled["next_retry_at"]), (&json!("cancelled"), &Value::Null));
    let attempts = eventually("the attempt that was in flight", async || {
        Some(producer.attempts(&delivery).await).filter(|attempts| !attempts.is_empty())
    })
    .await;
    assert_eq!((&attempts[0]["outcome"], &attempts[0]["response_status"]), (&json!("failed"), &json!(503)));
    assert_eq!(current(&producer, &delivery).await["status"], "cancelled");
    let (status, problem) = producer.refused(&path(&delivery, "cancel"), &json!({})).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (409, Some("delivery_closed")));
    empty_outbox(&bed).await;

    // A retry after the cancellation gives one more attempt.
    producer.post(&path(&delivery, "retry"), &json!({})).await;
    let dead = producer.delivery_in(&event, "dead_letter").await;
    assert_eq!(dead["attempt_count"], 2);
    services.stop().await;
    assert_eq!(receiver.count(), 2);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_delivery_is_not_retried() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|_| 500).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [1]})).await;
    let event = text(&producer.publish("user.created", json!({})).await["event_id"]);
    let failed = producer.delivery_in(&event, "failed").await;
    producer.post(&path(&failed, "cancel"), &json!({})).await;
    empty_outbox(&bed).await;
    services.stop().await;
    assert_eq!(receiver.count(), 1);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_for_a_disabled_endpoint_and_is_refused_for_a_deleted_one() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 422 } else { 200 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "max_attempts": 1})).await;
    let event = text(&producer.publish("user.created", json!({})).await["event_id"]);
    let dead = producer.delivery_in(&event, "dead_letter").await;
    let sql = bed.sql().await;
    sql.batch_execute("update endpoints set is_active = false").await.expect("disabled");
    let opened = producer.post(&path(&dead, "retry"), &json!({})).await;
    assert_eq!((&opened["status"], &opened["waiting_for"]), (&json!("pending"), &json!("disabled")));
    eventually("a parked row", async || {
        (bed.count("select count(*) from outbox where parked").await == 1).then_some(())
    })
    .await;
    producer.post(&path(&dead, "cancel"), &json!({})).await;
    sql.batch_execute("update endpoints set deleted_at = now()").await.expect("deleted");
    let (status, problem) = producer.refused(&path(&dead, "retry"), &json!({})).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (409, Some("endpoint_deleted")));
    services.stop().await;
    assert_eq!(receiver.count(), 1);
    bed.finish().await;
}
