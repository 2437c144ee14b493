//! What is known of the receivers: whether an endpoint's circuit breaker is open, and since when it fails.

use chrono::{DateTime, Utc};

use super::{Store, StoreError};
use crate::ids::EndpointId;
use crate::queue::BreakerChange;

/// How an endpoint does.
#[derive(Debug, Clone, Default)]
pub struct EndpointHealth {
    /// It is probed instead of being sent what is due.
    pub is_open: bool,
    /// How it failed last.
    pub reason: Option<String>,
    /// Since when everything fails.
    pub failing_since: Option<DateTime<Utc>>,
    /// When it is probed next.
    pub next_probe_at: Option<DateTime<Utc>>,
}

const OPEN: &str = "-- endpoint_health.open
insert into endpoint_health (endpoint_id, state, reason, next_probe_at, failing_since)
select c.endpoint_id, 'open', c.reason, now() + c.probe_ms * interval '1 millisecond',
       now() - c.failing_ms * interval '1 millisecond'
from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[])
     as c (endpoint_id, reason, probe_ms, failing_ms)
join endpoints e on e.id = c.endpoint_id
order by c.endpoint_id
on conflict (endpoint_id) do update
set state = 'open', reason = excluded.reason, next_probe_at = excluded.next_probe_at,
    failing_since = coalesce(endpoint_health.failing_since, excluded.failing_since), updated_at = now()";

const CLOSE: &str = "-- endpoint_health.close
with opened as materialized (
    select endpoint_id from endpoint_health
    where endpoint_id = any ($1) and state = 'open'
    order by endpoint_id
    for no key update
)
update endpoint_health h
set state = 'closed', reason = null, next_probe_at = null, failing_since = null, last_succeeded_at = now(),
    updated_at = now()
from opened o
where h.endpoint_id = o.endpoint_id";

/// Notes breakers that were opened, each with the reason, or closed. Where a change is lost, the endpoint's
/// next exchange makes up for it.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn note(store: &Store, changes: &[(BreakerChange, Option<String>)]) -> Result<(), StoreError> {
    let client = store.relaxed().await?;
    let (mut endpoints, mut reasons, mut probes, mut failing) = (vec![], vec![], vec![], vec![]);
    let mut closed = Vec::new();
    for (change, reason) in changes {
        match *change {
            BreakerChange::Opened { endpoint_id, probe_after, failing_for } => {
                endpoints.push(endpoint_id);
                reasons.push(reason);
                probes.push(milliseconds(probe_after));
                failing.push(milliseconds(failing_for));
            }
            BreakerChange::Closed { endpoint_id } => closed.push(endpoint_id),
        }
    }
    if !endpoints.is_empty() {
        let open = client.prepare_cached(OPEN).await?;
        client.execute(&open, &[&endpoints, &reasons, &probes, &failing]).await?;
    }
    if !closed.is_empty() {
        let close = client.prepare_cached(CLOSE).await?;
        client.execute(&close, &[&closed]).await?;
    }
    Ok(())
}

const GET: &str = "-- endpoint_health.get
select state = 'open', reason, failing_since, next_probe_at from endpoint_health where endpoint_id = $1";

/// Reads the health of an endpoint; one that nothing is known of is well.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn get(store: &Store, endpoint: EndpointId) -> Result<EndpointHealth, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(GET).await?;
    let row = client.query_opt(&statement, &[&endpoint]).await?;
    Ok(row.map_or_else(EndpointHealth::default, |row| EndpointHealth {
        is_open: row.get(0),
        reason: row.get(1),
        failing_since: row.get(2),
        next_probe_at: row.get(3),
    }))
}

fn milliseconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
