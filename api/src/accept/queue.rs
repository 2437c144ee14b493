//! Events that wait to be stored: a line for each application, served in turn, so that one who posts a hundred
//! thousand at once does not keep the next one waiting. Bounded in bytes and in events, of which each application
//! has its share at most, however many keys it has.

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

/// What an event of an unknown producer counts for, so that a few of them fill a statement. It is not stored apart.
const UNKNOWN_DELIVERIES: usize = 250;
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
    /// Where its answer goes.
    pub(crate) answer: OutcomeSender,
}

/// Who waits for an answer.
#[derive(Debug)]
pub(crate) struct OutcomeSender {
    sender: oneshot::Sender<(NewEvent, Outcome)>,
    _room: Room,
}

/// What an event takes while it waits.
#[derive(Debug)]
struct Room {
    _bytes: Share<Party>,
    _place: Share<Party>,
}

impl OutcomeSender {
    /// Answers what became of an event, and gives its room back.
    pub(crate) fn send(self, event: NewEvent, outcome: Outcome) {
        // A producer that has gone is not told.
        let _ = self.sender.send((event, outcome));
    }
}

/// What is stored in one statement.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In the order in which they were taken.
    pub(crate) events: Vec<Waiting>,
    /// What it keeps busy until it is [done](AcceptQueue::done).
    pub(crate) occupancy: Occupancy,
}

/// What a batch that is under way keeps busy.
#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    parties: HashSet<Party>,
    /// Its events make many deliveries each.
    pub(crate) is_heavy: bool,
}

/// The lines.
pub(crate) struct AcceptQueue {
    lines: Mutex<Lines>,
    arrived: Notify,
    bytes: Shares<Party>,
    places: Shares<Party>,
    /// Batches under way at once in which one party may have events.
    max_of_party: usize,
    fanout: Fanout,
}

#[derive(Default)]
struct Lines {
    of: HashMap<Party, VecDeque<Waiting>>,
    /// Those who have a line, in the order in which they are served.
    turns: VecDeque<Party>,
    is_heavy_under_way: bool,
    /// In how many batches that are under way a party has events.
    under_way: HashMap<Party, usize>,
    is_closed: bool,
}

impl AcceptQueue {
    /// Room for `max_bytes` of events. Each party is in so many batches at once, at most.
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

    /// What events have cost.
    pub(crate) fn fanout(&self) -> &Fanout {
        &self.fanout
    }

    /// Puts events of one party into its line: all of them, or none.
    ///
    /// # Errors
    /// When there is no room, or the service stops.
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

    /// Waits until an event can be taken; false once all is done after [`close`](Self::close).
    pub(crate) async fn arrival(&self) -> bool {
        loop {
            let mut arrived = pin!(self.arrived.notified());
            // From here on nothing that arrives is missed.
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

    /// Takes what fits into one statement of what waits.
    pub(crate) fn take(&self) -> Batch {
        let mut lines = self.lines();
        let batch = lines.take(self);
        if lines.may_take(self) {
            self.arrived.notify_one();
        }
        batch
    }

    /// Notes that a batch is no longer under way.
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

    /// Whether an event is expected to make many deliveries, and how many.
    pub(crate) fn weigh(&self, event: &NewEvent) -> (bool, usize) {
        match self.fanout.expect(event) {
            Some(expected) => (is_heavy(expected), expected),
            None => (false, UNKNOWN_DELIVERIES),
        }
    }

    /// How many deliveries an event of a producer is expected to make, whatever its type.
    pub(crate) fn expect_of(&self, producer: &Producer) -> usize {
        self.fanout.expect_of(producer).unwrap_or(UNKNOWN_DELIVERIES)
    }

    /// Takes nothing in any more.
    pub(crate) fn close(&self) {
        self.lines().is_closed = true;
        self.arrived.notify_waiters();
    }

    /// True once nothing more is taken in.
    pub(crate) fn is_closed(&self) -> bool {
        self.lines().is_closed
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
    }

    /// True where something waits that can be taken now.
    fn may_take(&self, queue: &AcceptQueue) -> bool {
        let mut firsts = self.of.values().filter_map(VecDeque::front);
        firsts.any(|first| self.is_possible(queue, first.party, || queue.weigh(&first.event).0))
    }

    /// True where an event of a party can be taken beside what is under way.
    fn is_possible(&self, queue: &AcceptQueue, party: Party, is_heavy: impl FnOnce() -> bool) -> bool {
        self.under_way.get(&party).is_none_or(|&count| count < queue.max_of_party)
            && !(self.is_heavy_under_way && is_heavy())
    }

    /// One event of each line in turn, until the statement is full. Whose turn it is decides whether those that make
    /// many deliveries are taken, or those that make few; the lines of the others keep their places.
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
