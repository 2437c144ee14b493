//! Bulk replays of events and redrives of deliveries: created, read and cancelled. The relay takes their steps
//! ([`replay_steps`](super::replay_steps)).

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use postrider_domain::delivery::{DeliveryStatus, ReplayMode, ReplayStatus};
use postrider_domain::ids::{ApplicationId, EndpointId, ReplayId};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::audit::{self, Actor, Change};
use crate::matching::unknown_endpoints;
use crate::operational::{self, OperationalEvent, REPLAY_FINISHED};
use crate::page::{self, Page};
use crate::sql::{Columns, FromRow, Sql, read};
use crate::{Store, StoreError, applications};

/// The maximum number of open replays of one application.
pub const MAX_OPEN: i64 = 10;

/// Selects what is replayed. All conditions must hold. `None` means any.
#[derive(Debug, Clone, Serialize)]
pub struct Selection {
    /// Whether new deliveries are created, old ones are reopened, or only missing ones are sent.
    pub mode: ReplayMode,
    /// Only to these endpoints.
    pub endpoint_ids: Option<Vec<EndpointId>>,
    /// Only events of these types.
    pub event_types: Option<Vec<String>>,
    /// Only deliveries with these statuses. For a redrive only.
    pub statuses: Option<Vec<DeliveryStatus>>,
    /// Only events, or deliveries for a redrive, that were created at or after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Only those created before this time. `None` means the time of the request.
    pub created_before: Option<DateTime<Utc>>,
}

/// A bulk replay.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The id of the replay.
    pub id: ReplayId,
    /// The application whose events or deliveries are replayed.
    pub application_id: ApplicationId,
    /// What is replayed.
    pub selection: Selection,
    /// If true, the replay only counts and changes nothing.
    pub dry_run: bool,
    /// The current status.
    pub status: ReplayStatus,
    /// The number of events or deliveries that were scanned.
    pub scanned_count: i64,
    /// The number of deliveries that were created or reopened, or would have been without `dry_run`.
    pub matched_count: i64,
    /// How far it has come through its range of time, from 0 to 1.
    pub progress: f64,
    /// Deliveries created or reopened per second, or `None` if it has not started.
    pub rate_per_second: Option<f64>,
    /// Why it has failed, or why its last step did.
    pub last_error: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When its first step was taken.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was completed or cancelled, or failed.
    pub completed_at: Option<DateTime<Utc>>,
}

/// The result of creating a replay.
#[derive(Debug, Clone)]
pub enum Created {
    /// The created replay.
    Replay(Box<Replay>),
    /// These endpoints do not belong to the application or were deleted.
    UnknownEndpoints(Vec<EndpointId>),
    /// The application does not exist.
    UnknownApplication,
    /// The application already has [`MAX_OPEN`] open replays.
    TooMany,
}

/// The result of cancelling a replay.
#[derive(Debug, Clone)]
pub enum Cancelled {
    /// The cancelled replay.
    Replay(Box<Replay>),
    /// The replay was already closed, with this status.
    Closed(ReplayStatus),
    /// The replay does not exist.
    Unknown,
}

macro_rules! columns {
    () => {
        "id, application_id, mode, endpoint_ids, event_types, statuses, created_after, created_before, dry_run, \
         status, scanned_count, matched_count, first_id, cursor_id, end_id, \
         (matched_count / greatest(extract(epoch from coalesce(completed_at, now()) - started_at), 1))::float8 as rate_per_second, \
         last_error, created_at, started_at, completed_at"
    };
}

/// An id contains a time within a minute of the `created_at` of its row.
const CREATE: Sql = Sql::named(concat!(
    "-- replays.create
insert into replays (
    application_id, mode, endpoint_ids, event_types, statuses, created_after, created_before, dry_run,
    cursor_id, end_id
)
select $1, $2, $3, $4, $5, $6, b.before, $8,
       first_id(greatest($6::timestamptz - interval '1 minute', to_timestamp(0))),
       first_id(greatest(b.before, to_timestamp(0)) + interval '1 minute')
from (select least($7::timestamptz, now()) as before) b
where (select count(*) from replays where application_id = $1 and completed_at is null) < $9
returning ",
    columns!()
));

