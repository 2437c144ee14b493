//! `.env.example` is complete and current: it names every setting, with its default and its help.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;

use postrider_shared::config::SETTINGS;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.env.example");

const HEADING: &str = "\
# Every setting of Postrider. Copy this file to .env and uncomment what you change.
#
# Each is also a flag: `POSTRIDER_API_LISTEN` is `--api-listen`, `DATABASE_URL` is `--database-url`. Each can be
# read from a file: `DATABASE_URL_FILE=/run/secrets/database-url`. What is commented out shows the default, or
# nothing where there is none.
";

/// What the file is to be, after the table of settings.
fn expected() -> String {
    let mut text = HEADING.to_owned();
    for setting in SETTINGS {
        text.push('\n');
        for line in wrapped(setting.help, 110) {
            writeln!(text, "# {line}").unwrap();
        }
        writeln!(text, "#{}={}", setting.env, setting.default.unwrap_or_default()).unwrap();
    }
    text
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
fn every_setting_is_in_it_with_its_help_and_nothing_else_is() {
    let expected = expected();
    if std::env::var_os("UPDATE_ENV_EXAMPLE").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    let line = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(
        found == expected,
        ".env.example is stale, first at {line:?}: run `UPDATE_ENV_EXAMPLE=1 cargo test -p postrider --test env_example`"
    );
}
