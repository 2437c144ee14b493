//! The consequences of deletions and cancellations, in bounded steps. Each step is a short transaction. Any relay can
//! take the next step, which continues where the last one ended.

use deadpool_postgres::Transaction;
use postrider_domain::ids::{ApplicationId, EndpointId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::sql::Sql;
use crate::{Store, StoreError};

/// The number of rows that one step processes.
const STEP: i64 = 2_000;

const BEGIN: Sql = Sql::named(
    "-- cleanups.begin
insert into cleanups (kind, owner_id, reason, until_id)
values ($1, $2, $3, case when $4 then uuid_v7() else 'ffffffff-ffff-ffff-ffff-ffffffffffff' end)",
);

/// Schedules the cancellation of the deliveries of an endpoint that are open now.
pub async fn cancel_open(
    transaction: &Transaction<'_>,
    endpoint: EndpointId,
    reason: &str,
) -> Result<(), StoreError> {
    begin(transaction, "cancel", endpoint.0, reason, true).await
}

/// Schedules the queuing of the open deliveries of an endpoint that is no longer ordered.
pub async fn queue_what_waited(
    transaction: &Transaction<'_>,
    endpoint: EndpointId,
) -> Result<(), StoreError> {
    begin(transaction, "queue", endpoint.0, "", false).await
}

/// Schedules the cancellation of the open deliveries of a deleted endpoint, and its removal.
pub async fn remove_endpoint(transaction: &Transaction<'_>, endpoint: EndpointId) -> Result<(), StoreError> {
    begin(transaction, "endpoint", endpoint.0, "the endpoint was deleted", false).await
}

/// Schedules the removal of everything that belongs to a deleted application.
pub async fn remove_application(
    transaction: &Transaction<'_>,
    application: ApplicationId,
) -> Result<(), StoreError> {
    begin(transaction, "application", application.0, "", false).await
}

async fn begin(
    transaction: &Transaction<'_>,
    kind: &str,
    owner: Uuid,
    reason: &str,
    only_what_is_there: bool,
) -> Result<(), StoreError> {
    BEGIN.execute(transaction, &[&kind, &owner, &reason, &only_what_is_there]).await?;
    Ok(())
}

/// One phase of a cleanup.
enum Phase {
    /// A statement that processes up to `$3` rows of `$1` after the cursor `$2`, and returns the next cursor. Null ends
    /// the phase.
    Do(Sql),
    /// The same, with the reason `$4` and the greatest id `$5`.
    Cancel(Sql),
    /// Removes the next deliveries together with their attempts.
    Deliveries,
    /// A statement that processes `$1` at once.
    Once(Sql),
    /// Waits until every statement that started before the deletion has ended. No statement lasts longer than half a
    /// minute. The phases after this one find the rows that such a statement has added.
    Wait,
}

use Phase::{Cancel, Deliveries, Do, Once, Wait};

// Rows are compared as a whole with the key of the application, so that its own index is walked, whatever the planner
// knows about it.

fn phases(kind: &str) -> &'static [Phase] {
    match kind {
        "cancel" => &[Cancel(CANCEL)],
        "queue" => &[Do(QUEUE)],
        "endpoint" => &[Cancel(CANCEL), Wait, Cancel(CANCEL), Once(ENDPOINT)],
        _ => &[
            Deliveries,
            Do(EVENTS),
            Do(IDEMPOTENCY_KEYS),
            Do(OUTBOX),
            Wait,
            Deliveries,
            Do(EVENTS),
            Do(IDEMPOTENCY_KEYS),
            Do(OUTBOX),
            Do(ENDPOINTS),
            Do(API_KEYS),
            Do(EVENT_TYPES),
            Do(REPLAYS),
            Do(EMIT_REJECTIONS),
            Once(APPLICATION),
        ],
    }
}

/// Walks the open deliveries of all endpoints, because that is the index that exists. Leased deliveries are cancelled
/// too. Once the lease is removed, an exchange in progress is still recorded as an attempt, but does not change the
/// delivery.
const CANCEL: Sql = Sql::named(include_str!("sql/deliveries.cancel_open.sql"));

