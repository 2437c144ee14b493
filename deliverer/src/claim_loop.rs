//! Reserves ids, and has their deliveries claimed and sent. It never reserves more than it has permits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::ids::DelivererNumber;
use postrider_queue::{Reserved, Waker};
use postrider_runtime::every::{Next, Step};
use postrider_runtime::failpoint;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::claiming::claim_and_send;
use crate::{Deliverer, POSTGRESQL, StepError};

/// Maximum deliveries claimed by one statement.
const BATCH: usize = 64;

/// Delay before the next step if everything that waits belongs to applications that hold their full share.
const HELD_BACK: Duration = Duration::from_millis(5);

/// Interval between steps that nothing wakes. A [`Waker`] waits for a second at most.
pub(crate) const CADENCE: Duration = Duration::from_secs(2);

/// Reserves, claims and starts to send one batch in each step.
pub(crate) struct ClaimLoop {
    /// Cancelled at shutdown; after that nothing is reserved.
    stop: CancellationToken,
    waker: Option<Waker>,
    /// Time until a blocked endpoint may be served.
    unblocked: Option<Duration>,
}

impl Step<Deliverer> for ClaimLoop {
    async fn run(&mut self, deliverer: &Arc<Deliverer>) -> Result<Next, StepError> {
        let may_take = async {
            // While attempts that were made cannot be recorded, nothing new is sent.
            deliverer.recorder.flowing().await;
            postgresql_is_back(deliverer).await?;
            let most = if deliverer.faults.pause().await { 1 } else { BATCH };
            Ok((deliverer.registration.held().await, deliverer.in_flight.permits(most).await))
        };
        match self.stop.clone().run_until_cancelled(may_take).await {
            None => Ok(Next::Later),
            Some(Err(error)) => Err(error),
            Some(Ok((number, permits))) => self.take_in(deliverer, number, permits).await,
        }
    }

    async fn woken(&mut self, deliverer: &Arc<Deliverer>) -> Result<(), StepError> {
        let mut waker = match self.waker.take() {
            Some(waker) => waker,
            None => deliverer.queue.waker().await?,
        };
        waker.wait(self.unblocked).await?;
        self.waker = Some(waker);
        Ok(())
    }
}

/// Checks PostgreSQL while it is reported down: an id that cannot be claimed should not be reserved. With nothing in
/// flight, no other task would notice the end of the outage.
async fn postgresql_is_back(deliverer: &Deliverer) -> Result<(), StepError> {
    if deliverer.health.is_down(POSTGRESQL) {
        deliverer.store.ping().await?;
        deliverer.health.up(POSTGRESQL);
    }
    Ok(())
}

impl ClaimLoop {
    /// Returns a loop that runs until `stop`.
    pub(crate) fn until(stop: CancellationToken) -> Self {
        Self { stop, waker: None, unblocked: None }
    }

    /// Reserves and claims one batch. Must not be cancelled once something is reserved.
    async fn take_in(
        &mut self,
        deliverer: &Arc<Deliverer>,
        number: DelivererNumber,
        mut permits: OwnedSemaphorePermit,
    ) -> Result<Next, StepError> {
        let allotment = deliverer.in_flight.allotment(permits.num_permits());
        let Reserved { reservations, next_unblocked, is_held_back, .. } =
            deliverer.queue.reserve(permits.num_permits(), &allotment).await?;
        if reservations.is_empty() {
            self.unblocked = next_unblocked;
            return Ok(if is_held_back { Next::After(HELD_BACK) } else { Next::Later });
        }
        failpoint::die_at("deliverer.after_reserve");
        // Applications with little in flight do not wait for the deliveries of those with much.
        let (few, many): (Vec<_>, Vec<_>) = (reservations.into_iter())
            .partition(|reservation| deliverer.in_flight.holds_little(reservation.application_id));
        let [few, many] = [few, many].map(|reservations| {
            let mut places = HashMap::with_capacity(reservations.len());
            for reservation in reservations {
                deliverer.held.insert(reservation);
                let permit = permits.split(1).expect("no more ids are reserved than there are permits");
                let place = deliverer.in_flight.enter(reservation.application_id, permit);
                places.insert(reservation.delivery_id, (reservation, place));
            }
            // Debug level is enough, because each line logged inside names its delivery.
            let span = tracing::debug_span!("claim", deliverer = number.0, deliveries = places.len());
            claim_and_send(deliverer, number, places, &self.stop).instrument(span)
        });
        tokio::join!(few, many);
        Ok(Next::Now)
    }
}
