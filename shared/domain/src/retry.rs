//! When a failed delivery is retried.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDateTime};
use rand::{Rng, RngExt as _};

/// The longest `Retry-After` that is respected.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The maximum deviation of a delay from the schedule, in either direction, as a fraction of it.
pub const JITTER: f64 = 0.2;

/// The default schedule, in seconds: the example of Standard Webhooks. Ten attempts use all of it, in about three days.
pub const DEFAULT_SCHEDULE: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// The delays between the attempts of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

impl Default for RetrySchedule {
    fn default() -> Self {
        Self(DEFAULT_SCHEDULE.map(Duration::from_secs).to_vec())
    }
}

impl RetrySchedule {
    /// Creates a schedule. After its end the last delay is repeated. An empty schedule retries at once.
    #[must_use]
    pub fn new(delays: Vec<Duration>) -> Self {
        Self(delays)
    }

    /// Returns the delays in whole seconds, without jitter. Never empty.
    #[must_use]
    pub fn seconds(&self) -> Vec<i32> {
        let whole = |delay: &Duration| i32::try_from(delay.as_secs()).unwrap_or(i32::MAX);
        if self.0.is_empty() { vec![0] } else { self.0.iter().map(whole).collect() }
    }

    /// Returns the delay after attempt number `attempt_number` (from 1) has failed, with jitter from `random`. It is at
    /// least `retry_after`, the delay that the receiver asked for, of which at most one day counts.
    pub fn delay(
        &self,
        attempt_number: u16,
        retry_after: Option<Duration>,
        random: &mut impl Rng,
    ) -> Duration {
        let step = usize::from(attempt_number.saturating_sub(1));
        let scheduled = self.0.get(step).or(self.0.last()).copied().unwrap_or_default();
        let jittered = scheduled.mul_f64(1.0 + random.random_range(-JITTER..=JITTER));
        jittered.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
    }
}

/// A number of seconds is read as a time rather than a delay if it is no less than the current Unix time minus this.
const EPOCH_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Parses a `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date, relative to `now`. Some servers send
/// fractions of seconds, or a Unix time. Other values are ignored. A date in the past means no delay.
#[must_use]
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        // A number that is too large to represent still means a long delay.
        let seconds = Duration::try_from_secs_f64(value.parse().ok()?).unwrap_or(Duration::MAX);
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_time = seconds >= since_1970.saturating_sub(EPOCH_TOLERANCE);
        return Some(if is_time { seconds.saturating_sub(since_1970) } else { seconds });
    }
    Some(parse_date(value)?.duration_since(now).unwrap_or_default())
}

/// Parses a date in one of the three formats of RFC 9110, section 5.6.7, or in a format that servers send instead:
/// `UTC` or a numeric offset in place of `GMT` (RFC 5322), and RFC 3339 with a space in place of `T`. A date without a
/// zone is in UTC.
fn parse_date(value: &str) -> Option<SystemTime> {
    let in_gmt = value.strip_suffix("UTC").map(|rest| format!("{rest}GMT"));
    let value = in_gmt.as_deref().unwrap_or(value);
    httpdate::parse_http_date(value).ok().or_else(|| {
        let zoned = DateTime::parse_from_rfc2822(value).or_else(|_| value.parse());
        let bare = value.trim_end_matches("GMT").trim_end();
        let without_zone = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%a, %d %b %Y %H:%M:%S"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(bare, format).ok());
        zoned.ok().or_else(|| Some(without_zone?.and_utc().fixed_offset())).map(SystemTime::from)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_schedule_is_the_documented_one() {
        let mut random = rand::rng();
        let documented = [5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0];
        for (attempt, seconds) in (1..).zip(documented) {
            let delay = RetrySchedule::default().delay(attempt, None, &mut random).as_secs_f64();
            assert!((seconds * 0.8..=seconds * 1.2).contains(&delay), "attempt {attempt}: {delay}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        let read = |value: &str| parse_retry_after(value, now);
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read(" 0 "), Some(Duration::ZERO));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sat, 06 Nov 1993 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(read("7200.5"), Some(Duration::from_secs_f64(7_200.5)));
        assert_eq!(read("1000000"), Some(Duration::from_secs(1_000_000)));
        for long in ["9".repeat(23), "9".repeat(400)] {
            assert!(read(&long) > Some(MAX_RETRY_AFTER), "{long}");
        }
        for nonsense in
            ["", ".", "1.2.3", "-1", "soon", "1e3", "UTC", "GMT", "Sun, 06 Nov 1994 08:49:37 Mars"]
        {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_since_1970_where_that_is_near() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_876_374);
        assert_eq!(parse_retry_after("1795876414", now), Some(Duration::from_secs(40)));
        assert_eq!(parse_retry_after("1795876414.5", now), Some(Duration::from_secs_f64(40.5)));
        assert_eq!(parse_retry_after("1795876300", now), Some(Duration::ZERO), "it has just passed");
        assert_eq!(parse_retry_after("31536000", now), Some(Duration::from_secs(31_536_000)), "a year");
    }

    #[test]
    fn retry_after_dates_are_read_in_every_format_that_servers_send() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sunday, 06-Nov-94 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37 -0000",
            "Sun, 06 Nov 1994 10:49:37 +0200",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
            "1994-11-06T08:49:37.000Z",
            "1994-11-06T08:49:37",
            "1994-11-06 08:49:37",
            "1994-11-06 08:49:37 UTC",
            "1994-11-06 08:49:37 GMT",
            "1994-11-06 08:49:37Z",
            "1994-11-06 10:49:37+02:00",
            "1994-11-06 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 6 Nov 1994 08:49:37",
            "1994-11-06T08:49:37+00:00",
        ] {
            assert_eq!(parse_retry_after(date, now), Some(Duration::from_secs(7)), "{date}");
        }
    }

    proptest! {
        #[test]
        fn a_delay_is_within_its_jitter_and_not_below_retry_after(
            delays in proptest::collection::vec(0..100_000u64, 0..10),
            attempt in 1..30u16,
            retry_after in proptest::option::of(0..1_000_000u64),
        ) {
            let scheduled = delays.get(usize::from(attempt) - 1).or(delays.last()).copied().unwrap_or(0);
            let schedule = RetrySchedule::new(delays.into_iter().map(Duration::from_secs).collect());
            let floor = retry_after.unwrap_or(0).min(86_400) as f64;
            let delay = schedule
                .delay(attempt, retry_after.map(Duration::from_secs), &mut rand::rng())
                .as_secs_f64();
            prop_assert!(delay >= floor);
            prop_assert!(delay >= scheduled as f64 * 0.79);
            prop_assert!(delay <= (scheduled as f64 * 1.21).max(floor));
        }

        #[test]
        fn no_header_makes_it_panic(value in "\\PC{0,40}") {
            let _ = parse_retry_after(&value, SystemTime::now());
        }
    }
}
