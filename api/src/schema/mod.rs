//! The JSON Schema of an event type: compiled within bounds, and what `data` is checked against.
//!
//! A schema is written by a tenant, so that nothing in it may cost without bound: no reference leaves it or
//! comes back to itself, it has a bounded size with every reference followed, and its patterns are matched
//! in linear time. The steps of a check are counted before it is done; those of naming what is wrong too, for
//! one small event can violate a schema in millions of ways ([`naming`]).

mod cost;
mod naming;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jsonschema::{PatternOptions, ValidationError, Validator};
use postrider_shared::share::Shares;
use postrider_shared::store::event_types::StoredSchema;
use serde_json::Value;

use crate::auth::party::Party;
use crate::web::data;
use crate::web::problem::{FieldError, Problem};
use cost::Cost;

/// Bytes of a schema, at most.
pub(crate) const MAX_BYTES: usize = 65_536;
/// Bytes that one compiled pattern may take, and as many again while it matches.
const MAX_PATTERN_BYTES: usize = 262_144;
/// Violations that are told.
const MAX_VIOLATIONS: usize = 20;
/// Characters of one violation.
const MAX_MESSAGE_LENGTH: usize = 300;
/// Steps that are taken where the request is served; more of them take place apart, one event at a time.
const MAX_STEPS_HERE: u64 = 50_000;
/// Steps beyond which an event is refused: about a tenth of a second's.
const MAX_STEPS: u64 = 4_000_000;
/// How long an event waits for its turn there.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// One check at a time takes place apart, of one application after the other.
static TURNS: LazyLock<Shares<Party>> = LazyLock::new(Shares::one_at_a_time);

/// A compiled schema.
pub(crate) struct Schema {
    /// SHA-256 of its text.
    pub(crate) hash: [u8; 32],
    json: Value,
    validator: Validator,
    cost: Cost,
}

/// What a check found.
pub(crate) enum Checked {
    /// Nothing.
    Satisfied,
    /// These violations, of the field `data`.
    Violated(Vec<FieldError>),
}

impl Schema {
    /// Compiles a schema that is stored.
    ///
    /// # Errors
    /// With what is wrong with it: a path in the schema, and a sentence.
    pub(crate) fn compile(stored: &StoredSchema) -> Result<Self, FieldError> {
        let json = data::approximate(&stored.json);
        let cost = Cost::of(&json)?;
        let validator = build(&json)
            .map_err(|error| FieldError { field: path_of("", &error), message: message(&error) })?;
        Ok(Self { hash: stored.hash, json, validator, cost })
    }

    /// About how many bytes it takes, at most.
    pub(crate) fn bytes(&self) -> u32 {
        u32::try_from(MAX_BYTES + self.cost.nodes * 1_024 + self.cost.patterns * 2 * MAX_PATTERN_BYTES)
            .unwrap_or(u32::MAX)
    }

    /// Checks the `data` of an event, as text, on the account of `party`.
    ///
    /// # Errors
    /// 422 where that would take too long, 503 where others wait for the same.
    pub(crate) async fn check(self: &Arc<Self>, party: &Party, data: &str) -> Result<Checked, Problem> {
        let steps = self.cost.steps(data.len());
        if steps > MAX_STEPS {
            return Err(too_costly());
        }
        if steps <= MAX_STEPS_HERE {
            let value = data::approximate(data);
            if self.validator.is_valid(&value) {
                return Ok(Checked::Satisfied);
            }
        }
        let Some(turn) = TURNS.acquire(party, 1, TURN_TIMEOUT).await else { return Err(overloaded()) };
        let (schema, data) = (self.clone(), data.to_owned());
        // The turn lasts as long as the check, whether or not somebody still waits for it.
        let checking = tokio::task::spawn_blocking(move || {
            let checked = schema.check_here(&data);
            drop(turn);
            checked
        });
        checking.await.map_err(|error| {
            tracing::error!(%error, "checking an event against its schema ended badly");
            Problem::internal()
        })
    }

    fn check_here(&self, data: &str) -> Checked {
        let value = data::approximate(data);
        if self.validator.is_valid(&value) {
            return Checked::Satisfied;
        }
        Checked::Violated(naming::violations(self, &value, data.len()))
    }
}

/// Compiles a schema, or a part of one.
fn build(json: &Value) -> Result<Validator, ValidationError<'static>> {
    jsonschema::options()
        .offline()
        .should_validate_formats(true)
        .should_ignore_unknown_formats(true)
        // Its check compiles the text.
        .with_format("regex", |_: &str| true)
        .with_pattern_options(
            PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES),
        )
        .build(json)
}

/// `data.items[2].price`, out of `/items/2/price`.
fn path_of(root: &str, error: &ValidationError<'_>) -> String {
    let mut path = root.to_owned();
    for part in error.instance_path().as_str().split('/').skip(1) {
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

fn too_costly() -> Problem {
    Problem::refused_field(
        "schema_too_costly",
        "data",
        "is too large to be checked against the schema of its type; send less, or simplify the schema",
    )
}

fn overloaded() -> Problem {
    Problem::unavailable(
        "overloaded",
        "More events wait to be checked against their schemas than can be. Try again with the same key.",
    )
}

#[cfg(test)]
mod tests;
