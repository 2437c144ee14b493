//! Which deliverer sends what: the registration of deliverers, and the sweep of leases whose deliverer is gone.

use std::time::Duration;

use chrono::{DateTime, Utc};
use postrider_domain::ids::{DelivererNumber, DeliveryId, LeaseId};
use tokio_postgres::Client;

use crate::bisect::Bisect;
use crate::page::id_bounds;
use crate::sql::Sql;
use crate::{Store, StoreError, expunge, operational};

/// After a start of PostgreSQL, deliverers have this long to reconnect and record what they have sent before their
/// leases count as abandoned.
pub const SWEEP_GRACE: Duration = Duration::from_secs(10);

/// A deliverer whose lock is free counts as gone after this long. If only its session was cut, it has reconnected by
/// then.
const LOST_AFTER: Duration = Duration::from_secs(4);

/// The `error_message` of an attempt whose outcome is unknown, and the `last_error` of its delivery. A late record
/// recognises by it that the delivery only ended because that record was missing.
pub(super) const VANISHED: &str = "the deliverer vanished before it recorded what happened";

const HOLD: Sql = Sql::named(
    "-- deliverers.hold
select pg_try_advisory_lock($1) as is_held",
);

const FOUND: Sql = Sql::named(
    "-- lost_deliverers.remove
delete from lost_deliverers where number = $1",
);

/// Ends an old session of the same deliverer. After a network failure it can live on at the server. No other deliverer
/// has this number.
const END_OLD_SESSION: Sql = Sql::named(
    "-- deliverers.end_old_session
select count(pg_terminate_backend(pid)) as ended
from pg_locks
where locktype = 'advisory' and objsubid = 1 and granted and pid <> pg_backend_pid()
  and (classid::bigint << 32) | objid::bigint = $1
  and database = (select oid from pg_database where datname = current_database())",
);

/// Registers the deliverer as alive for as long as this session lasts. Returns false if an old session of it still
/// holds the lock. That session was told to end.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn register(client: &Client, number: DelivererNumber) -> Result<bool, StoreError> {
    let is_held = HOLD.fetch_one(client, &[&number]).await?.get("is_held");
    let then = if is_held { FOUND } else { END_OLD_SESSION };
    then.execute(client, &[&number]).await?;
    Ok(is_held)
}

/// Records which deliverers have lost their lock, and forgets those that are back or have no lease left.
const FIND: Sql = Sql::named(include_str!("sql/leases.find_abandoned.sql"));

/// A claim whose outcome will never be recorded.
#[derive(Debug, Clone, Copy)]
pub struct Abandoned {
    /// The delivery that was claimed.
    pub delivery_id: DeliveryId,
    /// The lease of the claim.
    pub lease_id: LeaseId,
    /// When the claim was made, or `None` if the lease no longer exists.
    pub claimed_at: Option<DateTime<Utc>>,
}

/// Every claim leaves an attempt behind. This statement writes the last attempt of a delivery that is still under the
/// lease. If the delivery was taken away from the lease, for example by a cancellation, it writes the attempts that are
/// missing.
const ABANDON: Sql = Sql::named(include_str!("sql/deliveries.abandon.sql"));

/// The delay before leases are examined again that could not be ended completely.
pub const PUT_OFF: Duration = Duration::from_secs(5);

/// Leases that still hold a delivery, because its row was locked, are examined again after the others.
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

/// The result of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// The number of leases that were removed. Most of them were already settled.
    pub leases: u64,
    /// The number of deliveries whose outcome will never be recorded.
    pub deliveries: i64,
    /// The deliveries that could not be processed.
    pub failed: Vec<(DeliveryId, StoreError)>,
}

/// Ends up to 50 leases that have expired, or whose deliverer has been gone for some seconds. Their deliveries are
/// [abandoned](abandon). Locked ones are left for a later sweep. Does nothing in the first ten seconds after a start of
/// PostgreSQL.
///
/// # Errors
/// [`StoreError`] if a statement fails for reasons other than a single delivery.
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

/// Ends claims whose outcome will never be recorded. Each delivery gets an attempt with the outcome `unknown`. The
/// first time it is due again at once, later according to its schedule. If no attempt is left, it becomes a dead
/// letter. Locked deliveries are left alone. `schedule` is in seconds, for endpoints without one of their own. Returns
/// how many deliveries were changed, and those that could not be.
///
/// # Errors
/// [`StoreError`] if the statement fails for reasons other than a single delivery.
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
