//! `/v1/deliveries`: reads, retries and cancels deliveries.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::delivery::DeliveryStatus;
use postrider_domain::event_type::EventType;
use postrider_domain::ids::{DeliveryId, EndpointId, EventId};
use postrider_store::applications::ApplicationRef;
use postrider_store::deliveries::{self, DeliveryFilter, Moved, Refusal};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::events::names;
use crate::web::json_types::Timestamp;
use crate::web::page::{Cursor, Page};
use crate::web::parameter::{AnyOf, InQuery, Path};
use crate::web::parameter_values::{HttpStatus, Limit};
use crate::web::problem::Problem;
use crate::web::refused::{CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::success::{Accepted, Found};

/// The delivery of one event to one endpoint.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Delivery {
    /// The unique id of the delivery.
    id: Uuid,
    /// The id of the event.
    event_id: Uuid,
    /// The id of the endpoint that the event is delivered to.
    endpoint_id: Uuid,
    /// The type of the event.
    event_type: String,
    /// The status of the delivery: `pending` (waiting for the next attempt), `in_progress` (being sent), `succeeded`,
    /// `failed` (the last attempt failed, and a retry is scheduled), `dead_letter` (given up) or `cancelled`.
    status: String,
    /// The number of attempts that were started.
    attempt_count: i32,
    /// The maximum number of attempts, including the first one.
    max_attempts: i32,
    /// When the next attempt is due. Null if the delivery is closed or being sent.
    next_retry_at: Option<Timestamp>,
    /// Why the last attempt failed, or why the delivery was given up or cancelled. Null otherwise.
    last_error: Option<String>,
    /// The HTTP status that the last attempt was answered with. Null if there was no response.
    last_response_status: Option<i32>,
    /// What the delivery is waiting for, other than its next attempt: `disabled` (its endpoint is disabled), `order`
    /// (an earlier delivery to the same ordered endpoint must finish first), `probe` (its endpoint keeps failing and
    /// is being probed) or `rate_limit` (its endpoint has reached its `rate_limit`). Null if nothing holds it back.
    waiting_for: Option<String>,
    /// When the delivery was created.
    created_at: Timestamp,
    /// When the delivery succeeded, became a dead letter or was cancelled. Null if it is still open.
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
    /// Returns deliveries, newest first. Each call examines a limited number of deliveries. With filters that match
    /// few of them, a page can be short or empty although `next_cursor` is not null. Requires the `read` scope.
    #[oai(path = "/deliveries", method = "get", operation_id = "list_deliveries")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the query")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// Returns only deliveries with one of these statuses.
        status: AnyOf<DeliveryStatus>,
        /// Returns only deliveries to one of these endpoints.
        endpoint_id: AnyOf<EndpointId>,
        /// Returns only deliveries of events of one of these types.
        event_type: AnyOf<EventType>,
        /// Returns only deliveries of this event.
        event_id: InQuery<EventId>,
        /// Returns only deliveries whose last attempt was answered with one of these HTTP statuses.
        last_response_status: AnyOf<HttpStatus>,
        /// Returns only deliveries created at or after this time.
        created_after: InQuery<DateTime<Utc>>,
        /// Returns only deliveries created before this time.
        created_before: InQuery<DateTime<Utc>>,
        /// Returns only deliveries of the application with this id or `uid`. If absent, an admin token lists the
        /// deliveries of all applications, and an API key those of its own application.
        application_id: InQuery<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
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
        let page = deliveries::list(&app.store, &filter, cursor.after(), limit.items()).await?;
        Ok(Found::new(page))
    }

    /// Get a delivery
    ///
    /// Returns a delivery with its current status. Requires the `read` scope.
    #[oai(path = "/deliveries/:delivery_id", method = "get", operation_id = "get_delivery")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the delivery.
        delivery_id: Path<DeliveryId>,
        /// The id or `uid` of the application that the delivery must belong to. If it belongs to another one, the
        /// response is 404.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<Delivery>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let delivery = deliveries::get(&app.store, application, delivery_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(delivery))
    }

    /// Retry a delivery
    ///
    /// An open delivery becomes due now. A closed delivery, even one that succeeded, is reopened with one more
    /// attempt. A delivery that is in progress is refused with 409: wait until it has finished. A delivery whose
    /// endpoint was deleted, or whose event is no longer available, is refused too. If the endpoint is disabled, the
    /// delivery waits until it is enabled. Requires the `manage` scope.
    #[oai(path = "/deliveries/:delivery_id/retry", method = "post", operation_id = "retry_delivery")]
    async fn retry(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the delivery.
        delivery_id: Path<DeliveryId>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Accepted<Delivery>, Refused<{ NOT_FOUND | CONFLICT | INVALID }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        let moved = deliveries::retry(&app.store, &caller.actor(), application, delivery_id.0).await?;
        Ok(Accepted::new(answer(moved)?))
    }

    /// Cancel a delivery
    ///
    /// Cancels a delivery: no further attempts are made. An attempt that is already being sent is still recorded. A
    /// delivery that is closed is refused with 409. Requires the `manage` scope.
    #[oai(path = "/deliveries/:delivery_id/cancel", method = "post", operation_id = "cancel_delivery")]
    async fn cancel(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the delivery.
        delivery_id: Path<DeliveryId>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
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
            "The delivery is being sent. Wait until it has finished, then try again.".to_owned(),
        ),
        Refusal::Closed(status) => (
            "delivery_closed",
            format!("The delivery is already closed with status `{status}`. There is nothing to cancel."),
        ),
        Refusal::EndpointDeleted => (
            "endpoint_deleted",
            "The endpoint of this delivery was deleted. Replay the event to another endpoint.".to_owned(),
        ),
        Refusal::EventExpunged => return expunged(),
        Refusal::EventExpired => (
            "event_expired",
            "The event is older than the retention period and was removed. It can no longer be sent."
                .to_owned(),
        ),
    };
    Problem::new(StatusCode::CONFLICT, code, detail)
}

/// 409: the data of the event was expunged.
pub(crate) fn expunged() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "event_expunged",
        "The data of this event was expunged. The event can no longer be sent.",
    )
}
