//! Group commit: while one batch of events is being stored, the next one gathers. An idle system adds no delay, and a
//! slow statement holds up nobody, because others run in parallel.
//!
//! A submitted event is stored or refused even if its producer disconnects.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_domain::event::{Accepted, NewEvent, Producer};
use postrider_runtime::failpoint;
use postrider_runtime::health::Health;
use postrider_runtime::supervise::Supervisor;
use postrider_store::accept::accept;
use postrider_store::{Store, StoreError};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::POSTGRESQL;
use crate::accept::error::{AcceptError, InvalidEvent};
use crate::accept::load::{Load, MAX_BATCH_DELIVERIES, rest_with};
use crate::accept::queue::{AcceptQueue, Batch, Occupancy, OutcomeSender};
use crate::auth::party::Party;
use crate::metric;

/// How long a batch gathers while it waits for the statement before it. Running statements one after the other makes
/// batches fewer and fuller, which costs a seventh less CPU per event than running them in parallel. A statement that
/// takes longer than this waits for the disk, for a lock or for much data, and the next one starts in parallel.
const PATIENCE: Duration = Duration::from_millis(10);
/// How often a single event, or a batch of one producer, is tried when a lock blocks it.
const TRIES: u32 = 3;
/// After this many producers in a row were blocked by a lock, the rest of the batch is refused, because the lock
/// would block it too.
const MOST_BUSY: u32 = 3;
/// The pause between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(20);

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
        store_all(&self.0, parts, true, |event, index: usize, outcome| {
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
                store_all(&shared, vec![items], false, |event, answer: OutcomeSender, outcome| {
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

/// Stores events in order and calls `tell` with each event, its companion value and its outcome. If one event causes
/// a failure, the part is split until that event is alone.
///
/// With `in_order`, an event that was not stored also prevents the later events of its producer from being stored.
async fn store_all<T>(
    shared: &Shared,
    mut parts: Vec<Part<T>>,
    in_order: bool,
    mut tell: impl FnMut(NewEvent, T, Outcome),
) {
    let fanout = shared.queue.fanout();
    // `pop` takes from the end.
    parts.reverse();
    // Producers whose later events must get the same outcome.
    let mut held: HashMap<Producer, Outcome> = HashMap::new();
    let mut busy_in_a_row = 0;
    while let Some((mut events, mut answers)) = parts.pop() {
        let refusal = |event: &NewEvent| {
            let is_refused = || fanout.is_refused(event).then_some(Err(AcceptError::TooCostly));
            held.get(&event.producer).cloned().or_else(is_refused)
        };
        if events.iter().any(|event| refusal(event).is_some()) {
            let part = std::mem::take(&mut events).into_iter().zip(std::mem::take(&mut answers));
            for (event, answer) in part {
                match refusal(&event) {
                    Some(outcome) => tell(event, answer, outcome),
                    None => {
                        events.push(event);
                        answers.push(answer);
                    }
                }
            }
            if events.is_empty() {
                continue;
            }
        }
        match store_part(&shared.store, &events, in_order).await {
            Ok(accepted) => {
                shared.health.up(POSTGRESQL);
                busy_in_a_row = 0;
                for ((event, answer), accepted) in events.into_iter().zip(answers).zip(accepted) {
                    if let Accepted::Stored { cost, duplicate: false, .. } = accepted {
                        fanout.learn(&event, cost);
                    }
                    if in_order && matches!(accepted, Accepted::SchemaChanged(_)) {
                        held.insert(event.producer.clone(), Ok(accepted.clone()));
                    }
                    tell(event, answer, Ok(accepted));
                }
            }
            // Split by producer, so that the others no longer wait for the one to blame.
            Err(error) if (error.is_timeout() || is_busy(&error)) && !is_of_one(&events) => {
                if error.is_timeout() {
                    for event in &events {
                        fanout.suspect(event);
                    }
                }
                parts.extend(by_producer(events.into_iter().zip(answers)).into_iter().rev());
            }
            Err(error)
                if events.len() > 1
                    && (error.is_data_error() || error.is_contention_for_key() || error.is_timeout()) =>
            {
                let middle = events.len() / 2;
                let second = (events.split_off(middle), answers.split_off(middle));
                parts.push(second);
                parts.push((events, answers));
            }
            Err(error) => {
                let reason = reason_for(&error);
                if reason == AcceptError::Unavailable {
                    shared.health.down(POSTGRESQL, error);
                }
                for (event, answer) in events.into_iter().zip(answers) {
                    if reason == AcceptError::TooCostly {
                        fanout.refuse(&event);
                    }
                    if in_order && reason.is_retryable() {
                        held.insert(event.producer.clone(), Err(reason.clone()));
                    }
                    tell(event, answer, Err(reason.clone()));
                }
                if reason == AcceptError::Busy {
                    busy_in_a_row += 1;
                }
                if busy_in_a_row == MOST_BUSY {
                    let left =
                        parts.drain(..).rev().flat_map(|(events, answers)| events.into_iter().zip(answers));
                    left.for_each(|(event, answer)| tell(event, answer, Err(reason.clone())));
                }
            }
        }
    }
}

fn is_of_one(events: &[NewEvent]) -> bool {
    events.iter().all(|event| event.producer == events[0].producer)
}

/// Returns true if the statement waited for a lock other than that of one event's idempotency key.
fn is_busy(error: &StoreError) -> bool {
    error.is_contention() && !error.is_contention_for_key()
}

async fn store_part(store: &Store, events: &[NewEvent], in_order: bool) -> Result<Vec<Accepted>, StoreError> {
    // True if the caller will not split this part any further.
    let is_whole = |error: &StoreError| events.len() == 1 || is_busy(error) && is_of_one(events);
    let mut tries = TRIES;
    loop {
        let began = Instant::now();
        failpoint::die_at("api.before_commit");
        let result = accept(store, events, in_order).await;
        if result.is_ok() {
            failpoint::die_at("api.after_commit");
            metrics::histogram!(metric::ACCEPT_SECONDS).record(began.elapsed().as_secs_f64());
        }
        tries -= 1;
        match result {
            Err(error) if tries > 0 && error.is_contention() && is_whole(&error) => {
                tokio::time::sleep(RETRY_DELAY).await
            }
            result => return result,
        }
    }
}

/// The events for one statement, and a companion value for each.
type Part<T> = (Vec<NewEvent>, Vec<T>);

/// Splits events into parts that are each expected to make no more deliveries than one statement may. Keeps the
/// order, and pairs each event with its index.
fn sized(events: Vec<NewEvent>, queue: &AcceptQueue) -> Vec<Part<usize>> {
    let (mut parts, mut load): (Vec<Part<usize>>, _) = (Vec::new(), Load::default());
    for (index, event) in events.into_iter().enumerate() {
        let (_, expected) = queue.weigh(&event);
        if parts.is_empty() || !load.has_room(expected, MAX_BATCH_DELIVERIES) {
            parts.push(Part::default());
            load = Load::default();
        }
        load.add(event.data.len() as u64, expected);
        let (events, indices) = parts.last_mut().expect("a part was added above if there was none");
        events.push(event);
        indices.push(index);
    }
    parts
}

/// Groups events by producer and keeps their order.
fn by_producer<T>(items: impl Iterator<Item = (NewEvent, T)>) -> Vec<Part<T>> {
    let mut parts: Vec<Part<T>> = Vec::new();
    for (event, answer) in items {
        let of_same = |(events, _): &&mut Part<T>| events[0].producer == event.producer;
        match parts.iter_mut().find(of_same) {
            Some((events, answers)) => {
                events.push(event);
                answers.push(answer);
            }
            None => parts.push((vec![event], vec![answer])),
        }
    }
    parts
}

fn reason_for(error: &StoreError) -> AcceptError {
    if error.is_timeout() {
        AcceptError::TooCostly
    } else if error.is_data_error() {
        InvalidEvent::NotStorable.into()
    } else if error.is_contention_for_key() {
        AcceptError::KeyBusy
    } else if error.is_contention() {
        AcceptError::Busy
    } else {
        AcceptError::Unavailable
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
