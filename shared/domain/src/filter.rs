//! Payload filters: a small language that fits JSON, compiled to a predicate that PostgreSQL evaluates where
//! an event is accepted.
//!
//! `{"data.amount": {"gt": 1000}, "data.currency": {"in": ["EUR", "USD"]}}`: paths with conditions, all of
//! which must hold. A condition holds where some value at its path satisfies all of its operators. The
//! predicate is a `jsonpath` in strict mode that never raises an error and is never unknown: a path that
//! leads nowhere has no value. Nothing of the filter's text gets into it but as a literal, and what one
//! evaluation may cost is bounded: it is known beforehand, in steps, whatever the payload.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Bytes of a filter, at most.
pub const MAX_BYTES: usize = 4_096;
/// Values that it compares with, at most.
pub const MAX_VALUES: usize = 100;
/// Of these, on paths that look into an array.
pub const MAX_VALUES_IN_ARRAYS: usize = 10;
/// Elements of an array that are looked at.
pub const MAX_ELEMENTS: usize = 100;
/// How deep `and`, `or` and `not` may be nested.
const MAX_DEPTH: usize = 8;
/// Keys of a path.
const MAX_KEYS: usize = 16;

/// A filter that can be evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// As its author wrote it: JSON.
    pub json: String,
    /// As PostgreSQL evaluates it on the `data` of an event: a `jsonpath`.
    pub path: String,
    /// Steps that one evaluation takes at most: keys looked up and values compared, a hundred times those behind
    /// a `[*]`. At most 36,000 or so; a step is in the order of a tenth of a microsecond.
    pub steps: i32,
}

/// What is wrong with a filter, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Keys and indices that lead to it, such as `or[1].data.amount.gt`; empty: the filter itself.
    pub at: String,
    /// What is expected there.
    pub message: String,
}

impl Filter {
    /// One that every payload passes.
    #[must_use]
    pub fn any() -> Self {
        Self { json: "{}".to_owned(), path: "strict (exists($))".to_owned(), steps: 1 }
    }

    /// Reads a filter from well-formed JSON.
    ///
    /// # Errors
    /// With every mistake.
    pub fn parse(json: &str) -> Result<Self, Vec<Mistake>> {
        let mut compiler = Compiler::default();
        if json.len() > MAX_BYTES {
            compiler.mistake("", format!("must have at most {MAX_BYTES} bytes"));
            return Err(compiler.mistakes);
        }
        let predicate = compiler.filter(json, "", 0);
        compiler.check_size();
        if compiler.mistakes.is_empty() {
            Ok(Self { json: json.to_owned(), path: format!("strict {predicate}"), steps: compiler.steps })
        } else {
            Err(compiler.mistakes)
        }
    }
}

#[derive(Default)]
struct Compiler {
    mistakes: Vec<Mistake>,
    values: usize,
    values_in_arrays: usize,
    steps: i32,
}

impl Compiler {
    /// A predicate, in parentheses.
    fn filter(&mut self, json: &str, at: &str, depth: usize) -> String {
        if depth > MAX_DEPTH {
            self.mistake(at, format!("must not be nested deeper than {MAX_DEPTH} levels"));
            return String::new();
        }
        let Some(entries) = object(json).filter(|entries| !entries.is_empty()) else {
            self.mistake(at, "must be an object with at least one condition, such as `{\"data.amount\": 5}`");
            return String::new();
        };
        let parts: Vec<_> = entries
            .iter()
            .map(|(key, value)| {
                let (value, at) = (value.get(), join(at, key));
                match key.as_str() {
                    "and" => self.list(value, &at, depth, " && "),
                    "or" => self.list(value, &at, depth, " || "),
                    "not" => format!("!{}", self.filter(value, &at, depth + 1)),
                    path => self.condition(path, value, &at),
                }
            })
            .collect();
        format!("({})", parts.join(" && "))
    }

    fn list(&mut self, json: &str, at: &str, depth: usize, operator: &str) -> String {
        let Some(filters) = array(json).filter(|filters| !filters.is_empty()) else {
            self.mistake(at, "must be a non-empty list of filters");
            return String::new();
        };
        let parts: Vec<_> = filters
            .iter()
            .enumerate()
            .map(|(index, filter)| self.filter(filter.get(), &format!("{at}[{index}]"), depth + 1))
            .collect();
        format!("({})", parts.join(operator))
    }

