//! Events that were emitted and could not be accepted, for people to see.

use chrono::{DateTime, Utc};
use postrider_domain::ids::{ApplicationId, EmitRejectionId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::page::{self, Page};
use crate::{Store, StoreError};

/// An event that was emitted and could not be accepted.
#[derive(Debug, Clone)]
pub struct EmitRejection {
    /// Its id.
    pub id: EmitRejectionId,
    /// The application; `None`: what was named is none.
    pub application_id: Option<ApplicationId>,
    /// What the producer named.
    pub application: String,
    /// As the producer wrote it.
    pub event_type: String,
    /// JSON as text; `None` in lists.
    pub data: Option<String>,
    /// As the producer wrote it.
    pub idempotency_key: String,
    /// The stable name of the reason.
    pub code: String,
    /// The reason, in a sentence.
    pub detail: String,
    /// The fields that are at fault, as a JSON array of `{field, message}`.
    pub errors: String,
    /// When it was emitted.
    pub emitted_at: DateTime<Utc>,
    /// When it was rejected.
    pub created_at: DateTime<Utc>,
}

macro_rules! rejections {
    ($name:literal, $data:literal, $scope:literal) => {
        concat!(
            "-- emit_rejections.",
            $name,
            "
select id, application_id, application, event_type, ",
            $data,
            ", idempotency_key, code, detail, errors::text, emitted_at, created_at
from emit_rejections
where ",
            $scope
        )
    };
}

/// Rows are compared as a whole, so that the application's own index is walked.
const LIST: &str = rejections!(
    "list",
    "null::text",
    "(application_id, id) < ($1, $2) and application_id >= $1 order by application_id desc, id desc limit $3"
);
const LIST_ALL: &str =
    rejections!("list_all", "null::text", "$1::uuid is null and id < $2 order by id desc limit $3");
const GET: &str = rejections!("get", "data::text", "id = $1 and ($2::uuid is null or application_id = $2)");

/// Rejections, newest first, `limit` at most, without their data.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn list(
    store: &Store,
    application: Option<ApplicationId>,
    cursor: Option<EmitRejectionId>,
    limit: u32,
) -> Result<Page<EmitRejection>, StoreError> {
    let client = store.durable().await?;
    let sql = if application.is_some() { LIST } else { LIST_ALL };
    let statement = client.prepare_cached(sql).await?;
    let below = cursor.map_or(Uuid::max(), |id| id.0);
    let rows =
        page::read(&client, &statement, &[&application, &below, &(i64::from(limit) + 1)], limit).await?;
    Ok(Page::of(&rows, parse, |rejection| rejection.id.0))
}

/// One rejection, with its data; `application` restricts it to that tenant's.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn get(
    store: &Store,
    application: Option<ApplicationId>,
    rejection: EmitRejectionId,
) -> Result<Option<EmitRejection>, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(GET).await?;
    Ok(client.query_opt(&statement, &[&rejection, &application]).await?.as_ref().map(parse))
}

const FORGET: &str = "-- emit_rejections.forget
delete from emit_rejections
where id = any (array(
    select id from emit_rejections where id < first_id(now() - make_interval(days => $1)) order by id limit 1000
))";

/// Deletes some of the rejections that are older than the retention, and answers how many; 0: all are gone.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn forget(client: &tokio_postgres::Client, retention_days: u32) -> Result<u64, StoreError> {
    Ok(client.execute(FORGET, &[&retention_days.cast_signed()]).await?)
}

fn parse(row: &Row) -> EmitRejection {
    EmitRejection {
        id: row.get(0),
        application_id: row.get(1),
        application: row.get(2),
        event_type: row.get(3),
        data: row.get(4),
        idempotency_key: row.get(5),
        code: row.get(6),
        detail: row.get(7),
        errors: row.get(8),
        emitted_at: row.get(9),
        created_at: row.get(10),
    }
}
