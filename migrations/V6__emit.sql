-- Events that a producer emits in its own transaction, if its tables are in the same database: its rows and the event
-- commit or roll back together.
--
-- Emitting only writes one row. Fan-out in the producer's transaction would block on idempotency keys, match endpoints
-- with an old snapshot, and make outbox rows visible long after they fell due. After the commit the API takes the row
-- and accepts the event as if it had been posted.

-- Emitted events that are not accepted yet.
create table inbox (
    -- The 64-bit id of the transaction that emits. Together with `id` it is the order in which events are accepted. It
    -- also finds the rows that were committed since the last look, whatever their ids are.
    transaction_id bigint not null default pg_current_xact_id()::text::bigint,
    -- Order of emission within a transaction.
    id bigint generated always as identity,
    -- The application's id or uid, as the producer wrote it.
    application text not null,
    event_type text not null,
    data jsonb not null,
    -- Length of `data` as text.
    data_bytes integer not null,
    idempotency_key text not null,
    -- An operational event, written by Postrider, whose type producers cannot use.
    is_operational boolean not null default false,
    -- The time of the call, not the start of the transaction: a uid means the application that has it at that time.
    emitted_at timestamptz not null default clock_timestamp(),
    primary key (transaction_id, id)
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 10000
);

-- Emitted events that cannot be accepted. Users can list them as long as events are kept.
create table emit_rejections (
    id uuid primary key default uuid_v7(),
    -- Null: `application` names no application.
    application_id uuid references applications (id) on delete cascade,
    application text not null,
    event_type text not null,
    data jsonb not null,
    idempotency_key text not null,
    -- As in the problem body that a POST would have got.
    code text not null,
    detail text not null,
    errors jsonb not null,
    emitted_at timestamptz not null,
    created_at timestamptz not null default now()
);

-- An application's rejections, newest first.
create index emit_rejections_by_application on emit_rejections (application_id, id);

-- Emits an event without waking the API, which looks by itself within a second. Only what could harm the API is refused
-- here; everything else is checked after the commit. Returns the number of the emission.
--
-- It runs with the rights of the tables' owner, so the search path is fixed: a caller's own tables and functions are
-- never used instead.
create function postrider.emit_quietly(application text, event_type text, data jsonb, idempotency_key text)
returns bigint
language plpgsql security definer set search_path = postrider, pg_temp
as $$
declare
    number bigint;
    data_bytes integer := octet_length($3::text);
begin
    if $1 is null or $2 is null or $3 is null or $4 is null then
        raise exception 'postrider.emit: application, event_type, data and idempotency_key must not be null'
            using errcode = 'null_value_not_allowed';
    end if;
    if greatest(octet_length($1), octet_length($2), octet_length($4)) > 255 then
        raise exception 'postrider.emit: application, event_type and idempotency_key have at most 255 bytes'
            using errcode = 'string_data_right_truncation';
    end if;
    if data_bytes > 524288 then
        raise exception 'postrider.emit: data has at most 524288 bytes, its numbers written without exponents'
            using errcode = 'program_limit_exceeded';
    end if;
    insert into inbox (application, event_type, data, data_bytes, idempotency_key)
    values ($1, $2, $3, data_bytes, $4)
    returning id into number;
    return number;
end
$$;

-- The same, but wakes the API at the commit. Transactions that notify commit one after the other, so use
-- `emit_quietly` if many of them commit concurrently.
create function postrider.emit(application text, event_type text, data jsonb, idempotency_key text)
returns bigint
language plpgsql security definer set search_path = postrider, pg_temp
as $$
begin
    perform pg_notify('postrider_inbox', '');
    return postrider.emit_quietly($1, $2, $3, $4);
end
$$;

revoke all on function postrider.emit(text, text, jsonb, text) from public;
revoke all on function postrider.emit_quietly(text, text, jsonb, text) from public;

-- Members of this role may emit, and nothing else.
do $$
begin
    create role postrider_emitter nologin;
exception
    -- Databases of a server share roles: another installation may have created this one, or be creating it now.
    when duplicate_object or unique_violation then null;
    when insufficient_privilege then
        raise notice 'The role postrider_emitter was not created, for lack of the right to. Grant usage on schema postrider and execute on its functions to those who are to emit.';
end
$$;

do $$
begin
    if exists (select from pg_roles where rolname = 'postrider_emitter') then
        grant usage on schema postrider to postrider_emitter;
        grant execute on function postrider.emit(text, text, jsonb, text) to postrider_emitter;
        grant execute on function postrider.emit_quietly(text, text, jsonb, text) to postrider_emitter;
    end if;
end
$$;
