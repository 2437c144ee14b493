//! Emitted events that could not be accepted, kept for inspection.

use chrono::{DateTime, Utc};
use postrider_domain::ids::{ApplicationId, EmitRejectionId};
use uuid::Uuid;

use crate::page::{self, Page};
use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row};

/// An emitted event that could not be accepted.
#[derive(Debug, Clone)]
pub struct EmitRejection {
    /// The id of the rejection.
    pub id: EmitRejectionId,
    /// The application, or `None` if the producer named one that does not exist.
    pub application_id: Option<ApplicationId>,
    /// The application as the producer named it.
    pub application: String,
    /// The event type as the producer wrote it.
    pub event_type: String,
    /// The data as JSON text. `None` in lists.
    pub data: Option<String>,
    /// The idempotency key as the producer wrote it.
    pub idempotency_key: String,
    /// The stable code of the reason.
    pub code: String,
    /// The reason, in one sentence.
    pub detail: String,
    /// The invalid fields, as a JSON array of `{field, message}`.
    pub errors: String,
    /// When it was emitted.
    pub emitted_at: DateTime<Utc>,
    /// When it was rejected.
    pub created_at: DateTime<Utc>,
}

from_row!(EmitRejection {
    id,
    application_id,
    application,
    event_type,
    data,
    idempotency_key,
    code,
    detail,
    errors,
    emitted_at,
    created_at,
});

macro_rules! rejections {
    ($name:literal, $data:literal, $scope:literal) => {
        concat!(
            "-- emit_rejections.",
            $name,
            "
select id, application_id, application, event_type, ",
            $data,
            ", idempotency_key, code, detail, errors::text as errors, emitted_at, created_at
from emit_rejections
where ",
            $scope
        )
    };
}

/// Rows are compared as a whole, so that the application's own index is walked.
const LIST: Sql = Sql::named(rejections!(
    "list",
    "null::text as data",
    "(application_id, id) < ($1, $2) and application_id >= $1 order by application_id desc, id desc limit $3"
));
const LIST_ALL: Sql = Sql::named(rejections!(
    "list_all",
    "null::text as data",
    "$1::uuid is null and id < $2 order by id desc limit $3"
));
const GET: Sql = Sql::named(rejections!(
    "get",
    "data::text as data",
    "id = $1 and ($2::uuid is null or application_id = $2)"
));

/// Returns up to `limit` rejections, newest first, without their data.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn list(
    store: &Store,
    application: Option<ApplicationId>,
    cursor: Option<EmitRejectionId>,
    limit: u32,
) -> Result<Page<EmitRejection>, StoreError> {
    let client = store.durable().await?;
    let sql = if application.is_some() { LIST } else { LIST_ALL };
    let below = cursor.map_or(Uuid::max(), |id| id.0);
    let rows = page::read(&client, sql, &[&application, &below, &(i64::from(limit) + 1)], limit).await?;
    Ok(Page::of(&rows, |rejection: &EmitRejection| rejection.id.0))
}

/// Returns one rejection with its data. If `application` is given, the rejection must belong to it.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get(
    store: &Store,
    application: Option<ApplicationId>,
    rejection: EmitRejectionId,
) -> Result<Option<EmitRejection>, StoreError> {
    let client = store.durable().await?;
    Ok(GET.fetch_optional(&client, &[&rejection, &application]).await?.as_ref().map(read))
}

const FORGET: Sql = Sql::named(
    "-- emit_rejections.forget
delete from emit_rejections
where id = any (array(
    select id from emit_rejections where id < first_id(now() - make_interval(days => $1)) order by id limit 1000
))",
);

/// Deletes some of the rejections that are older than the retention period. Returns how many it deleted, or 0 if none
/// was left.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn forget(client: &tokio_postgres::Client, retention_days: u32) -> Result<u64, StoreError> {
    FORGET.execute(client, &[&retention_days.cast_signed()]).await
}
