//! Claiming: turns a batch of ids from Redis into leased deliveries with everything that is needed to send them.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use postgres_types::Json;
use postrider_domain::delivery::ErrorClass;
use postrider_domain::ids::{DelivererNumber, DeliveryId, EndpointId, EventId, LeaseId};
use postrider_store::page::id_bounds;
use postrider_store::sql::{Columns, FromRow, Sql, read};
use postrider_store::{Store, StoreError, deliveries, is_not_parked};

use crate::headers::StoredValue;
use crate::keyring::Stored;
use crate::secrets::StoredKey;
use crate::signing::Algorithm;
use crate::stored_url::StoredUrl;

/// A lease lasts as long as the longest timeout among the endpoints of its batch, plus this.
pub const LEASE_MARGIN: Duration = Duration::from_secs(15);

/// A delivery under a lease, with everything that is needed to send it.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The claimed delivery.
    pub delivery_id: DeliveryId,
    /// The token that guards the record of the attempt.
    pub lease_id: LeaseId,
    /// The number of this attempt, from 1. The attempt already counts, whatever happens to it.
    pub attempt_number: i16,
    /// The number of attempts that the delivery may have.
    pub max_attempts: i16,
    /// The endpoint that it is sent to.
    pub endpoint_id: EndpointId,
    /// The event, whose id is the `webhook-id`.
    pub event_id: EventId,
    /// The content of the event, or why there is nothing to send.
    pub event: Result<EventContent, Unrendered>,
    /// How to send to the endpoint.
    pub endpoint: SendSettings,
}

/// The parts of an event that are sent.
#[derive(Debug, Clone)]
pub struct EventContent {
    /// The event type.
    pub event_type: String,
    /// When it was accepted: RFC 3339, UTC, with microseconds.
    pub timestamp: String,
    /// The stored JSON as PostgreSQL renders it. The text is the same for every attempt.
    pub data: String,
}

/// Why a delivery was claimed without its event. The attempt then fails.
#[derive(Debug, Clone)]
pub struct Unrendered {
    /// [`ErrorClass::Unrenderable`] if no attempt can succeed, [`ErrorClass::Internal`] if a later one may.
    pub class: ErrorClass,
    /// The reason, in words for people.
    pub reason: String,
}

impl Unrendered {
    /// Interprets the error of a claim of a single delivery. Returns `None` if the event is not the cause.
    #[must_use]
    pub fn because_of(error: &StoreError) -> Option<Self> {
        let class = if error.is_data_error() {
            ErrorClass::Unrenderable
        } else if error.is_timeout() {
            ErrorClass::Internal
        } else {
            return None;
        };
        Some(Self { class, reason: format!("the event cannot be rendered: {error}") })
    }

    fn gone() -> Self {
        Self { class: ErrorClass::Unrenderable, reason: "the event is no longer stored".to_owned() }
    }
}

/// How to send to an endpoint.
#[derive(Debug, Clone)]
pub struct SendSettings {
    /// The URL that webhooks are sent to.
    pub url: StoredUrl,
    /// The endpoint's own headers, by name.
    pub headers: BTreeMap<String, StoredValue>,
    /// Names of headers whose values must not be kept in attempts.
    pub sensitive_headers: Vec<String>,
    /// The timeout of a whole exchange.
    pub timeout: Duration,
    /// Seconds before each retry, or `None` for the schedule of the installation.
    pub retry_schedule: Option<Vec<i32>>,
    /// Response statuses that are never retried.
    pub permanent_statuses: Vec<i16>,
    /// All live signing keys, newest first.
    pub keys: Vec<StoredKey>,
}

/// The result of a claim. Every id is in exactly one of the three lists, or in none if its row is locked.
#[derive(Debug, Default)]
pub struct Claim {
    /// Leased deliveries, to be sent or given back.
    pub claimed: Vec<Claimed>,
    /// Ids of ordered endpoints. [`claim_next`] finds out which delivery is next.
    pub ordered: Vec<DeliveryId>,
    /// Deliveries with nothing to do: closed, not due yet, leased by another deliverer, parked because the endpoint is
    /// disabled, cancelled because the endpoint was deleted or the replay was cancelled, or purged. These ids can leave
    /// Redis.
    pub settled: Vec<DeliveryId>,
}

