-- deliveries.cancel_open
with page as materialized (
    select id, endpoint_id
    from deliveries
    where completed_at is null and id > coalesce($2::text::uuid, '00000000-0000-0000-0000-000000000000')
      and id <= $5::uuid
    order by id
    limit $3
),
locked as materialized (
    select id
    from deliveries
    where id = any (array(select id from page where endpoint_id = $1)) and completed_at is null
    order by id
    for no key update
),
moved as (
    update deliveries d
    set status = 'cancelled', next_retry_at = null, lease_id = null, completed_at = now(), last_error = $4
    from locked l
    where d.id = l.id
    returning d.id, d.endpoint_id, d.application_id, d.position
),
-- In an ordered endpoint, the next delivery has its turn.
woken as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from moved where position is not null limit 1
    returning id
),
unparked as (
    delete from outbox
    where parked and application_id = (select application_id from endpoints where id = $1) and endpoint_id = $1
      and delivery_id = any (array(select id from locked))
)
select id::text as cursor, (select count(pg_notify('postrider_outbox', '')) from woken) as notifications
from page order by id desc limit 1
