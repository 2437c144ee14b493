//! Recording: what became of each attempt, and what follows for its delivery.

use std::collections::HashSet;
use std::time::Duration;

use deadpool_postgres::GenericClient;
use postrider_domain::attempt::{Recorded, Verdict};
use postrider_domain::ids::{DelivererNumber, DeliveryId, LeaseId};

use crate::deliveries;
use crate::page::id_bounds;
use crate::{Store, StoreError, expunge, leases, operational};

/// The attempt is written whatever has become of the delivery, and a success is not overwritten. The delivery moves
/// for the holder of its lease. What comes late, when the lease was swept or taken away, moves it too:
///
/// - a success, if the delivery is still open, whoever sends it by now, or is a dead letter only because nobody knew
///   what had come of this attempt;
/// - a failure, if the delivery waits for its next attempt and this was the last one, and nobody has opened it again
///   by hand. A crash of PostgreSQL may have lost the claim, and the count with it.
///
/// Rows that another transaction has locked are passed over, so that they hold up no other.
const RECORD: &str = "-- deliveries.record
with result as materialized (
    select *
    from unnest(
        $1::uuid[], $2::bigint[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::smallint[], $9::text[], $10::bytea[], $11::boolean[], $12::integer[], $13::text[], $14::bigint[],
        $19::boolean[], $23::bigint[]
    ) as r (
        delivery_id, lease_id, attempt_number, outcome, error_class, error_message, request_headers,
        response_status, response_headers, response_body, response_body_truncated, duration_ms,
        status, retry_ms, resent, age_ms
    )
),
locked as materialized (
    select d.id, d.event_id, d.lease_id, d.completed_at, d.last_error, d.status, d.attempt_count
    from deliveries d
    where d.id = any ($1) and d.id between $15 and $16
    order by d.id
    for no key update skip locked
),
attempted as (
    insert into delivery_attempts (
        delivery_id, attempt_number, outcome, error_class, error_message, request_headers,
        response_status, response_headers, response_body, response_body_truncated, resent,
        duration_ms, created_at
    )
    select r.delivery_id, r.attempt_number, r.outcome, r.error_class, r.error_message,
           r.request_headers::jsonb, r.response_status, r.response_headers::jsonb,
           -- Of an event whose payload was removed meanwhile no answer is kept.
           case
               when l.completed_at is not null
                    and (l.last_error = $17
                         or exists (select from events v where v.id = l.event_id and v.expunged_at is not null))
               then null
               else r.response_body
           end,
           r.response_body_truncated, r.resent, r.duration_ms, now() - r.age_ms * interval '1 millisecond'
    from result r
    join locked l on l.id = r.delivery_id
    where $20
    on conflict (delivery_id, attempt_number) do update
    set outcome = excluded.outcome, error_class = excluded.error_class,
        error_message = excluded.error_message, request_headers = excluded.request_headers,
        response_status = excluded.response_status, response_headers = excluded.response_headers,
        response_body = excluded.response_body,
        response_body_truncated = excluded.response_body_truncated, resent = excluded.resent,
        duration_ms = excluded.duration_ms, created_at = excluded.created_at
    where delivery_attempts.outcome <> 'succeeded'
),
moved as (
    update deliveries d
    set status = r.status,
        attempt_count = greatest(d.attempt_count, r.attempt_number),
        lease_id = null,
        last_response_status = r.response_status,
        last_error = r.error_message,
        next_retry_at = now() + r.retry_ms * interval '1 millisecond',
        completed_at = case when r.retry_ms is null then coalesce(l.completed_at, now()) end,
        dead_at = case when r.status = 'dead_letter' then coalesce(d.dead_at, now()) end
    from result r
    join locked l on l.id = r.delivery_id
    where d.id = r.delivery_id and d.id between $15 and $16
      and case
          when l.lease_id = r.lease_id then true
          when (l.status, l.attempt_count, l.last_error) = ('dead_letter', r.attempt_number, $21) then r.retry_ms is null
          when l.completed_at is not null then false
          when r.outcome = 'succeeded' then true
          else l.lease_id is null
               and (l.attempt_count < r.attempt_number or l.attempt_count = r.attempt_number and l.status = 'failed')
      end
    returning d.id, d.endpoint_id, d.application_id, d.next_retry_at, d.position, d.created_at,
              l.completed_at is null as was_open
),
queued as (
    -- Where order is kept, each end is the turn of another.
    insert into outbox (delivery_id, endpoint_id, application_id, due_at)
    select id, endpoint_id, application_id, coalesce(next_retry_at, now()) from moved
    where next_retry_at is not null or position is not null
    returning due_at
),
ended as (
    -- Not where a delivery was passed over, for which its lease is still needed; the sweep removes what is left. And
    -- never waited for: a sweep that holds one removes it.
    delete from leases
    where id = any (array(
        select id from leases
        where id = any ($18) and deliverer = $22 and cardinality($1) = (select count(*) from locked)
        for update skip locked
    ))
)
select id, was_open, extract(epoch from now() - created_at)::float8,
       (select count(pg_notify('postrider_outbox', ''))
            from (select from queued where due_at <= now() limit 1) n)
from moved
union all
select id, null, null, null from locked where id not in (select id from moved)";

/// A delivery that was moved on.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    /// Which.
    pub delivery_id: DeliveryId,
    /// How long ago it was made.
    pub age: Duration,
}

