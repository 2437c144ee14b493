//! Recent statistics of an endpoint's deliveries, from a bounded read that reports how far back it went.

use chrono::{DateTime, Utc};
use postrider_domain::ids::{ApplicationId, EndpointId};

use crate::page::IdRange;
use crate::sql::{self, Sql};
use crate::{Store, StoreError, from_row};

/// The maximum number of the application's deliveries that one call scans.
pub const MAX_SCANNED: i64 = 20_000;

/// The maximum number of attempts whose durations are read.
const MAX_ATTEMPTS: i64 = 20_000;

/// Numbers of deliveries by status, and percentiles of their attempts.
#[derive(Debug, Clone)]
pub struct EndpointStats {
    /// The time from which everything is counted: the requested time, or a later one if there was too much to scan.
    pub from: DateTime<Utc>,
    /// The time at which it was counted.
    pub to: DateTime<Utc>,
    /// True if the whole requested period was scanned.
    pub is_complete: bool,
    /// Deliveries that were not attempted yet.
    pub pending: i64,
    /// Deliveries that are being sent.
    pub in_progress: i64,
    /// Deliveries that succeeded.
    pub succeeded: i64,
    /// Deliveries whose last attempt failed and that will be retried.
    pub failed: i64,
    /// Deliveries that are dead letters.
    pub dead_letter: i64,
    /// Deliveries that were cancelled.
    pub cancelled: i64,
    /// Attempts that succeeded.
    pub attempts_succeeded: i64,
    /// Attempts that failed.
    pub attempts_failed: i64,
    /// Attempts whose outcome is unknown.
    pub attempts_unknown: i64,
    /// The 50th, 95th and 99th percentile of attempt durations, in milliseconds.
    pub attempt_percentiles: Option<Vec<f64>>,
    /// The same percentiles of the time from acceptance to success, in milliseconds.
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

/// Rows are compared as a whole, so that the index of the application's deliveries is walked, whatever the planner
/// knows about the application. In the index of all deliveries, those of a small application are far apart.
const READ: Sql = Sql::named(include_str!("sql/deliveries.endpoint_stats.sql"));

/// Counts the deliveries of an endpoint that were created at or after `since`, among the newest [`MAX_SCANNED`]
/// deliveries of its application.
///
/// # Errors
/// [`StoreError`] if the statement fails.
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
