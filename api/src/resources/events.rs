//! `/v1/events`: publishes and reads events.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::event_type::EventType;
use postrider_domain::ids::EventId;
use postrider_store::applications::ApplicationRef;
use postrider_store::deliveries::{self, DeliveryFilter};
use postrider_store::events::{self, EventFilter};
use postrider_store::expunge::expunge;
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Credential, Scope};
use crate::resources::deliveries::Delivery;
use crate::resources::publish::{PostedEvent, PublishedEvent, publish};
use crate::resources::publish_batch::{PostedBatch, PublishedEventBatch, publish_batch};
use crate::web::idempotency_key::IdempotencyKey;
use crate::web::json_types::{JsonObject, Timestamp};
use crate::web::page::{Cursor, Page};
use crate::web::parameter::{AnyOf, InQuery, Path};
use crate::web::parameter_values::{Containment, Limit};
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, LIMITED, NOT_FOUND, Refused};
use crate::web::success::{Accepted, Found};

/// An event that was published.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Event {
    /// The unique id of the event. It is also the `webhook-id` of every attempt to deliver the event.
    id: Uuid,
    /// The id of the application that published the event.
    application_id: Uuid,
    /// The type of the event.
    event_type: String,
    /// The data of the event. Numbers keep every digit; the order of keys is not preserved. Null if the data was
    /// expunged.
    data: Option<JsonObject>,
    /// The idempotency key that the event was published with.
    idempotency_key: String,
    /// When the event was accepted. It is also the `timestamp` in the body of its webhooks.
    created_at: Timestamp,
    /// When the data was expunged. Null if it was not.
    expunged_at: Option<Timestamp>,
}

impl From<events::Event> for Event {
    fn from(stored: events::Event) -> Self {
        Self {
            id: stored.id.0,
            application_id: stored.application_id.0,
            event_type: stored.event_type,
            data: stored.expunged_at.is_none().then(|| JsonObject::rendered(stored.data)),
            idempotency_key: stored.idempotency_key,
            created_at: stored.created_at.into(),
            expunged_at: stored.expunged_at.map(Into::into),
        }
    }
}

fn unknown() -> Problem {
    Problem::not_found("event_not_found", "event")
}

/// The operations on events.
pub(crate) struct Events;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Events")]
impl Events {
    /// Publish an event
    ///
    /// Publishes an event. The response is sent after the event and its deliveries are durably stored. An event that
    /// was accepted is not lost. If you publish the same event again with the same idempotency key, you get the first
    /// response again with `duplicate: true`, for as long as the event is kept. Using the key for a different event
    /// is refused with 409. After a 503 or a lost connection, try again with the same key. Requires the `publish`
    /// scope.
    #[oai(path = "/events", method = "post", operation_id = "publish_event")]
    async fn publish(
        &self,
        credential: Credential,
        app: Data<&Arc<App>>,
        /// A key of your choice that identifies this event: 1 to 255 visible ASCII characters. Send the same key on
        /// every try.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: IdempotencyKey,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
        event: PostedEvent,
    ) -> Result<Accepted<PublishedEvent>, Refused<{ BODY | NOT_FOUND | CONFLICT | LIMITED }>> {
        let published = publish(&app, credential, idempotency_key, application_id.0, event).await?;
        Ok(Accepted::new(published))
    }

    /// Publish a batch of events
    ///
    /// Publishes up to 1,000 events in a body of up to 4 MiB. Each event is accepted or rejected on its own.
    /// `results` lists the outcomes in the order of the request. Send the events whose `error` has status 429 or 503
    /// again, with the same idempotency keys. If the whole request fails with 429 or 503, send all events again with
    /// the same keys. Requires the `publish` scope.
    #[oai(path = "/events/batch", method = "post", operation_id = "publish_event_batch")]
    async fn publish_batch(
        &self,
        credential: Credential,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
        batch: PostedBatch,
    ) -> Result<Accepted<PublishedEventBatch>, Refused<{ BODY | NOT_FOUND | LIMITED }>> {
        Ok(Accepted::new(publish_batch(&app, credential, application_id.0, batch).await?))
    }

