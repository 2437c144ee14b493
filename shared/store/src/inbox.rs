//! Events that producers have emitted in their own transactions, waiting to be accepted.

use std::time::{Duration, Instant};

use postrider_domain::ids::ApplicationId;
use tokio_postgres::{Row, Statement};

use crate::DatabaseConfig;
use crate::snapshot::Snapshot;
use crate::sql::{self, Columns, FromRow, Sql};
use crate::{Dedicated, StoreError, connect_dedicated};

/// The channel on which producers notify.
const CHANNEL: &str = "postrider_inbox";

/// The lock of the session that empties the inbox. There is only one, so that events are accepted in the order in which
/// they were emitted.
const INBOX_LOCK: i64 = 0x706f_7374_0004;

/// The number of emissions that one statement finds.
const PAGE: i64 = 4_096;

/// How often all rows are searched, not only those that were committed since the last search.
const FULL_EVERY: Duration = Duration::from_secs(60);

/// The same while some emissions are known to have been left out.
const FULL_EVERY_WHILE_SHORT: Duration = Duration::from_secs(1);

/// The minimum time until the next full search, as a multiple of the duration of the last one.
const FULL_EASE: u32 = 20;

/// PostgreSQL ends a session that is silent for this long, so that another one can replace a session that hangs or is
/// cut off.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a session sends a ping while the events that it has taken are being accepted.
const BEAT: Duration = Duration::from_secs(2);

/// A session that empties the inbox.
pub struct Inbox {
    session: Dedicated,
    snapshot: Statement,
    find: Statement,
    read: Statement,
    finish: Statement,
    is_leader: bool,
    /// Emissions that were committed before this snapshot have been found.
    seen: Snapshot,
    /// When the next full search is due.
    next_full: Instant,
    /// The earliest time of the next full search, if one is wanted.
    next_full_while_short: Instant,
}

/// Identifies an emission. Emissions are accepted in this order: transactions in the order in which they started
/// writing, and the emissions of one transaction in the order of its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EmissionId {
    /// The transaction that emitted it.
    pub transaction: i64,
    /// The number of the emission within the transaction, in the order of the calls.
    pub number: i64,
}

/// An emission that was found, without its data.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The id of the emission.
    pub id: EmissionId,
    /// The application that the producer named, if it exists.
    pub application_id: Option<ApplicationId>,
    /// The size of its data as text, in bytes.
    pub bytes: u32,
}

/// An emitted event.
#[derive(Debug, Clone)]
pub struct Emitted {
    /// The id of the emission.
    pub id: EmissionId,
    /// The application that the producer named, if it exists.
    pub application_id: Option<ApplicationId>,
    /// The event type as the producer wrote it.
    pub event_type: String,
    /// The data as JSON text.
    pub data: String,
    /// The idempotency key as the producer wrote it.
    pub idempotency_key: String,
    /// True if Postrider itself emitted it. Producers cannot use its type.
    pub is_operational: bool,
}

/// Why an event cannot be accepted.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The id of the emission.
    pub id: EmissionId,
    /// The application, if it exists.
    pub application_id: Option<ApplicationId>,
    /// The stable code of the reason.
    pub code: String,
    /// The reason, in one sentence.
    pub detail: String,
    /// The invalid fields, as a JSON array of `{field, message}`.
    pub errors: String,
}

const LOCK: Sql = Sql::named(
    "-- inbox.lead
select pg_try_advisory_lock($1) as is_held",
);

const SNAPSHOT: Sql = Sql::named(
    "-- inbox.snapshot
select pg_current_snapshot()::text as snapshot",
);

/// Rows that were committed since the last search belong to transactions that were then either in progress ($1) or not
/// started (beyond $4). Only these parts of the index are read, however many dead rows are elsewhere. Rows that are not
/// committed at $6 with $7 open are left for the next search. Transactions from the future are those of another server,
/// from which the table was restored.
///
/// A uid may have belonged to another application when it was written.
const FIND: Sql = Sql::named(include_str!("sql/inbox.find.sql"));

const READ: Sql = Sql::named(
    "-- inbox.read
select i.transaction_id, i.id, k.application_id, i.event_type, i.data::text as data, i.idempotency_key, i.is_operational
from unnest($1::bigint[], $2::bigint[], $3::uuid[]) with ordinality as k (transaction_id, id, application_id, place)
join inbox i on i.transaction_id = k.transaction_id and i.id = k.id
order by k.place",
);

