//! Deliveries that are still open when their partition is older than the retention period. They end as dead letters,
//! which can be seen for a day before they are removed.

use chrono::{DateTime, Utc};
use postrider_domain::ids::DeliveryId;
use tokio_postgres::Client;

use crate::partitions::Expired;
use crate::sql::Sql;
use crate::{Store, StoreError, operational};

/// The `last_error` of such a delivery.
const REASON: &str = "event_expired: it was still open when its event became older than the retention";

/// The number of deliveries that one step ends. Each causes an operational event.
const STEP: i64 = 500;

/// Leased deliveries end too. An exchange in progress is still recorded as an attempt, but does not change the
/// delivery. Locked rows are left for the next step.
const EXPIRE: Sql = Sql::named(
    "-- deliveries.expire
with old as materialized (
    select id
    from deliveries
    where completed_at is null and id < first_id($1)
    order by id
    limit $2
    for no key update skip locked
),
moved as (
    update deliveries d
    set status = 'dead_letter', next_retry_at = null, lease_id = null, completed_at = now(), dead_at = now(),
        last_error = $3
    from old o
    where d.id = o.id and d.id < first_id($1)
    returning d.id, d.endpoint_id, d.application_id, d.position
),
-- In an ordered endpoint, the next delivery has its turn.
woken as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select distinct on (endpoint_id) id, endpoint_id, application_id from moved where position is not null
    order by endpoint_id, id
)
select id from moved",
);

/// Turns some of the open deliveries that were created before `end` into dead letters, and emits operational events
/// about them. Returns how many there were. 0 means that none is left, except for locked ones.
///
/// # Errors
/// [`StoreError`] if a statement fails, for example because a row is locked for too long.
pub async fn step(store: &Store, end: DateTime<Utc>) -> Result<usize, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let rows = EXPIRE.fetch_all(&transaction, &[&end, &STEP, &REASON]).await?;
    let expired: Vec<DeliveryId> = rows.iter().map(|row| row.get("id")).collect();
    operational::emit_dead_letters(&transaction, &expired).await?;
    transaction.commit().await?;
    Ok(expired.len())
}

/// Returns true if a partition has open deliveries, or dead letters that are less than a day old.
///
/// # Errors
/// [`StoreError`] if the statement fails.
pub async fn must_stay(client: &Client, deliveries: &Expired) -> Result<bool, StoreError> {
    let name = &deliveries.name;
    let must_stay = format!(
        "-- partitions.must_stay
         select exists (select from {name} where completed_at is null)
             or exists (select from {name} where dead_at > now() - interval '1 day') as must_stay"
    );
    Ok(client.query_one(&must_stay, &[]).await?.get("must_stay"))
}
