//! `POST /v1/events/{event_id}/replay`: sends one event again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::{EndpointId, EventId};
use postrider_store::applications::ApplicationRef;
use postrider_store::replay_event::{Replayed, replay_event};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::accept::load::{is_heavy, rest_with};
use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::deliveries::expunged;
use crate::web::admission::Turn;
use crate::web::body::JsonBody;
use crate::web::check::Checks;
use crate::web::json_types::Id;
use crate::web::parameter::{InQuery, Path};
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, NOT_FOUND, Refused};
use crate::web::success::Accepted;

const MAX_ENDPOINTS: usize = 1_000;

/// The endpoints that the event is sent to again.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayEventRequest {
    /// The ids of the endpoints, regardless of which events they subscribe to. If absent or null, all endpoints that
    /// are active and match the event now.
    #[oai(validator(min_items = 1, max_items = 1000))]
    #[serde(default)]
    endpoint_ids: Option<Vec<Id>>,
}

/// The outcome of a replay of one event.
#[derive(Debug, Object, Serialize)]
pub(crate) struct ReplayedEvent {
    /// The id of the event. The `webhook-id` is the same as before.
    event_id: Uuid,
    /// The number of endpoints that the event is delivered to.
    deliveries_queued: i32,
    /// The ids of the new deliveries.
    delivery_ids: Vec<Uuid>,
}

/// The operation that replays one event.
pub(crate) struct ReplayEvent;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Events")]
impl ReplayEvent {
    /// Replay an event
    ///
    /// Creates new deliveries of the event, with the same `webhook-id` as before, to the endpoints that match it now
    /// or to those that you name. If a named endpoint is disabled, it gets the event when it is enabled. Requires the
    /// `manage` scope.
    #[oai(path = "/events/:event_id/replay", method = "post", operation_id = "replay_event")]
    async fn replay(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the event.
        event_id: Path<EventId>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
        turn: Data<&Turn>,
        body: JsonBody<ReplayEventRequest>,
    ) -> Result<Accepted<ReplayedEvent>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        let endpoints = body.0.endpoint_ids.as_deref().map(checked).transpose()?;
        let event = event_id.0;
        let fan_out = turn.to_fan_out().await?;
        let began = Instant::now();
        match replay_event(&app.store, &caller.actor(), application, event, endpoints.as_deref()).await? {
            Replayed::Deliveries(deliveries) => {
                if is_heavy(deliveries.len()) {
                    rest_with(fan_out, began.elapsed());
                }
                Ok(Accepted::new(ReplayedEvent {
                    event_id: event.0,
                    deliveries_queued: i32::try_from(deliveries.len()).unwrap_or(i32::MAX),
                    delivery_ids: deliveries.into_iter().map(|id| id.0).collect(),
                }))
            }
            Replayed::UnknownEndpoints(unknown) => {
                let named = body.0.endpoint_ids.iter().flatten().map(|id| id.0);
                Err(unknown_endpoints(named, &unknown).into())
            }
            Replayed::Expunged => Err(expunged().into()),
            Replayed::UnknownEvent => Err(Problem::not_found("event_not_found", "event").into()),
        }
    }
}

/// Returns the endpoints without duplicates.
fn checked(named: &[Id]) -> Result<Vec<EndpointId>, Problem> {
    let mut checks = Checks::default();
    if !(1..=MAX_ENDPOINTS).contains(&named.len()) {
        let message =
            format!("must have 1 to {MAX_ENDPOINTS} items; leave it out to use all endpoints that match");
        checks.mistake("endpoint_ids", message);
    }
    checks.done()?;
    let distinct: BTreeSet<Uuid> = named.iter().map(|id| id.0).collect();
    Ok(distinct.into_iter().map(EndpointId).collect())
}

/// 422: some of the named endpoints do not exist.
pub(crate) fn unknown_endpoints(named: impl Iterator<Item = Uuid>, unknown: &[EndpointId]) -> Problem {
    let mut checks = Checks::default();
    for (index, id) in named.enumerate() {
        if unknown.contains(&EndpointId(id)) {
            checks.mistake(
                format!("endpoint_ids[{index}]"),
                "is not the id of an endpoint of this application",
            );
        }
    }
    checks.done().err().unwrap_or_else(Problem::internal)
}
