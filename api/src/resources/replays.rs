//! `/v1/replays`: sends many events again, or reopens many deliveries.

use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::delivery::DeliveryStatus;
use postrider_domain::ids::ReplayId;
use postrider_store::applications::ApplicationRef;
use postrider_store::replays::{self, Cancelled, MAX_OPEN};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::replay_event::unknown_endpoints;
use crate::resources::replay_request::CreateReplayRequest;
use crate::web::body::JsonBody;
use crate::web::json_types::Timestamp;
use crate::web::page::{Cursor, Page};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::success::{Accepted, Created, Found};

/// A bulk replay: many events are sent again, or many deliveries are reopened.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Replay {
    /// The unique id of the replay.
    id: Uuid,
    /// The id of the application.
    application_id: Uuid,
    /// What the replay does: `replay`, `redrive` or `missing`.
    mode: String,
    /// The ids of the endpoints to send to. Null if all endpoints are selected.
    endpoint_ids: Option<Vec<Uuid>>,
    /// The types of the events to send. Null if all types are selected.
    event_types: Option<Vec<String>>,
    /// The statuses of the deliveries to reopen. Null means dead letters for a `redrive`; other modes do not use it.
    statuses: Option<Vec<String>>,
    /// Only events (for `redrive`: deliveries) created at or after this time. Null if everything that is still kept
    /// is selected.
    created_after: Option<Timestamp>,
    /// Only events (for `redrive`: deliveries) created before this time.
    created_before: Timestamp,
    /// If true, the replay only counts what it would send, and sends nothing.
    dry_run: bool,
    /// The status of the replay: `pending`, `running`, `completed` (everything is queued, but not necessarily sent),
    /// `cancelled` or `failed`.
    status: String,
    /// The number of events (for `redrive`: deliveries) examined so far.
    scanned_count: i64,
    /// The number of deliveries queued so far. In a dry run, the number that would have been queued.
    matched_count: i64,
    /// The progress through the selected time range, from 0 to 1.
    progress: f64,
    /// The number of deliveries queued per second. Null if the replay has not started.
    rate_per_second: Option<f64>,
    /// Why the replay failed, or why it cannot make progress at the moment. Null otherwise.
    last_error: Option<String>,
    /// When the replay was created.
    created_at: Timestamp,
    /// When the replay started. Null if it has not started.
    started_at: Option<Timestamp>,
    /// When the replay completed, failed or was cancelled. Null if it is still open.
    completed_at: Option<Timestamp>,
}

impl From<replays::Replay> for Replay {
    fn from(stored: replays::Replay) -> Self {
        let names = |statuses: Vec<DeliveryStatus>| {
            statuses.into_iter().map(|status| status.as_str().to_owned()).collect()
        };
        let selection = stored.selection;
        Self {
            id: stored.id.0,
            application_id: stored.application_id.0,
            mode: selection.mode.as_str().to_owned(),
            endpoint_ids: selection.endpoint_ids.map(|ids| ids.into_iter().map(|id| id.0).collect()),
            event_types: selection.event_types,
            statuses: selection.statuses.map(names),
            created_after: selection.created_after.map(Into::into),
            created_before: selection.created_before.unwrap_or(stored.created_at).into(),
            dry_run: stored.dry_run,
            status: stored.status.as_str().to_owned(),
            scanned_count: stored.scanned_count,
            matched_count: stored.matched_count,
            progress: stored.progress,
            rate_per_second: stored.rate_per_second,
            last_error: stored.last_error,
            created_at: stored.created_at.into(),
            started_at: stored.started_at.map(Into::into),
            completed_at: stored.completed_at.map(Into::into),
        }
    }
}

fn unknown() -> Problem {
    Problem::not_found("replay_not_found", "replay")
}

/// The operations on replays.
pub(crate) struct Replays;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Replays")]
impl Replays {
    /// Start a replay
    ///
    /// Sends old events again in bulk. Mode `replay` creates new deliveries, with the same `webhook-id`, to the
    /// endpoints that are active and match the events now. Mode `redrive` reopens dead letters with one more attempt
    /// each. Mode `missing` sends events only where they never arrived; use it after an outage of a receiver.
    /// Replayed deliveries are queued behind all other traffic. With `dry_run`, the replay only counts what it would
    /// send. An application can have ten open replays at a time. Requires the `manage` scope.
    #[oai(path = "/replays", method = "post", operation_id = "create_replay")]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
        body: JsonBody<CreateReplayRequest>,
    ) -> Result<Created<Replay>, Refused<{ BODY | NOT_FOUND | CONFLICT }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        let (selection, dry_run) = body.0.check()?;
        match replays::create(&app.store, &caller.actor(), application, &selection, dry_run).await? {
            replays::Created::Replay(replay) => {
                Ok(Created::at(format!("/v1/replays/{}", replay.id), *replay))
            }
            replays::Created::UnknownEndpoints(unknown) => {
                let named = selection.endpoint_ids.iter().flatten().map(|id| id.0);
                Err(unknown_endpoints(named, &unknown).into())
            }
            replays::Created::UnknownApplication => {
                Err(Problem::not_found("application_not_found", "application").into())
            }
            replays::Created::TooMany => {
                let detail = format!(
                    "The application already has {MAX_OPEN} open replays, which is the maximum. Wait until \
                     one has finished, or cancel one."
                );
                Err(Problem::new(StatusCode::CONFLICT, "too_many_replays", detail).into())
            }
        }
    }

    /// List replays
    ///
    /// Returns replays, newest first. Requires the `read` scope.
    #[oai(path = "/replays", method = "get", operation_id = "list_replays")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// Returns only replays of the application with this id or `uid`. If absent, an admin token lists the
        /// replays of all applications, and an API key those of its own application.
        application_id: InQuery<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Replay>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        Ok(Found::new(replays::list(&app.store, application, cursor.after(), limit.items()).await?))
    }

    /// Get a replay
    ///
    /// Returns a replay with its status and progress. Requires the `read` scope.
    #[oai(path = "/replays/:replay_id", method = "get", operation_id = "get_replay")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the replay.
        replay_id: Path<ReplayId>,
        /// The id or `uid` of the application that the replay must belong to. If it belongs to another one, the
        /// response is 404.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<Replay>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let replay = replays::get(&app.store, application, replay_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(replay))
    }

    /// Cancel a replay
    ///
    /// Stops a replay: nothing more is queued. Deliveries that it has queued and that are not being sent yet are
    /// cancelled when their turn comes. A `completed` replay can be cancelled too, unless it was a dry run.
    /// Deliveries that were already open before a redrive are not affected. Requires the `manage` scope.
    #[oai(path = "/replays/:replay_id/cancel", method = "post", operation_id = "cancel_replay")]
    async fn cancel(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the replay.
        replay_id: Path<ReplayId>,
        /// The id or `uid` of the application. Required with an admin token, optional with an API key.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Accepted<Replay>, Refused<{ NOT_FOUND | CONFLICT | INVALID }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        match replays::cancel(&app.store, &caller.actor(), application, replay_id.0).await? {
            Cancelled::Replay(replay) => Ok(Accepted::new(*replay)),
            Cancelled::Closed(status) => {
                let detail = format!(
                    "The replay is already closed with status `{status}`. There is nothing to cancel."
                );
                Err(Problem::new(StatusCode::CONFLICT, "replay_closed", detail).into())
            }
            Cancelled::Unknown => Err(unknown().into()),
        }
    }
}
