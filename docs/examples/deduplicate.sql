-- In the receiver's own database:
create table received_webhooks (
    webhook_id text primary key,
    received_at timestamptz not null default now()
);

-- First, in the transaction that does the work. If no row is returned, the work is already done: respond with 200.
insert into received_webhooks (webhook_id) values ($1)
on conflict do nothing
returning webhook_id;
