//! `/v1/event-types`: the catalogue of what an application publishes.

use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::event_type::EventType as Name;
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::event_types::{self, EventTypeEntry};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::party::Party;
use crate::auth::{Caller, Scope};
use crate::resources::event_type_request::{CreateEventTypeRequest, UpdateEventTypeRequest};
use crate::web::answer::{Created, Done, Found};
use crate::web::body::JsonBody;
use crate::web::page::{Page, PlaceCursor, limit};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::value::{JsonObject, Timestamp};

/// How often a change is tried anew because another one came in between.
const TRIES: usize = 5;

/// An entry of the catalogue.
#[derive(Debug, Object, Serialize)]
pub(crate) struct EventType {
    /// The application whose catalogue it is in.
    application_id: Uuid,
    /// The type.
    name: String,
    /// For people.
    description: String,
    /// What `data` may look like; null: not given.
    example: Option<JsonObject>,
    /// The JSON Schema that `data` must satisfy; null: any object is taken.
    json_schema: Option<JsonObject>,
    /// It counts as not in the catalogue: its schema is not asked for, and an application that takes only known
    /// types refuses it.
    is_archived: bool,
    /// When it was added.
    created_at: Timestamp,
    /// When it was last changed.
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
    /// Add an event type
    ///
    /// From now on `data` of events of this type is checked against `json_schema`, where that is set. An
    /// application may have 1,000 event types. Needs the scope `manage`.
    #[oai(path = "/event-types", method = "post", operation_id = "create_event_type")]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application: needed with an admin token.
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
                // Only the admin has to name the application.
                let whose = match caller {
                    Caller::Admin => format!("?application_id={application}"),
                    Caller::Application(_) => String::new(),
                };
                Ok(Created::at(format!("/v1/event-types/{name}{whose}"), *entry))
            }
            Err(error) if error.is_unique_violation() => Err(Problem::new(
                StatusCode::CONFLICT,
                "event_type_exists",
                "The catalogue has an event type of this name. Change that one, or choose another name.",
            )
            .into()),
            Ok(event_types::Created::TooMany) => Err(Problem::new(
                StatusCode::CONFLICT,
                "too_many_event_types",
                format!(
                    "The application has {} event types, the most it may have. Delete one first.",
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
    /// In the order of their names, with an admin token that names no application of these first. Needs the
    /// scope `read`.
    #[oai(path = "/event-types", method = "get", operation_id = "list_event_types")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// True: archived ones too.
        include_archived: InQuery<bool>,
        /// The id or `uid` of an application: with an admin token, which else lists those of all.
        application_id: InQuery<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<PlaceCursor>,
    ) -> Result<Found<Page<EventType>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let after = cursor.0.as_ref().map(|cursor| &cursor.0);
        let with_archived = include_archived.0.unwrap_or_default();
        let page =
            event_types::list(&app.store, application, after, with_archived, limit(&page_limit)).await?;
        Ok(Found::new(Page::with_cursor(page, PlaceCursor)))
    }

    /// Get an event type
    ///
    /// Needs the scope `read`.
    #[oai(path = "/event-types/:event_type", method = "get", operation_id = "get_event_type")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The name of the event type.
        event_type: Path<Name>,
        /// The id or `uid` of the application: needed with an admin token.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<EventType>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        let entry = event_types::get(&app.store, application, event_type.0.as_str()).await?;
        Ok(Found::new(entry.ok_or_else(unknown)?))
    }

    /// Change an event type
    ///
    /// What is absent stays as it is. A change of the schema holds for every event that is published after the
    /// answer. Needs the scope `manage`.
    #[oai(path = "/event-types/:event_type", method = "patch", operation_id = "update_event_type")]
    async fn update(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The name of the event type.
        event_type: Path<Name>,
        /// The id or `uid` of the application: needed with an admin token.
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
        Err(Problem::unavailable("busy", "Others change this event type all the time. Try again.").into())
    }

    /// Remove an event type
    ///
    /// From the catalogue: events of this type stay, and are taken on unless the application takes only known
    /// types. Needs the scope `manage`.
    #[oai(path = "/event-types/:event_type", method = "delete", operation_id = "delete_event_type")]
    async fn delete(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The name of the event type.
        event_type: Path<Name>,
        /// The id or `uid` of the application: needed with an admin token.
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
