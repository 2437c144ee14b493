//! Events that producers have emitted in transactions of their own, on their way to being accepted.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_postgres::Statement;
use uuid::Uuid;

use super::page::Page;
use super::{Dedicated, Store, StoreError, connect_dedicated};
use crate::config::DatabaseConfig;
use crate::ids::{ApplicationId, EmitRejectionId};

/// The channel on which producers notify.
const CHANNEL: &str = "postrider_inbox";

/// Held by the one who empties the inbox: what was emitted first is accepted first.
const INBOX_LOCK: i64 = 0x706f_7374_0004;

/// Events that are taken at once.
const LIMIT: i64 = 64;

/// How often everything is looked at, and not only what is newer than what was seen: a transaction that was
/// open for long commits a row with an old number.
const FULL_EVERY: Duration = Duration::from_secs(1);

/// The same while there is always something newer.
const FULL_EVERY_WHEN_BUSY: Duration = Duration::from_secs(10);

/// A session that says nothing for this long is ended by PostgreSQL: whoever stands still, or was cut off, is
/// followed by another.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a session says something while what it has taken is being accepted.
const BEAT: Duration = Duration::from_secs(2);

/// A session that empties the inbox.
pub struct Inbox {
    session: Dedicated,
    take: Statement,
    finish: Statement,
    is_leader: bool,
    /// What is older was seen; dead rows before it need not be passed again and again.
    seen: i64,
    has_seen_all: bool,
    looked_at_all: Option<Instant>,
    /// Something that they have emitted earlier has to wait: what they have emitted since then waits too.
    held: HashSet<ApplicationId>,
}

/// An event that was emitted.
#[derive(Debug, Clone)]
pub struct Emitted {
    /// The number of the emission.
    pub number: i64,
    /// The application that was named, where there is one.
    pub application_id: Option<ApplicationId>,
    /// As the producer wrote it.
    pub event_type: String,
    /// JSON as text.
    pub data: String,
    /// As the producer wrote it.
    pub idempotency_key: String,
}

/// Why an event cannot be accepted.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The number of the emission.
    pub number: i64,
    /// The application, where there is one.
    pub application_id: Option<ApplicationId>,
    /// The stable name of the reason.
    pub code: String,
    /// The reason, in a sentence.
    pub detail: String,
    /// The fields that are at fault, as a JSON array of `{field, message}`.
    pub errors: String,
}

const LOCK: &str = "-- inbox.lead
select pg_try_advisory_lock($1)";

/// A uid may have been another application's when it was written.
const TAKE: &str = "-- inbox.take
select i.id, coalesce(by_id.id, by_uid.id), i.event_type, i.data::text, i.idempotency_key
from (
    select id, application, event_type, data, idempotency_key, emitted_at,
           case
               when application ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then application::uuid
           end as application_id
    from inbox
    where id > $1
    order by id
    limit $2
) i
left join lateral (
    select a.id from applications a where a.id = i.application_id and a.deleted_at is null limit 1
) by_id on true
left join lateral (
    select a.id
    from applications a
    where a.uid = i.application and a.deleted_at is null and a.created_at <= i.emitted_at
    limit 1
) by_uid on true
order by i.id";

