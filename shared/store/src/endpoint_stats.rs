//! How the deliveries of an endpoint went lately, out of a bounded read that says how far it came.

use chrono::{DateTime, Utc};
use postrider_domain::ids::{ApplicationId, EndpointId};

use crate::page::IdRange;
use crate::{Store, StoreError};

/// Deliveries of the application that one call looks at, at most.
pub const MAX_SCANNED: i64 = 20_000;

/// Attempts whose durations are looked at, at most.
const MAX_ATTEMPTS: i64 = 20_000;

/// Numbers of deliveries by status, and percentiles of their attempts.
#[derive(Debug, Clone)]
pub struct EndpointStats {
    /// Everything is counted that was created from this time on: what was asked for, or later where there
    /// was too much to look at.
    pub from: DateTime<Utc>,
    /// When it was counted.
    pub to: DateTime<Utc>,
    /// True where all was looked at that was asked for.
    pub is_complete: bool,
    /// Not attempted yet.
    pub pending: i64,
    /// Being sent.
    pub in_progress: i64,
    /// Succeeded.
    pub succeeded: i64,
    /// Failed, with a retry due.
    pub failed: i64,
    /// Dead letters.
    pub dead_letter: i64,
    /// Cancelled.
    pub cancelled: i64,
    /// Attempts that succeeded.
    pub attempts_succeeded: i64,
    /// Attempts that failed.
    pub attempts_failed: i64,
    /// Attempts of which nobody knows what came.
    pub attempts_unknown: i64,
    /// The 50th, 95th and 99th percentile of the durations of attempts, in milliseconds.
    pub attempt_percentiles: Option<Vec<f64>>,
    /// The same of the times from acceptance to success.
    pub success_percentiles: Option<Vec<f64>>,
}

/// Rows are compared as a whole, so that the index of an application's deliveries is walked whatever the planner
/// knows of the application: in the index of all of them a small one is far apart.
const READ: &str = "-- deliveries.endpoint_stats
with scanned as materialized (
    select id, endpoint_id, status, created_at, completed_at
    from deliveries
    where (application_id, id) > ($1, $3) and application_id <= $1 and created_at >= $4
    order by application_id desc, id desc
    limit $5
),
own as materialized (
    select id, status, created_at, completed_at from scanned where endpoint_id = $2
),
attempt as materialized (
    select a.outcome, a.duration_ms
    from (select id from own order by id desc limit $6) o
    cross join lateral (
        -- Looked up one by one: `offset` keeps the planner from reading them all to join them.
        select outcome, duration_ms from delivery_attempts where delivery_id = o.id offset 0
    ) a
    limit $6
)
select d.is_full, case when d.is_full then d.oldest else $4 end, now(),
       o.pending, o.in_progress, o.succeeded, o.failed, o.dead_letter, o.cancelled,
       a.succeeded, a.failed, a.unknown, a.percentiles, o.percentiles
from (
    select count(*) >= $5 as is_full, min(created_at) as oldest from scanned
) d,
(
    select count(*) filter (where status = 'pending') as pending,
           count(*) filter (where status = 'in_progress') as in_progress,
           count(*) filter (where status = 'succeeded') as succeeded,
           count(*) filter (where status = 'failed') as failed,
           count(*) filter (where status = 'dead_letter') as dead_letter,
           count(*) filter (where status = 'cancelled') as cancelled,
           percentile_cont(array[0.5, 0.95, 0.99]::double precision[]) within group (
               order by extract(epoch from completed_at - created_at)::double precision * 1000
           ) filter (where status = 'succeeded') as percentiles
    from own
) o,
(
    select count(*) filter (where outcome = 'succeeded') as succeeded,
           count(*) filter (where outcome = 'failed') as failed,
           count(*) filter (where outcome = 'unknown') as unknown,
           percentile_cont(array[0.5, 0.95, 0.99]::double precision[]) within group (
               order by duration_ms
           ) filter (where duration_ms is not null) as percentiles
    from attempt
) a";

/// Counts the deliveries of an endpoint that were created at `since` or later: of the newest
/// [`MAX_SCANNED`] deliveries of its application, those that are its own.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn read(
    store: &Store,
    application: ApplicationId,
    endpoint: EndpointId,
    since: DateTime<Utc>,
) -> Result<EndpointStats, StoreError> {
    let range = IdRange::new(None, Some(since), None);
    let client = store.durable().await?;
    let statement = client.prepare_cached(READ).await?;
    let row = client
        .query_one(&statement, &[&application, &endpoint, &range.above, &since, &MAX_SCANNED, &MAX_ATTEMPTS])
        .await?;
    Ok(EndpointStats {
        is_complete: !row.get::<_, bool>(0),
        from: row.get(1),
        to: row.get(2),
        pending: row.get(3),
        in_progress: row.get(4),
        succeeded: row.get(5),
        failed: row.get(6),
        dead_letter: row.get(7),
        cancelled: row.get(8),
        attempts_succeeded: row.get(9),
        attempts_failed: row.get(10),
        attempts_unknown: row.get(11),
        attempt_percentiles: row.get(12),
        success_percentiles: row.get(13),
    })
}
