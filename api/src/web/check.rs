//! Collects the mistakes in the fields of a body, so that one response reports all of them.

use std::fmt::Display;

use poem_openapi::types::MaybeUndefined::{self, Null, Undefined, Value};

use crate::web::json_types::JsonObject;
use crate::web::problem::{FieldError, Problem};

/// The largest `metadata`, in bytes.
pub(crate) const MAX_METADATA_BYTES: usize = 16_384;
/// The longest name, in characters.
const MAX_NAME_LENGTH: usize = 255;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    errors: Vec<FieldError>,
    code: Option<&'static str>,
}

impl Checks {
    /// Records a mistake.
    pub(crate) fn mistake(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError { field: field.into(), message: message.into() });
    }

    /// Records a mistake with a code of its own. The first such code becomes that of the problem.
    pub(crate) fn refuse(
        &mut self,
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.code.get_or_insert(code);
        self.mistake(field, message);
    }

    /// Returns the value of a field, or records why there is none.
    pub(crate) fn value<T>(&mut self, field: &str, result: Result<T, impl Display>) -> Option<T> {
        result.map_err(|error| self.mistake(field, error.to_string())).ok()
    }

    /// Records a mistake if a name is blank or too long.
    pub(crate) fn name(&mut self, field: &str, name: &str) {
        if name.trim().is_empty() || name.chars().count() > MAX_NAME_LENGTH {
            self.mistake(field, format!("must have 1 to {MAX_NAME_LENGTH} characters, not only spaces"));
        }
    }

    /// Returns the given value of a field that cannot be null. Records a mistake if it is null.
    pub(crate) fn not_null<T>(&mut self, field: &str, given: MaybeUndefined<T>) -> Option<T> {
        match given {
            Undefined => None,
            Null => {
                self.mistake(field, "must not be null");
                None
            }
            Value(value) => Some(value),
        }
    }

    /// Records a mistake if a number is out of range.
    pub(crate) fn in_range(&mut self, field: impl Into<String>, number: i64, least: i64, most: i64) {
        if !(least..=most).contains(&number) {
            self.mistake(field, format!("must be from {least} to {most}"));
        }
    }

    /// Returns metadata as text, `{}` if there is none. Records a mistake if it is not an object or is too large.
    pub(crate) fn metadata(&mut self, metadata: Option<JsonObject>) -> String {
        let Some(metadata) = metadata else {
            return "{}".to_owned();
        };
        let json = metadata.as_str();
        if !json.starts_with('{') {
            self.mistake("metadata", "must be a JSON object");
        } else if json.len() > MAX_METADATA_BYTES {
            self.mistake("metadata", format!("must have at most {MAX_METADATA_BYTES} bytes"));
        }
        json.to_owned()
    }

    /// Ends the checks.
    ///
    /// # Errors
    /// 422 with all mistakes, if there are any.
    pub(crate) fn done(self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let problem = Problem::invalid(self.errors);
        Err(Problem { code: self.code.unwrap_or(problem.code), ..problem })
    }
}

/// Applies a PATCH to a field: an absent value leaves it unchanged, null sets the default.
pub(crate) fn set<T, G>(field: &mut T, default: T, given: MaybeUndefined<G>, checked: impl FnOnce(G) -> T) {
    match given {
        Undefined => {}
        Null => *field = default,
        Value(value) => *field = checked(value),
    }
}
