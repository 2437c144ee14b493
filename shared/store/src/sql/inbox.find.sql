-- inbox.find
select i.transaction_id, i.id, coalesce(by_id.id, by_uid.id) as application_id, i.data_bytes
from (
    select e.transaction_id, e.id, e.application, e.data_bytes, e.emitted_at,
           case
               when e.application ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then e.application::uuid
           end as application_id
    from (
        (
            select late.*
            from unnest($1::bigint[]) as o (transaction_id)
            cross join lateral (
                select transaction_id, id, application, data_bytes, emitted_at
                from inbox
                where transaction_id = o.transaction_id and (transaction_id, id) > ($2, $3)
                order by transaction_id, id
                limit $8
            ) late
            order by late.transaction_id, late.id
            limit $8
        )
        union all
        (
            select transaction_id, id, application, data_bytes, emitted_at
            from inbox
            where (transaction_id, id) > ($4, $5)
              and (transaction_id < $6 or transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint)
              and transaction_id <> all ($7::bigint[])
            order by transaction_id, id
            limit $8
        )
    ) e
    where e.transaction_id <> all ($7::bigint[])
    order by e.transaction_id, e.id
    limit $8
) i
left join lateral (
    select a.id from applications a where a.id = i.application_id and a.deleted_at is null limit 1
) by_id on true
left join lateral (
    select a.id
    from applications a
    where a.uid = i.application and a.deleted_at is null and a.created_at <= i.emitted_at
    limit 1
) by_uid on true
order by i.transaction_id, i.id
