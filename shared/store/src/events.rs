//! Events, read. They are written by [`accept`](super::accept).

use chrono::{DateTime, Utc};
use postrider_domain::ids::{ApplicationId, EventId};

use crate::page::{self, IdRange, MAX_SCANNED, Page};
use crate::sql::{Parameters, Sql, read};
use crate::{Store, StoreError, from_row};

/// Bytes of payloads, as they are stored, that one call looks at.
const MAX_SCANNED_BYTES: i64 = 16 << 20;

/// What a producer posted.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// Whose it is.
    pub application_id: ApplicationId,
    /// Its type.
    pub event_type: String,
    /// The payload, as PostgreSQL renders it: every digit is there.
    pub data: String,
    /// The key it was posted under.
    pub idempotency_key: String,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its payload was removed on request.
    pub expunged_at: Option<DateTime<Utc>>,
}

from_row!(Event { id, application_id, event_type, data, idempotency_key, created_at, expunged_at });

/// Which events a list holds.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Whose; `None`: everyone's.
    pub application_id: Option<ApplicationId>,
    /// Any of these types; `None`: all.
    pub event_types: Option<Vec<String>>,
    /// At or after.
    pub created_after: Option<DateTime<Utc>>,
    /// Before.
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

/// One event; `application` restricts it to that tenant's.
///
/// # Errors
/// When PostgreSQL does not answer.
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

/// True where there is such an event; `application` restricts it to that tenant's.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn exists(
    store: &Store,
    application: Option<ApplicationId>,
    event: EventId,
) -> Result<bool, StoreError> {
    let client = store.durable().await?;
    Ok(EXISTS.fetch_one(&client, &[&event, &application]).await?.get("is_there"))
}

/// Looks at a bounded number of rows and bytes, newest first, and keeps what the filter matches. `$scope` picks the
/// index that is walked.
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

/// A page of events, newest first. It ends early after [`MAX_SCANNED`] rows or 16 MiB looked at.
///
/// # Errors
/// When PostgreSQL does not answer; [`StoreError::is_data_error`] where `data_contains` is not JSON that it
/// can hold.
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
