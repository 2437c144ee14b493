//! Reads every statement out of the source of the store: each has a name, and PostgreSQL can prepare it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Group, TokenStream, TokenTree};

use crate::support::Bed;

/// The beginning of a statement. The rest of its first line is its name.
const MARK: &str = "-- ";

/// The first words of texts that are statements without a name.
const VERBS: [&str; 15] = [
    "alter", "analyze", "create", "delete", "drop", "insert", "listen", "lock", "notify", "select", "set",
    "truncate", "update", "vacuum", "with",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_store_is_named_and_can_be_prepared() {
    let Found { statements, templates, unnamed } = find_all();
    assert!(statements.len() >= 150, "only {} statements were found", statements.len());
    let bed = Bed::new().await;
    let client = bed.sql().await;
    let mut names = BTreeSet::new();
    let mut mistakes: Vec<_> =
        unnamed.iter().map(|Statement { file, sql }| format!("{file}: has no name: {sql}")).collect();
    for Statement { file, sql } in statements.iter().chain(&templates) {
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
    }
    for Statement { file, sql } in &statements {
        let name = sql.lines().next().unwrap_or_default();
        let mut blame = |what: &str| mistakes.push(format!("{file}: {name}: {what}"));
        if code_of(sql).chars().any(char::is_uppercase) {
            blame("is not in lower case");
        }
        match client.prepare(sql).await {
            Err(error) => {
                let detail = error.as_db_error().map_or(error.to_string(), |error| error.to_string());
                blame(&format!("cannot be prepared: {detail}"));
            }
            Ok(statement) => {
                let mut columns = BTreeSet::new();
                for column in statement.columns().iter().map(tokio_postgres::Column::name) {
                    if column == "?column?" || !columns.insert(column) {
                        blame(&format!("does not name each of its columns: {column}"));
                    }
                }
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    bed.finish().await;
}

#[test]
fn every_sql_file_is_used_and_named_after_its_statement() {
    let included: BTreeSet<_> = find_all().statements.into_iter().map(|statement| statement.sql).collect();
    for directory in crates() {
        for entry in std::fs::read_dir(directory.join("sql")).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let sql = std::fs::read_to_string(&path).expect("a file");
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            assert_eq!(sql.lines().next(), Some(&*format!("{MARK}{name}")), "{}", path.display());
            assert!(included.contains(&sql), "{} is not used", path.display());
        }
    }
}

#[test]
fn statements_are_found_in_literals_and_in_macros() {
    let source = r#"
        macro_rules! columns { () => { "a, \
             b" }; }
        macro_rules! list { ($name:literal, $scope:literal) => { concat!("-- t.", $name, "\nselect ", columns!(), " from t where ", $scope) }; }
        const ONE: Sql = Sql::named("-- t.one
select 1");
        const ALL: Sql = Sql::named(list!("all", "c = 'X'"));
        fn f() { query("select 2", &[]); run(format!("-- t.drop\ndrop table {t}")); println!("no {}", "statement"); }
        fn g() { run(concat!("select ", "3")); run(format!("listen {channel}")); }
    "#;
    let found = Source::read("f", Path::new("."), source, &BTreeMap::new()).found;
    let texts = |statements: Vec<Statement>| -> Vec<String> {
        statements.into_iter().map(|statement| statement.sql).collect()
    };
    assert_eq!(texts(found.statements), ["-- t.one\nselect 1", "-- t.all\nselect a, b from t where c = 'X'"]);
    assert_eq!(texts(found.templates), ["-- t.drop\ndrop table {t}"]);
    assert_eq!(texts(found.unnamed), ["select 2", "select 3", "listen {channel}"]);
}

#[derive(Clone)]
struct Statement {
    file: String,
    sql: String,
}

/// The SQL found in a source file.
#[derive(Default)]
struct Found {
    /// The arguments of `Sql::named`.
    statements: Vec<Statement>,
    /// Other texts that begin with a name. A `format!` completes them.
    templates: Vec<Statement>,
    /// Texts that begin with a verb of SQL.
    unnamed: Vec<Statement>,
}

fn crates() -> [PathBuf; 2] {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    ["store/src", "secrets/src"].map(|directory| shared.join(directory))
}

fn find_all() -> Found {
    let mut files = Vec::new();
    for directory in crates() {
        for entry in std::fs::read_dir(&directory).expect("a crate") {
            let path = entry.expect("an entry").path();
            let file = path.file_name().expect("a name").to_string_lossy().into_owned();
            // `sql.rs` defines `Sql`.
            if path.extension().is_some_and(|extension| extension == "rs") && file != "sql.rs" {
                let text = std::fs::read_to_string(&path).expect("a source file");
                files.push((file, directory.clone(), text));
            }
        }
    }
    // A file can use a macro of another file. A macro of the same name in the file itself takes precedence.
    let mut shared = BTreeMap::new();
    for (_, _, text) in &files {
        Source::find_macros(text.parse().expect("Rust"), &mut shared);
    }
    let mut all = Found::default();
    for (file, directory, text) in &files {
        let found = Source::read(file, directory, text, &shared).found;
        all.statements.extend(found.statements);
        all.templates.extend(found.templates);
        all.unnamed.extend(found.unnamed);
    }
    all
}

/// A source file, with the macros that compose statements: `concat!`, `include_str!` and the store's own.
struct Source {
    file: String,
    directory: PathBuf,
    macros: BTreeMap<String, Macro>,
    found: Found,
}

/// A macro with one rule: the names of its parameters, and its body.
#[derive(Clone)]
struct Macro {
    parameters: Vec<String>,
    body: Vec<TokenTree>,
}

impl Source {
    fn read(file: &str, directory: &Path, text: &str, shared: &BTreeMap<String, Macro>) -> Self {
        let tokens: TokenStream = text.parse().expect("Rust");
        let mut macros = shared.clone();
        Self::find_macros(tokens.clone(), &mut macros);
        let (file, directory) = (file.to_owned(), directory.to_owned());
        let mut source = Self { file, directory, macros, found: Found::default() };
        source.scan(tokens.into_iter().collect());
        source
    }

    fn find_macros(tokens: TokenStream, macros: &mut BTreeMap<String, Macro>) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for window in tokens.windows(4) {
            if let [TokenTree::Ident(keyword), _, TokenTree::Ident(name), TokenTree::Group(rules)] = window
                && keyword == "macro_rules"
            {
                macros.insert(name.to_string(), Macro::read(rules));
            }
        }
    }

    fn scan(&mut self, tokens: Vec<TokenTree>) {
        let mut rest = &tokens[..];
        while let Some((first, after)) = rest.split_first() {
            rest = match rest {
                [TokenTree::Ident(keyword), _, TokenTree::Ident(_), TokenTree::Group(_), after @ ..]
                    if keyword == "macro_rules" =>
                {
                    after
                }
                [
                    TokenTree::Ident(sql),
                    TokenTree::Punct(_),
                    TokenTree::Punct(_),
                    TokenTree::Ident(named),
                    TokenTree::Group(text),
                    after @ ..,
                ] if sql == "Sql" && named == "named" => {
                    let text = split(text).first().and_then(|text| self.evaluate(text, &BTreeMap::new()));
                    let sql = text.unwrap_or_else(|| panic!("{}: a statement cannot be read", self.file));
                    self.found.statements.push(Statement { file: self.file.clone(), sql });
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
        let verb = text.split_ascii_whitespace().next().unwrap_or_default();
        let list = if text.starts_with(MARK) {
            &mut self.found.templates
        } else if VERBS.contains(&verb) && text.starts_with(verb) && text.len() > verb.len() {
            &mut self.found.unnamed
        } else {
            return;
        };
        list.push(Statement { file: self.file.clone(), sql: text });
    }

    /// Returns the text that an expression of literals and macros stands for, or `None` if it is something else.
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
                if name == "include_str" {
                    return std::fs::read_to_string(self.directory.join(arguments?.concat())).ok();
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

/// Splits at the commas.
fn split(group: &Group) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<_> = group.stream().into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
    tokens.split(is_comma).filter(|part| !part.is_empty()).map(<[TokenTree]>::to_vec).collect()
}

fn text_of(literal: &TokenTree) -> Option<String> {
    syn::parse_str::<syn::LitStr>(&literal.to_string()).ok().map(|text| text.value())
}

/// Returns a statement without its comments and quoted strings.
fn code_of(sql: &str) -> String {
    let code: Vec<_> = sql.lines().filter_map(|line| line.split("--").next()).collect();
    code.join("\n").split('\'').step_by(2).collect()
}
