//! The report of a run, for people.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::latency::Latency;
use crate::reader::ListReport;
use crate::report::{LaneReport, PhaseReport, Report};
use crate::sampler::Sample;
use crate::scenario::Scenario;
use crate::statements::Statement;
use crate::tenants;

/// Shown for values that are unknown.
const UNKNOWN: &str = "unknown";
/// Maximum samples that are shown.
const MOMENTS: usize = 12;
/// Maximum refusals that are shown.
const REFUSALS: usize = 5;

/// Returns the whole report as text.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    let what = report.api.as_deref().unwrap_or("a private installation, PostgreSQL with fsync on");
    line(&mut text, "scenario", &format!("{:?}", report.scenario).to_lowercase());
    line(&mut text, "measured", &format!("{what}; postrider {}", report.version));
    let model = machine.cpu_model.as_deref().unwrap_or("processors of an unknown kind");
    let cpus = or_unknown(machine.cpus.map(|cpus| cpus.to_string()));
    line(&mut text, "machine of the bench", &format!("{cpus} × {model}, {}", machine.system));
    let settings = &report.settings;
    let rate = settings.rate.map(|rate| format!(", {rate} events/s")).unwrap_or_default();
    let (connections, endpoints) = (settings.connections, settings.endpoints);
    line(
        &mut text,
        "settings",
        &format!(
            "connections {connections}, endpoints {endpoints}, payload {} bytes{rate}, seed {}",
            settings.payload_bytes, settings.seed
        ),
    );
    if report.scenario == Scenario::Tenants {
        tenants::write(&mut text, &report.phases);
    } else {
        for phase in &report.phases {
            write_phase(&mut text, phase, report.phases.len() > 1);
        }
    }
    for left_behind in &report.left_behind {
        line(&mut text, "left behind", left_behind);
    }
    for failure in &report.failures {
        line(&mut text, "FAILED", failure);
    }
    text
}

fn write_phase(text: &mut String, phase: &PhaseReport, is_one_of_many: bool) {
    if is_one_of_many {
        let _ = writeln!(text, "\n— {} —", phase.name);
    }
    let _ = writeln!(text);
    if phase.is_interrupted {
        let _ = writeln!(text, "interrupted: of what had not arrived by then, nothing is known");
    }
    let rate =
        |count: u64, per_second: f64, seconds: f64| format!("{per_second:.0}/s  ({count} in {seconds:.1} s)");
    line(text, "accepted", &rate(phase.accepted, phase.accepted_per_second, phase.posting_seconds));
    line(text, "delivered", &rate(phase.delivered, phase.delivered_per_second, phase.delivering_seconds));
    let percent = phase.success_rate.map(|rate| format!("{:.3} %", rate * 100.0));
    line(text, "success rate", &or_unknown(percent));
    let missing = or_unknown(phase.missing.map(|missing| missing.to_string()));
    line(text, "acknowledged, missing", &missing);
    line(text, "duplicates", &phase.duplicates.to_string());
    line(text, "retries", &phase.retries.to_string());
    line(text, "posted again", &phase.posted_again.to_string());
    line(text, "signatures", &format!("{} verified, {} wrong", phase.verified, phase.badly_signed));
    if phase.strays > 0 {
        line(text, "strays", &format!("{} requests that belong to no event of this run", phase.strays));
    }
    for (answer, count) in phase.refused.iter().take(REFUSALS) {
        line(text, "refused", &format!("{count} × {answer}"));
    }
    write_latencies(text, &phase.lanes);
    write_processes(text, phase);
    write_course(text, &phase.samples);
    write_faults(text, phase);
    write_lists(text, &phase.lists);
    if let Some(statements) = &phase.statements {
        write_statements(text, statements);
    }
}

fn write_latencies(text: &mut String, lanes: &[LaneReport]) {
    let mut table = figures(["latency, ms", "p50", "p95", "p99", "max", "count"]);
    for lane in lanes {
        let stages =
            [("accept", lane.accept), ("accept → receive", lane.deliver), ("post → receive", lane.total)];
        for (stage, latency) in stages {
            let Some(latency) = latency else { continue };
            table.add_row([vec![format!("{}: {stage}", lane.name)], quantiles(&latency)].concat());
        }
    }
    write(text, &table);
    for lane in lanes {
        let Some(rate) = lane.rate else { continue };
        let (most, average) = (rate.most_in_ten_seconds * 100.0, rate.average * 100.0);
        let _ = writeln!(
            text,
            "{}: limit {}/s, at most {most:.1} % of it in any ten seconds, {average:.1} % on average",
            lane.name, rate.limit
        );
    }
}

