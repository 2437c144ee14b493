//! A key of the queue holds data that no script can use: somebody tried something in `redis-cli`, or two programs share
//! a prefix.

use std::time::Duration;

use futures_util::future::join_all;
use postrider_domain::endpoint::{Feedback, Limits};
use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId};
use postrider_queue::{Allotment, Group, Queue, QueueConfig};
use redis::aio::MultiplexedConnection;
use serde_json::json;
use uuid::Uuid;

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::stack::Stack;
use crate::support::{Bed, eventually};

const EPOCH: i64 = 7;
const APPLICATION: ApplicationId = ApplicationId(Uuid::from_u128(1));
const ENDPOINT: EndpointId = EndpointId(Uuid::from_u128(2));

/// A kind of key, and what is done to it: `=` sets it to text, `list` makes it a list, and anything else is a field of
/// the hash that is set to text.
const DAMAGES: [(&str, &str); 19] = [
    ("q:", "="),
    ("r:", "="),
    ("e:", "="),
    ("a:", "="),
    ("ring", "="),
    ("blocked", "="),
    ("deadlines", "="),
    ("waiting", "="),
    ("wake", "="),
    ("size", "="),
    ("clock", "="),
    ("epoch", "="),
    ("size", "list"),
    ("clock", "list"),
    ("epoch", "list"),
    ("e:", "window"),
    ("e:", "tat"),
    ("e:", "probe_at"),
    ("waiting", "application"),
];

/// The full name of a kind of key.
fn key(base: &str, kind: &str) -> Vec<u8> {
    let id: &[u8] = match kind {
        "q:" | "r:" | "e:" => ENDPOINT.0.as_bytes(),
        "a:" => APPLICATION.0.as_bytes(),
        _ => &[],
    };
    [format!("{{{base}:0}}:{kind}").as_bytes(), id].concat()
}

async fn damage(redis: &mut MultiplexedConnection, base: &str, kind: &str, how: &str) {
    let key = key(base, kind);
    let mut pipe = redis::pipe();
    match how {
        "=" => pipe.set(key, "x"),
        "list" => pipe.del(&key).rpush(key, "x"),
        "application" => pipe.hset(key, APPLICATION.0.as_bytes(), "x"),
        field => pipe.hset(key, field, "x"),
    };
    let () = pipe.query_async(redis).await.expect("done");
}

/// What a relay does repeatedly: it installs the epoch if that is lost, and pushes.
async fn relay(queue: &Queue, id: DeliveryId) {
    let limits = Limits { concurrency: 10, rate: Some(100), is_breaker_open: false };
    let group = Group { endpoint_id: ENDPOINT, application_id: APPLICATION, limits, deliveries: vec![id] };
    let pushed = async {
        if queue.memory().await?.0 != Some(EPOCH) {
            queue.install_epoch(EPOCH).await?;
        }
        queue.push(EPOCH, &[group]).await
    };
    if let Err(error) = pushed.await {
        queue.forget_damage(&error).await;
    }
}

/// What a deliverer does repeatedly. Returns true if it got the id.
async fn deliverer(queue: &Queue, id: DeliveryId) -> bool {
    let taken = async {
        let reserved = queue.reserve(64, &Allotment { named: Vec::new(), others: 64 }).await?.reservations;
        queue.acknowledge(reserved.iter().map(|reservation| (*reservation, Feedback::None))).await?;
        Ok(reserved.iter().any(|reservation| reservation.delivery_id == id))
    };
    match taken.await {
        Ok(is_taken) => is_taken,
        Err(error) => {
            queue.forget_damage(&error).await;
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_recovers_from_any_damaged_key() {
    let bed = Bed::empty("").await;
    let repaired = DAMAGES.iter().enumerate().map(async |(number, (kind, how))| {
        let mut source = bed.source.clone();
        // A prefix that would match other keys if it were a pattern.
        let prefix = format!("{}:[{number}]*", bed.name);
        source.set("POSTRIDER_REDIS_PREFIX", prefix.clone());
        let config = source.read(QueueConfig::read).expect("the configuration");
        // Two processes, each of which notices by itself.
        let (of_relay, of_deliverer) =
            (Queue::new(&config).expect("a queue"), Queue::new(&config).expect("a queue"));
        relay(&of_relay, DeliveryId(Uuid::now_v7())).await;
        damage(&mut bed.redis().await, &prefix, kind, how).await;
        let id = DeliveryId(Uuid::now_v7());
        eventually(&format!("an id to pass despite {kind} {how}"), async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            relay(&of_relay, id).await;
            deliverer(&of_deliverer, id).await.then_some(())
        })
        .await;
    });
    join_all(repaired).await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_key_stops_no_tenant_for_long() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let mut redis = bed.redis().await;
    let owner = Producer::new(stack.api.listen).await;
    let endpoint = owner.endpoint(json!({"url": receiver.url("/")})).await;
    let other = Producer::new(stack.api.listen).await;
    other.endpoint(json!({"url": receiver.url("/other")})).await;
    let id = Uuid::parse_str(&text(&endpoint["id"])).expect("an id");
    let queue = [format!("{{{}:0}}:q:", bed.name).as_bytes(), id.as_bytes()].concat();
    let mut delivered = 0;
    for (key, value) in [(queue, "x"), (key(&bed.name, "clock"), "soon"), (key(&bed.name, "epoch"), "old")] {
        let () = redis::cmd("SET").arg(&key).arg(value).query_async(&mut redis).await.expect("set");
        for producer in [&owner, &other] {
            producer.publish("user.created", json!({})).await;
            delivered += 1;
        }
        bed.all_succeeded(delivered).await;
    }
    for process in [&stack.relay, &stack.deliverer] {
        process.ready().await;
    }
    bed.finish().await;
}