const FINISH: &str = "-- inbox.finish
with done as (
    delete from inbox where id = any ($1)
),
refused as (
    delete from inbox i
    using unnest($2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[])
          as r (id, application_id, code, detail, errors)
    where i.id = r.id
    returning r.application_id, i.application, i.event_type, i.data, i.idempotency_key, r.code, r.detail, r.errors,
              i.emitted_at
)
insert into emit_rejections (
    application_id, application, event_type, data, idempotency_key, code, detail, errors, emitted_at
)
select application_id, application, event_type, data, idempotency_key, code, detail, errors::jsonb, emitted_at
from refused";

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
            .batch_execute(&format!("set idle_session_timeout = {silence}; listen {CHANNEL}"))
            .await?;
        let take = session.client.prepare(TAKE).await?;
        let finish = session.client.prepare(FINISH).await?;
        Ok(Self {
            session,
            take,
            finish,
            is_leader: false,
            seen: 0,
            has_seen_all: true,
            looked_at_all: None,
            held: HashSet::new(),
        })
    }

    /// The next events that were emitted, in that order; none where another session empties the inbox. They stay
    /// until they are [finished](Self::finish).
    ///
    /// # Errors
    /// When PostgreSQL does not answer: the session is of no use any more.
    pub async fn take(&mut self) -> Result<Vec<Emitted>, StoreError> {
        let client = &self.session.client;
        if !self.is_leader {
            self.is_leader = client.query_one(LOCK, &[&INBOX_LOCK]).await?.get(0);
            if !self.is_leader {
                return Ok(Vec::new());
            }
        }
        let full_every = if self.has_seen_all { FULL_EVERY } else { FULL_EVERY_WHEN_BUSY };
        if self.looked_at_all.is_none_or(|at| at.elapsed() >= full_every) {
            self.seen = 0;
            self.looked_at_all = Some(Instant::now());
            self.held.clear();
        }
        loop {
            let rows = client.query(&self.take, &[&self.seen, &LIMIT]).await?;
            self.has_seen_all = rows.is_empty();
            let Some(last) = rows.last() else { return Ok(Vec::new()) };
            self.seen = last.get(0);
            let is_held = |event: &Emitted| event.application_id.is_some_and(|id| self.held.contains(&id));
            let events: Vec<_> = rows.iter().map(emitted).filter(|event| !is_held(event)).collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Leaves what applications have emitted where it is for now.
    pub fn hold(&mut self, applications: impl IntoIterator<Item = ApplicationId>) {
        self.held.extend(applications);
    }

    /// Keeps the session alive for as long as `work` takes, which ends with it.
    ///
    /// # Errors
    /// When the session is lost.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let beat = async {
            loop {
                tokio::time::sleep(BEAT).await;
                if let Err(error) = self.session.client.simple_query("select 1").await {
                    return error;
                }
            }
        };
        tokio::select! {
            done = work => Ok(done),
            error = beat => Err(error.into()),
        }
    }

    /// Ends a take: what was accepted is gone from the inbox, what was refused is in the list of rejections, and
    /// the rest is there still.
    ///
    /// # Errors
    /// When PostgreSQL does not confirm: all of it may be there, and be found to be accepted already.
    pub async fn finish(&self, accepted: &[i64], refused: &[Refusal]) -> Result<(), StoreError> {
        let numbers: Vec<_> = refused.iter().map(|refusal| refusal.number).collect();
        let applications: Vec<_> = refused.iter().map(|refusal| refusal.application_id).collect();
        let codes: Vec<_> = refused.iter().map(|refusal| refusal.code.as_str()).collect();
        let details: Vec<_> = refused.iter().map(|refusal| refusal.detail.as_str()).collect();
        let errors: Vec<_> = refused.iter().map(|refusal| refusal.errors.as_str()).collect();
        let client = &self.session.client;
        client
            .execute(&self.finish, &[&accepted, &numbers, &applications, &codes, &details, &errors])
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

fn emitted(row: &tokio_postgres::Row) -> Emitted {
    Emitted {
        number: row.get(0),
        application_id: row.get(1),
        event_type: row.get(2),
        data: row.get(3),
        idempotency_key: row.get(4),
    }
}

/// An event that was emitted and could not be accepted.
#[derive(Debug, Clone)]
pub struct EmitRejection {
    /// Its id.
    pub id: EmitRejectionId,
    /// The application; `None`: what was named is none.
    pub application_id: Option<ApplicationId>,
    /// What the producer named.
    pub application: String,
    /// As the producer wrote it.
    pub event_type: String,
    /// JSON as text; `None` in lists.
    pub data: Option<String>,
    /// As the producer wrote it.
    pub idempotency_key: String,
    /// The stable name of the reason.
    pub code: String,
    /// The reason, in a sentence.
    pub detail: String,
    /// The fields that are at fault, as a JSON array of `{field, message}`.
    pub errors: String,
    /// When it was emitted.
    pub emitted_at: DateTime<Utc>,
    /// When it was rejected.
    pub created_at: DateTime<Utc>,
}

macro_rules! rejections {
    ($name:literal, $data:literal, $scope:literal) => {
        concat!(
            "-- emit_rejections.",
            $name,
            "
select id, application_id, application, event_type, ",
            $data,
            ", idempotency_key, code, detail, errors::text, emitted_at, created_at
from emit_rejections
where ",
            $scope
        )
    };
}

/// Rows are compared as a whole, so that the application's own index is walked.
const LIST: &str = rejections!(
    "list",
    "null::text",
    "(application_id, id) < ($1, $2) and application_id >= $1 order by application_id desc, id desc limit $3"
);
const LIST_ALL: &str =
    rejections!("list_all", "null::text", "$1::uuid is null and id < $2 order by id desc limit $3");
const GET: &str = rejections!("get", "data::text", "id = $1 and ($2::uuid is null or application_id = $2)");

/// Rejections, newest first, `limit` at most, without their data.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn list_rejections(
    store: &Store,
    application: Option<ApplicationId>,
    cursor: Option<EmitRejectionId>,
    limit: u32,
) -> Result<Page<EmitRejection>, StoreError> {
    let client = store.durable().await?;
    let sql = if application.is_some() { LIST } else { LIST_ALL };
    let statement = client.prepare_cached(sql).await?;
    let below = cursor.map_or(Uuid::max(), |id| id.0);
    let rows = client.query(&statement, &[&application, &below, &(i64::from(limit) + 1)]).await?;
    Ok(Page::of_one_more(rows.iter().map(parse).collect(), limit as usize, |rejection| rejection.id.0))
}

/// One rejection, with its data; `application` restricts it to that tenant's.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn get_rejection(
    store: &Store,
    application: Option<ApplicationId>,
    rejection: EmitRejectionId,
) -> Result<Option<EmitRejection>, StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(GET).await?;
    Ok(client.query_opt(&statement, &[&rejection, &application]).await?.as_ref().map(parse))
}

const FORGET: &str = "-- emit_rejections.forget
delete from emit_rejections
where id = any (array(
    select id from emit_rejections where id < first_id(now() - make_interval(days => $1)) order by id limit 1000
))";

/// Deletes some of the rejections that are older than the retention, and answers how many; 0: all are gone.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn forget_rejections(
    client: &tokio_postgres::Client,
    retention_days: u32,
) -> Result<u64, StoreError> {
    Ok(client.execute(FORGET, &[&retention_days.cast_signed()]).await?)
}

fn parse(row: &tokio_postgres::Row) -> EmitRejection {
    EmitRejection {
        id: row.get(0),
        application_id: row.get(1),
        application: row.get(2),
        event_type: row.get(3),
        data: row.get(4),
        idempotency_key: row.get(5),
        code: row.get(6),
        detail: row.get(7),
        errors: row.get(8),
        emitted_at: row.get(9),
        created_at: row.get(10),
    }
}
