//! Payload filters, tried out.

use postrider_domain::filter::Filter;
use postrider_domain::ids::{ApplicationId, EventId};

use crate::{Store, StoreError};

const TEST_SAMPLE: &str = "-- filters.test_sample
select coalesce($1::text::jsonb @@ $2::text::jsonpath, false)";

/// Whether a payload matches, as it would where an event is accepted. `data` is JSON as text.
///
/// # Errors
/// [`StoreError::is_data_error`] where PostgreSQL cannot hold the payload; when it does not answer.
pub async fn matches_sample(store: &Store, filter: &Filter, data: &str) -> Result<bool, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(TEST_SAMPLE).await?;
    Ok(client.query_one(&statement, &[&data, &filter.path]).await?.get(0))
}

const TEST_EVENT: &str = "-- filters.test_event
select coalesce(payload @@ $3::text::jsonpath, false), expunged_at is not null
from events
where id = $1 and application_id = $2";

/// What came of trying a filter on a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// Whether it matches.
    Matched(bool),
    /// Its payload was removed on request.
    Expunged,
    /// There is no such event.
    UnknownEvent,
}

/// Whether a stored event matches.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn matches_event(
    store: &Store,
    filter: &Filter,
    application: ApplicationId,
    event: EventId,
) -> Result<Tried, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(TEST_EVENT).await?;
    let row = client.query_opt(&statement, &[&event, &application, &filter.path]).await?;
    Ok(match row {
        Some(row) if row.get(1) => Tried::Expunged,
        Some(row) => Tried::Matched(row.get(0)),
        None => Tried::UnknownEvent,
    })
}
