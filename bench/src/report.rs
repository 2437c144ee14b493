//! The report of a run, for programs. `table` renders it for people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::faults::FaultReport;
use crate::latency::Latency;
use crate::machine::Machine;
use crate::reader::ListReport;
use crate::sampler::Sample;
use crate::scenario::Scenario;
use crate::statements::Statement;

/// All results of a run. Values that are unknown are null.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: Scenario,
    /// Version of the bench.
    pub version: &'static str,
    /// Start of the run, RFC 3339.
    pub started_at: String,
    /// The machine that the bench ran on.
    pub machine: Machine,
    /// URL of the given API; null for a private installation, with fsync on, on the same machine.
    pub api: Option<String>,
    /// The settings that affect the results.
    pub settings: Settings,
    /// One or two phases, each measured on its own.
    pub phases: Vec<PhaseReport>,
    /// Failures. If there are any, the exit status is 1.
    pub failures: Vec<String>,
    /// Applications and endpoints that could not be removed.
    pub left_behind: Vec<String>,
}

/// The settings that affect the results.
#[derive(Debug, Serialize)]
pub struct Settings {
    /// Connections to the API.
    pub connections: usize,
    /// Size of each event's `data`, in bytes.
    pub payload_bytes: usize,
    /// Number of endpoints.
    pub endpoints: usize,
    /// Events per second of open loops; null if none was set.
    pub rate: Option<u64>,
    /// Determines payloads and failures.
    pub seed: u64,
}

/// The results of one phase.
#[derive(Debug, Serialize)]
pub struct PhaseReport {
    /// Name of the phase.
    pub name: &'static str,
    /// Whether it was interrupted. It is then unknown whether deliveries are missing.
    pub is_interrupted: bool,
    /// Seconds from the end of the warm-up until posting ended.
    pub posting_seconds: f64,
    /// Seconds from the end of the warm-up until the last delivery.
    pub delivering_seconds: f64,
    /// Events that got their 202 response after the warm-up.
    pub accepted: u64,
    /// Mean over the time in which events were posted.
    pub accepted_per_second: f64,
    /// Deliveries that got a 2xx response after the warm-up.
    pub delivered: u64,
    /// Mean over the time until the last of them.
    pub delivered_per_second: f64,
    /// Share of expected deliveries that arrived, from 0 to 1.
    pub success_rate: Option<f64>,
    /// Deliveries of accepted events that never arrived; null if the run was interrupted.
    pub missing: Option<u64>,
    /// Attempts after the first that followed a failed attempt.
    pub retries: u64,
    /// Attempts that arrived after one had got a 2xx response.
    pub duplicates: u64,
    /// Posts that were repeated because there was no response, or because of a 429 or a 5xx.
    pub posted_again: u64,
    /// Events that were refused, by response.
    pub refused: BTreeMap<String, u64>,
    /// Webhooks whose signatures were checked, in all phases so far.
    pub verified: u64,
    /// Webhooks with a wrong signature.
    pub badly_signed: u64,
    /// Requests that belong to no event of this run.
    pub strays: u64,
    /// Results by tenant or kind of endpoint.
    pub lanes: Vec<LaneReport>,
    /// Usage by process.
    pub processes: Vec<ProcessReport>,
    /// CPU time of all processes per delivery; null if the usage of one is unknown.
    pub cpu_ms_per_delivery: Option<f64>,
    /// The same without the bench.
    pub cpu_ms_per_delivery_without_bench: Option<f64>,
    /// The statements that PostgreSQL spent its time on, if requested.
    pub statements: Option<Vec<Statement>>,
    /// The faults that were caused.
    pub faults: Vec<FaultReport>,
    /// Number of responses of each kind to the offender of scenario `tenants`.
    pub offender: BTreeMap<String, u64>,
    /// How the API's lists performed during the phase.
    pub lists: Vec<ListReport>,
    /// The course over time.
    pub samples: Vec<Sample>,
}

/// The results of one lane.
#[derive(Debug, Serialize)]
pub struct LaneReport {
    /// Name of the lane.
    pub name: &'static str,
    /// Events that got their 202 response.
    pub accepted: u64,
    /// Deliveries that got a 2xx response.
    pub delivered: u64,
    /// Attempts that arrived.
    pub attempts: u64,
    /// Time from when an event should have been posted to its 202 response.
    pub accept: Option<Latency>,
    /// Time from the 202 response to the arrival of the first attempt; 0 if the attempt arrived first.
    pub deliver: Option<Latency>,
    /// Time from when an event should have been posted to the arrival of the first attempt.
    pub total: Option<Latency>,
    /// Only if the lane has a rate limit.
    pub rate: Option<RateReport>,
}

/// How well a rate limit was kept, for the endpoint that deviates most.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RateReport {
    /// The limit, in requests per second.
    pub limit: u32,
    /// Maximum requests within any ten seconds, relative to the limit; 1 is exactly the limit.
    pub most_in_ten_seconds: f64,
    /// Mean rate from the first to the last request, relative to the limit.
    pub average: f64,
}

/// The usage of a process, or of all processes with the same name.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessReport {
    /// Name of the processes, such as `api` or `postgresql`.
    pub name: String,
    /// CPU time during the phase.
    pub cpu_seconds: Option<f64>,
    /// CPU time per delivery.
    pub cpu_ms_per_delivery: Option<f64>,
    /// Resident memory after the warm-up and at the end of the phase.
    pub memory_bytes: [Option<u64>; 2],
    /// Highest memory usage since it started.
    pub peak_memory_bytes: Option<u64>,
}
