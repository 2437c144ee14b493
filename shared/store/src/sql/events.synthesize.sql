-- events.synthesize
with numbered as materialized (
    select n, now() - make_interval(secs => $9 * (1 - n::float8 / $8)) as at,
           md5('event' || n || $6) as event_hash, md5('delivery' || n || $6) as delivery_hash
    from generate_series($10::bigint, $10 + $11 - 1) n
),
made as materialized (
    select n, at, ($2::uuid[])[1 + n % cardinality($2::uuid[])] as endpoint_id,
           (left(replace(first_id(at)::text, '-', ''), 12)
            || '7' || left(event_hash, 3) || '8' || right(event_hash, 15))::uuid as event_id,
           (left(replace(first_id(at)::text, '-', ''), 12)
            || '7' || left(delivery_hash, 3) || '8' || right(delivery_hash, 15))::uuid as delivery_id
    from numbered
),
stored as (
    insert into events (id, application_id, event_type, payload, idempotency_key, created_at)
    select event_id, $1, $3, jsonb_build_object('stock', $6::text, 'number', n, 'pad', $7::text),
           $6 || '-' || n, at
    from made
    order by event_id
),
keyed as (
    insert into idempotency_keys (application_id, idempotency_key, event_id, event_hash, deliveries_queued)
    select $1, $6 || '-' || n, event_id, sha256(uuid_send(event_id)), 1
    from made
),
delivered as (
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, status, attempt_count,
                            max_attempts, last_response_status, next_retry_at, created_at, completed_at)
    select delivery_id, $1, event_id, endpoint_id, $3,
           case when $4 then 'pending' else 'succeeded' end, case when $4 then 0 else 1 end, $5,
           case when $4 then null else 200 end, case when $4 then at end, at, case when $4 then null else at end
    from made
    order by delivery_id
),
attempted as (
    insert into delivery_attempts (delivery_id, attempt_number, outcome, request_headers, response_status,
                                   response_headers, response_body, duration_ms, created_at)
    select delivery_id, 1, 'succeeded',
           jsonb_build_array(
               jsonb_build_object('name', 'content-type', 'value', 'application/json'),
               jsonb_build_object('name', 'webhook-id', 'value', event_id),
               jsonb_build_object('name', 'webhook-timestamp', 'value', extract(epoch from at)::bigint::text),
               jsonb_build_object('name', 'webhook-signature', 'value', 'v1,' || repeat(left(md5($6), 22), 2))
           ),
           200, jsonb_build_array(jsonb_build_object('name', 'content-length', 'value', '0')), '', 5, at
    from made
    where not $4
    order by delivery_id
)
insert into outbox (delivery_id, endpoint_id, application_id, due_at, parked)
select delivery_id, endpoint_id, $1, at, true
from made
where $4
order by delivery_id
