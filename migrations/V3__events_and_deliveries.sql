-- Events, their deliveries and the attempts of these: the tables that grow.
--
-- None has a foreign key: three of them cost 44 % of the accept statement, their KEY SHARE locks hide
-- rows from a claim, and a cascade would hold locks for minutes. Ids are time-ordered, so each table is
-- cut into ranges of time by its primary key alone: what is too old is dropped with its partition, and
-- not deleted row by row. There is no default partition, which would forbid to detach one without
-- locking writers out; the relay makes partitions a week ahead.

create table events (
    id uuid primary key,
    application_id uuid not null,
    event_type text not null,
    -- JSONB: searchable, and rendered the same way at every attempt.
    payload jsonb not null,
    idempotency_key text not null,
    created_at timestamptz not null default now(),
    -- Set when the payload was removed on request; the event can then no longer be sent.
    expunged_at timestamptz
) partition by range (id);

-- Events of an application, newest first.
create index events_by_application on events (application_id, id);

-- Uniqueness of idempotency keys lives apart from the events, because it cannot be enforced across
-- partitions by time. A row lives as long as its event.
create table idempotency_keys (
    application_id uuid not null,
    idempotency_key text collate "C" not null,
    event_id uuid not null,
    -- SHA-256 over the type and the stored JSON: tells "the same again" from "another event".
    event_hash bytea not null,
    -- The first answer, given again to the same key.
    deliveries_queued integer not null,
    -- Enforces the key, and finds its event.
    primary key (application_id, idempotency_key)
);

-- Keys whose events have been dropped lie together, for rows are added in the order of their events: a
-- few kilobytes find them.
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
    -- Not due before this time, by PostgreSQL's clock. Null: closed.
    next_retry_at timestamptz default now(),
    -- The lease under which it is being sent; null: nobody sends it.
    lease_id bigint,
    -- Order of acceptance, on endpoints that kept it then.
    position bigint,
    -- The bulk replay that made it.
    replay_id uuid,
    created_at timestamptz not null default now(),
    -- Set once it is closed: succeeded, dead letter or cancelled.
    completed_at timestamptz,
    dead_at timestamptz,
    last_error text
    -- Partitions leave room on each page, and no index mentions what a claim changes (status,
    -- attempt_count, next_retry_at, lease_id): claims and retries are HOT updates.
) partition by range (id);

-- The deliveries of one event.
create index deliveries_by_event on deliveries (event_id);
-- Deliveries of an application, newest first; other filters look at a bounded number of these.
create index deliveries_by_application on deliveries (application_id, id);
-- What is still to be done, after Redis has lost its memory. `completed_at` changes once in a life.
create index deliveries_open on deliveries (id) where completed_at is null;
-- What waits its turn on endpoints that keep the order.
create index deliveries_in_order on deliveries (endpoint_id, position)
    where position is not null and completed_at is null;
-- Dead letters of an application, newest first: listed, and redriven.
create index deliveries_dead on deliveries (application_id, id) where dead_at is not null;

-- One row for each HTTP exchange. The request body is not kept: it is derived from the event.
create table delivery_attempts (
    delivery_id uuid not null,
    attempt_number smallint not null,
    -- `unknown`: the deliverer vanished before it could tell.
    outcome text not null check (outcome in ('succeeded', 'failed', 'unknown')),
    error_class text,
    error_message text,
    request_headers jsonb,
    response_status smallint,
    -- An array of {"name", "value"}: names may repeat.
    response_headers jsonb,
    -- The first 16 KiB, whatever bytes they are.
    response_body bytea,
    response_body_truncated boolean not null default false,
    -- The request was sent twice: the connection had been used before, and broke before an answer began.
    resent boolean not null default false,
    duration_ms integer,
    created_at timestamptz not null default now(),
    -- Recording twice is harmless.
    primary key (delivery_id, attempt_number)
) partition by range (delivery_id);

-- The smallest id that can be drawn at or after a time.
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

-- What the tables that grow are cut into: each partition holds what was made from `starts_at` (null: ever
-- before) until `ends_at`.
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

-- Adds a partition to one of these tables, for what is made from `starts` (null: ever before) until `until`. Made apart
-- and then attached, which locks no writer out.
create function add_partition(target text, starts timestamptz, until timestamptz) returns void
language plpgsql
as $$
declare
    name text := target || '_until_' || to_char(until at time zone 'UTC', 'YYYYMMDD');
begin
    -- No statistics before it has grown: by those of a few rows all indexes are alike, and sessions keep such a
    -- plan while millions of rows come. Without statistics PostgreSQL takes a table for larger than that.
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

-- Adds to each of these tables a partition that lasts until a time, from where its newest one ends.
create function add_partitions(until timestamptz) returns void
language plpgsql
as $$
begin
    perform add_partition(t.name, (select max(ends_at) from partitions where parent = t.name), until)
    from (values ('events'), ('deliveries'), ('delivery_attempts')) t (name);
end
$$;

-- Enough to start with.
select add_partitions(date_trunc('day', now(), 'UTC') + interval '8 days');

-- A bulk replay of events, or redrive of deliveries, in steps.
create table replays (
    id uuid primary key default uuid_v7(),
    application_id uuid not null references applications (id) on delete cascade,
    mode text not null check (mode in ('replay', 'redrive', 'missing')),
    -- What it is about: all of these must hold; null: any.
    endpoint_ids uuid[],
    event_types text[],
    statuses text[],
    created_after timestamptz,
    created_before timestamptz not null,
    -- Counts, and changes nothing.
    dry_run boolean not null default false,
    status text not null default 'pending'
        check (status in ('pending', 'running', 'completed', 'cancelled', 'failed')),
    -- Rows that were looked at, and deliveries that came of it.
    scanned_count bigint not null default 0,
    matched_count bigint not null default 0,
    -- The first id that was found, the last one that was dealt with, and where it ends: how far it has come,
    -- and where to go on after a crash.
    first_id uuid,
    cursor_id uuid not null,
    end_id uuid not null,
    -- Rows of the next step.
    step_size integer not null default 50,
    -- Open ones take turns.
    stepped_at timestamptz,
    last_error text,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    completed_at timestamptz
);

-- Replays of an application, newest first.
create index replays_by_application on replays (application_id, id);
-- What the relay still has to work on.
create index replays_open on replays (id) where completed_at is null;
