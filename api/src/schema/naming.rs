//! What is wrong with data that violates a schema, in bounded steps.
//!
//! The validator makes an object of every violation before it tells the first one, and of those of every
//! alternative of an `anyOf` too. Where that would be too many, the schema is taken apart: the part that applies
//! to a property or an item is compiled by itself and asked about that value alone, until a part is small enough
//! to name what it finds.

use serde_json::{Map, Value, json};

use super::cost::Cost;
use super::{MAX_VIOLATIONS, Schema, build, message, path_of};
use crate::web::problem::FieldError;

/// Steps of one event, at most: each is a violation that may have to be made, a subschema that is compiled, or a
/// value that is asked about.
pub(super) const MAX_STEPS: u64 = 20_000;

/// The first violations of data of so many bytes.
pub(super) fn violations(schema: &Schema, data: &Value, bytes: usize) -> Vec<FieldError> {
    count(schema, data, bytes).0
}

/// The same, with the steps that were taken.
pub(super) fn count(schema: &Schema, data: &Value, bytes: usize) -> (Vec<FieldError>, u64) {
    let mut naming = Naming { root: &schema.json, found: Vec::new(), left: MAX_STEPS };
    if naming.spend(schema.cost.naming_steps(bytes)) {
        naming.tell(&schema.validator, data, "data");
    } else {
        naming.take_apart(&schema.json, data, "data");
    }
    if naming.found.is_empty() {
        naming.found.push(unnamed("data"));
    }
    (naming.found, MAX_STEPS - naming.left)
}

struct Naming<'a> {
    root: &'a Value,
    found: Vec<FieldError>,
    left: u64,
}

impl<'a> Naming<'a> {
    /// True where so many steps are left, which are then gone.
    fn spend(&mut self, steps: u64) -> bool {
        let rest = self.left.checked_sub(steps);
        self.left = rest.unwrap_or(self.left);
        rest.is_some()
    }

    fn is_done(&self) -> bool {
        self.found.len() >= MAX_VIOLATIONS
    }

    fn tell(&mut self, validator: &jsonschema::Validator, value: &Value, path: &str) {
        let room = MAX_VIOLATIONS.saturating_sub(self.found.len());
        let violations = validator.iter_errors(value).take(room);
        self.found.extend(
            violations.map(|error| FieldError { field: path_of(path, &error), message: message(&error) }),
        );
    }

    /// Names what is wrong with one value by a part of the schema, if that part is violated at all.
    fn part(&mut self, schema: &'a Value, value: &Value, path: &str) {
        let whole = self.standalone(schema);
        let Ok(cost) = Cost::of(&whole) else { return };
        if !self.spend(cost.nodes as u64) {
            return;
        }
        let Ok(validator) = build(&whole) else { return };
        self.with(&validator, cost, schema, value, path);
    }

    fn with(
        &mut self,
        validator: &jsonschema::Validator,
        cost: Cost,
        schema: &'a Value,
        value: &Value,
        path: &str,
    ) {
        if self.is_done() || !self.spend(1) || validator.is_valid(value) {
            return;
        }
        if self.spend(cost.naming_steps(size(value))) {
            self.tell(validator, value, path);
            return;
        }
        let before = self.found.len();
        self.take_apart(schema, value, path);
        if self.found.len() == before {
            self.found.push(unnamed(path));
        }
    }

    /// Goes on with the parts of a schema that apply to parts of the value.
    fn take_apart(&mut self, schema: &'a Value, value: &Value, path: &str) {
        let Some(keywords) = schema.as_object() else { return };
        if let Some(target) = self.referred(keywords) {
            return self.part(target, value, path);
        }
        for schema in keywords.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.part(schema, value, path);
        }
        if let (Some(Value::Object(properties)), Value::Object(object)) = (keywords.get("properties"), value)
        {
            for (name, value) in object {
                if self.is_done() || self.left == 0 {
                    return;
                }
                if let Some(schema) = properties.get(name) {
                    self.part(schema, value, &format!("{path}.{}", shortened(name)));
                }
            }
        }
        if let (Some(schema @ Value::Object(_)), Value::Array(items)) = (keywords.get("items"), value) {
            self.items(schema, items, path);
        }
    }

    fn items(&mut self, schema: &'a Value, items: &[Value], path: &str) {
        let whole = self.standalone(schema);
        let Ok(cost) = Cost::of(&whole) else { return };
        if !self.spend(cost.nodes as u64) {
            return;
        }
        let Ok(validator) = build(&whole) else { return };
        for (index, item) in items.iter().enumerate() {
            if self.is_done() || self.left == 0 {
                return;
            }
            self.with(&validator, cost, schema, item, &format!("{path}[{index}]"));
        }
    }

    fn referred(&self, keywords: &Map<String, Value>) -> Option<&'a Value> {
        self.root.pointer(keywords.get("$ref")?.as_str()?.strip_prefix('#')?)
    }

    /// A part of the schema with what its references may lead to.
    fn standalone(&self, schema: &Value) -> Value {
        let Value::Object(keywords) = schema else { return json!({"allOf": [schema]}) };
        let mut whole = keywords.clone();
        for shared in ["$schema", "$defs", "definitions"] {
            if let Some(value) = self.root.get(shared) {
                whole.entry(shared).or_insert_with(|| value.clone());
            }
        }
        Value::Object(whole)
    }
}

fn unnamed(path: &str) -> FieldError {
    let message = "violates the schema of its type in more ways than can be told here".to_owned();
    FieldError { field: path.to_owned(), message }
}

fn shortened(name: &str) -> String {
    name.chars().take(100).collect()
}

/// About how many bytes a value takes as text; no less than two for each value in it.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(entries) => {
            2 + entries.iter().map(|(name, value)| name.len() + size(value) + 4).sum::<usize>()
        }
        Value::String(text) => text.len() + 2,
        _ => 2,
    }
}
