//! The time partitions of events, deliveries and attempts: made ahead, and dropped when they are too old.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Client;

use super::StoreError;

/// Partitions are made until this far ahead.
pub const AHEAD: Duration = Duration::from_secs(7 * 86_400);

/// Keeps two relays from changing partitions at once.
const PARTITION_LOCK: i64 = 0x706f_7374_0003;

/// Rows that one step deletes.
const STEP: i64 = 5_000;

/// What one partition spans: a quarter of the retention, so that there are about six of each table, which
/// every statement has to plan for, and nothing is kept for longer than five quarters.
#[must_use]
pub fn width_days(retention_days: u32) -> u32 {
    (retention_days / 4).max(1)
}

/// True where this session may change partitions; it may until it ends.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn try_lock(client: &Client) -> Result<bool, StoreError> {
    Ok(client.query_one("select pg_try_advisory_lock($1)", &[&PARTITION_LOCK]).await?.get(0))
}

const REMAINING: &str = "-- partitions.remaining
select extract(epoch from coalesce(max(ends_at), now()) - now())::float8
from partitions
where parent = 'events'";

/// How long there are partitions for what is yet to come.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn remaining(client: &Client) -> Result<Duration, StoreError> {
    let seconds: f64 = client.query_one(REMAINING, &[]).await?.get(0);
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

const ADD: &str = "-- partitions.add
select add_partitions(
    (select date_trunc('day', greatest(max(ends_at), now()), 'UTC') from partitions where parent = 'events')
    + make_interval(days => $1)
)";

/// Adds the next partition to each table.
///
/// # Errors
/// When PostgreSQL does not answer, or a table is locked.
pub async fn add(client: &Client, width_days: u32) -> Result<(), StoreError> {
    client.execute(ADD, &[&width_days.cast_signed()]).await?;
    Ok(())
}

/// A partition whose time is over.
#[derive(Debug, Clone)]
pub struct Expired {
    /// The table that it is a part of.
    pub parent: String,
    /// Its own name.
    pub name: String,
    /// What was made before this, it may hold.
    pub ends_at: DateTime<Utc>,
    /// True where an earlier detachment was interrupted.
    pub is_detaching: bool,
}

const EXPIRED: &str = "-- partitions.expired
select parent, name, ends_at, is_detaching
from partitions
where is_detaching or ends_at < now() - make_interval(days => $1)
order by ends_at, parent <> 'deliveries', parent";

/// The partitions of what was made more than `retention_days` ago, oldest first, and of one time those of deliveries
/// first.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn expired(client: &Client, retention_days: u32) -> Result<Vec<Expired>, StoreError> {
    let rows = client.query(EXPIRED, &[&retention_days.cast_signed()]).await?;
    let expired = |row: &tokio_postgres::Row| Expired {
        parent: row.get(0),
        name: row.get(1),
        ends_at: row.get(2),
        is_detaching: row.get(3),
    };
    Ok(rows.iter().map(expired).collect())
}

/// Detaches a partition without locking writers out, and drops it. What was interrupted is done by the
/// next call, or by [`orphans`].
///
/// # Errors
/// When PostgreSQL does not answer, or a statement that reads the partition does not end in time.
pub async fn drop(
    client: &Client,
    Expired { parent, name, is_detaching, .. }: &Expired,
) -> Result<(), StoreError> {
    let how = if *is_detaching { "finalize" } else { "concurrently" };
    client.batch_execute(&format!("alter table {parent} detach partition {name} {how}")).await?;
    drop_detached(client, name).await
}

const ORPHANS: &str = "-- partitions.orphans
select c.relname::text
from pg_class c
where c.relname ~ '^(events|deliveries|delivery_attempts)_until_[0-9]{8}$'
  and c.relkind = 'r'
  and c.relnamespace = (select relnamespace from pg_class where oid = 'events'::regclass)
  and not exists (select from pg_inherits i where i.inhrelid = c.oid)";

/// Partitions that were detached and not dropped.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn orphans(client: &Client) -> Result<Vec<String>, StoreError> {
    Ok(client.query(ORPHANS, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Drops a partition that was detached.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn drop_detached(client: &Client, name: &str) -> Result<(), StoreError> {
    Ok(client.batch_execute(&format!("drop table if exists {name}")).await?)
}

const FORGET_KEYS: &str = "-- idempotency_keys.forget
delete from idempotency_keys
where ctid = any (array(
    select k.ctid
    from idempotency_keys k
    where k.event_id < (select first_id(min(starts_at)) from partitions where parent = 'events'
                        having count(*) = count(starts_at))
    limit $1
    for update of k skip locked
))";

/// Deletes some of the idempotency keys whose events have been dropped, and answers how many; 0: all are
/// gone.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn forget_keys(client: &Client) -> Result<u64, StoreError> {
    Ok(client.execute(FORGET_KEYS, &[&STEP]).await?)
}

const FORGET_PARKED: &str = "-- outbox.forget
delete from outbox
where id = any (array(
    select o.id
    from outbox o
    where o.parked
      and o.delivery_id < (select first_id(min(starts_at)) from partitions where parent = 'deliveries'
                           having count(*) = count(starts_at))
    limit $1
    for update of o skip locked
))";

/// Deletes some of the parked rows whose deliveries have been dropped, and answers how many.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn forget_parked(client: &Client) -> Result<u64, StoreError> {
    Ok(client.execute(FORGET_PARKED, &[&STEP]).await?)
}
