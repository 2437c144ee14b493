//! Figures about the whole installation, for metrics.

use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row};

/// What the outbox and the leases look like.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutboxStatistics {
    /// Rows that are due and were not taken yet, at most 10,000 are counted.
    pub due: i64,
    /// Parked rows, as PostgreSQL estimates.
    pub parked_estimate: i64,
    /// How long the oldest due row has waited, in seconds.
    pub oldest_due_seconds: f64,
    /// Leases that are kept.
    pub leases: i64,
    /// The age of the oldest transaction that holds back cleaning up, in seconds.
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
/// When PostgreSQL does not answer.
pub async fn outbox(store: &Store) -> Result<OutboxStatistics, StoreError> {
    let client = store.relaxed().await?;
    let row = OUTBOX.fetch_one(&client, &[]).await?;
    Ok(read(&row))
}

/// What there is to be done beside deliveries, and how the endpoints do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Survey {
    /// Endpoints that are active and well.
    pub well: i64,
    /// Active ones that only fail, and are probed.
    pub failing: i64,
    /// Disabled ones.
    pub disabled: i64,
    /// Events in the inbox, at most 10,000 are counted.
    pub inbox: i64,
    /// How long the oldest of them has waited, in seconds.
    pub oldest_in_inbox_seconds: f64,
    /// Bulk replays that are not at their end.
    pub replays: i64,
    /// Deletions and withdrawals that are not at their end.
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

/// Surveys; it looks at every endpoint.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn survey(store: &Store) -> Result<Survey, StoreError> {
    let client = store.relaxed().await?;
    let row = SURVEY.fetch_one(&client, &[]).await?;
    Ok(read(&row))
}
