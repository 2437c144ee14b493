-- leases.find_abandoned
with alive as materialized (
    select distinct (classid::bigint << 32) | objid::bigint as number
    from pg_locks
    where locktype = 'advisory' and objsubid = 1 and granted
      and database = (select oid from pg_database where datname = current_database())
),
back as (
    delete from lost_deliverers
    where number = any (array(
        select number from lost_deliverers
        where number in (select number from alive) or number not in (select deliverer from leases)
        for update skip locked
    ))
),
lost as (
    insert into lost_deliverers (number)
    select distinct deliverer from leases where deliverer not in (select number from alive)
    on conflict do nothing
)
select id, claimed_at, delivery_ids
from leases
where pg_postmaster_start_time() < now() - make_interval(secs => $1)
  and (expires_at < now()
       or deliverer not in (select number from alive)
          and deliverer in (select number from lost_deliverers where since < now() - make_interval(secs => $2)))
order by expires_at, id
limit 50
