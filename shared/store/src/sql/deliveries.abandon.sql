-- deliveries.abandon
with claim as materialized (
    select delivery_id, lease_id, coalesce(claimed_at, now()) as claimed_at
    from unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) as c (delivery_id, lease_id, claimed_at)
),
abandoned as materialized (
    select d.id, d.lease_id, d.event_id, d.endpoint_id, d.attempt_count, d.max_attempts
    from deliveries d
    where d.id = any ($1) and d.id between $4 and $5 and d.lease_id = any ($2)
    order by d.id
    for no key update skip locked
),
judged as materialized (
    select a.id, a.attempt_count, c.claimed_at,
           case
               when v.id is not null then 'cancelled'
               when a.attempt_count >= a.max_attempts then 'dead_letter'
               else 'failed'
           end as status,
           -- The first time, the delivery is due again at once. A delivery that was lost before may be the one that
           -- kills its deliverers. It waits according to its schedule, plus up to ten seconds. So even with a short
           -- schedule it is sent apart from those that were lost with it, and takes no others down with it.
           case
               -- No `exists`: PostgreSQL may evaluate that by hashing all attempts with that outcome.
               when (
                   select true from delivery_attempts p
                   where p.delivery_id = a.id and p.attempt_number = a.attempt_count - 1
                     and p.outcome = 'unknown'
               )
               then now() + make_interval(secs =>
                   (0.8 + 0.4 * random())
                   * s.schedule[least(a.attempt_count::integer, cardinality(s.schedule))] + 10 * random())
               else now()
           end as next_retry_at
    from abandoned a
    join claim c on c.delivery_id = a.id and c.lease_id = a.lease_id
    left join events v on v.id = a.event_id and v.expunged_at is not null
    left join endpoints e on e.id = a.endpoint_id
    cross join lateral (select coalesce(nullif(e.retry_schedule, '{}'), $6::integer[]) as schedule) s
),
taken_away as materialized (
    select d.id, n::smallint as attempt_number, c.claimed_at
    from claim c
    join deliveries d on d.id = c.delivery_id and d.id between $4 and $5 and d.lease_id is distinct from c.lease_id
    cross join lateral generate_series(1, d.attempt_count - (d.lease_id is not null)::integer) n
    where (
        select true from delivery_attempts a where a.delivery_id = d.id and a.attempt_number = n
    ) is null
),
attempted as (
    insert into delivery_attempts (delivery_id, attempt_number, outcome, error_message, created_at)
    select id, attempt_number, 'unknown', $8, claimed_at
    from (
        select id, attempt_count as attempt_number, claimed_at from judged
        union all
        select id, attempt_number, claimed_at from taken_away
    ) u
    where $7
    on conflict do nothing
),
moved as (
    update deliveries d
    set lease_id = null,
        status = j.status,
        next_retry_at = case when j.status = 'failed' then j.next_retry_at end,
        completed_at = case when j.status <> 'failed' then now() end,
        dead_at = case when j.status = 'dead_letter' then now() end,
        last_error = case when j.status = 'cancelled' then $9 else $8 end
    from judged j
    where d.id = j.id and d.id between $4 and $5
    returning d.id, d.endpoint_id, d.application_id, d.next_retry_at, d.position
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id, due_at)
    select id, endpoint_id, application_id, coalesce(next_retry_at, now()) from moved
    where next_retry_at is not null or position is not null
    returning id
)
select (select count(*) from moved) as moved,
       array(select id from judged where status = 'dead_letter') as dead,
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n) as notifications
