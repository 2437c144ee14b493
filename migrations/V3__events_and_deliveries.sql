-- Events, deliveries and attempts: the tables that grow.
--
-- They have no foreign keys: three of them made the accept statement 44 % slower, their KEY SHARE locks hide rows from
-- a claim, and a cascade would hold locks for minutes. Ids are time-ordered, so each table is partitioned by time
-- through its primary key, and old rows are dropped with their partition instead of being deleted one by one. There is
-- no default partition, because with one a partition cannot be detached concurrently. The relay creates partitions a
-- week ahead.

create table events (
    id uuid primary key,
    application_id uuid not null,
    event_type text not null,
    -- JSONB can be searched, and is rendered to the same bytes at every attempt.
    payload jsonb not null,
    idempotency_key text not null,
    created_at timestamptz not null default now(),
    -- Set when the payload was removed on request. The event can then not be sent again.
    expunged_at timestamptz
) partition by range (id);

-- An application's events, newest first.
create index events_by_application on events (application_id, id);

-- Idempotency keys have a table of their own, because uniqueness cannot be enforced across partitions by time. A row
-- is kept as long as its event.
create table idempotency_keys (
    application_id uuid not null,
    idempotency_key text collate "C" not null,
    event_id uuid not null,
    -- SHA-256 over the type and the stored JSON: distinguishes a repeated event from a different one with the same key.
    event_hash bytea not null,
    -- Part of the first response, which the same key gets again.
    deliveries_queued integer not null,
    -- Makes keys unique, and finds the event of a key.
    primary key (application_id, idempotency_key)
);

-- Finds the keys of dropped events. BRIN is enough and takes a few kilobytes, because rows are inserted in the order of
-- their events, so that old keys are next to each other.
create index idempotency_keys_by_event on idempotency_keys using brin (event_id);

create table deliveries (
    id uuid primary key,
    application_id uuid not null,
    event_id uuid not null,
    endpoint_id uuid not null,
    event_type text not null,
    status text not null default 'pending'
        check (status in ('pending', 'in_progress', 'succeeded', 'failed', 'dead_letter', 'cancelled')),
    attempt_count smallint not null default 0,
    max_attempts smallint not null,
    last_response_status smallint,
    -- Due from this time on, by PostgreSQL's clock. Null: closed.
    next_retry_at timestamptz default now(),
    -- The lease under which it is being sent. Null: it is not being sent.
    lease_id bigint,
    -- Order of acceptance, if the endpoint was ordered at that time.
    position bigint,
    -- The bulk replay that made it.
    replay_id uuid,
    created_at timestamptz not null default now(),
    -- Set when it is closed: succeeded, dead letter or cancelled.
    completed_at timestamptz,
    dead_at timestamptz,
    last_error text
    -- Claims and retries are HOT updates: partitions leave room on each page, and no index contains the columns that
    -- they change (status, attempt_count, next_retry_at, lease_id).
) partition by range (id);

-- An event's deliveries.
create index deliveries_by_event on deliveries (event_id);
-- An application's deliveries, newest first. Lists with other filters look at a bounded number of these.
create index deliveries_by_application on deliveries (application_id, id);
-- Open deliveries, for the time after Redis has lost its memory, and for the audit. `completed_at` usually changes only
-- once, unlike `status`.
create index deliveries_open on deliveries (id) where completed_at is null;
-- Open deliveries of ordered endpoints, in order.
create index deliveries_in_order on deliveries (endpoint_id, position)
    where position is not null and completed_at is null;
-- An application's dead letters, newest first: to list and to redrive them.
create index deliveries_dead on deliveries (application_id, id) where dead_at is not null;

-- One row for each HTTP exchange. The request body is not stored, because it can be rendered from the event.
create table delivery_attempts (
    delivery_id uuid not null,
    attempt_number smallint not null,
    -- `unknown`: the deliverer disappeared before it could record the outcome.
    outcome text not null check (outcome in ('succeeded', 'failed', 'unknown')),
    error_class text,
    error_message text,
    request_headers jsonb,
    response_status smallint,
    -- An array of {"name", "value"}, because names can repeat.
    response_headers jsonb,
    -- The first 16 KiB, which may be any bytes.
    response_body bytea,
    response_body_truncated boolean not null default false,
    -- The request was sent twice, because a reused connection broke before the response began.
    resent boolean not null default false,
    duration_ms integer,
    created_at timestamptz not null default now(),
    -- Makes recording twice harmless.
    primary key (delivery_id, attempt_number)
) partition by range (delivery_id);

