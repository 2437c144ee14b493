//! Summaries of latencies.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::ledger::Nanos;

/// A histogram in microseconds, with three significant digits, up to an hour.
pub(crate) struct Latencies(Histogram<u64>);

/// A summary, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Number of measurements.
    pub count: u64,
    /// The median.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The maximum.
    pub max_ms: f64,
}

const LONGEST_MICROS: u64 = 3_600_000_000;

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("the bounds are in order"))
    }

    /// Records the time between two moments, or 0 if `to` is before `from`.
    pub(crate) fn record(&mut self, from: Nanos, to: Nanos) {
        self.0.saturating_record(to.saturating_sub(from) / 1_000);
    }

    /// Returns the summary, or `None` if nothing was measured.
    pub(crate) fn summary(&self) -> Option<Latency> {
        let ms = |micros: u64| micros as f64 / 1_000.0;
        (!self.0.is_empty()).then(|| Latency {
            count: self.0.len(),
            p50_ms: ms(self.0.value_at_quantile(0.50)),
            p95_ms: ms(self.0.value_at_quantile(0.95)),
            p99_ms: ms(self.0.value_at_quantile(0.99)),
            max_ms: ms(self.0.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.summary(), None);
        for ms in 1..=100 {
            latencies.record(0, ms * 1_000_000);
        }
        // A webhook that arrived before the 202 response.
        latencies.record(5_000, 1_000);
        let latency = latencies.summary().expect("a summary");
        assert_eq!(latency.count, 101);
        let close = |value: f64, expected: f64| (value - expected).abs() <= expected / 500.0;
        assert!(close(latency.p50_ms, 50.0), "{latency:?}");
        assert!(close(latency.p95_ms, 95.0), "{latency:?}");
        assert!(close(latency.p99_ms, 99.0), "{latency:?}");
        assert!(close(latency.max_ms, 100.0), "{latency:?}");
    }
}
