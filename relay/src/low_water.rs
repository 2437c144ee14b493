//! From where on a take looks.
//!
//! While an old transaction is open anywhere on the server, outbox rows that were taken stay in the index, dead,
//! and a look from its left end has to pass all of them. So a take begins a little before what was taken last. A
//! transaction that commits late leaves rows further left: now and then a take looks everywhere.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

/// Rows become visible in another order than they fall due in, by no more than this as a rule.
const MARGIN: chrono::TimeDelta = chrono::TimeDelta::milliseconds(500);

/// How long a row may be overlooked.
const EVERYWHERE_EVERY: Duration = Duration::from_secs(1);

/// Where it takes long to look everywhere, it is done for no more than one part in so many of the time.
const SHARE: u32 = 10;

/// Up to where everything was taken, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct LowWater {
    mark: Option<DateTime<Utc>>,
    /// When a take is to look everywhere again.
    everywhere_at: Option<Instant>,
}

impl LowWater {
    /// What the next take is to begin with; `None`: look everywhere.
    pub(crate) fn since(&self, now: Instant) -> Option<DateTime<Utc>> {
        self.mark.filter(|_| self.everywhere_at.is_some_and(|at| now < at))
    }

    /// The head of the line: where the last take that found something ended, and a little before.
    pub(crate) fn head(&self) -> Option<DateTime<Utc>> {
        self.mark
    }

    /// How long until a take is to look everywhere.
    pub(crate) fn pause(&self, now: Instant) -> Duration {
        self.everywhere_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Notes a take that has been committed: where it began, what it came to, and when.
    pub(crate) fn note(
        &mut self,
        since: Option<DateTime<Utc>>,
        due_until: Option<DateTime<Utc>>,
        began: Instant,
        ended: Instant,
    ) {
        if since.is_none() {
            let pause = EVERYWHERE_EVERY.max((ended - began) * SHARE);
            self.everywhere_at = Some(ended + pause);
        }
        if let Some(due) = due_until {
            self.mark = Some(due - MARGIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_begin_where_the_last_one_ended_and_look_everywhere_every_second() {
        let (start, due) = (Instant::now(), Utc::now());
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut low_water = LowWater::default();
        assert_eq!(low_water.since(start), None, "nothing is known yet");
        low_water.note(None, Some(due), start, after(5));
        assert_eq!(low_water.since(after(6)), Some(due - MARGIN));
        let later = due + MARGIN;
        low_water.note(Some(due - MARGIN), Some(later), after(6), after(9));
        assert_eq!(low_water.since(after(10)), Some(due));
        low_water.note(Some(due), None, after(10), after(11));
        assert_eq!(low_water.since(after(12)), Some(due), "nothing was there: nothing has changed");
        assert_eq!(low_water.pause(after(805)), Duration::from_millis(200));
        assert_eq!(low_water.since(after(1_005)), None);
        low_water.note(None, None, after(1_005), after(1_405));
        assert_eq!(
            low_water.since(after(5_404)),
            Some(due),
            "a look that took 0.4 s is not repeated at once"
        );
        assert_eq!(low_water.since(after(5_405)), None);
    }
}
