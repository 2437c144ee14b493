//! How the deliveries of an endpoint went lately, out of a bounded read that says how far it came.

use chrono::{DateTime, Utc};
use postrider_domain::ids::{ApplicationId, EndpointId};

use crate::page::IdRange;
use crate::sql::{self, Sql};
use crate::{Store, StoreError, from_row};

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

from_row!(EndpointStats {
    is_complete,
    from,
    to,
    pending,
    in_progress,
    succeeded,
    failed,
    dead_letter,
    cancelled,
    attempts_succeeded,
    attempts_failed,
    attempts_unknown,
    attempt_percentiles,
    success_percentiles,
});

/// Rows are compared as a whole, so that the index of an application's deliveries is walked whatever the planner
/// knows of the application: in the index of all of them a small one is far apart.
const READ: Sql = Sql::named(include_str!("sql/deliveries.endpoint_stats.sql"));

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
    let row = READ
        .fetch_one(&client, &[&application, &endpoint, &range.above, &since, &MAX_SCANNED, &MAX_ATTEMPTS])
        .await?;
    Ok(sql::read(&row))
}
