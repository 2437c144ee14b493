//! New deliveries of old events.

use super::accept::pattern_array;
use super::{Store, StoreError};
use crate::event_type::EventType;
use crate::ids::{ApplicationId, DeliveryId, EndpointId, EventId};

/// What became of an event that was to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// These deliveries were made.
    Deliveries(Vec<DeliveryId>),
    /// These endpoints are not the application's, or were deleted; nothing was made.
    UnknownEndpoints(Vec<EndpointId>),
    /// The payload was removed on request.
    Expunged,
    /// There is no such event.
    UnknownEvent,
}

const FIND_EVENT: &str = "-- events.find_type
select event_type, expunged_at is not null from events where id = $1 and application_id = $2";

const UNKNOWN_ENDPOINTS: &str = "-- endpoints.unknown
select i.id
from unnest($2::uuid[]) as i (id)
where not exists (
    select from endpoints e where e.id = i.id and e.application_id = $1 and e.deleted_at is null
)";

/// Endpoints are matched as they are now; those that were chosen by name are sent to whatever they
/// subscribe to, and where one of them is disabled, its delivery waits.
const REPLAY: &str = "-- events.replay
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
    where case
        when $6::uuid[] is null
        then e.is_active and e.event_types && i.patterns::text[]
             and (e.filter_path is null or v.payload @@ e.filter_path)
        else e.id = any ($6)
    end
),
delivered as (
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts, position)
    select uuid_v7(), application_id, event_id, endpoint_id, event_type, max_attempts,
           case when ordered then nextval('delivery_positions') end
    from matched
    returning id, endpoint_id
),
queued as (
    insert into outbox (delivery_id, endpoint_id)
    select id, endpoint_id from delivered
    returning id
)
select array(select id from delivered order by id),
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n)";

/// Makes new deliveries of an event: to `endpoints`, or to all that match it now.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn replay_event(
    store: &Store,
    application: ApplicationId,
    event: EventId,
    endpoints: Option<&[EndpointId]>,
) -> Result<Replayed, StoreError> {
    let client = store.durable().await?;
    let find = client.prepare_cached(FIND_EVENT).await?;
    let Some(found) = client.query_opt(&find, &[&event, &application]).await? else {
        return Ok(Replayed::UnknownEvent);
    };
    if found.get(1) {
        return Ok(Replayed::Expunged);
    }
    if let Some(endpoints) = endpoints {
        let unknown = client.prepare_cached(UNKNOWN_ENDPOINTS).await?;
        let unknown: Vec<_> = client.query(&unknown, &[&application, &endpoints]).await?;
        if !unknown.is_empty() {
            return Ok(Replayed::UnknownEndpoints(unknown.iter().map(|row| row.get(0)).collect()));
        }
    }
    let event_type = EventType::parse(found.get(0))
        .map_err(|error| StoreError::Schema(format!("the stored type of event {event} {error}")))?;
    let replay = client.prepare_cached(REPLAY).await?;
    let row = client
        .query_one(
            &replay,
            &[
                &[event].as_slice(),
                &event,
                &event,
                &application,
                &[pattern_array(&event_type)].as_slice(),
                &endpoints,
            ],
        )
        .await?;
    Ok(Replayed::Deliveries(row.get(0)))
}
