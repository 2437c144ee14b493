//! The queue of events that wait to be stored. Each application has a line of its own and the lines are served in
//! turn, so that an application that posts 100,000 events does not hold up the next one. The queue is bounded in
//! bytes and in events. Each application can use at most its share, however many keys it has.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use postrider_domain::event::{NewEvent, Producer};
use postrider_domain::share::{Share, Shares};
use tokio::sync::{Notify, oneshot};

use crate::accept::batch::Outcome;
use crate::accept::error::AcceptError;
use crate::accept::fanout::Fanout;
use crate::accept::load::{Load, MAX_BATCH_DELIVERIES, is_heavy};
use crate::auth::party::Party;

/// The assumed number of deliveries for a producer that has not been seen yet: a few such events fill a statement.
/// They are not stored apart.
const UNKNOWN_DELIVERIES: usize = 250;
/// The most events that may wait.
const MAX_WAITING: u64 = 16_384;
/// Memory that an event needs in addition to its data, in bytes.
const OVERHEAD_BYTES: usize = 512;

/// The smallest queue in which one full batch request and other events fit.
pub(crate) const MIN_BYTES: usize = 16 << 20;

/// A waiting event and the sender of its outcome.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The party whose share of the queue it uses.
    pub(crate) party: Party,
    /// The event to store.
    pub(crate) event: NewEvent,
    /// Receives the outcome, and holds the event's room in the queue until then.
    pub(crate) answer: OutcomeSender,
}

/// Sends the outcome of one event to the request that waits for it.
#[derive(Debug)]
pub(crate) struct OutcomeSender {
    sender: oneshot::Sender<(NewEvent, Outcome)>,
    _room: Room,
}

/// The room that a waiting event uses in the queue. Dropping it frees the room.
#[derive(Debug)]
struct Room {
    _bytes: Share<Party>,
    _place: Share<Party>,
}

impl OutcomeSender {
    /// Sends the outcome of an event and frees its room in the queue.
    pub(crate) fn send(self, event: NewEvent, outcome: Outcome) {
        // If the receiver was dropped, the request is gone and no one waits.
        let _ = self.sender.send((event, outcome));
    }
}

/// The events to store by one statement.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In the order in which they were taken.
    pub(crate) events: Vec<Waiting>,
    /// What it occupies until it is [done](AcceptQueue::done).
    pub(crate) occupancy: Occupancy,
}

/// What a batch in progress occupies.
#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    parties: HashSet<Party>,
    /// True if each of its events makes many deliveries.
    pub(crate) is_heavy: bool,
}

/// The queue: one line per party.
pub(crate) struct AcceptQueue {
    lines: Mutex<Lines>,
    arrived: Notify,
    bytes: Shares<Party>,
    places: Shares<Party>,
    /// How many batches in progress may contain events of the same party.
    max_of_party: usize,
    fanout: Fanout,
}

#[derive(Default)]
struct Lines {
    of: HashMap<Party, VecDeque<Waiting>>,
    /// The parties that have a line, in the order in which they are served.
    turns: VecDeque<Party>,
    is_heavy_under_way: bool,
    /// How many batches in progress contain events of each party.
    under_way: HashMap<Party, usize>,
    is_closed: bool,
}

impl AcceptQueue {
    /// Creates a queue with room for `max_bytes` of events. At most `max_of_party` batches in progress contain events
    /// of the same party.
    pub(crate) fn new(max_bytes: usize, max_of_party: usize) -> Self {
        Self {
            lines: Mutex::default(),
            arrived: Notify::new(),
            bytes: Shares::new(max_bytes.max(MIN_BYTES) as u64),
            places: Shares::new(MAX_WAITING),
            max_of_party,
            fanout: Fanout::default(),
        }
    }

    /// Returns the record of what past events have cost.
    pub(crate) fn fanout(&self) -> &Fanout {
        &self.fanout
    }

    /// Adds all events to the line of their party, or none of them.
    ///
    /// # Errors
    /// If there is no room or the service is shutting down.
    pub(crate) fn push(
        &self,
        party: Party,
        events: Vec<NewEvent>,
    ) -> Result<Vec<oneshot::Receiver<(NewEvent, Outcome)>>, AcceptError> {
        let size_of_all = events.iter().map(size).sum();
        let mut bytes = self.bytes.try_acquire(&party, size_of_all).ok_or(AcceptError::Overloaded)?;
        let mut places =
            self.places.try_acquire(&party, events.len() as u64).ok_or(AcceptError::Overloaded)?;
        let mut lines = self.lines();
        if lines.is_closed {
            return Err(AcceptError::Stopping);
        }
        let receivers = events.into_iter().map(|event| {
            let (sender, receiver) = oneshot::channel();
            let room = Room { _bytes: bytes.split(size(&event)), _place: places.split(1) };
            lines.add(Waiting { party, event, answer: OutcomeSender { sender, _room: room } });
            receiver
        });
        let receivers = receivers.collect();
        drop(lines);
        self.arrived.notify_one();
        Ok(receivers)
    }

