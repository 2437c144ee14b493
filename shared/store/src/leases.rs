//! Who sends what: a deliverer's registration, and the sweep of leases whose deliverer is gone.

use std::time::Duration;

use chrono::{DateTime, Utc};
use postrider_domain::ids::{DelivererNumber, DeliveryId, LeaseId};
use tokio_postgres::Client;

use crate::bisect::Bisect;
use crate::page::id_bounds;
use crate::sql::Sql;
use crate::{Store, StoreError, expunge, operational};

/// After PostgreSQL has started, deliverers have this long to come back and record what they have sent,
/// before their leases count as abandoned.
pub const SWEEP_GRACE: Duration = Duration::from_secs(10);

/// A deliverer whose lock is free counts as gone after this long: one whose session was merely cut is back by then.
const LOST_AFTER: Duration = Duration::from_secs(4);

/// What is said of an attempt of which nobody knows what came, and of its delivery. A late record recognises by it
/// that the delivery has ended for want of that record.
pub(super) const VANISHED: &str = "the deliverer vanished before it recorded what happened";

const HOLD: Sql = Sql::named(
    "-- deliverers.hold
select pg_try_advisory_lock($1) as is_held",
);

const FOUND: Sql = Sql::named(
    "-- lost_deliverers.remove
delete from lost_deliverers where number = $1",
);

/// A session that the network has lost lives on at the server. Nobody else has this number.
const END_OLD_SESSION: Sql = Sql::named(
    "-- deliverers.end_old_session
select count(pg_terminate_backend(pid)) as ended
from pg_locks
where locktype = 'advisory' and objsubid = 1 and granted and pid <> pg_backend_pid()
  and (classid::bigint << 32) | objid::bigint = $1
  and database = (select oid from pg_database where datname = current_database())",
);

/// Says that the deliverer lives as long as this session does. False: an old session of it says so still, and was
/// told to end.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn register(client: &Client, number: DelivererNumber) -> Result<bool, StoreError> {
    let is_held = HOLD.fetch_one(client, &[&number]).await?.get("is_held");
    let then = if is_held { FOUND } else { END_OLD_SESSION };
    then.execute(client, &[&number]).await?;
    Ok(is_held)
}

/// Notes which deliverers have lost their lock, and forgets those that are back, or have no lease left.
const FIND: Sql = Sql::named(include_str!("sql/leases.find_abandoned.sql"));

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
const ABANDON: Sql = Sql::named(include_str!("sql/deliveries.abandon.sql"));

/// When leases are looked at again of which something could not be dealt with.
pub const PUT_OFF: Duration = Duration::from_secs(5);

/// Leases of which something is still held, for its row was locked, are looked at again after the others.
const REMOVE: Sql = Sql::named(
    "-- leases.remove
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
delete from leases where id = any (array(select id from locked where is_done))",
);

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
    let rows = FIND.fetch_all(&client, &[&SWEEP_GRACE.as_secs_f64(), &LOST_AFTER.as_secs_f64()]).await?;
    drop(client);
    if rows.is_empty() {
        return Ok(Swept::default());
    }
    let mut swept = Swept::default();
    let mut leases: Vec<LeaseId> = Vec::with_capacity(rows.len());
    let mut claims = Vec::new();
    for row in &rows {
        let (lease_id, claimed_at) = (row.get("id"), Some(row.get("claimed_at")));
        leases.push(lease_id);
        let of_lease = |delivery_id| Abandoned { delivery_id, lease_id, claimed_at };
        claims.extend(row.get::<_, Vec<DeliveryId>>("delivery_ids").into_iter().map(of_lease));
    }
    (swept.deliveries, swept.failed) = abandon(store, &claims, schedule).await?;
    let client = store.durable().await?;
    swept.leases = REMOVE.execute(&client, &[&leases, &PUT_OFF.as_secs_f64()]).await?;
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
    let mut bisect = Bisect::of(claims.to_vec());
    while let Some(part) = bisect.next() {
        match abandon_together(store, &part, schedule, true).await {
            Ok(count) => moved += count,
            Err(error) => bisect.split(part, error)?,
        }
    }
    let mut still = Vec::new();
    for (claim, error) in bisect.culprits {
        if !error.is_data_error() && !error.has_no_place_for_attempt() {
            still.push((claim.delivery_id, error));
            continue;
        }
        match abandon_together(store, &[claim], schedule, false).await {
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
    let row = ABANDON
        .fetch_one(
            &transaction,
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
    let dead: Vec<DeliveryId> = row.get("dead");
    operational::emit_dead_letters(&transaction, &dead).await?;
    transaction.commit().await?;
    Ok(row.get("moved"))
}
