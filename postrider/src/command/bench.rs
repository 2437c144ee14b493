//! `postrider bench`: runs a scenario and prints its report.

use anyhow::{Context as _, bail};
use clap::ArgMatches;
use postrider_bench as bench;

use super::{print, signals};

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let options = bench::options(matches)?;
    let shutdown = signals::shutdown()?;
    let report = bench::run(&options, shutdown).await?;
    match matches.get_one::<String>("json").map(String::as_str) {
        Some("-") => print(&json(&report)?)?,
        Some(path) => {
            std::fs::write(path, json(&report)?).with_context(|| format!("cannot write {path}"))?;
            print(&bench::table(&report))?;
        }
        None => print(&bench::table(&report))?,
    }
    if !report.failures.is_empty() {
        bail!("{}", report.failures.join("; "));
    }
    Ok(())
}

fn json(report: &bench::Report) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(report)?))
}
