//! The command line: every setting is a flag and an environment variable, and both are told by `--help`.

mod bench;

use clap::{Arg, ArgAction, ArgMatches, Command};
use postrider_shared::config::{SETTINGS, Service, Setting, Source};

/// Where `receive` and the demo's receiver listen.
pub const RECEIVER_LISTEN: &str = "127.0.0.1:9000";

/// The whole command line.
#[must_use]
pub fn command() -> Command {
    Command::new("postrider")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Delivers webhooks: every accepted event arrives, or ends where you can see it.")
        .after_help("Every setting NAME can also be given as NAME_FILE, a file that holds it. See `postrider up --help`.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([
            with_settings(up(), Service::Up),
            with_settings(
                Command::new("api").about("Serve the HTTP API, the specification and Swagger UI"),
                Service::Api,
            ),
            with_settings(
                Command::new("relay").about("Move what is due from the outbox to Redis, and sweep and reconcile"),
                Service::Relay,
            ),
            with_settings(
                Command::new("deliverer").about("Sign, send and record webhooks"),
                Service::Deliverer,
            ),
            with_settings(
                Command::new("migrate").about("Bring the database's schema to this version; services may run meanwhile"),
                Service::Migrate,
            ),
            with_settings(
                Command::new("rekey")
                    .about("Encrypt all secrets under the first master key; services may run meanwhile, with all keys"),
                Service::Rekey,
            ),
            Command::new("openapi").about("Print the OpenAPI specification of the API"),
            health(),
            receive(),
            bench::command(),
        ])
}

fn up() -> Command {
    Command::new("up")
        .about("Run everything in one process: migrations, API, relay and deliverer")
        .long_about(
            "Run everything in one process: migrations, API, relay and deliverer.\n\n\
             Without DATABASE_URL and REDIS_URL it starts a PostgreSQL and a Redis of its own from the \
             installed programs, in a data directory of its own. Metrics and health of all are served by \
             the API.",
        )
        .arg(
            Arg::new("demo")
                .long("demo")
                .action(ArgAction::SetTrue)
                .help("Also run a receiver, send it a few webhooks and show their journey; allows 127.0.0.1 as a target"),
        )
        .arg(
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .requires("demo")
                .help("End after the demo; the exit status is 0 if every event arrived and verified"),
        )
        .arg(
            Arg::new("receiver-listen")
                .long("receiver-listen")
                .value_name("ADDRESS")
                .default_value(RECEIVER_LISTEN)
                .help("Where the demo's receiver listens"),
        )
}

fn health() -> Command {
    Command::new("health")
        .about("Ask a service on this machine whether it is ready; the exit status is 0 where it is")
        .arg(
            Arg::new("service")
                .value_name("SERVICE")
                .value_parser(["api", "relay", "deliverer"])
                .default_value("api")
                .help("Which one, at the address of its POSTRIDER_…_LISTEN"),
        )
        .arg(
            Arg::new("live")
                .long("live")
                .action(ArgAction::SetTrue)
                .help("Ask only whether it runs, not whether what it depends on does"),
        )
}

fn receive() -> Command {
    Command::new("receive")
        .about("Receive webhooks at /webhook, verify them and print a line for each")
        .arg(
            Arg::new("listen")
                .long("listen")
                .env("POSTRIDER_RECEIVER_LISTEN")
                .value_name("ADDRESS")
                .default_value(RECEIVER_LISTEN)
                .help("Where to listen"),
        )
        .arg(
            Arg::new("secret")
                .long("secret")
                .env("POSTRIDER_RECEIVER_SECRET")
                .hide_env_values(true)
                .value_name("WHSEC")
                .value_delimiter(',')
                .action(ArgAction::Append)
                .help("The endpoint's secret, whsec_…; several during a rotation. Without it nothing is verified"),
        )
        .arg(
            Arg::new("fail-first")
                .long("fail-first")
                .value_name("COUNT")
                .value_parser(clap::value_parser!(u32))
                .default_value("0")
                .help("Answer the first COUNT attempts of every webhook with 500"),
        )
        .arg(
            Arg::new("delay-ms")
                .long("delay-ms")
                .value_name("MILLISECONDS")
                .value_parser(clap::value_parser!(u64))
                .default_value("0")
                .help("Take this long over every answer"),
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

/// All settings, from flags, environment, files and defaults.
#[must_use]
pub fn source(matches: &ArgMatches) -> Source {
    let environment = |name: &str| std::env::var(name).ok();
    // What is not an argument of this subcommand, clap has not looked for.
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
