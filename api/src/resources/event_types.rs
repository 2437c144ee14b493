//! `/v1/event-types`: the catalogue of event types.

use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::event_type::EventType as Name;
use postrider_store::applications::ApplicationRef;
use postrider_store::event_types::{self, EventTypeEntry};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::party::Party;
use crate::auth::{Caller, Scope};
use crate::resources::event_type_request::{CreateEventTypeRequest, UpdateEventTypeRequest};
use crate::web::body::JsonBody;
use crate::web::json_types::{JsonObject, Timestamp};
use crate::web::page::{Page, PlaceCursor};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::success::{Created, Done, Found};

/// How often an update is tried when a concurrent update gets in between.
const TRIES: usize = 5;

/// An event type in the catalogue of an application.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EventType {
    /// The id of the application.
    application_id: Uuid,
    /// The name of the event type.
    name: String,
    /// A description for people.
    description: String,
    /// An example of the `data` of such an event. Null if none is set.
    example: Option<JsonObject>,
    /// The JSON Schema that the `data` of such an event must satisfy. Null if any object is accepted.
    json_schema: Option<JsonObject>,
    /// If true, the event type is treated as if it were not in the catalogue: its schema is not checked, and an
    /// application with `strict_event_types` refuses events of this type.
    is_archived: bool,
    /// When the event type was created.
    created_at: Timestamp,
    /// When the event type was last updated.
    updated_at: Timestamp,
}

impl From<EventTypeEntry> for EventType {
    fn from(stored: EventTypeEntry) -> Self {
        Self {
            application_id: stored.application_id.0,
            name: stored.name,
            description: stored.description,
            example: stored.example.map(JsonObject::rendered),
            json_schema: stored.json_schema.map(JsonObject::rendered),
            is_archived: stored.is_archived,
            created_at: stored.created_at.into(),
            updated_at: stored.updated_at.into(),
        }
    }
}

fn unknown() -> Problem {
    Problem::not_found("event_type_not_found", "event type")
}

/// The operations on event types.
pub(crate) struct EventTypes;

#[OpenApi(prefix_path = "/v1", tag = "Tag::EventTypes")]
impl EventTypes {
    /// Create an event type
    ///
    /// Adds an event type to the catalogue of the application. If `json_schema` is set, the `data` of every event of
    /// this type is checked against it from now on. An application can have up to 1,000 event types, including
    /// archived ones. Requires the `manage` scope.
    #[oai(path = "/event-types", method = "post", operation_id = "create_event_type")]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
        body: JsonBody<CreateEventTypeRequest>,
    ) -> Result<Created<EventType>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        let (name, settings) = body.0.check(&Party::Application(application)).await?;
        let created =
            event_types::create(&app.store, &caller.actor(), application, name.as_str(), &settings).await;
        match created {
            Ok(event_types::Created::EventType(entry)) => {
                // Only the admin must name the application.
                let whose = match caller {
                    Caller::Admin => format!("?application_id={application}"),
                    Caller::Application(_) => String::new(),
                };
                Ok(Created::at(format!("/v1/event-types/{name}{whose}"), *entry))
            }
            Err(error) if error.is_unique_violation() => Err(Problem::new(
                StatusCode::CONFLICT,
                "event_type_exists",
                "The catalogue already has an event type with this name. Update that event type, or choose \
                 a different name.",
            )
            .into()),
            Ok(event_types::Created::TooMany) => Err(Problem::new(
                StatusCode::CONFLICT,
                "too_many_event_types",
                format!(
                    "The application already has {} event types, which is the maximum. Delete an event \
                     type, then try again.",
                    event_types::MAX_TYPES
                ),
            )
            .into()),
            Ok(event_types::Created::UnknownApplication) => {
                Err(Problem::not_found("application_not_found", "application").into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// List event types
    ///
    /// Returns event types in the order of their names. If several applications are listed, the event types are
    /// grouped by application. Requires the `read` scope.
    #[oai(path = "/event-types", method = "get", operation_id = "list_event_types")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// If true, archived event types are included.
        include_archived: InQuery<bool>,
        /// Returns only event types of the application with this id or `uid`. If absent, an admin token lists the
        /// event types of all applications, and an API key those of its own application.
        application_id: InQuery<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<PlaceCursor>,
    ) -> Result<Found<Page<EventType>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let after = cursor.0.as_ref().map(|cursor| &cursor.0);
        let with_archived = include_archived.0.unwrap_or_default();
        let page = event_types::list(&app.store, application, after, with_archived, limit.items()).await?;
        Ok(Found::new(Page::with_cursor(page, PlaceCursor)))
    }

    /// Get an event type
    ///
    /// Returns an event type with its example and schema. Requires the `read` scope.
    #[oai(path = "/event-types/:event_type", method = "get", operation_id = "get_event_type")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The name of the event type.
        event_type: Path<Name>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<EventType>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        let entry = event_types::get(&app.store, application, event_type.0.as_str()).await?;
        Ok(Found::new(entry.ok_or_else(unknown)?))
    }

    /// Update an event type
    ///
    /// Updates an event type. Absent fields keep their value. A new schema applies to every event that is published
    /// after the response. Requires the `manage` scope.
    #[oai(path = "/event-types/:event_type", method = "patch", operation_id = "update_event_type")]
    async fn update(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The name of the event type.
        event_type: Path<Name>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
        body: JsonBody<UpdateEventTypeRequest>,
    ) -> Result<Found<EventType>, Refused<{ BODY | NOT_FOUND }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        for _ in 0..TRIES {
            let seen = event_types::get(&app.store, application, event_type.0.as_str()).await?;
            let seen = seen.ok_or_else(unknown)?;
            let settings = body.0.apply(&Party::Application(application), &seen).await?;
            if let Some(changed) = event_types::update(&app.store, &caller.actor(), &seen, &settings).await? {
                return Ok(Found::new(changed));
            }
        }
        Err(Problem::unavailable("busy", "Other requests keep changing this event type. Try again.").into())
    }

    /// Delete an event type
    ///
    /// Removes an event type from the catalogue. Existing events of this type are kept. New ones are still accepted,
    /// unless the application has `strict_event_types` set. Requires the `manage` scope.
    #[oai(path = "/event-types/:event_type", method = "delete", operation_id = "delete_event_type")]
    async fn delete(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The name of the event type.
        event_type: Path<Name>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Done, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        if event_types::delete(&app.store, &caller.actor(), application, event_type.0.as_str()).await? {
            Ok(Done)
        } else {
            Err(unknown().into())
        }
    }
}