    fn condition(&mut self, path: &str, json: &str, at: &str) -> String {
        let path = match Path::parse(path) {
            Ok(path) => path,
            Err(error) => {
                self.mistake(at, error.to_string());
                return String::new();
            }
        };
        let before = self.values;
        let compiled = match json.as_bytes().first() {
            Some(b'{') => self.operators(&path, json, at),
            _ => self.scalar(json, at).map(|value| path.some(&format!("@ == {value}"))),
        };
        let comparisons = self.values - before;
        if path.elements_of.is_some() {
            self.values_in_arrays += comparisons;
        }
        self.steps = self.steps.saturating_add(path.steps(comparisons));
        compiled.unwrap_or_default()
    }

    fn operators(&mut self, path: &Path, json: &str, at: &str) -> Option<String> {
        let entries = object(json).unwrap_or_default();
        if entries.is_empty() {
            self.mistake(at, "must have at least one operator");
        }
        let mut predicates = Vec::new();
        let mut is_absent = false;
        for (operator, operand) in &entries {
            let (operand, at) = (operand.get(), join(at, operator));
            if operator != "exists" {
                predicates.extend(self.predicate(operator, operand, &at));
                continue;
            }
            self.values += 1;
            match operand {
                "true" => {}
                "false" if entries.len() == 1 => is_absent = true,
                "false" => self.mistake(
                    &at,
                    "cannot be combined with other operators if it is false, because there is no value to \
                     compare",
                ),
                _ => self.mistake(&at, "must be true or false"),
            }
        }
        Some(match predicates.join(" && ") {
            _ if is_absent => format!("!({})", path.exists()),
            all if all.is_empty() => path.exists(),
            all => path.some(&all),
        })
    }

    /// What an operator says of a value `@`.
    fn predicate(&mut self, operator: &str, operand: &str, at: &str) -> Option<String> {
        let comparison = match operator {
            "eq" => return self.scalar(operand, at).map(|value| format!("@ == {value}")),
            "ne" => return self.scalar(operand, at).map(|value| unlike(&format!("@ == {value}"))),
            "in" => return self.any_of(operand, at),
            "not_in" => return self.any_of(operand, at).map(|any| unlike(&any)),
            "starts_with" => return self.prefix(operand, at),
            "gt" => ">",
            "gte" => ">=",
            "lt" => "<",
            "lte" => "<=",
            _ => {
                let known = "eq, ne, gt, gte, lt, lte, in, not_in, starts_with, exists";
                self.mistake(at, format!("is not an operator; the operators are {known}"));
                return None;
            }
        };
        if !matches!(operand.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9')) {
            self.mistake(at, "must be a number or a string");
            return None;
        }
        self.scalar(operand, at).map(|value| format!("@ {comparison} {value}"))
    }

    fn any_of(&mut self, operand: &str, at: &str) -> Option<String> {
        let Some(values) = array(operand).filter(|values| !values.is_empty()) else {
            self.mistake(at, "must be a non-empty list of values");
            return None;
        };
        let equalities = values.iter().enumerate().filter_map(|(index, value)| {
            self.scalar(value.get(), &format!("{at}[{index}]")).map(|value| format!("@ == {value}"))
        });
        Some(format!("({})", equalities.collect::<Vec<_>>().join(" || ")))
    }

    fn prefix(&mut self, operand: &str, at: &str) -> Option<String> {
        if !operand.starts_with('"') {
            self.mistake(at, "must be a string");
            return None;
        }
        self.scalar(operand, at).map(|value| format!("@ starts with {value}"))
    }

    /// A literal. That of a number is the same in JSON and in jsonpath, digit by digit.
    fn scalar(&mut self, json: &str, at: &str) -> Option<String> {
        self.values += 1;
        match json.as_bytes().first() {
            Some(b'"') => match serde_json::from_str::<String>(json) {
                Ok(text) => Some(literal(&text)),
                Err(_) => {
                    self.mistake(at, "must be a string without lone surrogates");
                    None
                }
            },
            Some(b'{' | b'[') | None => {
                self.mistake(at, "must be a number, a string, true, false or null");
                None
            }
            Some(_) => Some(json.to_owned()),
        }
    }

    fn check_size(&mut self) {
        if self.values > MAX_VALUES {
            self.mistake("", format!("must not compare with more than {MAX_VALUES} values"));
        }
        if self.values_in_arrays > MAX_VALUES_IN_ARRAYS {
            let message =
                format!("must not compare with more than {MAX_VALUES_IN_ARRAYS} values on paths with `[*]`");
            self.mistake("", message);
        }
    }

