//! `postrider bench` runs producers and a receiver in one process, with one clock, against a given or a private
//! installation.

mod assess;
mod connection;
mod faults;
mod fixture;
mod flags;
mod grow;
mod installation;
mod latency;
mod ledger;
mod load;
mod machine;
mod measure;
mod options;
mod payload;
mod plan;
mod private;
mod process;
mod producer;
mod reader;
mod receiver;
mod report;
mod roster;
mod sampler;
mod scenario;
mod service;
mod statements;
mod table;
mod tenants;
mod window;

use std::sync::Arc;

use anyhow::bail;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use faults::FaultReport;
pub use flags::{command, options};
pub use latency::Latency;
pub use machine::Machine;
pub use options::{Fault, Given, Options};
pub use reader::ListReport;
pub use report::{LaneReport, PhaseReport, ProcessReport, RateReport, Report, Settings};
pub use sampler::Sample;
pub use scenario::Scenario;
pub use statements::Statement;
pub use tenants::Offender;

use fixture::Fixture;
use installation::Installation;
use ledger::Ledger;
use measure::Bench;
use plan::{Load, Phase, Plan};
use receiver::Receiver;
use statements::Statements;
use tenants::Attack;

/// Ledger slots per second of a load that has no limit on events.
const MOST_PER_SECOND: u64 = 50_000;
/// Bounds on a rate limit, relative to the limit: the maximum within any ten seconds, and the minimum on average.
const RATE_BOUNDS: (f64, f64) = (1.05, 0.95);

/// Runs a scenario until it ends or until `shutdown`, and removes what it created.
///
/// # Errors
/// If the scenario could not be run. Failures that the scenario found are in the report.
pub async fn run(options: &Options, shutdown: CancellationToken) -> anyhow::Result<Report> {
    check(options)?;
    let started_at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let mut found = Found::default();
    for offender in offenders(options) {
        let more = run_beside(options, offender, &shutdown).await?;
        found.phases.extend(more.phases);
        found.left_behind.extend(more.left_behind);
        if shutdown.is_cancelled() {
            break;
        }
    }
    Ok(report(options, started_at, found))
}

/// The results of a run.
#[derive(Default)]
struct Found {
    phases: Vec<PhaseReport>,
    left_behind: Vec<String>,
}

/// Returns the offenders to run beside the victim, each with an installation of its own. `None` runs the victim alone.
fn offenders(options: &Options) -> Vec<Option<Offender>> {
    let beside = if options.scenario == Scenario::Tenants { &options.offenders[..] } else { &[] };
    std::iter::once(None).chain(beside.iter().copied().map(Some)).collect()
}

