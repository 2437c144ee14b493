//! The statement with which a bulk replay reopens deliveries.

use deadpool_postgres::Transaction;
use postrider_domain::delivery::DeliveryStatus;

use crate::StoreError;
use crate::deliveries::opened_again;
use crate::replay_steps::{Found, Task};
use crate::sql::{Sql, read};

/// Reopens the matching deliveries of a page. Those that are in progress, or whose endpoint or event no longer exists,
/// are left alone. `$scope` selects the index.
macro_rules! redrive {
    ($name:literal, $scope:literal) => {
        concat!(
            "-- replays.",
            $name,
            "
with page as materialized (
    select id, status, endpoint_id, event_id, event_type, created_at
    from deliveries
    where application_id = $1 and id > $2 and id < $3",
            $scope,
            "
    order by id
    limit $4
),
wanted as materialized (
    select p.id
    from page p
    join endpoints e on e.id = p.endpoint_id and e.deleted_at is null
    join events v on v.id = p.event_id and v.expunged_at is null
    where p.status = any ($5)
      and ($6::uuid[] is null or p.endpoint_id = any ($6))
      and ($7::text[] is null or p.event_type = any ($7))
      and ($8::timestamptz is null or p.created_at >= $8)
      and p.created_at < $9
),
locked as materialized (
    select d.id
    from deliveries d
    where d.id = any (array(select id from wanted)) and d.id > $2 and d.id < $3 and d.status = any ($5)
      and not $10
    order by d.id
    for no key update
),
moved as (
    update deliveries d
    set ",
            opened_again!(),
            ",
        -- Deliveries that were open are not cancelled with this replay.
        replay_id = case when d.completed_at is not null then $11::uuid end
    from locked l
    where d.id = l.id and d.id > $2 and d.id < $3
    returning d.id, d.endpoint_id, d.application_id
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id, parked, bulk)
    select id, endpoint_id, application_id, true, true from moved
)
select (select count(*) from page) as scanned,
       case when $10 then (select count(*) from wanted) else (select count(*) from moved) end as matched,
       (select id from page order by id limit 1) as first, (select id from page order by id desc limit 1) as last"
        )
    };
}

const REDRIVE: Sql = Sql::named(redrive!("redrive", ""));
const REDRIVE_DEAD: Sql = Sql::named(redrive!("redrive_dead", " and dead_at is not null"));

pub(super) async fn redrive(transaction: &Transaction<'_>, task: &Task) -> Result<Found, StoreError> {
    let dead = [DeliveryStatus::DeadLetter];
    let statuses = task.statuses.as_deref().unwrap_or(&dead);
    let sql = if statuses == dead { REDRIVE_DEAD } else { REDRIVE };
    let row = sql
        .fetch_one(
            transaction,
            &[
                &task.application_id,
                &task.cursor,
                &task.end,
                &task.size,
                &statuses,
                &task.endpoint_ids,
                &task.event_types,
                &task.created_after,
                &task.created_before,
                &task.dry_run,
                &task.id,
            ],
        )
        .await?;
    Ok(read(&row))
}
