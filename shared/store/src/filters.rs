//! Payload filters, evaluated for a test.

use postrider_domain::filter::Filter;
use postrider_domain::ids::{ApplicationId, EventId};

use crate::sql::Sql;
use crate::{Store, StoreError};

const TEST_SAMPLE: Sql = Sql::named(
    "-- filters.test_sample
select coalesce($1::text::jsonb @@ $2::text::jsonpath, false) as matches",
);

/// Returns whether a payload matches, evaluated as when an event is accepted. `data` is JSON text.
///
/// # Errors
/// [`StoreError`] if the statement fails, with [`StoreError::is_data_error`] if PostgreSQL cannot store the payload.
pub async fn matches_sample(store: &Store, filter: &Filter, data: &str) -> Result<bool, StoreError> {
    let client = store.durable().await?;
    Ok(TEST_SAMPLE.fetch_one(&client, &[&data, &filter.path]).await?.get("matches"))
}

const TEST_EVENT: Sql = Sql::named(
    "-- filters.test_event
select coalesce(payload @@ $3::text::jsonpath, false) as matches, expunged_at is not null as is_expunged
from events
where id = $1 and application_id = $2",
);

/// The result of testing a filter on a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// Whether the event matches.
    Matched(bool),
    /// The payload of the event was removed on request.
    Expunged,
    /// The event does not exist.
    UnknownEvent,
}

/// Tests whether a stored event matches.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn matches_event(
    store: &Store,
    filter: &Filter,
    application: ApplicationId,
    event: EventId,
) -> Result<Tried, StoreError> {
    let client = store.durable().await?;
    let row = TEST_EVENT.fetch_optional(&client, &[&event, &application, &filter.path]).await?;
    Ok(match row {
        Some(row) if row.get("is_expunged") => Tried::Expunged,
        Some(row) => Tried::Matched(row.get("matches")),
        None => Tried::UnknownEvent,
    })
}
