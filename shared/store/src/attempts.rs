//! Attempts, read. [`record`](super::record) and the sweep of expired leases write them.

use chrono::{DateTime, Utc};
use postrider_domain::delivery::AttemptOutcome;
use postrider_domain::ids::{ApplicationId, DeliveryId};
use tokio_postgres::Row;

use crate::page::{self, Page};
use crate::sql::{Parameters, Sql};
use crate::{Store, StoreError, from_row};

/// One HTTP exchange, or a claim whose outcome is unknown.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The number of the attempt, from 1.
    pub attempt_number: i16,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Where it failed.
    pub error_class: Option<String>,
    /// How it failed.
    pub error_message: Option<String>,
    /// The headers that were sent, as a JSON array of `{name, value}`.
    pub request_headers: Option<String>,
    /// The status of the response.
    pub response_status: Option<i16>,
    /// The headers of the response, as a JSON array of `{name, value}`.
    pub response_headers: Option<String>,
    /// The first bytes of the response body. They need not be text.
    pub response_body: Option<Vec<u8>>,
    /// True if the body was longer than what was kept.
    pub response_body_truncated: bool,
    /// True if the request was sent twice.
    pub resent: bool,
    /// How long it took, in milliseconds.
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

/// Returns up to `limit` attempts of a delivery after number `after`, oldest first, or `None` if the delivery does not
/// exist or belongs to another application.
///
/// # Errors
/// [`StoreError`] if the statement fails.
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

/// Returns the size of an attempt in JSON, which escapes each control character as six bytes. A receiver may send
/// nothing but control characters.
fn weigh(row: &Row) -> usize {
    let body: Option<&[u8]> = row.get("response_body");
    let controls = body.unwrap_or_default().iter().filter(|byte| byte.is_ascii_control()).count();
    row.raw_size_bytes() + 5 * controls
}
