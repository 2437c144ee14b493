-- Endpoints, their secrets and health; event types; cleanups.

create table endpoints (
    id uuid primary key default uuid_v7(),
    application_id uuid not null references applications (id),
    -- The URL with `***` in place of the values in its query, which may be secret. The whole query is in `url_query`:
    -- a string, or, if encrypted, {"key": id of the master key, "sealed": base64}. Null: the query has no values.
    url text not null,
    url_query jsonb,
    description text not null default '',
    metadata jsonb not null default '{}',
    -- Exact names, `prefix.*` or `*`. An event's type is expanded to all patterns that match it, so that `&&` on the
    -- two arrays finds the match.
    event_types text[] not null default '{*}' check (cardinality(event_types) > 0),
    -- Cost of that comparison, in the same steps as `filter_steps`.
    pattern_steps integer not null default 3,
    -- A payload filter as the user wrote it, and the same filter compiled for the accept statement. Both or neither.
    filter jsonb,
    filter_path jsonpath,
    -- Maximum cost of an evaluation, for any payload. 0 without a filter.
    filter_steps integer not null default 0,
    -- Sent with every webhook, keyed by name. Headers named in `sensitive_headers` have write-only values. An encrypted
    -- value is {"key": id of the master key, "sealed": base64} instead of a string.
    headers jsonb not null default '{}',
    sensitive_headers text[] not null default '{}',
    -- Requests per second. Null: no limit.
    rate_limit integer default 1000 check (rate_limit > 0),
    concurrency_limit integer not null default 100 check (concurrency_limit between 1 and 1000),
    max_attempts smallint not null default 10 check (max_attempts between 1 and 20),
    -- Seconds before each retry. Null: the installation's schedule.
    retry_schedule integer[],
    -- Response statuses that are never retried.
    permanent_statuses smallint[] not null default '{}',
    timeout_seconds smallint not null default 15 check (timeout_seconds between 1 and 60),
    ordered boolean not null default false,
    is_active boolean not null default true,
    -- Why it is inactive, if a reason was given.
    disabled_reason text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    check ((filter is null) = (filter_path is null))
);

-- An application's endpoints: to match events, to list them, and to remove them with the application.
create index endpoints_by_application on endpoints (application_id, id);
-- Endpoints with headers or queries that may be encrypted, for `rekey`.
create index endpoints_with_secret_values on endpoints (id) where sensitive_headers <> '{}' or url_query is not null;

-- Every secret that has not expired signs. A rotation adds a row and sets `expires_at` of the old one.
create table endpoint_secrets (
    id uuid primary key default uuid_v7(),
    endpoint_id uuid not null references endpoints (id) on delete cascade,
    algorithm text not null default 'hmac-sha256' check (algorithm in ('hmac-sha256', 'ed25519')),
    -- The key itself, or its ciphertext if `master_key_id` names the master key that encrypted it.
    secret bytea not null,
    master_key_id text,
    created_at timestamptz not null default now(),
    expires_at timestamptz
);

-- An endpoint's secrets, newest last. Every claim reads them.
create index endpoint_secrets_by_endpoint on endpoint_secrets (endpoint_id, id);
-- The master keys in use, and the secrets that `rekey` still has to encrypt.
create index endpoint_secrets_by_master_key on endpoint_secrets (master_key_id, id);

-- An endpoint's health, separate from its settings, because health is updated while webhooks are sent, and no reader
-- of the settings should wait for that.
create table endpoint_health (
    endpoint_id uuid primary key references endpoints (id) on delete cascade,
    state text not null default 'closed' check (state in ('closed', 'open')),
    reason text,
    next_probe_at timestamptz,
    -- All attempts since then have failed, with no gap of two days between attempts. Null: not failing.
    failing_since timestamptz,
    -- Accurate to an hour, so that not every failed attempt updates this row.
    last_failed_at timestamptz,
    -- When it last recovered or was enabled. Earlier failures do not count.
    cleared_at timestamptz,
    -- When it last waited for its rate limit. Updated every few seconds while it does.
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
    -- SHA-256 of the schema. The accept statement compares it with the hash of the schema that the event was checked
    -- against.
    schema_hash bytea,
    -- An archived type counts as absent from the catalogue.
    is_archived boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (application_id, name),
    check ((json_schema is null) = (schema_hash is null))
);

-- Work that remains after a deletion or a similar change. The relay does it in bounded steps.
create table cleanups (
    id bigint generated always as identity primary key,
    -- `cancel`: cancel an endpoint's open deliveries. `queue`: queue the deliveries of an endpoint that is no longer
    -- ordered. `endpoint`: remove a deleted endpoint. `application`: remove a deleted application and all its data.
    kind text not null check (kind in ('cancel', 'queue', 'endpoint', 'application')),
    -- Id of the endpoint or application.
    owner_id uuid not null,
    -- `last_error` of the deliveries that are cancelled.
    reason text not null default '',
    -- Deliveries with greater ids are left alone.
    until_id uuid not null default 'ffffffff-ffff-ffff-ffff-ffffffffffff',
    -- Progress: the phase, and the last key that the phase has handled.
    phase smallint not null default 0,
    cursor text,
    -- Not before this time. A phase may have to wait until statements that are still running have ended.
    not_before timestamptz not null default now(),
    created_at timestamptz not null default now()
);
