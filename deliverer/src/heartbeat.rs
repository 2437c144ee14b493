//! Extends the reservations of deliveries in flight. When a deliverer dies, its ids are back in their queues within
//! seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postrider_queue::{RESERVATION, Reservation};
use postrider_runtime::every::Next;

use crate::{Deliverer, StepError, metric};

/// A third of a reservation's lifetime: two heartbeats fall within it, with time to spare.
pub(crate) const CADENCE: Duration = RESERVATION.checked_div(3).expect("three is not zero");

/// The reservations that this deliverer holds.
#[derive(Default)]
pub(crate) struct Held {
    since: Mutex<HashMap<Reservation, Instant>>,
}

impl Held {
    pub(crate) fn insert(&self, reservation: Reservation) {
        self.since.lock().insert(reservation, Instant::now());
    }

    pub(crate) fn remove(&self, reservation: &Reservation) {
        self.since.lock().remove(reservation);
    }

    /// Returns the reservations that are old enough to be extended. Most exchanges end before that.
    fn old(&self) -> Vec<Reservation> {
        let is_old = |(_, since): &(&Reservation, &Instant)| since.elapsed() >= CADENCE;
        self.since.lock().iter().filter(is_old).map(|(reservation, _)| *reservation).collect()
    }

    fn len(&self) -> usize {
        self.since.lock().len()
    }
}

/// Extends reservations that have been held for a while.
pub(crate) async fn extend(deliverer: Arc<Deliverer>) -> Result<Next, StepError> {
    metrics::gauge!(metric::IN_FLIGHT).set(deliverer.held.len() as f64);
    // If this fails, the ids come back, and the claim finds their deliveries leased.
    deliverer.queue.extend(&deliverer.held.old()).await?;
    deliverer.health.up("deliverer_redis");
    Ok(Next::Later)
}
