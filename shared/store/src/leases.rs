//! Who sends what: a deliverer's registration, and the sweep of leases whose deliverer is gone.

use std::time::Duration;

use chrono::{DateTime, Utc};
use postrider_domain::ids::{DelivererNumber, DeliveryId, LeaseId};
use tokio_postgres::Client;

use crate::halves::Halves;
use crate::page::id_bounds;
use crate::{Store, StoreError, expunge, operational};

/// After PostgreSQL has started, deliverers have this long to come back and record what they have sent,
/// before their leases count as abandoned.
pub const SWEEP_GRACE: Duration = Duration::from_secs(10);

/// A deliverer whose lock is free counts as gone after this long: one whose session was merely cut is back by then.
const LOST_AFTER: Duration = Duration::from_secs(4);

/// What is said of an attempt of which nobody knows what came, and of its delivery. A late record recognises by it
/// that the delivery has ended for want of that record.
pub(super) const VANISHED: &str = "the deliverer vanished before it recorded what happened";

const HOLD: &str = "-- deliverers.hold
select pg_try_advisory_lock($1)";

const FOUND: &str = "-- lost_deliverers.remove
delete from lost_deliverers where number = $1";

/// A session that the network has lost lives on at the server. Nobody else has this number.
const END_OLD_SESSION: &str = "-- deliverers.end_old_session
select count(pg_terminate_backend(pid))
from pg_locks
where locktype = 'advisory' and objsubid = 1 and granted and pid <> pg_backend_pid()
  and (classid::bigint << 32) | objid::bigint = $1
  and database = (select oid from pg_database where datname = current_database())";

/// Says that the deliverer lives as long as this session does. False: an old session of it says so still, and was
/// told to end.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn register(client: &Client, number: DelivererNumber) -> Result<bool, StoreError> {
    let is_held = client.query_one(HOLD, &[&number]).await?.get(0);
    client.execute(if is_held { FOUND } else { END_OLD_SESSION }, &[&number]).await?;
    Ok(is_held)
}

/// Notes which deliverers have lost their lock, and forgets those that are back, or have no lease left.
const FIND: &str = "-- leases.find_abandoned
with alive as materialized (
    select distinct (classid::bigint << 32) | objid::bigint as number
    from pg_locks
    where locktype = 'advisory' and objsubid = 1 and granted
      and database = (select oid from pg_database where datname = current_database())
),
back as (
    delete from lost_deliverers
    where number = any (array(
        select number from lost_deliverers
        where number in (select number from alive) or number not in (select deliverer from leases)
        for update skip locked
    ))
),
lost as (
    insert into lost_deliverers (number)
    select distinct deliverer from leases where deliverer not in (select number from alive)
    on conflict do nothing
)
select id, claimed_at, delivery_ids
from leases
where pg_postmaster_start_time() < now() - make_interval(secs => $1)
  and (expires_at < now()
       or deliverer not in (select number from alive)
          and deliverer in (select number from lost_deliverers where since < now() - make_interval(secs => $2)))
order by expires_at, id
limit 50";

/// A claim whose outcome nobody will tell.
#[derive(Debug, Clone, Copy)]
pub struct Abandoned {
    /// Of which delivery.
    pub delivery_id: DeliveryId,
    /// Its lease.
    pub lease_id: LeaseId,
    /// When it was made; `None`: the lease is gone.
    pub claimed_at: Option<DateTime<Utc>>,
}

/// Every claim leaves an attempt behind: the last one of a delivery that is still under the lease, and those that
/// are missing of one that was taken from it, as a cancellation does.
const ABANDON: &str = "-- deliveries.abandon
with claim as materialized (
    select delivery_id, lease_id, coalesce(claimed_at, now()) as claimed_at
    from unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) as c (delivery_id, lease_id, claimed_at)
),
abandoned as materialized (
    select d.id, d.lease_id, d.event_id, d.endpoint_id, d.attempt_count, d.max_attempts
    from deliveries d
    where d.id = any ($1) and d.id between $4 and $5 and d.lease_id = any ($2)
    order by d.id
    for no key update skip locked
),
judged as materialized (
    select a.id, a.attempt_count, c.claimed_at,
           case
               when v.id is not null then 'cancelled'
               when a.attempt_count >= a.max_attempts then 'dead_letter'
               else 'failed'
           end as status,
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
    join claim c on c.delivery_id = a.id and c.lease_id = a.lease_id
    left join events v on v.id = a.event_id and v.expunged_at is not null
    left join endpoints e on e.id = a.endpoint_id
    cross join lateral (select coalesce(nullif(e.retry_schedule, '{}'), $6::integer[]) as schedule) s
),
taken_away as materialized (
    select d.id, n::smallint as attempt_number, c.claimed_at
    from claim c
    join deliveries d on d.id = c.delivery_id and d.id between $4 and $5 and d.lease_id is distinct from c.lease_id
    cross join lateral generate_series(1, d.attempt_count - (d.lease_id is not null)::integer) n
    where (
        select true from delivery_attempts a where a.delivery_id = d.id and a.attempt_number = n
    ) is null
),
attempted as (
    insert into delivery_attempts (delivery_id, attempt_number, outcome, error_message, created_at)
    select id, attempt_number, 'unknown', $8, claimed_at
    from (
        select id, attempt_count as attempt_number, claimed_at from judged
        union all
        select id, attempt_number, claimed_at from taken_away
    ) u
    where $7
    on conflict do nothing
),
moved as (
    update deliveries d
    set lease_id = null,
        status = j.status,
        next_retry_at = case when j.status = 'failed' then j.next_retry_at end,
        completed_at = case when j.status <> 'failed' then now() end,
        dead_at = case when j.status = 'dead_letter' then now() end,
        last_error = case when j.status = 'cancelled' then $9 else $8 end
    from judged j
    where d.id = j.id and d.id between $4 and $5
    returning d.id, d.endpoint_id, d.application_id, d.next_retry_at, d.position
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id, due_at)
    select id, endpoint_id, application_id, coalesce(next_retry_at, now()) from moved
    where next_retry_at is not null or position is not null
    returning id
)
select (select count(*) from moved),
       array(select id from judged where status = 'dead_letter'),
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n)";

