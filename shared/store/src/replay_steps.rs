//! The steps of bulk replays. Each is bounded, and its transaction also stores how far the replay has come, so that the
//! replay continues there after a crash.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use postgres_types::ToSql;
use postrider_domain::delivery::{DeliveryStatus, ReplayMode};
use postrider_domain::event_type::EventType;
use postrider_domain::ids::{ApplicationId, EndpointId, EventId, ReplayId};
use postrider_runtime::failpoint;
use uuid::Uuid;

use crate::accept::pattern_array;
use crate::matching::matching_cost;
use crate::operational::TEST;
use crate::page::IdRange;
use crate::replay_event::REPLAY;
use crate::replay_missing::MISSING;
use crate::replay_redrive::redrive;
use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row, replays};

/// The number of deliveries that a step should create.
const TARGET: i64 = 1_000;
/// The maximum number of rows that a step scans.
const MAX_SIZE: i64 = 5_000;
/// The maximum number of pairs of an event and an endpoint that a step examines, unless it examines a single event. A
/// pair with a filter counts according to the cost of the filter.
const MAX_PAIRS: i64 = 5_000;
/// A step that takes longer than this is followed by a smaller one.
const MAX_DURATION: Duration = Duration::from_millis(200);

/// The result of a step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The replay that the step belongs to.
    pub replay_id: ReplayId,
    /// The number of rows that were scanned.
    pub scanned: i64,
    /// The number of deliveries that were created or reopened, or would have been without `dry_run`.
    pub matched: i64,
    /// True if it was the last step.
    pub is_last: bool,
}

/// Applications with open replays take turns, however many each has, and so do the replays of each application. A
/// replay that another relay is working on is skipped. Replays of an application that send what is missing run one
/// after another: two in parallel would both find the same delivery missing and send it twice.
const NEXT: Sql = Sql::named(
    "-- replays.next
select r.id, r.application_id, r.mode, r.endpoint_ids, r.event_types, r.statuses, r.created_after, r.created_before,
       r.dry_run, r.first_id is null as is_new, r.cursor_id as cursor, r.end_id as end, r.step_size::bigint as size
from replays r
join (
    select application_id, max(stepped_at) as stepped_at
    from replays
    where completed_at is null
    group by application_id
) a on a.application_id = r.application_id
where r.completed_at is null
  and not (r.mode = 'missing' and not r.dry_run and exists (
      select from replays o
      where o.application_id = r.application_id and o.id < r.id and o.completed_at is null
        and o.mode = 'missing' and not o.dry_run
  ))
order by a.stepped_at nulls first, r.stepped_at nulls first, r.id
limit 1
for no key update of r skip locked",
);

/// Makes PostgreSQL read pages in the order of an index, whatever the planner knows. Otherwise each step might sort all
/// remaining rows. Statements that sort anyway then seem so costly that they would be JIT-compiled, so that is turned
/// off too.
const READ_IN_ORDER: Sql = Sql::named(
    "-- replays.read_in_order
select set_config('enable_sort', 'off', true) as sort, set_config('jit', 'off', true) as jit",
);

/// A replay, with the columns that a step needs.
pub(super) struct Task {
    pub(super) id: ReplayId,
    pub(super) application_id: ApplicationId,
    pub(super) mode: ReplayMode,
    pub(super) endpoint_ids: Option<Vec<EndpointId>>,
    pub(super) event_types: Option<Vec<String>>,
    pub(super) statuses: Option<Vec<DeliveryStatus>>,
    pub(super) created_after: Option<DateTime<Utc>>,
    pub(super) created_before: DateTime<Utc>,
    pub(super) dry_run: bool,
    pub(super) is_new: bool,
    pub(super) cursor: Uuid,
    pub(super) end: Uuid,
    pub(super) size: i64,
}

from_row!(Task {
    id,
    application_id,
    mode,
    endpoint_ids,
    event_types,
    statuses,
    created_after,
    created_before,
    dry_run,
    is_new,
    cursor,
    end,
    size,
});

/// What a step found from the cursor on.
#[derive(Default)]
pub(super) struct Found {
    pub(super) scanned: i64,
    pub(super) matched: i64,
    pub(super) first: Option<Uuid>,
    pub(super) last: Option<Uuid>,
}

from_row!(Found { scanned, matched, first, last });

