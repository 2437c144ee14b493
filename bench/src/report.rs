//! What was found, for machines; `table` shows it to people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::faults::FaultReport;
use crate::latency::Latency;
use crate::machine::Machine;
use crate::reader::ListReport;
use crate::sampler::Sample;
use crate::scenario::Scenario;
use crate::statements::Statement;

/// All that a run found. What cannot be known is null.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was measured.
    pub scenario: Scenario,
    /// Of the bench.
    pub version: &'static str,
    /// RFC 3339.
    pub started_at: String,
    /// Where the bench ran.
    pub machine: Machine,
    /// The API that was named; null: a private installation with fsync on, on the same machine.
    pub api: Option<String>,
    /// The settings that decide.
    pub settings: Settings,
    /// One or two parts, each measured by itself.
    pub phases: Vec<PhaseReport>,
    /// What is not as it must be. The exit status is 1 where there is anything.
    pub failures: Vec<String>,
    /// What was made and could not be removed.
    pub left_behind: Vec<String>,
}

/// The settings that decide.
#[derive(Debug, Serialize)]
pub struct Settings {
    /// Connections to the API.
    pub connections: usize,
    /// Bytes of each event's `data`.
    pub payload_bytes: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Events per second of open loops; null: none was set.
    pub rate: Option<u64>,
    /// Decides payloads and failures.
    pub seed: u64,
}

/// One part of a scenario.
#[derive(Debug, Serialize)]
pub struct PhaseReport {
    /// What it is called.
    pub name: &'static str,
    /// True where somebody ended it before its time; whether anything is missing is then unknown.
    pub is_interrupted: bool,
    /// From the end of the warm-up until no more was posted.
    pub posting_seconds: f64,
    /// From the end of the warm-up until the last delivery.
    pub delivering_seconds: f64,
    /// Events that got their 202 after the warm-up.
    pub accepted: u64,
    /// Over the time in which events were posted.
    pub accepted_per_second: f64,
    /// Deliveries that were taken after the warm-up.
    pub delivered: u64,
    /// Over the time until the last of them.
    pub delivered_per_second: f64,
    /// Deliveries that arrived, of those that were acknowledged; from 0 to 1.
    pub success_rate: Option<f64>,
    /// Acknowledged and never delivered; null: the run was interrupted.
    pub missing: Option<u64>,
    /// Attempts after the first that were made because one had failed.
    pub retries: u64,
    /// Attempts that came although one had been answered 2xx.
    pub duplicates: u64,
    /// Posts that were repeated, for want of an answer or because of a 429 or a 5xx.
    pub posted_again: u64,
    /// Events that were refused, by what was answered.
    pub refused: BTreeMap<String, u64>,
    /// Webhooks whose signatures were checked, in all phases so far.
    pub verified: u64,
    /// Those that were wrong.
    pub badly_signed: u64,
    /// Requests that belong to no event of this run.
    pub strays: u64,
    /// By tenant or kind of endpoint.
    pub lanes: Vec<LaneReport>,
    /// By process.
    pub processes: Vec<ProcessReport>,
    /// CPU time of all processes for a delivery; null where one of them is unknown.
    pub cpu_ms_per_delivery: Option<f64>,
    /// The same without the bench.
    pub cpu_ms_per_delivery_without_bench: Option<f64>,
    /// What PostgreSQL spent its time on, where that was asked for.
    pub statements: Option<Vec<Statement>>,
    /// What was done to the services.
    pub faults: Vec<FaultReport>,
    /// What the offender of scenario `tenants` was answered, and how often.
    pub offender: BTreeMap<String, u64>,
    /// How the API's lists were answered meanwhile.
    pub lists: Vec<ListReport>,
    /// How it went over time.
    pub samples: Vec<Sample>,
}

/// Events of one kind.
#[derive(Debug, Serialize)]
pub struct LaneReport {
    /// What it is called.
    pub name: &'static str,
    /// Events that got their 202.
    pub accepted: u64,
    /// Deliveries that were taken.
    pub delivered: u64,
    /// Attempts that arrived.
    pub attempts: u64,
    /// From the time at which an event was to be posted to its 202.
    pub accept: Option<Latency>,
    /// From the 202 to the arrival of the first attempt; zero where that overtook the 202.
    pub deliver: Option<Latency>,
    /// From the time at which an event was to be posted to the arrival of the first attempt.
    pub total: Option<Latency>,
    /// Where the lane has a rate limit.
    pub rate: Option<RateReport>,
}

/// How a rate limit was kept, for the endpoint that departs from it most.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RateReport {
    /// Requests per second.
    pub limit: u32,
    /// The most that came within any ten seconds, of what the limit lets through in these; 1 is the limit.
    pub most_in_ten_seconds: f64,
    /// What came from the first to the last, of what the limit lets through in that time.
    pub average: f64,
}

/// A process, or all that bear the same name.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessReport {
    /// What it is.
    pub name: String,
    /// CPU time in the phase.
    pub cpu_seconds: Option<f64>,
    /// The same for each delivery.
    pub cpu_ms_per_delivery: Option<f64>,
    /// Resident memory after the warm-up and at the end of the phase.
    pub memory_bytes: [Option<u64>; 2],
    /// The most memory since it started.
    pub peak_memory_bytes: Option<u64>,
}
