//! Operational events: what Postrider itself has to tell an application. They travel as any other event
//! does, to the endpoints that subscribe to `postrider.…`, which `*` does not match.

use deadpool_postgres::Transaction;
use serde_json::{Value, json};

use super::page::id_bounds;
use super::{Store, StoreError};
use crate::event_type::{EventType, RESERVED_PREFIX};
use crate::ids::{ApplicationId, DeliveryId, EndpointId, EventId};

/// An endpoint was disabled, by hand or by Postrider.
pub const ENDPOINT_DISABLED: &str = "postrider.endpoint.disabled";
/// An endpoint was enabled again.
pub const ENDPOINT_ENABLED: &str = "postrider.endpoint.enabled";
/// An endpoint only fails: it is probed, and what is due waits.
pub const BREAKER_OPENED: &str = "postrider.endpoint.breaker_opened";
/// An endpoint has succeeded again.
pub const BREAKER_CLOSED: &str = "postrider.endpoint.breaker_closed";
/// A delivery is a dead letter.
pub const DEAD_LETTER: &str = "postrider.delivery.dead_letter";
/// A bulk replay was completed or cancelled, or has failed.
pub const REPLAY_FINISHED: &str = "postrider.replay.finished";
/// What a test sends.
pub const TEST: &str = "postrider.test";

/// Something to tell.
#[derive(Debug, Clone)]
pub struct OperationalEvent {
    /// Whom.
    pub application_id: ApplicationId,
    /// A type under [`RESERVED_PREFIX`].
    pub event_type: &'static str,
    /// A JSON object.
    pub data: Value,
    /// Only this endpoint, whatever it subscribes to, and with one attempt.
    pub only: Option<EndpointId>,
}

/// A delivery of an operational event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// The event.
    pub event_id: EventId,
    /// The delivery.
    pub delivery_id: DeliveryId,
}

/// Without an endpoint that wants it, an event is not stored. No idempotency key is taken: a producer
/// cannot collide with what has no row in `idempotency_keys`.
const EMIT: &str = "-- events.emit
with input as materialized (
    select i.application_id, i.event_type, i.patterns::text[] as patterns, i.data::jsonb as payload,
           i.endpoint_id, uuid_v7() as event_id
    from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[])
         as i (application_id, event_type, patterns, data, endpoint_id)
    join applications a on a.id = i.application_id and a.deleted_at is null
),
matched as materialized (
    select i.event_id, e.id as endpoint_id, e.ordered,
           case when i.endpoint_id is null then e.max_attempts else 1 end as max_attempts
    from input i
    join endpoints e
      on e.application_id = i.application_id and e.deleted_at is null and e.is_active
     and (
         e.id = i.endpoint_id
         or i.endpoint_id is null and e.event_types && i.patterns
            and (e.filter_path is null or i.payload @@ e.filter_path)
     )
),
stored as (
    insert into events (id, application_id, event_type, payload, idempotency_key)
    select event_id, application_id, event_type, payload, event_type || ':' || event_id
    from input
    where event_id in (select event_id from matched)
),
delivered as (
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts, position)
    select uuid_v7(), i.application_id, i.event_id, m.endpoint_id, i.event_type, m.max_attempts,
           case when m.ordered then nextval('delivery_positions') end
    from input i join matched m using (event_id)
    returning id, event_id, endpoint_id, application_id
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from delivered
    returning id
),
notified as (
    select pg_notify('postrider_outbox', '') from queued limit 1
)
select d.event_id, d.id, (select count(*) from notified) from delivered d";

/// Stores operational events and their deliveries, which go out when the transaction commits. Called in the
/// transaction of what they tell of, so that both happen or neither.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn emit(
    transaction: &Transaction<'_>,
    events: &[OperationalEvent],
) -> Result<Vec<Emitted>, StoreError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let applications: Vec<_> = events.iter().map(|event| event.application_id).collect();
    let types: Vec<_> = events.iter().map(|event| event.event_type).collect();
    let patterns: Vec<_> = types.iter().map(|event_type| patterns(event_type)).collect();
    let data: Vec<_> = events.iter().map(|event| event.data.to_string()).collect();
    let only: Vec<_> = events.iter().map(|event| event.only).collect();
    let statement = transaction.prepare_cached(EMIT).await?;
    let rows = transaction.query(&statement, &[&applications, &types, &patterns, &data, &only]).await?;
    Ok(rows.iter().map(|row| Emitted { event_id: row.get(0), delivery_id: row.get(1) }).collect())
}

/// An array literal of the patterns that match a type; their alphabet needs no quoting.
fn patterns(event_type: &str) -> String {
    let event_type = EventType::parse(event_type).expect("operational types are written here");
    let patterns: Vec<_> = event_type.matching_patterns().collect();
    format!("{{{}}}", patterns.join(","))
}

/// Those that are no operational events themselves: what comes of these is told by nothing further, or a
/// receiver that fails would keep itself busy.
const DEAD: &str = "-- deliveries.dead
select application_id, id, event_id, event_type, endpoint_id, attempt_count, last_response_status, last_error
from deliveries
where id = any ($1) and id between $2 and $3 and status = 'dead_letter'
  and not starts_with(event_type, $4)";

/// Tells of deliveries that have become dead letters in this transaction.
///
/// # Errors
/// When PostgreSQL does not answer.
pub(super) async fn emit_dead_letters(
    transaction: &Transaction<'_>,
    deliveries: &[DeliveryId],
) -> Result<(), StoreError> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let (first, last) = id_bounds(deliveries);
    let statement = transaction.prepare_cached(DEAD).await?;
    let rows = transaction.query(&statement, &[&deliveries, &first, &last, &RESERVED_PREFIX]).await?;
    let events: Vec<_> = rows
        .iter()
        .map(|row| OperationalEvent {
            application_id: row.get(0),
            event_type: DEAD_LETTER,
            data: json!({
                "delivery_id": row.get::<_, DeliveryId>(1),
                "event_id": row.get::<_, EventId>(2),
                "event_type": row.get::<_, &str>(3),
                "endpoint_id": row.get::<_, EndpointId>(4),
                "attempt_count": row.get::<_, i16>(5),
                "last_response_status": row.get::<_, Option<i16>>(6),
                "last_error": row.get::<_, Option<&str>>(7),
            }),
            only: None,
        })
        .collect();
    emit(transaction, &events).await?;
    Ok(())
}

/// What became of a test.
#[derive(Debug, Clone, Copy)]
pub enum TestSent {
    /// It is on its way.
    Sent(Emitted),
    /// The endpoint is not active.
    Inactive,
    /// There is no such endpoint.
    Unknown,
}

const EXISTS: &str = "-- endpoints.exists
select id from endpoints where application_id = $1 and id = $2 and deleted_at is null";

/// Sends a test event to one endpoint.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn send_test(
    store: &Store,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<TestSent, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let exists = transaction.prepare_cached(EXISTS).await?;
    if transaction.query_opt(&exists, &[&application, &endpoint]).await?.is_none() {
        return Ok(TestSent::Unknown);
    }
    let event = OperationalEvent {
        application_id: application,
        event_type: TEST,
        data: json!({ "endpoint_id": endpoint, "message": "This is a test of your endpoint." }),
        only: Some(endpoint),
    };
    // Nothing is sent to an endpoint that is not active.
    let sent = emit(&transaction, &[event]).await?;
    transaction.commit().await?;
    Ok(sent.first().map_or(TestSent::Inactive, |emitted| TestSent::Sent(*emitted)))
}
