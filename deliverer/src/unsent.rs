//! Gives back or cancels claims for which nothing was sent.

use postrider_domain::endpoint::Feedback;
use postrider_domain::ids::{DeliveryId, LeaseId};
use postrider_queue::Reservation;
use postrider_secrets::claim::Claimed;
use postrider_store::{StoreError, expunge, record};

use crate::{Deliverer, PAUSE, POSTGRESQL};

/// A claim for which nothing was sent.
pub(crate) struct Unsent {
    delivery_id: DeliveryId,
    lease_id: LeaseId,
    reservation: Reservation,
}

impl Unsent {
    /// Returns the unsent claim with the reservation that it was made for.
    pub(crate) fn of(claimed: &Claimed, reservation: Reservation) -> Self {
        Self { delivery_id: claimed.delivery_id, lease_id: claimed.lease_id, reservation }
    }
}

/// What to do during an outage of PostgreSQL, or while a row is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    /// Retry, because a swept lease costs an attempt.
    Wait,
    /// Leave the lease to the sweep, because the deliverer is stopping.
    LeaveToSweep,
}

/// Undoes claims, as if they had never been made.
pub(crate) async fn give_back(deliverer: &Deliverer, unsent: &[Unsent], outage: Outage) {
    if unsent.is_empty() {
        return;
    }
    let leases: Vec<_> = unsent.iter().map(|claim| (claim.delivery_id, claim.lease_id)).collect();
    let given = loop {
        match record::give_back(&deliverer.store, &leases).await {
            Err(error) if outage == Outage::Wait && (error.is_outage() || error.is_contention()) => {
                if error.is_outage() {
                    deliverer.health.down(POSTGRESQL, error);
                }
                tokio::time::sleep(PAUSE).await;
            }
            given => break given,
        }
    };
    end(deliverer, unsent, given).await;
}

/// Cancels a delivery whose event was expunged. Returns false if the event is missing for another reason.
pub(crate) async fn cancel_expunged(
    deliverer: &Deliverer,
    claimed: &Claimed,
    reservation: Reservation,
) -> bool {
    let cancelled = expunge::cancel_claimed(&deliverer.store, claimed.delivery_id, claimed.lease_id).await;
    if matches!(cancelled, Ok(false)) {
        return false;
    }
    end(deliverer, &[Unsent::of(claimed, reservation)], cancelled.map(drop)).await;
    true
}

/// Releases claims that were given back or cancelled. If that failed, their leases are swept.
async fn end(deliverer: &Deliverer, unsent: &[Unsent], ended: Result<(), StoreError>) {
    match ended {
        Ok(()) => {
            let done = unsent.iter().map(|claim| (claim.reservation, Feedback::None));
            if let Err(error) = deliverer.queue.acknowledge(done).await {
                deliverer.redis_failed(error).await;
            }
        }
        Err(error) => deliverer.health.down(POSTGRESQL, error),
    }
    for claim in unsent {
        deliverer.leases.abandon(claim.lease_id);
        deliverer.held.remove(&claim.reservation);
    }
}
