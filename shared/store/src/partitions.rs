//! The time partitions of events, deliveries and attempts: created in advance, and dropped when they are too old.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Client;

use crate::sql::{Columns, FromRow, Sql, read};
use crate::{StoreError, from_row};

/// How far in advance partitions are created.
pub const AHEAD: Duration = Duration::from_secs(7 * 86_400);

/// The advisory lock that keeps two relays from changing partitions at the same time.
const PARTITION_LOCK: i64 = 0x706f_7374_0003;

/// The number of rows that one step deletes.
const STEP: i64 = 5_000;

/// Returns the width of a partition: a quarter of the retention period. Each table then has about six partitions, which
/// every statement must plan for, and nothing is kept longer than five quarters of the period.
#[must_use]
pub fn width_days(retention_days: u32) -> u32 {
    (retention_days / 4).max(1)
}

const LOCK: Sql = Sql::named("-- partitions.lock\nselect pg_try_advisory_lock($1) as is_held");

/// Returns true if this session may change partitions, until it ends.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn try_lock(client: &Client) -> Result<bool, StoreError> {
    Ok(LOCK.fetch_one(client, &[&PARTITION_LOCK]).await?.get("is_held"))
}

const HOLES: Sql = Sql::named(
    "-- partitions.holes
with known as (
    select parent, starts_at, ends_at, lag(ends_at) over (partition by parent order by ends_at) as previous_ends_at
    from partitions
    where not is_detaching
),
hole as (
    select parent, previous_ends_at as starts_at, starts_at as ends_at
    from known
    where starts_at > coalesce(previous_ends_at, '-infinity') and starts_at > now()
    union all
    select t.parent, max(k.ends_at), null
    from (values ('events'), ('deliveries'), ('delivery_attempts')) t (parent)
    left join known k on k.parent = t.parent
    group by t.parent
)
select parent, starts_at, ends_at, extract(epoch from greatest(starts_at, now()) - now())::float8 as in_seconds
from hole
order by greatest(starts_at, now()), parent",
);

/// A period, now or in the future, for which a table has no partition.
#[derive(Debug)]
pub struct Hole {
    /// The partitioned table.
    pub parent: String,
    /// The start, or `None` if the table has no partition for any earlier time.
    pub starts_at: Option<DateTime<Utc>>,
    /// The end, or `None` if the table has no partition for any later time.
    pub ends_at: Option<DateTime<Utc>>,
    /// The time until rows are refused, or zero if they are refused now.
    pub in_time: Duration,
}

impl FromRow<'_> for Hole {
    fn from_row(row: &mut Columns<'_>) -> Self {
        Self {
            parent: row.get("parent"),
            starts_at: row.get("starts_at"),
            ends_at: row.get("ends_at"),
            in_time: Duration::try_from_secs_f64(row.get("in_seconds")).unwrap_or_default(),
        }
    }
}

/// Returns the holes of all three tables, the most urgent first. There is always one at the end of each table.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn holes(client: &Client) -> Result<Vec<Hole>, StoreError> {
    let rows = HOLES.fetch_all(client, &[]).await?;
    Ok(rows.iter().map(read).collect())
}

const FILL: Sql = Sql::named(
    "-- partitions.fill
select add_partition(
    $1,
    $2::timestamptz,
    coalesce($3, date_trunc('day', greatest($2, now()), 'UTC') + make_interval(days => $4))
) as added",
);

/// Adds a partition for the period of a hole. At the end of a table it spans `width_days`.
///
/// # Errors
/// [`StoreError`] if the statement fails, for example because the table is locked.
pub async fn fill(client: &Client, hole: &Hole, width_days: u32) -> Result<(), StoreError> {
    let Hole { parent, starts_at, ends_at, .. } = hole;
    FILL.execute(client, &[parent, starts_at, ends_at, &width_days.cast_signed()]).await?;
    Ok(())
}

/// A partition that is older than the retention period.
#[derive(Debug, Clone)]
pub struct Expired {
    /// The table that it belongs to.
    pub parent: String,
    /// The name of the partition.
    pub name: String,
    /// The end of its period. It only contains rows that were created before this.
    pub ends_at: DateTime<Utc>,
    /// True if an earlier detachment was interrupted.
    pub is_detaching: bool,
}

from_row!(Expired { parent, name, ends_at, is_detaching });

/// SQL: the time before which everything is older than the retention period.
macro_rules! oldest {
    ($days:literal) => {
        concat!("now() - make_interval(days => ", $days, ")")
    };
}

const EXPIRED: Sql = Sql::named(concat!(
    "-- partitions.expired
select parent, quote_ident(name) as name, ends_at, is_detaching
from partitions
where ends_at < ",
    oldest!("$1"),
    "
order by ends_at, parent <> 'deliveries', parent"
));

/// Returns the partitions of everything that was created more than `retention_days` ago, oldest first. Among those of
/// the same period, deliveries come first.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn expired(client: &Client, retention_days: u32) -> Result<Vec<Expired>, StoreError> {
    let rows = EXPIRED.fetch_all(client, &[&retention_days.cast_signed()]).await?;
    Ok(rows.iter().map(read).collect())
}

