//! After Redis has lost its memory: a new epoch, and everything open back into the outbox.

use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId, LeaseId};
use uuid::Uuid;

use crate::is_not_parked;
use crate::leases::Abandoned;
use crate::outbox::EPOCH_LOCK;
use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row};

/// Which memory of Redis PostgreSQL believes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Its number, which Redis must hold.
    pub number: i64,
    /// The run of Redis that held it.
    pub redis_run_id: String,
    /// True while open deliveries are still being put back.
    pub is_reconciling: bool,
}

from_row!(Epoch { number, redis_run_id, is_reconciling });

const READ: Sql = Sql::named(
    "-- queue_epoch.get
select epoch as number, redis_run_id, reconcile_cursor is not null as is_reconciling
from queue_epoch
where shard = 0",
);

/// Reads the epoch.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn read_epoch(store: &Store) -> Result<Epoch, StoreError> {
    let client = store.relaxed().await?;
    let row = READ.fetch_one(&client, &[]).await?;
    Ok(read(&row))
}

const ALLOW_WAITING: Sql = Sql::named(
    "-- queue_epoch.allow_waiting
select set_config('lock_timeout', '5s', true) as lock_timeout",
);

const LOCK: Sql = Sql::named("-- queue_epoch.lock\nselect pg_advisory_xact_lock($1) as locked");

const BEGIN: Sql = Sql::named(
    "-- queue_epoch.begin
update queue_epoch
set epoch = epoch + 1, redis_run_id = $1, reconcile_cursor = $2
where shard = 0 and epoch = $3 and redis_run_id = $4
returning epoch as number",
);

/// Begins a new epoch while no take is open anywhere: `seen` is what the caller found to disagree with
/// Redis, and `install` puts the new number into Redis. Where another relay was faster, nothing is done.
///
/// Dying in between leaves PostgreSQL and Redis in disagreement, and the next relay begins again.
///
/// # Errors
/// When PostgreSQL does not answer, or `install` fails.
pub async fn begin_epoch<E: From<StoreError>>(
    store: &Store,
    seen: &Epoch,
    redis_run_id: &str,
    install: impl AsyncFnOnce(i64) -> Result<(), E>,
) -> Result<(), E> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await.map_err(StoreError::from)?;
    // Every take is over in milliseconds, but several relays may keep the lock shared for a while.
    ALLOW_WAITING.execute(&transaction, &[]).await?;
    LOCK.execute(&transaction, &[&EPOCH_LOCK]).await?;
    let begun = BEGIN
        .fetch_optional(&transaction, &[&redis_run_id, &Uuid::nil(), &seen.number, &seen.redis_run_id])
        .await?;
    let Some(row) = begun else { return Ok(()) };
    install(row.get("number")).await?;
    transaction.commit().await.map_err(StoreError::from)?;
    Ok(())
}

const STEP: Sql = Sql::named(concat!(
    "-- deliveries.reconcile
with state as materialized (
    select reconcile_cursor from queue_epoch
    where shard = 0 and reconcile_cursor is not null
    for update
),
page as materialized (
    select d.id, d.endpoint_id, d.application_id, d.lease_id, d.next_retry_at
    from state s
    cross join lateral (
        select d.id, d.endpoint_id, d.application_id, d.lease_id, d.next_retry_at
        from deliveries d
        where d.completed_at is null and d.id > s.reconcile_cursor
        order by d.id
        limit $1
    ) d
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select p.id, p.endpoint_id, p.application_id
    from page p
    where p.lease_id is null and p.next_retry_at <= now()
      and ",
    is_not_parked!("p.application_id", "p.endpoint_id", "p.id"),
    "
    returning id
),
advanced as (
    update queue_epoch q
    set reconcile_cursor = (select id from page order by id desc limit 1)
    from state s
    where q.shard = 0
    returning q.reconcile_cursor
)
select (select count(*) from queued) as queued, (select reconcile_cursor is null from advanced) as is_done,
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n) as notifications"
));