async fn run_beside(
    options: &Options,
    offender: Option<Offender>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Found> {
    let mut plan = Plan::of(options);
    if let Some(offender) = offender {
        plan.phases.iter_mut().for_each(|phase| phase.name = offender.name());
    }
    let ledger = Arc::new(ledger_for(&plan));
    let receiver =
        Receiver::start(options.receiver_listen, ledger.clone(), options.seed, options.verify_every).await?;
    let mut installation = Box::pin(Installation::open(options)).await?;
    let run = run_on(options, &mut plan, offender, &mut installation, &ledger, &receiver, shutdown);
    let found = Box::pin(run).await;
    let closed = installation.close().await;
    let found = found?;
    closed?;
    Ok(found)
}

async fn run_on(
    options: &Options,
    plan: &mut Plan,
    offender: Option<Offender>,
    installation: &mut Installation,
    ledger: &Arc<Ledger>,
    receiver: &Receiver,
    shutdown: &CancellationToken,
) -> anyhow::Result<Found> {
    let statements = match (&installation.private, options.statements) {
        (Some(private), true) => Some(Statements::start(private.database_url()).await?),
        _ => None,
    };
    let url = match &options.receiver_url {
        Some(url) => url.clone(),
        None => Url::parse(&format!("http://{}/", receiver.address))?,
    };
    let fixture = Fixture::make(installation, options, plan, &url, shutdown).await?;
    receiver.expect(&fixture.run, &fixture.endpoints);
    let bench = Bench {
        options,
        installation,
        fixture: &fixture,
        ledger: ledger.clone(),
        receiver,
        statements,
        shutdown: shutdown.clone(),
    };
    let phases = measure_all(bench, plan, offender).await;
    let left_behind = match &installation.private {
        // The whole private installation is removed later.
        Some(_) => Vec::new(),
        None => fixture.remove(&installation.client).await,
    };
    Ok(Found { phases: phases?, left_behind })
}

async fn measure_all(
    mut bench: Bench<'_>,
    plan: &mut Plan,
    offender: Option<Offender>,
) -> anyhow::Result<Vec<PhaseReport>> {
    let mut phases: Vec<PhaseReport> = Vec::new();
    for index in 0..plan.phases.len() {
        if let Some(before) = phases.last() {
            plan.set_rate((before.delivered_per_second / 2.0) as u64);
        }
        let phase = &plan.phases[index];
        if let Some(growth) = phase.growth {
            bench.grow(growth, index).await?;
        }
        let stop = CancellationToken::new();
        let attack = match offender {
            Some(offender) => Some(Attack::begin(offender, bench.installation, stop.clone()).await?),
            None => None,
        };
        let measured = bench.measure(plan, phase, stop).await?;
        let peak_memory = bench.installation.roster.peak_memory();
        let mut report = assess::assess(&bench.ledger, plan, phase, measured, &peak_memory);
        if let Some(attack) = attack {
            report.offender = attack.end().await;
        }
        phases.push(report);
        if bench.shutdown.is_cancelled() {
            break;
        }
    }
    Ok(phases)
}

fn check(options: &Options) -> anyhow::Result<()> {
    let is_given = options.given.is_some();
    if is_given && options.scenario == Scenario::G {
        bail!("scenario g kills services, so it only runs on a private installation: remove --api");
    }
    if is_given && options.scenario == Scenario::Tenants {
        bail!("scenario tenants only runs on private installations: remove --api");
    }
    if is_given && options.statements {
        bail!("--statements only works with a private PostgreSQL: remove --api");
    }
    if is_given && options.scenario == Scenario::Grow && options.database_url.is_none() {
        bail!(
            "scenario grow creates rows directly in the database: set --database-url to that of the \
               installation"
        );
    }
    if options.rate == 0 && matches!(options.scenario, Scenario::Open) {
        bail!("--rate must be at least 1");
    }
    Ok(())
}

/// Returns a ledger with a slot for every event that may be posted.
fn ledger_for(plan: &Plan) -> Ledger {
    let slots = |phase: &Phase| -> u64 {
        let seconds = (phase.warm_up + phase.duration).as_secs() + 1;
        phase.loads.iter().map(|(_, load)| load.events().unwrap_or_else(|| seconds * per_second(*load))).sum()
    };
    let fan_out = plan.lanes.iter().map(plan::Lane::fan_out).max().unwrap_or(1);
    Ledger::new(plan.phases.iter().map(slots).sum(), fan_out)
}

fn per_second(load: Load) -> u64 {
    match load {
        Load::Open { rate: rate @ 1.., .. } => rate + 1,
        _ => MOST_PER_SECOND,
    }
}

fn report(options: &Options, started_at: String, found: Found) -> Report {
    let Found { phases, left_behind } = found;
    Report {
        scenario: options.scenario,
        version: env!("CARGO_PKG_VERSION"),
        started_at,
        machine: Machine::this(),
        api: options.given.as_ref().map(|given| given.api.to_string()),
        settings: Settings {
            connections: options.connections,
            payload_bytes: options.payload_bytes,
            endpoints: options.endpoints,
            rate: (options.rate > 0).then_some(options.rate),
            seed: options.seed,
        },
        failures: phases
            .iter()
            .flat_map(failures)
            .chain(tenants::failures(options.scenario, &phases))
            .collect(),
        phases,
        left_behind,
    }
}

/// Returns the failures of a phase: results that make the exit status 1.
fn failures(phase: &PhaseReport) -> Vec<String> {
    let mut failures = Vec::new();
    if let Some(missing @ 1..) = phase.missing {
        failures.push(format!("{}: {missing} acknowledged deliveries never arrived", phase.name));
    }
    if phase.badly_signed > 0 {
        failures.push(format!("{}: {} webhooks had an invalid signature", phase.name, phase.badly_signed));
    }
    let refused: u64 = phase.refused.values().sum();
    if refused > 0 {
        failures.push(format!("{}: {refused} events were refused", phase.name));
    }
    if phase.accepted == 0 {
        failures.push(format!("{}: nothing was accepted", phase.name));
    }
    let (most, least) = RATE_BOUNDS;
    for rate in phase.lanes.iter().filter_map(|lane| lane.rate) {
        if rate.most_in_ten_seconds > most || rate.average < least {
            failures.push(format!("{}: the rate limit was not kept", phase.name));
        }
    }
    failures
}

/// Returns the report as text for people.
#[must_use]
pub fn table(report: &Report) -> String {
    table::render(report)
}