    fn mistake(&mut self, at: &str, message: impl Into<String>) {
        self.mistakes.push(Mistake { at: at.to_owned(), message: message.into() });
    }
}

/// Why a text is not a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum PathError {
    #[error(
        "must be `and`, `or`, `not`, or a path such as `data.customer.name`, `data.items[*].sku` or `data.\"a.b\"`"
    )]
    Syntax,
    #[error("can contain `[*]` only once, and only after a key")]
    Elements,
    #[error("must have at most {MAX_KEYS} keys")]
    TooManyKeys,
}

/// Where a value is, below `data`.
#[derive(Debug, PartialEq, Eq)]
struct Path {
    keys: Vec<String>,
    /// After so many keys there is an array, and any of its elements is meant.
    elements_of: Option<usize>,
}

impl Path {
    /// Reads `data.customer.name`, `data.items[*].sku` or `data."a.b"`.
    fn parse(text: &str) -> Result<Self, PathError> {
        let mut rest = text.strip_prefix("data").ok_or(PathError::Syntax)?;
        let mut path = Self { keys: Vec::new(), elements_of: None };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[*]") {
                if path.keys.is_empty() || path.elements_of.is_some() {
                    return Err(PathError::Elements);
                }
                path.elements_of = Some(path.keys.len());
                rest = after;
                continue;
            }
            let key = rest.strip_prefix('.').ok_or(PathError::Syntax)?;
            let (key, after) =
                if key.starts_with('"') { quoted(key) } else { bare(key) }.ok_or(PathError::Syntax)?;
            path.keys.push(key);
            rest = after;
        }
        match path.keys.len() {
            0 => Err(PathError::Syntax),
            1..=MAX_KEYS => Ok(path),
            _ => Err(PathError::TooManyKeys),
        }
    }

    /// What it takes at most to compare what is there with so many values. A key is looked for before it is taken,
    /// and a comparison may be asked again whether it is unknown.
    fn steps(&self, comparisons: usize) -> i32 {
        let (once, often) = match self.elements_of {
            None => (self.keys.len() + comparisons, 0),
            // The way to the array is gone twice, once for each length.
            Some(at) => (2 * at, MAX_ELEMENTS * (self.keys.len() - at + comparisons)),
        };
        i32::try_from(2 * (once + often)).unwrap_or(i32::MAX)
    }

    /// True where there is anything.
    fn exists(&self) -> String {
        self.compile("")
    }

    /// True where there is a value for which the predicate holds.
    fn some(&self, predicate: &str) -> String {
        self.compile(&format!(" ? ({predicate})"))
    }

    fn compile(&self, filter: &str) -> String {
        let step = |key: &String| {
            let key = literal(key);
            // What is not there would be an error, and not nothing.
            format!(" ? (exists(@.{key})).{key}")
        };
        let steps: Vec<String> = self.keys.iter().map(step).collect();
        let Some(at) = self.elements_of else {
            return format!("exists(${}{filter})", steps.concat());
        };
        let (array, rest) = (steps[..at].concat(), steps[at..].concat());
        let last = MAX_ELEMENTS - 1;
        format!(
            "(exists(${array} ? (@.size() <= {MAX_ELEMENTS})[*]{rest}{filter}) \
             || exists(${array} ? (@.size() > {MAX_ELEMENTS})[0 to {last}]{rest}{filter}))"
        )
    }
}

/// A key in quotation marks, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let key = stream.next()?.ok()?;
    Some((key, &text[stream.byte_offset()..]))
}

/// A key as it is, and what follows.
fn bare(text: &str) -> Option<(String, &str)> {
    let end = text.find(['.', '[', ']', '"']).unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    (!key.is_empty()).then(|| (key.to_owned(), rest))
}

/// True where the predicate is not: for values of another kind it is unknown.
fn unlike(predicate: &str) -> String {
    format!("(!({predicate}) || ({predicate}) is unknown)")
}

/// A text as a literal: jsonpath has the escapes of JSON.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn object(json: &str) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(json).ok()
}

fn array(json: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(json).ok()
}

fn join(at: &str, key: &str) -> String {
    let key: String = key.chars().take(100).collect();
    if at.is_empty() { key } else { format!("{at}.{key}") }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