/// When leases are looked at again of which something could not be dealt with.
pub const PUT_OFF: Duration = Duration::from_secs(5);

/// Leases of which something is still held, for its row was locked, are looked at again after the others.
const REMOVE: &str = "-- leases.remove
with locked as materialized (
    select l.id,
           (
               select true from deliveries d
               where d.id = any (l.delivery_ids) and d.lease_id = l.id
               limit 1
           ) is null as is_done
    from leases l
    where l.id = any ($1)
    order by l.id
    for update skip locked
),
put_off as (
    update leases
    set expires_at = now() + make_interval(secs => $2)
    where id = any (array(select id from locked where not is_done))
)
delete from leases where id = any (array(select id from locked where is_done))";

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Leases that were removed, most of them done with.
    pub leases: u64,
    /// Deliveries whose outcome nobody will tell.
    pub deliveries: i64,
    /// Deliveries that could not be dealt with.
    pub failed: Vec<(DeliveryId, StoreError)>,
}

/// Ends up to 50 leases that have expired, or whose deliverer has been gone for some seconds. What they leave
/// behind is [abandoned](abandon); what is locked is left for later. Does nothing in the first ten seconds of a
/// PostgreSQL server.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn sweep(store: &Store, schedule: &[i32]) -> Result<Swept, StoreError> {
    let client = store.relaxed().await?;
    let find = client.prepare_cached(FIND).await?;
    let rows = client.query(&find, &[&SWEEP_GRACE.as_secs_f64(), &LOST_AFTER.as_secs_f64()]).await?;
    drop(client);
    if rows.is_empty() {
        return Ok(Swept::default());
    }
    let mut swept = Swept::default();
    let mut leases: Vec<LeaseId> = Vec::with_capacity(rows.len());
    let mut claims = Vec::new();
    for row in &rows {
        let (lease_id, claimed_at) = (row.get(0), Some(row.get(1)));
        leases.push(lease_id);
        let of_lease = |delivery_id| Abandoned { delivery_id, lease_id, claimed_at };
        claims.extend(row.get::<_, Vec<DeliveryId>>(2).into_iter().map(of_lease));
    }
    (swept.deliveries, swept.failed) = abandon(store, &claims, schedule).await?;
    let client = store.durable().await?;
    let remove = client.prepare_cached(REMOVE).await?;
    swept.leases = client.execute(&remove, &[&leases, &PUT_OFF.as_secs_f64()]).await?;
    Ok(swept)
}

/// Ends claims whose outcome nobody will tell: each delivery gets an attempt of outcome `unknown` and is due again,
/// at once the first time; or is a dead letter where no attempt is left. One that is locked is left alone.
/// `schedule` is in seconds, for endpoints that set none. Answers how many deliveries were moved, and those that
/// could not be.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn abandon(
    store: &Store,
    claims: &[Abandoned],
    schedule: &[i32],
) -> Result<(i64, Vec<(DeliveryId, StoreError)>), StoreError> {
    let mut moved = 0;
    let mut halves = Halves::of(claims);
    while let Some(part) = halves.next() {
        match abandon_together(store, part, schedule, true).await {
            Ok(count) => moved += count,
            Err(error) => halves.split(part, error)?,
        }
    }
    let mut still = Vec::new();
    for (claim, error) in halves.failed {
        if !error.is_data_error() && !error.has_no_place_for_attempt() {
            still.push((claim.delivery_id, error));
            continue;
        }
        match abandon_together(store, &[*claim], schedule, false).await {
            Ok(count) => moved += count,
            Err(error) => still.push((claim.delivery_id, error)),
        }
    }
    Ok((moved, still))
}

async fn abandon_together(
    store: &Store,
    claims: &[Abandoned],
    schedule: &[i32],
    with_attempts: bool,
) -> Result<i64, StoreError> {
    let deliveries: Vec<_> = claims.iter().map(|claim| claim.delivery_id).collect();
    let leases: Vec<_> = claims.iter().map(|claim| claim.lease_id).collect();
    let claimed_at: Vec<_> = claims.iter().map(|claim| claim.claimed_at).collect();
    let (first, last) = id_bounds(&deliveries);
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let statement = transaction.prepare_cached(ABANDON).await?;
    let row = transaction
        .query_one(
            &statement,
            &[
                &deliveries,
                &leases,
                &claimed_at,
                &first,
                &last,
                &schedule,
                &with_attempts,
                &VANISHED,
                &expunge::REASON,
            ],
        )
        .await?;
    let dead: Vec<DeliveryId> = row.get(1);
    operational::emit_dead_letters(&transaction, &dead).await?;
    transaction.commit().await?;
    Ok(row.get(0))
}
