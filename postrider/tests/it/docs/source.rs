//! The source, as far as the documentation is checked against it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Ident, TokenStream, TokenTree};

use super::markdown::root;

/// True if the text has the name as a whole word.
pub(crate) fn has_word(text: &str, name: &str) -> bool {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').any(|word| word == name)
}

/// The numbers in a constant: the value of a product, a shift or a `Duration`, or each number of a list. Empty if there
/// is no such constant or it is something else.
pub(crate) fn numbers_of_constant(text: &str, name: &str) -> Vec<u64> {
    let Some((_, rest)) = text.split_once(&format!("const {name}: ")) else { return Vec::new() };
    let Some((_, value)) = rest.split_once(" = ") else { return Vec::new() };
    let value = value.split(';').next().unwrap_or_default();
    let plain = value.trim().replace('_', "");
    match plain.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
        Some(list) => list.split(',').filter_map(evaluate).collect(),
        None => evaluate(&plain).into_iter().collect(),
    }
}

fn evaluate(expression: &str) -> Option<u64> {
    let expression = expression.trim();
    if let Some(argument) = expression.strip_prefix("Duration::from").and_then(|rest| rest.strip_suffix(')'))
    {
        return evaluate(argument.split_once('(')?.1);
    }
    if let Some((number, shift)) = expression.split_once("<<") {
        return Some(evaluate(number)? << evaluate(shift)?);
    }
    expression.split('*').try_fold(1, |product, factor| Some(product * factor.trim().parse::<u64>().ok()?))
}

/// The metrics that a crate declares with `metrics!`, and their kinds.
///
/// # Panics
/// If a literal names a metric anywhere else.
pub(crate) fn metrics_of(name: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let is_kind = |ident: &Ident| ["counter", "gauge", "histogram"].iter().any(|known| ident == known);
    for text in sources_of(name) {
        each_window(&text, &mut |tokens| match tokens {
            // counter NAME = "…"
            [
                TokenTree::Ident(kind),
                TokenTree::Ident(_),
                TokenTree::Punct(mark),
                TokenTree::Literal(metric),
                ..,
            ] if mark.as_char() == '=' && is_kind(kind) => {
                found.extend(text_of(&metric.clone().into()).map(|metric| (metric, kind.to_string())));
            }
            // counter!("…")
            [TokenTree::Ident(kind), TokenTree::Punct(mark), TokenTree::Group(arguments), ..]
                if mark.as_char() == '!' && is_kind(kind) =>
            {
                let metric = arguments.stream().into_iter().next().and_then(|token| text_of(&token));
                assert_eq!(metric, None, "{name}: name this metric by a constant");
            }
            _ => {}
        });
    }
    found
}

/// The error codes that the API passes to the functions that make problems, and all literals outside the catalogue and
/// the examples.
pub(crate) fn error_codes_and_literals() -> (BTreeSet<String>, BTreeSet<String>) {
    /// Each takes a code as its first argument.
    const MAKERS: [&str; 4] = ["not_found", "refused_field", "refuse", "unavailable"];
    let (mut codes, mut literals) = (BTreeSet::new(), BTreeSet::new());
    for text in sources_of("api") {
        each_window(&text, &mut |tokens| {
            let (arguments, position) = match tokens {
                [TokenTree::Ident(maker), TokenTree::Group(arguments), ..]
                    if MAKERS.iter().any(|known| maker == known) =>
                {
                    (arguments, 0)
                }
                [
                    TokenTree::Ident(problem),
                    TokenTree::Punct(_),
                    TokenTree::Punct(_),
                    TokenTree::Ident(new),
                    TokenTree::Group(arguments),
                    ..,
                ] if problem == "Problem" && new == "new" => (arguments, 1),
                [token, ..] => return literals.extend(text_of(token)),
                [] => return,
            };
            let tokens: Vec<_> = arguments.stream().into_iter().collect();
            let is_comma =
                |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
            if let Some([code]) = tokens.split(is_comma).nth(position) {
                codes.extend(text_of(code));
            }
        });
    }
    (codes, literals)
}

/// The crates that record metrics.
pub(crate) const CRATES: [&str; 8] = [
    "api",
    "relay",
    "deliverer",
    "shared/queue",
    "shared/runtime",
    "shared/secrets",
    "shared/store",
    "postrider",
];

/// The source files of a crate, except its tests, the catalogue and the examples of the specification.
fn sources_of(name: &str) -> Vec<String> {
    let mut paths = Vec::new();
    collect(&root().join(name).join("src"), &mut paths);
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.ends_with("tests.rs") && name != "catalogue.rs" && !name.ends_with("examples.rs")
    });
    assert!(!paths.is_empty(), "{name} has no source");
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("a source file");
    // Tests are at the end of a file.
    paths
        .iter()
        .map(read)
        .map(|text| text.split("#[cfg(test)]").next().unwrap_or_default().to_owned())
        .collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Calls `look` with the tokens from each token on, at every depth.
fn each_window(text: &str, look: &mut impl FnMut(&[TokenTree])) {
    fn walk(tokens: Vec<TokenTree>, look: &mut impl FnMut(&[TokenTree])) {
        for at in 0..tokens.len() {
            look(&tokens[at..]);
            if let TokenTree::Group(group) = &tokens[at] {
                walk(group.stream().into_iter().collect(), look);
            }
        }
    }
    walk(text.parse::<TokenStream>().expect("Rust").into_iter().collect(), look);
}

fn text_of(token: &TokenTree) -> Option<String> {
    syn::parse_str::<syn::LitStr>(&token.to_string()).ok().map(|text| text.value())
}

#[test]
fn constants_are_parsed_as_written() {
    let text = "const A: usize = 16 * 1_024;\nconst B: Duration = Duration::from_secs(24 * 60 * 60);\n\
                pub(crate) const C: [u16; 2] = [400, 405];\nconst D: usize = 2 << 20;\nconst E: &str = \"x\";";
    let numbers: Vec<_> =
        ["A", "B", "C", "D", "E", "F"].iter().map(|name| numbers_of_constant(text, name)).collect();
    assert_eq!(numbers, [vec![16_384], vec![86_400], vec![400, 405], vec![2 << 20], vec![], vec![]]);
}