impl Claim {
    /// Adds the result of a claim of other ids.
    pub fn add(&mut self, other: Self) {
        self.claimed.extend(other.claimed);
        self.ordered.extend(other.ordered);
        self.settled.extend(other.settled);
    }
}

/// Rows are locked in the order of their ids, and judged in their current state, because an id may be stale. A row that
/// another transaction has locked is skipped, so that it does not hold up the others. The bounds on the ids exclude all
/// partitions except theirs.
const CLAIM: Sql = Sql::named(concat!(
    "-- deliveries.claim
with seen as materialized (
    select d.id, d.event_id, d.endpoint_id, d.application_id, d.attempt_count, d.max_attempts,
           d.next_retry_at, d.lease_id, d.completed_at, d.position, d.replay_id
    from deliveries d
    where d.id = any ($1) and d.id between $4 and $5
    order by d.id
    for no key update skip locked
),
judged as materialized (
    select s.id, s.event_id, s.endpoint_id, s.application_id, s.attempt_count, s.max_attempts, s.position,
           e.timeout_seconds,
           case
               -- For an ordered endpoint an id only means: look at this endpoint.
               when e.ordered and s.position is not null and e.deleted_at is null and not $6
                    then case when e.is_active then 'ordered' else 'disabled' end
               when s.completed_at is not null then 'closed'
               when s.lease_id is not null then 'leased'
               when e.id is null or e.deleted_at is not null then 'orphaned'
               when r.id is not null then 'withdrawn'
               when not e.is_active then 'disabled'
               when s.next_retry_at > now() then 'not_due'
               else 'claimed'
           end as verdict
    from seen s
    left join lateral (
        select e.id, e.ordered, e.deleted_at, e.is_active, e.timeout_seconds
        from endpoints e
        where e.id = s.endpoint_id
        limit 1
    ) e on true
    left join lateral (
        select r.id from replays r where r.id = s.replay_id and r.status = 'cancelled' limit 1
    ) r on true
),
lease as (
    insert into leases (id, deliverer, expires_at, delivery_ids)
    select $8::bigint, $2::bigint, now() + make_interval(secs => max(timeout_seconds) + $3::double precision), array_agg(id)
    from judged
    where verdict = 'claimed'
    having count(*) > 0
    returning id
),
leased as (
    update deliveries d
    set status = 'in_progress', lease_id = l.id, attempt_count = d.attempt_count + 1
    from judged j, lease l
    where d.id = j.id and d.id between $4 and $5 and j.verdict = 'claimed'
),
cancelled as (
    update deliveries d
    set status = 'cancelled', completed_at = now(), next_retry_at = null,
        last_error = case j.verdict
            when 'orphaned' then 'the endpoint was deleted'
            else 'the replay that has made or reopened it was cancelled'
        end
    from judged j
    where d.id = j.id and d.id between $4 and $5 and j.verdict in ('orphaned', 'withdrawn')
),
passed as (
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from judged where verdict = 'withdrawn' and position is not null
),
parked as (
    insert into outbox (delivery_id, endpoint_id, application_id, parked)
    select j.id, j.endpoint_id, j.application_id, true
    from judged j
    where j.verdict = 'disabled'
      and ",
    is_not_parked!("j.application_id", "j.endpoint_id", "j.id"),
    "
),
-- Once per endpoint, however many of its deliveries are claimed.
key as materialized (
    select e.id as endpoint_id, s.algorithms, s.secrets, s.master_key_ids
    from (select distinct endpoint_id as id from judged where verdict = 'claimed') e
    cross join lateral (
        select array_agg(s.algorithm order by s.id desc) as algorithms,
               array_agg(s.secret order by s.id desc) as secrets,
               array_agg(s.master_key_id order by s.id desc) as master_key_ids
        from endpoint_secrets s
        where s.endpoint_id = e.id and (s.expires_at is null or s.expires_at > now())
    ) s
)
select j.id as delivery_id, l.id as lease_id, j.verdict = 'ordered' as is_ordered,
       (j.attempt_count + 1)::smallint as attempt_number, j.max_attempts, j.endpoint_id, j.event_id,
       v.event_type, rfc3339(v.created_at) as timestamp, v.payload::text as data,
       e.url, e.url_query, e.headers, e.sensitive_headers, e.timeout_seconds, e.retry_schedule, e.permanent_statuses,
       k.algorithms, k.secrets, k.master_key_ids
from judged j
left join lease l on j.verdict = 'claimed'
left join lateral (
    select e.id, e.url, e.url_query, e.headers, e.sensitive_headers, e.timeout_seconds, e.retry_schedule,
           e.permanent_statuses
    from endpoints e
    where j.verdict = 'claimed' and e.id = j.endpoint_id
    limit 1
) e on true
left join events v on j.verdict = 'claimed' and v.id = j.event_id and v.expunged_at is null
                  and j.id is distinct from $7
left join key k on k.endpoint_id = e.id
order by j.id"
));