/// Deliveries that waited for their turn have no outbox rows, except for the first one.
const QUEUE: Sql = Sql::named(
    "-- outbox.queue_what_waited
with page as materialized (
    select id, endpoint_id, application_id, lease_id, next_retry_at, position
    from deliveries
    where endpoint_id = $1 and position is not null and completed_at is null
      and position > coalesce($2::text::bigint, 0)
    order by position
    limit $3
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id, due_at)
    select id, endpoint_id, application_id, next_retry_at from page where lease_id is null
    returning id
)
select position::text as cursor,
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n) as notifications
from page order by position desc limit 1",
);

const ENDPOINT: Sql = Sql::named(
    "-- endpoints.remove
delete from endpoints where id = $1 and deleted_at is not null",
);

const DELIVERIES: Sql = Sql::named(
    "-- deliveries.lock_to_remove
select id
from deliveries
where (application_id, id) > ($1, coalesce($2::text::uuid, '00000000-0000-0000-0000-000000000000'))
  and application_id <= $1
order by application_id, id
limit $3
for update",
);

/// A separate statement, so that it sees the attempts that were recorded while this transaction waited for the rows.
const REMOVE_DELIVERIES: Sql = Sql::named(
    "-- deliveries.remove
with attempts as (
    delete from delivery_attempts where delivery_id = any ($1)
)
delete from deliveries where id = any ($1)",
);

const EVENTS: Sql = Sql::named(
    "-- events.remove
with page as materialized (
    select id
    from events
    where (application_id, id) > ($1, coalesce($2::text::uuid, '00000000-0000-0000-0000-000000000000'))
      and application_id <= $1
    order by application_id, id
    limit $3
),
removed as (
    delete from events where id = any (array(select id from page))
)
select id::text as cursor from page order by id desc limit 1",
);

const IDEMPOTENCY_KEYS: Sql = Sql::named(
    "-- idempotency_keys.remove
with page as materialized (
    select idempotency_key
    from idempotency_keys
    where application_id = $1 and idempotency_key > coalesce($2::text, '')
    order by idempotency_key
    limit $3
),
removed as (
    delete from idempotency_keys
    where application_id = $1 and idempotency_key = any (array(select idempotency_key from page))
)
select idempotency_key as cursor from page order by idempotency_key desc limit 1",
);

/// Rows that a relay has taken disappear with its take, and the claim finds nothing to do for them.
const OUTBOX: Sql = Sql::named(
    "-- outbox.remove
with page as materialized (
    select id, application_id
    from outbox
    where id > coalesce($2::text::bigint, 0)
    order by id
    limit $3
),
locked as materialized (
    select o.id
    from outbox o
    where o.id = any (array(select id from page where application_id = $1))
    order by o.id
    for update skip locked
),
removed as (
    delete from outbox where id = any (array(select id from locked))
)
select id::text as cursor from page order by id desc limit 1",
);

