//! Events, read. [`accept`](super::accept) writes them.

use chrono::{DateTime, Utc};
use postrider_domain::ids::{ApplicationId, EventId};

use crate::page::{self, IdRange, MAX_SCANNED, Page};
use crate::sql::{Parameters, Sql, read};
use crate::{Store, StoreError, from_row};

/// The maximum size of the payloads that one call scans, in bytes as they are stored.
const MAX_SCANNED_BYTES: i64 = 16 << 20;

/// A stored event.
#[derive(Debug, Clone)]
pub struct Event {
    /// The id of the event.
    pub id: EventId,
    /// The application that it belongs to.
    pub application_id: ApplicationId,
    /// The type of the event.
    pub event_type: String,
    /// The payload as PostgreSQL renders it, with every digit of its numbers.
    pub data: String,
    /// The idempotency key under which it was published.
    pub idempotency_key: String,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its payload was removed on request.
    pub expunged_at: Option<DateTime<Utc>>,
}

from_row!(Event { id, application_id, event_type, data, idempotency_key, created_at, expunged_at });

/// Selects the events of a list. `None` means all.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only events of this application.
    pub application_id: Option<ApplicationId>,
    /// Only events of any of these types.
    pub event_types: Option<Vec<String>>,
    /// Only events created at or after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Only events created before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// JSON that the payload must contain (`@>`).
    pub data_contains: Option<String>,
}

const GET: Sql = Sql::named(
    "-- events.get
select id, application_id, event_type, payload::text as data, idempotency_key, created_at, expunged_at
from events
where id = $1 and ($2::uuid is null or application_id = $2)",
);

/// Returns one event. If `application` is given, the event must belong to it.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get(
    store: &Store,
    application: Option<ApplicationId>,
    event: EventId,
) -> Result<Option<Event>, StoreError> {
    let client = store.durable().await?;
    let row = GET.fetch_optional(&client, &[&event, &application]).await?;
    Ok(row.as_ref().map(read))
}

const EXISTS: Sql = Sql::named(
    "-- events.exists
select exists (select from events where id = $1 and ($2::uuid is null or application_id = $2)) as is_there",
);

/// Returns true if the event exists. If `application` is given, the event must belong to it.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn exists(
    store: &Store,
    application: Option<ApplicationId>,
    event: EventId,
) -> Result<bool, StoreError> {
    let client = store.durable().await?;
    Ok(EXISTS.fetch_one(&client, &[&event, &application]).await?.get("is_there"))
}

/// Scans a bounded number of rows and bytes, newest first, and keeps what the filter matches. `$scope` selects the
/// index.
macro_rules! list {
    ($name:literal, $scope:literal) => {
        concat!(
            "-- events.",
            $name,
            "
with scanned as materialized (
    select id, application_id, event_type, payload, idempotency_key, created_at, expunged_at,
           sum(pg_column_size(payload)) over (order by id desc rows unbounded preceding) as stored_bytes
    from events
    where ",
            $scope,
            " and id > $2 and id < $3
    order by id desc
    limit $9
),
seen as materialized (
    select *
    from scanned
    where stored_bytes - pg_column_size(payload) < $10
),
matched as materialized (
    select id, application_id, event_type, payload::text as data, idempotency_key, created_at, expunged_at
    from seen
    where ($4::text[] is null or event_type = any ($4))
      and ($5::timestamptz is null or created_at >= $5)
      and ($6::timestamptz is null or created_at < $6)
      and ($7::text is null or payload @> $7::text::jsonb and expunged_at is null)
    order by id desc
    limit $8
)
select s.last_id, s.is_bounded, m.id, m.application_id, m.event_type, m.data, m.idempotency_key, m.created_at,
       m.expunged_at
from (
    select (select id from seen order by id limit 1) as last_id,
           (select count(*) = $9 from scanned) or (select count(*) from seen) < (select count(*) from scanned)
               as is_bounded
) s
left join matched m on true
order by m.id desc"
        )
    };
}

const LIST: Sql = Sql::named(list!("list", "application_id = $1"));
const LIST_ALL: Sql = Sql::named(list!("list_all", "$1::uuid is null"));

/// Returns a page of events, newest first. The page ends early after [`MAX_SCANNED`] scanned rows or 16 MiB.
///
/// # Errors
/// [`StoreError`] if the statement fails, with [`StoreError::is_data_error`] if `data_contains` is not JSON that
/// PostgreSQL can store.
pub async fn list(
    store: &Store,
    filter: &EventFilter,
    cursor: Option<EventId>,
    limit: u32,
) -> Result<Page<Event>, StoreError> {
    let range = IdRange::new(cursor.map(|id| id.0), filter.created_after, filter.created_before);
    let client = store.durable().await?;
    let sql = if filter.application_id.is_some() { LIST } else { LIST_ALL };
    let parameters: &Parameters<'_> = &[
        &filter.application_id,
        &range.above,
        &range.below,
        &filter.event_types,
        &filter.created_after,
        &filter.created_before,
        &filter.data_contains,
        &(i64::from(limit) + 1),
        &MAX_SCANNED,
        &MAX_SCANNED_BYTES,
    ];
    let rows = page::read(&client, sql, parameters, limit).await?;
    Ok(Page::of_scan(&rows, |event: &Event| event.id.0))
}
