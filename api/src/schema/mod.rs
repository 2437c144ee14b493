//! The JSON Schemas of event types: compiles them within limits, and checks `data` against them.
//!
//! Tenants write the schemas, so the cost of each must be bounded. A reference cannot leave the schema or be
//! circular, and the size of the schema with every reference followed is limited ([`parts`]). The cost of compiling,
//! checking and naming violations is estimated beforehand, in the same [steps](cost). Work that needs more than a few
//! steps runs outside the request tasks, one job at a time, with applications served in turn.

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

/// The largest schema, in bytes.
pub(crate) const MAX_BYTES: usize = 65_536;
/// The most violations that are reported.
const MAX_VIOLATIONS: usize = 20;
/// The longest message of a violation, in characters.
const MAX_MESSAGE_LENGTH: usize = 300;
/// The most steps for a check in the task that serves the request: at most a millisecond.
const MAX_STEPS_HERE: u64 = 100_000;
/// The most bytes of data for such a check. Parsing them takes about as long.
const MAX_BYTES_HERE: usize = 32_768;
/// The most steps for checking an event, about a tenth of a second. Naming violations may take as many again.
pub(crate) const MAX_STEPS: u64 = 10_000_000;
/// How long a job waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// Lets one job run at a time, with applications served in turn.
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

/// A violation at one place of the data, or a mistake at one place of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The path of the place, such as `data.items[2].price`.
    pub(crate) path: String,
    /// What is wrong there, without the value.
    pub(crate) message: String,
}

/// Why data was not checked, or a schema not compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SchemaError {
    /// The check would take too many steps.
    #[error("checking the data against the schema of its event type takes too long")]
    TooCostly,
    /// Too many other jobs are waiting.
    #[error("too many schema checks are waiting")]
    Overloaded,
    /// A defect of this program, which has been logged.
    #[error("an internal error occurred")]
    Internal,
}

impl SchemaError {
    /// Returns true if the same check may succeed later.
    pub(crate) fn is_retryable(self) -> bool {
        self != Self::TooCostly
    }
}

/// The result of a check.
pub(crate) enum Checked {
    /// The data satisfies the schema.
    Satisfied,
    /// The data has these violations. Their paths begin with `data`.
    Violated(Vec<Violation>),
}

impl Schema {
    /// Compiles a stored schema. Call it [in a turn](in_turn).
    ///
    /// # Errors
    /// The first mistake, with its path in the schema.
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

    /// Returns about how many bytes of memory it uses, at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_of_text as u64 * 2 + self.parts.bytes()
    }

    /// Checks the `data` of an event. If the check needs a turn, it counts for `party`.
    ///
    /// # Errors
    /// [`SchemaError`] if the data was not checked.
    pub(crate) async fn check(self: &Arc<Self>, party: &Party, data: &str) -> Result<Checked, SchemaError> {
        if data.len() <= MAX_BYTES_HERE
            && self.is_satisfied_by(&storable_json::approximate(data), MAX_STEPS_HERE) == Some(true)
        {
            return Ok(Checked::Satisfied);
        }
        let (schema, data) = (self.clone(), data.to_owned());
        in_turn(party, move || schema.check_apart(&data)).await?.ok_or(SchemaError::TooCostly)
    }

    /// Returns whether the value satisfies the schema, or `None` if finding out would take more than `steps`.
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

/// Runs a job that may take long, on the account of `party`. No two jobs run at the same time.
///
/// # Errors
/// If too many others wait, or the job panicked.
pub(crate) async fn in_turn<T: Send + 'static>(
    party: &Party,
    task: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SchemaError> {
    let Some(turn) = TURNS.acquire(party, 1, TURN_TIMEOUT).await else { return Err(SchemaError::Overloaded) };
    // The turn lasts as long as the job, even if no one waits for its result any more.
    let doing = tokio::task::spawn_blocking(move || {
        let done = task();
        drop(turn);
        done
    });
    doing.await.map_err(|error| {
        tracing::error!(%error, "a schema job panicked");
        SchemaError::Internal
    })
}

/// Returns the options for compiling a schema or a part of one.
fn options(patterns: &PatternCache) -> ValidationOptions<'static> {
    jsonschema::options()
        .offline()
        .should_validate_formats(true)
        .should_ignore_unknown_formats(true)
        // The library's check would compile the text.
        .with_format("regex", |_: &str| true)
        .with_pattern_options(pattern::options())
        .with_pattern_cache(patterns.clone())
}

/// Returns a path such as `data.items[2].price`, given `data` and `/items/2/price`.
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

/// Returns the message of an error, without the value.
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
