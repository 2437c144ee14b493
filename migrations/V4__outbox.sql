-- The schedule, leases, and the epoch of the queue in Redis.

-- "Look at this at `due_at`." Written in the transaction of the state change that needs it: a first attempt, a retry, a
-- manual retry, a swept lease. A row without a delivery means that the endpoint changed.
create table outbox (
    -- Rows are deleted by this id only, so that a take never deletes a retry that was written after it.
    id bigint generated always as identity primary key,
    delivery_id uuid,
    endpoint_id uuid not null,
    -- Applications are served in turn.
    application_id uuid not null,
    due_at timestamptz not null default now(),
    -- Waits for room in Redis, or until its endpoint is enabled, and not for `due_at`.
    parked boolean not null default false,
    -- Written by a bulk replay. Other parked rows of the endpoint go first.
    bulk boolean not null default false
    -- A queue table must be vacuumed often, because dead rows at the left edge of the index slow down every take.
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000
);

-- Due rows, oldest first.
create index outbox_due on outbox (due_at) where not parked;
-- Parked rows of each application and endpoint, in the order in which they go to Redis. Also shows whether a delivery
-- is parked already.
create index outbox_parked on outbox (application_id, endpoint_id, bulk, delivery_id) where parked;

-- One row for each batch that a deliverer has claimed. A delivery in progress names its lease. The relay sweeps leases
-- that have expired or whose deliverer is gone. Both numbers are random, because claims commit asynchronously: a crash
-- could reset a sequence while deliverers still remember its numbers.
create table leases (
    id bigint primary key,
    -- Number of the advisory lock that the deliverer holds while it runs.
    deliverer bigint not null,
    claimed_at timestamptz not null default now(),
    expires_at timestamptz not null,
    delivery_ids uuid[] not null
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- Deliverers with leases whose lock was found free, and since when. A deliverer that reconnects deletes its row. If it
-- does not, it is gone, and its leases are swept.
create table lost_deliverers (
    number bigint primary key,
    since timestamptz not null default now()
);

-- The epoch that Redis should have. If Redis has another one, it has lost ids, and all open deliveries go into the
-- outbox again. `reconcile_cursor` shows how far this has come. Null: nothing to do.
create table queue_epoch (
    shard smallint primary key,
    epoch bigint not null default 0,
    redis_run_id text not null default '',
    reconcile_cursor uuid
);

insert into queue_epoch (shard) values (0);

-- `deliveries.position`: the order of acceptance on ordered endpoints.
create sequence delivery_positions cache 1;
