//! The health of endpoints: whether the circuit breaker is open, and since when all attempts have failed. It is written
//! only when something changes, and never together with a delivery.

use std::time::Duration;

use chrono::{DateTime, Utc};
use postrider_domain::endpoint::BreakerChange;
use postrider_domain::ids::EndpointId;
use serde_json::json;
use tokio_postgres::Row;

use crate::operational::{self, BREAKER_CLOSED, BREAKER_OPENED, OperationalEvent};
use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row};

/// The health of an endpoint.
#[derive(Debug, Clone, Default)]
pub struct EndpointHealth {
    /// True if the breaker is open: probes are sent instead of what is due.
    pub is_open: bool,
    /// The reason of the last failure.
    pub reason: Option<String>,
    /// The time since when all attempts have failed, or `None` if the last attempts succeeded.
    pub failing_since: Option<DateTime<Utc>>,
    /// The time of the next probe.
    pub next_probe_at: Option<DateTime<Utc>>,
}

from_row!(EndpointHealth { is_open, reason, failing_since, next_probe_at });

/// Creates the rows, so that they can be locked.
const MAKE: Sql = Sql::named(
    "-- endpoint_health.make
insert into endpoint_health (endpoint_id)
select id from endpoints where id = any ($1) order by id
on conflict do nothing",
);

/// Returns the breakers that were closed before. A failed probe opens a breaker again, and two deliverers may report
/// the same one. The time that Redis counts from may be before the endpoint was enabled or last succeeded, so it is
/// limited.
const OPEN: Sql = Sql::named(
    "-- endpoint_health.open
with seen as materialized (
    select h.endpoint_id, h.state
    from endpoint_health h
    where h.endpoint_id = any ($1)
    order by h.endpoint_id
    for no key update
),
opened as (
    update endpoint_health h
    set state = 'open', reason = c.reason, next_probe_at = now() + c.probe_ms * interval '1 millisecond',
        failing_since = coalesce(
            h.failing_since, greatest(now() - c.failing_ms * interval '1 millisecond', h.cleared_at)
        ),
        updated_at = now()
    from seen s
    join unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[])
         as c (endpoint_id, reason, probe_ms, failing_ms) using (endpoint_id)
    where h.endpoint_id = s.endpoint_id
    returning h.endpoint_id, c.reason, s.state
)
select o.endpoint_id, e.application_id, e.url, o.reason
from opened o
join endpoints e on e.id = o.endpoint_id
where o.state = 'closed'",
);

const CLOSE: Sql = Sql::named(
    "-- endpoint_health.close
with opened as materialized (
    select endpoint_id from endpoint_health
    where endpoint_id = any ($1) and state = 'open'
    order by endpoint_id
    for no key update
),
closed as (
    update endpoint_health h
    set state = 'closed', reason = null, next_probe_at = null, failing_since = null, cleared_at = now(),
        updated_at = now()
    from opened o
    where h.endpoint_id = o.endpoint_id
    returning h.endpoint_id
)
select e.id as endpoint_id, e.application_id, e.url, null::text as reason
from closed c join endpoints e on e.id = c.endpoint_id",
);

/// Records breakers that were opened, each with the reason, or closed, and emits operational events about those that
/// changed. If a change is lost, the endpoint's next exchange corrects it.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn note(store: &Store, changes: &[(BreakerChange, Option<String>)]) -> Result<(), StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
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
    let mut events = Vec::new();
    if !endpoints.is_empty() {
        MAKE.execute(&transaction, &[&endpoints]).await?;
        let opened = OPEN.fetch_all(&transaction, &[&endpoints, &reasons, &probes, &failing]).await?;
        events.extend(opened.iter().map(|row| breaker_event(BREAKER_OPENED, row)));
    }
    if !closed.is_empty() {
        let closed = CLOSE.fetch_all(&transaction, &[&closed]).await?;
        events.extend(closed.iter().map(|row| breaker_event(BREAKER_CLOSED, row)));
    }
    operational::emit(&transaction, &events).await?;
    Ok(transaction.commit().await?)
}

