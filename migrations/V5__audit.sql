-- Who changed what.

create table audit_log (
    id uuid primary key default uuid_v7(),
    -- The application that the resource belongs to. Its entries are kept after it is deleted.
    application_id uuid not null,
    -- `postrider` is Postrider itself, for example when it disables an endpoint.
    actor text not null check (actor in ('admin', 'api_key', 'postrider')),
    -- The key that was used, and its first characters, so that people can recognise it.
    api_key_id uuid,
    api_key_prefix text,
    -- For example `endpoint.update`.
    action text not null,
    resource_type text not null,
    -- Its id, or its name if it has no id.
    resource_id text collate "C" not null,
    -- The changed fields, before and after, without secrets. Null: the resource did not exist before, or does not exist
    -- after.
    before jsonb,
    after jsonb,
    created_at timestamptz not null default now(),
    check ((actor = 'api_key') = (api_key_id is not null))
);

-- An application's entries, newest first.
create index audit_log_by_application on audit_log (application_id, id);

-- A field as the audit log stores it. Long values are replaced by their length and beginning, because the log is never
-- deleted.
create function audited(value jsonb) returns jsonb
language sql immutable parallel safe
return case
    when octet_length(value::text) <= 4096 then value
    else jsonb_build_object('bytes', octet_length(value::text), 'beginning', left(value::text, 256))
end;
