//! The flags of `postrider bench`.

mod read;

use std::path::PathBuf;

use clap::builder::{EnumValueParser, PossibleValue};
use clap::{Arg, ArgAction, Command, ValueEnum, value_parser};
use url::Url;

pub use read::options;

use crate::payload::LEAST_BYTES;
use crate::{Fault, Offender, Scenario};

/// Returns the subcommand and its flags.
#[must_use]
pub fn command() -> Command {
    Command::new("bench")
        .about("Measure an installation under load: throughput, latency, CPU time and lost events")
        .long_about(
            "Measure an installation under load: throughput, latency, CPU time and lost events.\n\n\
             Without --api, it starts its own PostgreSQL (with fsync on), Redis and the three services, in a \
             directory that is removed at the end. Traffic goes only to the API and from there to the receiver \
             of the bench. The exit status is 1 if the run has failures, for example if an acknowledged event \
             did not arrive.",
        )
        .arg(
            Arg::new("scenario")
                .value_name("SCENARIO")
                .required(true)
                .ignore_case(true)
                .value_parser(EnumValueParser::<Scenario>::new())
                .help("Scenario to measure"),
        )
        .args(installation())
        .args(knobs())
        .args(faults())
        .args([
            Arg::new("only")
                .long("only")
                .value_name("OFFENDER,…")
                .value_delimiter(',')
                .value_parser(EnumValueParser::<Offender>::new())
                .help("Offenders to run next to the victim in scenario tenants [default: all, one after the \
                       other]"),
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .num_args(0..=1)
                .default_missing_value("-")
                .help("Write the report as JSON to FILE. Without FILE, print JSON instead of the table"),
            Arg::new("statements")
                .long("statements")
                .action(ArgAction::SetTrue)
                .help("Show which statements the private PostgreSQL spent its time on; always on in \
                       scenario grow"),
            Arg::new("data-dir")
                .long("data-dir")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Directory for the data of the private servers, which is kept [default: a directory \
                       in /var/tmp that is removed]"),
        ])
}

/// Flags for the installation to measure, and how it reaches the receiver.
fn installation() -> Vec<Arg> {
    vec![
        Arg::new("api")
            .long("api")
            .value_name("URL")
            .value_parser(value_parser!(Url))
            .help("Root URL of the API to measure. Without it, a private installation is measured"),
        Arg::new("admin-token")
            .long("admin-token")
            .env("POSTRIDER_ADMIN_TOKEN")
            .hide_env_values(true)
            .value_name("TOKEN")
            .help(
                "Admin token, with which the bench creates its own applications and deletes them afterwards",
            ),
        Arg::new("api-key")
            .long("api-key")
            .env("POSTRIDER_API_KEY")
            .hide_env_values(true)
            .value_name("KEY")
            .help("API key to use instead of an admin token; its application must have no endpoints"),
        Arg::new("application")
            .long("application")
            .value_name("ID")
            .help("Id of the application of the API key"),
        Arg::new("receiver-listen")
            .long("receiver-listen")
            .value_name("ADDRESS")
            .value_parser(value_parser!(std::net::SocketAddr))
            .default_value("127.0.0.1:0")
            .help("Address that the receiver listens on; port 0 means any free port"),
        Arg::new("receiver-url")
            .long("receiver-url")
            .value_name("URL")
            .value_parser(value_parser!(Url))
            .help("URL at which the installation reaches the receiver, if it is not the listen address"),
        Arg::new("metrics-url")
            .long("metrics-url")
            .value_name("URL")
            .value_parser(value_parser!(Url))
            .action(ArgAction::Append)
            .help(
                "URL of metrics; those of the relay contain the depth of the queue [default: /metrics of \
                   the API]",
            ),
        Arg::new("database-url").long("database-url").value_name("URL").help(
            "Database of the installation, for scenario grow only; the rows that it creates there are \
                   not removed",
        ),
        Arg::new("process").long("process").value_name("NAME=PID").action(ArgAction::Append).help(
            "Process of the given installation on this machine whose CPU time is reported; \
                   `postgresql` includes its child processes",
        ),
    ]
}

/// Flags that determine how much is posted. The defaults depend on the scenario.
fn knobs() -> Vec<Arg> {
    let number = |name: &'static str, value: &'static str, least: u64, help: &'static str| {
        Arg::new(name).long(name).value_name(value).value_parser(value_parser!(u64).range(least..)).help(help)
    };
    vec![
        number("events", "COUNT", 1, "Maximum number of events to publish"),
        number("duration", "SECONDS", 1, "How long to publish events after the warm-up"),
        number("warm-up", "SECONDS", 0, "Length of the warm-up, which is not measured"),
        number("connections", "COUNT", 1, "Number of connections to the API"),
        number("payload", "BYTES", LEAST_BYTES as u64, "Size of each event's `data` [default: 512]"),
        number(
            "endpoints",
            "COUNT",
            1,
            "Number of receiving endpoints; this is the fan-out if each event \
                                         goes to all of them",
        ),
        number("rate", "EVENTS", 1, "Events per second in scenarios with a fixed rate (open loop)"),
        number("rate-limit", "REQUESTS", 1, "Requests per second of the limited endpoint [default: 100]"),
        number(
            "fail-percent",
            "PERCENT",
            0,
            "Percentage of first attempts that scenario f responds to with \
                                              500 [default: 20]",
        ),
        number("seed", "NUMBER", 0, "Seed for the payloads and for which attempts fail [default: 1]"),
        number(
            "patience",
            "SECONDS",
            1,
            "After this long without an arrival, open deliveries count as missing [default: 30]",
        ),
        number("stored", "COUNT", 1, "Number of deliveries that scenario grow stores [default: 1000000]"),
        number(
            "backlog",
            "COUNT",
            0,
            "Number of deliveries that scenario grow leaves open [default: 100000]",
        ),
        Arg::new("verify-all")
            .long("verify-all")
            .action(ArgAction::SetTrue)
            .help("Verify every signature instead of one in a hundred"),
    ]
}

fn faults() -> [Arg; 2] {
    [
        Arg::new("faults")
            .long("faults")
            .value_name("FAULT,…")
            .value_delimiter(',')
            .value_parser(EnumValueParser::<Fault>::new())
            .help("Faults that scenario g injects, in turn [default: deliverer,flush,relay,api,all]"),
        Arg::new("fault-interval")
            .long("fault-interval")
            .value_name("SECONDS")
            .value_parser(value_parser!(u64).range(1..))
            .help("How long scenario g waits before each fault [default: 4]"),
    ]
}

impl ValueEnum for Fault {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Api, Self::Relay, Self::Deliverer, Self::All, Self::Flush, Self::Redis, Self::Postgres]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
