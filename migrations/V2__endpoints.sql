-- Where webhooks go, and what is known of the receivers.

create table endpoints (
    id uuid primary key default uuid_v7(),
    application_id uuid not null references applications (id),
    url text not null,
    description text not null default '',
    metadata jsonb not null default '{}',
    -- Exact names, `prefix.*`, or `*`. An event's type is expanded to every pattern that matches it, and
    -- the two arrays are compared with `&&`.
    event_types text[] not null default '{*}' check (cardinality(event_types) > 0),
    -- A payload filter, as its author wrote it, and compiled for the accept statement. Both or neither.
    filter jsonb,
    filter_path jsonpath,
    -- Sent with every webhook, by name. Those named in `sensitive_headers` are write-only.
    headers jsonb not null default '{}',
    sensitive_headers text[] not null default '{}',
    -- Requests per second; null: no limit.
    rate_limit integer default 1000 check (rate_limit > 0),
    concurrency_limit integer not null default 100 check (concurrency_limit between 1 and 1000),
    max_attempts smallint not null default 5 check (max_attempts between 1 and 20),
    -- Seconds before each retry; null: the schedule of the installation.
    retry_schedule integer[],
    -- Response statuses that are never retried; null: the default list.
    permanent_statuses smallint[],
    timeout_seconds smallint not null default 15 check (timeout_seconds between 1 and 60),
    ordered boolean not null default false,
    is_active boolean not null default true,
    disabled_reason text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    check ((filter is null) = (filter_path is null))
);

-- The endpoints of one application: matched at accept, and listed.
create index endpoints_by_application on endpoints (application_id, id) where deleted_at is null;

-- Every live row signs. Rotation adds one and gives the old one an end.
create table endpoint_secrets (
    id uuid primary key default uuid_v7(),
    endpoint_id uuid not null references endpoints (id) on delete cascade,
    algorithm text not null default 'hmac-sha256' check (algorithm in ('hmac-sha256', 'ed25519')),
    -- The key itself, or its ciphertext where `master_key_id` names the key that encrypted it.
    secret bytea not null,
    master_key_id text,
    created_at timestamptz not null default now(),
    expires_at timestamptz
);

-- The secrets of one endpoint, newest last: read by every claim.
create index endpoint_secrets_by_endpoint on endpoint_secrets (endpoint_id, id);

-- What changes with an endpoint's health, apart from its configuration: these rows are updated while
-- deliveries run, and nobody who reads an endpoint's settings should wait for that.
create table endpoint_health (
    endpoint_id uuid primary key references endpoints (id) on delete cascade,
    state text not null default 'closed' check (state in ('closed', 'open')),
    reason text,
    next_probe_at timestamptz,
    failing_since timestamptz,
    last_succeeded_at timestamptz,
    updated_at timestamptz not null default now()
) with (fillfactor = 70);

-- The catalogue of event types.
create table event_types (
    application_id uuid not null references applications (id) on delete cascade,
    name text collate "C" not null,
    description text not null default '',
    example jsonb,
    json_schema jsonb,
    -- SHA-256 of the schema: what an event was checked against is compared with it when it is stored.
    schema_hash bytea,
    -- Counts as not in the catalogue.
    is_archived boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (application_id, name),
    check ((json_schema is null) = (schema_hash is null))
);
