//! Who sends what: a deliverer's registration, and the sweep of leases whose deliverer is gone.

use std::time::Duration;

use tokio_postgres::Client;

use super::{Store, StoreError, operational};
use crate::ids::{DelivererNumber, DeliveryId};

/// The advisory locks of deliverers are pairs of this and their number.
const DELIVERER_LOCK: i32 = 0x706f_7374;

/// After PostgreSQL has started, deliverers have this long to come back and record what they have sent,
/// before their leases count as abandoned.
pub const SWEEP_GRACE: Duration = Duration::from_secs(10);

/// Draws a number for a deliverer that starts.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn draw_number(client: &Client) -> Result<DelivererNumber, StoreError> {
    let row = client.query_one("select nextval('deliverer_numbers')::integer", &[]).await?;
    Ok(DelivererNumber(row.get(0)))
}

/// Says that the deliverer lives as long as this session does. False: another session says so.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn hold_number(client: &Client, number: DelivererNumber) -> Result<bool, StoreError> {
    let row = client.query_one("select pg_try_advisory_lock($1, $2)", &[&DELIVERER_LOCK, &number.0]).await?;
    Ok(row.get(0))
}

const SWEEP: &str = "-- leases.sweep
with alive as materialized (
    select distinct objid::bigint::integer as deliverer
    from pg_locks
    where locktype = 'advisory' and classid::bigint = $1 and objsubid = 2 and granted
      and database = (select oid from pg_database where datname = current_database())
),
gone as materialized (
    select id, delivery_ids
    from leases
    where pg_postmaster_start_time() < now() - make_interval(secs => $2::double precision)
      and (expires_at < now() or deliverer not in (select deliverer from alive))
    order by id
    limit 50
    for update skip locked
),
abandoned as materialized (
    select d.id, d.attempt_count, d.endpoint_id
    from deliveries d
    where d.id = any (array(select unnest(delivery_ids) from gone))
      and d.lease_id = any (array(select id from gone))
    order by d.id
    for no key update
),
judged as materialized (
    select a.id, a.attempt_count, a.endpoint_id, d.attempt_count >= d.max_attempts as is_last,
           -- The first time it is due again at once. A delivery that was lost before may be what kills
           -- its deliverers: it waits for its schedule, and for up to ten seconds more, so that even on a
           -- short schedule it comes apart from those that were lost with it, and dies alone.
           case
               -- No `exists`, which PostgreSQL may answer by hashing all attempts of that outcome.
               when (
                   select true from delivery_attempts p
                   where p.delivery_id = a.id and p.attempt_number = a.attempt_count - 1
                     and p.outcome = 'unknown'
               )
               then now() + make_interval(secs =>
                   (0.8 + 0.4 * random())
                   * s.schedule[least(a.attempt_count::integer, cardinality(s.schedule))] + 10 * random())
               else now()
           end as next_retry_at
    from abandoned a
    join deliveries d on d.id = a.id
    left join endpoints e on e.id = a.endpoint_id
    cross join lateral (select coalesce(nullif(e.retry_schedule, '{}'), $3::integer[]) as schedule) s
),
attempted as (
    insert into delivery_attempts (delivery_id, attempt_number, outcome, error_message)
    select id, attempt_count, 'unknown', 'the deliverer vanished before it recorded what happened'
    from judged
    on conflict do nothing
),
moved as (
    update deliveries d
    set lease_id = null,
        status = case when j.is_last then 'dead_letter' else 'failed' end,
        next_retry_at = case when j.is_last then null else j.next_retry_at end,
        completed_at = case when j.is_last then now() end,
        dead_at = case when j.is_last then now() end,
        last_error = 'the deliverer vanished before it recorded what happened'
    from judged j
    where d.id = j.id
    returning d.id, d.endpoint_id, d.application_id, d.next_retry_at, d.position
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id, due_at)
    select id, endpoint_id, application_id, coalesce(next_retry_at, now()) from moved
    where next_retry_at is not null or position is not null
    returning id
),
removed as (
    delete from leases where id = any (array(select id from gone)) returning id
)
select (select count(*) from removed), (select count(*) from moved),
       array(select id from judged where is_last),
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n)";

/// What a sweep found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Leases that were removed, most of them done with.
    pub leases: i64,
    /// Deliveries whose outcome nobody will tell.
    pub deliveries: i64,
}

/// Ends up to 50 leases whose deliverer is gone, or which have expired. What they leave behind gets an
/// attempt of outcome `unknown` and is due again, at once the first time; or is a dead letter where no
/// attempt is left. `schedule` is in seconds, for endpoints that set none. Does nothing in the first ten
/// seconds of a PostgreSQL server.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn sweep(store: &Store, schedule: &[i32]) -> Result<Swept, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let statement = transaction.prepare_cached(SWEEP).await?;
    let class = i64::from(DELIVERER_LOCK);
    let row = transaction.query_one(&statement, &[&class, &SWEEP_GRACE.as_secs_f64(), &schedule]).await?;
    let dead: Vec<DeliveryId> = row.get(2);
    operational::emit_dead_letters(&transaction, &dead).await?;
    transaction.commit().await?;
    Ok(Swept { leases: row.get(0), deliveries: row.get(1) })
}
