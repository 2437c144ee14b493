//! `/v1/events`: published and read.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::event_type::EventType;
use postrider_shared::ids::{DeliveryId, EventId};
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::deliveries::{self, DeliveryFilter};
use postrider_shared::store::events::{self, EventFilter};
use postrider_shared::store::expunge::expunge;
use serde::Serialize;
use uuid::Uuid;

use crate::accept::PublishedEvent;
use crate::accept::idempotency_key::IdempotencyKey;
use crate::app::{App, Tag};
use crate::auth::{Caller, Credential, Scope};
use crate::resources::deliveries::Delivery;
use crate::resources::publish::{PostedEvent, publish};
use crate::resources::publish_batch::{PostedBatch, PublishedEventBatch, publish_batch};
use crate::web::answer::{Accepted, Found};
use crate::web::page::{Cursor, Page, limit};
use crate::web::parameter::{AnyOf, InQuery, Path};
use crate::web::parameter_values::{Containment, Limit};
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, LIMITED, NOT_FOUND, Refused};
use crate::web::value::{JsonObject, Timestamp};

/// What a producer published, once.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Event {
    /// Its id, and the `webhook-id` of every attempt to deliver it.
    id: Uuid,
    /// The application that published it.
    application_id: Uuid,
    /// Its type.
    event_type: String,
    /// What was published, with every digit. The order of keys is not kept. Null: it was removed on request.
    data: Option<JsonObject>,
    /// The key under which it was published.
    idempotency_key: String,
    /// When it was accepted; the `timestamp` in the body of its webhooks.
    created_at: Timestamp,
    /// When its data was removed on request; null: it was not.
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
    /// Answered once the event and its deliveries are safely stored: from then on it cannot be lost. The
    /// same key with the same event gives the first answer again, with `duplicate: true`, as long as the
    /// event is kept; with another event it is refused. Try again with the same key after a 503 or a lost
    /// connection. Needs the scope `publish`.
    #[oai(path = "/events", method = "post", operation_id = "publish_event")]
    async fn publish(
        &self,
        credential: Credential,
        app: Data<&Arc<App>>,
        /// Your own key for this event, the same on every try: 1 to 255 visible ASCII characters.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: IdempotencyKey,
        /// The id or `uid` of the application: needed with an admin token.
        application_id: InQuery<ApplicationRef>,
        event: PostedEvent,
    ) -> Result<Accepted<PublishedEvent>, Refused<{ BODY | NOT_FOUND | CONFLICT | LIMITED }>> {
        let published = publish(&app, credential, idempotency_key, application_id.0, event).await?;
        Ok(Accepted::new(published))
    }

    /// Publish a batch of events
    ///
    /// Up to 1,000 events in up to 4 MiB. Each is accepted or rejected by itself, and `results` tells so in
    /// the order of the request: send those again whose `error` has the status 503, and all of them where the
    /// whole is answered so, under the same keys. Needs the scope `publish`.
    #[oai(path = "/events/batch", method = "post", operation_id = "publish_event_batch")]
    async fn publish_batch(
        &self,
        credential: Credential,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application: needed with an admin token.
        application_id: InQuery<ApplicationRef>,
        batch: PostedBatch,
    ) -> Result<Accepted<PublishedEventBatch>, Refused<{ BODY | NOT_FOUND | LIMITED }>> {
        Ok(Accepted::new(publish_batch(&app, credential, application_id.0, batch).await?))
    }

    /// List events
    ///
    /// Newest first. Each call looks at a bounded number of events: with filters that match few of them a
    /// page may be short or empty while `next_cursor` is not null. Needs the scope `read`.
    #[oai(path = "/events", method = "get", operation_id = "list_events")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the query")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// Any of these types.
        event_type: AnyOf<EventType>,
        /// Accepted at this time or later.
        created_after: InQuery<DateTime<Utc>>,
        /// Accepted before this time.
        created_before: InQuery<DateTime<Utc>>,
        /// A JSON object that `data` contains: each of its keys with an equal value, nested objects likewise.
        data_contains: InQuery<Containment>,
        /// The id or `uid` of an application: with an admin token, which else lists those of all.
        application_id: InQuery<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
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
        let cursor = cursor.0.map(|cursor| EventId(cursor.0));
        let page = events::list(&app.store, &filter, cursor, limit(&page_limit)).await?;
        Ok(Found::new(Page::of(page)))
    }

    /// Get an event
    ///
    /// Needs the scope `read`.
    #[oai(path = "/events/:event_id", method = "get", operation_id = "get_event")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the event.
        event_id: Path<EventId>,
        /// The id or `uid` of an application: with an admin token, to look at no other's.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<Event>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let event = events::get(&app.store, application, event_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(event))
    }

    /// Expunge an event
    ///
    /// Removes its data, and the bodies that its deliveries were answered with, for good. What of it is open is
    /// cancelled, and it can never be sent again; that it was there stays to be seen. Needs the scope `manage`.
    #[oai(path = "/events/:event_id/expunge", method = "post", operation_id = "expunge_event")]
    async fn expunge(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the event.
        event_id: Path<EventId>,
        /// The id or `uid` of the application: needed with an admin token.
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
    /// Newest first: one for each endpoint that matched when the event was accepted. Needs the scope
    /// `read`.
    #[oai(path = "/events/:event_id/deliveries", method = "get", operation_id = "list_event_deliveries")]
    async fn deliveries(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the event.
        event_id: Path<EventId>,
        /// The id or `uid` of an application: with an admin token, to look at no other's.
        application_id: InQuery<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Delivery>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application_id = caller.listed_application(&app, application_id.0.as_ref()).await?;
        if !events::exists(&app.store, application_id, event_id.0).await? {
            return Err(unknown().into());
        }
        let filter =
            DeliveryFilter { application_id, event_id: Some(event_id.0), ..DeliveryFilter::default() };
        let cursor = cursor.0.map(|cursor| DeliveryId(cursor.0));
        let page = deliveries::list(&app.store, &filter, cursor, limit(&page_limit)).await?;
        Ok(Found::new(Page::of(page)))
    }
}

/// The types that were asked for, as text.
pub(crate) fn names(event_types: AnyOf<EventType>) -> Option<Vec<String>> {
    event_types.0.map(|types| types.iter().map(|event_type| event_type.as_str().to_owned()).collect())
}
