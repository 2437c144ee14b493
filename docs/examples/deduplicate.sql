-- In the receiver's own database:
create table received_webhooks (
    webhook_id text primary key,
    received_at timestamptz not null default now()
);

-- In the transaction that does the work, first. No row comes back: it was done before; answer 200.
insert into received_webhooks (webhook_id) values ($1)
on conflict do nothing
returning webhook_id;
