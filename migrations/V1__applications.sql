-- Tenants, their credentials, and the version of the schema.

-- The oldest program version that can use this schema, given as the schema version it was built with. A migration that
-- breaks running services sets it to its own version. Other migrations leave it unchanged, so that old and new services
-- can run together during a rolling update.
create table schema_compatibility (
    only_row boolean primary key default true check (only_row),
    oldest_compatible_version integer not null
);

insert into schema_compatibility (oldest_compatible_version) values (1);

-- Time-ordered ids (RFC 9562, version 7) by PostgreSQL's clock. New rows land at the right edge of every index on an
-- id, and a host with a wrong clock cannot put a row into the past or the future.
create function uuid_v7() returns uuid
language sql volatile parallel safe
as $$
    select encode(
        set_bit(
            set_bit(
                overlay(
                    uuid_send(gen_random_uuid())
                    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                    from 1 for 6
                ),
                52, 1
            ),
            53, 1
        ),
        'hex'
    )::uuid
$$;

-- The only format for times that users and receivers see: RFC 3339, UTC, microseconds.
create function rfc3339(at timestamptz) returns text
language sql stable parallel safe strict
as $$
    select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

create table applications (
    id uuid primary key default uuid_v7(),
    -- The producer's own identifier, accepted wherever the id is.
    uid text collate "C",
    name text not null,
    metadata jsonb not null default '{}',
    is_active boolean not null default true,
    -- Events per second that it may publish. Null: no limit.
    ingest_rate_limit integer check (ingest_rate_limit > 0),
    -- Refuse events whose type is not in `event_types`.
    strict_event_types boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- A deletion sets this and takes effect at once. The application's data is then removed in bounded steps.
    deleted_at timestamptz
);

-- A uid is unique in the installation, and can be used again once its application is deleted.
create unique index applications_by_uid on applications (uid) where deleted_at is null;

-- Applications with an `ingest_rate_limit`, and up to what time API processes have drawn from their budgets. A process
-- draws a tenth of a second in advance, so a row is updated only a few times per second, and never by the statement
-- that stores events.
create table ingest_budgets (
    application_id uuid primary key references applications (id) on delete cascade,
    drawn_until timestamptz not null default now()
) with (fillfactor = 50);

create table api_keys (
    id uuid primary key default uuid_v7(),
    application_id uuid not null references applications (id) on delete cascade,
    name text not null,
    -- The first characters of the key, so that people can recognise it.
    prefix text not null,
    -- SHA-256 of the whole key. A fast hash is safe here, because a key is 256 random bits.
    key_hash bytea not null,
    scopes text[] not null default '{publish,read,manage}'
        check (cardinality(scopes) > 0 and scopes <@ '{publish,read,manage}'),
    expires_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz not null default now()
);

-- Every authenticated request and every accepted event looks up its key by hash.
create unique index api_keys_by_hash on api_keys (key_hash);
-- An application's keys, in order of creation.
create index api_keys_by_application on api_keys (application_id, id);
