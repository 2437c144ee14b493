//! The statement with which a bulk replay sends only what was never delivered.

use crate::deliveries::opened_again;
use crate::sql::Sql;

/// Sends events to the endpoints that match them now and that have no successful delivery of them. For each pair of
/// event and endpoint: if a delivery is open, nothing is done. If all are closed, the last one is reopened. If there is
/// none, one is created. All deliveries of the events have ids greater than `$9`.
///
/// The claim would cancel an open delivery of a cancelled replay, so such a delivery counts as closed and is moved to
/// this replay.
///
/// No step joins another one, because PostgreSQL expects each to return one row, and would compare every row with every
/// other. `(… in (…)) is true` uses a hash table. Filters are evaluated last, because most pairs have succeeded.
pub(super) const MISSING: Sql = Sql::named(concat!(
    "-- replays.send_missing
with event as materialized (
    select v.id, v.event_type, v.payload, i.patterns::text[] as patterns
    from unnest($1::uuid[], $5::text[]) as i (id, patterns)
    cross join lateral (
        select v.id, v.event_type, v.payload
        from events v
        where v.id = i.id and v.id between $2 and $3 and v.application_id = $4 and v.expunged_at is null
        limit 1
    ) v
),
known as materialized (
    select d.id, d.event_id, d.endpoint_id, r.id as withdrawn_by,
           d.status = 'succeeded'
           or d.completed_at is null and (r.id is null or d.lease_id is not null) as is_settled
    from event v
    cross join lateral (
        select d.id, d.event_id, d.endpoint_id, d.status, d.completed_at, d.lease_id, d.replay_id
        from deliveries d
        where d.event_id = v.id and d.id > $9
        offset 0
    ) d
    left join lateral (
        select r.id
        from replays r
        where d.completed_at is null and r.id = d.replay_id and r.status = 'cancelled'
        limit 1
    ) r on true
),
missing as materialized (
    select v.id as event_id, v.event_type, e.id as endpoint_id, e.max_attempts, e.ordered
    from event v
    cross join lateral (
        select e.id, e.max_attempts, e.ordered
        from endpoints e
        where e.application_id = $4 and e.deleted_at is null and e.is_active
          and ($6::uuid[] is null or e.id = any ($6)) and e.event_types && v.patterns
          and case
              when ((v.id, e.id) in (select event_id, endpoint_id from known where is_settled)) is true then false
              when e.filter_path is null then true
              else v.payload @@ e.filter_path
          end
        offset 0
    ) e
),
closed as materialized (
    select distinct on (event_id, endpoint_id) id
    from known
    where ((event_id, endpoint_id) in (select event_id, endpoint_id from missing)) is true
    order by event_id, endpoint_id, id desc
),
unknown as materialized (
    select event_id, event_type, endpoint_id, max_attempts, ordered
    from missing
    where ((event_id, endpoint_id) in (select event_id, endpoint_id from known)) is not true
),
-- Judged again under the lock: it may have been retried in the meantime, or have succeeded late.
locked as materialized (
    select d.id
    from deliveries d
    where d.id = any (array(select id from closed)) and d.id > $9 and not $8
      and (d.status in ('dead_letter', 'cancelled')
           or d.completed_at is null and d.lease_id is null
              and d.replay_id = any (array(select withdrawn_by from known where withdrawn_by is not null)))
    order by d.id
    for no key update
),
opened as (
    update deliveries d
    set ",
    opened_again!(),
    ",
        replay_id = $7::uuid
    from locked l
    where d.id = l.id and d.id > $9
    returning d.id, d.endpoint_id
),
made as (
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts, position,
                            replay_id)
    select uuid_v7(), $4, event_id, endpoint_id, event_type, max_attempts,
           case when ordered then nextval('delivery_positions') end, $7
    from (select * from unknown where not $8 order by event_id) u
    returning id, endpoint_id
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id, parked, bulk)
    select id, endpoint_id, $4, true, true
    from (select id, endpoint_id from opened union all select id, endpoint_id from made) q
)
select case
    when $8 then (select count(*) from closed) + (select count(*) from unknown)
    else (select count(*) from opened) + (select count(*) from made)
end as matched"
));