fn write_processes(text: &mut String, phase: &PhaseReport) {
    let mut table = figures(["process", "CPU s", "CPU ms/delivery", "MB before", "MB after", "MB at most"]);
    let megabytes = |bytes: Option<u64>| or_unknown(bytes.map(|bytes| format!("{:.1}", bytes as f64 / 1e6)));
    let ms = |ms: Option<f64>| or_unknown(ms.map(|ms| format!("{ms:.4}")));
    for process in &phase.processes {
        let [before, after] = process.memory_bytes;
        table.add_row([
            process.name.clone(),
            or_unknown(process.cpu_seconds.map(|seconds| format!("{seconds:.2}"))),
            ms(process.cpu_ms_per_delivery),
            megabytes(before),
            megabytes(after),
            megabytes(process.peak_memory_bytes),
        ]);
    }
    table.add_row(["all".to_owned(), String::new(), ms(phase.cpu_ms_per_delivery)]);
    table.add_row([
        "without the bench".to_owned(),
        String::new(),
        ms(phase.cpu_ms_per_delivery_without_bench),
    ]);
    write(text, &table);
}

/// Writes some of the samples, evenly spaced, including the last one.
fn write_course(text: &mut String, samples: &[Sample]) {
    let mut table = figures(["second", "accepted", "delivered", "open", "waiting"]);
    let step = samples.len().div_ceil(MOMENTS).max(1);
    for sample in samples.iter().rev().step_by(step).collect::<Vec<_>>().into_iter().rev() {
        table.add_row([
            format!("{:.1}", sample.seconds),
            sample.accepted.to_string(),
            sample.delivered.to_string(),
            sample.open.to_string(),
            or_unknown(sample.waiting.map(|waiting| waiting.to_string())),
        ]);
    }
    write(text, &table);
}

fn write_faults(text: &mut String, phase: &PhaseReport) {
    if phase.faults.is_empty() {
        return;
    }
    let mut table = figures(["fault", "down s", "then caught up in s"]);
    for fault in &phase.faults {
        let caught_up = fault.caught_up_seconds.map_or_else(|| "never".to_owned(), |s| format!("{s:.2}"));
        table.add_row([fault.fault.to_string(), format!("{:.2}", fault.down_seconds), caught_up]);
    }
    write(text, &table);
}

fn write_lists(text: &mut String, lists: &[ListReport]) {
    if lists.is_empty() {
        return;
    }
    let mut table = figures(["list, ms", "p50", "p95", "p99", "max", "count", "failed"]);
    for ListReport { path, latency, failures } in lists {
        let quantiles = latency.as_ref().map_or_else(|| vec!["—".to_owned(); 5], quantiles);
        table.add_row([vec![path.to_string()], quantiles, vec![failures.to_string()]].concat());
    }
    write(text, &table);
}

fn write_statements(text: &mut String, statements: &[Statement]) {
    let mut table = figures([
        "statement",
        "calls",
        "total ms",
        "mean ms",
        "plans",
        "plan ms",
        "rows",
        "pages",
        "WAL bytes",
    ]);
    for statement in statements {
        table.add_row([
            statement.name.clone(),
            statement.calls.to_string(),
            format!("{:.0}", statement.total_ms),
            format!("{:.3}", statement.mean_ms),
            statement.plans.to_string(),
            format!("{:.0}", statement.planning_ms),
            format!("{:.1}", statement.rows_per_call),
            format!("{:.0}", statement.pages_per_call),
            format!("{:.0}", statement.wal_bytes_per_call),
        ]);
    }
    write(text, &table);
}

/// Creates a table without borders. The first column is aligned left, all others, which are numbers, right.
pub(crate) fn figures<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Writes an empty line and a table.
pub(crate) fn write(text: &mut String, table: &Table) {
    let _ = writeln!(text, "\n{}", table.trim_fmt());
}

fn quantiles(latency: &Latency) -> Vec<String> {
    let Latency { count, p50_ms, p95_ms, p99_ms, max_ms } = latency;
    let ms = [p50_ms, p95_ms, p99_ms, max_ms].map(|ms| format!("{ms:.2}"));
    [&ms[..], &[count.to_string()]].concat()
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<24}{value}");
}

fn or_unknown(value: Option<String>) -> String {
    value.unwrap_or_else(|| UNKNOWN.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_aligned_right_and_lines_have_no_trailing_spaces() {
        let mut table = figures(["latency, ms", "p50", "max"]);
        table.add_row(["all: accept", "1.25", "112.50"]);
        let mut text = String::new();
        write(&mut text, &table);
        assert_eq!(text, "\nlatency, ms   p50     max\nall: accept  1.25  112.50\n");
    }
}