const FINISH: Sql = Sql::named(
    "-- inbox.finish
with done as (
    delete from inbox i
    using unnest($1::bigint[], $2::bigint[]) as a (transaction_id, id)
    where i.transaction_id = a.transaction_id and i.id = a.id
),
refused as (
    delete from inbox i
    using unnest($3::bigint[], $4::bigint[], $5::uuid[], $6::text[], $7::text[], $8::text[])
          as r (transaction_id, id, application_id, code, detail, errors)
    where i.transaction_id = r.transaction_id and i.id = r.id
    returning r.application_id, i.application, i.event_type, i.data, i.idempotency_key, r.code, r.detail, r.errors,
              i.emitted_at
)
insert into emit_rejections (
    application_id, application, event_type, data, idempotency_key, code, detail, errors, emitted_at
)
select application_id, application, event_type, data, idempotency_key, code, detail, errors::jsonb, emitted_at
from refused",
);

impl Inbox {
    /// Opens a session that is notified of emissions.
    ///
    /// # Errors
    /// [`StoreError`] if PostgreSQL cannot be reached.
    pub async fn open(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let session = connect_dedicated(config).await?;
        let silence = SILENCE.as_millis();
        session
            .client
            .batch_execute(&format!(
                "-- inbox.listen\nset idle_session_timeout = {silence}; listen {CHANNEL}"
            ))
            .await?;
        let snapshot = SNAPSHOT.prepare(&session.client).await?;
        let find = FIND.prepare(&session.client).await?;
        let read = READ.prepare(&session.client).await?;
        let finish = FINISH.prepare(&session.client).await?;
        let now = Instant::now();
        Ok(Self {
            session,
            snapshot,
            find,
            read,
            finish,
            is_leader: false,
            seen: Snapshot::NOTHING,
            next_full: now,
            next_full_while_short: now,
        })
    }

    /// Returns true if this session is the one that empties the inbox.
    ///
    /// # Errors
    /// [`StoreError`] if the statement fails. The session can then no longer be used.
    pub async fn lead(&mut self) -> Result<bool, StoreError> {
        if !self.is_leader {
            self.is_leader = LOCK.fetch_one(&self.session.client, &[&INBOX_LOCK]).await?.get("is_held");
        }
        Ok(self.is_leader)
    }

    /// Returns true if the next search must be a full one: the last one was long ago, or one is wanted because
    /// emissions were left out.
    #[must_use]
    pub fn is_full_due(&self, is_wanted: bool) -> bool {
        Instant::now() >= if is_wanted { self.next_full_while_short } else { self.next_full }
    }

    /// Finds the emissions that were committed since the last search, or all of them, in the order of [`EmissionId`].
    /// Anything that is not in the snapshot with which the search begins is left to the next one. A transaction is
    /// therefore found as a whole, and never after one that started when it was already committed.
    ///
    /// # Errors
    /// [`StoreError`] if a statement fails. The session can then no longer be used.
    pub async fn look(&mut self, is_full: bool, mut found: impl FnMut(Found)) -> Result<(), StoreError> {
        let began = Instant::now();
        let seen = if is_full { &Snapshot::NOTHING } else { &self.seen };
        let text: String = self.session.client.query_one(&self.snapshot, &[]).await?.get("snapshot");
        let until = Snapshot::parse(&text)
            .ok_or_else(|| StoreError::unreadable(format!("the snapshot `{text}`"), "its form is unknown"))?;
        let mut after = EmissionId { transaction: 0, number: 0 };
        loop {
            let rows = self.page(seen, &until, after).await?;
            for row in &rows {
                found(sql::read(row));
            }
            match rows.last() {
                Some(last) if rows.len() as i64 == PAGE => after = sql::read::<Found>(last).id,
                _ => break,
            }
        }
        self.seen = until;
        if is_full {
            let ease = began.elapsed() * FULL_EASE;
            self.next_full = Instant::now() + ease.max(FULL_EVERY);
            self.next_full_while_short = Instant::now() + ease.max(FULL_EVERY_WHILE_SHORT);
        }
        Ok(())
    }

