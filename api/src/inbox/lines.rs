//! Found emissions that wait to be accepted. Each application has a line of its own and the lines are served in turn,
//! so that an application that emits 100,000 events does not hold up the next one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use postrider_domain::ids::ApplicationId;
use postrider_domain::share::FACTOR;
use postrider_store::inbox::{EmissionId, Found};

use crate::accept::load::{Load, MAX_BATCH_DELIVERIES, is_heavy};

/// About how many emissions are held in memory. The inbox may contain more.
const CAPACITY: usize = 100_000;
/// The length that a line may always reach, however long the others are.
const MIN_LINE: usize = 64;
/// The pause of an application after its events could not be stored.
const PAUSE: Duration = Duration::from_secs(1);

/// The lines of all applications.
pub(crate) struct InboxLines {
    /// `None` stands for emissions that name no application.
    of: HashMap<Option<ApplicationId>, Line>,
    /// Those with waiting emissions, in the order in which they are served.
    turns: VecDeque<Option<ApplicationId>>,
    capacity: usize,
    /// The number of emissions in all lines.
    len: usize,
    /// Heavy events are not taken before this time.
    heavy_not_before: Option<Instant>,
}

#[derive(Default)]
struct Line {
    /// The size of each emission in bytes, in the order in which they must be accepted.
    waiting: BTreeMap<EmissionId, u32>,
    not_before: Option<Instant>,
    /// True if later emissions were left out. The line then accepts none until the next full look, because a newer
    /// one would overtake those.
    is_cut: bool,
}

impl Default for InboxLines {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl InboxLines {
    fn new(capacity: usize) -> Self {
        Self { of: HashMap::new(), turns: VecDeque::new(), capacity, len: 0, heavy_not_before: None }
    }

    /// Adds an emission to its line, unless it is already there or the line is too long.
    pub(crate) fn add(&mut self, found: Found) {
        let free = self.capacity.saturating_sub(self.len);
        let line = self.of.entry(found.application_id).or_default();
        if line.is_cut || line.waiting.contains_key(&found.id) {
            return;
        }
        // The usual rule for shares: a line that holds more than eight times the free room gets no more.
        if line.waiting.len() >= MIN_LINE.max(free.saturating_mul(FACTOR as usize)) {
            line.is_cut = true;
            return;
        }
        if line.waiting.is_empty() {
            self.turns.push_back(found.application_id);
        }
        line.waiting.insert(found.id, found.bytes);
        self.len += 1;
    }

    /// Takes the next batch: one emission from each line in turn until the batch is full. `expect` returns how many
    /// deliveries an event of an application is expected to make. When a heavy event no longer fits, light ones still
    /// may.
    pub(crate) fn take(&mut self, now: Instant, expect: impl Fn(ApplicationId) -> usize) -> Vec<Found> {
        let (mut batch, mut passed_over) = (Vec::new(), VecDeque::new());
        let mut load = Load::default();
        while !load.is_full() {
            let Some(key) = self.turns.pop_front() else { break };
            let Some(line) = self.of.get_mut(&key) else { continue };
            let expected = key.map_or(0, &expect);
            let (most, not_before) = match is_heavy(expected) {
                true => (MAX_BATCH_DELIVERIES, line.not_before.max(self.heavy_not_before)),
                false => (2 * MAX_BATCH_DELIVERIES, line.not_before),
            };
            if !load.has_room(expected, most) || not_before.is_some_and(|time| now < time) {
                passed_over.push_back(key);
                continue;
            }
            if let Some((id, size)) = line.waiting.pop_first() {
                self.len -= 1;
                load.add(u64::from(size), expected);
                batch.push(Found { id, application_id: key, bytes: size });
            }
            if !line.waiting.is_empty() {
                self.turns.push_back(key);
            } else if !line.is_cut {
                self.of.remove(&key);
            }
        }
        passed_over.append(&mut self.turns);
        self.turns = passed_over;
        batch
    }

    /// Takes no heavy events before `until`.
    pub(crate) fn rest(&mut self, until: Instant) {
        self.heavy_not_before = Some(until);
    }

    /// Returns how long heavy events still rest, or `None` if they do not.
    pub(crate) fn resting(&self, now: Instant) -> Option<Duration> {
        self.heavy_not_before.map(|until| until.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// Puts back emissions that could not be accepted, to be tried again after a pause.
    pub(crate) fn postpone(&mut self, now: Instant, emissions: impl IntoIterator<Item = Found>) {
        for Found { id, application_id, bytes } in emissions {
            let line = self.of.entry(application_id).or_default();
            line.not_before = Some(now + PAUSE);
            if line.waiting.is_empty() {
                self.turns.push_back(application_id);
            }
            self.len += usize::from(line.waiting.insert(id, bytes).is_none());
        }
    }

    /// Returns true if a line that left out emissions is now empty.
    pub(crate) fn is_short(&self) -> bool {
        self.of.values().any(|line| line.is_cut && line.waiting.is_empty())
    }

    /// Prepares for a full look at the inbox, which finds the left-out emissions again.
    pub(crate) fn begin_full_look(&mut self) {
        self.of.retain(|_, line| {
            line.is_cut = false;
            !line.waiting.is_empty()
        });
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
