//! Computes figures from the ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::faults::{FaultReport, Suffered};
use crate::latency::Latencies;
use crate::ledger::{Event, Ledger, Nanos};
use crate::measure::Measured;
use crate::plan::{Lane, Phase, Plan};
use crate::report::{LaneReport, PhaseReport, ProcessReport, RateReport};
use crate::roster::{BENCH, Usage};
use crate::window;

/// The window over which a rate limit is promised.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Sums over the events of one lane.
struct Tally {
    accepted: u64,
    delivered: u64,
    attempts: u64,
    retries: u64,
    duplicates: u64,
    missing: u64,
    expected: u64,
    accept: Latencies,
    deliver: Latencies,
    total: Latencies,
}

/// Computes the results of a phase.
pub(crate) fn assess(
    ledger: &Ledger,
    plan: &Plan,
    phase: &Phase,
    measured: Measured,
    peak_memory: &[(String, Option<u64>)],
) -> PhaseReport {
    let mut tallies: Vec<_> = plan.lanes.iter().map(|_| Tally::new()).collect();
    for event in ledger.events(measured.counted.clone()) {
        tallies[event.lane].add(ledger, &plan.lanes[event.lane], event);
    }
    let taken = taken_since(ledger, plan, &measured);
    let last = taken.iter().max().copied().unwrap_or(measured.produced);
    let delivered = taken.len() as u64;
    let posting_seconds = seconds(measured.begun, measured.produced);
    let delivering_seconds = seconds(measured.begun, last);
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
    let (expected, missing) = (sum(|tally| tally.expected), sum(|tally| tally.missing));
    let accepted = sum(|tally| tally.accepted);
    let processes = processes(&measured.before, &measured.after, delivered, peak_memory);
    let faults = measured.suffered.iter().map(|fault| catch_up(ledger, plan, fault, &measured)).collect();
    let is_here = |lane: &usize| phase.loads.iter().any(|(loaded, _)| loaded == lane);
    PhaseReport {
        name: phase.name,
        is_interrupted: measured.is_interrupted,
        posting_seconds,
        delivering_seconds,
        accepted,
        accepted_per_second: accepted as f64 / posting_seconds,
        delivered,
        delivered_per_second: delivered as f64 / delivering_seconds,
        success_rate: (expected > 0 && !measured.is_interrupted)
            .then(|| (expected - missing) as f64 / expected as f64),
        missing: (!measured.is_interrupted).then_some(missing),
        retries: sum(|tally| tally.retries),
        duplicates: sum(|tally| tally.duplicates),
        posted_again: measured.troubles.posted_again(),
        refused: measured.troubles.refused(),
        verified: measured.findings.verified,
        badly_signed: measured.findings.badly_signed,
        strays: measured.findings.strays,
        lanes: tallies
            .iter()
            .enumerate()
            .filter(|(lane, _)| is_here(lane))
            .map(|(lane, tally)| tally.report(&plan.lanes[lane], rate(ledger, plan, lane, &measured)))
            .collect(),
        cpu_ms_per_delivery: sum_of_cpu(&processes, |_| true),
        cpu_ms_per_delivery_without_bench: sum_of_cpu(&processes, |name| name != BENCH),
        statements: measured.statements,
        processes,
        faults,
        offender: BTreeMap::new(),
        lists: measured.lists,
        samples: measured.samples,
    }
}

impl Tally {
    fn new() -> Self {
        let new = Latencies::new;
        Self {
            accepted: 0,
            delivered: 0,
            attempts: 0,
            retries: 0,
            duplicates: 0,
            missing: 0,
            expected: 0,
            accept: new(),
            deliver: new(),
            total: new(),
        }
    }

    fn add(&mut self, ledger: &Ledger, lane: &Lane, event: Event) {
        if let Some(accepted) = event.accepted {
            self.accepted += 1;
            self.accept.record(event.intended, accepted);
        }
        for delivery in ledger.deliveries(event.number, lane.fan_out()) {
            self.attempts += u64::from(delivery.arrivals);
            self.duplicates += u64::from(delivery.duplicates);
            self.retries += u64::from(delivery.arrivals.saturating_sub(1 + delivery.duplicates));
            self.delivered += u64::from(delivery.taken.is_some());
            if let Some(accepted) = event.accepted
                && lane.behaviour.takes()
            {
                self.expected += 1;
                self.missing += u64::from(delivery.taken.is_none());
                if let Some(arrived) = delivery.arrived {
                    self.deliver.record(accepted, arrived);
                }
            }
            if let Some(arrived) = delivery.arrived {
                self.total.record(event.intended, arrived);
            }
        }
    }

    fn report(&self, lane: &Lane, rate: Option<RateReport>) -> LaneReport {
        LaneReport {
            name: lane.name,
            accepted: self.accepted,
            delivered: self.delivered,
            attempts: self.attempts,
            accept: self.accept.summary(),
            deliver: self.deliver.summary(),
            total: self.total.summary(),
            rate,
        }
    }
}

/// Returns when deliveries got a 2xx response since counting began. Includes those of warm-up events, because they are
/// part of the work done in that time.
fn taken_since(ledger: &Ledger, plan: &Plan, measured: &Measured) -> Vec<Nanos> {
    let events = ledger.events(measured.all.clone()).filter(|event| plan.lanes[event.lane].behaviour.takes());
    events
        .flat_map(|event| ledger.deliveries(event.number, plan.lanes[event.lane].fan_out()))
        .filter_map(|delivery| delivery.taken)
        .filter(|taken| *taken >= measured.begun)
        .collect()
}

