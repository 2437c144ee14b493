//! Attempts, read. They are written by [`record`](super::record) and by the sweep of leases.

use chrono::{DateTime, Utc};
use postrider_domain::delivery::AttemptOutcome;
use postrider_domain::ids::{ApplicationId, DeliveryId};
use tokio_postgres::Row;

use crate::page::{self, Page};
use crate::sql::{Parameters, Sql};
use crate::{Store, StoreError, from_row};

/// One HTTP exchange, or the claim of which nobody knows what came.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Counts from 1.
    pub attempt_number: i16,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Where it failed.
    pub error_class: Option<String>,
    /// How it failed.
    pub error_message: Option<String>,
    /// The headers that were sent, as a JSON array of `{name, value}`.
    pub request_headers: Option<String>,
    /// The status of the answer.
    pub response_status: Option<i16>,
    /// The headers of the answer, as a JSON array of `{name, value}`.
    pub response_headers: Option<String>,
    /// The first bytes of the answer's body, whatever they are.
    pub response_body: Option<Vec<u8>>,
    /// True where there was more of it.
    pub response_body_truncated: bool,
    /// True where the request was sent twice.
    pub resent: bool,
    /// How long it took.
    pub duration_ms: Option<i32>,
    /// When it began.
    pub created_at: DateTime<Utc>,
}

from_row!(Attempt {
    attempt_number,
    outcome,
    error_class,
    error_message,
    request_headers,
    response_status,
    response_headers,
    response_body,
    response_body_truncated,
    resent,
    duration_ms,
    created_at,
});

const LIST: Sql = Sql::named(
    "-- delivery_attempts.list
select d.id, a.attempt_number, a.outcome, a.error_class, a.error_message, a.request_headers::text as request_headers,
       a.response_status, a.response_headers::text as response_headers, a.response_body, a.response_body_truncated,
       a.resent, a.duration_ms, a.created_at
from deliveries d
left join lateral (
    select attempt_number, outcome, error_class, error_message, request_headers, response_status,
           response_headers, response_body, response_body_truncated, resent, duration_ms, created_at
    from delivery_attempts
    where delivery_id = d.id and attempt_number > $3
    order by attempt_number
    limit $4
) a on true
where d.id = $1 and ($2::uuid is null or d.application_id = $2)
order by a.attempt_number",
);

/// The attempts of a delivery after number `after`, oldest first, `limit` at most; `None` where there is no such
/// delivery, or it is not that of `application`.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn list(
    store: &Store,
    application: Option<ApplicationId>,
    delivery: DeliveryId,
    after: i16,
    limit: u32,
) -> Result<Option<Page<Attempt, i16>>, StoreError> {
    let client = store.durable().await?;
    let parameters: &Parameters<'_> = &[&delivery, &application, &after, &(i64::from(limit) + 1)];
    let mut rows = page::read_weighed(&client, LIST, parameters, limit, weigh).await?;
    if rows.rows.is_empty() {
        return Ok(None);
    }
    // A delivery without attempts is one row without an attempt.
    rows.rows.retain(|row| row.get::<_, Option<i16>>("attempt_number").is_some());
    Ok(Some(Page::of(&rows, |attempt: &Attempt| attempt.attempt_number)))
}

/// JSON escapes control characters as six bytes each, and a receiver may send nothing else.
fn weigh(row: &Row) -> usize {
    let body: Option<&[u8]> = row.get("response_body");
    let controls = body.unwrap_or_default().iter().filter(|byte| byte.is_ascii_control()).count();
    row.raw_size_bytes() + 5 * controls
}
