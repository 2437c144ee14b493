//! Payload filters: a small language in JSON, compiled to a predicate that PostgreSQL evaluates when an event is
//! accepted.
//!
//! `{"data.amount": {"gt": 1000}, "data.currency": {"in": ["EUR", "USD"]}}`: paths with conditions, all of which must
//! hold. A condition holds if some value at its path satisfies all its operators. The predicate is a `jsonpath` in
//! strict mode that never raises an error and is never unknown: a path that leads nowhere has no value. Text of the
//! filter enters the predicate only as literals. The cost of one evaluation is bounded, and is known in advance
//! whatever the payload.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The maximum length of a filter, in bytes.
pub const MAX_BYTES: usize = 4_096;
/// The maximum number of values that a filter may compare with.
pub const MAX_VALUES: usize = 100;
/// The maximum number of these values on paths that look into an array.
pub const MAX_VALUES_IN_ARRAYS: usize = 10;
/// The number of elements of an array that are examined.
pub const MAX_ELEMENTS: usize = 100;
/// The maximum nesting depth of `and`, `or` and `not`.
const MAX_DEPTH: usize = 8;
/// The maximum number of keys in a path.
const MAX_KEYS: usize = 16;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The JSON as its author wrote it.
    pub json: String,
    /// The `jsonpath` that PostgreSQL evaluates on the `data` of an event.
    pub path: String,
    /// The maximum number of steps of one evaluation: key lookups and comparisons, with those behind a `[*]` counted a
    /// hundred times. At most about 36,000. A step takes in the order of a tenth of a microsecond.
    pub steps: i32,
}

/// A mistake in a filter, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The keys and indices that lead to it, such as `or[1].data.amount.gt`. Empty means the filter itself.
    pub at: String,
    /// What is expected there.
    pub message: String,
}

impl Filter {
    /// Returns a filter that every payload passes.
    #[must_use]
    pub fn any() -> Self {
        Self { json: "{}".to_owned(), path: "strict (exists($))".to_owned(), steps: 1 }
    }

    /// Parses a filter from well-formed JSON.
    ///
    /// # Errors
    /// All mistakes in the filter.
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
    /// Compiles a filter to a predicate in parentheses.
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

    /// Compiles one operator to a predicate on a value `@`.
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

    /// Compiles a literal. Numbers are written the same way in JSON and in jsonpath.
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

/// The place of a value below `data`.
#[derive(Debug, PartialEq, Eq)]
struct Path {
    keys: Vec<String>,
    /// The number of keys that lead to an array, if the path means any element of that array.
    elements_of: Option<usize>,
}

impl Path {
    /// Parses `data.customer.name`, `data.items[*].sku` or `data."a.b"`.
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

    /// Returns the maximum number of steps needed to make this many comparisons at this path. The result is doubled
    /// because each key is checked before it is taken, and each comparison may be repeated to test whether it is
    /// unknown.
    fn steps(&self, comparisons: usize) -> i32 {
        let (once, often) = match self.elements_of {
            None => (self.keys.len() + comparisons, 0),
            // The path to the array is followed twice, once for each case of its length.
            Some(at) => (2 * at, MAX_ELEMENTS * (self.keys.len() - at + comparisons)),
        };
        i32::try_from(2 * (once + often)).unwrap_or(i32::MAX)
    }

    /// Builds a predicate that is true if there is a value at the path.
    fn exists(&self) -> String {
        self.compile("")
    }

    /// Builds a predicate that is true if some value at the path satisfies `predicate`.
    fn some(&self, predicate: &str) -> String {
        self.compile(&format!(" ? ({predicate})"))
    }

    fn compile(&self, filter: &str) -> String {
        let step = |key: &String| {
            let key = literal(key);
            // In strict mode a missing key is an error, not an empty result.
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

/// Splits off a key in quotation marks. Returns the key and the rest.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let key = stream.next()?.ok()?;
    Some((key, &text[stream.byte_offset()..]))
}

/// Splits off an unquoted key. Returns the key and the rest.
fn bare(text: &str) -> Option<(String, &str)> {
    let end = text.find(['.', '[', ']', '"']).unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    (!key.is_empty()).then(|| (key.to_owned(), rest))
}

/// Negates a predicate. It is unknown for values of another type, and the negation is true for those too.
fn unlike(predicate: &str) -> String {
    format!("(!({predicate}) || ({predicate}) is unknown)")
}

/// Formats a text as a literal. jsonpath has the same escapes as JSON.
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
