//! Figures about the whole installation, for metrics.

use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row};

/// Figures about the outbox and the leases.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutboxStatistics {
    /// The number of rows that are due and not taken yet. At most 10,000 are counted.
    pub due: i64,
    /// The number of parked rows, according to PostgreSQL's estimate.
    pub parked_estimate: i64,
    /// How long the oldest due row has waited, in seconds.
    pub oldest_due_seconds: f64,
    /// The number of leases.
    pub leases: i64,
    /// The age of the oldest transaction that holds back vacuum, in seconds.
    pub oldest_transaction_seconds: f64,
}

from_row!(OutboxStatistics { due, parked_estimate, oldest_due_seconds, leases, oldest_transaction_seconds });

const OUTBOX: Sql = Sql::named(
    "-- outbox.statistics
select
    (select count(*) from (select from outbox where not parked and due_at <= now() limit 10000) d) as due,
    (select greatest(reltuples, 0)::bigint from pg_class where oid = 'outbox_parked'::regclass) as parked_estimate,
    coalesce((
        select extract(epoch from now() - due_at)::float8
        from outbox where not parked and due_at <= now() order by due_at limit 1
    ), 0) as oldest_due_seconds,
    (select count(*) from leases) as leases,
    coalesce((
        select max(extract(epoch from now() - xact_start))::float8
        from pg_stat_activity where backend_xmin is not null and xact_start is not null
    ), 0) as oldest_transaction_seconds",
);

/// Reads the figures.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn outbox(store: &Store) -> Result<OutboxStatistics, StoreError> {
    let client = store.relaxed().await?;
    let row = OUTBOX.fetch_one(&client, &[]).await?;
    Ok(read(&row))
}

/// The work to be done apart from deliveries, and the state of the endpoints.
#[derive(Debug, Clone, Copy, Default)]
pub struct Survey {
    /// The number of endpoints that are active and healthy.
    pub well: i64,
    /// The number of active endpoints with an open breaker.
    pub failing: i64,
    /// The number of disabled endpoints.
    pub disabled: i64,
    /// The number of events in the inbox. At most 10,000 are counted.
    pub inbox: i64,
    /// How long the oldest of these events has waited, in seconds.
    pub oldest_in_inbox_seconds: f64,
    /// The number of open bulk replays.
    pub replays: i64,
    /// The number of cleanups that are not finished.
    pub cleanups: i64,
}

from_row!(Survey { well, failing, disabled, inbox, oldest_in_inbox_seconds, replays, cleanups });

const SURVEY: Sql = Sql::named(
    "-- endpoints.survey
select count(*) filter (where e.is_active and h.state is distinct from 'open') as well,
       count(*) filter (where e.is_active and h.state = 'open') as failing,
       count(*) filter (where not e.is_active) as disabled,
       (select count(*) from (select from inbox limit 10000) i) as inbox,
       coalesce((select extract(epoch from now() - emitted_at)::float8 from inbox order by transaction_id, id limit 1), 0)
           as oldest_in_inbox_seconds,
       (select count(*) from replays where status in ('pending', 'running')) as replays,
       (select count(*) from cleanups) as cleanups
from endpoints e
left join endpoint_health h on h.endpoint_id = e.id
where e.deleted_at is null",
);

/// Reads the survey. It scans all endpoints.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn survey(store: &Store) -> Result<Survey, StoreError> {
    let client = store.relaxed().await?;
    let row = SURVEY.fetch_one(&client, &[]).await?;
    Ok(read(&row))
}