/// Takes the next step of the replay whose turn it is. Returns `None` if there is nothing to do.
///
/// # Errors
/// [`StoreError`] if the step failed. It is retried with fewer rows, after the steps of others. If it cannot succeed,
/// the replay fails instead.
pub async fn step(store: &Store) -> Result<Option<Step>, StoreError> {
    let began = Instant::now();
    let mut client = store.relaxed().await?;
    let transaction = client.transaction().await?;
    let Some(row) = NEXT.fetch_optional(&transaction, &[]).await? else { return Ok(None) };
    let mut task: Task = read(&row);
    let found = match find(&transaction, &mut task).await {
        Ok(found) => found,
        Err(error) => {
            drop(transaction);
            drop(client);
            if !error.is_data_error() {
                postpone(store, task.id, &error).await?;
                return Err(error);
            }
            fail(store, task.id, &error).await?;
            return Ok(Some(Step { replay_id: task.id, scanned: 0, matched: 0, is_last: true }));
        }
    };
    let is_last = found.scanned < task.size;
    let next_size = next_size(task.size, found.matched, began.elapsed());
    ADVANCE
        .execute(
            &transaction,
            &[
                &task.id,
                &found.last,
                &found.first,
                &task.end,
                &found.scanned,
                &found.matched,
                &next_size,
                &is_last,
            ],
        )
        .await?;
    if is_last {
        replays::tell_end(&transaction, task.id).await?;
    }
    failpoint::die_at("relay.in_replay_step");
    transaction.commit().await?;
    Ok(Some(Step { replay_id: task.id, scanned: found.scanned, matched: found.matched, is_last }))
}

async fn find(transaction: &Transaction<'_>, task: &mut Task) -> Result<Found, StoreError> {
    READ_IN_ORDER.execute(transaction, &[]).await?;
    if task.is_new {
        task.end = find_end(transaction, task).await?;
    }
    match task.mode {
        ReplayMode::Replay | ReplayMode::Missing => replay(transaction, task).await,
        ReplayMode::Redrive => redrive(transaction, task).await,
    }
}

const POSTPONE: Sql = Sql::named(
    "-- replays.postpone
update replays
set step_size = greatest(step_size / 2, 1), stepped_at = clock_timestamp(), last_error = $2
where id = $1 and completed_at is null",
);

/// Postpones a replay whose step failed. A step that takes too long would do so again, and hold up all others. Until a
/// step succeeds, the replay shows why it does not advance.
async fn postpone(store: &Store, replay: ReplayId, error: &StoreError) -> Result<(), StoreError> {
    let client = store.relaxed().await?;
    POSTPONE.execute(&client, &[&replay, &error.to_string()]).await?;
    Ok(())
}

/// Returns the number of rows that should make about [`TARGET`] deliveries, judging by the last step.
fn next_size(size: i64, matched: i64, took: Duration) -> i32 {
    let next = if matched == 0 { size * 2 } else { size * TARGET / matched };
    let most = if took > MAX_DURATION { size / 2 } else { size * 2 };
    i32::try_from(next.min(most).clamp(1, MAX_SIZE)).unwrap_or(1)
}

const ADVANCE: Sql = Sql::named(
    "-- replays.advance
update replays
set status = case when $8 then 'completed' else 'running' end,
    cursor_id = coalesce($2, cursor_id), first_id = coalesce(first_id, $3), end_id = $4,
    scanned_count = scanned_count + $5, matched_count = matched_count + $6, step_size = $7,
    stepped_at = clock_timestamp(), last_error = null, started_at = coalesce(started_at, now()),
    completed_at = case when $8 then clock_timestamp() end
where id = $1",
);

const LAST_EVENT: Sql = Sql::named(
    "-- replays.last_event
select id from events where application_id = $1 and id > $2 and id < $3 order by id desc limit 1",
);

const LAST_DELIVERY: Sql = Sql::named(
    "-- replays.last_delivery
select id from deliveries where application_id = $1 and id > $2 and id < $3 order by id desc limit 1",
);

