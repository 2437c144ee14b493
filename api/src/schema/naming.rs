//! What is wrong with data that violates a schema, in bounded steps.
//!
//! The validator makes an object of every violation before it tells the first one, and of those of every
//! alternative of an `anyOf` too. Where that would be too many, the schema is taken apart: the part that applies
//! to a property or an item is compiled by itself, once, and asked about that value alone, until a part is small
//! enough to name what it finds. What is compiled and asked is taken from the same steps.

use std::collections::HashMap;
use std::rc::Rc;

use jsonschema::{Registry, Validator};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::cost::{Applies, Budget, Part, Task};
use super::{MAX_STEPS, MAX_VIOLATIONS, Schema, message, options, path_of};
use crate::schema::Violation;

/// What the schema is called while its parts are compiled.
const NAME: &str = "postrider:schema";
/// Steps to prepare that, for each byte of the schema.
const PREPARED_BYTE: u64 = 4;
/// Steps to look at a part and a value.
const LOOK: u64 = 50;

/// The first violations of data that violates the schema, and what it took to find them.
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

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    /// Steps that were taken.
    pub(super) steps: u64,
    /// Parts that were compiled.
    pub(super) compiled: usize,
}

struct Naming<'a> {
    schema: &'a Schema,
    registry: &'a Registry<'a>,
    /// Of each part, by its place; `None`: it is too large.
    validators: HashMap<&'a str, Option<Rc<Validator>>>,
    found: Vec<Violation>,
    budget: Budget,
}

impl<'a> Naming<'a> {
    /// Names what is wrong with one value by a part of the schema, if that part is violated at all.
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

    /// Goes on with the parts of a part that must be satisfied by the value, or by parts of it.
    fn take_apart(&mut self, part: &'a Part, value: &Value, path: &str) {
        // In older drafts a reference stands for all.
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

    /// Compiles what a reference to the part leads to. Its patterns have been compiled with the whole.
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
