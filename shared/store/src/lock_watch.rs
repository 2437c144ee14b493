//! Notices when a whole table is locked for long. Statements that meet such a lock fail after a moment and are retried,
//! which looks like inactivity. Therefore the health reports what they wait for.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider_runtime::every::{Next, Service, Step};
use postrider_runtime::health::Health;

use crate::sql::{self, Sql};
use crate::{Store, StoreError, from_row};

/// How often the locks are checked.
pub const CADENCE: Duration = Duration::from_secs(1);

/// A lock that lasts no longer than this is not reported.
const TOLERATED: Duration = Duration::from_secs(5);

/// The tables that a service needs.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// The tables that it writes to.
    pub written: &'static [&'static str],
    /// The tables that it reads.
    pub read: &'static [&'static str],
}

/// Locks that block writers of some tables, or readers of others. A lock that is itself waiting blocks all later
/// statements too. Of partitions, only those whose time is not over count.
const STRONG: Sql = Sql::named(
    "-- locks.strong
select l.virtualtransaction as transaction, c.relname::text as table, l.mode, l.granted as is_granted, l.pid as session
from pg_locks l
join pg_class c on c.oid = l.relation
cross join lateral (select regexp_replace(c.relname, '_until_[0-9]{8}$', '') as name) t
where l.locktype = 'relation'
  and l.database = (select oid from pg_database where datname = current_database())
  and c.relnamespace = (select relnamespace from pg_class where oid = 'events'::regclass)
  and (t.name = any ($1) and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
       or t.name = any ($2) and l.mode = 'AccessExclusiveLock')
  and (c.relname = t.name or right(c.relname, 8) >= to_char(now(), 'YYYYMMDD'))
order by not l.granted, c.relname <> t.name, c.relname
limit 100",
);

/// A lock on one of these tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TableLock {
    transaction: String,
    table: String,
    mode: String,
    is_granted: bool,
    /// `None` for a prepared transaction.
    session: Option<i32>,
}

from_row!(TableLock { transaction, table, mode, is_granted, session });

impl Display for TableLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, mode, .. } = self;
        match self.session {
            Some(session) => write!(f, "the session {session}")?,
            None => write!(f, "a prepared transaction")?,
        }
        match self.is_granted {
            true => write!(f, " locks the table {table} ({mode})"),
            false => write!(f, " waits to lock the table {table} ({mode}), and all others wait behind it"),
        }
    }
}

/// A task that checks for locks. Its part of the health is down while one of the tables has been locked for some
/// seconds.
pub struct LockWatch {
    store: Store,
    health: Health,
    part: &'static str,
    tables: Tables,
    /// The locks that were found last time, each with the time when it was first found.
    seen: HashMap<TableLock, Instant>,
}

impl LockWatch {
    /// Creates a task that watches `tables` for this `part` of the health.
    #[must_use]
    pub fn new(store: &Store, health: &Health, part: &'static str, tables: Tables) -> Self {
        Self { store: store.clone(), health: health.clone(), part, tables, seen: HashMap::new() }
    }

    async fn look(&mut self) -> Result<Next, StoreError> {
        let locks = strong(&self.store, self.tables).await?;
        let now = Instant::now();
        let since = |lock: &TableLock| self.seen.get(lock).copied().unwrap_or(now);
        match locks.iter().find(|lock| now.duration_since(since(lock)) >= TOLERATED) {
            Some(lock) => self.health.down(self.part, lock),
            None => self.health.up(self.part),
        }
        self.seen = locks.iter().map(|lock| (lock.clone(), since(lock))).collect();
        Ok(Next::Later)
    }
}

impl<S: Service<Error: From<StoreError>>> Step<S> for LockWatch {
    async fn run(&mut self, _: &Arc<S>) -> Result<Next, S::Error> {
        Ok(self.look().await?)
    }
}

async fn strong(store: &Store, Tables { written, read }: Tables) -> Result<Vec<TableLock>, StoreError> {
    let client = store.relaxed().await?;
    Ok(STRONG.fetch_all(&client, &[&written, &read]).await?.iter().map(sql::read).collect())
}
