//! Reserves ids, claims their deliveries and starts to send them: never more than there are permits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use postrider_domain::endpoint::Feedback;
use postrider_domain::ids::{DelivererNumber, DeliveryId, EndpointId};
use postrider_queue::{QueueError, Reservation, Reserved, Waker};
use postrider_runtime::failpoint;
use postrider_secrets::claim::{self, Claim, Claimed, Next, Unrendered};
use postrider_store::StoreError;
use postrider_store::bisect::{Bisect, NoCulprit};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::in_flight::Place;
use crate::unsent::{self, Outage, Unsent};
use crate::{Deliverer, PAUSE, exchange};

/// Deliveries that are claimed in one statement.
const BATCH: usize = 64;

/// How soon it looks again where there is something to do, but only of applications that hold all that they may.
const HELD_BACK: Duration = Duration::from_millis(5);

/// Takes in until `shutdown`.
pub(crate) async fn run(deliverer: Arc<Deliverer>, shutdown: CancellationToken) {
    let mut waker = None;
    while !shutdown.is_cancelled() {
        let may_take = async {
            // While anything is sent but cannot be recorded, nothing new is sent.
            deliverer.recorder.flowing().await;
            postgresql_is_back(&deliverer).await;
            let most = if deliverer.faults.pause().await { 1 } else { BATCH };
            (deliverer.registration.held().await, deliverer.in_flight.permits(most).await)
        };
        let (number, permits) = tokio::select! {
            () = shutdown.cancelled() => return,
            may_take = may_take => may_take,
        };
        match take_in(&deliverer, number, permits, &shutdown).await {
            Ok(None) => {}
            Ok(Some(Idle { is_held_back: true, .. })) => tokio::time::sleep(HELD_BACK).await,
            Ok(Some(Idle { unblocked, .. })) => {
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
    /// There is something, of applications that may not have more now.
    is_held_back: bool,
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
    let allotment = deliverer.in_flight.allotment(permits.num_permits());
    let reserved = match deliverer.queue.reserve(permits.num_permits(), &allotment).await {
        Ok(reserved) => reserved,
        Err(error) => {
            deliverer.redis_failed(error).await;
            return Err(RedisIsAway);
        }
    };
    if reserved.reservations.is_empty() {
        let Reserved { next_unblocked: unblocked, is_held_back, .. } = reserved;
        return Ok(Some(Idle { unblocked, is_held_back }));
    }
    failpoint::die_at("deliverer.after_reserve");
    // Who has little under way does not wait for the deliveries of those that have much.
    let (few, many): (Vec<_>, Vec<_>) = (reserved.reservations.into_iter())
        .partition(|reservation| deliverer.in_flight.holds_little(reservation.application_id));
    let [few, many] = [few, many].map(|reservations| {
        let mut places = HashMap::with_capacity(reservations.len());
        for reservation in reservations {
            deliverer.held.insert(reservation);
            let permit = permits.split(1).expect("no more was reserved than there are permits");
            let place = deliverer.in_flight.enter(reservation.application_id, permit);
            places.insert(reservation.delivery_id, (reservation, place));
        }
        claim_and_send(deliverer, number, places, shutdown)
    });
    tokio::join!(few, many);
    Ok(None)
}

/// Claims what was reserved and starts to send it.
async fn claim_and_send(
    deliverer: &Arc<Deliverer>,
    number: DelivererNumber,
    mut reservations: HashMap<DeliveryId, (Reservation, Place)>,
    shutdown: &CancellationToken,
) {
    if reservations.is_empty() {
        return;
    }
    let ids: Vec<DeliveryId> = reservations.keys().copied().collect();
    // Before the statement is sent, so that this end of the lease is never the later one.
    let claimed_at = Instant::now();
    let claim = claim_around_culprits(deliverer, number, ids, shutdown).await;
    failpoint::die_at("deliverer.after_claim");
    let settled = claim.settled.iter().filter_map(|id| reservations.remove(id));
    acknowledge(deliverer, settled.map(|(reservation, _)| reservation).collect()).await;
    if shutdown.is_cancelled() {
        let unsent = claim.claimed.iter().filter_map(|claimed| {
            let (reservation, _) = reservations.remove(&claimed.delivery_id)?;
            Some(Unsent::of(claimed, reservation))
        });
        unsent::give_back(deliverer, &unsent.collect::<Vec<_>>(), Outage::LeaveToSweep).await;
    } else {
        deliverer.leases.taken(&claim.claimed);
        for claimed in claim.claimed {
            let Some((reservation, place)) = reservations.remove(&claimed.delivery_id) else { continue };
            send(deliverer, claimed, claimed_at, reservation, place);
        }
        let turns = claim.ordered.iter().filter_map(|id| reservations.remove(id));
        take_turns(deliverer, number, turns.collect()).await;
    }
    // What could not be looked at comes back when its reservation expires.
    for (reservation, _) in reservations.values() {
        deliverer.held.remove(reservation);
    }
}

fn send(
    deliverer: &Arc<Deliverer>,
    claimed: Claimed,
    claimed_at: Instant,
    reservation: Reservation,
    mut place: Place,
) {
    place.weigh(claimed.event.as_ref().map_or(0, |event| event.data.len()));
    let task = exchange::Task { claimed, claimed_at, reservation, place };
    deliverer.sending.spawn(exchange::deliver(deliverer.clone(), task));
}

/// Sends whatever is next at the endpoints of these reservations, which keep the order of acceptance.
async fn take_turns(deliverer: &Arc<Deliverer>, number: DelivererNumber, turns: Vec<(Reservation, Place)>) {
    let claims = turns.into_iter().map(async |(reservation, place)| {
        let claimed_at = Instant::now();
        let next = claim_turn(deliverer, number, reservation.endpoint_id).await;
        (reservation, place, claimed_at, next)
    });
    for (reservation, place, claimed_at, next) in join_all(claims).await {
        match next {
            Ok(Next::Claimed(claimed)) => {
                deliverer.leases.taken(std::slice::from_ref(&claimed));
                send(deliverer, *claimed, claimed_at, reservation, place);
            }
            // If another one is next by now and cannot be rendered either, its own id comes again.
            Ok(Next::Nothing | Next::Unrendered(..)) => acknowledge(deliverer, vec![reservation]).await,
            // It comes back when its reservation expires.
            Ok(Next::Locked) => deliverer.held.remove(&reservation),
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
) -> Result<Next, StoreError> {
    let next = claim::claim_next(&deliverer.store, number, endpoint, None).await?;
    if let Next::Unrendered(head, why) = &next {
        tracing::error!(delivery_id = %head, reason = why.reason, "the event cannot be rendered");
        return claim::claim_next(&deliverer.store, number, endpoint, Some((*head, why))).await;
    }
    Ok(next)
}

/// Claims what can be claimed. Where one delivery spoils the statement for all, the batch is halved until
/// it is alone: one that cannot be rendered is claimed without its event, any other is left for later. So is what is
/// left when `shutdown` comes.
async fn claim_around_culprits(
    deliverer: &Deliverer,
    number: DelivererNumber,
    ids: Vec<DeliveryId>,
    shutdown: &CancellationToken,
) -> Claim {
    let mut claim = Claim::default();
    let mut bisect = Bisect::of(ids);
    while let Some(part) = bisect.next().filter(|_| !shutdown.is_cancelled()) {
        let began = Instant::now();
        match claim::claim(&deliverer.store, number, &part, None).await {
            Ok(more) => {
                metrics::histogram!("postrider_claim_seconds").record(began.elapsed().as_secs_f64());
                deliverer.health.up("deliverer_postgresql");
                claim.add(more);
            }
            Err(error) => {
                if let Err(NoCulprit { error, .. }) = bisect.split(part, error) {
                    if !error.is_contention() {
                        deliverer.health.down("deliverer_postgresql", error);
                    }
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
    }
    for (culprit, error) in bisect.culprits {
        claim.add(claim_without_event(deliverer, number, culprit, &error).await);
    }
    claim
}

/// The attempt then fails as others do, and is retried or not. Where PostgreSQL is too slow for everything, this is
/// too slow as well, and no attempt is spent.
async fn claim_without_event(
    deliverer: &Deliverer,
    number: DelivererNumber,
    culprit: DeliveryId,
    error: &StoreError,
) -> Claim {
    let Some(why) = Unrendered::because_of(error) else {
        if !error.is_contention() {
            tracing::warn!(delivery_id = %culprit, %error, "the delivery cannot be claimed; it is tried again");
        }
        return Claim::default();
    };
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
        deliverer.redis_failed(error).await;
    }
    for reservation in &settled {
        deliverer.held.remove(reservation);
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
        deliverer.redis_failed(error).await;
        tokio::time::sleep(PAUSE).await;
    }
}