fn breaker_event(event_type: &'static str, row: &Row) -> OperationalEvent {
    OperationalEvent {
        application_id: row.get("application_id"),
        event_type,
        data: json!({
            "endpoint_id": row.get::<_, EndpointId>("endpoint_id"),
            "url": row.get::<_, &str>("url"),
            "reason": row.get::<_, Option<&str>>("reason"),
        }),
    }
}

const SUCCEEDED: Sql = Sql::named(
    "-- endpoint_health.succeeded
with recovered as materialized (
    select endpoint_id
    from endpoint_health
    where endpoint_id = any ($1) and failing_since is not null
    order by endpoint_id
    for no key update skip locked
)
update endpoint_health h
set failing_since = null, cleared_at = now(), updated_at = now()
from recovered r
where h.endpoint_id = r.endpoint_id",
);

/// Two days without an attempt restart the count. The gaps between the retries of one delivery are shorter: at most 29
/// hours in the default schedule.
const FAILED: Sql = Sql::named(
    "-- endpoint_health.failed
with noted as (
    insert into endpoint_health as h (endpoint_id, failing_since, last_failed_at)
    select e.id, now(), now()
    from endpoints e
    where e.id = any ($1) and e.deleted_at is null and e.is_active
    order by e.id
    on conflict (endpoint_id) do update
    set failing_since = case
            when coalesce(h.last_failed_at, h.failing_since) > now() - interval '2 days'
            then coalesce(h.failing_since, now())
            else now()
        end,
        last_failed_at = now(),
        updated_at = now()
    where h.failing_since is null or h.last_failed_at is null
       or h.last_failed_at < now() - interval '1 hour'
)
select endpoint_id
from endpoint_health
where endpoint_id = any ($1) and last_failed_at > now() - interval '1 day'
  and failing_since <= now() - make_interval(secs => $2)",
);

/// Records endpoints of which an attempt has succeeded recently, and endpoints of which all have failed. Returns those
/// of the latter that have only failed for at least `limit`, without a gap of two days between attempts.
///
/// # Errors
/// [`StoreError`] if a statement fails. Later attempts make up for it.
pub async fn note_attempts(
    store: &Store,
    succeeded: &[EndpointId],
    failed: &[EndpointId],
    limit: Duration,
) -> Result<Vec<EndpointId>, StoreError> {
    let client = store.relaxed().await?;
    if !succeeded.is_empty() {
        SUCCEEDED.execute(&client, &[&succeeded]).await?;
    }
    if failed.is_empty() {
        return Ok(Vec::new());
    }
    let rows = FAILED.fetch_all(&client, &[&failed, &limit.as_secs_f64()]).await?;
    Ok(rows.iter().map(|row| row.get("endpoint_id")).collect())
}

/// Several relays see the same endpoints, so only a change after three seconds is written.
const THROTTLED: Sql = Sql::named(
    "-- endpoint_health.throttled
insert into endpoint_health as h (endpoint_id, throttled_at)
select id, now() from endpoints where id = any ($1)
order by id
on conflict (endpoint_id) do update
set throttled_at = now()
where h.throttled_at is null or h.throttled_at < now() - interval '3 seconds'",
);

/// Records endpoints that are waiting for their rate limit now.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn note_throttled(store: &Store, endpoints: &[EndpointId]) -> Result<(), StoreError> {
    if endpoints.is_empty() {
        return Ok(());
    }
    let client = store.relaxed().await?;
    THROTTLED.execute(&client, &[&endpoints]).await?;
    Ok(())
}

const GET: Sql = Sql::named(
    "-- endpoint_health.get
select state = 'open' as is_open, reason, failing_since, next_probe_at from endpoint_health where endpoint_id = $1",
);

/// Returns the health of an endpoint. An endpoint without a record is healthy.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn get(store: &Store, endpoint: EndpointId) -> Result<EndpointHealth, StoreError> {
    let client = store.durable().await?;
    let row = GET.fetch_optional(&client, &[&endpoint]).await?;
    Ok(row.as_ref().map(read).unwrap_or_default())
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
