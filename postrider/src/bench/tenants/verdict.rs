//! Whether an offender reached the victim.

use std::fmt::Write as _;

use crate::bench::latency::Latency;
use crate::bench::report::PhaseReport;
use crate::bench::scenario::Scenario;

/// What the victim's 99th percentile may grow by.
const MOST_GROWTH_MS: f64 = 50.0;

/// The two times that a tenant feels, of the victim.
fn stages(phase: &PhaseReport) -> [(&'static str, Option<Latency>); 2] {
    let victim = phase.lanes.first();
    [
        ("accept", victim.and_then(|lane| lane.accept)),
        ("accept → receive", victim.and_then(|lane| lane.deliver)),
    ]
}

/// How the victim fared worse beside an offender than alone, in the first phase.
pub(in crate::bench) fn failures(scenario: Scenario, phases: &[PhaseReport]) -> Vec<String> {
    let Some((alone, beside)) = phases.split_first().filter(|_| scenario == Scenario::Tenants) else {
        return Vec::new();
    };
    let mut failures = Vec::new();
    for phase in beside {
        for ((stage, without), (_, with)) in stages(alone).into_iter().zip(stages(phase)) {
            let growth = match (without, with) {
                (Some(without), Some(with)) => with.p99_ms - without.p99_ms,
                (None, _) => continue,
                (Some(_), None) => f64::INFINITY,
            };
            if growth > MOST_GROWTH_MS {
                failures.push(format!("{}: the victim's p99 of {stage} grew by {growth:.0} ms", phase.name));
            }
        }
    }
    failures
}

/// A line for each offender.
pub(in crate::bench) fn write(text: &mut String, phases: &[PhaseReport]) {
    let _ = writeln!(
        text,
        "\n{:<24}{:>9}{:>9}{:>9}{:>9}{:>7}{:>9}{:>9}  what the offender got",
        "victim, ms, beside", "acc p50", "acc p99", "rec p50", "rec p99", "sent", "received", "missing"
    );
    for phase in phases {
        let victim = phase.lanes.first();
        let [(_, accept), (_, receive)] = stages(phase);
        let ms = |latency: Option<Latency>, quantile: fn(Latency) -> f64| {
            latency.map_or_else(|| "—".to_owned(), |latency| format!("{:.1}", quantile(latency)))
        };
        let missing = phase.missing.map_or_else(|| "unknown".to_owned(), |missing| missing.to_string());
        let offender: Vec<_> =
            phase.offender.iter().map(|(what, count)| format!("{what} × {count}")).collect();
        let _ = writeln!(
            text,
            "{:<24}{:>9}{:>9}{:>9}{:>9}{:>7}{:>9}{missing:>9}  {}",
            phase.name,
            ms(accept, |latency| latency.p50_ms),
            ms(accept, |latency| latency.p99_ms),
            ms(receive, |latency| latency.p50_ms),
            ms(receive, |latency| latency.p99_ms),
            victim.map_or(0, |victim| victim.accepted),
            victim.map_or(0, |victim| victim.delivered),
            offender.join(", ")
        );
    }
}
