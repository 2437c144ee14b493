//! Recording: the outcome of each attempt, and its effect on the delivery.

use std::collections::HashSet;
use std::time::Duration;

use postrider_domain::attempt::{Recorded, Verdict};
use postrider_domain::ids::{DelivererNumber, DeliveryId, LeaseId};

use crate::deliveries;
use crate::page::id_bounds;
use crate::sql::{Session, Sql};
use crate::{Store, StoreError, expunge, leases, operational};

/// The attempt is written whatever has happened to the delivery, except that a success is not overwritten. The delivery
/// is changed by the holder of its lease. A late record, after the lease was swept or taken away, also changes it:
///
/// - if it is a success, and the delivery is still open, even if another deliverer is sending it, or is a dead letter
///   only because the outcome of this attempt was unknown;
/// - if it is a failure of the latest attempt, and the delivery waits for its next attempt and was not retried
///   manually. A crash of PostgreSQL may have lost the claim, and with it the count of attempts.
///
/// Rows that another transaction has locked are skipped, so that they do not hold up the others.
const RECORD: Sql = Sql::named(include_str!("sql/deliveries.record.sql"));

/// A delivery whose status was changed.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    /// The id of the delivery.
    pub delivery_id: DeliveryId,
    /// The age of the delivery.
    pub age: Duration,
}

/// The result of a record.
#[derive(Debug, Default)]
pub struct Written {
    /// Deliveries that were changed. The others were cancelled, swept and sent by another deliverer, or closed before.
    pub moved: Vec<Moved>,
    /// Deliveries that another transaction has locked. Nothing was written about them, and they must be recorded later.
    pub locked: HashSet<DeliveryId>,
}

/// Writes attempts and changes their deliveries. In the same transaction, a retry gets its outbox row and a dead letter
/// its operational event. Recording the same attempt again does no harm. Each delivery may occur only once. `ended` are
/// leases of `deliverer` that have nothing left to record after this. They are removed. Without `with_attempts`,
/// deliveries are changed but the attempts are not stored.
///
/// # Errors
/// [`StoreError`] if nothing was recorded. Unless it is [an outage](StoreError::is_outage), the other attempts can be
/// recorded without the one at fault.
pub async fn record(
    store: &Store,
    deliverer: DelivererNumber,
    results: &[&Recorded],
    ended: &[LeaseId],
    with_attempts: bool,
) -> Result<Written, StoreError> {
    let mut client = store.durable().await?;
    let mut dead: HashSet<DeliveryId> = results
        .iter()
        .filter(|result| result.verdict == Verdict::Dead)
        .map(|result| result.delivery_id)
        .collect();
    if dead.is_empty() {
        return Ok(write(&client, deliverer, results, ended, with_attempts).await?.0);
    }
    let transaction = client.transaction().await?;
    let (written, closed) = write(&transaction, deliverer, results, ended, with_attempts).await?;
    dead.retain(|delivery| closed.contains(delivery));
    operational::emit_dead_letters(&transaction, &dead.into_iter().collect::<Vec<_>>()).await?;
    transaction.commit().await?;
    Ok(written)
}

/// Writes the results. Also returns which of the changed deliveries were open before.
async fn write(
    client: &impl Session,
    deliverer: DelivererNumber,
    results: &[&Recorded],
    ended: &[LeaseId],
    with_attempts: bool,
) -> Result<(Written, HashSet<DeliveryId>), StoreError> {
    fn column<'a, T>(results: &[&'a Recorded], value: impl Fn(&'a Recorded) -> T) -> Vec<T> {
        results.iter().map(|&result| value(result)).collect()
    }
    let deliveries = column(results, |r| r.delivery_id);
    let (first, last) = id_bounds(&deliveries);
    let rows = RECORD
        .fetch_all(
            client,
            &[
                &deliveries,
                &column(results, |r| r.lease_id),
                &column(results, |r| r.attempt_number),
                &column(results, |r| r.verdict.outcome()),
                &column(results, |r| r.exchange.error_class),
                &column(results, |r| r.exchange.error_message.as_deref()),
                &column(results, |r| r.exchange.request_headers.as_deref()),
                &column(results, |r| r.exchange.response_status),
                &column(results, |r| r.exchange.response_headers.as_deref()),
                &column(results, |r| r.exchange.response_body.as_deref()),
                &column(results, |r| r.exchange.response_body_truncated),
                &column(results, |r| i32::try_from(r.exchange.duration.as_millis()).unwrap_or(i32::MAX)),
                &column(results, |r| r.verdict.status()),
                &column(results, |r| r.verdict.retry_milliseconds()),
                &first,
                &last,
                &expunge::REASON,
                &ended,
                &column(results, |r| r.exchange.resent),
                &with_attempts,
                &leases::VANISHED,
                &deliverer,
                &column(results, |r| i64::try_from(r.began.elapsed().as_millis()).unwrap_or(i64::MAX)),
            ],
        )
        .await?;
    let mut written = Written::default();
    let mut were_open = HashSet::new();
    let mut seen = HashSet::with_capacity(rows.len());
    for row in &rows {
        let delivery_id = row.get("id");
        seen.insert(delivery_id);
        let Some(was_open) = row.get("was_open") else { continue };
        let age = Duration::try_from_secs_f64(row.get("age")).unwrap_or_default();
        written.moved.push(Moved { delivery_id, age });
        if was_open {
            were_open.insert(delivery_id);
        }
    }
    let passed: Vec<_> = deliveries.into_iter().filter(|delivery| !seen.contains(delivery)).collect();
    written.locked = deliveries::existing(client, &passed).await?;
    Ok((written, were_open))
}

const GIVE_BACK: Sql = Sql::named(
    "-- deliveries.give_back
with locked as materialized (
    select d.id
    from deliveries d
    join unnest($1::uuid[], $2::bigint[]) as r (delivery_id, lease_id)
      on d.id = r.delivery_id and d.lease_id = r.lease_id
    order by d.id
    for no key update of d
),
returned as (
    update deliveries d
    set lease_id = null, attempt_count = d.attempt_count - 1, next_retry_at = now(),
        status = case when d.attempt_count > 1 then 'failed' else 'pending' end
    from locked l
    where d.id = l.id
    returning d.id, d.endpoint_id, d.application_id
),
queued as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from returned
    returning id
)
select (select count(*) from returned) as returned,
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n) as notifications",
);

/// Gives back the leases of deliveries that were certainly not sent, as if they had never been claimed.
///
/// # Errors
/// [`StoreError`] if the statement fails. The sweep then ends them as `unknown`.
pub async fn give_back(store: &Store, leases: &[(DeliveryId, LeaseId)]) -> Result<(), StoreError> {
    let client = store.durable().await?;
    let (deliveries, leases): (Vec<_>, Vec<_>) = leases.iter().copied().unzip();
    GIVE_BACK.fetch_one(&client, &[&deliveries, &leases]).await?;
    Ok(())
}