/// Detaches a partition without blocking writers, and drops it. The next call completes an interrupted detachment. A
/// partition that was detached but not dropped is found by [`detached`].
///
/// # Errors
/// [`StoreError`] if a statement fails, for example because a statement that reads the partition does not end in time.
pub async fn drop(
    client: &Client,
    Expired { parent, name, is_detaching, .. }: &Expired,
) -> Result<(), StoreError> {
    let how = if *is_detaching { "finalize" } else { "concurrently" };
    client
        .batch_execute(&format!("-- partitions.detach\nalter table {parent} detach partition {name} {how}"))
        .await?;
    drop_detached(client, name).await
}

/// A table that was a partition, judging by its name, or that is being detached.
#[derive(Debug)]
pub struct Detached {
    /// The table that it belonged to.
    pub parent: String,
    /// The name of the table.
    pub name: String,
    /// The end of its period. It only contains rows that were created before this.
    pub ends_at: DateTime<Utc>,
    /// True if all its rows are older than the retention period.
    pub is_expired: bool,
    /// True if it is still a partition.
    pub is_detaching: bool,
}

from_row!(Detached { parent, name, ends_at, is_expired, is_detaching });

impl Detached {
    /// Returns true if it was the partition for the period of this hole, or for a part of it.
    #[must_use]
    pub fn leaves(&self, hole: &Hole) -> bool {
        self.parent == hole.parent
            && hole.starts_at.is_none_or(|start| start < self.ends_at)
            && hole.ends_at.is_none_or(|end| self.ends_at <= end)
    }
}

/// The date in the name is the day before which the partition ends, in UTC. A date that does not exist, such as
/// February 30, counts as a later one.
const DETACHED: Sql = Sql::named(concat!(
    "-- partitions.detached
select parent, quote_ident(name) as name, ends_at, ends_at < ",
    oldest!("$1"),
    " as is_expired, is_detaching
from (
    select substring(c.relname from '^(.*)_until_') as parent, c.relname::text as name,
           make_timestamptz(left(d.date, 4)::integer, 1, 1, 0, 0, 0, 'UTC')
           + make_interval(months => substring(d.date from 5 for 2)::integer - 1,
                           days => right(d.date, 2)::integer - 1) as ends_at,
           false as is_detaching
    from pg_class c
    cross join lateral (select right(c.relname, 8)) d (date)
    where c.relname ~ '^(events|deliveries|delivery_attempts)_until_[1-9][0-9]{3}(0[1-9]|1[0-2])[0-3][0-9]$'
      and c.relkind = 'r'
      and c.relnamespace = (select relnamespace from pg_class where oid = 'events'::regclass)
      and not exists (select from pg_inherits i where i.inhrelid = c.oid)
    union all
    select parent, name, ends_at, true from partitions where is_detaching
) t
order by ends_at, parent"
));

/// Returns tables that were partitions, or are being detached, oldest first.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn detached(client: &Client, retention_days: u32) -> Result<Vec<Detached>, StoreError> {
    let rows = DETACHED.fetch_all(client, &[&retention_days.cast_signed()]).await?;
    Ok(rows.iter().map(read).collect())
}

/// Drops a detached partition.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn drop_detached(client: &Client, name: &str) -> Result<(), StoreError> {
    client.batch_execute(&format!("-- partitions.drop\ndrop table if exists {name}")).await?;
    tracing::info!(partition = name, "dropped a partition that is older than the retention period");
    Ok(())
}

/// SQL: everything that was created before this has been dropped. It is at least the retention period ago, because a
/// partition that is only detached may be attached again.
macro_rules! dropped_before {
    ($parent:literal, $days:literal) => {
        concat!(
            "(select first_id(least(min(starts_at), ",
            oldest!($days),
            ")) from partitions where parent = '",
            $parent,
            "'\n                        having count(*) = count(starts_at))"
        )
    };
}

const FORGET_KEYS: Sql = Sql::named(concat!(
    "-- idempotency_keys.forget
delete from idempotency_keys
where ctid = any (array(
    select k.ctid
    from idempotency_keys k
    where k.event_id < ",
    dropped_before!("events", "$2"),
    "
    limit $1
    for update of k skip locked
))"
));

/// Deletes some of the idempotency keys whose events have been dropped. Returns how many it deleted, or 0 if none was
/// left.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn forget_keys(client: &Client, retention_days: u32) -> Result<u64, StoreError> {
    FORGET_KEYS.execute(client, &[&STEP, &retention_days.cast_signed()]).await
}

const FORGET_PARKED: Sql = Sql::named(concat!(
    "-- outbox.forget
delete from outbox
where id = any (array(
    select o.id
    from outbox o
    where o.parked
      and o.delivery_id < ",
    dropped_before!("deliveries", "$2"),
    "
    limit $1
    for update of o skip locked
))"
));

/// Deletes some of the parked rows whose deliveries have been dropped. Returns how many it deleted.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn forget_parked(client: &Client, retention_days: u32) -> Result<u64, StoreError> {
    FORGET_PARKED.execute(client, &[&STEP, &retention_days.cast_signed()]).await
}