    async fn page(
        &self,
        seen: &Snapshot,
        until: &Snapshot,
        after: EmissionId,
    ) -> Result<Vec<Row>, StoreError> {
        let late: Vec<i64> =
            seen.open.iter().copied().filter(|&transaction| transaction >= after.transaction).collect();
        let new = after.max(EmissionId { transaction: seen.next - 1, number: i64::MAX });
        let client = &self.session.client;
        Ok(client
            .query(
                &self.find,
                &[
                    &late,
                    &after.transaction,
                    &after.number,
                    &new.transaction,
                    &new.number,
                    &until.next,
                    &until.open,
                    &PAGE,
                ],
            )
            .await?)
    }

    /// Reads events that were found, in the given order. Events that were removed together with their application are
    /// left out. The rows stay in the inbox until [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`StoreError`] if the statement fails. The session can then no longer be used.
    pub async fn read(&self, emissions: &[Found]) -> Result<Vec<Emitted>, StoreError> {
        let (transactions, numbers) = columns(emissions.iter().map(|found| found.id));
        let applications: Vec<_> = emissions.iter().map(|found| found.application_id).collect();
        let client = &self.session.client;
        let rows = client.query(&self.read, &[&transactions, &numbers, &applications]).await?;
        Ok(rows.iter().map(sql::read).collect())
    }

    /// Runs `work` and keeps the session alive during it. `work` is dropped if the session is lost.
    ///
    /// # Errors
    /// [`StoreError`] if the session is lost.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let beat = async {
            loop {
                tokio::time::sleep(BEAT).await;
                if let Err(error) = self.session.ping().await {
                    return error;
                }
            }
        };
        tokio::select! {
            done = work => Ok(done),
            error = beat => Err(error),
        }
    }

    /// Ends a take: removes accepted emissions from the inbox, and moves refused ones to the list of rejections. All
    /// others stay.
    ///
    /// # Errors
    /// [`StoreError`] if PostgreSQL does not confirm it. All emissions may then still be in the inbox, and the next
    /// take finds that they were already accepted.
    pub async fn finish(&self, accepted: &[EmissionId], refused: &[Refusal]) -> Result<(), StoreError> {
        let (transactions, numbers) = columns(accepted.iter().copied());
        let (refused_transactions, refused_numbers) = columns(refused.iter().map(|refusal| refusal.id));
        let applications: Vec<_> = refused.iter().map(|refusal| refusal.application_id).collect();
        let codes: Vec<_> = refused.iter().map(|refusal| refusal.code.as_str()).collect();
        let details: Vec<_> = refused.iter().map(|refusal| refusal.detail.as_str()).collect();
        let errors: Vec<_> = refused.iter().map(|refusal| refusal.errors.as_str()).collect();
        let client = &self.session.client;
        client
            .execute(
                &self.finish,
                &[
                    &transactions,
                    &numbers,
                    &refused_transactions,
                    &refused_numbers,
                    &applications,
                    &codes,
                    &details,
                    &errors,
                ],
            )
            .await?;
        Ok(())
    }

    /// Waits until something is emitted, or `limit` has passed. Returns false if the session is lost.
    pub async fn wait(&mut self, limit: Duration) -> bool {
        match tokio::time::timeout(limit, self.session.messages.recv()).await {
            Ok(message) => message.is_some(),
            Err(_) => true,
        }
    }
}

fn columns(ids: impl Iterator<Item = EmissionId>) -> (Vec<i64>, Vec<i64>) {
    ids.map(|id| (id.transaction, id.number)).unzip()
}

fn emission_id(row: &mut Columns<'_>) -> EmissionId {
    EmissionId { transaction: row.get("transaction_id"), number: row.get("id") }
}

impl FromRow<'_> for Found {
    fn from_row(row: &mut Columns<'_>) -> Self {
        Self {
            id: emission_id(row),
            application_id: row.get("application_id"),
            bytes: row.get::<i32>("data_bytes").unsigned_abs(),
        }
    }
}

impl FromRow<'_> for Emitted {
    fn from_row(row: &mut Columns<'_>) -> Self {
        Self {
            id: emission_id(row),
            application_id: row.get("application_id"),
            event_type: row.get("event_type"),
            data: row.get("data"),
            idempotency_key: row.get("idempotency_key"),
            is_operational: row.get("is_operational"),
        }
    }
}
