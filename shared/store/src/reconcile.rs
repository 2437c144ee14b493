//! What happens after Redis has lost its memory: a new epoch begins, and everything open is put into the outbox again.

use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId, LeaseId};
use uuid::Uuid;

use crate::is_not_parked;
use crate::leases::Abandoned;
use crate::outbox::EPOCH_LOCK;
use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row};

/// The contents of Redis that PostgreSQL relies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// The number of the epoch, which Redis must hold.
    pub number: i64,
    /// The id of the run of Redis that held it.
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
/// [`StoreError`] if the statement fails.
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

/// Begins a new epoch while no take is open anywhere. `seen` is the epoch that the caller found to disagree with Redis,
/// and `install` writes the new number to Redis. If another relay was faster, nothing is done.
///
/// A crash in between leaves PostgreSQL and Redis in disagreement, and the next relay begins again.
///
/// # Errors
/// [`StoreError`] if a statement fails, or the error of `install`.
pub async fn begin_epoch<E: From<StoreError>>(
    store: &Store,
    seen: &Epoch,
    redis_run_id: &str,
    install: impl AsyncFnOnce(i64) -> Result<(), E>,
) -> Result<(), E> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await.map_err(StoreError::from)?;
    // Every take ends within milliseconds, but several relays together may keep the shared lock held for a while.
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

/// Puts up to `limit` further open deliveries that are due and not leased into the outbox. Returns how many there were,
/// or `None` when all are done. Duplicates do no harm, because the claim finds their delivery closed, leased or not
/// due.
///
/// # Errors
/// [`StoreError`] if the statement fails. The step is then repeated.
pub async fn reconcile_step(store: &Store, limit: i64) -> Result<Option<i64>, StoreError> {
    let client = store.relaxed().await?;
    let row = STEP.fetch_one(&client, &[&limit]).await?;
    let is_done = row.get::<_, Option<bool>>("is_done").unwrap_or(true);
    Ok((!is_done).then(|| row.get("queued")))
}

/// An open delivery that has been due for a while, but is not being processed as far as PostgreSQL knows.
#[derive(Debug, Clone, Copy)]
pub struct Overdue {
    /// The overdue delivery.
    pub delivery_id: DeliveryId,
    /// The endpoint of the delivery.
    pub endpoint_id: EndpointId,
    /// The application of the delivery.
    pub application_id: ApplicationId,
}

from_row!(Overdue { delivery_id, endpoint_id, application_id });

/// Parked rows are looked up by ranges of the index instead of one by one, because in a backlog everything is parked.
/// The limit makes PostgreSQL use the index. Rows beyond it are put into the outbox twice, which does no harm.
const OVERDUE: Sql = Sql::named(include_str!("sql/deliveries.overdue.sql"));

/// Open deliveries that are not being processed as far as PostgreSQL knows.
#[derive(Debug, Default)]
pub struct Stranded {
    /// Deliveries that have been due for more than a minute, and are neither leased nor parked.
    pub overdue: Vec<Overdue>,
    /// Deliveries under a lease that does not exist, so that no sweep will end it.
    pub abandoned: Vec<Abandoned>,
}

/// Examines the next `limit` open deliveries after `after`. Returns those that are not being processed, and the
/// position to continue from. `None` means from the beginning.
///
/// # Errors
/// [`StoreError`] if the statement fails.
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

/// Puts `lost` deliveries into the outbox again, and makes the relay look at `endpoints`, so that the entries that
/// Redis has lost are restored.
///
/// # Errors
/// [`StoreError`] if the statement fails.
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
