//! What is known of the receivers: whether an endpoint's circuit breaker is open, and since when it fails.
//! Written only where something has changed, and never with a delivery.

use std::time::Duration;

use chrono::{DateTime, Utc};
use postrider_domain::endpoint::BreakerChange;
use postrider_domain::ids::EndpointId;
use serde_json::json;
use tokio_postgres::Row;

use crate::operational::{self, BREAKER_CLOSED, BREAKER_OPENED, OperationalEvent};
use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row};

/// How an endpoint does.
#[derive(Debug, Clone, Default)]
pub struct EndpointHealth {
    /// It is probed instead of being sent what is due.
    pub is_open: bool,
    /// How it failed last.
    pub reason: Option<String>,
    /// Since when everything fails; `None`: the last attempts did not.
    pub failing_since: Option<DateTime<Utc>>,
    /// When it is probed next.
    pub next_probe_at: Option<DateTime<Utc>>,
}

from_row!(EndpointHealth { is_open, reason, failing_since, next_probe_at });

/// So that there is a row to be locked.
const MAKE: Sql = Sql::named(
    "-- endpoint_health.make
insert into endpoint_health (endpoint_id)
select id from endpoints where id = any ($1) order by id
on conflict do nothing",
);

/// Answers those that were closed before: a probe that fails opens one again, and two deliverers may tell of one
/// at once. What Redis counts from is older than when the endpoint was enabled, or has last succeeded.
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

/// Notes breakers that were opened, each with the reason, or closed, and tells of those that have changed by
/// operational events. Where a change is lost, the endpoint's next exchange makes up for it.
///
/// # Errors
/// When PostgreSQL does not answer.
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

/// Two days without an attempt begin the count anew. The gaps between the retries of one delivery are shorter: by the
/// default schedule at most 29 hours.
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

/// Notes endpoints of which an attempt has succeeded lately, and others of which all have failed. Answers those
/// of the latter that have done nothing but fail for as long as `limit`, with no two days without an attempt.
///
/// # Errors
/// When PostgreSQL does not answer. What was not noted is noted by later attempts.
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

/// Several relays see the same.
const THROTTLED: Sql = Sql::named(
    "-- endpoint_health.throttled
insert into endpoint_health as h (endpoint_id, throttled_at)
select id, now() from endpoints where id = any ($1)
order by id
on conflict (endpoint_id) do update
set throttled_at = now()
where h.throttled_at is null or h.throttled_at < now() - interval '3 seconds'",
);

/// Notes endpoints that are seen to wait for their rate limit at this moment.
///
/// # Errors
/// When PostgreSQL does not answer.
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

/// Reads the health of an endpoint; one that nothing is known of is well.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn get(store: &Store, endpoint: EndpointId) -> Result<EndpointHealth, StoreError> {
    let client = store.durable().await?;
    let row = GET.fetch_optional(&client, &[&endpoint]).await?;
    Ok(row.as_ref().map(read).unwrap_or_default())
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
