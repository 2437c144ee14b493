//! Reads the flags into [`Options`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::ArgMatches;
use postrider_runtime::config::Mistakes;
use url::Url;

use crate::{Fault, Given, Offender, Options, Scenario};

/// Reads the flags of [`command`](super::command).
///
/// # Errors
/// [`Mistakes`] if flags contradict each other or have the wrong form.
pub fn options(matches: &ArgMatches) -> anyhow::Result<Options> {
    let scenario = *matches.get_one::<Scenario>("scenario").context("a scenario is required")?;
    let mut options = Options::of(scenario);
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    let count = |name: &str, default: usize| number(name).map_or(default, |number| number as usize);
    let seconds = |name: &str, default| number(name).map_or(default, Duration::from_secs);
    options.given = given(matches)?;
    if let Some(listen) = matches.get_one("receiver-listen") {
        options.receiver_listen = *listen;
    }
    options.receiver_url = matches.get_one::<Url>("receiver-url").cloned();
    options.events = number("events").or(options.events);
    options.duration = seconds("duration", options.duration);
    options.warm_up = seconds("warm-up", options.warm_up);
    options.connections = count("connections", options.connections);
    options.payload_bytes = count("payload", options.payload_bytes);
    options.endpoints = count("endpoints", options.endpoints);
    options.rate = number("rate").unwrap_or(options.rate);
    options.rate_limit = number("rate-limit").map_or(options.rate_limit, |limit| limit as u32);
    options.fail_percent = number("fail-percent").unwrap_or(options.fail_percent);
    options.seed = number("seed").unwrap_or(options.seed);
    if matches.get_flag("verify-all") {
        options.verify_every = 1;
    }
    options.patience = seconds("patience", options.patience);
    if let Some(faults) = matches.get_many::<Fault>("faults") {
        options.faults = faults.copied().collect();
    }
    if let Some(offenders) = matches.get_many::<Offender>("only") {
        options.offenders = offenders.copied().collect();
    }
    options.fault_interval = seconds("fault-interval", options.fault_interval);
    options.data_dir = matches.get_one::<PathBuf>("data-dir").cloned();
    options.stored = number("stored").unwrap_or(options.stored);
    options.backlog = number("backlog").unwrap_or(options.backlog);
    options.database_url = matches.get_one::<String>("database-url").cloned();
    // Only the statements show what a claim costs once many deliveries are stored.
    let is_of_interest = scenario == Scenario::Grow && options.given.is_none();
    options.statements = is_of_interest || matches.get_flag("statements");
    Ok(options)
}

/// Returns the installation that `--api` names.
fn given(matches: &ArgMatches) -> anyhow::Result<Option<Given>> {
    let Some(api) = matches.get_one::<Url>("api") else { return Ok(None) };
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let mut processes = Vec::new();
    let mut mistakes = Vec::new();
    for process in matches.get_many::<String>("process").unwrap_or_default() {
        match process.split_once('=').map(|(name, pid)| (name, pid.parse())) {
            Some((name, Ok(pid))) => processes.push((name.to_owned(), pid)),
            _ => mistakes.push(format!(
                "--process: `{process}` does not have the form NAME=PID, such as \
                                        `postgresql=1234`"
            )),
        }
    }
    let (application, api_key) = (text("application"), text("api-key"));
    if application.is_some() != api_key.is_some() {
        mistakes.push("--application and --api-key (POSTRIDER_API_KEY): set both or neither".to_owned());
    }
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes).into());
    }
    let mut api = api.clone();
    if !api.path().ends_with('/') {
        api.set_path(&format!("{}/", api.path()));
    }
    Ok(Some(Given {
        api,
        admin_token: text("admin-token"),
        application: application.zip(api_key),
        metrics: matches.get_many::<Url>("metrics-url").unwrap_or_default().cloned().collect(),
        processes,
    }))
}
