//! What was found, for people.

use std::fmt::Write as _;

use super::latency::Latency;
use super::reader::ListReport;
use super::report::{LaneReport, PhaseReport, ProcessReport, Report};
use super::sampler::Sample;
use super::scenario::Scenario;
use super::statements::Statement;
use super::tenants;

/// What stands where nothing is known.
const UNKNOWN: &str = "unknown";
/// Moments of the course that are shown.
const MOMENTS: usize = 12;
/// Refusals that are shown.
const REFUSALS: usize = 5;

/// The whole report as text.
pub(super) fn render(report: &Report) -> String {
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
    let _ = writeln!(
        text,
        "\n{:<36}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "latency, ms", "p50", "p95", "p99", "max", "count"
    );
    for lane in lanes {
        let stages =
            [("accept", lane.accept), ("accept → receive", lane.deliver), ("post → receive", lane.total)];
        for (stage, latency) in stages {
            let Some(Latency { count, p50_ms, p95_ms, p99_ms, max_ms }) = latency else { continue };
            let name = format!("{}: {stage}", lane.name);
            let _ = writeln!(
                text,
                "{name:<36}{p50_ms:>10.2}{p95_ms:>10.2}{p99_ms:>10.2}{max_ms:>10.2}{count:>10}"
            );
        }
        if let Some(rate) = lane.rate {
            let _ = writeln!(
                text,
                "{}: limit {}/s, at most {:.1} % of it in any ten seconds, {:.1} % on average",
                lane.name,
                rate.limit,
                rate.most_in_ten_seconds * 100.0,
                rate.average * 100.0
            );
        }
    }
}

fn write_processes(text: &mut String, phase: &PhaseReport) {
    let _ = writeln!(
        text,
        "\n{:<18}{:>12}{:>18}{:>12}{:>12}{:>12}",
        "process", "CPU s", "CPU ms/delivery", "MB before", "MB after", "MB at most"
    );
    let megabytes = |bytes: &Option<u64>| or_unknown(bytes.map(|bytes| format!("{:.1}", bytes as f64 / 1e6)));
    let ms = |ms: &Option<f64>| or_unknown(ms.map(|ms| format!("{ms:.4}")));
    for process in &phase.processes {
        let ProcessReport { name, cpu_seconds, cpu_ms_per_delivery, memory_bytes, peak_memory_bytes } =
            process;
        let [before, after] = memory_bytes;
        let _ = writeln!(
            text,
            "{name:<18}{:>12}{:>18}{:>12}{:>12}{:>12}",
            or_unknown(cpu_seconds.map(|seconds| format!("{seconds:.2}"))),
            ms(cpu_ms_per_delivery),
            megabytes(before),
            megabytes(after),
            megabytes(peak_memory_bytes),
        );
    }
    let sums = [
        ("all", &phase.cpu_ms_per_delivery),
        ("without the bench", &phase.cpu_ms_per_delivery_without_bench),
    ];
    for (name, sum) in sums {
        let _ = writeln!(text, "{name:<18}{:>12}{:>18}", "", ms(sum));
    }
}

/// Some moments of many.
fn write_course(text: &mut String, samples: &[Sample]) {
    let _ = writeln!(
        text,
        "\n{:<10}{:>12}{:>12}{:>12}{:>12}",
        "second", "accepted", "delivered", "open", "waiting"
    );
    let step = samples.len().div_ceil(MOMENTS).max(1);
    for sample in samples.iter().rev().step_by(step).collect::<Vec<_>>().into_iter().rev() {
        let waiting = or_unknown(sample.waiting.map(|waiting| waiting.to_string()));
        let Sample { seconds, accepted, delivered, open, .. } = sample;
        let _ = writeln!(text, "{seconds:<10.1}{accepted:>12}{delivered:>12}{open:>12}{waiting:>12}");
    }
}

fn write_faults(text: &mut String, phase: &PhaseReport) {
    if phase.faults.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{:<14}{:>10}{:>22}", "fault", "down s", "then caught up in s");
    for fault in &phase.faults {
        let caught_up = fault.caught_up_seconds.map_or_else(|| "never".to_owned(), |s| format!("{s:.2}"));
        let _ = writeln!(text, "{:<14}{:>10.2}{caught_up:>22}", fault.fault, fault.down_seconds);
    }
}

fn write_lists(text: &mut String, lists: &[ListReport]) {
    if lists.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{:>10}{:>10}{:>10}{:>10}{:>10}  list, ms", "p50", "p95", "p99", "max", "count");
    for ListReport { path, latency, failures } in lists {
        match latency {
            Some(Latency { count, p50_ms, p95_ms, p99_ms, max_ms }) => {
                let figures = format!("{p50_ms:>10.2}{p95_ms:>10.2}{p99_ms:>10.2}{max_ms:>10.2}{count:>10}");
                let _ = writeln!(text, "{figures}  {path}");
            }
            None => {
                let _ = writeln!(text, "{:>50}  {path}", "no answer");
            }
        }
        if *failures > 0 {
            let _ = writeln!(text, "{:>50}  {failures} times no answer", "");
        }
    }
}

fn write_statements(text: &mut String, statements: &[Statement]) {
    let _ = writeln!(
        text,
        "\n{:<34}{:>9}{:>10}{:>9}{:>9}{:>9}{:>8}{:>8}{:>10}",
        "statement", "calls", "total ms", "mean ms", "plans", "plan ms", "rows", "pages", "WAL bytes"
    );
    for statement in statements {
        let Statement { name, calls, total_ms, mean_ms, plans, planning_ms, .. } = statement;
        let Statement { rows_per_call, pages_per_call, wal_bytes_per_call, .. } = statement;
        let _ = writeln!(
            text,
            "{name:<34}{calls:>9}{total_ms:>10.0}{mean_ms:>9.3}{plans:>9}{planning_ms:>9.0}\
             {rows_per_call:>8.1}{pages_per_call:>8.0}{wal_bytes_per_call:>10.0}"
        );
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<24}{value}");
}

fn or_unknown(value: Option<String>) -> String {
    value.unwrap_or_else(|| UNKNOWN.to_owned())
}