    /// List events
    ///
    /// Returns events, newest first. Each call examines a limited number of events. With filters that match few of
    /// them, a page can be short or empty although `next_cursor` is not null. Requires the `read` scope.
    #[oai(path = "/events", method = "get", operation_id = "list_events")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the query")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// Returns only events of one of these types.
        event_type: AnyOf<EventType>,
        /// Returns only events accepted at or after this time.
        created_after: InQuery<DateTime<Utc>>,
        /// Returns only events accepted before this time.
        created_before: InQuery<DateTime<Utc>>,
        /// Returns only events whose `data` contains this JSON object: every key of it with an equal value, and
        /// nested objects in the same way. An array matches if it contains all items of the given one.
        data_contains: InQuery<Containment>,
        /// Returns only events of the application with this id or `uid`. If absent, an admin token lists the
        /// events of all applications, and an API key those of its own application.
        application_id: InQuery<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Event>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let filter = EventFilter {
            application_id: caller.listed_application(&app, application_id.0.as_ref()).await?,
            event_types: names(event_type),
            created_after: created_after.0,
            created_before: created_before.0,
            data_contains: data_contains.0.map(|json| json.0),
        };
        let page = events::list(&app.store, &filter, cursor.after(), limit.items()).await?;
        Ok(Found::new(page))
    }

    /// Get an event
    ///
    /// Returns an event, including its data. Requires the `read` scope.
    #[oai(path = "/events/:event_id", method = "get", operation_id = "get_event")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the event.
        event_id: Path<EventId>,
        /// The id or `uid` of the application that the event must belong to. If it belongs to another one, the
        /// response is 404.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<Event>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let event = events::get(&app.store, application, event_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(event))
    }

    /// Expunge an event
    ///
    /// Permanently removes the data of the event, and the response bodies of all attempts to deliver it. Open
    /// deliveries are cancelled, and the event can never be sent again. The event, its deliveries and its attempts
    /// can still be read. Requires the `manage` scope.
    #[oai(path = "/events/:event_id/expunge", method = "post", operation_id = "expunge_event")]
    async fn expunge(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the event.
        event_id: Path<EventId>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Accepted<Event>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        if !expunge(&app.store, &caller.actor(), application, event_id.0).await? {
            return Err(unknown().into());
        }
        let event = events::get(&app.store, Some(application), event_id.0).await?.ok_or_else(unknown)?;
        Ok(Accepted::new(event))
    }

    /// List the deliveries of an event
    ///
    /// Returns the deliveries of the event, newest first: one for each endpoint that matched when the event was
    /// accepted, and those that replays created. Requires the `read` scope.
    #[oai(path = "/events/:event_id/deliveries", method = "get", operation_id = "list_event_deliveries")]
    async fn deliveries(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the event.
        event_id: Path<EventId>,
        /// The id or `uid` of the application that the event must belong to. If it belongs to another one, the
        /// response is 404.
        application_id: InQuery<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Delivery>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application_id = caller.listed_application(&app, application_id.0.as_ref()).await?;
        if !events::exists(&app.store, application_id, event_id.0).await? {
            return Err(unknown().into());
        }
        let filter =
            DeliveryFilter { application_id, event_id: Some(event_id.0), ..DeliveryFilter::default() };
        let page = deliveries::list(&app.store, &filter, cursor.after(), limit.items()).await?;
        Ok(Found::new(page))
    }
}

/// Returns the requested event types as text.
pub(crate) fn names(event_types: AnyOf<EventType>) -> Option<Vec<String>> {
    event_types.0.map(|types| types.iter().map(|event_type| event_type.as_str().to_owned()).collect())
}
