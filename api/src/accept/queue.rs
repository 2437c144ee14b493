//! Events that wait to be stored: a line for each producer, served in turn, so that one who posts a hundred
//! thousand at once does not keep the next one waiting. Bounded in bytes and in events, and one producer
//! has half of it at most.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use postrider_shared::store::accept::{NewEvent, Producer};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::accept::batch::{Outcome, Rejection};

/// Events in one statement, at most.
const MAX_BATCH: usize = 64;
/// Bytes of events in one statement; the event that exceeds them is its last.
const MAX_BATCH_BYTES: usize = 2 << 20;
/// Deliveries that one statement is expected to make, unless a single event makes more: about ten
/// milliseconds' worth.
const MAX_BATCH_DELIVERIES: usize = 2_000;
/// Events that may wait, at most.
const MAX_WAITING: usize = 16_384;
/// What an event takes beside its data.
const OVERHEAD_BYTES: usize = 512;

/// The smallest room in which a whole batch of a request fits as one producer's half.
pub(crate) const MIN_BYTES: usize = 16 << 20;

/// An event, who waits for its answer, and the room it takes until it is answered.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// What is to be stored.
    pub(crate) event: NewEvent,
    /// How many deliveries it is expected to make.
    pub(crate) expected: usize,
    /// Where its answer goes.
    pub(crate) answer: Answer,
}

/// Who waits for an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    sender: oneshot::Sender<(NewEvent, Outcome)>,
    _room: OwnedSemaphorePermit,
}

impl Answer {
    /// Answers what became of an event, and gives its room back.
    pub(crate) fn send(self, event: NewEvent, outcome: Outcome) {
        // A producer that has gone is not told.
        let _ = self.sender.send((event, outcome));
    }
}

/// The lines.
pub(crate) struct AcceptQueue {
    lines: Mutex<Lines>,
    arrived: Notify,
    room: Arc<Semaphore>,
    max_line_bytes: usize,
}

#[derive(Default)]
struct Lines {
    of: HashMap<Producer, Line>,
    /// Producers that have a line, in the order in which they are served.
    turns: VecDeque<Producer>,
    count: usize,
    is_closed: bool,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl AcceptQueue {
    /// Room for `max_bytes` of events.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let max_bytes = max_bytes.clamp(MIN_BYTES, Semaphore::MAX_PERMITS);
        Self {
            lines: Mutex::default(),
            arrived: Notify::new(),
            room: Arc::new(Semaphore::new(max_bytes)),
            max_line_bytes: max_bytes / 2,
        }
    }

    /// Puts events of one producer into its line, with how many deliveries each is expected to make: all of
    /// them, or none.
    ///
    /// # Errors
    /// When there is no room, or the service stops.
    pub(crate) fn push(
        &self,
        events: Vec<(NewEvent, usize)>,
    ) -> Result<Vec<oneshot::Receiver<(NewEvent, Outcome)>>, Rejection> {
        let Some((first, _)) = events.first() else { return Ok(Vec::new()) };
        let producer = first.producer.clone();
        let bytes: usize = events.iter().map(|(event, _)| size(event)).sum();
        let permits = u32::try_from(bytes).map_err(|_| Rejection::Overloaded)?;
        let mut room =
            self.room.clone().try_acquire_many_owned(permits).map_err(|_| Rejection::Overloaded)?;
        let mut lines = self.lines();
        if lines.is_closed {
            return Err(Rejection::Stopping);
        }
        lines.reserve(&producer, events.len(), bytes, self.max_line_bytes)?;
        let receivers = events.into_iter().map(|(event, expected)| {
            let (sender, receiver) = oneshot::channel();
            let room = room.split(size(&event)).expect("room for each was acquired");
            lines.add(&producer, Waiting { event, expected, answer: Answer { sender, _room: room } });
            receiver
        });
        let receivers = receivers.collect();
        drop(lines);
        self.arrived.notify_one();
        Ok(receivers)
    }

    /// Waits until an event waits; false once all is done after [`close`](Self::close).
    pub(crate) async fn arrival(&self) -> bool {
        loop {
            let mut arrived = pin!(self.arrived.notified());
            // From here on nothing that arrives is missed.
            arrived.as_mut().enable();
            {
                let lines = self.lines();
                if lines.count > 0 {
                    return true;
                }
                if lines.is_closed {
                    return false;
                }
            }
            arrived.await;
        }
    }

    /// Takes what fits into one statement of what waits.
    pub(crate) fn take(&self) -> Vec<Waiting> {
        let mut lines = self.lines();
        let batch = lines.take();
        if lines.count > 0 {
            self.arrived.notify_one();
        }
        batch
    }

    /// Takes nothing in any more.
    pub(crate) fn close(&self) {
        self.lines().is_closed = true;
        self.arrived.notify_waiters();
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        // Nothing panics between two changes that belong together.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn reserve(
        &mut self,
        producer: &Producer,
        count: usize,
        bytes: usize,
        max_bytes: usize,
    ) -> Result<(), Rejection> {
        let line = self.of.get(producer).map_or((0, 0), |line| (line.waiting.len(), line.bytes));
        let fits = self.count + count <= MAX_WAITING
            && line.0 + count <= MAX_WAITING / 2
            && line.1 + bytes <= max_bytes;
        if fits { Ok(()) } else { Err(Rejection::Overloaded) }
    }

    fn add(&mut self, producer: &Producer, waiting: Waiting) {
        let line = self.of.entry(producer.clone()).or_default();
        if line.waiting.is_empty() {
            self.turns.push_back(producer.clone());
        }
        line.bytes += size(&waiting.event);
        line.waiting.push_back(waiting);
        self.count += 1;
    }

    /// One event of each line in turn, until the statement is full. What would make too many deliveries
    /// begins the next one.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut batch, mut bytes, mut deliveries) = (Vec::new(), 0, 0);
        while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            let Some(producer) = self.turns.pop_front() else { break };
            let Some(line) = self.of.get_mut(&producer) else { continue };
            let expected = line.waiting.front().map_or(0, |waiting| waiting.expected);
            if !batch.is_empty() && deliveries + expected > MAX_BATCH_DELIVERIES {
                self.turns.push_front(producer);
                break;
            }
            if let Some(waiting) = line.waiting.pop_front() {
                let size = size(&waiting.event);
                line.bytes -= size;
                bytes += size;
                deliveries += expected;
                self.count -= 1;
                batch.push(waiting);
            }
            if line.waiting.is_empty() {
                self.of.remove(&producer);
            } else {
                self.turns.push_back(producer);
            }
        }
        batch
    }
}

fn size(event: &NewEvent) -> usize {
    event.data.len() + OVERHEAD_BYTES
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
