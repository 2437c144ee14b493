//! Events that producers have emitted in transactions of their own, on their way to being accepted.

use std::time::{Duration, Instant};

use postrider_domain::ids::ApplicationId;
use tokio_postgres::{Row, Statement};

use crate::DatabaseConfig;
use crate::snapshot::Snapshot;
use crate::sql::{self, Columns, FromRow, Sql};
use crate::{Dedicated, StoreError, connect_dedicated};

/// The channel on which producers notify.
const CHANNEL: &str = "postrider_inbox";

/// Held by the one who empties the inbox: what was emitted first is accepted first.
const INBOX_LOCK: i64 = 0x706f_7374_0004;

/// Emissions that are found by one statement.
const PAGE: i64 = 4_096;

/// How often everything is looked at, and not only what has been committed since the last look.
const FULL_EVERY: Duration = Duration::from_secs(60);

/// The same while some are known to have been left out.
const FULL_EVERY_WHILE_SHORT: Duration = Duration::from_secs(1);

/// A look at everything is not repeated before this many times as long as it has taken.
const FULL_EASE: u32 = 20;

/// A session that says nothing for this long is ended by PostgreSQL: whoever stands still, or was cut off, is
/// followed by another.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a session says something while what it has taken is being accepted.
const BEAT: Duration = Duration::from_secs(2);

/// A session that empties the inbox.
pub struct Inbox {
    session: Dedicated,
    snapshot: Statement,
    find: Statement,
    read: Statement,
    finish: Statement,
    is_leader: bool,
    /// What was committed before this has been found.
    seen: Snapshot,
    /// When the next look at everything is due.
    next_full: Instant,
    /// From when on it may be, where one is wanted.
    next_full_while_short: Instant,
}

/// Names an emission. In this order they are accepted: transactions as they began to write, and what one transaction has
/// emitted in the order of its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EmissionId {
    /// The transaction that has emitted it.
    pub transaction: i64,
    /// Which one of those of the transaction.
    pub number: i64,
}

/// An emission that was found, without the event.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Which one it is.
    pub id: EmissionId,
    /// The application that was named, where there is one.
    pub application_id: Option<ApplicationId>,
    /// What its data takes as text.
    pub bytes: u32,
}

/// An event that was emitted.
#[derive(Debug, Clone)]
pub struct Emitted {
    /// Which emission it is.
    pub id: EmissionId,
    /// The application that was named, where there is one.
    pub application_id: Option<ApplicationId>,
    /// As the producer wrote it.
    pub event_type: String,
    /// JSON as text.
    pub data: String,
    /// As the producer wrote it.
    pub idempotency_key: String,
    /// Postrider itself emitted it: its type is one that producers cannot use.
    pub is_operational: bool,
}

/// Why an event cannot be accepted.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Which emission it was.
    pub id: EmissionId,
    /// The application, where there is one.
    pub application_id: Option<ApplicationId>,
    /// The stable name of the reason.
    pub code: String,
    /// The reason, in a sentence.
    pub detail: String,
    /// The fields that are at fault, as a JSON array of `{field, message}`.
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

/// What was committed since the last look was at that time either under way ($1) or not begun (beyond $4): only these parts
/// of the index are read, whatever dead rows are elsewhere. The next look has what was not committed at $6 with $7 open.
/// Transactions from the future are those of another server, from which the table was restored.
///
/// A uid may have been another application's when it was written.
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
    /// Opens a session that hears of what is emitted.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
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

    /// True where this session empties the inbox, and no other.
    ///
    /// # Errors
    /// When PostgreSQL does not answer: the session is of no use any more.
    pub async fn lead(&mut self) -> Result<bool, StoreError> {
        if !self.is_leader {
            self.is_leader = LOCK.fetch_one(&self.session.client, &[&INBOX_LOCK]).await?.get("is_held");
        }
        Ok(self.is_leader)
    }

    /// True where the next look is at everything: one was long ago, or it is wanted because some were left out.
    #[must_use]
    pub fn is_full_due(&self, is_wanted: bool) -> bool {
        Instant::now() >= if is_wanted { self.next_full_while_short } else { self.next_full }
    }

    /// Finds what was committed since the last look, or everything, in the order of [`EmissionId`]. Whatever is not in the
    /// snapshot that a look begins with is left to the next one, so that a transaction is found as a whole, and never
    /// after one that began when it was committed.
    ///
    /// # Errors
    /// When PostgreSQL does not answer: the session is of no use any more.
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

    /// Reads events that were found, in the order given; not those that have gone with their application. They stay until
    /// they are [finished](Self::finish).
    ///
    /// # Errors
    /// When PostgreSQL does not answer: the session is of no use any more.
    pub async fn read(&self, emissions: &[Found]) -> Result<Vec<Emitted>, StoreError> {
        let (transactions, numbers) = columns(emissions.iter().map(|found| found.id));
        let applications: Vec<_> = emissions.iter().map(|found| found.application_id).collect();
        let client = &self.session.client;
        let rows = client.query(&self.read, &[&transactions, &numbers, &applications]).await?;
        Ok(rows.iter().map(sql::read).collect())
    }

    /// Keeps the session alive for as long as `work` takes, which ends with it.
    ///
    /// # Errors
    /// When the session is lost.
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

    /// Ends a take: what was accepted is gone from the inbox, what was refused is in the list of rejections, and
    /// the rest is there still.
    ///
    /// # Errors
    /// When PostgreSQL does not confirm: all of it may be there, and be found to be accepted already.
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

    /// Waits until something was emitted, or `limit` has passed. False: the session is lost.
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
