-- The schedule, the leases, and the link to Redis.

-- "Look at this at `due_at`." Written in the same transaction as the state change that calls for it:
-- a first attempt, a retry, a manual retry, a swept lease. Without a delivery: "this endpoint changed".
create table outbox (
    -- Rows are removed by this id and nothing else: a retry that was written after the take stays.
    id bigint generated always as identity primary key,
    delivery_id uuid,
    endpoint_id uuid not null,
    -- Whose it is: applications are served in turn.
    application_id uuid not null,
    due_at timestamptz not null default now(),
    -- Waits for room in Redis or for its endpoint to be enabled, and not for a time.
    parked boolean not null default false,
    -- Put there by a bulk replay: what is parked beside it goes first.
    bulk boolean not null default false
    -- A queue lives from being vacuumed at once: dead rows at the left edge slow every take.
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000
);

-- What is due, oldest first.
create index outbox_due on outbox (due_at) where not parked;
-- What is parked, by application and endpoint in the order in which it goes; finds whether a delivery is parked already.
create index outbox_parked on outbox (application_id, endpoint_id, bulk, delivery_id) where parked;

-- One row for each batch that a deliverer has claimed. A delivery in progress names its lease; a lease
-- whose deliverer is gone, or which has expired, is swept. Both numbers are random: a sequence can be taken
-- back by a crash, and deliverers remember them longer than that.
create table leases (
    id bigint primary key,
    -- The advisory lock that the deliverer holds for as long as it lives.
    deliverer bigint not null,
    claimed_at timestamptz not null default now(),
    expires_at timestamptz not null,
    delivery_ids uuid[] not null
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- Deliverers that have leases and whose lock was found free, and since when. One that comes back removes its
-- row; one that does not is gone, and its leases are swept.
create table lost_deliverers (
    number bigint primary key,
    since timestamptz not null default now()
);

-- Which memory of Redis is the current one. Where Redis disagrees it has lost ids, and everything open is
-- put into the outbox again, from `reconcile_cursor` on; null: nothing to do.
create table queue_epoch (
    shard smallint primary key,
    epoch bigint not null default 0,
    redis_run_id text not null default '',
    reconcile_cursor uuid
);

insert into queue_epoch (shard) values (0);

-- The order of acceptance on ordered endpoints.
create sequence delivery_positions cache 1;
