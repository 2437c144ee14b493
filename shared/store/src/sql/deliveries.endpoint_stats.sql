-- deliveries.endpoint_stats
with scanned as materialized (
    select id, endpoint_id, status, created_at, completed_at
    from deliveries
    where (application_id, id) > ($1, $3) and application_id <= $1 and created_at >= $4
    order by application_id desc, id desc
    limit $5
),
own as materialized (
    select id, status, created_at, completed_at from scanned where endpoint_id = $2
),
attempt as materialized (
    select a.outcome, a.duration_ms
    from (select id from own order by id desc limit $6) o
    cross join lateral (
        -- `offset` makes the planner look them up one by one instead of reading all of them for a join.
        select outcome, duration_ms from delivery_attempts where delivery_id = o.id offset 0
    ) a
    limit $6
)
select not d.is_full as is_complete, case when d.is_full then d.oldest else $4 end as "from", now() as "to",
       o.pending, o.in_progress, o.succeeded, o.failed, o.dead_letter, o.cancelled,
       a.succeeded as attempts_succeeded, a.failed as attempts_failed, a.unknown as attempts_unknown,
       a.percentiles as attempt_percentiles, o.percentiles as success_percentiles
from (
    select count(*) >= $5 as is_full, min(created_at) as oldest from scanned
) d,
(
    select count(*) filter (where status = 'pending') as pending,
           count(*) filter (where status = 'in_progress') as in_progress,
           count(*) filter (where status = 'succeeded') as succeeded,
           count(*) filter (where status = 'failed') as failed,
           count(*) filter (where status = 'dead_letter') as dead_letter,
           count(*) filter (where status = 'cancelled') as cancelled,
           percentile_cont(array[0.5, 0.95, 0.99]::double precision[]) within group (
               order by extract(epoch from completed_at - created_at)::double precision * 1000
           ) filter (where status = 'succeeded') as percentiles
    from own
) o,
(
    select count(*) filter (where outcome = 'succeeded') as succeeded,
           count(*) filter (where outcome = 'failed') as failed,
           count(*) filter (where outcome = 'unknown') as unknown,
           percentile_cont(array[0.5, 0.95, 0.99]::double precision[]) within group (
               order by duration_ms
           ) filter (where duration_ms is not null) as percentiles
    from attempt
) a
