//! The flags of `postrider bench`.

use std::path::PathBuf;

use clap::builder::{EnumValueParser, PossibleValue};
use clap::{Arg, ArgAction, Command, ValueEnum, value_parser};
use url::Url;

use crate::bench::{Fault, LEAST_PAYLOAD_BYTES, Offender, Scenario};

pub(super) fn command() -> Command {
    Command::new("bench")
        .about("Measure an installation under load: throughput, latency, CPU time, and whether anything is lost")
        .long_about(
            "Measure an installation under load: throughput, latency, CPU time, and whether anything is lost.\n\n\
             Without --api it starts a PostgreSQL (fsync on), a Redis and the three services, in a directory \
             that is removed in the end. Traffic goes to the API that is named, and from it to the receiver of \
             the bench, and nowhere else. The exit status is 1 where an acknowledged event did not arrive.",
        )
        .arg(
            Arg::new("scenario")
                .value_name("SCENARIO")
                .required(true)
                .ignore_case(true)
                .value_parser(EnumValueParser::<Scenario>::new())
                .help("What is measured"),
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
                .help("Who is beside the victim of scenario tenants [default: each in turn]"),
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .num_args(0..=1)
                .default_missing_value("-")
                .help("Write the report as JSON, to a file or instead of the table"),
            Arg::new("statements")
                .long("statements")
                .action(ArgAction::SetTrue)
                .help("Show what the private PostgreSQL spent its time on; scenario grow always does"),
            Arg::new("data-dir")
                .long("data-dir")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Where the private servers keep their data, which then stays [default: a directory in /var/tmp that is removed]"),
        ])
}

/// What is measured, and how it reaches the receiver.
fn installation() -> Vec<Arg> {
    vec![
        Arg::new("api")
            .long("api")
            .value_name("URL")
            .value_parser(value_parser!(Url))
            .help("The root of the API to be measured. Without it a private installation is"),
        Arg::new("admin-token")
            .long("admin-token")
            .env("POSTRIDER_ADMIN_TOKEN")
            .hide_env_values(true)
            .value_name("TOKEN")
            .help("The admin's token: the bench makes applications of its own and deletes them"),
        Arg::new("api-key")
            .long("api-key")
            .env("POSTRIDER_API_KEY")
            .hide_env_values(true)
            .value_name("KEY")
            .help("In place of the admin's token: a key of an application without endpoints"),
        Arg::new("application")
            .long("application")
            .value_name("ID")
            .help("The application of the key"),
        Arg::new("receiver-listen")
            .long("receiver-listen")
            .value_name("ADDRESS")
            .value_parser(value_parser!(std::net::SocketAddr))
            .default_value("127.0.0.1:0")
            .help("Where the receiver listens; port 0 is any that is free"),
        Arg::new("receiver-url")
            .long("receiver-url")
            .value_name("URL")
            .value_parser(value_parser!(Url))
            .help("How the installation reaches the receiver, where that is another address"),
        Arg::new("metrics-url")
            .long("metrics-url")
            .value_name("URL")
            .value_parser(value_parser!(Url))
            .action(ArgAction::Append)
            .help("Where metrics are served: those of the relay tell the depth of the queue [default: /metrics of the API]"),
        Arg::new("database-url")
            .long("database-url")
            .value_name("URL")
            .help("The database of the installation, for scenario grow alone, which makes rows in it that stay"),
        Arg::new("process")
            .long("process")
            .value_name("NAME=PID")
            .action(ArgAction::Append)
            .help("A process of the given installation on this machine, whose CPU time is to be told; `postgresql` with its children"),
    ]
}

/// What decides how much is posted. The defaults depend on the scenario.
fn knobs() -> Vec<Arg> {
    let number = |name: &'static str, value: &'static str, least: u64, help: &'static str| {
        Arg::new(name).long(name).value_name(value).value_parser(value_parser!(u64).range(least..)).help(help)
    };
    vec![
        number("events", "COUNT", 1, "Events that are posted at most"),
        number("duration", "SECONDS", 1, "How long events are posted, after the warm-up"),
        number("warm-up", "SECONDS", 0, "How long nothing is measured"),
        number("connections", "COUNT", 1, "Connections to the API"),
        number("payload", "BYTES", LEAST_PAYLOAD_BYTES as u64, "Size of each event's `data` [default: 512]"),
        number("endpoints", "COUNT", 1, "Endpoints that receive; the fan-out, where each event goes to all"),
        number("rate", "EVENTS", 1, "Events per second of open loops"),
        number("rate-limit", "REQUESTS", 1, "Requests per second of the limited endpoint [default: 100]"),
        number("fail-percent", "PERCENT", 0, "First attempts that scenario f answers 500 [default: 20]"),
        number("seed", "NUMBER", 0, "Decides the payloads, and which attempts fail [default: 1]"),
        number(
            "patience",
            "SECONDS",
            1,
            "How long nothing may arrive until what is open is missing [default: 30]",
        ),
        number("stored", "COUNT", 1, "Deliveries that scenario grow stores [default: 1000000]"),
        number("backlog", "COUNT", 0, "Deliveries that scenario grow leaves open [default: 100000]"),
        Arg::new("verify-all")
            .long("verify-all")
            .action(ArgAction::SetTrue)
            .help("Verify every signature, not one in a hundred"),
    ]
}

fn faults() -> [Arg; 2] {
    [
        Arg::new("faults")
            .long("faults")
            .value_name("FAULT,…")
            .value_delimiter(',')
            .value_parser(EnumValueParser::<Fault>::new())
            .help("What scenario g does, again and again [default: deliverer,flush,relay,api,all]"),
        Arg::new("fault-interval")
            .long("fault-interval")
            .value_name("SECONDS")
            .value_parser(value_parser!(u64).range(1..))
            .help("How long scenario g waits before each [default: 4]"),
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
