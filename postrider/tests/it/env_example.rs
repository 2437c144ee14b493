//! `.env.example` is complete and current: it names every setting, with its default and its help, and the variables of
//! `compose.yaml`, which passes every setting on.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;

use postrider_runtime::config::SETTINGS;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.env.example");
const COMPOSE: &str = include_str!("../../../compose.yaml");

const HEADING: &str = "\
# Every setting of Postrider. Copy this file to .env and uncomment what you change.
#
# Each is also a flag: `POSTRIDER_API_LISTEN` is `--api-listen`, `DATABASE_URL` is `--database-url`. Each can be
# read from a file: `DATABASE_URL_FILE=/run/secrets/database-url`. What is commented out shows the default, or
# nothing where there is none.
";

/// The variables that only `compose.yaml` reads.
const FOOTER: &str = "
# --- For compose.yaml alone ---------------------------------------------------------------------------------

# The password of the database that it starts: letters and digits. Must be set
#POSTGRES_PASSWORD=

# The password of the Redis that it starts: letters and digits. Must be set
#REDIS_PASSWORD=

# Where the API is published; `0.0.0.0:8000` means every interface
#POSTRIDER_PUBLISH=127.0.0.1:8000

# What is run, where another registry or another build is to be used
#POSTRIDER_IMAGE=postrider
#POSTGRES_IMAGE=postgres:17
#REDIS_IMAGE=redis:7

# What Postrider's own image is built with and upon
#BUILD_IMAGE=rust:1.95-slim-bookworm
#RUNTIME_IMAGE=debian:bookworm-slim
";

/// Settings that containers cannot take from `.env`: addresses and paths inside the container, and values that
/// compose.yaml sets itself.
const NOT_PASSED: [&str; 6] = [
    "POSTRIDER_DATABASE_DIRECT_URL",
    "POSTRIDER_API_LISTEN",
    "POSTRIDER_RELAY_LISTEN",
    "POSTRIDER_DELIVERER_LISTEN",
    "POSTRIDER_EXTRA_CA_FILE",
    "POSTRIDER_DATA_DIR",
];

/// The expected content of the file.
fn expected() -> String {
    let mut text = HEADING.to_owned();
    for setting in SETTINGS {
        text.push('\n');
        for line in wrapped(setting.help, 110) {
            writeln!(text, "# {line}").unwrap();
        }
        writeln!(text, "#{}={}", setting.env, setting.default.unwrap_or_default()).unwrap();
    }
    text + FOOTER
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            write!(line, " {word}").unwrap();
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[test]
fn it_lists_every_setting_with_its_help_and_nothing_else() {
    let expected = expected();
    if std::env::var_os("UPDATE_ENV_EXAMPLE").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    let line = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(
        found == expected,
        ".env.example is stale, first at {line:?}: run `UPDATE_ENV_EXAMPLE=1 cargo test -p postrider --test it env_example`"
    );
}

/// The lines of a service in `compose.yaml`.
fn service(name: &str) -> Vec<&'static str> {
    let services = COMPOSE.split_once("\nservices:\n").unwrap().1;
    let lines = services.lines().skip_while(|line| *line != format!("  {name}:"));
    lines.skip(1).take_while(|line| line.is_empty() || line.starts_with("    ")).map(str::trim).collect()
}

#[test]
fn the_compose_servers_have_no_egress_and_write_only_their_data() {
    let template = COMPOSE.split_once("x-server: &server\n").unwrap().1.split_once("\n\n").unwrap().0;
    for line in ["read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "networks: [backend]"] {
        assert!(template.contains(line), "{line}");
    }
    assert!(COMPOSE.contains("\n  backend:\n    internal: true\n"));
    for server in ["postgres", "redis"] {
        let lines = service(server);
        assert!(lines.contains(&"<<: *server"), "{lines:?}");
        assert!(
            !lines.iter().any(|line| line.starts_with("networks:") || line.starts_with("ports:")),
            "{lines:?}"
        );
    }
    assert!(service("redis").iter().any(|line| line.contains("--requirepass")));
    assert!(service("deliverer").contains(&"networks: [backend, egress]"));
    assert!(service("api").contains(&"networks: [backend, published]"));
    assert!(service("relay").iter().all(|line| !line.starts_with("networks:")));
}

#[test]
fn compose_passes_on_every_setting_and_needs_no_unlisted_one() {
    let passed = |name: &str| COMPOSE.lines().any(|line| line.trim().starts_with(&format!("{name}:")));
    for setting in SETTINGS {
        let is_expected = !NOT_PASSED.contains(&setting.env);
        assert_eq!(passed(setting.env), is_expected, "{} in compose.yaml", setting.env);
    }
    let example = expected();
    for part in COMPOSE.split("${").skip(1) {
        let name = part.split([':', '}']).next().unwrap();
        let default = part
            .split_once(":-")
            .and_then(|(before, rest)| (before == name).then(|| rest.split('}').next().unwrap()));
        let line = format!("\n#{name}={}\n", default.unwrap_or_default());
        assert!(example.contains(&line), ".env.example has no line {line:?}");
    }
}
