//! How much a schema may cost: what is left of it when every reference is followed, looked at before it is
//! compiled.

use serde_json::{Map, Value};

use crate::web::problem::FieldError;

/// Subschemas, with every reference followed.
const MAX_NODES: usize = 5_000;
/// How deep they may be nested; `data` is no deeper.
const MAX_DEPTH: usize = 64;
/// Patterns, with every reference followed.
const MAX_PATTERNS: usize = 50;
/// Steps of a pattern for each two bytes of data, and of one that counts repetitions.
const PATTERN_STEPS: u64 = 2;
const COUNTED_PATTERN_STEPS: u64 = 32;

/// What checking costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Subschemas.
    pub(super) nodes: usize,
    /// Patterns.
    pub(super) patterns: usize,
    /// To tell whether data satisfies it.
    check: Steps,
    /// To name every violation, each of which is an object of its own.
    naming: Steps,
}

/// How much work depends on the data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Steps {
    /// Steps that are taken once.
    once: u64,
    /// Steps that may be taken for every value in the data.
    often: u64,
}

impl Steps {
    /// For data of this many bytes, at most: a value and what separates it take two.
    fn of(self, bytes: usize) -> u64 {
        self.once.saturating_add(self.often.saturating_mul(bytes as u64 / 2))
    }

    fn add(&mut self, steps: u64, weight: Weight) {
        let sum = if weight.often { &mut self.often } else { &mut self.once };
        *sum = sum.saturating_add(steps.saturating_mul(weight.times));
    }
}

impl Cost {
    /// Measures a schema.
    ///
    /// # Errors
    /// With what is not allowed, or too much.
    pub(super) fn of(schema: &Value) -> Result<Self, FieldError> {
        let mut walk = Walk { root: schema, cost: Self::default(), followed: Vec::new(), depth: 0 };
        walk.schema(schema, "", Weight { often: false, times: 1, levels: 1 })?;
        Ok(walk.cost)
    }

    /// Steps that checking data of this many bytes takes, at most.
    pub(super) fn steps(&self, bytes: usize) -> u64 {
        self.check.of(bytes)
    }

    /// Steps that naming all violations of data of this many bytes takes, at most.
    pub(super) fn naming_steps(&self, bytes: usize) -> u64 {
        self.naming.of(bytes)
    }
}

/// How often a subschema is applied.
#[derive(Clone, Copy)]
struct Weight {
    /// To every value, perhaps.
    often: bool,
    /// What looks for unevaluated parts goes through its subschemas once more.
    times: u64,
    /// To name the violations of alternatives, what is below each is first checked once more.
    levels: u64,
}

