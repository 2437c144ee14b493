//! Deliveries: read, and manually retried or cancelled.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use postrider_domain::delivery::DeliveryStatus;
use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId, EventId};
use serde::Serialize;

use crate::audit::{self, Actor, Change};
use crate::page::{self, IdRange, MAX_SCANNED, Page, id_bounds};
use crate::sql::{Parameters, Session, Sql, read};
use crate::{Store, StoreError, from_row};

/// One event on its way to one endpoint.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The id of the delivery.
    pub id: DeliveryId,
    /// The event that is delivered.
    pub event_id: EventId,
    /// The endpoint that it is sent to.
    pub endpoint_id: EndpointId,
    /// The type of the event.
    pub event_type: String,
    /// The current status.
    pub status: DeliveryStatus,
    /// The number of attempts that were started.
    pub attempt_count: i16,
    /// The number of attempts that it may have.
    pub max_attempts: i16,
    /// When the next attempt is due, or `None` if there is none, or one is in progress.
    pub next_retry_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// The status of the last response.
    pub last_response_status: Option<i16>,
    /// Why it is not being sent, apart from its time: `disabled` (the endpoint is disabled), `order` (an earlier
    /// delivery must be closed first), `probe` (the endpoint only fails), `rate_limit` (the endpoint has reached its
    /// limit).
    pub waiting_for: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was closed.
    pub completed_at: Option<DateTime<Utc>>,
}

from_row!(Delivery {
    id,
    event_id,
    endpoint_id,
    event_type,
    status,
    attempt_count,
    max_attempts,
    next_retry_at,
    last_error,
    last_response_status,
    waiting_for,
    created_at,
    completed_at,
});

/// Selects the deliveries of a list. `None` means all.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Only deliveries of this application.
    pub application_id: Option<ApplicationId>,
    /// Only deliveries of this event.
    pub event_id: Option<EventId>,
    /// Only deliveries with any of these statuses.
    pub statuses: Option<Vec<DeliveryStatus>>,
    /// Only deliveries to any of these endpoints.
    pub endpoint_ids: Option<Vec<EndpointId>>,
    /// Only deliveries of any of these event types.
    pub event_types: Option<Vec<String>>,
    /// Only deliveries whose last response had any of these statuses.
    pub last_response_statuses: Option<Vec<i16>>,
    /// Only deliveries created at or after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Only deliveries created before this time.
    pub created_before: Option<DateTime<Utc>>,
}

/// The result of a manual retry or cancellation.
#[derive(Debug, Clone)]
pub enum Moved {
    /// The delivery after the change.
    Delivery(Box<Delivery>),
    /// The delivery is not in a state that allows the change.
    Refused(Refusal),
    /// The delivery does not exist.
    Unknown,
}

/// Why a delivery cannot be retried or cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is in progress.
    InProgress,
    /// It is closed, with this status.
    Closed(DeliveryStatus),
    /// Its endpoint was deleted.
    EndpointDeleted,
    /// The payload of its event was removed on request.
    EventExpunged,
    /// Its event is older than the retention period and was removed.
    EventExpired,
}

macro_rules! columns {
    () => {
        "d.id, d.event_id, d.endpoint_id, d.event_type, d.status, d.attempt_count, d.max_attempts,
       case when d.completed_at is null and d.status <> 'in_progress' then d.next_retry_at end as next_retry_at,
       d.last_error, d.last_response_status,
       case
           when d.completed_at is not null or d.status = 'in_progress' then null
           when not e.is_active then 'disabled'
           when d.position is not null and exists (
               select from deliveries b
               where b.endpoint_id = d.endpoint_id and b.position < d.position and b.completed_at is null
           ) then 'order'
           when h.state = 'open' and d.next_retry_at <= now() then 'probe'
           -- Noted for the whole endpoint, every five seconds: a delivery that just became due may not wait.
           when d.next_retry_at <= now() - interval '1 second' and h.throttled_at > now() - interval '12 seconds'
                and e.rate_limit is not null
           then 'rate_limit'
       end as waiting_for,
       d.created_at, d.completed_at"
    };
}

const GET: Sql = Sql::named(concat!(
    "-- deliveries.get
select ",
    columns!(),
    "
from deliveries d
left join endpoints e on e.id = d.endpoint_id
left join endpoint_health h on h.endpoint_id = d.endpoint_id
where d.id = $1 and ($2::uuid is null or d.application_id = $2)"
));