/// Creates a replay.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn create(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    selection: &Selection,
    dry_run: bool,
) -> Result<Created, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    if applications::lock_to_add(&transaction, application).await?.is_none() {
        return Ok(Created::UnknownApplication);
    }
    if let Some(named) = &selection.endpoint_ids {
        let unknown = unknown_endpoints(&transaction, application, named).await?;
        if !unknown.is_empty() {
            return Ok(Created::UnknownEndpoints(unknown));
        }
    }
    let Selection { mode, endpoint_ids, event_types, statuses, created_after, created_before } = selection;
    let row = CREATE
        .fetch_optional(
            &transaction,
            &[
                &application,
                mode,
                endpoint_ids,
                event_types,
                statuses,
                created_after,
                created_before,
                &dry_run,
                &MAX_OPEN,
            ],
        )
        .await?;
    let Some(replay) = row.as_ref().map(read::<Replay>) else { return Ok(Created::TooMany) };
    let asked = Asked { selection: &replay.selection, dry_run };
    let change = Change::of("replay.create", replay.id, None, Some(&asked));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(Created::Replay(Box::new(replay)))
}

/// What the audit log records about a new replay.
#[derive(Serialize)]
struct Asked<'a> {
    #[serde(flatten)]
    selection: &'a Selection,
    dry_run: bool,
}

/// What the audit log records about a cancelled replay.
#[derive(Serialize)]
struct Standing {
    status: ReplayStatus,
}

const GET: Sql = Sql::named(concat!(
    "-- replays.get
select ",
    columns!(),
    "
from replays
where id = $1 and ($2::uuid is null or application_id = $2)"
));

/// Returns one replay. If `application` is given, the replay must belong to it.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get(
    store: &Store,
    application: Option<ApplicationId>,
    replay: ReplayId,
) -> Result<Option<Replay>, StoreError> {
    let client = store.durable().await?;
    Ok(GET.fetch_optional(&client, &[&replay, &application]).await?.as_ref().map(read))
}

/// For an application, rows are compared as a whole, so that its own index is walked.
macro_rules! list {
    ($name:literal, $scope:literal, $order:literal) => {
        concat!(
            "-- replays.",
            $name,
            "
select ",
            columns!(),
            "
from replays
where ",
            $scope,
            " order by ",
            $order,
            " limit $3"
        )
    };
}

const LIST: Sql = Sql::named(list!(
    "list",
    "(application_id, id) < ($1, $2) and application_id >= $1",
    "application_id desc, id desc"
));
const LIST_ALL: Sql = Sql::named(list!("list_all", "$1::uuid is null and id < $2", "id desc"));

/// Returns up to `limit` replays, newest first.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn list(
    store: &Store,
    application: Option<ApplicationId>,
    cursor: Option<ReplayId>,
    limit: u32,
) -> Result<Page<Replay>, StoreError> {
    let client = store.durable().await?;
    let sql = if application.is_some() { LIST } else { LIST_ALL };
    let below = cursor.map_or(Uuid::max(), |id| id.0);
    let rows = page::read(&client, sql, &[&application, &below, &(i64::from(limit) + 1)], limit).await?;
    Ok(Page::of(&rows, |replay: &Replay| replay.id.0))
}

/// Deliveries that the replay has queued and that are not being sent yet are cancelled when they are claimed.
const CANCEL: Sql = Sql::named(
    "-- replays.cancel
with seen as materialized (
    select id, status, status in ('pending', 'running') or status = 'completed' and not dry_run as can_be
    from replays
    where id = $1 and application_id = $2
    for no key update
),
moved as (
    update replays r
    set status = 'cancelled', completed_at = coalesce(r.completed_at, now())
    from seen s
    where r.id = s.id and s.can_be
)
select status, can_be from seen",
);

