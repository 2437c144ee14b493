//! Watches the clock that webhooks are signed with. Receivers refuse signatures that are more than five minutes off.
//! The only other clock to compare with is PostgreSQL's.

use std::time::Duration;

use postrider_runtime::health::Health;

use crate::metric;

/// Threshold above which the health check fails: an operator must find out which clock is wrong.
const TOLERATED: Duration = Duration::from_secs(30);

/// Reports by how many seconds this machine's clock is ahead of PostgreSQL's.
pub(crate) fn note(health: &Health, ahead_seconds: f64) {
    metrics::gauge!(metric::CLOCK_AHEAD).set(ahead_seconds);
    if ahead_seconds.abs() > TOLERATED.as_secs_f64() {
        let how = if ahead_seconds > 0.0 { "ahead of" } else { "behind" };
        let reason = format!("this machine's clock is {:.0} s {how} PostgreSQL's", ahead_seconds.abs());
        health.down("deliverer_clock", reason);
    } else {
        health.up("deliverer_clock");
    }
}
