//! What an event type may be: the requests that add one and change one, and their checks.

use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined;
use postrider_shared::event_type::{EventType, RESERVED_PREFIX};
use postrider_shared::store::event_types::{EventTypeEntry, EventTypeSettings, StoredSchema};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::auth::party::Party;
use crate::schema::{self, Checked, Schema, in_turn};
use crate::web::check::{Checks, set};
use crate::web::problem::Problem;
use crate::web::value::JsonObject;

const MAX_DESCRIPTION_LENGTH: usize = 1_000;
const MAX_EXAMPLE_BYTES: usize = 65_536;

/// An event type that is to be added to the catalogue.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateEventTypeRequest {
    /// The type: parts of letters, digits and `_`, joined by full stops. `postrider.` is reserved.
    #[oai(validator(min_length = 1, max_length = 255))]
    name: String,
    /// For people. Absent or null: empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: Option<String>,
    /// What `data` may look like, up to 64 KiB; it must satisfy the schema.
    #[serde(default)]
    example: Option<JsonObject>,
    /// A JSON Schema (drafts 4 to 2020-12), up to 64 KiB, that `data` must satisfy. References lead to parts
    /// of itself (`#/…`), and not in circles; formats are checked; patterns have no look-around and no
    /// back-references, 16,384 characters and, compiled, 20,000 states together.
    #[serde(default)]
    json_schema: Option<JsonObject>,
    /// True: it counts as not in the catalogue. Absent or null: false.
    #[serde(default)]
    is_archived: Option<bool>,
}

/// What is to change of an event type. What is absent stays as it is.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateEventTypeRequest {
    /// For people. Null: empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: MaybeUndefined<String>,
    /// What `data` may look like. Null: none.
    #[serde(default)]
    example: MaybeUndefined<JsonObject>,
    /// The JSON Schema that `data` must satisfy, within the same limits. Null: none.
    #[serde(default)]
    json_schema: MaybeUndefined<JsonObject>,
    /// True: it counts as not in the catalogue. Null: false.
    #[serde(default)]
    is_archived: MaybeUndefined<bool>,
}

impl CreateEventTypeRequest {
    /// Checks everything.
    ///
    /// # Errors
    /// 422.
    pub(crate) async fn check(self, party: &Party) -> Result<(EventType, EventTypeSettings), Problem> {
        let mut checks = Checks::default();
        let name = checks.text("name", EventType::parse(&self.name).map_err(|error| error.to_string()));
        if name.as_ref().is_some_and(EventType::is_reserved) {
            let message =
                format!("must not begin with `{RESERVED_PREFIX}`: these are Postrider's own events");
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
    /// Applies the change to what is there, and checks what comes of it.
    ///
    /// # Errors
    /// 422.
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

/// The schema is one that can be used, and the example satisfies it.
async fn check_schema(party: &Party, settings: &EventTypeSettings) -> Result<(), Problem> {
    let Some(json) = settings.json_schema.clone() else { return Ok(()) };
    let compiled = in_turn(party, move || Schema::compile(&StoredSchema { hash: [0; 32], json })).await?;
    let mut checks = Checks::default();
    match compiled {
        Err(mistake) => {
            let separator = if mistake.field.is_empty() { "" } else { "." };
            checks.refuse(
                "json_schema_invalid",
                format!("json_schema{separator}{}", mistake.field),
                mistake.message,
            );
        }
        Ok(schema) => {
            if let Some(example) = &settings.example
                && let Checked::Violated(violations) = Arc::new(schema).check(party, example).await?
            {
                for violation in violations {
                    let field = violation.field.replacen("data", "example", 1);
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
