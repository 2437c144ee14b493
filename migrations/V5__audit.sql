-- Who changed what.

create table audit_log (
    id uuid primary key default uuid_v7(),
    -- Whose resource it is. What was noted of an application outlives it.
    application_id uuid not null,
    -- `postrider` is the installation itself, as when it disables an endpoint.
    actor text not null check (actor in ('admin', 'api_key', 'postrider')),
    -- The key that was used, and its first characters, for people.
    api_key_id uuid,
    api_key_prefix text,
    -- What was done, such as `endpoint.update`.
    action text not null,
    resource_type text not null,
    -- Its id, or its name where that is what it goes by.
    resource_id text collate "C" not null,
    -- The fields that were changed, as they were and as they are; null: it was not there, or is no more.
    -- Secrets are left out.
    before jsonb,
    after jsonb,
    created_at timestamptz not null default now(),
    check ((actor = 'api_key') = (api_key_id is not null))
);

-- Entries of an application, newest first.
create index audit_log_by_application on audit_log (application_id, id);

-- A field as the audit log keeps it: a long one by its length and its beginning, because the log is kept for ever.
create function audited(value jsonb) returns jsonb
language sql immutable parallel safe
return case
    when octet_length(value::text) <= 4096 then value
    else jsonb_build_object('bytes', octet_length(value::text), 'beginning', left(value::text, 256))
end;
