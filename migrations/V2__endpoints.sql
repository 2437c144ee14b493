-- Where webhooks go, and what is known of the receivers.

create table endpoints (
    id uuid primary key default uuid_v7(),
    application_id uuid not null references applications (id),
    -- With `***` in place of the values of its query, which are in `url_query`: the whole query as a text, or, where
    -- it is encrypted, {"key": the master key's id, "sealed": base64}. Null: the URL has no such values.
    url text not null,
    url_query jsonb,
    description text not null default '',
    metadata jsonb not null default '{}',
    -- Exact names, `prefix.*`, or `*`. An event's type is expanded to every pattern that matches it, and
    -- the two arrays are compared with `&&`.
    event_types text[] not null default '{*}' check (cardinality(event_types) > 0),
    -- What the comparison costs, in the same steps as those of filters.
    pattern_steps integer not null default 3,
    -- A payload filter, as its author wrote it, and compiled for the accept statement. Both or neither.
    filter jsonb,
    filter_path jsonpath,
    -- What an evaluation costs at most, whatever the payload; 0 without a filter.
    filter_steps integer not null default 0,
    -- Sent with every webhook, by name. The values of those named in `sensitive_headers` are write-only;
    -- an encrypted one is {"key": the master key's id, "sealed": base64} instead of a text.
    headers jsonb not null default '{}',
    sensitive_headers text[] not null default '{}',
    -- Requests per second; null: no limit.
    rate_limit integer default 1000 check (rate_limit > 0),
    concurrency_limit integer not null default 100 check (concurrency_limit between 1 and 1000),
    max_attempts smallint not null default 10 check (max_attempts between 1 and 20),
    -- Seconds before each retry; null: the schedule of the installation.
    retry_schedule integer[],
    -- Response statuses that are never retried.
    permanent_statuses smallint[] not null default '{}',
    timeout_seconds smallint not null default 15 check (timeout_seconds between 1 and 60),
    ordered boolean not null default false,
    is_active boolean not null default true,
    -- Why it is not active, where a reason was given.
    disabled_reason text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    check ((filter is null) = (filter_path is null))
);

-- The endpoints of one application: matched at accept, listed, and purged with it.
create index endpoints_by_application on endpoints (application_id, id);
-- Headers and queries that may be encrypted: what a change of the master key looks through.
create index endpoints_with_secret_values on endpoints (id) where sensitive_headers <> '{}' or url_query is not null;

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
-- Which master keys are in use, and what is left to encrypt anew after one was changed.
create index endpoint_secrets_by_master_key on endpoint_secrets (master_key_id, id);

-- What changes with an endpoint's health, apart from its configuration: these rows are updated while
-- deliveries run, and nobody who reads an endpoint's settings should wait for that.
create table endpoint_health (
    endpoint_id uuid primary key references endpoints (id) on delete cascade,
    state text not null default 'closed' check (state in ('closed', 'open')),
    reason text,
    next_probe_at timestamptz,
    -- All attempts have failed from then on, with no two days without any; null: the last ones did not.
    failing_since timestamptz,
    -- Kept to within an hour, so that a failing endpoint is not written to with every attempt.
    last_failed_at timestamptz,
    -- When it last came back from failing, or was enabled: what failed before does not count.
    cleared_at timestamptz,
    -- When it was last seen to wait for its rate limit; every few seconds while it does.
    throttled_at timestamptz,
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

-- What is left to be done after something was deleted or withdrawn, for the relay to do in bounded steps.
create table cleanups (
    id bigint generated always as identity primary key,
    -- Cancel an endpoint's open deliveries; queue those of one that keeps the order no longer; remove a deleted
    -- endpoint; remove all that is a deleted application's.
    kind text not null check (kind in ('cancel', 'queue', 'endpoint', 'application')),
    -- The endpoint or the application.
    owner_id uuid not null,
    -- Told by the deliveries that are cancelled.
    reason text not null default '',
    -- Deliveries with greater ids are left alone.
    until_id uuid not null default 'ffffffff-ffff-ffff-ffff-ffffffffffff',
    -- How far it has come: the phase, and the last key that the phase has dealt with.
    phase smallint not null default 0,
    cursor text,
    -- Not to be looked at before: a phase may wait for statements under way to end.
    not_before timestamptz not null default now(),
    created_at timestamptz not null default now()
);
