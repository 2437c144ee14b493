//! Deliveries that are still open when their partition is older than the retention: they end as dead letters,
//! and are to be seen for a day before they go.

use chrono::{DateTime, Utc};
use postrider_domain::ids::DeliveryId;
use tokio_postgres::Client;

use crate::partitions::Expired;
use crate::sql::Sql;
use crate::{Store, StoreError, operational};

/// Why they end.
const REASON: &str = "event_expired: it was still open when its event became older than the retention";

/// Deliveries that one step ends: each is told of by an operational event.
const STEP: i64 = 500;

/// What a lease holds ends too: what is under way is still recorded as an attempt, and moves nothing. What is locked
/// is left for the next time.
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
-- Where order is kept, it is the turn of what is left.
woken as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select distinct on (endpoint_id) id, endpoint_id, application_id from moved where position is not null
    order by endpoint_id, id
)
select id from moved",
);

/// Makes dead letters of some of the deliveries that were made before `end` and are still open, and tells of
/// them. Returns how many; 0: none is left that is not locked.
///
/// # Errors
/// When PostgreSQL does not answer, or a row is held for too long.
pub async fn step(store: &Store, end: DateTime<Utc>) -> Result<usize, StoreError> {
    let mut client = store.durable().await?;
    let transaction = client.transaction().await?;
    let rows = EXPIRE.fetch_all(&transaction, &[&end, &STEP, &REASON]).await?;
    let expired: Vec<DeliveryId> = rows.iter().map(|row| row.get("id")).collect();
    operational::emit_dead_letters(&transaction, &expired).await?;
    transaction.commit().await?;
    Ok(expired.len())
}

/// True where a partition has deliveries that are open, or dead letters that are less than a day old.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn must_stay(client: &Client, deliveries: &Expired) -> Result<bool, StoreError> {
    let name = &deliveries.name;
    let must_stay = format!(
        "-- partitions.must_stay
         select exists (select from {name} where completed_at is null)
             or exists (select from {name} where dead_at > now() - interval '1 day') as must_stay"
    );
    Ok(client.query_one(&must_stay, &[]).await?.get("must_stay"))
}
