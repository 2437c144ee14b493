//! The cost of working with a schema, in steps of about ten nanoseconds. All work is estimated beforehand:
//! compilation from the schema alone, checking and naming violations from the schema and the data.

use std::collections::BTreeMap;

use serde_json::Value;

/// Steps to create a violation, which is an object of its own.
const VIOLATION: u64 = 200;
/// Steps to compile anything at all, to compile a subschema, and to compile a keyword or a name in it.
const COMPILATION: u64 = 5_000;
const COMPILED_PART: u64 = 500;
const COMPILED_KEYWORD: u64 = 20;

/// Steps to look up a property by its name.
const LOOK_UP: u64 = 4;

/// A subschema with every reference followed.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Its JSON pointer in the schema.
    pub(super) pointer: String,
    /// Steps per value.
    pub(super) steps: u64,
    /// Steps per byte of a string: matching a pattern takes as many as the pattern's size.
    pub(super) text_steps: u64,
    /// Steps per byte of a property name.
    pub(super) name_steps: u64,
    /// The number of required properties.
    pub(super) names: usize,
    /// Steps per byte of an array, with everything in it.
    pub(super) array_steps: u64,
    /// How many violations of one value it can report itself.
    pub(super) violations: u64,
    /// How often it is applied: keywords for unevaluated parts apply their subschemas again.
    pub(super) times: u64,
    /// The factor for naming violations: to name those of alternatives, each of them is first checked again.
    pub(super) levels: u64,
    /// The subschemas of `properties`.
    pub(super) properties: BTreeMap<String, Part>,
    /// All other subschemas.
    pub(super) others: Vec<(Applies, Part)>,
}

/// The values that a subschema applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applies {
    /// This value, through `$ref`.
    ByReference,
    /// This value, as `allOf` does.
    Always,
    /// This value, depending on other subschemas or on the value.
    Perhaps,
    /// Each item of an array.
    ToItems,
    /// Some items of an array.
    ToSomeItems,
    /// The values of an object, though perhaps not of all properties.
    ToMembers,
    /// The property names of an object.
    ToNames,
}

/// What to do with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Find out whether it satisfies the schema.
    Check,
    /// Name every violation.
    Name,
}

/// A limited number of steps.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
}

impl Budget {
    pub(super) fn new(steps: u64) -> Self {
        Self { left: steps }
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Spends steps, or returns `None` if fewer are left.
    pub(super) fn spend(&mut self, steps: u64) -> Option<()> {
        self.left = self.left.checked_sub(steps)?;
        Some(())
    }

    /// Spends the estimated steps of a task. If fewer are left, spends only those of the estimate itself and returns
    /// `None`.
    pub(super) fn spend_on(&mut self, task: Task, part: &Part, value: &Value) -> Option<()> {
        let mut estimate = Estimate { task, left: self.left, visits: 0 };
        let is_enough = estimate.visit(part, value).is_some();
        self.left = if is_enough { estimate.left } else { self.left.saturating_sub(estimate.visits) };
        is_enough.then_some(())
    }
}

/// Traverses the data as the validator does, but does not examine its contents.
struct Estimate {
    task: Task,
    left: u64,
    visits: u64,
}

impl Estimate {
    fn visit(&mut self, part: &Part, value: &Value) -> Option<()> {
        self.visits += 1;
        self.spend(part, part.steps_on(value))?;
        match value {
            Value::Object(object) if object.len() < part.properties.len() => {
                for (name, value) in object {
                    if let Some(part) = part.properties.get(name) {
                        self.visit(part, value)?;
                    }
                }
            }
            Value::Object(object) => {
                for (name, part) in &part.properties {
                    if let Some(value) = object.get(name) {
                        self.visit(part, value)?;
                    }
                }
            }
            _ => {}
        }
        for (applies, part) in &part.others {
            match (applies, value) {
                (Applies::ByReference | Applies::Always | Applies::Perhaps, value) => {
                    self.visit(part, value)?;
                }
                (Applies::ToItems | Applies::ToSomeItems, Value::Array(items)) => {
                    for item in items {
                        self.visit(part, item)?;
                    }
                }
                (Applies::ToMembers, Value::Object(object)) => {
                    for value in object.values() {
                        self.visit(part, value)?;
                    }
                }
                (Applies::ToNames, Value::Object(object)) => {
                    for name in object.keys() {
                        self.visit(part, &Value::from(name.as_str()))?;
                    }
                }
                _ => {}
            }
        }
        Some(())
    }

    fn spend(&mut self, part: &Part, steps: u64) -> Option<()> {
        let steps = steps.saturating_mul(part.times);
        let steps = match self.task {
            Task::Check => steps,
            Task::Name => {
                let violations = VIOLATION.saturating_mul(part.violations);
                steps.saturating_add(violations).saturating_mul(part.levels)
            }
        };
        self.left = self.left.checked_sub(steps)?;
        Some(())
    }
}

impl Part {
    fn steps_on(&self, value: &Value) -> u64 {
        let rest = match value {
            Value::String(text) => {
                // Counting characters is fast.
                let length = text.len() as u64;
                self.text_steps.saturating_mul(length).saturating_add(length / 16)
            }
            Value::Array(items) => {
                let all = if self.array_steps > 0 { self.array_steps * size(value) } else { 0 };
                all + self.marks() * items.len() as u64
            }
            Value::Object(object) => {
                let matched = if self.name_steps > 0 {
                    let bytes: usize = object.keys().map(String::len).sum();
                    self.name_steps.saturating_mul(bytes as u64)
                } else {
                    0
                };
                // The validator stops at the first missing name.
                let names = (self.properties.len() + self.names).min(object.len() + 1);
                let looked_up = LOOK_UP * names as u64;
                matched.saturating_add(looked_up).saturating_add(self.marks() * object.len() as u64)
            }
            _ => 0,
        };
        self.steps.saturating_add(rest)
    }

    /// Keywords for unevaluated parts mark each item or property that a subschema evaluates.
    fn marks(&self) -> u64 {
        u64::from(self.times > 1)
    }

    /// Returns the steps to compile it, given that its patterns are compiled already.
    pub(super) fn compilation_steps(&self) -> u64 {
        COMPILATION + self.compiled_steps()
    }

    fn compiled_steps(&self) -> u64 {
        let parts = self.properties.values().chain(self.others.iter().map(|(_, part)| part));
        let own = COMPILED_PART + COMPILED_KEYWORD * self.violations + self.steps;
        parts.map(Self::compiled_steps).fold(own, u64::saturating_add)
    }
}

/// Returns about how many bytes a value has as text, and at least two for each value in it.
fn size(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<u64>(),
        Value::Object(entries) => {
            2 + entries.iter().map(|(name, value)| name.len() as u64 + size(value) + 4).sum::<u64>()
        }
        Value::String(text) => text.len() as u64 + 2,
        _ => 2,
    }
}