-- The smallest id that can be generated at or after a time.
create function first_id(at timestamptz) returns uuid
language sql immutable parallel safe strict
as $$
    select (lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- The time of an id, to the millisecond.
create function id_time(id uuid) returns timestamptz
language sql immutable parallel safe strict
as $$
    select to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$$;

-- The partitions of the tables that grow. Each holds the rows created from `starts_at` (null: no lower bound) to
-- `ends_at`.
create view partitions as
select p.relname::text as parent, c.relname::text as name, i.inhdetachpending as is_detaching,
       id_time(substring(b.bounds from 'FROM \(''([0-9a-f-]{36})''\)')::uuid) as starts_at,
       id_time(substring(b.bounds from 'TO \(''([0-9a-f-]{36})''\)')::uuid) as ends_at
from pg_inherits i
join pg_class p on p.oid = i.inhparent
join pg_class c on c.oid = i.inhrelid
cross join lateral (select pg_get_expr(c.relpartbound, c.oid)) b (bounds)
where p.oid in ('events'::regclass, 'deliveries'::regclass, 'delivery_attempts'::regclass)
  and c.relkind = 'r';

-- Adds a partition to one of these tables, from `starts` (null: no lower bound) to `until`. The partition is created on
-- its own and then attached, so that it does not block writers.
create function add_partition(target text, starts timestamptz, until timestamptz) returns void
language plpgsql
as $$
declare
    name text := target || '_until_' || to_char(until at time zone 'UTC', 'YYYYMMDD');
begin
    -- No statistics while it is small: with those of a few rows all indexes have the same estimated cost, and sessions
    -- keep such a plan when millions of rows follow. Without statistics PostgreSQL assumes that the table is larger.
    execute format(
        'create table %I (like %I including all) with (
            fillfactor = %s, autovacuum_analyze_threshold = 20000, autovacuum_vacuum_threshold = 20000,
            autovacuum_vacuum_insert_threshold = 20000
        )',
        name, target, case target when 'deliveries' then 70 else 100 end
    );
    execute format(
        'alter table %I attach partition %I for values from (%s) to (%L)',
        target, name, coalesce(quote_literal(first_id(starts)), 'minvalue'), first_id(until)
    );
end
$$;

-- Adds a partition to each of these tables, from the end of its newest one to `until`.
create function add_partitions(until timestamptz) returns void
language plpgsql
as $$
begin
    perform add_partition(t.name, (select max(ends_at) from partitions where parent = t.name), until)
    from (values ('events'), ('deliveries'), ('delivery_attempts')) t (name);
end
$$;

-- The relay creates the later ones.
select add_partitions(date_trunc('day', now(), 'UTC') + interval '8 days');

-- Bulk replays of events and redrives of deliveries, which the relay runs in steps.
create table replays (
    id uuid primary key default uuid_v7(),
    application_id uuid not null references applications (id) on delete cascade,
    mode text not null check (mode in ('replay', 'redrive', 'missing')),
    -- Selects events or deliveries: all of these must match. Null matches everything.
    endpoint_ids uuid[],
    event_types text[],
    statuses text[],
    created_after timestamptz,
    created_before timestamptz not null,
    -- Only count, change nothing.
    dry_run boolean not null default false,
    status text not null default 'pending'
        check (status in ('pending', 'running', 'completed', 'cancelled', 'failed')),
    -- Rows read so far, and deliveries that they led to (or would, in a dry run).
    scanned_count bigint not null default 0,
    matched_count bigint not null default 0,
    -- The first id that was found, the last one that was handled, and the end. They show the progress, and where to
    -- continue after a crash.
    first_id uuid,
    cursor_id uuid not null,
    end_id uuid not null,
    -- Number of rows in the next step.
    step_size integer not null default 50,
    -- Time of the last step: open replays take turns by it.
    stepped_at timestamptz,
    last_error text,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    completed_at timestamptz
);

-- An application's replays, newest first.
create index replays_by_application on replays (application_id, id);
-- Replays that the relay still has to work on.
create index replays_open on replays (id) where completed_at is null;
