//! Accepting events: many at once, in one statement that is its own transaction.

use postrider_domain::event::{Accepted, NewEvent, Producer, SchemaCheck};
use postrider_domain::event_type::EventType;
use postrider_domain::ids::{ApplicationId, EventId};

use crate::matching::matching_cost;
use crate::outbox::{has_parked, most_in_line};
use crate::sql::{Sql, read};
use crate::{Store, StoreError, from_row};

/// Stores a batch of events. Equal keys are collapsed to the first of them, and keys are inserted in sorted order, so
/// that two batches cannot deadlock. Endpoints are matched in this statement, so that one that was created a moment ago
/// counts. There is one notification for the whole batch.
///
/// Postrider's own operational events, which producers cannot publish, are stored whatever the settings of the
/// application.
///
/// Each step passes on everything that is known about an event, and `(… in (…)) is true` uses a hash table. PostgreSQL
/// expects each step to return one row, so a join of two steps would compare every event with every other.
const ACCEPT: Sql = Sql::named(concat!(
    "-- events.accept
with input as materialized (
    select i.ordinal, i.idempotency_key, i.event_type, i.patterns::text[] as patterns,
           i.data::jsonb as payload, a.id as application_id,
           case
               when i.key_hash is not null and (k.id is null or k.expires_at <= now()) then 'unknown_key'
               when a.id is null or a.deleted_at is not null then 'unknown_application'
               when k.id is not null and not 'publish' = any(k.scopes) then 'forbidden'
               when not a.is_active and not starts_with(i.event_type, 'postrider.') then 'inactive_application'
               when a.ingest_rate_limit is not null and not i.is_admitted then 'not_admitted'
               when t.name is null and a.strict_event_types and not starts_with(i.event_type, 'postrider.') then 'unknown_event_type'
               when t.schema_hash is distinct from i.schema_hash then 'schema_changed'
               when i.is_violated then 'schema_violation'
           end as refusal
    from unnest($1::bytea[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::boolean[],
                $9::boolean[])
         with ordinality
         as i (key_hash, application_id, idempotency_key, event_type, patterns, data, schema_hash, is_violated,
               is_admitted, ordinal)
    -- Lateral lookups, not joins: a plan that was made while a table was small would read all of it.
    left join lateral (
        select k.id, k.application_id, k.expires_at, k.scopes
        from api_keys k
        where k.key_hash = i.key_hash
        limit 1
    ) k on true
    left join lateral (
        select a.id, a.deleted_at, a.is_active, a.ingest_rate_limit, a.strict_event_types
        from applications a
        where a.id = coalesce(k.application_id, i.application_id)
        limit 1
    ) a on true
    left join lateral (
        select t.name, t.schema_hash
        from event_types t
        where t.application_id = a.id and t.name = i.event_type and not t.is_archived
        limit 1
    ) t on true
),
judged as materialized (
    select ordinal, application_id, idempotency_key, event_type, patterns, payload,
           case
               -- In order: events after one that must be checked again wait for it.
               when $10 and refusal is null and exists (
                   select from input b
                   where b.application_id = i.application_id and b.ordinal < i.ordinal
                     and b.refusal = 'schema_changed'
               ) then 'schema_changed'
               else refusal
           end as refusal,
           sha256(convert_to(event_type || ' ' || payload::text, 'UTF8')) as event_hash
    from input i
),
candidate as materialized (
    select *,
           case
               when refusal is null and 1 = row_number() over (
                   partition by application_id, idempotency_key
                   order by refusal is not null, ordinal
               )
               then uuid_v7()
           end as event_id
    from judged
),
fanned as materialized (
    select c.*, f.cost, f.endpoint_ids, f.max_attempts, f.ordered,
           coalesce(cardinality(f.endpoint_ids), 0) as deliveries
    from candidate c
    cross join lateral (
        select ",
    matching_cost!("s", "s.is_subscribed"),
    "::integer as cost,
               array_agg(s.id) filter (where s.is_matched) as endpoint_ids,
               array_agg(s.max_attempts) filter (where s.is_matched) as max_attempts,
               array_agg(s.ordered) filter (where s.is_matched) as ordered
        from (
            select t.*,
                   case
                       when t.is_subscribed then t.filter_path is null or c.payload @@ t.filter_path
                   end as is_matched
            from (
                select e.id, e.max_attempts, e.ordered, e.filter_path, e.filter_steps, e.pattern_steps,
                       e.event_types && c.patterns as is_subscribed
                from endpoints e
                where c.event_id is not null and e.application_id = c.application_id
                  and e.deleted_at is null and e.is_active
                -- Optimisation fences: each match is evaluated once.
                offset 0
            ) t
            offset 0
        ) s
    ) f
),
keyed as (
    insert into idempotency_keys (application_id, idempotency_key, event_id, event_hash, deliveries_queued)
    select application_id, idempotency_key, event_id, event_hash, deliveries
    from fanned
    where event_id is not null
    order by application_id, idempotency_key
    on conflict do nothing
    returning event_id
),
stored as (
    insert into events (id, application_id, event_type, payload, idempotency_key)
    select event_id, application_id, event_type, payload, idempotency_key
    from fanned
    where (event_id in (select event_id from keyed)) is true
),
delivered as (
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts, position)
    select uuid_v7(), application_id, event_id, endpoint_id, event_type, max_attempts,
           case when ordered then nextval('delivery_positions') end
    from (
        select f.application_id, f.event_id, d.endpoint_id, f.event_type, d.max_attempts, d.ordered
        from fanned f
        cross join lateral unnest(f.endpoint_ids, f.max_attempts, f.ordered)
            as d (endpoint_id, max_attempts, ordered)
        where (f.event_id in (select event_id from keyed)) is true
        order by f.ordinal
    ) d
    returning id, endpoint_id, application_id, event_id
),
-- New deliveries of an endpoint that has parked rows are parked at once. They would otherwise go through the relay,
-- which takes from all endpoints in one line, and make other endpoints wait behind this backlog.
backlogged as materialized (
    select endpoint_id
    from (select distinct application_id, unnest(endpoint_ids) as endpoint_id from fanned) s
    where ",
    has_parked!("s.application_id", "s.endpoint_id", "false"),
    "
),
-- The same for an event with very many deliveries.
large as materialized (
    select event_id from fanned where deliveries > ",
    most_in_line!(),
    " and (event_id in (select event_id from keyed)) is true
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id, parked)
    select id, endpoint_id, application_id,
           (endpoint_id in (select endpoint_id from backlogged)) is true or (event_id in (select event_id from large)) is true
    from delivered
    returning parked
),
notified as (
    (select pg_notify('postrider_outbox', '') from queued where not parked limit 1)
    union all
    (select pg_notify('postrider_outbox', 'parked') from large limit 1)
)
select ordinal, refusal, application_id, event_hash,
       case when (event_id in (select event_id from keyed)) is true then event_id end as event_id,
       deliveries, cost, (select count(*) from notified) as notifications
from fanned"
));

