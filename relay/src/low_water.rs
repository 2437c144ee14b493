//! Decides where in the outbox index a take starts.
//!
//! While an old transaction is open anywhere on the server, rows that were taken stay in the index as dead rows, and a
//! scan from the left end has to pass all of them. So a take starts shortly before the rows that were taken last. A
//! transaction that commits late leaves rows further left, so now and then a take scans the whole index.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

/// Rows may become visible in a different order than they fall due. The difference is usually less than this.
const MARGIN: chrono::TimeDelta = chrono::TimeDelta::milliseconds(500);

/// Interval between scans of the whole index, which is how long a row may be overlooked.
const EVERYWHERE_EVERY: Duration = Duration::from_secs(1);

/// If a full scan is slow, full scans use at most about one tenth of the time.
const SHARE: u32 = 10;

/// The due time before which, as far as is known, every row has been taken.
#[derive(Debug, Default)]
pub(crate) struct LowWater {
    mark: Option<DateTime<Utc>>,
    /// When the next full scan is due.
    everywhere_at: Option<Instant>,
}

impl LowWater {
    /// Returns the due time at which the next take starts, or `None` if it scans the whole index.
    pub(crate) fn since(&self, now: Instant) -> Option<DateTime<Utc>> {
        self.mark.filter(|_| self.everywhere_at.is_some_and(|at| now < at))
    }

    /// Returns the head of the queue: shortly before the last row of the last take that found rows.
    pub(crate) fn head(&self) -> Option<DateTime<Utc>> {
        self.mark
    }

    /// Returns the time until the next full scan.
    pub(crate) fn pause(&self, now: Instant) -> Duration {
        self.everywhere_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Notes a committed take: where it started, the due time of its last row, and when it began and ended.
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
        assert_eq!(low_water.since(after(12)), Some(due), "an empty take changes nothing");
        assert_eq!(low_water.pause(after(805)), Duration::from_millis(200));
        assert_eq!(low_water.since(after(1_005)), None);
        low_water.note(None, None, after(1_005), after(1_405));
        assert_eq!(
            low_water.since(after(5_404)),
            Some(due),
            "a scan that took 0.4 s is not repeated at once"
        );
        assert_eq!(low_water.since(after(5_405)), None);
    }
}
