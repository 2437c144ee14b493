//! Names the violations of data that does not satisfy a schema, in a bounded number of steps.
//!
//! The validator creates an object for every violation before it returns the first one, including those of every
//! alternative of an `anyOf`. If that would be too many, the schema is taken apart: the part that applies to a
//! property or an item is compiled separately, once, and checked against that value alone. This continues until a
//! part is small enough to report its violations. Compiling and checking are paid for from the same budget of steps.

use std::collections::HashMap;
use std::rc::Rc;

use jsonschema::{Registry, Validator};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::cost::{Applies, Budget, Part, Task};
use super::{MAX_STEPS, MAX_VIOLATIONS, Schema, message, options, path_of};
use crate::schema::Violation;

/// The URI of the schema while its parts are compiled.
const NAME: &str = "postrider:schema";
/// Steps per byte of the schema to prepare it for that.
const PREPARED_BYTE: u64 = 4;
/// Steps to visit a part and a value.
const LOOK: u64 = 50;

/// Returns the first violations of data that does not satisfy the schema, and the work that finding them took.
pub(super) fn violations(schema: &Schema, data: &Value) -> (Vec<Violation>, Work) {
    let mut budget = Budget::new(MAX_STEPS);
    let root = &schema.parts.root;
    let mut found = Vec::new();
    let mut compiled = 0;
    if budget.spend_on(Task::Name, root, data).is_some() {
        tell(&mut found, &schema.validator, data, "data");
    } else if budget.spend(PREPARED_BYTE * schema.bytes_of_text as u64).is_some()
        && let Ok(registry) = Registry::new().add(NAME, &schema.json).and_then(|registry| registry.prepare())
    {
        let mut naming =
            Naming { schema, registry: &registry, validators: HashMap::new(), found: Vec::new(), budget };
        naming.take_apart(root, data, "data");
        compiled = naming.validators.values().flatten().count();
        (found, budget) = (naming.found, naming.budget);
    }
    if found.is_empty() {
        found.push(unnamed("data"));
    }
    (found, Work { steps: MAX_STEPS - budget.left(), compiled })
}

/// The work that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    /// Steps spent.
    pub(super) steps: u64,
    /// Parts compiled.
    pub(super) compiled: usize,
}

struct Naming<'a> {
    schema: &'a Schema,
    registry: &'a Registry<'a>,
    /// The validators by JSON pointer of their part; `None` if a part is too large to compile.
    validators: HashMap<&'a str, Option<Rc<Validator>>>,
    found: Vec<Violation>,
    budget: Budget,
}

impl<'a> Naming<'a> {
    /// Names the violations of one value by one part of the schema, if there are any.
    fn part(&mut self, part: &'a Part, value: &Value, path: &str) {
        if self.is_done() || self.budget.spend(LOOK).is_none() {
            return;
        }
        let Some(validator) = self.validator(part) else { return };
        if self.budget.spend_on(Task::Check, part, value).is_none() || validator.is_valid(value) {
            return;
        }
        if self.budget.spend_on(Task::Name, part, value).is_some() {
            tell(&mut self.found, &validator, value, path);
            return;
        }
        let before = self.found.len();
        self.take_apart(part, value, path);
        if self.found.len() == before {
            self.found.push(unnamed(path));
        }
    }

    /// Continues with the subschemas that apply to the value itself or to values in it, and that it must satisfy.
    fn take_apart(&mut self, part: &'a Part, value: &Value, path: &str) {
        // In older drafts, keywords beside a reference are ignored.
        if let Some((_, target)) = part.others.iter().find(|(applies, _)| *applies == Applies::ByReference) {
            return self.part(target, value, path);
        }
        for (applies, part) in &part.others {
            match (applies, value) {
                (Applies::Always, value) => self.part(part, value, path),
                (Applies::ToItems, Value::Array(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        if self.is_done() {
                            return;
                        }
                        self.part(part, item, &format!("{path}[{index}]"));
                    }
                }
                _ => {}
            }
        }
        if let Value::Object(object) = value {
            for (name, value) in object {
                if self.is_done() {
                    return;
                }
                if let Some(part) = part.properties.get(name) {
                    let name: String = name.chars().take(100).collect();
                    self.part(part, value, &format!("{path}.{name}"));
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.found.len() >= MAX_VIOLATIONS || self.budget.left() < LOOK
    }

    fn validator(&mut self, part: &'a Part) -> Option<Rc<Validator>> {
        if let Some(known) = self.validators.get(part.pointer.as_str()) {
            return known.clone();
        }
        let is_affordable = self.budget.spend(part.compilation_steps()).is_some();
        let validator = is_affordable.then(|| self.compile(part)).flatten().map(Rc::new);
        self.validators.insert(&part.pointer, validator.clone());
        validator
    }

    /// Compiles a reference to the part. Its patterns were compiled with the whole schema.
    fn compile(&self, part: &Part) -> Option<Validator> {
        let pointer: Vec<String> = part
            .pointer
            .split('/')
            .map(|name| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string())
            .collect();
        let mut reference = Map::new();
        reference.insert("$ref".to_owned(), format!("{NAME}#{}", pointer.join("/")).into());
        if let Some(draft) = self.schema.json.get("$schema") {
            reference.insert("$schema".to_owned(), draft.clone());
        }
        options(&self.schema.patterns).with_registry(self.registry).build(&reference.into()).ok()
    }
}

fn tell(found: &mut Vec<Violation>, validator: &Validator, value: &Value, path: &str) {
    let room = MAX_VIOLATIONS.saturating_sub(found.len());
    let violations = validator.iter_errors(value).take(room);
    found.extend(violations.map(|error| Violation {
        path: path_of(path, error.instance_path().as_str()),
        message: message(&error),
    }));
}

fn unnamed(path: &str) -> Violation {
    let message = "violates the schema of its event type in more ways than can be listed".to_owned();
    Violation { path: path.to_owned(), message }
}
