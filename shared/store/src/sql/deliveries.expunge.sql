-- deliveries.expunge
with page as materialized (
    select id
    from deliveries
    where event_id = $1 and id > $2
    order by id
    limit $3
),
locked as materialized (
    select d.id, d.endpoint_id, d.position, d.completed_at
    from deliveries d
    where d.id = any (array(select id from page)) and d.id > $2
    order by d.id
    for no key update
),
cancelled as (
    update deliveries d
    set status = 'cancelled', next_retry_at = null, lease_id = null, completed_at = now(), last_error = $4
    from locked l
    where d.id = l.id and d.id > $2 and l.completed_at is null
    returning d.id, d.endpoint_id, d.application_id, d.position
),
passed as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from cancelled where position is not null
)
select id from locked order by id
