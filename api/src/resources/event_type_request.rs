//! The requests that create and update an event type, and their checks.

use std::sync::Arc;

use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined;
use postrider_domain::event_type::{EventType, RESERVED_PREFIX};
use postrider_store::event_types::{EventTypeEntry, EventTypeSettings, StoredSchema};
use serde::{Deserialize, Serialize};

use crate::auth::party::Party;
use crate::schema::{self, Checked, Schema, in_turn};
use crate::web::check::{Checks, set};
use crate::web::json_types::JsonObject;
use crate::web::problem::Problem;

const MAX_DESCRIPTION_LENGTH: usize = 1_000;
const MAX_EXAMPLE_BYTES: usize = 65_536;

/// The event type to add to the catalogue.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateEventTypeRequest {
    /// The name of the event type: parts of letters, digits and `_`, separated by periods, such as `invoice.paid`.
    /// Names that start with `postrider.` are reserved.
    #[oai(validator(min_length = 1, max_length = 255))]
    name: String,
    /// A description for people. Default: empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: Option<String>,
    /// An example of the `data` of such an event, up to 64 KiB. It must satisfy `json_schema`.
    #[serde(default)]
    example: Option<JsonObject>,
    /// A JSON Schema (drafts 4 to 2020-12) of up to 64 KiB that the `data` of such an event must satisfy. A `$ref`
    /// must point to a part of the schema itself (`#/…`), and references must not be circular. `format` is checked.
    /// Patterns cannot use look-around or back-references. All patterns together can have up to 16,384 characters
    /// and, when compiled, 20,000 states.
    #[serde(default)]
    json_schema: Option<JsonObject>,
    /// If true, the event type is treated as if it were not in the catalogue. Default: false.
    #[serde(default)]
    is_archived: Option<bool>,
}

/// The fields to change. Absent fields keep their value.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateEventTypeRequest {
    /// A description for people. Null makes it empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: MaybeUndefined<String>,
    /// An example of the `data` of such an event, up to 64 KiB. It must satisfy `json_schema`. Null removes it.
    #[serde(default)]
    example: MaybeUndefined<JsonObject>,
    /// A JSON Schema that the `data` of such an event must satisfy, with the same limits as at creation. Null removes
    /// it.
    #[serde(default)]
    json_schema: MaybeUndefined<JsonObject>,
    /// If true, the event type is treated as if it were not in the catalogue. Null means false.
    #[serde(default)]
    is_archived: MaybeUndefined<bool>,
}

impl CreateEventTypeRequest {
    /// Checks all fields, the schema, and the example against the schema.
    ///
    /// # Errors
    /// 422 with the mistakes.
    pub(crate) async fn check(self, party: &Party) -> Result<(EventType, EventTypeSettings), Problem> {
        let mut checks = Checks::default();
        let name = checks.value("name", EventType::parse(&self.name));
        if name.as_ref().is_some_and(EventType::is_reserved) {
            let message = format!(
                "must not start with `{RESERVED_PREFIX}`, which is reserved for Postrider's own events"
            );
            checks.refuse("event_type_reserved", "name", message);
        }
        let settings = EventTypeSettings {
            description: self.description.unwrap_or_default(),
            example: self.example.map(text),
            json_schema: self.json_schema.map(text),
            is_archived: self.is_archived.unwrap_or_default(),
        };
        let settings = check(party, checks, settings).await?;
        Ok((name.expect("a name that is none was refused above"), settings))
    }
}

impl UpdateEventTypeRequest {
    /// Applies the changes to the current settings and checks the result.
    ///
    /// # Errors
    /// 422 with the mistakes.
    pub(crate) async fn apply(
        &self,
        party: &Party,
        seen: &EventTypeEntry,
    ) -> Result<EventTypeSettings, Problem> {
        let mut settings = EventTypeSettings {
            description: seen.description.clone(),
            example: seen.example.clone(),
            json_schema: seen.json_schema.clone(),
            is_archived: seen.is_archived,
        };
        let json = |json: &JsonObject| Some(json.as_str().to_owned());
        set(&mut settings.description, String::new(), self.description.as_ref(), Clone::clone);
        set(&mut settings.example, None, self.example.as_ref(), json);
        set(&mut settings.json_schema, None, self.json_schema.as_ref(), json);
        set(&mut settings.is_archived, false, self.is_archived, |is_archived| is_archived);
        check(party, Checks::default(), settings).await
    }
}

async fn check(
    party: &Party,
    mut checks: Checks,
    settings: EventTypeSettings,
) -> Result<EventTypeSettings, Problem> {
    if settings.description.chars().count() > MAX_DESCRIPTION_LENGTH {
        checks.mistake("description", format!("must have at most {MAX_DESCRIPTION_LENGTH} characters"));
    }
    for (field, json, max_bytes) in [
        ("example", &settings.example, MAX_EXAMPLE_BYTES),
        ("json_schema", &settings.json_schema, schema::MAX_BYTES),
    ] {
        let Some(json) = json else { continue };
        if !json.starts_with('{') {
            checks.mistake(field, "must be a JSON object");
        } else if json.len() > max_bytes {
            checks.mistake(field, format!("must have at most {max_bytes} bytes"));
        }
    }
    checks.done()?;
    check_schema(party, &settings).await?;
    Ok(settings)
}

/// Checks that the schema can be compiled and that the example satisfies it.
async fn check_schema(party: &Party, settings: &EventTypeSettings) -> Result<(), Problem> {
    let Some(json) = settings.json_schema.clone() else { return Ok(()) };
    let compiled = in_turn(party, move || Schema::compile(&StoredSchema { hash: [0; 32], json })).await?;
    let mut checks = Checks::default();
    match compiled {
        Err(mistake) => {
            let separator = if mistake.path.is_empty() { "" } else { "." };
            checks.refuse(
                "json_schema_invalid",
                format!("json_schema{separator}{}", mistake.path),
                mistake.message,
            );
        }
        Ok(schema) => {
            if let Some(example) = &settings.example
                && let Checked::Violated(violations) = Arc::new(schema).check(party, example).await?
            {
                for violation in violations {
                    let field = violation.path.replacen("data", "example", 1);
                    checks.refuse("schema_violation", field, violation.message);
                }
            }
        }
    }
    checks.done()
}

fn text(json: JsonObject) -> String {
    json.as_str().to_owned()
}
