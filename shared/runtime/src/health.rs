//! What a service reports about itself at `/health/ready`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A part that was down counts as up again when no task has found it down for this long. Many tasks use the same part.
/// While it recovers, some of them succeed and others still fail, and that is one outage, not many.
const QUIET: Duration = Duration::from_secs(2);

/// The parts that a service depends on, each up or down with a reason. Cheap to clone. All clones share the same state.
///
/// An outage is logged once when it begins and once when it ends, with its duration, however often it is reported.
#[derive(Clone, Default, Debug)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<&'static str, State>>>,
}

#[derive(Debug)]
enum State {
    Expected,
    Up,
    Down(Outage),
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    reason: String,
    /// When the part was found up, if it has not been found down since.
    recovered: Option<Instant>,
}

/// The reason of a part that has not been tried yet.
const NOT_YET: &str = "not tried yet";

impl Health {
    /// Adds a part that is needed and has not been tried yet.
    pub fn expect(&self, part: &'static str) {
        self.parts.lock().insert(part, State::Expected);
    }

    /// Reports that `part` works.
    pub fn up(&self, part: &'static str) {
        self.up_at(part, Instant::now());
    }

    /// Reports that `part` does not work, and why. The reason is public, so it must not contain secrets. It is logged
    /// here, so callers need not log it.
    pub fn down(&self, part: &'static str, reason: impl ToString) {
        self.down_at(part, reason.to_string(), Instant::now());
    }

    /// Returns true while `part` is known not to work.
    #[must_use]
    pub fn is_down(&self, part: &'static str) -> bool {
        matches!(self.parts.lock().get(part), Some(State::Down(_)))
    }

    /// Returns each part with `None` if it works, or the reason why it does not. The map is empty until the service has
    /// started.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<&'static str, Option<String>> {
        self.parts_at(Instant::now())
    }

    fn up_at(&self, part: &'static str, now: Instant) {
        let mut parts = self.parts.lock();
        match parts.entry(part).or_insert(State::Up) {
            State::Down(outage) => {
                outage.recovered.get_or_insert(now);
            }
            state => *state = State::Up,
        }
        settle(&mut parts, now);
    }

    fn down_at(&self, part: &'static str, reason: String, now: Instant) {
        let mut parts = self.parts.lock();
        settle(&mut parts, now);
        match parts.entry(part).or_insert(State::Expected) {
            State::Down(outage) => {
                outage.reason = reason;
                outage.recovered = None;
            }
            state => {
                tracing::warn!(part, reason, "does not work; trying again");
                *state = State::Down(Outage { since: now, reason, recovered: None });
            }
        }
    }

    fn parts_at(&self, now: Instant) -> BTreeMap<&'static str, Option<String>> {
        let mut parts = self.parts.lock();
        settle(&mut parts, now);
        let reason = |state: &State| match state {
            State::Expected => Some(NOT_YET.to_owned()),
            State::Up => None,
            State::Down(outage) => Some(outage.reason.clone()),
        };
        parts.iter().map(|(part, state)| (*part, reason(state))).collect()
    }
}

/// Ends the outages that are over. Returns how long each of them lasted.
fn settle(parts: &mut BTreeMap<&'static str, State>, now: Instant) -> Vec<(&'static str, Duration)> {
    let mut ended = Vec::new();
    for (part, state) in parts {
        if let State::Down(Outage { since, recovered: Some(recovered), .. }) = state
            && now.duration_since(*recovered) >= QUIET
        {
            let lasted = now.duration_since(*since);
            tracing::info!(part, lasted_seconds = lasted.as_secs_f64(), "works again");
            *state = State::Up;
            ended.push((*part, lasted));
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_as_long_as_it_is_said_to() {
        let health = Health::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        health.down_at("relay_sweep", "locked".to_owned(), at(0));
        health.up_at("relay_sweep", at(0));
        assert_eq!(settle(&mut health.parts.lock(), at(1_999)), []);
        assert_eq!(settle(&mut health.parts.lock(), at(2_000)), [("relay_sweep", Duration::from_secs(2))]);
        assert_eq!(settle(&mut health.parts.lock(), at(2_001)), []);
    }

    #[test]
    fn a_part_is_up_again_when_nobody_has_found_it_down_for_a_while() {
        let health = Health::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let reason = |now| health.parts_at(now)["redis"].clone();
        health.expect("redis");
        assert_eq!(reason(at(0)).as_deref(), Some(NOT_YET));
        health.up_at("redis", at(1));
        assert_eq!(reason(at(1)), None, "the first report counts at once");
        health.down_at("redis", "gone".to_owned(), at(10));
        // One task succeeds while another fails.
        health.up_at("redis", at(20));
        health.down_at("redis", "still gone".to_owned(), at(30));
        assert_eq!(reason(at(2_025)).as_deref(), Some("still gone"));
        health.up_at("redis", at(3_000));
        health.up_at("redis", at(4_000));
        assert!(reason(at(4_999)).is_some());
        assert_eq!(reason(at(5_000)), None);
    }
}
