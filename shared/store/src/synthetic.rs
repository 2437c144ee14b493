//! Synthetic rows for measurements: the contents of an old installation, in any amount.

use std::time::Duration;

use postrider_domain::ids::{ApplicationId, EndpointId};

use crate::sql::Sql;
use crate::{Store, StoreError};

/// The kind of rows to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Events that were delivered at the first attempt.
    Delivered,
    /// Events whose deliveries were never attempted and are parked.
    Backlog,
}

/// Describes the rows to create.
#[derive(Debug, Clone)]
pub struct Stock<'a> {
    /// The application that they belong to.
    pub application_id: ApplicationId,
    /// The receiving endpoints. Each event goes to one of them, in turn.
    pub endpoints: &'a [EndpointId],
    /// The event type.
    pub event_type: &'a str,
    /// The kind of rows.
    pub kind: Kind,
    /// A part of every payload and every idempotency key.
    pub mark: &'a str,
    /// Padding for the payloads.
    pub padding: &'a str,
    /// The total number of events, which are spread evenly over the period before now.
    pub total: i64,
    /// The length of that period.
    pub span: Duration,
}

const SYNTHESIZE: Sql = Sql::named(include_str!("sql/events.synthesize.sql"));

/// The number of attempts that a delivery may have.
const MAX_ATTEMPTS: i16 = 10;

/// Creates `count` events, starting with number `first`.
///
/// # Errors
/// [`StoreError`] if the statement fails, for example because these events already exist.
pub async fn synthesize(store: &Store, stock: &Stock<'_>, first: i64, count: i64) -> Result<(), StoreError> {
    let client = store.relaxed().await?;
    let Stock { application_id, endpoints, event_type, kind, mark, padding, total, span } = stock;
    let is_open = *kind == Kind::Backlog;
    let seconds = span.as_secs_f64();
    SYNTHESIZE
        .execute(
            &client,
            &[
                application_id,
                endpoints,
                event_type,
                &is_open,
                &MAX_ATTEMPTS,
                mark,
                padding,
                &(*total as f64),
                &seconds,
                &first,
                &count,
            ],
        )
        .await?;
    Ok(())
}
