//! Parts of the documentation that are quoted from files or generated. Both are between comments:
//!
//! ```text
//! <!-- from docs/examples/verify.py -->
//! …
//! <!-- end -->
//! ```

use std::fmt::Write as _;

use postrider_api::ERROR_CODES;
use postrider_domain::retry::{DEFAULT_SCHEDULE, JITTER};
use postrider_runtime::config::{SETTINGS, Service};

use super::markdown::root;

const BEGIN: &str = "<!-- from ";
const END: &str = "<!-- end -->";

/// Returns the text with everything between such comments renewed.
pub(crate) fn renew(text: &str) -> String {
    let mut renewed = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (from, after) = after.split_once(" -->").expect("a comment that ends");
        let (_, after) = after.split_once(END).unwrap_or_else(|| panic!("the part from {from} has no end"));
        write!(renewed, "{before}{BEGIN}{from} -->\n{}{END}", made_from(from)).expect("text");
        rest = after;
    }
    renewed + rest
}

fn made_from(source: &str) -> String {
    match source {
        "the error codes" => error_codes(),
        "the settings" => settings(),
        "the retry schedule" => retry_schedule(),
        path => {
            let text =
                std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            let language = match path.rsplit('.').next().unwrap_or_default() {
                "py" => "python",
                "rs" => "rust",
                "ts" => "typescript",
                other => other,
            };
            format!("```{language}\n{text}```\n")
        }
    }
}

fn error_codes() -> String {
    let mut table = "| status | `code` | what happened, and what to do |\n|---|---|---|\n".to_owned();
    for entry in ERROR_CODES {
        writeln!(table, "| {} | `{}` | {} |", entry.status, entry.code, entry.meaning).expect("text");
    }
    table
}

fn settings() -> String {
    const NAMES: [(Service, &str); 5] = [
        (Service::Api, "api"),
        (Service::Relay, "relay"),
        (Service::Deliverer, "deliverer"),
        (Service::Migrate, "migrate"),
        (Service::Up, "up"),
    ];
    let mut table = "| setting | default | read by | what it does |\n|---|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let default =
            setting.default.map_or_else(String::new, |text| format!("`{}`", text.replace(',', ", ")));
        let services: Vec<_> = NAMES
            .iter()
            .filter(|(service, _)| setting.services.contains(service))
            .map(|(_, name)| *name)
            .collect();
        let services = if services.len() == NAMES.len() { "all".to_owned() } else { services.join(", ") };
        writeln!(table, "| `{}` | {default} | {services} | {} |", setting.env, setting.help).expect("text");
    }
    table
}

fn retry_schedule() -> String {
    let mut table = "| after attempt | next attempt in | with jitter | since the first attempt, about |\n|---|---|---|---|\n".to_owned();
    let mut elapsed = 0;
    for (index, seconds) in DEFAULT_SCHEDULE.into_iter().enumerate() {
        elapsed += seconds;
        let jitter =
            [1.0 - JITTER, 1.0 + JITTER].map(|factor| duration((seconds as f64 * factor).round() as u64));
        let [least, most] = jitter;
        writeln!(
            table,
            "| {} | {} | {least} – {most} | {} |",
            index + 1,
            duration(seconds),
            duration(elapsed)
        )
        .expect("text");
    }
    table
}

/// `9305` → `2 h 35 min 5 s`.
fn duration(seconds: u64) -> String {
    let parts = [(seconds / 3_600, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let named =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number} {unit}"));
    named.collect::<Vec<_>>().join(" ")
}