/// Returns one delivery. If `application` is given, the delivery must belong to it.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get(
    store: &Store,
    application: Option<ApplicationId>,
    delivery: DeliveryId,
) -> Result<Option<Delivery>, StoreError> {
    let client = store.durable().await?;
    let row = GET.fetch_optional(&client, &[&delivery, &application]).await?;
    Ok(row.as_ref().map(read))
}

/// Scans a bounded number of rows, newest first, and keeps those that the filter matches. `$scope` selects the index.
macro_rules! list {
    ($name:literal, $scope:literal) => {
        concat!(
            "-- deliveries.",
            $name,
            "
with scanned as materialized (
    select id, event_id, endpoint_id, event_type, status, attempt_count, max_attempts, next_retry_at, position,
           last_error, last_response_status, created_at, completed_at
    from deliveries
    where ",
            $scope,
            " and id > $3 and id < $4
    order by id desc
    limit $12
),
matched as materialized (
    select *
    from scanned
    where ($5::text[] is null or status = any ($5))
      and ($6::uuid[] is null or endpoint_id = any ($6))
      and ($7::text[] is null or event_type = any ($7))
      and ($8::smallint[] is null or last_response_status = any ($8))
      and ($9::timestamptz is null or created_at >= $9)
      and ($10::timestamptz is null or created_at < $10)
    order by id desc
    limit $11
)
select s.last_id, s.is_bounded, ",
            columns!(),
            "
from (
    select (select id from scanned order by id limit 1) as last_id,
           (select count(*) = $12 from scanned) as is_bounded
) s
left join matched d on true
left join endpoints e on e.id = d.endpoint_id
left join endpoint_health h on h.endpoint_id = d.endpoint_id
order by d.id desc"
        )
    };
}

const LIST: Sql = Sql::named(list!("list", "application_id = $1 and $2::uuid is null"));
const LIST_ALL: Sql = Sql::named(list!("list_all", "$1::uuid is null and $2::uuid is null"));
const LIST_DEAD: Sql =
    Sql::named(list!("list_dead", "application_id = $1 and dead_at is not null and $2::uuid is null"));
const LIST_OF_EVENT: Sql =
    Sql::named(list!("list_of_event", "event_id = $2 and ($1::uuid is null or application_id = $1)"));

/// Returns a page of deliveries, newest first. The page ends early after [`MAX_SCANNED`] scanned rows.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn list(
    store: &Store,
    filter: &DeliveryFilter,
    cursor: Option<DeliveryId>,
    limit: u32,
) -> Result<Page<Delivery>, StoreError> {
    let mut range = IdRange::new(cursor.map(|id| id.0), filter.created_after, filter.created_before);
    if let Some(event) = filter.event_id {
        range = range.not_before(event.0);
    }
    let only_dead = filter.statuses.as_deref() == Some(&[DeliveryStatus::DeadLetter]);
    let client = store.durable().await?;
    let sql = match (filter.event_id, filter.application_id) {
        (Some(_), _) => LIST_OF_EVENT,
        (None, Some(_)) if only_dead => LIST_DEAD,
        (None, Some(_)) => LIST,
        (None, None) => LIST_ALL,
    };
    let parameters: &Parameters<'_> = &[
        &filter.application_id,
        &filter.event_id,
        &range.above,
        &range.below,
        &filter.statuses,
        &filter.endpoint_ids,
        &filter.event_types,
        &filter.last_response_statuses,
        &filter.created_after,
        &filter.created_before,
        &(i64::from(limit) + 1),
        &MAX_SCANNED,
    ];
    let rows = page::read(&client, sql, parameters, limit).await?;
    Ok(Page::of_scan(&rows, |delivery: &Delivery| delivery.id.0))
}

/// SQL that reopens a delivery `d`. An open delivery becomes due now. A closed one gets one more attempt.
macro_rules! opened_again {
    () => {
        "next_retry_at = now(),
        status = case when d.completed_at is null then d.status else 'pending' end,
        max_attempts = case when d.completed_at is null then d.max_attempts else d.attempt_count + 1 end,
        completed_at = null,
        dead_at = null"
    };
}
pub(super) use opened_again;

