//! Group commit: while one batch of events is being stored, the next gathers. Idle adds no delay.
//!
//! What was submitted is stored or refused whether or not its producer still listens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_shared::failpoint;
use postrider_shared::store::accept::{Accepted, NewEvent, accept};
use postrider_shared::store::{Store, StoreError};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Events in one statement, at most.
const MAX_BATCH: usize = 64;
/// Bytes of events in one statement; the event that exceeds them is its last.
const MAX_BATCH_BYTES: usize = 2 << 20;
/// Events that may wait, at most.
const MAX_WAITING: usize = 16_384;
/// What an event takes beside its data.
const OVERHEAD_BYTES: usize = 512;
/// How often an event that is blocked is tried alone.
const TRIES: u32 = 3;
/// How long to wait between these.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Why an event was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// PostgreSQL cannot hold it.
    NotStorable,
    /// Another transaction holds its idempotency key.
    KeyBusy,
    /// PostgreSQL does not answer.
    Unavailable,
    /// Too much waits already.
    Overloaded,
    /// The service stops.
    Stopping,
}

/// Takes events from requests and stores them in batches.
pub(crate) struct Batcher {
    sender: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

/// An event, and who waits for its answer. The room it takes is given back when it is answered.
struct Waiting {
    event: NewEvent,
    bytes: usize,
    answer: Answer,
}

struct Answer {
    sender: oneshot::Sender<Result<Accepted, Rejection>>,
    _room: OwnedSemaphorePermit,
}

/// The tasks that store; to be waited for at the end.
pub(crate) struct Writers {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Batcher {
    /// Starts `writers` tasks. Events of up to `queue_bytes` bytes may wait for them.
    pub(crate) fn start(store: &Store, writers: usize, queue_bytes: usize) -> (Self, Writers) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for _ in 0..writers {
            tasks.spawn(write_until_stopped(store.clone(), receiver.clone(), stop.clone()));
        }
        let room = Arc::new(Semaphore::new(queue_bytes.min(Semaphore::MAX_PERMITS)));
        (Self { sender, room }, Writers { tasks, stop })
    }

    /// Stores an event and everything that follows from it. Dropping the future does not take it back.
    ///
    /// # Errors
    /// When it was not stored, or it is not known that it was.
    pub(crate) async fn submit(&self, event: NewEvent) -> Result<Accepted, Rejection> {
        let bytes = event.data.len() + OVERHEAD_BYTES;
        let permits = u32::try_from(bytes).map_err(|_| Rejection::Overloaded)?;
        let room = self.room.clone().try_acquire_many_owned(permits).map_err(|_| Rejection::Overloaded)?;
        let (sender, answered) = oneshot::channel();
        let waiting = Waiting { event, bytes, answer: Answer { sender, _room: room } };
        self.sender.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Rejection::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Rejection::Stopping,
        })?;
        answered.await.unwrap_or(Err(Rejection::Unavailable))
    }
}

impl Writers {
    /// Takes no more events, and stores those that wait.
    pub(crate) async fn drain(mut self) {
        self.stop.cancel();
        while let Some(result) = self.tasks.join_next().await {
            if let Err(error) = result {
                tracing::error!(%error, "a task that stores events ended badly");
            }
        }
    }
}

async fn write_until_stopped(
    store: Store,
    receiver: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    stop: CancellationToken,
) {
    while let Some(batch) = gather(&receiver, &stop).await {
        metrics::histogram!("postrider_accept_batch_size").record(batch.len() as f64);
        // A task of its own: a defect that panics costs this batch, not the writer.
        let storing = tokio::spawn(store_all(store.clone(), batch));
        if let Err(error) = storing.await {
            tracing::error!(%error, "storing a batch of events ended badly");
        }
    }
}

/// Waits for an event and takes what else waits; `None` when all is done. One writer gathers at a time.
async fn gather(receiver: &Mutex<mpsc::Receiver<Waiting>>, stop: &CancellationToken) -> Option<Vec<Waiting>> {
    let mut receiver = receiver.lock().await;
    let first = match stop.run_until_cancelled(receiver.recv()).await {
        Some(first) => first?,
        None => {
            receiver.close();
            receiver.recv().await?
        }
    };
    let mut bytes = first.bytes;
    let mut batch = vec![first];
    while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
        let Ok(next) = receiver.try_recv() else { break };
        bytes += next.bytes;
        batch.push(next);
    }
    Some(batch)
}

/// Stores a batch; where one event of it is to blame, splits it until that one stands alone.
async fn store_all(store: Store, batch: Vec<Waiting>) {
    let mut parts: Vec<(Vec<NewEvent>, Vec<Answer>)> =
        vec![batch.into_iter().map(|waiting| (waiting.event, waiting.answer)).unzip()];
    while let Some((mut events, mut answers)) = parts.pop() {
        match store_part(&store, &events).await {
            Ok(accepted) => {
                for (answer, accepted) in answers.into_iter().zip(accepted) {
                    let _ = answer.sender.send(Ok(accepted));
                }
            }
            Err(error) if events.len() > 1 && (error.is_data_error() || error.is_contention()) => {
                let middle = events.len() / 2;
                let second = (events.split_off(middle), answers.split_off(middle));
                parts.push(second);
                parts.push((events, answers));
            }
            Err(error) => {
                let rejection = rejection(&error);
                if rejection == Rejection::Unavailable {
                    tracing::warn!(%error, events = events.len(), "events were not stored");
                }
                for answer in answers {
                    let _ = answer.sender.send(Err(rejection));
                }
            }
        }
    }
}

async fn store_part(store: &Store, events: &[NewEvent]) -> Result<Vec<Accepted>, StoreError> {
    let mut tries = if events.len() == 1 { TRIES } else { 1 };
    loop {
        let began = Instant::now();
        failpoint::die_at("api.before_commit");
        let result = accept(store, events).await;
        if result.is_ok() {
            failpoint::die_at("api.after_commit");
            metrics::histogram!("postrider_accept_seconds").record(began.elapsed().as_secs_f64());
        }
        tries -= 1;
        match result {
            Err(error) if tries > 0 && error.is_contention() => tokio::time::sleep(RETRY_DELAY).await,
            result => return result,
        }
    }
}

fn rejection(error: &StoreError) -> Rejection {
    if error.is_data_error() {
        Rejection::NotStorable
    } else if error.is_contention() {
        Rejection::KeyBusy
    } else {
        Rejection::Unavailable
    }
}