/// Cancels a replay that is open, or that has queued everything but may not have sent all of it.
///
/// # Errors
/// [`StoreError`] if a statement fails, with [`StoreError::is_contention`] if a step of the replay takes long.
pub async fn cancel(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    replay: ReplayId,
) -> Result<Cancelled, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let Some(row) = CANCEL.fetch_optional(&transaction, &[&replay, &application]).await? else {
        return Ok(Cancelled::Unknown);
    };
    let before = Standing { status: row.get("status") };
    if !row.get::<_, bool>("can_be") {
        return Ok(Cancelled::Closed(before.status));
    }
    let cancelled = tell_end(&transaction, replay).await?;
    let after = Standing { status: cancelled.status };
    let change = Change::of("replay.cancel", replay, Some(&before), Some(&after));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(Cancelled::Replay(Box::new(cancelled)))
}

/// Emits an operational event about a replay that was closed in this transaction.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub(super) async fn tell_end(transaction: &Transaction<'_>, replay: ReplayId) -> Result<Replay, StoreError> {
    let replay = read::<Replay>(&GET.fetch_one(transaction, &[&replay, &None::<ApplicationId>]).await?);
    let event = OperationalEvent {
        application_id: replay.application_id,
        event_type: REPLAY_FINISHED,
        data: json!({
            "replay_id": replay.id,
            "mode": replay.selection.mode,
            "dry_run": replay.dry_run,
            "status": replay.status,
            "scanned_count": replay.scanned_count,
            "matched_count": replay.matched_count,
            "last_error": replay.last_error,
        }),
    };
    operational::emit(transaction, &[event]).await?;
    Ok(replay)
}

impl FromRow<'_> for Replay {
    fn from_row(row: &mut Columns<'_>) -> Self {
        let status = row.get("status");
        Self {
            id: row.get("id"),
            application_id: row.get("application_id"),
            selection: Selection {
                mode: row.get("mode"),
                endpoint_ids: row.get("endpoint_ids"),
                event_types: row.get("event_types"),
                statuses: row.get("statuses"),
                created_after: row.get("created_after"),
                created_before: row.get("created_before"),
            },
            dry_run: row.get("dry_run"),
            status,
            scanned_count: row.get("scanned_count"),
            matched_count: row.get("matched_count"),
            progress: progress(status, row.get("first_id"), row.get("cursor_id"), row.get("end_id")),
            rate_per_second: row.get("rate_per_second"),
            last_error: row.get("last_error"),
            created_at: row.get("created_at"),
            started_at: row.get("started_at"),
            completed_at: row.get("completed_at"),
        }
    }
}

/// Computes the progress from the times in the ids, because the rows in each part of the range are not counted.
fn progress(status: ReplayStatus, first: Option<Uuid>, cursor: Uuid, end: Uuid) -> f64 {
    let time = |id: Uuid| (id.as_u128() >> 80) as f64;
    match first {
        _ if status == ReplayStatus::Completed => 1.0,
        Some(first) if end > first => {
            ((time(cursor) - time(first)) / (time(end) - time(first)).max(1.0)).clamp(0.0, 1.0)
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_how_far_the_time_has_come() {
        let at = |time: u128| Uuid::from_u128(time << 80);
        let running = |cursor| progress(ReplayStatus::Running, Some(at(100)), at(cursor), at(200));
        assert_eq!([running(100), running(150), running(0), running(300)], [0.0, 0.5, 0.0, 1.0]);
        assert_eq!(progress(ReplayStatus::Pending, None, at(0), at(200)), 0.0);
        assert_eq!(progress(ReplayStatus::Completed, None, at(0), at(200)), 1.0);
    }
}