/// Returns the id just after the last existing row, so that the progress is computed over the rows that exist.
async fn find_end(transaction: &Transaction<'_>, task: &Task) -> Result<Uuid, StoreError> {
    let sql = match task.mode {
        ReplayMode::Replay | ReplayMode::Missing => LAST_EVENT,
        ReplayMode::Redrive => LAST_DELIVERY,
    };
    let last = sql.fetch_optional(transaction, &[&task.application_id, &task.cursor, &task.end]).await?;
    Ok(last.map_or(task.end, |row| Uuid::from_u128(row.get::<_, Uuid>("id").as_u128().saturating_add(1))))
}

const READ_EVENTS: Sql = Sql::named(
    "-- replays.read_events
select id, event_type,
       expunged_at is null and ($5::text[] is null or event_type = any ($5))
       and ($6::timestamptz is null or created_at >= $6) and created_at < $7
       as is_wanted
from events
where application_id = $1 and id > $2 and id < $3
order by id
limit $4",
);

const MATCHING_COST: Sql = Sql::named(concat!(
    "-- replays.matching_cost
select ",
    matching_cost!("e", "true"),
    "::bigint as cost
from endpoints e
where application_id = $1 and deleted_at is null and is_active and ($2::uuid[] is null or id = any ($2))"
));

/// Sends the next events again, to all matching endpoints or only to those that never received them. Every endpoint is
/// examined for every event, so more endpoints mean fewer events per step.
async fn replay(transaction: &Transaction<'_>, task: &mut Task) -> Result<Found, StoreError> {
    let cost = MATCHING_COST.fetch_one(transaction, &[&task.application_id, &task.endpoint_ids]).await?;
    task.size = task.size.min(MAX_PAIRS / cost.get::<_, i64>("cost").max(1)).max(1);
    let rows = READ_EVENTS
        .fetch_all(
            transaction,
            &[
                &task.application_id,
                &task.cursor,
                &task.end,
                &task.size,
                &task.event_types,
                &task.created_after,
                &task.created_before,
            ],
        )
        .await?;
    let mut found = Found {
        scanned: rows.len() as i64,
        first: rows.first().map(|row| row.get("id")),
        last: rows.last().map(|row| row.get("id")),
        ..Found::default()
    };
    let (mut events, mut patterns) = (Vec::new(), Vec::new());
    for row in rows.iter().filter(|row| row.get("is_wanted")) {
        // Stored types are valid, or were under the rules of an older version. Then no endpoint can subscribe to them.
        let Ok(event_type) = EventType::parse(row.get("event_type")) else { continue };
        // A test event is meant for one endpoint only, so others do not miss it.
        if task.mode == ReplayMode::Missing && event_type.as_str() == TEST {
            continue;
        }
        events.push(row.get::<_, EventId>("id"));
        patterns.push(pattern_array(&event_type));
    }
    if let (Some(&first), Some(&last)) = (events.first(), events.last()) {
        let above = IdRange::new(None, None, None).not_before(first.0).above;
        let replay_id = Some(task.id);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &events,
            &first,
            &last,
            &task.application_id,
            &patterns,
            &task.endpoint_ids,
            &replay_id,
            &task.dry_run,
        ];
        let sql = if task.mode == ReplayMode::Missing {
            parameters.push(&above);
            MISSING
        } else {
            REPLAY
        };
        found.matched = sql.fetch_one(transaction, &parameters).await?.get("matched");
    }
    Ok(found)
}

const FAIL: Sql = Sql::named(
    "-- replays.fail
update replays
set status = 'failed', last_error = $2, completed_at = now()
where id = $1 and completed_at is null",
);

async fn fail(store: &Store, replay: ReplayId, error: &StoreError) -> Result<(), StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    if FAIL.execute(&transaction, &[&replay, &error.to_string()]).await? == 0 {
        return Ok(());
    }
    replays::tell_end(&transaction, replay).await?;
    Ok(transaction.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_sized_by_what_the_last_one_made() {
        let (quick, slow) = (Duration::from_millis(10), Duration::from_secs(1));
        assert_eq!(next_size(50, 0, quick), 100);
        assert_eq!(next_size(50, 50, quick), 100);
        assert_eq!(next_size(50, 50_000, quick), 1);
        assert_eq!(next_size(50, 2_000, quick), 25);
        assert_eq!(next_size(50, 50, slow), 25);
        assert_eq!(next_size(1, 1, slow), 1);
        assert_eq!(next_size(5_000, 0, quick), 5_000);
    }
}
