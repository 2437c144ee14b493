-- deliveries.overdue
with page as materialized (
    select d.id, d.endpoint_id, d.application_id, d.position, d.lease_id,
           d.lease_id is null and d.next_retry_at < l.oldest - interval '60 seconds' as is_late
    from deliveries d
    -- A row that the relay has not reached yet is not late. It is still in the outbox.
    cross join (
        select coalesce(
            (select due_at from outbox where not parked and due_at <= now() order by due_at limit 1), now()
        ) as oldest
    ) l
    where d.completed_at is null and d.id > $1
    order by d.id
    limit $2
),
parked as materialized (
    select o.delivery_id
    from (select distinct endpoint_id, application_id from page where is_late) e
    cross join (values (false), (true)) b (bulk)
    cross join lateral (
        select o.delivery_id
        from outbox o
        where o.parked and o.application_id = e.application_id and o.endpoint_id = e.endpoint_id and o.bulk = b.bulk
          and o.delivery_id between (select id from page order by id limit 1)
                                and (select id from page order by id desc limit 1)
        order by o.delivery_id
        limit 2 * $2
    ) o
)
select p.id as delivery_id, p.endpoint_id, p.application_id,
       p.is_late
       and p.id not in (select delivery_id from parked)
       -- In an ordered endpoint, only the first delivery can be late.
       and (p.position is null or not exists (
           select from deliveries b
           where b.endpoint_id = p.endpoint_id and b.position < p.position and b.completed_at is null
       )) as is_overdue,
       case when p.lease_id is not null and (select true from leases l where l.id = p.lease_id) is null
            then p.lease_id
       end as lost_lease_id
from page p
order by p.id
