//! Every statement of the store, read out of its source, is one that PostgreSQL can prepare.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Group, TokenStream, TokenTree};
use support::Bed;

/// How a statement begins; the rest of its first line is its name.
const MARK: &str = "-- ";

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_store_is_named_and_can_be_prepared() {
    let statements = statements();
    assert!(statements.len() >= 40, "only {} statements were found", statements.len());
    let bed = Bed::new().await;
    let client = bed.sql().await;
    let mut names = BTreeSet::new();
    let mut mistakes = Vec::new();
    for Statement { file, sql } in &statements {
        let name = sql.lines().next().unwrap_or_default().trim_start_matches(MARK);
        let mut blame = |what: &str| mistakes.push(format!("{file}: {name}: {what}"));
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'));
        if !name.split_once('.').is_some_and(|(table, verb)| is_word(table) && is_word(verb)) {
            blame("is not called `<table>.<verb>`");
        }
        if !names.insert(name) {
            blame("is called like another one");
        }
        if code_of(sql).chars().any(char::is_uppercase) {
            blame("is not in lower case");
        }
        if let Err(error) = client.prepare(sql).await {
            let detail = error.as_db_error().map_or(error.to_string(), |error| error.to_string());
            blame(&format!("cannot be prepared: {detail}"));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    bed.finish().await;
}

#[test]
fn statements_are_found_in_literals_and_in_macros() {
    let source = r#"
        macro_rules! columns { () => { "a, \
             b" }; }
        macro_rules! list { ($name:literal, $scope:literal) => { concat!("-- t.", $name, "\nselect ", columns!(), " from t where ", $scope) }; }
        const ONE: &str = "-- t.one
select 1";
        const ALL: &str = list!("all", "c = 'X'");
        fn f() { query("-- t.two\nselect 2", &[]); println!("no {}", "statement"); }
    "#;
    let found: Vec<_> = Source::read("f", source, &BTreeMap::new())
        .statements
        .into_iter()
        .map(|statement| statement.sql)
        .collect();
    assert_eq!(
        found,
        ["-- t.one\nselect 1", "-- t.all\nselect a, b from t where c = 'X'", "-- t.two\nselect 2"]
    );
}

struct Statement {
    file: String,
    sql: String,
}

fn statements() -> Vec<Statement> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let mut files = Vec::new();
    let directories = ["store/src", "secrets/src"].map(|directory| shared.join(directory));
    for entry in directories.iter().flat_map(|directory| std::fs::read_dir(directory).expect("a crate")) {
        let path = entry.expect("an entry").path();
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "rs") {
            files.push((file, std::fs::read_to_string(&path).expect("a source file")));
        }
    }
    // A macro of another file may be used under its name; one of the same name in a file of its own goes first.
    let mut shared = BTreeMap::new();
    for (file, text) in &files {
        shared.extend(Source::read(file, text, &BTreeMap::new()).macros);
    }
    files.iter().flat_map(|(file, text)| Source::read(file, text, &shared).statements).collect()
}

/// A source file, with as much of macros as statements are composed by: `concat!` and the store's own.
struct Source {
    file: String,
    macros: BTreeMap<String, Macro>,
    statements: Vec<Statement>,
}

/// A macro of one rule: the names of its parameters, and its body.
#[derive(Clone)]
struct Macro {
    parameters: Vec<String>,
    body: Vec<TokenTree>,
}

impl Source {
    fn read(file: &str, text: &str, macros: &BTreeMap<String, Macro>) -> Self {
        let mut source = Self { file: file.to_owned(), macros: macros.clone(), statements: Vec::new() };
        source.scan(text.parse::<TokenStream>().expect("Rust").into_iter().collect());
        source
    }

    fn scan(&mut self, tokens: Vec<TokenTree>) {
        let mut rest = &tokens[..];
        while let Some((first, after)) = rest.split_first() {
            rest = match rest {
                [
                    TokenTree::Ident(keyword),
                    _,
                    TokenTree::Ident(name),
                    TokenTree::Group(rules),
                    after @ ..,
                ] if keyword == "macro_rules" => {
                    self.macros.insert(name.to_string(), Macro::read(rules));
                    after
                }
                [TokenTree::Ident(_), TokenTree::Punct(mark), TokenTree::Group(arguments), after @ ..]
                    if mark.as_char() == '!' =>
                {
                    match self.evaluate(&rest[..3], &BTreeMap::new()) {
                        Some(text) => self.note(text),
                        None => self.scan(arguments.stream().into_iter().collect()),
                    }
                    after
                }
                _ => {
                    match first {
                        TokenTree::Group(group) => self.scan(group.stream().into_iter().collect()),
                        literal => {
                            if let Some(text) = text_of(literal) {
                                self.note(text);
                            }
                        }
                    }
                    after
                }
            };
        }
    }

    fn note(&mut self, text: String) {
        if text.starts_with(MARK) {
            self.statements.push(Statement { file: self.file.clone(), sql: text });
        }
    }

    /// The text that an expression of literals and macros stands for, where it is one.
    fn evaluate(&self, expression: &[TokenTree], bound: &BTreeMap<String, String>) -> Option<String> {
        match expression {
            [literal @ TokenTree::Literal(_)] => text_of(literal),
            [TokenTree::Punct(_), TokenTree::Ident(parameter)] => bound.get(&parameter.to_string()).cloned(),
            [TokenTree::Ident(name), TokenTree::Punct(_), TokenTree::Group(arguments)] => {
                let arguments: Option<Vec<String>> =
                    split(arguments).iter().map(|argument| self.evaluate(argument, bound)).collect();
                if name == "concat" {
                    return Some(arguments?.concat());
                }
                let Macro { parameters, body } = self.macros.get(&name.to_string())?;
                let bound = parameters.iter().cloned().zip(arguments?).collect();
                self.evaluate(body, &bound)
            }
            _ => None,
        }
    }
}

impl Macro {
    /// Reads `($a:literal, …) => { body }`.
    fn read(rules: &Group) -> Self {
        let mut groups = rules.stream().into_iter().filter_map(|token| match token {
            TokenTree::Group(group) => Some(group),
            _ => None,
        });
        let parameters = groups.next().map(|matcher| split(&matcher)).unwrap_or_default();
        let parameters =
            parameters.iter().filter_map(|parameter| Some(parameter.get(1)?.to_string())).collect();
        let body = groups.next().map(|body| body.stream().into_iter().collect()).unwrap_or_default();
        Self { parameters, body }
    }
}

/// What stands between the commas.
fn split(group: &Group) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<_> = group.stream().into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
    tokens.split(is_comma).filter(|part| !part.is_empty()).map(<[TokenTree]>::to_vec).collect()
}

fn text_of(literal: &TokenTree) -> Option<String> {
    syn::parse_str::<syn::LitStr>(&literal.to_string()).ok().map(|text| text.value())
}

/// A statement without what stands in quotes or comments.
fn code_of(sql: &str) -> String {
    let code: Vec<_> = sql.lines().filter_map(|line| line.split("--").next()).collect();
    code.join("\n").split('\'').step_by(2).collect()
}
