//! `/v1/replays`: many events sent again, or many deliveries opened again, in bulk.

use std::sync::Arc;

use http::StatusCode;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_shared::delivery::DeliveryStatus;
use postrider_shared::ids::ReplayId;
use postrider_shared::store::applications::ApplicationRef;
use postrider_shared::store::replays::{self, Cancelled, MAX_OPEN};
use serde::Serialize;
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::resources::replay_event::unknown_endpoints;
use crate::resources::replay_request::CreateReplayRequest;
use crate::web::answer::{Accepted, Created, Found};
use crate::web::body::JsonBody;
use crate::web::page::{Cursor, Page, limit};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{BODY, CONFLICT, INVALID, NOT_FOUND, Refused};
use crate::web::value::Timestamp;

/// Events that are sent again, or deliveries that are opened again, in bulk.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Replay {
    /// Its id.
    id: Uuid,
    /// The application.
    application_id: Uuid,
    /// `replay`, `redrive` or `missing`.
    mode: String,
    /// To any of these endpoints; null: to all.
    endpoint_ids: Option<Vec<Uuid>>,
    /// Of any of these types; null: of all.
    event_types: Option<Vec<String>>,
    /// Deliveries in any of these states; null: dead letters, and in the other modes nothing.
    statuses: Option<Vec<String>>,
    /// Created at this time or later; null: as far back as they are kept.
    created_after: Option<Timestamp>,
    /// Created before this time.
    created_before: Timestamp,
    /// It counts, and sends nothing.
    dry_run: bool,
    /// `pending`, `running`, `completed`, `cancelled` or `failed`.
    status: String,
    /// Events (in a `redrive`: deliveries) that were looked at.
    scanned_count: i64,
    /// Deliveries that were queued; in a dry run, that would have been.
    matched_count: i64,
    /// How far it has come through its range of time, from 0 to 1.
    progress: f64,
    /// Deliveries queued a second; null: it has not begun.
    rate_per_second: Option<f64>,
    /// Why it has failed, or cannot advance for now; else null.
    last_error: Option<String>,
    /// When it was created.
    created_at: Timestamp,
    /// When it began; null: it has not.
    started_at: Option<Timestamp>,
    /// When it was closed; null: it is open.
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
    /// `replay` makes new deliveries of old events, with the same `webhook-id`, to the endpoints that are active
    /// and match them now; `redrive` opens dead letters again, with one attempt more; `missing` sends old events
    /// only where they never arrived, and is what to use after an outage. What they queue goes behind all other
    /// traffic. With `dry_run` it is only counted. Ten may be open at once. Needs the scope `manage`.
    #[oai(path = "/replays", method = "post", operation_id = "create_replay")]
    async fn create(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of the application: needed with an admin token.
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
                    "The application has {MAX_OPEN} replays that are not closed. Wait, or cancel one."
                );
                Err(Problem::new(StatusCode::CONFLICT, "too_many_replays", detail).into())
            }
        }
    }

    /// List replays
    ///
    /// Newest first. Needs the scope `read`.
    #[oai(path = "/replays", method = "get", operation_id = "list_replays")]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id or `uid` of an application: with an admin token, which else lists those of all.
        application_id: InQuery<ApplicationRef>,
        /// Items on a page, at most.
        #[oai(name = "limit")]
        page_limit: InQuery<Limit>,
        /// The `next_cursor` of the page before.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Replay>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let cursor = cursor.0.map(|cursor| ReplayId(cursor.0));
        Ok(Found::new(Page::of(replays::list(&app.store, application, cursor, limit(&page_limit)).await?)))
    }

    /// Get a replay
    ///
    /// How far it has come, and how fast. Needs the scope `read`.
    #[oai(path = "/replays/:replay_id", method = "get", operation_id = "get_replay")]
    async fn get(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the replay.
        replay_id: Path<ReplayId>,
        /// The id or `uid` of an application: with an admin token, to look at no other's.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Found<Replay>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let replay = replays::get(&app.store, application, replay_id.0).await?.ok_or_else(unknown)?;
        Ok(Found::new(replay))
    }

    /// Cancel a replay
    ///
    /// Nothing more is queued. What it has queued and nobody has begun to send is cancelled as its turn comes, also
    /// of a `completed` one.
    /// Needs the scope `manage`.
    #[oai(path = "/replays/:replay_id/cancel", method = "post", operation_id = "cancel_replay")]
    async fn cancel(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the replay.
        replay_id: Path<ReplayId>,
        /// The id or `uid` of the application: needed with an admin token.
        application_id: InQuery<ApplicationRef>,
    ) -> Result<Accepted<Replay>, Refused<{ NOT_FOUND | CONFLICT | INVALID }>> {
        caller.require(Scope::Manage)?;
        let application = caller.written_application(&app, application_id.0.as_ref()).await?;
        match replays::cancel(&app.store, &caller.actor(), application, replay_id.0).await? {
            Cancelled::Replay(replay) => Ok(Accepted::new(*replay)),
            Cancelled::Closed(status) => {
                let detail = format!("The replay is `{status}`: there is nothing left to cancel.");
                Err(Problem::new(StatusCode::CONFLICT, "replay_closed", detail).into())
            }
            Cancelled::Unknown => Err(unknown().into()),
        }
    }
}
