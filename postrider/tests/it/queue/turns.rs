//! Endpoints are served in turn, within their limits, and no id is lost or duplicated.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use postrider_domain::endpoint::{BreakerChange, Feedback, Limits};
use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId};
use postrider_queue::{Group, Queue, QueueError, RESERVATION, Reservation};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

use super::setup::*;
use crate::support::{Bed, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_endpoint_gets_no_more_than_its_share() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let (busy, quiet, other) = (known(&bed).await, known(&bed).await, known(&bed).await);
    push(&queue, busy, unlimited(), &ids(900)).await;
    push(&queue, quiet, unlimited(), &ids(30)).await;
    push(&queue, other, unlimited(), &ids(30)).await;

    for _ in 0..3 {
        let shares = shares(&reserve(&queue, 30).await.expect("ids").reservations);
        assert_eq!(shares, HashMap::from([(busy, 10), (quiet, 10), (other, 10)]));
    }
    // Alone it gets everything.
    assert_eq!(shares(&reserve(&queue, 30).await.expect("ids").reservations), HashMap::from([(busy, 30)]));
    // A newcomer does not wait behind the hundreds of ids that are already waiting.
    push(&queue, quiet, unlimited(), &ids(1)).await;
    let served = shares(&reserve(&queue, 4).await.expect("ids").reservations);
    assert_eq!(served.get(&quiet), Some(&1), "{served:?}");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_an_endpoint_are_reserved_in_push_order() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let (endpoint, ids) = (known(&bed).await, ids(100));
    for chunk in ids.chunks(7) {
        push(&queue, endpoint, unlimited(), chunk).await;
    }
    let mut reserved = Vec::new();
    while reserved.len() < ids.len() {
        reserved
            .extend(reserve(&queue, 9).await.expect("ids").reservations.iter().map(|one| one.delivery_id));
    }
    assert_eq!(reserved, ids);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_together_never_exceed_the_concurrency_limit() {
    const LIMIT: usize = 5;
    const COUNT: usize = 400;
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let endpoint = known(&bed).await;
    push(
        &queue,
        endpoint,
        Limits { concurrency: LIMIT as i32, rate: None, is_breaker_open: false },
        &ids(COUNT),
    )
    .await;

    // Raised after a reservation is made and lowered before it ends, so it is never higher than the number in Redis.
    let in_flight = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let consumers: Vec<_> = (0..8)
        .map(|_| {
            let (queue, in_flight, most, done) =
                (queue.clone(), in_flight.clone(), most.clone(), done.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while done.load(Ordering::SeqCst) < COUNT {
                    let mut held = reserve(&queue, 3).await.expect("ids").reservations;
                    most.fetch_max(
                        in_flight.fetch_add(held.len(), Ordering::SeqCst) + held.len(),
                        Ordering::SeqCst,
                    );
                    while let Some(reservation) = held.pop() {
                        tokio::task::yield_now().await;
                        in_flight.fetch_sub(1, Ordering::SeqCst);
                        queue.acknowledge(ended(&[reservation])).await.expect("Redis");
                        seen.push(reservation.delivery_id);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                }
                seen
            })
        })
        .collect();
    let mut seen = HashSet::new();
    for consumer in consumers {
        for id in consumer.await.expect("a consumer") {
            assert!(seen.insert(id), "{id} was reserved twice");
        }
    }
    assert_eq!(seen.len(), COUNT);
    assert!((1..=LIMIT).contains(&most.load(Ordering::SeqCst)), "{most:?} at once");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_used_fully_and_not_exceeded() {
    const RATE: f64 = 50.0;
    /// A quarter of a second's worth can come at once after a pause.
    const BURST: f64 = 12.0;
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let endpoint = known(&bed).await;
    push(
        &queue,
        endpoint,
        Limits { concurrency: 1_000, rate: Some(50), is_breaker_open: false },
        &ids(1_000),
    )
    .await;

    // Each id was reserved between these two times.
    let mut reserved: Vec<(Instant, Instant)> = Vec::new();
    let started = Instant::now();
    let mut saturated: Option<(Instant, usize)> = None;
    while started.elapsed() < Duration::from_millis(3_500) {
        let before = Instant::now();
        let got = reserve(&queue, 64).await.expect("Redis");
        let after = Instant::now();
        queue.acknowledge(ended(&got.reservations)).await.expect("Redis");
        reserved.extend(got.reservations.iter().map(|_| (before, after)));
        if got.reservations.is_empty() {
            saturated.get_or_insert((before, reserved.len()));
            let wait = got.next_unblocked.expect("a blocked endpoint");
            assert!(wait <= Duration::from_millis(21), "its next is {wait:?} away");
            tokio::time::sleep(wait).await;
        }
    }
    // The burst is used up. From here on only the rate counts.
    let (since, first) = saturated.expect("the rate was reached");
    let seconds = since.elapsed().as_secs_f64();
    let count = (reserved.len() - first) as f64;
    assert!(count <= RATE * seconds * 1.05 + 1.0, "{count} in {seconds} s");
    assert!(count >= RATE * seconds * 0.9, "{count} in {seconds} s");
    for (first, (from, _)) in reserved.iter().enumerate() {
        for (last, (_, to)) in reserved.iter().enumerate().skip(first) {
            let (count, seconds) = ((last - first + 1) as f64, (*to - *from).as_secs_f64());
            assert!(count <= RATE * seconds + BURST + 1.0, "{count} in {seconds} s");
        }
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limited_endpoint_does_not_hold_up_another() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let (slow, fast) = (known(&bed).await, known(&bed).await);
    push(&queue, slow, Limits { concurrency: 100, rate: Some(1), is_breaker_open: false }, &ids(500)).await;
    push(&queue, fast, unlimited(), &ids(500)).await;
    let started = Instant::now();
    let mut served = HashMap::new();
    while served.get(&fast) != Some(&500) {
        // Waiting behind the slow endpoint would take 500 s.
        assert!(started.elapsed() < Duration::from_secs(250), "{served:?}");
        let reservations = reserve(&queue, 64).await.expect("Redis").reservations;
        for reservation in &reservations {
            *served.entry(reservation.endpoint_id).or_default() += 1;
        }
        queue.acknowledge(ended(&reservations)).await.expect("Redis");
    }
    let allowed = 1 + started.elapsed().as_secs();
    assert!(served.get(&slow).is_some_and(|&count: &u64| count <= allowed), "{served:?}");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_expires_unless_it_is_extended() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let (endpoint, ids) = (known(&bed).await, ids(2));
    push(&queue, endpoint, unlimited(), &ids).await;
    let reserved = reserve(&queue, 2).await.expect("ids").reservations;
    let started = Instant::now();
    let [kept, abandoned] = reserved[..] else { panic!("{reserved:?}") };

    let back = eventually("the abandoned id", async || {
        queue.extend(&[kept]).await.expect("Redis");
        reserve(&queue, 2).await.expect("Redis").reservations.pop()
    })
    .await;
    assert!(started.elapsed() >= RESERVATION - Duration::from_millis(100), "after {:?}", started.elapsed());
    assert_eq!(back.delivery_id, abandoned.delivery_id);
    assert_ne!(back, abandoned, "a reservation has a token of its own");

    // The previous holder is too late, both to extend and to end the reservation that followed.
    let held = reservations(&bed, endpoint).await;
    queue.extend(&[abandoned]).await.expect("Redis");
    queue.acknowledge(ended(&[abandoned])).await.expect("Redis");
    assert_eq!(reservations(&bed, endpoint).await, held);
    queue.acknowledge(ended(&[kept])).await.expect("Redis");
    let contents = queue.contents(&[endpoint]).await.expect("Redis");
    assert_eq!(contents, [HashSet::from([back.delivery_id])]);
    queue.acknowledge(ended(&[back])).await.expect("Redis");
    assert_eq!(queue.contents(&[endpoint]).await.expect("Redis"), [HashSet::new()]);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_names_another_epoch_queues_nothing() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let group =
        Group { endpoint_id: endpoint(), application_id: ACME, limits: unlimited(), deliveries: ids(3) };
    for epoch in [EPOCH - 1, EPOCH + 1, 0] {
        let refused = queue.push(epoch, std::slice::from_ref(&group)).await;
        assert!(matches!(refused, Err(QueueError::EpochChanged)), "{refused:?}");
    }
    assert_eq!(kinds(&bed).await, BTreeSet::from(["epoch".to_owned()]));

    bed.flush().await;
    let refused = queue.push(EPOCH, std::slice::from_ref(&group)).await;
    assert!(matches!(refused, Err(QueueError::EpochChanged)), "Redis has lost its memory: {refused:?}");
    assert_eq!(kinds(&bed).await, BTreeSet::new());
    assert!(reserve(&queue, 10).await.expect("Redis").reservations.is_empty());
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_takes_ids_up_to_its_window() {
    let mut bed = Bed::new().await;
    bed.source.set("POSTRIDER_QUEUE_WINDOW", "1200");
    let queue = queue(&bed).await;
    let (endpoint, ids) = (known(&bed).await, ids(5_000));
    assert_eq!(push(&queue, endpoint, unlimited(), &ids).await, 1_200);
    assert_eq!(push(&queue, endpoint, unlimited(), &ids[1_200..]).await, 0);
    assert_eq!(room(&queue, &[endpoint, self::endpoint()]).await, [0, 1_200]);

    let reserved = reserve(&queue, 100).await.expect("ids").reservations;
    assert_eq!(reserved.iter().map(|one| one.delivery_id).collect::<Vec<_>>(), ids[..100]);
    assert_eq!(room(&queue, &[endpoint]).await, [100]);
    assert_eq!(push(&queue, endpoint, unlimited(), &ids[1_200..]).await, 100);
    assert_eq!(queue.statistics().await.expect("Redis").waiting, 1_200);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_still_takes_a_few_ids_of_every_endpoint() {
    let mut bed = Bed::new().await;
    bed.source.set("POSTRIDER_QUEUE_CAPACITY", "100");
    let queue = queue(&bed).await;
    let (greedy, modest) = (known(&bed).await, known(&bed).await);
    // Eight ninths. The rest is for other applications.
    assert_eq!(push(&queue, greedy, unlimited(), &ids(500)).await, 88);
    assert_eq!(push(&queue, modest, unlimited(), &ids(500)).await, 8);
    assert_eq!(push(&queue, modest, unlimited(), &ids(500)).await, 0);
    assert_eq!(room(&queue, &[greedy, modest, endpoint()]).await, [0, 0, 8]);
    let shares = shares(&reserve(&queue, 10).await.expect("ids").reservations);
    assert_eq!(shares, HashMap::from([(greedy, 5), (modest, 5)]));
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_ids_leave_nothing_in_redis() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    for number in 0..20 {
        let limits = Limits {
            concurrency: 1 + number,
            rate: (number % 2 == 0).then_some(1_000_000),
            is_breaker_open: false,
        };
        push(&queue, endpoint(), limits, &ids(50)).await;
    }
    let mut left = 20 * 50;
    eventually("the end of all ids", async || {
        let reservations = reserve(&queue, 64).await.expect("Redis").reservations;
        queue.acknowledge(ended(&reservations)).await.expect("Redis");
        left -= reservations.len();
        (left == 0).then_some(())
    })
    .await;
    // Rate-limited endpoints may still be among the blocked ones until the next reserve finds them ready.
    eventually("the last blocked endpoint", async || {
        reserve(&queue, 1).await.expect("Redis");
        (queue.statistics().await.expect("Redis").blocked_endpoints == 0).then_some(())
    })
    .await;

    let left: BTreeSet<_> = ["clock", "epoch", "size", "wake", "e"].map(str::to_owned).into();
    assert!(kinds(&bed).await.is_subset(&left), "{:?}", kinds(&bed).await);
    let mut redis = bed.redis().await;
    let size: i64 = command("GET", &key(&bed, "size")).query_async(&mut redis).await.expect("a size");
    assert_eq!(size, 0);
    for hash in keys(&bed, "e:").await {
        let left: i64 = command("PTTL", &hash).query_async(&mut redis).await.expect("a time");
        assert!(left > 0, "the hash of an endpoint with nothing to do is kept for ever");
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_examines_a_bounded_number_of_endpoints_however_many_are_blocked() {
    const ENDPOINTS: usize = 10_000;
    /// 64 endpoints whose time has come, and 64 visits, with a dozen commands each.
    const MOST: usize = 1_600;
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let limits = Limits { concurrency: 10, rate: Some(1), is_breaker_open: false };
    let groups: Vec<_> = (0..ENDPOINTS)
        .map(|_| Group { endpoint_id: endpoint(), application_id: ACME, limits, deliveries: ids(3) })
        .collect();
    for groups in groups.chunks(500) {
        queue.push(EPOCH, groups).await.expect("Redis");
    }
    let mut served = HashSet::new();
    eventually("every endpoint's first id", async || {
        let reserved = reserve(&queue, 1_000).await.expect("Redis").reservations;
        served.extend(reserved.iter().map(|one| one.endpoint_id));
        // No reservation is left to expire, however long this takes.
        let done = reserved.into_iter().map(|one| (one, Feedback::None));
        queue.acknowledge(done).await.expect("Redis");
        (served.len() == ENDPOINTS).then_some(())
    })
    .await;

    let client = redis::Client::open(bed.source.get("REDIS_URL").expect("it was set")).expect("a URL");
    let mut monitor = client.get_async_monitor().await.expect("a monitor").into_on_message::<String>();
    for _ in 0..20 {
        reserve(&queue, 1_000).await.expect("Redis");
    }
    // Marks the end of what is counted.
    let end = Uuid::new_v4().to_string();
    let _: String = redis::cmd("ECHO").arg(&end).query_async(&mut bed.redis().await).await.expect("Redis");
    let mut commands = vec![0];
    while let Some(line) = monitor.next().await {
        if line.contains(&end) {
            break;
        }
        if line.contains("\"EVALSHA\"") && line.contains(&bed.name) {
            commands.push(0);
        } else if line.contains(" lua] ") && line.contains(&bed.name) {
            *commands.last_mut().expect("it is never empty") += 1;
        }
    }
    assert_eq!(commands.len(), 21, "{commands:?}");
    assert!(commands.iter().all(|&count| count <= MOST), "{commands:?}");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_doubles_with_success_and_halves_under_pressure() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let endpoint = endpoint();
    push(&queue, endpoint, Limits { concurrency: 10, rate: None, is_breaker_open: false }, &ids(500)).await;
    let round = async |feedback| {
        let reserved = reserve(&queue, 64).await.expect("ids").reservations;
        queue.acknowledge(with_feedback(&reserved, feedback)).await.expect("Redis");
        reserved.len()
    };
    let mut at_once = Vec::new();
    for _ in 0..6 {
        at_once.push(round(Feedback::Succeeded).await);
    }
    assert_eq!(at_once, [1, 2, 4, 8, 10, 10]);
    let slow = Feedback::Overloaded(Duration::from_secs(1));
    assert_eq!(
        [round(slow).await, round(slow).await, round(slow).await, round(slow).await, round(slow).await],
        [10, 5, 2, 1, 1]
    );
    assert_eq!([round(Feedback::Succeeded).await, round(Feedback::Succeeded).await], [1, 2]);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_endpoint_is_probed_and_its_first_success_closes_the_breaker() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let failing = known(&bed).await;
    push(&queue, failing, unlimited(), &ids(50)).await;
    let reserved = reserve(&queue, 10).await.expect("ids").reservations;
    let (few, rest) = reserved.split_at(2);
    let failed = Feedback::Failed(Duration::from_secs(11));
    assert_eq!(
        queue.acknowledge(with_feedback(few, failed)).await.expect("Redis"),
        [],
        "two failures are too few"
    );
    let opened = queue.acknowledge(with_feedback(&rest[..4], failed)).await.expect("Redis");
    let [BreakerChange::Opened { endpoint_id, probe_after, failing_for }] = opened[..] else {
        panic!("{opened:?}")
    };
    assert_eq!((endpoint_id, probe_after), (failing, Duration::from_secs(5)));
    assert!(failing_for >= Duration::from_secs(11));
    let late = queue.acknowledge(with_feedback(&rest[4..], failed)).await.expect("Redis");
    assert_eq!(late, [], "what was in flight says nothing new");

    let waiting = reserve(&queue, 10).await.expect("Redis");
    assert_eq!(waiting.reservations, []);
    assert!(waiting.next_unblocked.expect("its probe") <= Duration::from_secs(5));
    let probe =
        eventually("the probe", async || reserve(&queue, 10).await.expect("Redis").reservations.pop()).await;
    assert_eq!(reserve(&queue, 10).await.expect("Redis").reservations, [], "one probe at a time");
    let again = queue.acknowledge(with_feedback(&[probe], failed)).await.expect("Redis");
    assert!(
        matches!(again[..], [BreakerChange::Opened { probe_after, .. }] if probe_after == Duration::from_secs(10)),
        "{again:?}"
    );
    let probe =
        eventually("the next probe", async || reserve(&queue, 10).await.expect("Redis").reservations.pop())
            .await;
    let closed = queue.acknowledge(with_feedback(&[probe], Feedback::Succeeded)).await.expect("Redis");
    assert_eq!(closed, [BreakerChange::Closed { endpoint_id: failing }]);
    assert_eq!(reserve(&queue, 10).await.expect("Redis").reservations.len(), 2);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_redis_lost_opens_on_one_failure_and_closes_on_one_success() {
    let bed = Bed::new().await;
    let queue = queue(&bed).await;
    let limits = Limits { is_breaker_open: true, ..unlimited() };
    let (bad, good) = (endpoint(), endpoint());
    push(&queue, bad, limits, &ids(5)).await;
    push(&queue, good, limits, &ids(5)).await;
    let reserved = reserve(&queue, 10).await.expect("ids").reservations;
    assert_eq!(shares(&reserved), HashMap::from([(bad, 1), (good, 1)]), "one probe each");
    let done = reserved.into_iter().map(|one| match one.endpoint_id == bad {
        true => (one, Feedback::Failed(Duration::ZERO)),
        false => (one, Feedback::Succeeded),
    });
    let changes = queue.acknowledge(done).await.expect("Redis");
    assert_eq!(changes.len(), 2);
    assert!(changes.contains(&BreakerChange::Closed { endpoint_id: good }), "{changes:?}");
    bed.finish().await;
}

/// Makes random calls. After each call, every id is where a simple model says: waiting, reserved or gone.
#[tokio::test(flavor = "multi_thread")]
async fn no_sequence_of_calls_loses_or_duplicates_an_id() {
    let seed = std::env::var("POSTRIDER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    for round in 0..3 {
        let seed = seed.unwrap_or_else(rand::random);
        eprintln!("round {round}: POSTRIDER_TEST_SEED={seed}");
        let bed = Bed::new().await;
        Model::new(&bed, seed).await.run().await;
        bed.finish().await;
    }
}

struct Model<'a> {
    bed: &'a Bed,
    queue: Queue,
    random: StdRng,
    endpoints: Vec<(EndpointId, i32)>,
    waiting: BTreeMap<EndpointId, Vec<DeliveryId>>,
    reserved: Vec<Reservation>,
    ended: Vec<Reservation>,
    pushed: usize,
}

impl<'a> Model<'a> {
    async fn new(bed: &'a Bed, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut endpoints = Vec::new();
        for _ in 0..5 {
            endpoints.push((known(bed).await, random.random_range(1..8)));
        }
        Self {
            bed,
            queue: queue(bed).await,
            random,
            endpoints,
            waiting: BTreeMap::new(),
            reserved: Vec::new(),
            ended: Vec::new(),
            pushed: 0,
        }
    }

    async fn run(mut self) {
        for _ in 0..100 {
            match self.random.random_range(0..10) {
                0..3 => self.push().await,
                3..6 => self.reserve().await,
                6..8 => self.acknowledge().await,
                8 => self.queue.extend(&self.reserved).await.expect("Redis"),
                // Acknowledging twice, or too late, changes nothing.
                _ => {
                    self.queue.acknowledge(ended(&self.ended)).await.expect("Redis");
                }
            }
            self.check().await;
        }
        while !(self.reserved.is_empty() && self.waiting.values().all(Vec::is_empty)) {
            self.reserve().await;
            self.acknowledge().await;
            self.check().await;
        }
        assert_eq!(self.ended.len(), self.pushed);
    }

    async fn push(&mut self) {
        let mut groups = Vec::new();
        for (endpoint, concurrency) in &mut self.endpoints {
            if self.random.random_bool(0.5) {
                *concurrency = self.random.random_range(1..8);
                let deliveries = ids(self.random.random_range(0..20));
                let limits = Limits { concurrency: *concurrency, rate: None, is_breaker_open: false };
                groups.push(Group {
                    endpoint_id: *endpoint,
                    application_id: owner(*endpoint),
                    limits,
                    deliveries,
                });
            }
        }
        let accepted = self.queue.push(EPOCH, &groups).await.expect("Redis");
        for (group, accepted) in groups.into_iter().zip(accepted) {
            assert_eq!(accepted, group.deliveries.len());
            self.pushed += accepted;
            self.waiting.entry(group.endpoint_id).or_default().extend(group.deliveries);
        }
    }

    async fn reserve(&mut self) {
        let count = self.random.random_range(1..20);
        let reserved = reserve(&self.queue, count).await.expect("Redis").reservations;
        assert!(reserved.len() <= count);
        for reservation in &reserved {
            let waiting =
                self.waiting.get_mut(&reservation.endpoint_id).expect("an endpoint that was pushed to");
            assert_eq!(waiting.remove(0), reservation.delivery_id, "not the first that waits");
        }
        self.reserved.extend(reserved);
    }

    async fn acknowledge(&mut self) {
        let count = self.random.random_range(0..=self.reserved.len());
        let chosen = (0..self.reserved.len()).sample(&mut self.random, count);
        let chosen: Vec<_> = chosen.into_iter().map(|index| self.reserved[index]).collect();
        self.queue.acknowledge(ended(&chosen)).await.expect("Redis");
        self.reserved.retain(|reservation| !chosen.contains(reservation));
        self.ended.extend(chosen);
    }

    async fn check(&self) {
        let mut redis = self.bed.redis().await;
        let mut total = 0;
        let ring: Vec<Vec<u8>> = members(&mut redis, &key(self.bed, "ring")).await;
        for (endpoint, concurrency) in &self.endpoints {
            let expected = self.waiting.get(endpoint).cloned().unwrap_or_default();
            let held = self.reserved.iter().filter(|one| one.endpoint_id == *endpoint).count();
            let of =
                |kind: &str| [key(self.bed, kind), b":".to_vec(), endpoint.0.as_bytes().to_vec()].concat();
            let waiting: Vec<Vec<u8>> =
                command("LRANGE", &of("q")).arg(0).arg(-1).query_async(&mut redis).await.expect("ids");
            assert_eq!(waiting, expected.iter().map(|id| id.0.as_bytes().to_vec()).collect::<Vec<_>>());
            let reserved: usize = command("ZCARD", &of("r")).query_async(&mut redis).await.expect("a count");
            assert_eq!(reserved, held);
            if !waiting.is_empty() && held < *concurrency as usize {
                let application = owner(*endpoint).0.as_bytes().to_vec();
                let its_ring = [key(self.bed, "a:"), application.clone()].concat();
                let turns = members(&mut redis, &its_ring).await;
                assert!(
                    turns.contains(&endpoint.0.as_bytes().to_vec()),
                    "an endpoint that may be served has no turn"
                );
                assert!(ring.contains(&application), "an application that may be served has no turn");
            }
            total += waiting.len();
        }
        let size: Option<usize> =
            command("GET", &key(self.bed, "size")).query_async(&mut redis).await.expect("a size");
        assert_eq!(size.unwrap_or(0), total);
    }
}

/// Returns one of three applications.
fn owner(endpoint: EndpointId) -> ApplicationId {
    ApplicationId(Uuid::from_u128(endpoint.0.as_u128() % 3))
}