/// Takes a lease on those of the deliveries that are open and due. Returns what it found out about each of them. The
/// delivery in `unrendered` is claimed without its event.
///
/// # Errors
/// [`StoreError`] if the statement fails; then nothing was claimed. [`StoreError::is_data_error`] and
/// [`StoreError::is_timeout`] mean that one of the deliveries cannot be rendered. Unless the error is [an
/// outage](StoreError::is_outage), the other deliveries can be claimed without the one at fault.
pub async fn claim(
    store: &Store,
    deliverer: DelivererNumber,
    deliveries: &[DeliveryId],
    unrendered: Option<(DeliveryId, &Unrendered)>,
) -> Result<Claim, StoreError> {
    let client = store.relaxed().await?;
    let (first, last) = id_bounds(deliveries);
    let margin = LEASE_MARGIN.as_secs_f64();
    let (lease, without) = (LeaseId::draw(), unrendered.map(|(id, _)| id));
    let rows = CLAIM
        .fetch_all(&client, &[&deliveries, &deliverer, &margin, &first, &last, &false, &without, &lease])
        .await?;
    let mut claim = Claim::default();
    for row in &rows {
        match read(row) {
            Seen::Leased(mut claimed) => {
                explain(&mut claimed, unrendered);
                claim.claimed.push(*claimed);
            }
            Seen::Ordered(delivery) => claim.ordered.push(delivery),
            Seen::Settled(delivery) => claim.settled.push(delivery),
        }
    }
    let found: HashSet<DeliveryId> = rows.iter().map(|row| row.get("delivery_id")).collect();
    let passed: Vec<_> = deliveries.iter().copied().filter(|id| !found.contains(id)).collect();
    let locked = deliveries::existing(&client, &passed).await?;
    // A row that does not exist has been purged.
    claim.settled.extend(passed.iter().filter(|id| !locked.contains(id)));
    Ok(claim)
}

const LOCK_ENDPOINT: Sql = Sql::named(
    "-- endpoints.lock
select id from endpoints where id = $1 for no key update",
);

/// A separate statement, because its snapshot must be newer than the lock. Otherwise it would miss what the previous
/// holder did.
const NEXT: Sql = Sql::named(
    "-- deliveries.next
select id
from deliveries
where endpoint_id = $1 and position is not null and completed_at is null
order by position
limit 1",
);

/// The result of [`claim_next`].
#[derive(Debug)]
pub enum Next {
    /// The next delivery in order, leased.
    Claimed(Box<Claimed>),
    /// Nothing to do now: no delivery is open, or the first one is in progress or not due. In that case its own id will
    /// return.
    Nothing,
    /// The row of the next delivery is locked. Nothing is claimed.
    Locked,
    /// The next delivery cannot be claimed with its event. Nothing is claimed.
    Unrendered(DeliveryId, Unrendered),
}

