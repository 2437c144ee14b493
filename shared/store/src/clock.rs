//! The clock of PostgreSQL, which schedules, leases and ids follow.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;

use crate::StoreError;
use crate::sql::Sql;

const READ: Sql = Sql::named(
    "-- clock.read
select extract(epoch from clock_timestamp())::float8 as seconds",
);

/// Returns the number of seconds by which this machine's clock is ahead of PostgreSQL's, accurate to half the
/// round-trip time.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn ahead_seconds(client: &Client) -> Result<f64, StoreError> {
    let before = now();
    let theirs: f64 = READ.fetch_one(client, &[]).await?.get("seconds");
    Ok((before + now()) / 2.0 - theirs)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