/// The statement for tables with few rows per application, which are identified by a key of the given type.
macro_rules! remove {
    ($table:literal, $key:literal, $type:literal, $least:literal) => {
        concat!(
            "-- ",
            $table,
            ".remove_some
with page as materialized (
    select ",
            $key,
            " as key
    from ",
            $table,
            "
    where (application_id, ",
            $key,
            ") > ($1, coalesce($2::text, '",
            $least,
            "')::",
            $type,
            ") and application_id <= $1
    order by application_id, ",
            $key,
            "
    limit $3
),
removed as (
    delete from ",
            $table,
            " where application_id = $1 and ",
            $key,
            " = any (array(select key from page))
)
select key::text as cursor from page order by key desc limit 1"
        )
    };
}

const ENDPOINTS: Sql = Sql::named(remove!("endpoints", "id", "uuid", "00000000-0000-0000-0000-000000000000"));
const API_KEYS: Sql = Sql::named(remove!("api_keys", "id", "uuid", "00000000-0000-0000-0000-000000000000"));
const EVENT_TYPES: Sql = Sql::named(remove!("event_types", "name", "text", ""));
const REPLAYS: Sql = Sql::named(remove!("replays", "id", "uuid", "00000000-0000-0000-0000-000000000000"));
const EMIT_REJECTIONS: Sql =
    Sql::named(remove!("emit_rejections", "id", "uuid", "00000000-0000-0000-0000-000000000000"));

const APPLICATION: Sql = Sql::named(
    "-- applications.remove
delete from applications where id = $1 and deleted_at is not null",
);

const TAKE: Sql = Sql::named(
    "-- cleanups.take
select id, kind, owner_id, reason, until_id, phase, cursor,
       created_at + interval '60 seconds' > now() as must_wait
from cleanups
where not_before <= now()
order by not_before, id
limit 1
for update skip locked",
);

const ADVANCE: Sql = Sql::named(
    "-- cleanups.advance
update cleanups set phase = $2, cursor = $3, not_before = now() where id = $1",
);

const POSTPONE: Sql = Sql::named(
    "-- cleanups.postpone
update cleanups set not_before = created_at + interval '60 seconds' where id = $1",
);

const END: Sql = Sql::named(
    "-- cleanups.end
delete from cleanups where id = $1",
);

const SET_ASIDE: Sql = Sql::named(
    "-- cleanups.set_aside
update cleanups set not_before = now() + interval '5 seconds' where id = $1",
);

/// Takes the next step of a cleanup. Returns false if there is nothing to do now.
///
/// # Errors
/// [`StoreError`] if a statement fails, for example because a row is locked for too long. The step is retried after
/// those of other cleanups.
pub async fn step(store: &Store) -> Result<bool, StoreError> {
    let mut client = store.relaxed().await?;
    let transaction = client.transaction().await?;
    let Some(row) = TAKE.fetch_optional(&transaction, &[]).await? else {
        return Ok(false);
    };
    if let Err(error) = advance(&transaction, &row).await {
        transaction.rollback().await?;
        SET_ASIDE.execute(&client, &[&row.get::<_, i64>("id")]).await?;
        return Err(error);
    }
    transaction.commit().await?;
    Ok(true)
}

async fn advance(transaction: &Transaction<'_>, row: &Row) -> Result<(), StoreError> {
    let id: i64 = row.get("id");
    let phase: i16 = row.get("phase");
    match phases(row.get("kind")).get(usize::try_from(phase).unwrap_or(usize::MAX)) {
        None => {
            END.execute(transaction, &[&id]).await?;
        }
        Some(Wait) if row.get("must_wait") => {
            POSTPONE.execute(transaction, &[&id]).await?;
        }
        Some(current) => {
            let cursor = deal(transaction, current, row).await?;
            let phase = if cursor.is_some() { phase } else { phase + 1 };
            ADVANCE.execute(transaction, &[&id, &phase, &cursor]).await?;
        }
    }
    Ok(())
}

/// Processes the next rows of the phase, and returns where to continue.
async fn deal(transaction: &Transaction<'_>, phase: &Phase, row: &Row) -> Result<Option<String>, StoreError> {
    let owner: Uuid = row.get("owner_id");
    let cursor: Option<&str> = row.get("cursor");
    let answer = match phase {
        Wait => None,
        Once(sql) => {
            sql.execute(transaction, &[&owner]).await?;
            None
        }
        Do(sql) => sql.fetch_optional(transaction, &[&owner, &cursor, &STEP]).await?,
        Deliveries => {
            let rows = DELIVERIES.fetch_all(transaction, &[&owner, &cursor, &STEP]).await?;
            let ids: Vec<Uuid> = rows.iter().map(|row| row.get("id")).collect();
            let Some(last) = ids.last() else { return Ok(None) };
            REMOVE_DELIVERIES.execute(transaction, &[&ids]).await?;
            return Ok(Some(last.to_string()));
        }
        Cancel(sql) => {
            let (reason, until): (&str, Uuid) = (row.get("reason"), row.get("until_id"));
            sql.fetch_optional(transaction, &[&owner, &cursor, &STEP, &reason, &until]).await?
        }
    };
    Ok(answer.and_then(|row| row.get("cursor")))
}
