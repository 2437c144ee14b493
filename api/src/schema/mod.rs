//! The JSON Schema of an event type: compiled within bounds, and what `data` is checked against.
//!
//! A schema is written by a tenant, so nothing in it may cost without bound: no reference leaves it or comes back
//! to itself, and it has a bounded size with every reference followed ([`parts`]). What a compilation, a check or
//! the naming of violations takes is estimated in the same [steps](cost) before it is done. What takes more than
//! a few is done apart from the requests, one task at a time, of one application after the other.

mod cost;
pub(crate) mod kept;
mod naming;
mod parts;
mod pattern;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jsonschema::{PatternCache, ValidationError, ValidationOptions, Validator};
use postrider_domain::share::Shares;
use postrider_store::event_types::StoredSchema;
use serde_json::Value;

use crate::auth::party::Party;
use crate::storable_json;
use cost::{Budget, Task};
use parts::Parts;

/// Bytes of a schema, at most.
pub(crate) const MAX_BYTES: usize = 65_536;
/// Violations that are told.
const MAX_VIOLATIONS: usize = 20;
/// Characters of one violation.
const MAX_MESSAGE_LENGTH: usize = 300;
/// Steps of a check that takes place where the request is served: a millisecond at most.
const MAX_STEPS_HERE: u64 = 100_000;
/// Bytes of data that is checked there: reading it takes as long.
const MAX_BYTES_HERE: usize = 32_768;
/// Steps beyond which an event is refused: about a tenth of a second. Naming takes as many at most.
pub(crate) const MAX_STEPS: u64 = 10_000_000;
/// How long a task waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// One task at a time takes place apart, of one application after the other.
static TURNS: LazyLock<Shares<Party>> = LazyLock::new(Shares::one_at_a_time);

/// A compiled schema.
pub(crate) struct Schema {
    /// SHA-256 of its text.
    pub(crate) hash: [u8; 32],
    bytes_of_text: usize,
    json: Value,
    parts: Parts,
    patterns: PatternCache,
    validator: Validator,
}

/// What is wrong at one place of the data, or of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The path of the place, such as `data.items[2].price`.
    pub(crate) path: String,
    /// What is wrong there.
    pub(crate) message: String,
}

/// Why data was not checked, or a schema not compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SchemaError {
    /// It would take too many steps.
    #[error("checking the data against the schema of its event type takes too long")]
    TooCostly,
    /// Others wait for the same.
    #[error("too many schema checks are waiting")]
    Overloaded,
    /// A defect of this program, which has been logged.
    #[error("an internal error occurred")]
    Internal,
}

impl SchemaError {
    /// True if the same check may succeed later.
    pub(crate) fn is_retryable(self) -> bool {
        self != Self::TooCostly
    }
}

/// What a check found.
pub(crate) enum Checked {
    /// Nothing.
    Satisfied,
    /// These violations. Their paths begin with `data`.
    Violated(Vec<Violation>),
}

impl Schema {
    /// Compiles a schema that is stored: in a [turn](in_turn).
    ///
    /// # Errors
    /// With what is wrong with it: a path in the schema, and a sentence.
    pub(crate) fn compile(stored: &StoredSchema) -> Result<Self, Violation> {
        let json = storable_json::approximate(&stored.json);
        let parts = Parts::of(&json)?;
        let patterns = PatternCache::new();
        let validator = options(&patterns).build(&json).map_err(|error| Violation {
            path: path_of("", error.instance_path().as_str()),
            message: message(&error),
        })?;
        Ok(Self { hash: stored.hash, bytes_of_text: stored.json.len(), json, parts, patterns, validator })
    }

    /// About how many bytes it takes, at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_of_text as u64 * 2 + self.parts.bytes()
    }

    /// Checks the `data` of an event, as text, on the account of `party`.
    ///
    /// # Errors
    /// When the data was not checked.
    pub(crate) async fn check(self: &Arc<Self>, party: &Party, data: &str) -> Result<Checked, SchemaError> {
        if data.len() <= MAX_BYTES_HERE
            && self.is_satisfied_by(&storable_json::approximate(data), MAX_STEPS_HERE) == Some(true)
        {
            return Ok(Checked::Satisfied);
        }
        let (schema, data) = (self.clone(), data.to_owned());
        in_turn(party, move || schema.check_apart(&data)).await?.ok_or(SchemaError::TooCostly)
    }

    /// `None` where it would take more than `steps` to tell.
    fn is_satisfied_by(&self, value: &Value, steps: u64) -> Option<bool> {
        Budget::new(steps).spend_on(Task::Check, &self.parts.root, value)?;
        Some(self.validator.is_valid(value))
    }

    fn check_apart(&self, data: &str) -> Option<Checked> {
        let value = storable_json::approximate(data);
        Some(if self.is_satisfied_by(&value, MAX_STEPS)? {
            Checked::Satisfied
        } else {
            Checked::Violated(naming::violations(self, &value).0)
        })
    }
}

/// Does what may take long, on the account of `party`: no two such tasks take place at once.
///
/// # Errors
/// When others wait for the same, or the task panicked.
pub(crate) async fn in_turn<T: Send + 'static>(
    party: &Party,
    task: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SchemaError> {
    let Some(turn) = TURNS.acquire(party, 1, TURN_TIMEOUT).await else { return Err(SchemaError::Overloaded) };
    // The turn lasts as long as the task, whether or not somebody still waits for it.
    let doing = tokio::task::spawn_blocking(move || {
        let done = task();
        drop(turn);
        done
    });
    doing.await.map_err(|error| {
        tracing::error!(%error, "work with a schema ended badly");
        SchemaError::Internal
    })
}

/// How a schema, or a part of one, is compiled.
fn options(patterns: &PatternCache) -> ValidationOptions<'static> {
    jsonschema::options()
        .offline()
        .should_validate_formats(true)
        .should_ignore_unknown_formats(true)
        // Its check compiles the text.
        .with_format("regex", |_: &str| true)
        .with_pattern_options(pattern::options())
        .with_pattern_cache(patterns.clone())
}

/// `data.items[2].price`, out of `data` and `/items/2/price`.
fn path_of(root: &str, pointer: &str) -> String {
    let mut path = root.to_owned();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.extend(part.chars().take(100));
        }
    }
    path
}

/// What is wrong, without the value that is.
fn message(error: &ValidationError<'_>) -> String {
    let message = error.masked_with("it").to_string();
    let mut short: String = message.chars().take(MAX_MESSAGE_LENGTH).collect();
    if short.len() < message.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
