-- Events emitted in a producer's own transaction, where its tables live in the same PostgreSQL: its rows and
-- the event commit or roll back together.
--
-- Emitting writes one row and nothing else. Fanning out here would block on idempotency keys, match endpoints
-- by an old snapshot, and age the outbox as long as the producer's transaction lasts. The api takes the row
-- once it is committed, and accepts it as if it had been posted.

-- What was emitted and not accepted yet.
create table inbox (
    -- Of the transaction that emits, as 64 bits. With `id` it is the order in which events are accepted, and it tells which
    -- rows were committed since the last look, wherever their ids lie.
    transaction_id bigint not null default pg_current_xact_id()::text::bigint,
    -- The order of emission within a transaction.
    id bigint generated always as identity,
    -- The application's id or uid, as the producer wrote it.
    application text not null,
    event_type text not null,
    data jsonb not null,
    -- What `data` takes as text.
    data_bytes integer not null,
    idempotency_key text not null,
    -- Written by Postrider itself, of a type that producers cannot use.
    is_operational boolean not null default false,
    -- When, and not when the transaction began: a uid means the application that has it then.
    emitted_at timestamptz not null default clock_timestamp(),
    primary key (transaction_id, id)
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 10000
);

-- What was emitted and cannot be accepted: kept as long as events are, for people to see.
create table emit_rejections (
    id uuid primary key default uuid_v7(),
    -- Null: what the producer wrote names no application.
    application_id uuid references applications (id) on delete cascade,
    application text not null,
    event_type text not null,
    data jsonb not null,
    idempotency_key text not null,
    -- As the problem body would have told it.
    code text not null,
    detail text not null,
    errors jsonb not null,
    emitted_at timestamptz not null,
    created_at timestamptz not null default now()
);

-- Rejections of an application, newest first.
create index emit_rejections_by_application on emit_rejections (application_id, id);

-- Emits an event without waking the api, which looks by itself within a second. What could harm the api is
-- refused here and now; everything else is judged after the commit. Answers the number of the emission.
--
-- It runs with the rights of the tables' owner: names are looked up where these are, whatever the caller has made.
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

-- The same, and the api is woken at the commit. Transactions that notify commit one after the other: where
-- many commit at once, emit quietly.
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

-- Whoever is in this role may emit, and nothing else.
do $$
begin
    create role postrider_emitter nologin;
exception
    -- Roles are shared by the databases of a server: another installation has it already, or makes it now.
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
