//! Operational events: what Postrider itself reports to an application. They are delivered like other events, to the
//! endpoints that subscribe to `postrider.…`, which `*` does not match.

use deadpool_postgres::Transaction;
use postrider_domain::event_type::{EventType, RESERVED_PREFIX};
use postrider_domain::ids::{ApplicationId, DeliveryId, EndpointId, EventId};
use serde_json::{Value, json};

use crate::page::id_bounds;
use crate::sql::Sql;
use crate::{Store, StoreError};

/// An endpoint was disabled, manually or by Postrider.
pub const ENDPOINT_DISABLED: &str = "postrider.endpoint.disabled";
/// An endpoint was enabled again.
pub const ENDPOINT_ENABLED: &str = "postrider.endpoint.enabled";
/// All attempts to an endpoint fail. It is probed, and its other deliveries wait.
pub const BREAKER_OPENED: &str = "postrider.endpoint.breaker_opened";
/// An endpoint has succeeded again.
pub const BREAKER_CLOSED: &str = "postrider.endpoint.breaker_closed";
/// A delivery has become a dead letter.
pub const DEAD_LETTER: &str = "postrider.delivery.dead_letter";
/// A bulk replay was completed or cancelled, or has failed.
pub const REPLAY_FINISHED: &str = "postrider.replay.finished";
/// The type of test events.
pub const TEST: &str = "postrider.test";

/// An operational event to emit.
#[derive(Debug, Clone)]
pub struct OperationalEvent {
    /// The application that receives it.
    pub application_id: ApplicationId,
    /// A type with the prefix [`RESERVED_PREFIX`].
    pub event_type: &'static str,
    /// A JSON object.
    pub data: Value,
}

/// Inserts one row for each event that an endpoint subscribes to. The API accepts it as if a producer had emitted it.
/// Its deliveries are thus created in small transactions, in turn with those of other applications. A transaction in
/// which a hundred deliveries become dead letters does not create a hundred thousand more.
///
/// The key is random, so that no producer can use it first.
const EMIT: Sql = Sql::named(
    "-- inbox.emit_operational
with input as materialized (
    select i.application_id, i.event_type, i.patterns, i.data
    from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as i (application_id, event_type, patterns, data)
),
wanted as materialized (
    select w.application_id, w.event_type
    from (select distinct application_id, event_type, patterns from input) w
    where exists (
        select
        from endpoints e
        where e.application_id = w.application_id and e.deleted_at is null and e.is_active
          and e.event_types && w.patterns::text[]
    )
),
put as (
    insert into inbox (application, event_type, data, data_bytes, idempotency_key, is_operational)
    select i.application_id, i.event_type, i.data::jsonb, octet_length(i.data),
           i.event_type || ':' || gen_random_uuid(), true
    from input i join wanted using (application_id, event_type)
    returning id
)
select count(pg_notify('postrider_inbox', '')) as notifications from (select from put limit 1) n",
);

/// Stores operational events, which the API accepts once the transaction has committed. Call it in the transaction of
/// the change that they report, so that both happen or neither.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn emit(transaction: &Transaction<'_>, events: &[OperationalEvent]) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let applications: Vec<_> = events.iter().map(|event| event.application_id).collect();
    let types: Vec<_> = events.iter().map(|event| event.event_type).collect();
    let patterns: Vec<_> = types.iter().map(|event_type| patterns(event_type)).collect();
    let data: Vec<_> = events.iter().map(|event| event.data.to_string()).collect();
    EMIT.fetch_one(transaction, &[&applications, &types, &patterns, &data]).await?;
    Ok(())
}

/// Formats the patterns that match a type as an array literal. Their characters need no quoting.
fn patterns(event_type: &str) -> String {
    let event_type = EventType::parse(event_type).expect("the operational types above are valid");
    let patterns: Vec<_> = event_type.matching_patterns().collect();
    format!("{{{}}}", patterns.join(","))
}

/// Excludes deliveries of operational events. No operational event is sent about operational events, or a failing
/// receiver would cause an endless sequence of them.
const DEAD: Sql = Sql::named(
    "-- deliveries.dead
select application_id, id, event_id, event_type, endpoint_id, attempt_count, last_response_status, last_error
from deliveries
where id = any ($1) and id between $2 and $3 and status = 'dead_letter'
  and not starts_with(event_type, $4)",
);

/// Emits operational events about deliveries that have become dead letters in this transaction.
///
/// # Errors
/// [`StoreError`] if a statement fails.
pub(super) async fn emit_dead_letters(
    transaction: &Transaction<'_>,
    deliveries: &[DeliveryId],
) -> Result<(), StoreError> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let (first, last) = id_bounds(deliveries);
    let rows = DEAD.fetch_all(transaction, &[&deliveries, &first, &last, &RESERVED_PREFIX]).await?;
    let events: Vec<_> = rows
        .iter()
        .map(|row| OperationalEvent {
            application_id: row.get("application_id"),
            event_type: DEAD_LETTER,
            data: json!({
                "delivery_id": row.get::<_, DeliveryId>("id"),
                "event_id": row.get::<_, EventId>("event_id"),
                "event_type": row.get::<_, &str>("event_type"),
                "endpoint_id": row.get::<_, EndpointId>("endpoint_id"),
                "attempt_count": row.get::<_, i16>("attempt_count"),
                "last_response_status": row.get::<_, Option<i16>>("last_response_status"),
                "last_error": row.get::<_, Option<&str>>("last_error"),
            }),
        })
        .collect();
    emit(transaction, &events).await
}

/// The result of sending a test event.
#[derive(Debug, Clone, Copy)]
pub enum TestSent {
    /// The test event is queued.
    Sent {
        /// The id of the event.
        event_id: EventId,
        /// The id of its only delivery.
        delivery_id: DeliveryId,
    },
    /// The endpoint is not active.
    Inactive,
    /// The endpoint does not exist.
    Unknown,
}

/// Creates one delivery with one attempt, whatever the endpoint subscribes to. No idempotency key is stored.
const SEND_TEST: Sql = Sql::named(include_str!("sql/endpoints.send_test.sql"));

/// Sends a test event to one endpoint, unless it is disabled.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn send_test(
    store: &Store,
    application: ApplicationId,
    endpoint: EndpointId,
) -> Result<TestSent, StoreError> {
    let client = store.durable().await?;
    let data = json!({ "endpoint_id": endpoint, "message": "This is a test of your endpoint." }).to_string();
    let Some(row) = SEND_TEST.fetch_optional(&client, &[&application, &endpoint, &TEST, &data]).await? else {
        return Ok(TestSent::Unknown);
    };
    Ok(match row.get("delivery_id") {
        Some(delivery_id) => TestSent::Sent { event_id: row.get("event_id"), delivery_id },
        None => TestSent::Inactive,
    })
}
