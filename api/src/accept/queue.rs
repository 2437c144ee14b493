//! Events that wait to be stored: a line for each application, served in turn, so that one who posts a hundred
//! thousand at once does not keep the next one waiting. Bounded in bytes and in events, of which each application
//! has its share at most, however many keys it has.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use postrider_shared::share::{Share, Shares};
use postrider_shared::store::accept::NewEvent;
use tokio::sync::{Notify, oneshot};

use crate::accept::batch::{Outcome, Rejection};
use crate::auth::party::Party;

/// Events in one statement, at most.
const MAX_BATCH: usize = 64;
/// Bytes of events in one statement; the event that exceeds them is its last.
const MAX_BATCH_BYTES: u64 = 2 << 20;
/// Deliveries that one statement is expected to make, unless a single event makes more: about ten
/// milliseconds' worth.
const MAX_BATCH_DELIVERIES: usize = 2_000;
/// Events that may wait, at most.
const MAX_WAITING: u64 = 16_384;
/// What an event takes beside its data.
const OVERHEAD_BYTES: usize = 512;

/// The smallest room in which a whole batch of a request fits beside others.
pub(crate) const MIN_BYTES: usize = 16 << 20;

/// An event, who waits for its answer, and the room it takes until it is answered.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// On whose account.
    pub(crate) party: Party,
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
    _room: Room,
}

/// What an event takes while it waits.
#[derive(Debug)]
struct Room {
    _bytes: Share<Party>,
    _place: Share<Party>,
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
    bytes: Shares<Party>,
    places: Shares<Party>,
}

#[derive(Default)]
struct Lines {
    of: HashMap<Party, VecDeque<Waiting>>,
    /// Those who have a line, in the order in which they are served.
    turns: VecDeque<Party>,
    count: usize,
    is_closed: bool,
}

impl AcceptQueue {
    /// Room for `max_bytes` of events.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            lines: Mutex::default(),
            arrived: Notify::new(),
            bytes: Shares::new(max_bytes.max(MIN_BYTES) as u64),
            places: Shares::new(MAX_WAITING),
        }
    }

    /// Puts events of one party into its line, with how many deliveries each is expected to make: all of
    /// them, or none.
    ///
    /// # Errors
    /// When there is no room, or the service stops.
    pub(crate) fn push(
        &self,
        party: Party,
        events: Vec<(NewEvent, usize)>,
    ) -> Result<Vec<oneshot::Receiver<(NewEvent, Outcome)>>, Rejection> {
        let size_of_all = events.iter().map(|(event, _)| size(event)).sum();
        let mut bytes = self.bytes.try_acquire(&party, size_of_all).ok_or(Rejection::Overloaded)?;
        let mut places = self.places.try_acquire(&party, events.len() as u64).ok_or(Rejection::Overloaded)?;
        let mut lines = self.lines();
        if lines.is_closed {
            return Err(Rejection::Stopping);
        }
        let receivers = events.into_iter().map(|(event, expected)| {
            let (sender, receiver) = oneshot::channel();
            let room = Room { _bytes: bytes.split(size(&event)), _place: places.split(1) };
            lines.add(Waiting { party, event, expected, answer: Answer { sender, _room: room } });
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
    fn add(&mut self, waiting: Waiting) {
        let line = self.of.entry(waiting.party).or_default();
        if line.is_empty() {
            self.turns.push_back(waiting.party);
        }
        line.push_back(waiting);
        self.count += 1;
    }

    /// One event of each line in turn, until the statement is full. What would make too many deliveries
    /// begins the next one.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut batch, mut bytes, mut deliveries) = (Vec::new(), 0, 0);
        while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            let Some(party) = self.turns.pop_front() else { break };
            let Some(line) = self.of.get_mut(&party) else { continue };
            let expected = line.front().map_or(0, |waiting| waiting.expected);
            if !batch.is_empty() && deliveries + expected > MAX_BATCH_DELIVERIES {
                self.turns.push_front(party);
                break;
            }
            if let Some(waiting) = line.pop_front() {
                bytes += size(&waiting.event);
                deliveries += expected;
                self.count -= 1;
                batch.push(waiting);
            }
            if line.is_empty() {
                self.of.remove(&party);
            } else {
                self.turns.push_back(party);
            }
        }
        batch
    }
}

fn size(event: &NewEvent) -> u64 {
    (event.data.len() + OVERHEAD_BYTES) as u64
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
