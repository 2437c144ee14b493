//! What Redis loses or gets wrong is repaired, at the latest by the next push.

use std::time::Duration;

use postrider_domain::endpoint::{Feedback, Limits};
use postrider_domain::ids::EndpointId;
use postrider_queue::{Queue, RESERVATION};

use super::setup::*;
use crate::support::{Bed, within};

const LIMITED: Limits = Limits { concurrency: 10, rate: Some(10), is_breaker_open: false };

/// Reserves and acknowledges everything that can be taken now.
async fn drain(queue: &Queue, endpoint: EndpointId) -> usize {
    let mut taken = 0;
    loop {
        let reservations = reserve(queue, 64).await.expect("Redis").reservations;
        taken += reservations.iter().filter(|one| one.endpoint_id == endpoint).count();
        queue.acknowledge(ended(&reservations)).await.expect("Redis");
        if reservations.is_empty() {
            return taken;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_missing_from_the_rings_rejoins_at_the_next_push() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let (endpoint, limited) = (known(&bed).await, known(&bed).await);
    let mut redis = bed.redis().await;
    let rings = [key(&bed, "ring"), [key(&bed, "a:"), ACME.0.as_bytes().to_vec()].concat()];
    for lost in [&rings[..1], &rings[1..], &rings[..]] {
        push(&queue, endpoint, unlimited(), &ids(5)).await;
        for key in lost {
            let _: () = command("DEL", key).query_async(&mut redis).await.expect("Redis");
        }
        assert_eq!(drain(&queue, endpoint).await, 0);
        assert_eq!(push(&queue, endpoint, unlimited(), &[]).await, 0);
        assert_eq!(drain(&queue, endpoint).await, 5);
    }

    push(&queue, limited, LIMITED, &ids(5)).await;
    assert_eq!(drain(&queue, limited).await, 2, "its burst");
    let _: () = command("DEL", &key(&bed, "blocked")).query_async(&mut redis).await.expect("Redis");
    push(&queue, limited, LIMITED, &[]).await;
    within(Duration::from_secs(5), "the rest", async || (drain(&queue, limited).await > 0).then_some(()))
        .await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_without_a_deadline_is_returned_after_the_next_push() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let endpoint = known(&bed).await;
    push(&queue, endpoint, unlimited(), &ids(3)).await;
    assert_eq!(reserve(&queue, 3).await.expect("ids").reservations.len(), 3);
    let mut redis = bed.redis().await;
    let _: () = command("DEL", &key(&bed, "deadlines")).query_async(&mut redis).await.expect("Redis");
    push(&queue, endpoint, unlimited(), &[]).await;
    within(RESERVATION * 3, "the abandoned ids", async || (drain(&queue, endpoint).await == 3).then_some(()))
        .await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_limits_were_lost_gets_one_exchange_at_a_time() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let endpoint = known(&bed).await;
    push(&queue, endpoint, unlimited(), &ids(50)).await;
    let hash = [key(&bed, "e:"), endpoint.0.as_bytes().to_vec()].concat();
    let _: () = command("DEL", &hash).query_async(&mut bed.redis().await).await.expect("Redis");
    assert_eq!(drain(&queue, endpoint).await, 1);
    push(&queue, endpoint, Limits { rate: None, ..LIMITED }, &[]).await;
    within(Duration::from_secs(5), "the rest", async || (drain(&queue, endpoint).await > 10).then_some(()))
        .await;
    bed.finish().await;
}

/// Moves every stored time one hour ahead, as if Redis's clock had been set back by an hour.
async fn set_the_clock_back(bed: &Bed, endpoint: EndpointId) {
    const SHIFT: &str = "
        local base, endpoint = KEYS[1], ARGV[1]
        local function shift(key, by)
            local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
            for at = 1, #members, 2 do redis.call('ZINCRBY', key, by, members[at]) end
        end
        shift(base .. ':blocked', 3600000000)
        shift(base .. ':deadlines', 3600000)
        shift(base .. ':r:' .. endpoint, 3600000)
        for field, by in pairs({ tat = 3600000000, probe_at = 3600000, failing_since = 3600000 }) do
            if redis.call('HEXISTS', base .. ':e:' .. endpoint, field) == 1 then
                redis.call('HINCRBY', base .. ':e:' .. endpoint, field, by)
            end
        end
        redis.call('INCRBY', base .. ':clock', 3600000000)";
    let mut shift = redis::cmd("EVAL");
    shift.arg(SHIFT).arg(1).arg(format!("{{{}:0}}", bed.name)).arg(endpoint.0.as_bytes());
    let () = shift.query_async(&mut bed.redis().await).await.expect("shifted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_does_not_hold_up_rate_limited_endpoints() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let endpoint = known(&bed).await;
    push(&queue, endpoint, LIMITED, &ids(20)).await;
    assert_eq!(drain(&queue, endpoint).await, 2);
    set_the_clock_back(&bed, endpoint).await;
    let wait = reserve(&queue, 10).await.expect("Redis").next_unblocked.expect("it waits for its rate");
    assert!(wait <= Duration::from_millis(300), "{wait:?}");
    let mut taken = 0;
    within(Duration::from_secs(10), "the rest at its rate", async || {
        taken += drain(&queue, endpoint).await;
        (taken == 18).then_some(())
    })
    .await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_does_not_keep_abandoned_reservations() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let endpoint = known(&bed).await;
    push(&queue, endpoint, unlimited(), &ids(3)).await;
    assert_eq!(reserve(&queue, 3).await.expect("ids").reservations.len(), 3);
    set_the_clock_back(&bed, endpoint).await;
    within(RESERVATION * 3, "the abandoned ids", async || (drain(&queue, endpoint).await == 3).then_some(()))
        .await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_delays_a_probe_by_at_most_its_backoff() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let endpoint = known(&bed).await;
    push(&queue, endpoint, unlimited(), &ids(10)).await;
    let reserved = reserve(&queue, 4).await.expect("ids").reservations;
    let opened = queue
        .acknowledge(with_feedback(&reserved, Feedback::Failed(Duration::from_secs(11))))
        .await
        .expect("Redis");
    assert_eq!(opened.len(), 1);
    assert_eq!(drain(&queue, endpoint).await, 0, "it waits for its probe");
    set_the_clock_back(&bed, endpoint).await;
    let wait = reserve(&queue, 10).await.expect("Redis").next_unblocked.expect("it waits for its probe");
    assert!(wait <= Duration::from_secs(5), "{wait:?}");
    bed.finish().await;
}
