-- Tenants, their credentials, and the record of which schema this is.

-- The oldest service generation that may still run on this schema. A migration that breaks running
-- services raises it to its own version; every other migration leaves it alone, so that old and new
-- services run side by side during a rolling update.
create table schema_compatibility (
    only_row boolean primary key default true check (only_row),
    oldest_compatible_version integer not null
);

insert into schema_compatibility (oldest_compatible_version) values (1);

-- Time-ordered ids (RFC 9562, version 7) from the clock of PostgreSQL: new rows land at the right edge
-- of every index on an id, and no skewed host can put a row into the past or the future.
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

-- The one way in which a time is written for people and receivers: RFC 3339, UTC, microseconds.
create function rfc3339(at timestamptz) returns text
language sql stable parallel safe strict
as $$
    select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

create table applications (
    id uuid primary key default uuid_v7(),
    -- The producer's own name for it, accepted where an id is.
    uid text collate "C",
    name text not null,
    metadata jsonb not null default '{}',
    is_active boolean not null default true,
    -- Events per second that it may publish; null: no limit.
    ingest_rate_limit integer check (ingest_rate_limit > 0),
    -- True: an event of a type that is not in `event_types` is refused.
    strict_event_types boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- Deletion marks the row and takes effect at once; what belongs to it is purged in bounded steps.
    deleted_at timestamptz
);

-- A uid is unique over the installation, and free again once its application is deleted.
create unique index applications_by_uid on applications (uid) where deleted_at is null;

-- Whose publishing is limited: until when events are drawn already, by whichever API. Drawn in advance for a
-- tenth of a second, so that these rows are written to a few times a second and never with an event.
create table ingest_budgets (
    application_id uuid primary key references applications (id) on delete cascade,
    drawn_until timestamptz not null default now()
) with (fillfactor = 50);

create table api_keys (
    id uuid primary key default uuid_v7(),
    application_id uuid not null references applications (id) on delete cascade,
    name text not null,
    -- The first characters of the key, for people to recognise it by.
    prefix text not null,
    -- SHA-256 of the whole key. Keys are 256 bits of randomness, so that a fast hash is the right one.
    key_hash bytea not null,
    scopes text[] not null default '{publish,read,manage}'
        check (cardinality(scopes) > 0 and scopes <@ '{publish,read,manage}'),
    expires_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz not null default now()
);

-- Every authenticated request, and every accepted event, looks its key up by hash.
create unique index api_keys_by_hash on api_keys (key_hash);
-- The keys of one application, in order of creation.
create index api_keys_by_application on api_keys (application_id, id);