    /// Waits until an event can be taken. Returns false once the queue is [closed](Self::close) and empty.
    pub(crate) async fn arrival(&self) -> bool {
        loop {
            let mut arrived = pin!(self.arrived.notified());
            // From here on, no arrival is missed.
            arrived.as_mut().enable();
            {
                let lines = self.lines();
                if lines.may_take(self) {
                    return true;
                }
                if lines.is_closed && lines.of.is_empty() {
                    return false;
                }
            }
            arrived.await;
        }
    }

    /// Takes as many waiting events as fit into one statement.
    pub(crate) fn take(&self) -> Batch {
        let mut lines = self.lines();
        let batch = lines.take(self);
        if lines.may_take(self) {
            self.arrived.notify_one();
        }
        batch
    }

    /// Frees what a finished batch occupied.
    pub(crate) fn done(&self, occupancy: &Occupancy) {
        let mut lines = self.lines();
        lines.is_heavy_under_way &= !occupancy.is_heavy;
        for party in &occupancy.parties {
            if let Some(count) = lines.under_way.get_mut(party) {
                *count -= 1;
                if *count == 0 {
                    lines.under_way.remove(party);
                }
            }
        }
        if lines.may_take(self) {
            self.arrived.notify_one();
        }
        if lines.is_closed {
            self.arrived.notify_waiters();
        }
    }

    /// Returns whether an event is expected to make many deliveries, and how many.
    pub(crate) fn weigh(&self, event: &NewEvent) -> (bool, usize) {
        match self.fanout.expect(event) {
            Some(expected) => (is_heavy(expected), expected),
            None => (false, UNKNOWN_DELIVERIES),
        }
    }

    /// Returns how many deliveries an event of a producer is expected to make, whatever its type.
    pub(crate) fn expect_of(&self, producer: &Producer) -> usize {
        self.fanout.expect_of(producer).unwrap_or(UNKNOWN_DELIVERIES)
    }

    /// Closes the queue: it accepts no more events.
    pub(crate) fn close(&self) {
        self.lines().is_closed = true;
        self.arrived.notify_waiters();
    }

    /// Returns true once the queue is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.lines().is_closed
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        // Ignoring the poison is safe: nothing panics between two changes that belong together.
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
    }

    /// Returns true if an event waits that can be taken now.
    fn may_take(&self, queue: &AcceptQueue) -> bool {
        let mut firsts = self.of.values().filter_map(VecDeque::front);
        firsts.any(|first| self.is_possible(queue, first.party, || queue.weigh(&first.event).0))
    }

    /// Returns true if an event of a party may be stored in parallel with the batches in progress.
    fn is_possible(&self, queue: &AcceptQueue, party: Party, is_heavy: impl FnOnce() -> bool) -> bool {
        self.under_way.get(&party).is_none_or(|&count| count < queue.max_of_party)
            && !(self.is_heavy_under_way && is_heavy())
    }

    /// Takes one event from each line in turn until the statement is full. The first event decides whether the batch
    /// contains heavy events or light ones; lines whose next event is of the other kind are skipped and keep their
    /// places.
    fn take(&mut self, queue: &AcceptQueue) -> Batch {
        let mut batch = Batch::default();
        let (mut load, mut passed_over) = (Load::default(), VecDeque::new());
        while !load.is_full() {
            let Some(party) = self.turns.pop_front() else { break };
            let Some(first) = self.of.get(&party).and_then(VecDeque::front) else { continue };
            let (is_heavy, expected) = queue.weigh(&first.event);
            let is_first = batch.events.is_empty();
            if !self.is_possible(queue, party, || is_heavy)
                || !is_first && is_heavy != batch.occupancy.is_heavy
            {
                passed_over.push_back(party);
                continue;
            }
            if !load.has_room(expected, MAX_BATCH_DELIVERIES) {
                self.turns.push_front(party);
                break;
            }
            let Some(line) = self.of.get_mut(&party) else { continue };
            if let Some(waiting) = line.pop_front() {
                load.add(size(&waiting.event), expected);
                batch.occupancy.is_heavy = is_heavy;
                batch.occupancy.parties.insert(party);
                batch.events.push(waiting);
            }
            if line.is_empty() {
                self.of.remove(&party);
            } else {
                self.turns.push_back(party);
            }
        }
        passed_over.append(&mut self.turns);
        self.turns = passed_over;
        self.is_heavy_under_way |= batch.occupancy.is_heavy;
        for party in &batch.occupancy.parties {
            *self.under_way.entry(*party).or_default() += 1;
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
