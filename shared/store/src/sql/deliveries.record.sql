-- deliveries.record
with result as materialized (
    select *
    from unnest(
        $1::uuid[], $2::bigint[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::smallint[], $9::text[], $10::bytea[], $11::boolean[], $12::integer[], $13::text[], $14::bigint[],
        $19::boolean[], $23::bigint[]
    ) as r (
        delivery_id, lease_id, attempt_number, outcome, error_class, error_message, request_headers,
        response_status, response_headers, response_body, response_body_truncated, duration_ms,
        status, retry_ms, resent, age_ms
    )
),
locked as materialized (
    select d.id, d.event_id, d.lease_id, d.completed_at, d.last_error, d.status, d.attempt_count
    from deliveries d
    where d.id = any ($1) and d.id between $15 and $16
    order by d.id
    for no key update skip locked
),
attempted as (
    insert into delivery_attempts (
        delivery_id, attempt_number, outcome, error_class, error_message, request_headers,
        response_status, response_headers, response_body, response_body_truncated, resent,
        duration_ms, created_at
    )
    select r.delivery_id, r.attempt_number, r.outcome, r.error_class, r.error_message,
           r.request_headers::jsonb, r.response_status, r.response_headers::jsonb,
           -- No response is kept if the payload of the event was removed in the meantime.
           case
               when l.completed_at is not null
                    and (l.last_error = $17
                         or exists (select from events v where v.id = l.event_id and v.expunged_at is not null))
               then null
               else r.response_body
           end,
           r.response_body_truncated, r.resent, r.duration_ms, now() - r.age_ms * interval '1 millisecond'
    from result r
    join locked l on l.id = r.delivery_id
    where $20
    on conflict (delivery_id, attempt_number) do update
    set outcome = excluded.outcome, error_class = excluded.error_class,
        error_message = excluded.error_message, request_headers = excluded.request_headers,
        response_status = excluded.response_status, response_headers = excluded.response_headers,
        response_body = excluded.response_body,
        response_body_truncated = excluded.response_body_truncated, resent = excluded.resent,
        duration_ms = excluded.duration_ms, created_at = excluded.created_at
    where delivery_attempts.outcome <> 'succeeded'
),
moved as (
    update deliveries d
    set status = r.status,
        attempt_count = greatest(d.attempt_count, r.attempt_number),
        lease_id = null,
        last_response_status = r.response_status,
        last_error = r.error_message,
        next_retry_at = now() + r.retry_ms * interval '1 millisecond',
        completed_at = case when r.retry_ms is null then coalesce(l.completed_at, now()) end,
        dead_at = case when r.status = 'dead_letter' then coalesce(d.dead_at, now()) end
    from result r
    join locked l on l.id = r.delivery_id
    where d.id = r.delivery_id and d.id between $15 and $16
      and case
          when l.lease_id = r.lease_id then true
          when (l.status, l.attempt_count, l.last_error) = ('dead_letter', r.attempt_number, $21) then r.retry_ms is null
          when l.completed_at is not null then false
          when r.outcome = 'succeeded' then true
          else l.lease_id is null
               and (l.attempt_count < r.attempt_number or l.attempt_count = r.attempt_number and l.status = 'failed')
      end
    returning d.id, d.endpoint_id, d.application_id, d.next_retry_at, d.position, d.created_at,
              l.completed_at is null as was_open
),
queued as (
    -- In an ordered endpoint, the end of a delivery gives the next one its turn.
    insert into outbox (delivery_id, endpoint_id, application_id, due_at)
    select id, endpoint_id, application_id, coalesce(next_retry_at, now()) from moved
    where next_retry_at is not null or position is not null
    returning due_at
),
ended as (
    -- Leases are kept if a delivery was skipped, because its record needs the lease later. The sweep removes what is
    -- left. Locked leases are not waited for, because the sweep that holds one removes it.
    delete from leases
    where id = any (array(
        select id from leases
        where id = any ($18) and deliverer = $22 and cardinality($1) = (select count(*) from locked)
        for update skip locked
    ))
)
select id, was_open, extract(epoch from now() - created_at)::float8 as age,
       (select count(pg_notify('postrider_outbox', ''))
            from (select from queued where due_at <= now() limit 1) n) as notifications
from moved
union all
select id, null, null, null from locked where id not in (select id from moved)
