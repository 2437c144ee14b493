//! The command line. Every setting is a flag and an environment variable, and `--help` lists both.

use clap::{Arg, ArgAction, ArgMatches, Command};
use postrider_runtime::config::{SETTINGS, Service, Setting, Source};

/// Default address of `receive` and of the demo's receiver.
pub const RECEIVER_LISTEN: &str = "127.0.0.1:9000";

/// Returns the whole command line.
#[must_use]
pub fn command() -> Command {
    Command::new("postrider")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Delivers webhooks: every accepted event is delivered, or ends as a dead letter that you can \
                see.",
        )
        .after_help(
            "Every setting NAME can also be read from a file that NAME_FILE points to. See \
                     `postrider up --help`.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([
            with_settings(up(), Service::Up),
            with_settings(
                Command::new("api").about("Serve the HTTP API, the specification and Swagger UI"),
                Service::Api,
            ),
            with_settings(
                Command::new("relay").about(
                    "Move due deliveries from the outbox to Redis, and run sweeps \
                                             and reconciliation",
                ),
                Service::Relay,
            ),
            with_settings(
                Command::new("deliverer").about("Sign and send webhooks, and record the attempts"),
                Service::Deliverer,
            ),
            with_settings(
                Command::new("migrate").about(
                    "Migrate the database schema to this version; services can \
                                               keep running",
                ),
                Service::Migrate,
            ),
            with_settings(
                Command::new("rekey").about(
                    "Encrypt all secrets with the first master key; services can keep running if \
                            they have all keys",
                ),
                Service::Rekey,
            ),
            Command::new("openapi").about("Print the OpenAPI specification of the API"),
            health(),
            receive(),
            postrider_bench::command(),
        ])
}

fn up() -> Command {
    Command::new("up")
        .about("Run everything in one process: migrations, API, relay and deliverer")
        .long_about(
            "Run everything in one process: migrations, API, relay and deliverer.\n\n\
             Without DATABASE_URL and REDIS_URL, it starts its own PostgreSQL and Redis from the installed \
             programs, with their data in POSTRIDER_DATA_DIR. The API serves the metrics and health of all \
             services.",
        )
        .arg(Arg::new("demo").long("demo").action(ArgAction::SetTrue).help(
            "Also run a receiver, send it a few webhooks and show the result; allows webhooks to \
                       127.0.0.1",
        ))
        .arg(Arg::new("once").long("once").action(ArgAction::SetTrue).requires("demo").help(
            "Exit after the demo, with status 0 if every event arrived and its signature was \
                       verified",
        ))
        .arg(
            Arg::new("receiver-listen")
                .long("receiver-listen")
                .value_name("ADDRESS")
                .default_value(RECEIVER_LISTEN)
                .help("Address that the receiver of the demo listens on"),
        )
}

fn health() -> Command {
    Command::new("health")
        .about("Check whether a service on this machine is ready; the exit status is 0 if it is")
        .arg(
            Arg::new("service")
                .value_name("SERVICE")
                .value_parser(["api", "relay", "deliverer"])
                .default_value("api")
                .help("Service to check, at the address in its POSTRIDER_…_LISTEN setting"),
        )
        .arg(
            Arg::new("live").long("live").action(ArgAction::SetTrue).help(
                "Only check whether the service is running, not whether its dependencies are available",
            ),
        )
}

fn receive() -> Command {
    Command::new("receive")
        .about("Receive webhooks at /webhook, verify their signatures and print a line for each")
        .arg(
            Arg::new("listen")
                .long("listen")
                .env("POSTRIDER_RECEIVER_LISTEN")
                .value_name("ADDRESS")
                .default_value(RECEIVER_LISTEN)
                .help("Address to listen on"),
        )
        .arg(
            Arg::new("secret")
                .long("secret")
                .env("POSTRIDER_RECEIVER_SECRET")
                .hide_env_values(true)
                .value_name("WHSEC")
                .value_delimiter(',')
                .action(ArgAction::Append)
                .help(
                    "Secret of the endpoint (whsec_…), or several during a rotation. Without it, \
                       signatures are not verified",
                ),
        )
        .arg(
            Arg::new("fail-first")
                .long("fail-first")
                .value_name("COUNT")
                .value_parser(clap::value_parser!(u32))
                .default_value("0")
                .help("Respond to the first COUNT attempts of every webhook with 500"),
        )
        .arg(
            Arg::new("delay-ms")
                .long("delay-ms")
                .value_name("MILLISECONDS")
                .value_parser(clap::value_parser!(u64))
                .default_value("0")
                .help("Wait this long before every response"),
        )
}

fn with_settings(command: Command, service: Service) -> Command {
    let concerned = SETTINGS.iter().filter(|setting| setting.services.contains(&service));
    command.args(concerned.map(|setting| argument(setting)))
}

fn argument(setting: &Setting) -> Arg {
    let help = match setting.default {
        Some(default) => format!("{} [default: {default}]", setting.help),
        None => setting.help.to_owned(),
    };
    Arg::new(setting.env)
        .long(setting.flag())
        .env(setting.env)
        .hide_env_values(setting.is_secret)
        .value_name(setting.value_name)
        .help(help)
}

/// Gathers all settings from flags, environment, files and defaults.
#[must_use]
pub fn source(matches: &ArgMatches) -> Source {
    let environment = |name: &str| std::env::var(name).ok();
    // Clap does not read the environment for settings that are not arguments of this subcommand.
    let given = |setting: &Setting| {
        let argument = matches.try_get_one::<String>(setting.env).ok().flatten();
        argument.cloned().or_else(|| environment(setting.env))
    };
    Source::gather(given, environment)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