/// Puts the next open deliveries that are due and not leased back into the outbox, `limit` at a time, and
/// answers how many there were, or `None` when all is done. Duplicates are harmless: they find their
/// delivery closed, leased or not due.
///
/// # Errors
/// When PostgreSQL does not answer; the step is then taken again.
pub async fn reconcile_step(store: &Store, limit: i64) -> Result<Option<i64>, StoreError> {
    let client = store.relaxed().await?;
    let row = STEP.fetch_one(&client, &[&limit]).await?;
    let is_done = row.get::<_, Option<bool>>("is_done").unwrap_or(true);
    Ok((!is_done).then(|| row.get("queued")))
}

/// An open delivery that has been due for a while and that nobody seems to work on.
#[derive(Debug, Clone, Copy)]
pub struct Overdue {
    /// Which.
    pub delivery_id: DeliveryId,
    /// Its endpoint.
    pub endpoint_id: EndpointId,
    /// Its application.
    pub application_id: ApplicationId,
}

from_row!(Overdue { delivery_id, endpoint_id, application_id });

/// What is parked is looked up by ranges of the index, not one by one: of a backlog everything is parked. A limit makes
/// PostgreSQL go by the index; what is beyond it is put into the outbox twice, which is harmless.
const OVERDUE: Sql = Sql::named(include_str!("sql/deliveries.overdue.sql"));

/// Open deliveries that nobody seems to work on.
#[derive(Debug, Default)]
pub struct Stranded {
    /// Due for more than a minute, and neither leased nor parked.
    pub overdue: Vec<Overdue>,
    /// Under a lease that is not there: nobody will sweep it.
    pub abandoned: Vec<Abandoned>,
}

/// Looks at the next `limit` open deliveries after `after`: which of them nobody seems to work on, and where to go on
/// (`None`: from the beginning).
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn find_stranded(
    store: &Store,
    after: Option<DeliveryId>,
    limit: i64,
) -> Result<(Stranded, Option<DeliveryId>), StoreError> {
    let client = store.relaxed().await?;
    let rows = OVERDUE.fetch_all(&client, &[&after.unwrap_or(DeliveryId(Uuid::nil())), &limit]).await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|length| length == limit);
    let last = rows.last().filter(|_| is_full).map(|row| row.get("delivery_id"));
    let overdue = rows.iter().filter(|row| row.get("is_overdue")).map(read).collect();
    let abandoned = rows
        .iter()
        .filter_map(|row| {
            Some(Abandoned {
                delivery_id: row.get("delivery_id"),
                lease_id: row.get::<_, Option<LeaseId>>("lost_lease_id")?,
                claimed_at: None,
            })
        })
        .collect();
    Ok((Stranded { overdue, abandoned }, last))
}

const REQUEUE: Sql = Sql::named(
    "-- outbox.requeue
with late as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select delivery_id, endpoint_id, application_id
    from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as r (delivery_id, endpoint_id, application_id)
)
insert into outbox (endpoint_id, application_id)
select endpoint_id, application_id
from unnest($4::uuid[], $5::uuid[]) as r (endpoint_id, application_id)",
);

/// Puts `lost` deliveries into the outbox again, and has the relay look over `endpoints`, so that what Redis has lost
/// of them is made again.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn requeue(
    store: &Store,
    lost: &[Overdue],
    endpoints: &[(ApplicationId, EndpointId)],
) -> Result<(), StoreError> {
    let client = store.relaxed().await?;
    let deliveries: Vec<_> = lost.iter().map(|row| row.delivery_id).collect();
    let of_deliveries: Vec<_> = lost.iter().map(|row| row.endpoint_id).collect();
    let their_applications: Vec<_> = lost.iter().map(|row| row.application_id).collect();
    let (applications, endpoints): (Vec<_>, Vec<_>) = endpoints.iter().copied().unzip();
    REQUEUE
        .execute(&client, &[&deliveries, &of_deliveries, &their_applications, &endpoints, &applications])
        .await?;
    Ok(())
}
