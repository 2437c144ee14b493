//! Takes a schema apart, with every reference followed, and enforces the limits on it before anything is compiled.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::cost::{Applies, Part};
use super::{path_of, pattern};
use crate::schema::Violation;

/// The most subschemas, with every reference followed.
const MAX_PARTS: u64 = 5_000;
/// How deep subschemas may be nested. `data` cannot be nested deeper.
const MAX_DEPTH: usize = 64;
/// The most patterns, with every reference followed.
const MAX_PATTERNS: usize = 50;
/// The most characters of all distinct patterns together.
const MAX_PATTERN_LENGTH: usize = 16_384;
/// The most states of all distinct patterns together, when compiled.
const MAX_PATTERN_STATES: u64 = 20_000;
/// Steps for `multipleOf` if a number needs exact fractions.
const EXACT_REMAINDER: u64 = 400;

/// Bytes of a compiled subschema, of a pattern with its cache of state sets, and of a state.
const PART_BYTES: u64 = 1_536;
const PATTERN_BYTES: u64 = 131_072;
const STATE_BYTES: u64 = 64;

/// The parts of a schema.
pub(super) struct Parts {
    /// The whole schema.
    pub(super) root: Part,
    /// The number of subschemas.
    pub(super) parts: u64,
    /// The number of distinct patterns.
    patterns: usize,
    /// The number of their states.
    states: u64,
}

impl Parts {
    /// Returns about how many bytes they use when compiled, at most.
    pub(super) fn bytes(&self) -> u64 {
        self.parts * PART_BYTES + self.patterns as u64 * PATTERN_BYTES + self.states * STATE_BYTES
    }

    /// Takes a schema apart.
    ///
    /// # Errors
    /// The first keyword that is not supported or exceeds a limit.
    pub(super) fn of(schema: &Value) -> Result<Self, Violation> {
        let mut reader = Reader {
            schema,
            parts: 0,
            patterns: 0,
            pattern_length: 0,
            states: HashMap::new(),
            followed: Vec::new(),
            depth: 0,
        };
        let root = reader.part(schema, String::new(), Weight { times: 1, levels: 1 })?;
        let parts = reader.parts;
        let (patterns, states) = (reader.states.len(), reader.states.values().sum());
        Ok(Self { root, parts, patterns, states })
    }
}

/// See [`Part::times`] and [`Part::levels`].
#[derive(Clone, Copy)]
struct Weight {
    times: u64,
    levels: u64,
}

