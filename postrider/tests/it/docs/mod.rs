//! The documentation is correct: its links lead somewhere, the names in it exist, and its tables and quotations match
//! the source.

mod generated;
mod markdown;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use postrider_api::ERROR_CODES;
use postrider_runtime::config::SETTINGS;

use markdown::Document;

#[test]
fn every_link_leads_to_an_existing_file_and_anchor() {
    let documents = Document::all();
    let mut mistakes = Vec::new();
    for document in &documents {
        for link in &document.links {
            if let Some(mistake) = link.mistake(&documents) {
                mistakes.push(format!("{}: {}: {mistake}", document.name, link.target));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

/// A link to a source file whose text is code names something in that file. If the link is in a table and names a
/// constant, its row shows the value of the constant.
#[test]
fn links_to_the_source_name_existing_items_with_the_values_shown() {
    let mut mistakes = Vec::new();
    for document in Document::all() {
        for link in document.links.iter().filter(|link| link.names_something_in_a_source_file()) {
            let text = std::fs::read_to_string(link.path()).unwrap_or_default();
            let name = link.named();
            let mut blame = |what: String| mistakes.push(format!("{}: `{name}`: {what}", document.name));
            if !source::has_word(&text, name) {
                blame(format!("is not in {}", link.target));
            } else if link.line.starts_with('|') {
                for number in source::numbers_of_constant(&text, name) {
                    if !markdown::has_number(&link.line, number) {
                        blame(format!("is {number}, which the row does not say: {}", link.line));
                    }
                }
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn quoted_and_generated_parts_are_current() {
    let mut stale = Vec::new();
    for document in Document::all() {
        let current = generated::renew(&document.text);
        if current != document.text {
            if std::env::var_os("UPDATE_DOCS").is_some() {
                std::fs::write(&document.path, current).expect("a file of the documentation");
            } else {
                stale.push(document.name);
            }
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?}: run `UPDATE_DOCS=1 cargo test -p postrider --test it docs::`, which renews it"
    );
}

#[test]
fn openapi_json_is_current() {
    let stored = include_str!("../../../../openapi/openapi.json");
    assert!(
        stored.trim_end() == postrider_api::specification().trim_end(),
        "openapi/openapi.json is not current: cargo run -p postrider -- openapi > openapi/openapi.json"
    );
}

#[test]
fn exactly_the_existing_metrics_are_explained() {
    let in_code: BTreeMap<String, String> =
        source::CRATES.iter().flat_map(|name| source::metrics_of(name)).collect();
    assert!(in_code.len() > 20, "only {} metrics were found", in_code.len());
    let rows = Document::named("docs/operations.md").rows_that_begin_with("`postrider_");
    let explained: BTreeMap<String, String> =
        rows.iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone())).collect();
    let only_in = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> Vec<String> {
        one.iter()
            .filter(|(name, kind)| other.get(*name) != Some(kind))
            .map(|(name, kind)| format!("{name} ({kind})"))
            .collect()
    };
    let (unexplained, unknown) = (only_in(&in_code, &explained), only_in(&explained, &in_code));
    assert!(
        unexplained.is_empty() && unknown.is_empty(),
        "docs/operations.md does not explain {unexplained:?}, and explains {unknown:?}, which is not in the code"
    );
}

/// Codes that are made in a way that this test does not see are checked when they are sent: see `Problem::body`.
#[test]
fn the_catalogue_has_exactly_the_error_codes_of_the_source() {
    let catalogue: BTreeSet<String> = ERROR_CODES.iter().map(|entry| entry.code.to_owned()).collect();
    let (codes, literals) = source::error_codes_and_literals();
    let unknown: Vec<_> = codes.difference(&catalogue).collect();
    assert!(unknown.is_empty(), "not in api/src/web/catalogue.rs: {unknown:?}");
    let unused: Vec<_> = catalogue.difference(&literals).collect();
    assert!(unused.is_empty(), "in api/src/web/catalogue.rs, and nowhere else: {unused:?}");
}

#[test]
fn every_setting_named_in_the_docs_exists() {
    let known: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.env).collect();
    let mut mistakes = Vec::new();
    for document in Document::all() {
        for name in document.words_that_begin_with("POSTRIDER_") {
            let setting = name.strip_suffix("_FILE").unwrap_or(&name);
            let is_of_a_tool = ["POSTRIDER_TEST_", "POSTRIDER_RECEIVER_", "POSTRIDER_TORTURE_"]
                .iter()
                .any(|tool| name.starts_with(tool));
            if !is_of_a_tool && !known.contains(name.as_str()) && !known.contains(setting) {
                mistakes.push(format!("{}: {name}", document.name));
            }
        }
    }
    assert!(mistakes.is_empty(), "no such setting: {mistakes:?}");
}

#[test]
fn every_decision_is_in_the_index() {
    let index = Document::named("docs/decisions/README.md");
    let linked: BTreeSet<_> = index.links.iter().map(|link| link.path()).collect();
    let absent: Vec<_> = Document::all()
        .into_iter()
        .filter(|document| document.name.starts_with("docs/decisions/") && document.name != index.name)
        .filter(|document| !linked.contains(&document.path))
        .map(|document| document.name)
        .collect();
    assert!(absent.is_empty(), "{absent:?}");
}
