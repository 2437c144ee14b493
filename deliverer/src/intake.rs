//! Reserves ids, claims their deliveries and starts to send them: never more than there are permits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use postrider_shared::failpoint;
use postrider_shared::ids::{DelivererNumber, DeliveryId, EndpointId};
use postrider_shared::queue::{Feedback, QueueError, Reservation, Waker};
use postrider_shared::store::StoreError;
use postrider_shared::store::claim::{self, Claim, Claimed, Next, Unrendered};
use postrider_shared::store::record;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{Deliverer, PAUSE, exchange};

/// Deliveries that are claimed in one statement.
const BATCH: usize = 64;

/// Takes in until `shutdown`.
pub(crate) async fn run(deliverer: Arc<Deliverer>, shutdown: CancellationToken) {
    let mut waker = None;
    while !shutdown.is_cancelled() {
        let may_take = async {
            // While anything is sent but cannot be recorded, nothing new is sent.
            deliverer.recorder.flowing().await;
            postgresql_is_back(&deliverer).await;
            (deliverer.registration.number().await, permits(&deliverer.exchanges).await)
        };
        let (number, permits) = tokio::select! {
            () = shutdown.cancelled() => return,
            may_take = may_take => may_take,
        };
        match take_in(&deliverer, number, permits, &shutdown).await {
            Ok(None) => {}
            Ok(Some(Idle { unblocked })) => {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = idle(&deliverer, &mut waker, unblocked) => {}
                }
            }
            Err(RedisIsAway) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What cannot be claimed is not reserved. And where nothing is under way, nobody else finds out that the outage is over.
async fn postgresql_is_back(deliverer: &Deliverer) {
    while deliverer.health.is_down("deliverer_postgresql") {
        match deliverer.store.ping().await {
            Ok(()) => return deliverer.health.up("deliverer_postgresql"),
            Err(error) => deliverer.health.down("deliverer_postgresql", error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Nothing can be reserved now.
struct Idle {
    /// When a blocked endpoint may be served.
    unblocked: Option<Duration>,
}

/// Noted in the health of the service already.
struct RedisIsAway;

/// Takes one batch in. Once something is reserved it is not to be cancelled.
async fn take_in(
    deliverer: &Arc<Deliverer>,
    number: DelivererNumber,
    mut permits: OwnedSemaphorePermit,
    shutdown: &CancellationToken,
) -> Result<Option<Idle>, RedisIsAway> {
    let reserved = match deliverer.queue.reserve(permits.num_permits()).await {
        Ok(reserved) => reserved,
        Err(error) => {
            deliverer.health.down("deliverer_redis", error);
            return Err(RedisIsAway);
        }
    };
    if reserved.reservations.is_empty() {
        return Ok(Some(Idle { unblocked: reserved.next_unblocked }));
    }
    failpoint::die_at("deliverer.after_reserve");
    let mut reservations = HashMap::with_capacity(reserved.reservations.len());
    for reservation in reserved.reservations {
        deliverer.held.insert(reservation);
        reservations.insert(reservation.delivery_id, reservation);
    }
    let ids: Vec<DeliveryId> = reservations.keys().copied().collect();
    // Before the statement is sent, so that this end of the lease is never the later one.
    let claimed_at = Instant::now();
    let claim = claim_around_culprits(deliverer, number, &ids).await;
    acknowledge(deliverer, claim.settled.iter().filter_map(|id| reservations.remove(id)).collect()).await;
    if shutdown.is_cancelled() {
        give_back(deliverer, &claim.claimed, &mut reservations).await;
    } else {
        deliverer.leases.taken(&claim.claimed);
        for claimed in claim.claimed {
            let Some(reservation) = reservations.remove(&claimed.delivery_id) else { continue };
            send(deliverer, claimed, claimed_at, reservation, &mut permits);
        }
        let turns = claim.ordered.iter().filter_map(|id| reservations.remove(id));
        take_turns(deliverer, number, turns.collect(), &mut permits).await;
    }
    // What could not be looked at comes back when its reservation expires.
    for reservation in reservations.values() {
        deliverer.held.remove(reservation);
    }
    Ok(None)
}

fn send(
    deliverer: &Arc<Deliverer>,
    claimed: Claimed,
    claimed_at: Instant,
    reservation: Reservation,
    permits: &mut OwnedSemaphorePermit,
) {
    let permit = permits.split(1).expect("no more was reserved than there are permits");
    let task = exchange::Task { claimed, claimed_at, reservation, permit };
    deliverer.sending.spawn(exchange::deliver(deliverer.clone(), task));
}

/// Sends whatever is next at the endpoints of these reservations, which keep the order of acceptance.
async fn take_turns(
    deliverer: &Arc<Deliverer>,
    number: DelivererNumber,
    turns: Vec<Reservation>,
    permits: &mut OwnedSemaphorePermit,
) {
    let claims = turns.into_iter().map(async |reservation| {
        let claimed_at = Instant::now();
        let next = claim_turn(deliverer, number, reservation.endpoint_id).await;
        (reservation, claimed_at, next)
    });
    for (reservation, claimed_at, next) in join_all(claims).await {
        match next {
            Ok(Some(claimed)) => {
                deliverer.leases.taken(std::slice::from_ref(&claimed));
                send(deliverer, *claimed, claimed_at, reservation, permits);
            }
            Ok(None) => acknowledge(deliverer, vec![reservation]).await,
            // It comes back when its reservation expires.
            Err(error) => {
                if !error.is_contention() {
                    deliverer.health.down("deliverer_postgresql", error);
                }
                deliverer.held.remove(&reservation);
            }
        }
    }
}

/// Claims what is next at an endpoint, without its event if that cannot be rendered.
async fn claim_turn(
    deliverer: &Deliverer,
    number: DelivererNumber,
    endpoint: EndpointId,
) -> Result<Option<Box<Claimed>>, StoreError> {
    let mut next = claim::claim_next(&deliverer.store, number, endpoint, None).await?;
    if let Next::Unrendered(head, why) = &next {
        tracing::error!(delivery_id = %head, reason = why.reason, "the event cannot be rendered");
        next = claim::claim_next(&deliverer.store, number, endpoint, Some((*head, why))).await?;
    }
    Ok(match next {
        Next::Claimed(claimed) => Some(claimed),
        // If another one is next by now and cannot be rendered either, its own id comes again.
        Next::Nothing | Next::Unrendered(..) => None,
    })
}

/// Waits for one permit, and takes as many more as are free, up to a batch.
async fn permits(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let closed = "the semaphore is never closed";
    let mut permits = semaphore.clone().acquire_owned().await.expect(closed);
    let more = semaphore.available_permits().min(BATCH - 1);
    if let Ok(more) = semaphore.clone().try_acquire_many_owned(more as u32) {
        permits.merge(more);
    }
    permits
}

/// Claims what can be claimed. Where one delivery spoils the statement for all, the batch is halved until
/// it is alone: one that cannot be rendered is claimed without its event, one that is locked is left for later.
async fn claim_around_culprits(deliverer: &Deliverer, number: DelivererNumber, ids: &[DeliveryId]) -> Claim {
    let began = Instant::now();
    match claim::claim(&deliverer.store, number, ids, None).await {
        Ok(claim) => {
            metrics::histogram!("postrider_claim_seconds").record(began.elapsed().as_secs_f64());
            deliverer.health.up("deliverer_postgresql");
            claim
        }
        Err(error) if error.is_data_error() || error.is_timeout() || error.is_contention() => {
            if let [culprit] = ids {
                claim_without_event(deliverer, number, *culprit, &error).await
            } else {
                let (first, second) = ids.split_at(ids.len() / 2);
                let mut claim = Box::pin(claim_around_culprits(deliverer, number, first)).await;
                let other = Box::pin(claim_around_culprits(deliverer, number, second)).await;
                claim.claimed.extend(other.claimed);
                claim.ordered.extend(other.ordered);
                claim.settled.extend(other.settled);
                claim
            }
        }
        Err(error) => {
            deliverer.health.down("deliverer_postgresql", error);
            tokio::time::sleep(PAUSE).await;
            Claim::default()
        }
    }
}

/// The attempt then fails as others do, and is retried or not. Where PostgreSQL is too slow for everything, this is
/// too slow as well, and no attempt is spent.
async fn claim_without_event(
    deliverer: &Deliverer,
    number: DelivererNumber,
    culprit: DeliveryId,
    error: &StoreError,
) -> Claim {
    let Some(why) = Unrendered::because_of(error) else { return Claim::default() };
    tracing::error!(delivery_id = %culprit, reason = why.reason, "the event cannot be rendered");
    match claim::claim(&deliverer.store, number, &[culprit], Some((culprit, &why))).await {
        Ok(claim) => claim,
        Err(error) => {
            deliverer.health.down("deliverer_postgresql", error);
            Claim::default()
        }
    }
}

async fn acknowledge(deliverer: &Deliverer, settled: Vec<Reservation>) {
    let done = settled.iter().map(|reservation| (*reservation, Feedback::None));
    if let Err(error) = deliverer.queue.acknowledge(done).await {
        deliverer.health.down("deliverer_redis", error);
    }
    for reservation in &settled {
        deliverer.held.remove(reservation);
    }
}

/// Undoes a claim of which nothing was sent.
async fn give_back(
    deliverer: &Deliverer,
    claimed: &[Claimed],
    reservations: &mut HashMap<DeliveryId, Reservation>,
) {
    let leases: Vec<_> = claimed.iter().map(|claimed| (claimed.delivery_id, claimed.lease_id)).collect();
    if leases.is_empty() {
        return;
    }
    match record::give_back(&deliverer.store, &leases).await {
        Ok(()) => {
            let given = claimed.iter().filter_map(|claimed| reservations.remove(&claimed.delivery_id));
            acknowledge(deliverer, given.collect()).await;
        }
        // They are swept.
        Err(error) => deliverer.health.down("deliverer_postgresql", error),
    }
}

async fn idle(deliverer: &Deliverer, waker: &mut Option<Waker>, unblocked: Option<Duration>) {
    let waited: Result<(), QueueError> = async {
        if waker.is_none() {
            *waker = Some(deliverer.queue.waker().await?);
        }
        if let Some(waker) = waker.as_mut() {
            waker.wait(unblocked).await?;
        }
        Ok(())
    }
    .await;
    if let Err(error) = waited {
        *waker = None;
        deliverer.health.down("deliverer_redis", error);
        tokio::time::sleep(PAUSE).await;
    }
}
