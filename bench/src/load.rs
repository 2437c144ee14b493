//! Posts events according to a load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::ledger::Nanos;
use crate::plan::Load;
use crate::producer::Producer;

/// Events per batch request, which is the API's maximum.
const BATCH: usize = 1_000;
/// Range of pauses between single events, in milliseconds. Longer than any work that follows a delivery.
const IDLE_PAUSE: std::ops::Range<u64> = 40..80;
/// Interval between checks whether an event has arrived. Its time of arrival is recorded when it arrives.
const POLL: Duration = Duration::from_millis(1);

/// Posts until stopped or until all events are posted, then waits until each has a response. `warm_up` is how long a
/// burst waits.
pub(crate) async fn run(producer: Arc<Producer>, load: Load, warm_up: Duration) {
    match load {
        Load::Closed { connections, events } => closed(producer, connections, events).await,
        Load::Open { rate, connections, events } => open(producer, rate, connections, events).await,
        Load::OneByOne { events } => one_by_one(&producer, events).await,
        Load::Batches { events, connections } => {
            if producer.stop.run_until_cancelled(tokio::time::sleep(warm_up)).await.is_some() {
                batches(producer, events, connections).await;
            }
        }
    }
}

/// Counts down the events that may still be posted, across all connections.
struct Budget(std::sync::atomic::AtomicU64);

impl Budget {
    fn new(events: Option<u64>) -> Arc<Self> {
        Arc::new(Self(events.unwrap_or(u64::MAX).into()))
    }

    /// Takes up to `most` events; returns 0 when none is left.
    fn take(&self, most: u64) -> u64 {
        use std::sync::atomic::Ordering::Relaxed;
        let before = self.0.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(most)));
        before.map_or(0, |before| before.min(most))
    }
}

async fn closed(producer: Arc<Producer>, connections: usize, events: Option<u64>) {
    let budget = Budget::new(events);
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (producer, budget) = (producer.clone(), budget.clone());
        tasks.spawn(async move {
            let mut connection = producer.connection();
            while !producer.stop.is_cancelled() && budget.take(1) == 1 {
                let now = producer.ledger.now();
                if producer.publish(&mut connection, now).await.is_none() {
                    return;
                }
            }
        });
    }
    tasks.join_all().await;
}

/// Runs an open loop. Every event has an intended time, and its latency counts from there. So if late responses keep an
/// event waiting for a connection, that wait is part of its latency.
async fn open(producer: Arc<Producer>, rate: u64, connections: usize, events: Option<u64>) {
    let (sender, due) = mpsc::unbounded_channel();
    let due = Arc::new(Mutex::new(due));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (producer, due) = (producer.clone(), due.clone());
        tasks.spawn(async move {
            let mut connection = producer.connection();
            loop {
                let next = due.lock().await.recv().await;
                let Some(intended) = next else { return };
                if producer.publish(&mut connection, intended).await.is_none() {
                    return;
                }
            }
        });
    }
    // Tokio's clock ticks once a millisecond. A thread that sleeps wakes up ten times more exactly.
    let pacing = std::thread::spawn(move || pace(&producer, rate, events, &sender));
    tasks.join_all().await;
    let _ = pacing.join();
}

fn pace(producer: &Producer, rate: u64, events: Option<u64>, sender: &mpsc::UnboundedSender<Nanos>) {
    let (start, start_nanos) = (Instant::now(), producer.ledger.now());
    for number in 0..events.unwrap_or(u64::MAX) {
        let offset = Duration::from_nanos((u128::from(number) * 1_000_000_000 / u128::from(rate)) as u64);
        if let Some(wait) = offset.checked_sub(start.elapsed()) {
            std::thread::sleep(wait);
        }
        let intended = start_nanos + offset.as_nanos() as Nanos;
        if producer.stop.is_cancelled() || sender.send(intended).is_err() {
            return;
        }
    }
}

async fn one_by_one(producer: &Producer, events: u64) {
    let mut connection = producer.connection();
    for _ in 0..events {
        let pause = Duration::from_millis(rand::rng().random_range(IDLE_PAUSE));
        if producer.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        let now = producer.ledger.now();
        let Some(number) = producer.publish(&mut connection, now).await else { return };
        while !producer.ledger.is_taken(number, 0) && !producer.stop.is_cancelled() {
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn batches(producer: Arc<Producer>, events: u64, connections: usize) {
    let budget = Budget::new(Some(events));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (producer, budget) = (producer.clone(), budget.clone());
        tasks.spawn(async move {
            let mut connection = producer.connection();
            loop {
                let count = budget.take(BATCH as u64) as usize;
                if count == 0 || producer.stop.is_cancelled() {
                    return;
                }
                if !producer.publish_batch(&mut connection, count).await {
                    return;
                }
            }
        });
    }
    tasks.join_all().await;
}