/// What became of results that were to be recorded.
#[derive(Debug, Default)]
pub struct Written {
    /// Deliveries that were moved on. The others have been cancelled, swept and sent by somebody else, or closed before.
    pub moved: Vec<Moved>,
    /// Deliveries that another transaction has locked: nothing of them is written, and they are to be recorded later.
    pub locked: HashSet<DeliveryId>,
}

/// Writes attempts and moves their deliveries on; a retry gets its outbox row, and a dead letter its
/// operational event, in the same transaction. Recording the same attempt again is harmless. No delivery may be there
/// twice. `ended` are leases of `deliverer` of which nothing is left to be recorded after these: they are removed.
/// Without `with_attempts` deliveries move on, and what happened is stored nowhere.
///
/// # Errors
/// When nothing was recorded. Unless it [is an outage](StoreError::is_outage), the others may be recorded without the
/// one that is to blame.
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

/// Answers also which of the deliveries that were moved were open before.
async fn write(
    client: &impl GenericClient,
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
    let statement = client.prepare_cached(RECORD).await?;
    let rows = client
        .query(
            &statement,
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
        let delivery_id = row.get(0);
        seen.insert(delivery_id);
        let Some(was_open) = row.get(1) else { continue };
        let age = Duration::try_from_secs_f64(row.get(2)).unwrap_or_default();
        written.moved.push(Moved { delivery_id, age });
        if was_open {
            were_open.insert(delivery_id);
        }
    }
    let passed: Vec<_> = deliveries.into_iter().filter(|delivery| !seen.contains(delivery)).collect();
    written.locked = deliveries::existing(client, &passed).await?;
    Ok((written, were_open))
}

const GIVE_BACK: &str = "-- deliveries.give_back
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
select (select count(*) from returned),
       (select count(pg_notify('postrider_outbox', '')) from (select from queued limit 1) n)";

/// Gives leases back whose deliveries were certainly not sent: as if they had never been claimed.
///
/// # Errors
/// When PostgreSQL does not answer; the sweep then ends them as `unknown`.
pub async fn give_back(store: &Store, leases: &[(DeliveryId, LeaseId)]) -> Result<(), StoreError> {
    let client = store.durable().await?;
    let statement = client.prepare_cached(GIVE_BACK).await?;
    let (deliveries, leases): (Vec<_>, Vec<_>) = leases.iter().copied().unzip();
    client.query_one(&statement, &[&deliveries, &leases]).await?;
    Ok(())
}
