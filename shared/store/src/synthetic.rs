//! Rows that nobody posted, as many as a measurement wants: what an installation holds that has grown old.

use std::time::Duration;

use postrider_domain::ids::{ApplicationId, EndpointId};

use crate::sql::Sql;
use crate::{Store, StoreError};

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Events that were delivered at the first attempt.
    Delivered,
    /// Events whose deliveries have never been tried and are parked.
    Backlog,
}

/// Which rows one call makes.
#[derive(Debug, Clone)]
pub struct Stock<'a> {
    /// Whose they are.
    pub application_id: ApplicationId,
    /// Who receives; each event goes to one of them, in turn.
    pub endpoints: &'a [EndpointId],
    /// Their type.
    pub event_type: &'a str,
    /// What they are.
    pub kind: Kind,
    /// A part of every payload and of every key.
    pub mark: &'a str,
    /// What fills the payloads.
    pub padding: &'a str,
    /// All of them together are spread evenly over the time before now.
    pub total: i64,
    /// How long a time.
    pub span: Duration,
}

const SYNTHESIZE: Sql = Sql::named(include_str!("sql/events.synthesize.sql"));

/// Attempts that a delivery may have.
const MAX_ATTEMPTS: i16 = 10;

/// Makes `count` of them, from number `first` on.
///
/// # Errors
/// When PostgreSQL does not answer, or these are there already.
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
