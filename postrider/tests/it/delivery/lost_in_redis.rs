//! Everything that Redis loses is found, even at a busy endpoint.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use serde_json::json;

use crate::support::producer::Producer;
use crate::support::receiver::Receiver;
use crate::support::stack::Stack;
use crate::support::{Bed, within};

/// Makes everything that waits look as if it had waited for a long time.
async fn age(bed: &Bed) {
    let age = "update deliveries set next_retry_at = now() - interval '5 minutes' where completed_at is null";
    bed.sql().await.execute(age, &[]).await.expect("aged");
}

async fn keys(bed: &Bed, redis: &mut MultiplexedConnection, pattern: &str) -> Vec<Vec<u8>> {
    let pattern = format!("{{{}:0}}:{pattern}", bed.name);
    redis::cmd("KEYS").arg(pattern).query_async(redis).await.expect("keys")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_lost_at_a_busy_endpoint_is_found_by_the_audit() {
    const EVENTS: usize = 30;
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": 1})).await;
    for n in 0..EVENTS {
        producer.publish("user.created", json!({"n": n})).await;
    }
    let mut redis = bed.redis().await;
    let queue = within(Duration::from_secs(30), "a queue", async || {
        let queue = keys(&bed, &mut redis, "q:*").await.pop()?;
        let length: usize = redis::cmd("LLEN").arg(&queue).query_async(&mut redis).await.expect("a length");
        (length > EVENTS / 2).then_some(queue)
    })
    .await;
    // The last id, which would be sent last.
    let lost: Vec<u8> = redis::cmd("RPOP").arg(&queue).query_async(&mut redis).await.expect("an id");
    age(&bed).await;
    within(Duration::from_secs(60), "the missing id to be found", async || {
        let position: Option<usize> =
            redis::cmd("LPOS").arg(&queue).arg(&lost).query_async(&mut redis).await.expect("Redis");
        position
    })
    .await;
    assert!(receiver.count() < EVENTS, "the endpoint was busy all the time");
    drop(stack);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_redis_evicts_are_recreated() {
    const EVENTS: usize = 20;
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": 5})).await;
    let mut redis = bed.redis().await;
    for (round, pattern) in
        ["ring", "a:*", "blocked", "deadlines", "q:*", "r:*", "e:*", "[abdeqrsw]*"].iter().enumerate()
    {
        for n in 0..EVENTS {
            producer.publish("user.created", json!({"n": n})).await;
        }
        receiver.wait_for(round * EVENTS + EVENTS / 4).await;
        for key in keys(&bed, &mut redis, pattern).await {
            if !key.ends_with(b":epoch") {
                let _: () = redis::cmd("DEL").arg(key).query_async(&mut redis).await.expect("deleted");
            }
        }
        age(&bed).await;
        bed.all_succeeded(((round + 1) * EVENTS) as i64).await;
    }
    assert_eq!(receiver.count(), 8 * EVENTS, "nothing was sent twice");
    drop(stack);
    bed.finish().await;
}
