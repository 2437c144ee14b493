//! Keeps the reservations of what is under way. A deliverer that dies stops doing so, and its ids are
//! back in their queues within seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postrider_queue::{RESERVATION, Reservation};

use crate::Deliverer;

/// Twice within the life of a reservation, with time to spare.
const EVERY: Duration = RESERVATION.checked_div(3).expect("three is not zero");

/// The reservations that this deliverer holds.
#[derive(Default)]
pub(crate) struct Held {
    since: Mutex<HashMap<Reservation, Instant>>,
}

impl Held {
    pub(crate) fn insert(&self, reservation: Reservation) {
        self.lock().insert(reservation, Instant::now());
    }

    pub(crate) fn remove(&self, reservation: &Reservation) {
        self.lock().remove(reservation);
    }

    /// Those that were made a while ago: most exchanges are over before they need it.
    fn old(&self) -> Vec<Reservation> {
        let is_old = |(_, since): &(&Reservation, &Instant)| since.elapsed() >= EVERY;
        self.lock().iter().filter(is_old).map(|(reservation, _)| *reservation).collect()
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Reservation, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Extends for ever.
pub(crate) async fn run(deliverer: Arc<Deliverer>) {
    loop {
        tokio::time::sleep(EVERY).await;
        metrics::gauge!("postrider_deliverer_in_flight").set(deliverer.held.len() as f64);
        match deliverer.queue.extend(&deliverer.held.old()).await {
            Ok(()) => deliverer.health.up("deliverer_redis"),
            // The ids come back, and are found to be leased.
            Err(error) => deliverer.redis_failed(error).await,
        }
    }
}