fn processes(
    before: &[Usage],
    after: &[Usage],
    delivered: u64,
    peak_memory: &[(String, Option<u64>)],
) -> Vec<ProcessReport> {
    let report = |after: &Usage| {
        let before = before.iter().find(|before| before.name == after.name);
        let used = |before: &Usage| Some(after.cpu?.saturating_sub(before.cpu?).as_secs_f64());
        let cpu_seconds = before.and_then(used);
        let peak = peak_memory.iter().find(|(name, _)| *name == after.name);
        ProcessReport {
            name: after.name.clone(),
            cpu_seconds,
            cpu_ms_per_delivery: cpu_seconds
                .filter(|_| delivered > 0)
                .map(|seconds| seconds * 1e3 / delivered as f64),
            memory_bytes: [before.and_then(|before| before.memory), after.memory],
            peak_memory_bytes: peak.and_then(|(_, bytes)| *bytes),
        }
    };
    after.iter().map(report).collect()
}

/// Returns how well the rate limit of a lane was kept, for the endpoint that deviates most.
fn rate(ledger: &Ledger, plan: &Plan, number: usize, measured: &Measured) -> Option<RateReport> {
    let lane = &plan.lanes[number];
    let limit = lane.rate_limit?;
    let mut by_endpoint = vec![Vec::new(); lane.fan_out()];
    for event in ledger.events(measured.all.clone()).filter(|event| event.lane == number) {
        for (times, delivery) in by_endpoint.iter_mut().zip(ledger.deliveries(event.number, lane.fan_out())) {
            times.extend(delivery.arrived);
        }
    }
    let reports = by_endpoint.iter_mut().filter_map(|times| rate_of(times, limit));
    reports.reduce(|one, other| RateReport {
        limit,
        most_in_ten_seconds: one.most_in_ten_seconds.max(other.most_in_ten_seconds),
        average: one.average.min(other.average),
    })
}

fn rate_of(times: &mut [Nanos], limit: u32) -> Option<RateReport> {
    let most = window::most_within(times, RATE_WINDOW.as_nanos() as Nanos);
    let (first, last) = (*times.first()?, *times.last()?);
    let limit_per_second = f64::from(limit);
    Some(RateReport {
        limit,
        most_in_ten_seconds: most as f64 / (limit_per_second * RATE_WINDOW.as_secs_f64()),
        average: (times.len() - 1) as f64 / seconds(first, last) / limit_per_second,
    })
}

/// Reports how long after a fault every event accepted before its end was delivered.
fn catch_up(ledger: &Ledger, plan: &Plan, fault: &Suffered, measured: &Measured) -> FaultReport {
    let before = |event: &Event| event.accepted.is_some_and(|accepted| accepted <= fault.ended);
    let caught_up = ledger
        .events(measured.all.clone())
        .filter(|event| before(event) && plan.lanes[event.lane].behaviour.takes())
        .flat_map(|event| ledger.deliveries(event.number, plan.lanes[event.lane].fan_out()))
        .map(|delivery| delivery.taken)
        .try_fold(fault.ended, |latest, taken| Some(latest.max(taken?)));
    FaultReport {
        fault: fault.fault.name(),
        down_seconds: seconds(fault.began, fault.ended),
        caught_up_seconds: caught_up.map(|caught_up| seconds(fault.ended, caught_up)),
    }
}

/// Returns the sum, or `None` if the usage of one process is unknown.
fn sum_of_cpu(processes: &[ProcessReport], counts: impl Fn(&str) -> bool) -> Option<f64> {
    let counted = processes.iter().filter(|process| counts(&process.name));
    counted.map(|process| process.cpu_ms_per_delivery).sum()
}

fn seconds(from: Nanos, to: Nanos) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_kept_is_one_both_ways() {
        // 50 per second for 20 seconds.
        let mut times: Vec<Nanos> = (0..1_000).map(|n| 1 + n * 20_000_000).collect();
        let report = rate_of(&mut times, 50).expect("a report");
        assert!((report.most_in_ten_seconds - 1.0).abs() < 0.01, "{report:?}");
        assert!((report.average - 1.0).abs() < 0.01, "{report:?}");
        // A burst is found wherever it is.
        times.extend((0..100).map(|n| 5_000_000_000 + n));
        let report = rate_of(&mut times, 50).expect("a report");
        assert!(report.most_in_ten_seconds > 1.15, "{report:?}");
    }

    #[test]
    fn cpu_time_is_unknown_where_a_process_is() {
        let usage = |name: &str, seconds: Option<u64>| Usage {
            name: name.to_owned(),
            cpu: seconds.map(Duration::from_secs),
            memory: Some(1),
        };
        let before = [usage("api", Some(1)), usage("other", None)];
        let after = [usage("api", Some(3)), usage("other", Some(1))];
        let reports = processes(&before, &after, 1_000, &[("api".to_owned(), Some(7))]);
        assert_eq!(reports[0].cpu_ms_per_delivery, Some(2.0));
        assert_eq!(reports[0].peak_memory_bytes, Some(7));
        assert_eq!(reports[1].cpu_seconds, None);
        assert_eq!(sum_of_cpu(&reports, |_| true), None);
        assert_eq!(sum_of_cpu(&reports, |name| name == "api"), Some(2.0));
    }
}
