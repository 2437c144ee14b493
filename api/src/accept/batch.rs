//! Group commit: while one batch of events is being stored, the next one gathers. An idle system adds no delay, and a
//! slow statement holds up nobody, because others run in parallel.
//!
//! A submitted event is stored or refused even if its producer disconnects.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_domain::event::{Accepted, NewEvent, Producer};
use postrider_runtime::health::Health;
use postrider_runtime::supervise::Supervisor;
use postrider_store::Store;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::accept::error::AcceptError;
use crate::accept::load::rest_with;
use crate::accept::queue::{AcceptQueue, Batch, Occupancy, OutcomeSender};
use crate::accept::storing::{Context, sized, store_all};
use crate::auth::party::Party;
use crate::metric;

/// How long a batch gathers while it waits for the statement before it. Running statements one after the other makes
/// batches fewer and fuller, which costs a seventh less CPU per event than running them in parallel. A statement that
/// takes longer than this waits for the disk, for a lock or for much data, and the next one starts in parallel.
const PATIENCE: Duration = Duration::from_millis(10);

/// The outcome for one event.
pub(crate) type Outcome = Result<Accepted, AcceptError>;

/// Stores the events of requests in batches.
#[derive(Clone)]
pub(crate) struct Batcher(Arc<Shared>);

struct Shared {
    store: Store,
    health: Health,
    queue: AcceptQueue,
    /// Held by the writer that gathers the next batch. Without it, a second writer would wait behind the first, reach
    /// its timeout, and run in parallel with only a few events.
    gathering: Mutex<()>,
    /// Held while a batch is being stored.
    turn: Mutex<()>,
}

impl Shared {
    fn context(&self, in_order: bool) -> Context<'_> {
        Context { store: &self.store, health: &self.health, fanout: self.queue.fanout(), in_order }
    }
}

/// The tasks that store events. Wait for them at shutdown.
pub(crate) struct Writers {
    tasks: Vec<AbortOnDropHandle<()>>,
    batcher: Batcher,
}

impl Batcher {
    /// Starts the writer tasks: `writers` for any one application, and one more, so that one is always free for the
    /// others. Up to `queue_bytes` bytes of events may wait for them.
    pub(crate) fn start(
        store: &Store,
        health: &Health,
        supervisor: &Supervisor,
        writers: usize,
        queue_bytes: usize,
    ) -> (Self, Writers) {
        let batcher = Self::new(store, health, AcceptQueue::new(queue_bytes, writers));
        let write = || supervisor.spawn("api writer", write_until_closed(batcher.0.clone()));
        let tasks = std::iter::repeat_with(write).take(writers + 1).collect();
        (batcher.clone(), Writers { tasks, batcher })
    }

    fn new(store: &Store, health: &Health, queue: AcceptQueue) -> Self {
        Self(Arc::new(Shared {
            store: store.clone(),
            health: health.clone(),
            queue,
            gathering: Mutex::default(),
            turn: Mutex::default(),
        }))
    }

    /// Submits all events of one producer, or none of them. The future returns one outcome for each, in the same
    /// order, together with the event, or `None` if a defect of this program prevented it. Dropping the future does
    /// not withdraw the events.
    ///
    /// # Errors
    /// If no event was submitted.
    pub(crate) fn submit_all(
        &self,
        party: Party,
        events: Vec<NewEvent>,
    ) -> Result<impl Future<Output = Vec<Option<(NewEvent, Outcome)>>> + use<>, AcceptError> {
        let answers = self.0.queue.push(party, events)?;
        Ok(async {
            let mut outcomes = Vec::with_capacity(answers.len());
            for answer in answers {
                outcomes.push(answer.await.ok());
            }
            outcomes
        })
    }
}

impl Batcher {
    /// Stores events at once and in order, ahead of everything in the queue.
    pub(crate) async fn store_in_order(&self, events: Vec<NewEvent>) -> Vec<Option<(NewEvent, Outcome)>> {
        let mut outcomes: Vec<_> = events.iter().map(|_| None).collect();
        let parts = sized(events, &self.0.queue);
        store_all(self.0.context(true), parts, |event, index: usize, outcome| {
            outcomes[index] = Some((event, outcome));
        })
        .await;
        outcomes
    }

    /// Returns how many deliveries an event of a producer is expected to make.
    pub(crate) fn expect_of(&self, producer: &Producer) -> usize {
        self.0.queue.expect_of(producer)
    }
}

impl Writers {
    /// Closes the queue and stores the events that still wait.
    pub(crate) async fn drain(self) {
        self.batcher.0.queue.close();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

async fn write_until_closed(shared: Arc<Shared>) {
    while shared.queue.arrival().await {
        let gathering = shared.gathering.lock().await;
        let turn = tokio::time::timeout(PATIENCE, shared.turn.lock()).await.ok();
        let Batch { events, occupancy } = shared.queue.take();
        drop(gathering);
        if events.is_empty() {
            continue;
        }
        // A heavy batch takes long, so the next one need not wait for it.
        let _turn = turn.filter(|_| !occupancy.is_heavy);
        metrics::histogram!(metric::ACCEPT_BATCH_SIZE).record(events.len() as f64);
        let began = Instant::now();
        let span = tracing::error_span!("accept batch", events = events.len());
        // In a task of its own, so that a panic costs this batch and not the writer.
        let storing = tokio::spawn({
            let shared = shared.clone();
            async move {
                let items = events.into_iter().map(|waiting| (waiting.event, waiting.answer)).unzip();
                store_all(shared.context(false), vec![items], |event, answer: OutcomeSender, outcome| {
                    answer.send(event, outcome);
                })
                .await;
            }
            .instrument(span)
        });
        if let Err(error) = storing.await {
            tracing::error!(%error, "storing a batch of events panicked");
        }
        let under_way = UnderWay { shared: shared.clone(), occupancy };
        // During shutdown there is no time to rest.
        if under_way.occupancy.is_heavy && !shared.queue.is_closed() {
            rest_with(under_way, began.elapsed());
        }
    }
}

/// Occupies what a batch occupies until it is dropped.
struct UnderWay {
    shared: Arc<Shared>,
    occupancy: Occupancy,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.queue.done(&self.occupancy);
    }
}

#[cfg(test)]
impl Batcher {
    /// Returns a batcher without writers. Every submitted event gets `outcome`.
    pub(crate) fn with_outcome(store: &Store, outcome: Outcome) -> Self {
        let batcher = Self::new(store, &Health::default(), AcceptQueue::new(0, 1));
        let shared = batcher.0.clone();
        tokio::spawn(async move {
            while shared.queue.arrival().await {
                let Batch { events, occupancy } = shared.queue.take();
                events.into_iter().for_each(|waiting| waiting.answer.send(waiting.event, outcome.clone()));
                shared.queue.done(&occupancy);
            }
        });
        batcher
    }
}
