//! Removes the payload of an event on request, together with the responses of its receivers.

use postrider_domain::ids::{ApplicationId, DeliveryId, EventId, LeaseId};
use serde::Serialize;
use uuid::Uuid;

use crate::audit::{self, Actor, Change};
use crate::page::IdRange;
use crate::sql::Sql;
use crate::{Store, StoreError};

/// The `last_error` of deliveries that are cancelled by it. A late record of an attempt recognises it, and stores no
/// body.
pub(super) const REASON: &str = "the payload of the event was removed on request";

/// The number of deliveries that one step processes.
const STEP: i64 = 500;

/// From here on nothing more is sent, because every claim checks this mark.
const MARK: Sql = Sql::named(
    "-- events.expunge
with seen as materialized (
    select id, expunged_at
    from events
    where id = $1 and application_id = $2
    for no key update
),
marked as (
    update events v
    set payload = '{}', expunged_at = now()
    from seen s
    where v.id = s.id and s.expunged_at is null
)
select expunged_at is null as has_data from seen",
);

const CANCEL: Sql = Sql::named(include_str!("sql/deliveries.expunge.sql"));

/// Nothing was sent, so the attempt does not count.
const CANCEL_CLAIMED: Sql = Sql::named(
    "-- deliveries.cancel_expunged
with locked as materialized (
    select d.id
    from deliveries d
    join events v on v.id = d.event_id and v.expunged_at is not null
    where d.id = $1 and d.lease_id = $2
    for no key update of d
),
cancelled as (
    update deliveries d
    set status = 'cancelled', attempt_count = d.attempt_count - 1, next_retry_at = null, lease_id = null,
        completed_at = now(), last_error = $3
    from locked l
    where d.id = l.id
    returning d.id, d.endpoint_id, d.application_id, d.position
),
passed as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from cancelled where position is not null
    returning id
)
select (select count(*) from cancelled) as cancelled,
       (select count(pg_notify('postrider_outbox', '')) from (select from passed limit 1) n) as notifications",
);

/// Cancels a claimed delivery if the payload of its event was removed. This happens if the removal was interrupted
/// before it reached this delivery. Returns false if there is another reason why there is nothing to send.
///
/// # Errors
/// [`StoreError`] if the statement fails, for example because the row is locked. The lease is then swept when it
/// expires.
pub async fn cancel_claimed(store: &Store, delivery: DeliveryId, lease: LeaseId) -> Result<bool, StoreError> {
    let client = store.durable().await?;
    let row = CANCEL_CLAIMED.fetch_one(&client, &[&delivery, &lease, &REASON]).await?;
    Ok(row.get::<_, i64>("cancelled") > 0)
}

const CLEAN: Sql = Sql::named(
    "-- delivery_attempts.expunge
update delivery_attempts
set response_body = null, response_body_truncated = false
where delivery_id = any ($1) and delivery_id between $2 and $3 and response_body is not null",
);

/// What the audit log records about the removal.
#[derive(Serialize)]
struct Presence {
    has_data: bool,
}

/// Removes the payload of an event and the response bodies of its attempts, and cancels its open deliveries. Returns
/// false if the event does not exist. Calling it again completes an interrupted removal.
///
/// # Errors
/// [`StoreError`] if a statement fails, for example because a delivery is locked for too long. The removal may then be
/// incomplete, and must be repeated.
pub async fn expunge(
    store: &Store,
    actor: &Actor,
    application: ApplicationId,
    event: EventId,
) -> Result<bool, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let Some(row) = MARK.fetch_optional(&transaction, &[&event, &application]).await? else {
        return Ok(false);
    };
    if row.get("has_data") {
        let (before, after) = (Presence { has_data: true }, Presence { has_data: false });
        let change = Change::of("event.expunge", event, Some(&before), Some(&after));
        audit::note(&transaction, application, actor, change).await?;
    }
    transaction.commit().await?;
    let mut after = IdRange::new(None, None, None).not_before(event.0).above;
    loop {
        let transaction = client.transaction().await?;
        let rows = CANCEL.fetch_all(&transaction, &[&event, &after, &STEP, &REASON]).await?;
        let deliveries: Vec<Uuid> = rows.iter().map(|row| row.get("id")).collect();
        let (Some(first), Some(last)) = (deliveries.first(), deliveries.last()) else { return Ok(true) };
        // A separate statement, so that it sees attempts that were recorded while this transaction waited for the rows.
        CLEAN.execute(&transaction, &[&deliveries, first, last]).await?;
        transaction.commit().await?;
        after = *last;
    }
}
