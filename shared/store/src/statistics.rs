//! Figures about the whole installation, for metrics.

use crate::{Store, StoreError};

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

const OUTBOX: &str = "-- outbox.statistics
select
    (select count(*) from (select from outbox where not parked and due_at <= now() limit 10000) d),
    (select greatest(reltuples, 0)::bigint from pg_class where oid = 'outbox_parked'::regclass),
    coalesce((
        select extract(epoch from now() - due_at)::float8
        from outbox where not parked and due_at <= now() order by due_at limit 1
    ), 0),
    (select count(*) from leases),
    coalesce((
        select max(extract(epoch from now() - xact_start))::float8
        from pg_stat_activity where backend_xmin is not null and xact_start is not null
    ), 0)";

/// Reads the figures.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn outbox(store: &Store) -> Result<OutboxStatistics, StoreError> {
    let client = store.relaxed().await?;
    let statement = client.prepare_cached(OUTBOX).await?;
    let row = client.query_one(&statement, &[]).await?;
    Ok(OutboxStatistics {
        due: row.get(0),
        parked_estimate: row.get(1),
        oldest_due_seconds: row.get(2),
        leases: row.get(3),
        oldest_transaction_seconds: row.get(4),
    })
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

const SURVEY: &str = "-- endpoints.survey
select count(*) filter (where e.is_active and h.state is distinct from 'open'),
       count(*) filter (where e.is_active and h.state = 'open'),
       count(*) filter (where not e.is_active),
       (select count(*) from (select from inbox limit 10000) i),
       coalesce((select extract(epoch from now() - emitted_at)::float8 from inbox order by transaction_id, id limit 1), 0),
       (select count(*) from replays where status in ('pending', 'running')),
       (select count(*) from cleanups)
from endpoints e
left join endpoint_health h on h.endpoint_id = e.id
where e.deleted_at is null";

/// Surveys; it looks at every endpoint.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn survey(store: &Store) -> Result<Survey, StoreError> {
    let client = store.relaxed().await?;
    let statement = client.prepare_cached(SURVEY).await?;
    let row = client.query_one(&statement, &[]).await?;
    Ok(Survey {
        well: row.get(0),
        failing: row.get(1),
        disabled: row.get(2),
        inbox: row.get(3),
        oldest_in_inbox_seconds: row.get(4),
        replays: row.get(5),
        cleanups: row.get(6),
    })
}