const RETRY: Sql = Sql::named(concat!(
    "-- deliveries.retry
with seen as materialized (
    select id, status, endpoint_id, event_id
    from deliveries
    where id = $1 and application_id = $2
    for no key update
),
judged as materialized (
    select s.id, s.status,
           case
               when s.status = 'in_progress' then 'in_progress'
               when e.id is null or e.deleted_at is not null then 'endpoint_deleted'
               when v.id is null then 'event_expired'
               when v.expunged_at is not null then 'event_expunged'
           end as refusal
    from seen s
    left join endpoints e on e.id = s.endpoint_id
    left join events v on v.id = s.event_id
),
moved as (
    update deliveries d
    set ",
    opened_again!(),
    ",
        -- Cancelling the replay no longer cancels this delivery.
        replay_id = null
    from judged j
    where d.id = j.id and j.refusal is null
    returning d.id, d.endpoint_id, d.application_id
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from moved
    returning id
)
select j.status, j.refusal,
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n) as notifications
from judged j"
));

/// Makes a delivery due now, as a manual retry. A closed delivery is reopened with one more attempt. A delivery that is
/// in progress, or that can no longer be sent, is refused.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn retry(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    delivery: DeliveryId,
) -> Result<Moved, StoreError> {
    move_by_hand(store, RETRY, ("delivery.retry", actor), application, delivery).await
}

/// Removes the lease. An exchange in progress is still recorded as an attempt, but does not change the delivery.
const CANCEL: Sql = Sql::named(
    "-- deliveries.cancel
with seen as materialized (
    select id, status, completed_at
    from deliveries
    where id = $1 and application_id = $2
    for no key update
),
moved as (
    update deliveries d
    set status = 'cancelled', next_retry_at = null, lease_id = null, completed_at = now()
    from seen s
    where d.id = s.id and s.completed_at is null
    returning d.id, d.endpoint_id, d.application_id, d.position
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from moved where position is not null
    returning id
)
select s.status, case when s.completed_at is not null then 'closed' end as refusal,
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n) as notifications
from seen s",
);

/// Cancels an open delivery. A closed one is refused.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn cancel(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    delivery: DeliveryId,
) -> Result<Moved, StoreError> {
    move_by_hand(store, CANCEL, ("delivery.cancel", actor), application, delivery).await
}

/// What the audit log records about a delivery.
#[derive(Serialize)]
struct Standing {
    status: DeliveryStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_retry_at: Option<DateTime<Utc>>,
}

async fn move_by_hand(
    store: &Store,
    sql: Sql,
    (action, actor): (&'static str, &Actor),
    application: ApplicationId,
    delivery: DeliveryId,
) -> Result<Moved, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let Some(row) = sql.fetch_optional(&transaction, &[&delivery, &application]).await? else {
        return Ok(Moved::Unknown);
    };
    if let Some(refusal) = row.get("refusal") {
        return Ok(Moved::Refused(match refusal {
            "in_progress" => Refusal::InProgress,
            "endpoint_deleted" => Refusal::EndpointDeleted,
            "event_expunged" => Refusal::EventExpunged,
            "event_expired" => Refusal::EventExpired,
            _ => Refusal::Closed(row.get("status")),
        }));
    }
    let moved: Delivery = read(&GET.fetch_one(&transaction, &[&delivery, &Some(application)]).await?);
    let before = Standing { status: row.get("status"), next_retry_at: None };
    let after = Standing { status: moved.status, next_retry_at: moved.next_retry_at };
    let change = Change::of(action, delivery, Some(&before), Some(&after));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(Moved::Delivery(Box::new(moved)))
}

const EXISTING: Sql = Sql::named(
    "-- deliveries.existing
select id from deliveries where id = any ($1) and id between $2 and $3",
);

/// Returns the deliveries that exist although a statement has skipped them. Their rows were locked.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn existing(
    client: &impl Session,
    passed: &[DeliveryId],
) -> Result<HashSet<DeliveryId>, StoreError> {
    if passed.is_empty() {
        return Ok(HashSet::new());
    }
    let (first, last) = id_bounds(passed);
    let rows = EXISTING.fetch_all(client, &[&passed, &first, &last]).await?;
    Ok(rows.iter().map(|row| row.get("id")).collect())
}
