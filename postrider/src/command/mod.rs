//! The subcommands.

mod bench;
mod descriptors;
mod health;
mod receive;
mod rekey;
mod serve;
mod signals;
mod up;

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::ArgMatches;
use postrider_runtime::config::{Mistakes, Source};
use postrider_runtime::{failpoint, supervise, telemetry};
use postrider_store::{DatabaseConfig, migrate as schema};

pub(crate) use health::reachable;

use crate::cli;

/// Runs the subcommand on the command line. The exit status is 2 if the configuration is wrong, and 1 after any other
/// failure.
#[must_use]
pub fn run() -> ExitCode {
    let matches = cli::command().get_matches();
    let (name, matches) = matches.subcommand().expect("a subcommand is required");
    if name == "openapi" {
        return exit(print(&postrider_api::specification()));
    }
    failpoint::setup();
    descriptors::raise_limit();
    let source = cli::source(matches);
    if let Err(mistake) = telemetry::start_logging(&source) {
        return exit(Err(Mistakes(vec![mistake.to_string()]).into()));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit(Err(anyhow!(error).context("cannot start the runtime"))),
    };
    let result =
        std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(dispatch(name, matches, source))))
            .unwrap_or_else(|panic| Err(anyhow!("internal error: {}", supervise::message(panic.as_ref()))));
    // Tasks that still run have had their grace period.
    runtime.shutdown_background();
    exit(result)
}

async fn dispatch(name: &str, matches: &ArgMatches, source: Source) -> anyhow::Result<()> {
    match name {
        "up" => Box::pin(up::run(matches, source)).await,
        "api" => serve::api(&source).await,
        "relay" => serve::relay(&source).await,
        "deliverer" => serve::deliverer(&source).await,
        "migrate" => migrate(&source).await,
        "rekey" => rekey::run(&source).await,
        "health" => health::run(matches, &source).await,
        "receive" => receive::run(matches).await,
        "bench" => Box::pin(bench::run(matches)).await,
        other => Err(anyhow!("there is no command `{other}`")),
    }
}

async fn migrate(source: &Source) -> anyhow::Result<()> {
    let config = source.read(DatabaseConfig::read)?;
    let applied = schema::migrate(&config).await.context("the schema was not migrated")?;
    for migration in &applied {
        print(&format!("applied migration V{}__{}\n", migration.version, migration.name))?;
    }
    print(&format!("the schema is at version {}\n", schema::needed_version()))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

fn exit(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        telemetry::flush();
        return ExitCode::SUCCESS;
    };
    if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
        let mistakes: String = mistakes.0.iter().map(|mistake| format!("  {mistake}\n")).collect();
        telemetry::last_words(format!("postrider: the configuration is not valid:\n{mistakes}"));
        return ExitCode::from(2);
    }
    let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
    telemetry::last_words(format!("postrider: {}\n", causes.join(": ")));
    ExitCode::FAILURE
}
