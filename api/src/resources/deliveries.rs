//! `/v1/deliveries`: read, retried and cancelled.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::delivery::DeliveryStatus;
use postrider_shared::event_type::EventType;
use postrider_shared::ids::{DeliveryId, EndpointId, EventId};
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::deliveries::{self, DeliveryFilter, Moved, Refusal};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::events::names;
use crate::web::answer::{Accepted, Found};
use crate::web::page::{Cursor, Page, limit};
use crate::web::parameter::{AnyOf, InQuery, Path};
use crate::web::parameter_values::{HttpStatus, Limit};
use crate::web::problem::Problem;
use crate::web::refused::{CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::value::Timestamp;

/// One event on its way to one endpoint.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Delivery {
    /// Its id.
    id: Uuid,
    /// The event.
    event_id: Uuid,
    /// Where it goes.
    endpoint_id: Uuid,
    /// The type of the event.
    event_type: String,
    /// `pending`, `in_progress`, `succeeded`, `failed` (a retry is due), `dead_letter` or `cancelled`.
    status: String,
    /// Attempts that were begun.
    attempt_count: i32,
    /// Attempts that it may have.
    max_attempts: i32,
    /// When the next attempt is due; null where none is, or one is under way.
    next_retry_at: Option<Timestamp>,
    /// Why the last attempt failed; null where it did not, or there was none.
    last_error: Option<String>,
    /// What the receiver last answered; null where it did not.
    last_response_status: Option<i32>,
    /// What keeps it from being attempted although it is due: `rate_limit`, `probe`, `disabled`, `order`;
    /// null: nothing.
    waiting_for: Option<String>,
    /// When it was created.
    created_at: Timestamp,
    /// When it was closed; null: it is open.
    completed_at: Option<Timestamp>,
}

impl From<deliveries::Delivery> for Delivery {
    fn from(stored: deliveries::Delivery) -> Self {
        Self {
            id: stored.id.0,
            event_id: stored.event_id.0,
            endpoint_id: stored.endpoint_id.0,
            event_type: stored.event_type,
            status: stored.status.as_str().to_owned(),
            attempt_count: stored.attempt_count.into(),
            max_attempts: stored.max_attempts.into(),
            next_retry_at: stored.next_retry_at.map(Into::into),
            last_error: stored.last_error,
            last_response_status: stored.last_response_status.map(Into::into),
            waiting_for: stored.waiting_for,
            created_at: stored.created_at.into(),
            completed_at: stored.completed_at.map(Into::into),
        }
    }
}

fn unknown() -> Problem {
    Problem::not_found("delivery_not_found", "delivery")
}

/// The operations on deliveries.
pub(crate) struct Deliveries;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Deliveries")]
impl Deliveries {
    /// List deliveries
    ///
    /// Newest first. Each call looks at a bounded number of deliveries: with filters that match few of them
    /// a page may be short or empty while `next_cursor` is not null. Needs the scope `read`.
    #[oai(path = "/deliveries", method = "get", operation_id = "list_deliveries")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the query")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// In any of these states.
        status: AnyOf<DeliveryStatus>,
        /// To any of these endpoints.
        endpoint_id: AnyOf<EndpointId>,
        /// Of any of these types.
        event_type: AnyOf<EventType>,
        /// Of this event.
        event_id: InQuery<EventId>,
        /// Last answered with any of these statuses.
        last_response_status: AnyOf<HttpStatus>,
        /// Created at this time or later.
        created_after: InQuery<DateTime<Utc>>,
        /// Created before this time.
        created_before: InQuery<DateTime<Utc>>,
        /// The id or `uid` of an application: with an admin token, which else lists those of all.
        application_id: InQuery<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Delivery>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let filter = DeliveryFilter {
            application_id: caller.listed_application(&app, application_id.0.as_ref()).await?,
            event_id: event_id.0,
            statuses: status.0,
            endpoint_ids: endpoint_id.0,
            event_types: names(event_type),
            last_response_statuses: last_response_status.0.map(|all| all.iter().map(|one| one.0).collect()),
            created_after: created_after.0,
            created_before: created_before.0,
        };
        let cursor = cursor.0.map(|cursor| DeliveryId(cursor.0));
        let page = deliveries::list(&app.store, &filter, cursor, limit(&page_limit)).await?;
        Ok(Found::new(Page::of(page)))
    }

    /// Get a delivery
    ///
    /// Needs the scope `read`.
    #[oai(path = "/deliveries/:delivery_id", method = "get", operation_id = "get_delivery")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the delivery.
        delivery_id: Path<DeliveryId>,
        /// The id or `uid` of an application: with an admin token, to look at no other's.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<Delivery>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let delivery = deliveries::get(&app.store, application, delivery_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(delivery))
    }

    /// Retry a delivery
    ///
    /// One that is open is due now. One that is closed, also one that succeeded, is opened again with one
    /// attempt more. One that is in progress is refused: wait for its end; and one whose endpoint was deleted
    /// or whose event is gone. Where the endpoint is disabled it waits. Needs the scope `manage`.
    #[oai(path = "/deliveries/:delivery_id/retry", method = "post", operation_id = "retry_delivery")]
    async fn retry(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the delivery.
        delivery_id: Path<DeliveryId>,
        /// The id or `uid` of the application: needed with an admin token.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Accepted<Delivery>, Refused<{ NOT_FOUND | CONFLICT | INVALID }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        let moved = deliveries::retry(&app.store, &caller.actor(), application, delivery_id.0).await?;
        Ok(Accepted::new(answer(moved)?))
    }

    /// Cancel a delivery
    ///
    /// No further attempt is made; what is under way is still recorded. One that is closed is refused.
    /// Needs the scope `manage`.
    #[oai(path = "/deliveries/:delivery_id/cancel", method = "post", operation_id = "cancel_delivery")]
    async fn cancel(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the delivery.
        delivery_id: Path<DeliveryId>,
        /// The id or `uid` of the application: needed with an admin token.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Accepted<Delivery>, Refused<{ NOT_FOUND | CONFLICT | INVALID }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        let moved = deliveries::cancel(&app.store, &caller.actor(), application, delivery_id.0).await?;
        Ok(Accepted::new(answer(moved)?))
    }
}

fn answer(moved: Moved) -> Result<Delivery, Problem> {
    match moved {
        Moved::Delivery(delivery) => Ok((*delivery).into()),
        Moved::Refused(refusal) => Err(refused(refusal)),
        Moved::Unknown => Err(unknown()),
    }
}

fn refused(refusal: Refusal) -> Problem {
    let (code, detail) = match refusal {
        Refusal::InProgress => (
            "delivery_in_progress",
            "The delivery is under way. Wait for its end, then try again.".to_owned(),
        ),
        Refusal::Closed(status) => (
            "delivery_closed",
            format!("The delivery is `{status}`. It is closed: there is nothing left to cancel."),
        ),
        Refusal::EndpointDeleted => {
            ("endpoint_deleted", "The endpoint was deleted. Replay the event to another one.".to_owned())
        }
        Refusal::EventExpunged => return expunged(),
        Refusal::EventExpired => (
            "event_expired",
            "The event is older than the retention: there is nothing left to send.".to_owned(),
        ),
    };
    Problem::new(StatusCode::CONFLICT, code, detail)
}

/// 409: the payload is gone.
pub(crate) fn expunged() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "event_expunged",
        "The payload of the event was removed on request: it can no longer be sent.",
    )
}