struct Walk<'a> {
    root: &'a Value,
    cost: Cost,
    /// The references that lead to where it is.
    followed: Vec<&'a str>,
    depth: usize,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, schema: &'a Value, path: &str, weight: Weight) -> Result<(), FieldError> {
        self.cost.check.add(1, weight);
        self.cost.nodes += 1;
        if self.cost.nodes > MAX_NODES {
            let message = format!("has more than {MAX_NODES} subschemas when every `$ref` is followed");
            return Err(mistake("", message));
        }
        // Any keyword may be violated.
        let keywords = schema.as_object().map_or(1, Map::len) as u64;
        self.cost.naming.add(keywords.saturating_mul(weight.levels), weight);
        let Value::Object(keywords) = schema else { return Ok(()) };
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("is nested deeper than {MAX_DEPTH} levels when every `$ref` is followed");
            return Err(mistake(path, message));
        }
        let looks_twice =
            ["unevaluatedProperties", "unevaluatedItems"].iter().any(|k| keywords.contains_key(*k));
        let weight = if looks_twice { Weight { times: weight.times * 2, ..weight } } else { weight };
        for (keyword, value) in keywords {
            self.keyword(keyword, value, &join(path, keyword), weight)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &'a Value,
        path: &str,
        weight: Weight,
    ) -> Result<(), FieldError> {
        let often = Weight { often: true, ..weight };
        match (keyword, value) {
            ("$ref", Value::String(reference)) => self.follow(reference, path, weight),
            ("$dynamicRef" | "$recursiveRef" | "$anchor" | "$dynamicAnchor" | "$recursiveAnchor", _) => {
                Err(mistake(path, "is not supported; use `$ref` with `#/…`".to_owned()))
            }
            ("$id" | "id", Value::String(_)) if self.depth > 1 => {
                Err(mistake(path, "is supported at the top only".to_owned()))
            }
            (
                "properties" | "dependentSchemas" | "dependencies" | "dependentRequired",
                Value::Object(map),
            ) => self.each(map, path, weight),
            ("patternProperties", Value::Object(map)) => {
                for pattern in map.keys() {
                    self.pattern(pattern, path, often)?;
                }
                self.each(map, path, often)
            }
            ("pattern", Value::String(pattern)) => self.pattern(pattern, path, often),
            (
                "items"
                | "prefixItems"
                | "additionalItems"
                | "additionalProperties"
                | "unevaluatedItems"
                | "unevaluatedProperties"
                | "contains"
                | "propertyNames",
                _,
            ) => self.any(value, path, often),
            ("anyOf" | "oneOf" | "not", _) => {
                self.any(value, path, Weight { levels: weight.levels + 1, ..weight })
            }
            ("allOf" | "if" | "then" | "else", _) => self.any(value, path, weight),
            ("required", Value::Array(names)) => {
                self.names(names.len(), weight);
                Ok(())
            }
            // A value is compared as far as it is equal.
            ("enum" | "const", value) => {
                self.cost.check.add(value.to_string().len() as u64 / 16, weight);
                Ok(())
            }
            // All of an array is hashed.
            ("uniqueItems", Value::Bool(true)) => {
                self.cost.check.add(1, often);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn each(&mut self, map: &'a Map<String, Value>, path: &str, weight: Weight) -> Result<(), FieldError> {
        for (name, value) in map {
            match value {
                // Names that another one calls for.
                Value::Array(names) => self.names(names.len(), weight),
                schema => self.schema(schema, &join(path, name), weight)?,
            }
        }
        Ok(())
    }

    fn any(&mut self, value: &'a Value, path: &str, weight: Weight) -> Result<(), FieldError> {
        match value {
            Value::Array(schemas) => {
                for (index, schema) in schemas.iter().enumerate() {
                    self.schema(schema, &format!("{path}[{index}]"), weight)?;
                }
                Ok(())
            }
            schema => self.schema(schema, path, weight),
        }
    }

    fn follow(&mut self, reference: &'a str, path: &str, weight: Weight) -> Result<(), FieldError> {
        let target = match reference.strip_prefix('#') {
            Some(pointer) if !pointer.contains('%') => self.root.pointer(pointer),
            _ => None,
        };
        let Some(target) = target else {
            let message =
                "must name a part of this schema, such as `#/$defs/address`; nothing else is loaded";
            return Err(mistake(path, message.to_owned()));
        };
        if reference == "#" || self.followed.contains(&reference) {
            let message = "comes back to itself; what that may cost has no bound, so it is not supported";
            return Err(mistake(path, message.to_owned()));
        }
        self.followed.push(reference);
        self.schema(target, path, weight)?;
        self.followed.pop();
        Ok(())
    }

    fn pattern(&mut self, pattern: &str, path: &str, weight: Weight) -> Result<(), FieldError> {
        self.cost.patterns += 1;
        // Whatever is repeated so and so often is compiled so often, and followed in parallel.
        let steps = if pattern.contains('{') { COUNTED_PATTERN_STEPS } else { PATTERN_STEPS };
        self.cost.check.add(steps, weight);
        self.cost.naming.add(weight.levels, weight);
        if self.cost.patterns > MAX_PATTERNS {
            let message =
                format!("is one pattern too many: {MAX_PATTERNS} are the most, with every `$ref` followed");
            return Err(mistake(path, message));
        }
        Ok(())
    }

    /// Each name that is missing is a violation.
    fn names(&mut self, count: usize, weight: Weight) {
        self.cost.check.add(count as u64 / 8, weight);
        self.cost.naming.add((count as u64).saturating_mul(weight.levels), weight);
    }
}

fn join(path: &str, part: &str) -> String {
    if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") }
}

fn mistake(path: &str, message: String) -> FieldError {
    FieldError { field: path.to_owned(), message }
}