struct Reader<'a> {
    schema: &'a Value,
    parts: u64,
    patterns: usize,
    pattern_length: usize,
    /// The states of each pattern seen so far.
    states: HashMap<&'a str, u64>,
    /// The references that were followed to reach the current subschema.
    followed: Vec<&'a str>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn part(&mut self, schema: &'a Value, pointer: String, weight: Weight) -> Result<Part, Violation> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            let message = format!("has more than {MAX_PARTS} subschemas when every `$ref` is followed");
            return Err(mistake("", message));
        }
        let mut part = Part { pointer, steps: 2, violations: 1, ..Part::default() };
        (part.times, part.levels) = (weight.times, weight.levels);
        let Value::Object(keywords) = schema else { return Ok(part) };
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("is nested deeper than {MAX_DEPTH} levels when every `$ref` is followed");
            return Err(mistake(&part.pointer, message));
        }
        if keywords.contains_key("unevaluatedProperties") || keywords.contains_key("unevaluatedItems") {
            part.times = part.times.saturating_mul(2);
        }
        // Each keyword may be violated.
        part.violations = keywords.len().max(1) as u64;
        for (keyword, value) in keywords {
            let pointer = join(&part.pointer, keyword);
            self.keyword(&mut part, keyword, value, pointer)?;
        }
        self.depth -= 1;
        Ok(part)
    }

    fn keyword(
        &mut self,
        part: &mut Part,
        keyword: &str,
        value: &'a Value,
        pointer: String,
    ) -> Result<(), Violation> {
        match (keyword, value) {
            ("$ref", Value::String(reference)) => self.follow(part, reference, &pointer)?,
            ("$dynamicRef" | "$recursiveRef" | "$anchor" | "$dynamicAnchor" | "$recursiveAnchor", _) => {
                return Err(mistake(&pointer, "is not supported; use `$ref` with `#/…`".to_owned()));
            }
            ("$id" | "id", Value::String(_)) if self.depth > 1 => {
                return Err(mistake(&pointer, "is only supported at the top level".to_owned()));
            }
            ("properties", Value::Object(properties)) => {
                for (name, schema) in properties {
                    let child = self.part(schema, join(&pointer, name), part.weight())?;
                    part.properties.insert(name.clone(), child);
                }
            }
            ("dependentSchemas" | "dependencies" | "dependentRequired", Value::Object(map)) => {
                self.each(part, map, &pointer, Applies::Perhaps)?;
            }
            ("patternProperties", Value::Object(map)) => {
                for pattern in map.keys() {
                    // `additionalProperties` matches the names once more.
                    part.name_steps += 2 * self.pattern(pattern, &join(&pointer, pattern))?;
                }
                self.each(part, map, &pointer, Applies::ToMembers)?;
            }
            ("pattern", Value::String(pattern)) => part.text_steps += self.pattern(pattern, &pointer)?,
            // The formats that accept a long string take at most one step per byte. The other keywords parse the
            // string.
            ("format", _) => part.text_steps += 1,
            ("contentMediaType" | "contentEncoding", _) => part.text_steps += 4,
            ("items", Value::Object(_)) => self.any(part, value, pointer, Applies::ToItems)?,
            ("items" | "prefixItems" | "additionalItems" | "unevaluatedItems" | "contains", _) => {
                self.any(part, value, pointer, Applies::ToSomeItems)?;
            }
            ("additionalProperties" | "unevaluatedProperties", _) => {
                self.any(part, value, pointer, Applies::ToMembers)?;
            }
            ("propertyNames", _) => self.any(part, value, pointer, Applies::ToNames)?,
            ("allOf", _) => self.any(part, value, pointer, Applies::Always)?,
            ("anyOf" | "oneOf" | "not" | "if" | "then" | "else", _) => {
                self.any(part, value, pointer, Applies::Perhaps)?;
            }
            ("required", Value::Array(names)) => part.names(names.len()),
            // The value is compared with each entry as far as they are equal.
            ("enum" | "const", value) => part.steps += value.to_string().len() as u64 / 4,
            // The whole array is hashed, or compared if it is short.
            ("uniqueItems", Value::Bool(true)) => part.array_steps = 4,
            ("multipleOf", _) => part.steps += EXACT_REMAINDER,
            _ => {}
        }
        Ok(())
    }

    fn each(
        &mut self,
        part: &mut Part,
        map: &'a Map<String, Value>,
        pointer: &str,
        applies: Applies,
    ) -> Result<(), Violation> {
        for (name, value) in map {
            match value {
                // The names that another property requires.
                Value::Array(names) => part.names(names.len()),
                schema => self.child(part, schema, join(pointer, name), applies)?,
            }
        }
        Ok(())
    }

    fn any(
        &mut self,
        part: &mut Part,
        value: &'a Value,
        pointer: String,
        applies: Applies,
    ) -> Result<(), Violation> {
        match value {
            Value::Array(schemas) => {
                for (index, schema) in schemas.iter().enumerate() {
                    self.child(part, schema, format!("{pointer}/{index}"), applies)?;
                }
                Ok(())
            }
            schema => self.child(part, schema, pointer, applies),
        }
    }

    fn child(
        &mut self,
        part: &mut Part,
        schema: &'a Value,
        pointer: String,
        applies: Applies,
    ) -> Result<(), Violation> {
        let mut weight = part.weight();
        weight.levels += u64::from(applies == Applies::Perhaps);
        let child = self.part(schema, pointer, weight)?;
        part.others.push((applies, child));
        Ok(())
    }

    fn follow(&mut self, part: &mut Part, reference: &'a str, pointer: &str) -> Result<(), Violation> {
        let target = match reference.strip_prefix('#') {
            Some(target) if !target.contains('%') => {
                self.schema.pointer(target).map(|schema| (target, schema))
            }
            _ => None,
        };
        let Some((target, schema)) = target else {
            let message = "must point to a part of this schema, such as `#/$defs/address`; external schemas \
                           are not loaded";
            return Err(mistake(pointer, message.to_owned()));
        };
        if reference == "#" || self.followed.contains(&reference) {
            let message = "is a circular reference, which is not supported because its cost has no bound";
            return Err(mistake(pointer, message.to_owned()));
        }
        self.followed.push(reference);
        self.child(part, schema, target.to_owned(), Applies::ByReference)?;
        self.followed.pop();
        Ok(())
    }

    /// Returns the steps of a pattern per byte of a string.
    fn pattern(&mut self, pattern: &'a str, pointer: &str) -> Result<u64, Violation> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            let message =
                format!("exceeds the limit of {MAX_PATTERNS} patterns when every `$ref` is followed");
            return Err(mistake(pointer, message));
        }
        if let Some(states) = self.states.get(pattern) {
            return Ok(*states);
        }
        self.pattern_length += pattern::length(pattern);
        if self.pattern_length > MAX_PATTERN_LENGTH {
            let message = format!(
                "is too long; all patterns of a schema together can have {MAX_PATTERN_LENGTH} characters, \
                 and the characters of a pattern with flags, such as `(?i)`, count eight times"
            );
            return Err(mistake(pointer, message));
        }
        let states = pattern::size(pattern).map_err(|message| mistake(pointer, message.to_owned()))?;
        self.states.insert(pattern, states);
        if self.states.values().sum::<u64>() > MAX_PATTERN_STATES {
            let message = format!(
                "is too complex; all patterns of a schema together can have {MAX_PATTERN_STATES} states \
                 when they are compiled; use fewer repetitions or smaller character classes"
            );
            return Err(mistake(pointer, message));
        }
        Ok(states)
    }
}

impl Part {
    fn weight(&self) -> Weight {
        Weight { times: self.times, levels: self.levels }
    }

    /// Each missing name is a violation.
    fn names(&mut self, count: usize) {
        self.names += count;
        self.violations += count as u64;
    }
}

/// Extends a JSON pointer by a name.
fn join(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn mistake(pointer: &str, message: String) -> Violation {
    Violation { path: path_of("", pointer), message }
}
