//! Runs two of each service and kills one every second while producers post. Now and then Redis loses its memory.
//! Everything acknowledged arrives.
//!
//! A seed decides what is killed. It is printed, and `POSTRIDER_TEST_SEED` sets it. The scheduling of the services is
//! not seeded, so a seed repeats the kills but not every race.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Received, Receiver, Reply};
use crate::support::service::Process;
use crate::support::{Bed, eventually};

const EVENTS: usize = 10_000;
const ENDPOINTS: usize = 4;
const PRODUCERS: usize = 16;

/// No event is posted before its time: the last one after forty seconds, and about as many kills.
const PACE: Duration = Duration::from_millis(4);

/// The roles by position; a kill picks one position.
const ROLES: [&str; 6] = ["api", "api", "relay", "relay", "deliverer", "deliverer"];

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_event_arrives_while_a_process_is_killed_every_second() {
    let seed = seed();
    eprintln!("POSTRIDER_TEST_SEED={seed}");
    let bed = Bed::new().await;
    let receiver = Receiver::start(answer).await;
    let services = ROLES.map(|role| Process::start(&bed, role, &[]));
    for service in &services {
        service.ready().await;
    }
    let producer = Producer::new(services[0].listen).await;
    let producers = [producer.clone(), Producer { api: services[1].listen, ..producer.clone() }];
    for number in 0..ENDPOINTS {
        producer.endpoint(endpoint(&receiver, number)).await;
    }

    let calm = CancellationToken::new();
    let random = StdRng::seed_from_u64(seed);
    let wrecking = tokio::spawn(kill_and_flush(bed.clone(), services, random, calm.clone()));
    let accepted = publish_all(Arc::new(producers)).await;
    assert_eq!(accepted.len(), EVENTS, "each key made one event");
    calm.cancel();
    let _services = wrecking.await.expect("services that end only when they are killed");
    bed.all_succeeded(EVENTS as i64).await;
    // The last kills may have left duplicate ids, for which there is nothing to do.
    eventually("an empty outbox and an empty queue", async || {
        let is_empty = bed.count("select count(*) from outbox").await == 0 && bed.is_queue_empty().await;
        is_empty.then_some(())
    })
    .await;
    check(&bed, &receiver, &accepted).await;
    bed.finish().await;
}

fn endpoint(receiver: &Receiver, number: usize) -> Value {
    json!({
        "url": receiver.url(&format!("/{number}")),
        "event_types": [format!("kind_{number}.*")],
        "rate_limit": null,
        // Each death of a deliverer may cost an attempt.
        "max_attempts": 20,
        "retry_schedule": [1],
    })
}

/// Slow enough that something is always in flight, with an occasional first failure.
fn answer(webhook: &Received) -> Reply {
    let status = if webhook.attempt == 1 && webhook.id().ends_with('0') { 500 } else { 200 };
    Reply { delay: Duration::from_millis(100), ..Reply::from(status) }
}

/// Posts everything and returns the ids of all acknowledged events.
async fn publish_all(producers: Arc<[Producer; 2]>) -> HashSet<String> {
    let began = Instant::now();
    let publish_share = |first: usize| {
        let producers = producers.clone();
        async move {
            let mut accepted = Vec::new();
            for number in (first..EVENTS).step_by(PRODUCERS) {
                sleep_until(began + PACE * u32::try_from(number).expect("a small number")).await;
                accepted.push(publish(&producers, number).await);
            }
            accepted
        }
    };
    let shares: Vec<_> = (0..PRODUCERS).map(|first| tokio::spawn(publish_share(first))).collect();
    let mut accepted = HashSet::with_capacity(EVENTS);
    for share in shares {
        accepted.extend(share.await.expect("a producer whose every event is accepted"));
    }
    accepted
}

/// Tries both APIs in turn until one accepts.
async fn publish(producers: &[Producer; 2], number: usize) -> String {
    let (key, data) = (format!("key-{number}"), json!({ "n": number }));
    let event_type = format!("kind_{}.happened", number % ENDPOINTS);
    let began = Instant::now();
    for producer in producers.iter().cycle().skip(number) {
        if let Ok(response) = producer.try_publish(&key, &event_type, &data).await {
            let status = response.status();
            let may_be = [StatusCode::ACCEPTED, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
            assert!(may_be, "event {number} got status {status}");
            if status == StatusCode::ACCEPTED
                && let Ok(answer) = response.json::<Value>().await
            {
                assert_eq!(answer["deliveries_queued"], 1, "event {number}");
                return text(&answer["event_id"]);
            }
        }
        assert!(began.elapsed() < crate::support::DEADLINE, "event {number} is not accepted");
        sleep(Duration::from_millis(20)).await;
    }
    unreachable!("the cycle has no end")
}

/// Every second kills a service and restarts it at once, or flushes Redis, until `calm`.
async fn kill_and_flush(
    bed: Bed,
    mut services: [Process; 6],
    mut random: StdRng,
    calm: CancellationToken,
) -> [Process; 6] {
    while calm.run_until_cancelled(sleep(Duration::from_secs(1))).await.is_some() {
        for (service, role) in services.iter_mut().zip(ROLES) {
            assert!(!service.has_died(), "a {role} has stopped by itself");
        }
        let is_flush = random.random_ratio(1, 8);
        let victim = random.random_range(0..services.len());
        if is_flush {
            bed.flush().await;
        } else {
            services[victim].kill();
            services[victim] = Process::start_at(&bed, ROLES[victim], services[victim].listen, &[]);
        }
    }
    services
}

/// What is stored, acknowledged and received must agree.
async fn check(bed: &Bed, receiver: &Receiver, accepted: &HashSet<String>) {
    assert_eq!(bed.count("select count(*) from events").await, EVENTS as i64);
    assert_eq!(bed.count("select count(*) from deliveries").await, EVENTS as i64);

    let received = receiver.received();
    let arrived: HashSet<_> = received.iter().map(|webhook| webhook.id().to_owned()).collect();
    assert_eq!(arrived.symmetric_difference(accepted).count(), 0, "exactly the acknowledged events arrived");
    let attempts = "select count(*) from delivery_attempts";
    let known = bed.count(&format!("{attempts} where outcome <> 'unknown'")).await;
    let unknown = bed.unknown_attempts().await;
    let counted = received.len() as i64;
    eprintln!("{known} attempts of known outcome, {unknown} unknown, {counted} received");
    assert!(counted >= known, "{known} attempts are known, but {counted} were received");
    assert!(counted <= known + unknown, "{counted} were received, but only {known} + {unknown} are recorded");
}

fn seed() -> u64 {
    match std::env::var("POSTRIDER_TEST_SEED") {
        Ok(seed) => seed.parse().expect("POSTRIDER_TEST_SEED is a number"),
        Err(_) => rand::random(),
    }
}
