//! New deliveries of an old event.

use postrider_domain::event_type::EventType;
use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId, EventId};
use serde::Serialize;
use uuid::Uuid;

use crate::accept::pattern_array;
use crate::audit::{self, Actor, Change};
use crate::matching::unknown_endpoints;
use crate::outbox::{has_parked, most_in_line};
use crate::sql::Sql;
use crate::{Store, StoreError};

/// The result of replaying an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The deliveries that were created.
    Deliveries(Vec<DeliveryId>),
    /// These endpoints do not belong to the application or were deleted. Nothing was created.
    UnknownEndpoints(Vec<EndpointId>),
    /// The payload of the event was removed on request.
    Expunged,
    /// The event does not exist.
    UnknownEvent,
}

const FIND_EVENT: Sql = Sql::named(
    "-- events.find_type
select event_type, expunged_at is not null as is_expunged from events where id = $1 and application_id = $2",
);

/// Endpoints are matched in their current state. For a single event (`$7` is null), named endpoints get it whatever
/// they subscribe to, and the delivery of a disabled one waits. A bulk replay goes only to those that match, behind all
/// other traffic.
pub(super) const REPLAY: Sql = Sql::named(concat!(
    "-- events.replay
with event as materialized (
    select id, application_id, event_type, payload
    from events
    where id = any ($1) and id between $2 and $3 and application_id = $4 and expunged_at is null
),
matched as materialized (
    select v.id as event_id, v.application_id, v.event_type, e.id as endpoint_id, e.max_attempts, e.ordered
    from event v
    join unnest($1, $5::text[]) as i (id, patterns) on i.id = v.id
    join endpoints e on e.application_id = v.application_id and e.deleted_at is null
    where ($6::uuid[] is null or e.id = any ($6))
      and ($6 is not null and $7::uuid is null
           or e.is_active and e.event_types && i.patterns::text[]
              and (e.filter_path is null or v.payload @@ e.filter_path))
),
delivered as (
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts, position,
                            replay_id)
    select uuid_v7(), application_id, event_id, endpoint_id, event_type, max_attempts,
           case when ordered then nextval('delivery_positions') end, $7
    from (select * from matched where not $8 order by event_id) m
    returning id, endpoint_id, application_id
),
-- As when an event is accepted: new deliveries queue up behind parked ones.
backlogged as materialized (
    select endpoint_id
    from (select distinct application_id, endpoint_id from matched where $7 is null) s
    where ",
    has_parked!("s.application_id", "s.endpoint_id", "false"),
    "
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id, parked, bulk)
    select id, endpoint_id, application_id,
           $7 is not null or (endpoint_id in (select endpoint_id from backlogged)) is true
               or (select count(*) from matched) > ",
    most_in_line!(),
    ",
           $7 is not null
    from delivered
    returning parked
)
select (select count(*) from matched) as matched, array(select id from delivered where $7 is null order by id) as deliveries,
       (select count(pg_notify('postrider_outbox', case when parked then 'parked' else '' end))
        from (select distinct parked from queued where not parked or $7 is null) n) as notifications"
));

/// Creates new deliveries of an event, to `endpoints` or to all endpoints that match it now.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub async fn replay_event(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    event: EventId,
    endpoints: Option<&[EndpointId]>,
) -> Result<Replayed, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let Some(found) = FIND_EVENT.fetch_optional(&transaction, &[&event, &application]).await? else {
        return Ok(Replayed::UnknownEvent);
    };
    if found.get("is_expunged") {
        return Ok(Replayed::Expunged);
    }
    if let Some(endpoints) = endpoints {
        let unknown = unknown_endpoints(&transaction, application, endpoints).await?;
        if !unknown.is_empty() {
            return Ok(Replayed::UnknownEndpoints(unknown));
        }
    }
    let event_type = EventType::parse(found.get("event_type"))
        .map_err(|error| StoreError::unreadable(format!("the type of event {event}"), error))?;
    let (events, patterns) = ([event], [pattern_array(&event_type)]);
    let row = REPLAY
        .fetch_one(
            &transaction,
            &[
                &events.as_slice(),
                &event,
                &event,
                &application,
                &patterns.as_slice(),
                &endpoints,
                &None::<Uuid>,
                &false,
            ],
        )
        .await?;
    let deliveries: Vec<DeliveryId> = row.get("deliveries");
    let asked = Asked { endpoint_ids: endpoints, deliveries_queued: deliveries.len() };
    let change = Change::of("event.replay", event, None, Some(&asked));
    audit::note(&transaction, application, actor, change).await?;
    transaction.commit().await?;
    Ok(Replayed::Deliveries(deliveries))
}

/// What the audit log records about the replay.
#[derive(Serialize)]
struct Asked<'a> {
    endpoint_ids: Option<&'a [EndpointId]>,
    deliveries_queued: usize,
}