/// Takes a lease on the next delivery of an ordered endpoint: the first open one in the order of acceptance, unless it
/// is in progress or not due. A concurrent claim waits for the lock on the endpoint, and then sees that delivery in
/// progress. The delivery in `unrendered` is claimed without its event.
///
/// # Errors
/// [`StoreError`] if a statement fails; then nothing was claimed. [`StoreError::is_contention`] means that the endpoint
/// is locked.
pub async fn claim_next(
    store: &Store,
    deliverer: DelivererNumber,
    endpoint: EndpointId,
    unrendered: Option<(DeliveryId, &Unrendered)>,
) -> Result<Next, StoreError> {
    let mut client = store.relaxed().await?;
    let transaction = client.transaction().await?;
    LOCK_ENDPOINT.execute(&transaction, &[&endpoint]).await?;
    let Some(row) = NEXT.fetch_optional(&transaction, &[&endpoint]).await? else { return Ok(Next::Nothing) };
    let head: DeliveryId = row.get("id");
    let margin = LEASE_MARGIN.as_secs_f64();
    let ids = [head];
    let (lease, without) = (LeaseId::draw(), unrendered.map(|(id, _)| id));
    let found = CLAIM
        .fetch_all(
            &transaction,
            &[&ids.as_slice(), &deliverer, &margin, &head, &head, &true, &without, &lease],
        )
        .await;
    let rows = match found {
        Ok(rows) => rows,
        Err(error) => match Unrendered::because_of(&error) {
            Some(why) if without != Some(head) => return Ok(Next::Unrendered(head, why)),
            _ => return Err(error),
        },
    };
    let Some(row) = rows.first() else { return Ok(Next::Locked) };
    let seen = read(row);
    transaction.commit().await?;
    Ok(match seen {
        Seen::Leased(mut claimed) => {
            explain(&mut claimed, unrendered);
            Next::Claimed(claimed)
        }
        Seen::Ordered(_) | Seen::Settled(_) => Next::Nothing,
    })
}

/// A row of [`CLAIM`].
enum Seen {
    Leased(Box<Claimed>),
    Ordered(DeliveryId),
    Settled(DeliveryId),
}

impl FromRow<'_> for Seen {
    fn from_row(row: &mut Columns<'_>) -> Self {
        let delivery_id = row.get("delivery_id");
        match (row.get("lease_id"), row.get("is_ordered")) {
            (Some(lease_id), _) => Self::Leased(Box::new(Claimed {
                delivery_id,
                lease_id,
                attempt_number: row.get("attempt_number"),
                max_attempts: row.get("max_attempts"),
                endpoint_id: row.get("endpoint_id"),
                event_id: row.get("event_id"),
                event: row
                    .get::<Option<_>>("event_type")
                    .map(|event_type| EventContent {
                        event_type,
                        timestamp: row.get("timestamp"),
                        data: row.get("data"),
                    })
                    .ok_or_else(Unrendered::gone),
                endpoint: SendSettings::from_row(row),
            })),
            (None, true) => Self::Ordered(delivery_id),
            (None, false) => Self::Settled(delivery_id),
        }
    }
}

impl FromRow<'_> for SendSettings {
    fn from_row(row: &mut Columns<'_>) -> Self {
        Self {
            url: StoredUrl::from_row(row),
            headers: row.get::<Json<_>>("headers").0,
            sensitive_headers: row.get("sensitive_headers"),
            timeout: Duration::from_secs(u64::from(row.get::<i16>("timeout_seconds").unsigned_abs())),
            retry_schedule: row.get("retry_schedule"),
            permanent_statuses: row.get("permanent_statuses"),
            keys: keys(row),
        }
    }
}

fn keys(row: &mut Columns<'_>) -> Vec<StoredKey> {
    let algorithms: Option<Vec<Algorithm>> = row.get("algorithms");
    let secrets: Option<Vec<Vec<u8>>> = row.get("secrets");
    let master_key_ids: Option<Vec<Option<String>>> = row.get("master_key_ids");
    let columns = algorithms.into_iter().flatten().zip(secrets.into_iter().flatten());
    columns
        .zip(master_key_ids.into_iter().flatten())
        .map(|((algorithm, bytes), master_key_id)| StoredKey {
            algorithm,
            stored: Stored { master_key_id, bytes },
        })
        .collect()
}

/// Sets the reason why there is no event, if the delivery was deliberately claimed without it.
fn explain(claimed: &mut Claimed, unrendered: Option<(DeliveryId, &Unrendered)>) {
    if let Some((id, why)) = unrendered
        && id == claimed.delivery_id
    {
        claimed.event = Err(why.clone());
    }
}
