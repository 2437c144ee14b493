-- endpoints.send_test
with endpoint as materialized (
    select id, application_id, is_active, ordered, uuid_v7() as event_id
    from endpoints
    where application_id = $1 and id = $2 and deleted_at is null
),
stored as (
    insert into events (id, application_id, event_type, payload, idempotency_key)
    select event_id, application_id, $3, $4::text::jsonb, $3 || ':' || event_id
    from endpoint
    where is_active
),
delivered as (
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts, position)
    select uuid_v7(), application_id, event_id, id, $3, 1, case when ordered then nextval('delivery_positions') end
    from endpoint
    where is_active
    returning id, event_id, endpoint_id, application_id
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from delivered
    returning id
)
select e.event_id, d.id as delivery_id,
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n) as notifications
from endpoint e left join delivered d using (event_id)
