//! Endpoints that keep the order of acceptance: one delivery at a time, and none overtakes another.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Received, Receiver};
use crate::support::service::{Process, Services};
use crate::support::{Bed, eventually, within};

/// Posts events with the numbers in `range`, one after another.
async fn publish(producer: &Producer, range: std::ops::Range<u64>) {
    for number in range {
        let key = format!("key-{number}");
        producer.publish_until_accepted(&key, "counter.changed", &json!({"number": number})).await;
    }
}

fn number(webhook: &Received) -> u64 {
    webhook.json()["data"]["number"].as_u64().expect("a number")
}

/// The numbers in the order of their first arrival.
fn first_arrivals(webhooks: &[Received]) -> Vec<u64> {
    let mut seen = HashSet::new();
    webhooks.iter().map(number).filter(|number| seen.insert(*number)).collect()
}

async fn all_closed(bed: &Bed, count: i64) {
    within(crate::support::DEADLINE * 2, "the end of all deliveries", async || {
        let closed = bed.count("select count(*) from deliveries where completed_at is not null").await;
        (closed == count).then_some(())
    })
    .await;
}

async fn ordered_endpoint(producer: &Producer, settings: Value) -> Value {
    let mut settings = settings;
    settings["ordered"] = json!(true);
    producer.endpoint(settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_delivery_holds_up_later_ones_until_it_succeeds() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    // The third one fails twice.
    let receiver =
        Receiver::start(|webhook| if number(webhook) == 3 && webhook.attempt < 3 { 500 } else { 204 }).await;
    let producer = Producer::new(services.api).await;
    ordered_endpoint(&producer, json!({"url": receiver.url("/"), "retry_schedule": [1]})).await;
    publish(&producer, 0..30).await;
    all_closed(&bed, 30).await;
    let webhooks = receiver.received();
    let numbers: Vec<_> = webhooks.iter().map(number).collect();
    let expected: Vec<_> = (0..3).chain([3, 3, 3]).chain(4..30).collect();
    assert_eq!(numbers, expected);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_and_cancelled_deliveries_do_not_hold_up_the_next_one() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| match number(webhook) {
        0 => 422,
        1 => 500,
        _ => 204,
    })
    .await;
    let producer = Producer::new(services.api).await;
    ordered_endpoint(
        &producer,
        json!({"url": receiver.url("/"), "retry_schedule": [3600], "permanent_statuses": [422]}),
    )
    .await;
    publish(&producer, 0..3).await;
    let of = async |status: &str| {
        let page = producer.get(&format!("/v1/deliveries?status={status}")).await;
        page["data"].as_array().expect("a page").first().cloned()
    };
    let failed = eventually("the second one to fail", async || of("failed").await).await;
    assert!(failed["waiting_for"].is_null());
    let waiting = of("pending").await.expect("the third one");
    assert_eq!(waiting["waiting_for"], "order");
    assert_eq!(receiver.count(), 2);
    producer.post(&format!("/v1/deliveries/{}/cancel", text(&failed["id"])), &json!({})).await;
    all_closed(&bed, 3).await;
    assert_eq!(receiver.received().iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_while_replicas_are_killed_one_after_another() {
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let receiver =
        Receiver::start(
            |webhook| if webhook.attempt == 1 && number(webhook).is_multiple_of(7) { 503 } else { 204 },
        )
        .await;
    let producer = Producer::new(api.listen).await;
    ordered_endpoint(&producer, json!({"url": receiver.url("/"), "retry_schedule": [0], "max_attempts": 20}))
        .await;
    let mut relays = [Process::start(&bed, "relay", &[]), Process::start(&bed, "relay", &[])];
    let mut deliverers = [Process::start(&bed, "deliverer", &[]), Process::start(&bed, "deliverer", &[])];
    for (round, range) in [0..40, 40..80, 80..120, 120..160].into_iter().enumerate() {
        publish(&producer, range).await;
        relays[round % 2].kill();
        deliverers[round % 2].kill();
        if round == 2 {
            bed.flush().await;
        }
        relays[round % 2] = Process::start(&bed, "relay", &[]);
        deliverers[round % 2] = Process::start(&bed, "deliverer", &[]);
    }
    all_closed(&bed, 160).await;
    let webhooks = receiver.received();
    assert_eq!(first_arrivals(&webhooks), (0..160).collect::<Vec<_>>());
    assert_eq!(bed.count("select count(*) from deliveries where status = 'succeeded'").await, 160);
    // Webhooks may be sent again after a kill, but never after the next one was sent.
    assert!(webhooks.is_sorted_by_key(number), "{:?}", webhooks.iter().map(number).collect::<Vec<_>>());
    bed.finish().await;
}
