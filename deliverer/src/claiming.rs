//! Claims reserved deliveries and starts to send them. Isolates a delivery that makes the statement fail for a whole
//! batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use postrider_domain::endpoint::Feedback;
use postrider_domain::ids::{DelivererNumber, DeliveryId, EndpointId};
use postrider_queue::Reservation;
use postrider_runtime::failpoint;
use postrider_secrets::claim::{self, Claim, Claimed, Next, Unrendered};
use postrider_store::StoreError;
use postrider_store::bisect::{Bisect, NoCulprit};
use tokio_util::sync::CancellationToken;

use crate::in_flight::Place;
use crate::unsent::{self, Outage, Unsent};
use crate::{Deliverer, PAUSE, POSTGRESQL, exchange, metric};

/// Claims the deliveries of reservations and starts to send them.
pub(crate) async fn claim_and_send(
    deliverer: &Arc<Deliverer>,
    number: DelivererNumber,
    mut reservations: HashMap<DeliveryId, (Reservation, Place)>,
    shutdown: &CancellationToken,
) {
    if reservations.is_empty() {
        return;
    }
    let ids: Vec<DeliveryId> = reservations.keys().copied().collect();
    // Taken before the statement is sent, so that we never believe a lease to last longer than it does.
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
    // Ids whose rows could not be read come back when their reservations expire.
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

/// Sends the next delivery of each of these ordered endpoints.
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
            // If a different delivery is next by now and cannot be rendered either, its own id comes later.
            Ok(Next::Nothing | Next::Unrendered(..)) => acknowledge(deliverer, vec![reservation]).await,
            // The id comes back when its reservation expires.
            Ok(Next::Locked) => deliverer.held.remove(&reservation),
            Err(error) => {
                if !error.is_contention() {
                    deliverer.health.down(POSTGRESQL, error);
                }
                deliverer.held.remove(&reservation);
            }
        }
    }
}

/// Claims the next delivery of an ordered endpoint, without its event if that cannot be rendered.
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

/// Claims as many deliveries as possible. If one delivery makes the statement fail, the batch is halved until that
/// delivery is alone. If its event cannot be rendered, it is claimed without the event; otherwise it is left for later.
/// So is everything that is not claimed when `shutdown` comes.
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
                metrics::histogram!(metric::CLAIM_SECONDS).record(began.elapsed().as_secs_f64());
                deliverer.health.up(POSTGRESQL);
                claim.add(more);
            }
            Err(error) => {
                if let Err(NoCulprit { error, .. }) = bisect.split(part, error) {
                    if !error.is_contention() {
                        deliverer.health.down(POSTGRESQL, error);
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

/// Claims a delivery without its event. The attempt then fails like any other, and is retried or not. If PostgreSQL is
/// too slow for every statement, this one fails too, and no attempt is spent.
async fn claim_without_event(
    deliverer: &Deliverer,
    number: DelivererNumber,
    culprit: DeliveryId,
    error: &StoreError,
) -> Claim {
    let Some(why) = Unrendered::because_of(error) else {
        if !error.is_contention() {
            tracing::warn!(delivery_id = %culprit, %error, "the delivery cannot be claimed; will retry");
        }
        return Claim::default();
    };
    tracing::error!(delivery_id = %culprit, reason = why.reason, "the event cannot be rendered");
    match claim::claim(&deliverer.store, number, &[culprit], Some((culprit, &why))).await {
        Ok(claim) => claim,
        Err(error) => {
            deliverer.health.down(POSTGRESQL, error);
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
