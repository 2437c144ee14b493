//! Emissions that were found and wait to be accepted: a line for each application, served in turn, so that one that
//! emits a hundred thousand does not keep the next one waiting.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use postrider_domain::ids::ApplicationId;
use postrider_domain::share::FACTOR;
use postrider_store::inbox::{EmissionId, Found};

use crate::accept::load::{Load, MAX_BATCH_DELIVERIES, is_heavy};

/// Emissions that are remembered, about. The inbox may have more.
const CAPACITY: usize = 100_000;
/// What a line may have however long the others are.
const MIN_LINE: usize = 64;
/// How long an application is left alone after its events could not be stored.
const PAUSE: Duration = Duration::from_secs(1);

/// The lines.
pub(crate) struct InboxLines {
    /// `None`: what names no application.
    of: HashMap<Option<ApplicationId>, Line>,
    /// Those that have emissions, in the order in which they are served.
    turns: VecDeque<Option<ApplicationId>>,
    capacity: usize,
    /// Emissions in all lines.
    len: usize,
    /// Until when those that make many deliveries rest.
    heavy_not_before: Option<Instant>,
}

#[derive(Default)]
struct Line {
    /// Their sizes, in the order in which they are to be accepted.
    waiting: BTreeMap<EmissionId, u32>,
    not_before: Option<Instant>,
    /// Some that come behind these were left out. Until the next look at everything it takes in nothing: a later one
    /// would overtake them.
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

    /// Puts an emission into its line, unless it is there already or the line is too long.
    pub(crate) fn add(&mut self, found: Found) {
        let free = self.capacity.saturating_sub(self.len);
        let line = self.of.entry(found.application_id).or_default();
        if line.is_cut || line.waiting.contains_key(&found.id) {
            return;
        }
        // As with any share: nobody gets more while he has over eight times what is free.
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

    /// Takes what is to be accepted next: one of each line in turn, until the batch is full. `expect` tells how many
    /// deliveries an event of an application may make. Where one that makes many does not fit any more, those that make
    /// few still do.
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

    /// Lets those that make many deliveries rest.
    pub(crate) fn rest(&mut self, until: Instant) {
        self.heavy_not_before = Some(until);
    }

    /// How long some of them rest, if they do.
    pub(crate) fn resting(&self, now: Instant) -> Option<Duration> {
        self.heavy_not_before.map(|until| until.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// Puts back what could not be accepted now, to be tried again after a while.
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

    /// True where a line that others were left out of has come to its end.
    pub(crate) fn is_short(&self) -> bool {
        self.of.values().any(|line| line.is_cut && line.waiting.is_empty())
    }

    /// To be called before everything is looked at: what was left out is found again.
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
