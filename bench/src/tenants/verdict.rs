//! Decides whether an offender affected the victim.

use comfy_table::CellAlignment;

use crate::latency::Latency;
use crate::report::PhaseReport;
use crate::scenario::Scenario;
use crate::table;

/// Maximum growth of the victim's 99th percentile, in milliseconds.
const MOST_GROWTH_MS: f64 = 50.0;

/// Returns the two latencies of the victim that a tenant notices.
fn stages(phase: &PhaseReport) -> [(&'static str, Option<Latency>); 2] {
    let victim = phase.lanes.first();
    [
        ("accept", victim.and_then(|lane| lane.accept)),
        ("accept → receive", victim.and_then(|lane| lane.deliver)),
    ]
}

/// Describes how the victim did worse beside an offender than alone, which is the first phase.
pub(crate) fn failures(scenario: Scenario, phases: &[PhaseReport]) -> Vec<String> {
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

/// Writes a table with a row for each offender.
pub(crate) fn write(text: &mut String, phases: &[PhaseReport]) {
    let mut table = table::figures([
        "victim, ms, beside",
        "acc p50",
        "acc p99",
        "rec p50",
        "rec p99",
        "sent",
        "received",
        "missing",
        "what the offender got",
    ]);
    if let Some(column) = table.column_mut(8) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    let ms = |latency: Option<Latency>, quantile: fn(Latency) -> f64| {
        latency.map_or_else(|| "—".to_owned(), |latency| format!("{:.1}", quantile(latency)))
    };
    for phase in phases {
        let victim = phase.lanes.first();
        let [(_, accept), (_, receive)] = stages(phase);
        let offender: Vec<_> =
            phase.offender.iter().map(|(what, count)| format!("{what} × {count}")).collect();
        table.add_row([
            phase.name.to_owned(),
            ms(accept, |latency| latency.p50_ms),
            ms(accept, |latency| latency.p99_ms),
            ms(receive, |latency| latency.p50_ms),
            ms(receive, |latency| latency.p99_ms),
            victim.map_or(0, |victim| victim.accepted).to_string(),
            victim.map_or(0, |victim| victim.delivered).to_string(),
            phase.missing.map_or_else(|| "unknown".to_owned(), |missing| missing.to_string()),
            offender.join(", "),
        ]);
    }
    table::write(text, &table);
}