/// Finds what was stored earlier under a key. It is a separate statement because the snapshot of the other one may be
/// older than the commit that won the key.
const FIND_BY_KEY: Sql = Sql::named(
    "-- idempotency_keys.find
select i.ordinal, k.event_id, k.event_hash, k.deliveries_queued
from unnest($1::uuid[], $2::text[]) with ordinality as i (application_id, idempotency_key, ordinal)
join idempotency_keys k
  on k.application_id = i.application_id and k.idempotency_key = i.idempotency_key",
);

/// A row of [`ACCEPT`].
struct Judged<'a> {
    ordinal: i64,
    refusal: Option<&'a str>,
    application_id: Option<ApplicationId>,
    event_hash: &'a [u8],
    event_id: Option<EventId>,
    deliveries: i32,
    cost: i32,
}

from_row!(Judged<'row> { ordinal, refusal, application_id, event_hash, event_id, deliveries, cost });

/// A row of [`FIND_BY_KEY`].
struct Known<'a> {
    ordinal: i64,
    event_id: EventId,
    event_hash: &'a [u8],
    deliveries_queued: i32,
}

from_row!(Known<'row> { ordinal, event_id, event_hash, deliveries_queued });

/// Stores events with their deliveries and outbox rows. Returns one result for each event, in the same order. Every
/// event with the result `Stored` is on disk. With `in_order`, no event is stored before an earlier one of its
/// application that is `SchemaChanged`.
///
/// # Errors
/// [`StoreError`] if nothing was stored. [`StoreError::is_data_error`] and [`StoreError::is_contention`] mean that one
/// of the events is at fault, and that the others can be stored without it.
pub async fn accept(store: &Store, events: &[NewEvent], in_order: bool) -> Result<Vec<Accepted>, StoreError> {
    let client = store.accepting().await?;
    let mut key_hashes: Vec<Option<&[u8]>> = Vec::with_capacity(events.len());
    let mut applications: Vec<Option<ApplicationId>> = Vec::with_capacity(events.len());
    for event in events {
        let (hash, application) = match &event.producer {
            Producer::Key(hash) => (Some(hash.as_slice()), None),
            Producer::Admin(application) => (None, Some(*application)),
        };
        key_hashes.push(hash);
        applications.push(application);
    }
    let keys: Vec<&str> = events.iter().map(|event| event.idempotency_key.as_str()).collect();
    let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    let patterns: Vec<String> = events.iter().map(|event| pattern_array(&event.event_type)).collect();
    let data: Vec<&str> = events.iter().map(|event| &*event.data).collect();
    let hashes: Vec<Option<&[u8]>> = events.iter().map(|event| event.schema.hash()).collect();
    let violated: Vec<bool> =
        events.iter().map(|event| matches!(event.schema, SchemaCheck::Violates(_))).collect();
    let admitted: Vec<bool> = events.iter().map(|event| event.is_admitted).collect();
    let rows = ACCEPT
        .fetch_all(
            &client,
            &[
                &key_hashes,
                &applications,
                &keys,
                &types,
                &patterns,
                &data,
                &hashes,
                &violated,
                &admitted,
                &in_order,
            ],
        )
        .await?;

    let mut answers: Vec<Option<Accepted>> = vec![None; events.len()];
    // These may have been stored earlier under the same keys.
    let mut unstored = Vec::new();
    for row in &rows {
        let judged: Judged<'_> = read(row);
        let index = index_of(judged.ordinal);
        if let Some(refusal) = judged.refusal {
            answers[index] = Some(refused(refusal, judged.application_id));
            // An event that was accepted once stays accepted, even if the catalogue has changed since.
            if matches!(refusal, "unknown_event_type" | "schema_violation") {
                unstored.push(judged);
            }
        } else if let Judged { event_id: Some(event_id), deliveries: deliveries_queued, cost, .. } = judged {
            answers[index] = Some(Accepted::Stored { event_id, deliveries_queued, duplicate: false, cost });
        } else {
            unstored.push(judged);
        }
    }
    if !unstored.is_empty() {
        let applications: Vec<_> = unstored.iter().map(|judged| judged.application_id).collect();
        let unstored_keys: Vec<&str> = unstored.iter().map(|judged| keys[index_of(judged.ordinal)]).collect();
        for row in &FIND_BY_KEY.fetch_all(&client, &[&applications, &unstored_keys]).await? {
            let known: Known<'_> = read(row);
            let judged = &unstored[index_of(known.ordinal)];
            let Known { event_id, deliveries_queued, .. } = known;
            answers[index_of(judged.ordinal)] = Some(if known.event_hash == judged.event_hash {
                Accepted::Stored { event_id, deliveries_queued, duplicate: true, cost: 0 }
            } else {
                Accepted::KeyReused
            });
        }
    }
    // A key that was neither free nor found has expired in between, together with its event.
    answers.into_iter().collect::<Option<Vec<_>>>().ok_or(StoreError::KeyExpired)
}

fn index_of(ordinal: i64) -> usize {
    usize::try_from(ordinal - 1).expect("ordinality counts from 1")
}

/// Formats all matching patterns as an array literal. Their characters need no quoting.
pub(super) fn pattern_array(event_type: &EventType) -> String {
    let patterns: Vec<_> = event_type.matching_patterns().collect();
    format!("{{{}}}", patterns.join(","))
}

fn refused(reason: &str, application: Option<ApplicationId>) -> Accepted {
    match (reason, application) {
        ("unknown_event_type", _) => Accepted::UnknownEventType,
        ("schema_changed", Some(application)) => Accepted::SchemaChanged(application),
        ("not_admitted", Some(application)) => Accepted::NotAdmitted(application),
        ("schema_violation", _) => Accepted::SchemaViolation,
        ("unknown_key", _) => Accepted::UnknownKey,
        ("forbidden", _) => Accepted::Forbidden,
        ("inactive_application", _) => Accepted::InactiveApplication,
        _ => Accepted::UnknownApplication,
    }
}
