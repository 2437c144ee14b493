//! Limits what this deliverer has in flight, in exchanges and in bytes of request bodies. Applications share the room,
//! so that one with slow receivers or large events always leaves some for the others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use postrider_domain::ids::ApplicationId;
use postrider_domain::share::{FACTOR, may_take};
use postrider_queue::Allotment;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Exchanges and bytes in use, with their limits.
pub(crate) struct InFlight {
    permits: Arc<Semaphore>,
    max_exchanges: u64,
    max_bytes: u64,
    usage: Mutex<Usage>,
}

#[derive(Default)]
struct Usage {
    total: Held,
    by_application: HashMap<ApplicationId, Held>,
}

/// What one application holds, or all of them together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Held {
    exchanges: u64,
    /// Exchanges whose body size is known.
    weighed: u64,
    /// Total size of these bodies, in bytes.
    bytes: u64,
}

impl InFlight {
    /// Creates room for this many exchanges and bytes of bodies. The limit on bytes applies before bodies are read: one
    /// batch may exceed it, and each application may have at least one exchange.
    pub(crate) fn new(max_exchanges: usize, max_bytes: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_exchanges)),
            max_exchanges: max_exchanges as u64,
            max_bytes: max_bytes as u64,
            usage: Mutex::default(),
        }
    }

    /// Waits until an exchange may begin, then returns permits for as many as may begin now, up to `most`.
    pub(crate) async fn permits(&self, most: usize) -> OwnedSemaphorePermit {
        let closed = "the semaphore is never closed";
        let mut permits = self.permits.clone().acquire_owned().await.expect(closed);
        let more = self.permits.available_permits().min(most - 1);
        if let Ok(more) = self.permits.clone().try_acquire_many_owned(more as u32) {
            permits.merge(more);
        }
        permits
    }

    /// Returns how many of the next `wanted` exchanges each application may have.
    pub(crate) fn allotment(&self, wanted: usize) -> Allotment {
        let usage = self.usage();
        let wanted = wanted as u64;
        let others = self.may_begin(usage.total, Held::default()).clamp(1, wanted);
        let named = usage
            .by_application
            .iter()
            .map(|(application, held)| (*application, self.may_begin(usage.total, *held)))
            .filter(|(_, most)| *most < others)
            .map(|(application, most)| (application, most as usize))
            .collect();
        Allotment { named, others: others as usize }
    }

    /// Returns true if an application holds less than an eighth of the exchanges in flight.
    pub(crate) fn holds_little(&self, application: ApplicationId) -> bool {
        let usage = self.usage();
        let held = usage.by_application.get(&application).map_or(0, |held| held.exchanges);
        held * FACTOR < usage.total.exchanges
    }

    /// Returns how many more exchanges an application may begin that holds `held` while `total` is in use. The size of
    /// the next bodies is not known before they are claimed. It is estimated as the average of those that the
    /// application holds, or as the average size for which there is room.
    fn may_begin(&self, total: Held, held: Held) -> u64 {
        let typical = held.bytes.checked_div(held.weighed).unwrap_or(self.max_bytes / self.max_exchanges);
        let by_bytes = may_take(self.max_bytes.saturating_sub(total.bytes), held.bytes) / typical.max(1);
        may_take(self.max_exchanges.saturating_sub(total.exchanges), held.exchanges).min(by_bytes)
    }

    /// Counts an exchange of an application for as long as the returned place lives.
    pub(crate) fn enter(self: &Arc<Self>, application: ApplicationId, permit: OwnedSemaphorePermit) -> Place {
        let place = Place { in_flight: self.clone(), application, bytes: None, _permit: permit };
        place.change(|held| held.exchanges += 1);
        place
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock()
    }
}

/// The room of one exchange, from its reservation until it is recorded.
pub(crate) struct Place {
    in_flight: Arc<InFlight>,
    application: ApplicationId,
    bytes: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Sets the size of the body.
    pub(crate) fn weigh(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes = Some(bytes);
        self.change(|held| {
            held.weighed += 1;
            held.bytes += bytes;
        });
    }

    fn change(&self, change: impl Fn(&mut Held)) {
        let mut usage = self.in_flight.usage();
        change(&mut usage.total);
        let held = usage.by_application.entry(self.application).or_default();
        change(held);
        if *held == Held::default() {
            usage.by_application.remove(&self.application);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (weighed, bytes) = self.bytes.map_or((0, 0), |bytes| (1, bytes));
        self.change(|held| {
            held.exchanges -= 1;
            held.weighed -= weighed;
            held.bytes -= bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const GREEDY: ApplicationId = ApplicationId(Uuid::from_u128(1));
    const KIB: usize = 1 << 10;

    fn take(in_flight: &Arc<InFlight>, application: ApplicationId, bytes: usize) -> Place {
        let permit = in_flight.permits.clone().try_acquire_owned().expect("a permit is free");
        let mut place = in_flight.enter(application, permit);
        place.weigh(bytes);
        place
    }

    fn may_take_more(in_flight: &InFlight, application: ApplicationId) -> bool {
        let Allotment { named, others } = in_flight.allotment(64);
        named.iter().find(|(named, _)| *named == application).map_or(others, |(_, most)| *most) > 0
    }

    #[test]
    fn one_application_may_hold_eight_ninths_of_the_exchanges() {
        let in_flight = Arc::new(InFlight::new(1_024, 64 << 20));
        let mut places = Vec::new();
        while may_take_more(&in_flight, GREEDY) {
            places.push(take(&in_flight, GREEDY, 100));
        }
        assert_eq!(places.len(), 910);
        assert_eq!(in_flight.allotment(64).others, 64, "others still have room for a batch");
        places.truncate(500);
        assert!(may_take_more(&in_flight, GREEDY));
    }

    #[test]
    fn one_application_may_hold_eight_ninths_of_the_bytes() {
        let in_flight = Arc::new(InFlight::new(1_024, 64 << 20));
        let mut places = Vec::new();
        while may_take_more(&in_flight, GREEDY) {
            places.push(take(&in_flight, GREEDY, 512 * KIB));
        }
        assert_eq!(places.len(), 113, "56.5 MiB of 64");
        assert_eq!(in_flight.allotment(64).others, 64);
    }

    #[test]
    fn somebody_who_holds_nothing_may_always_have_one_exchange() {
        let in_flight = Arc::new(InFlight::new(64, 1 << 20));
        let _places: Vec<_> = (0..4).map(|_| take(&in_flight, GREEDY, 512 * KIB)).collect();
        assert_eq!(in_flight.allotment(60).named, [(GREEDY, 0)], "twice the limit is in use");
        assert_eq!(in_flight.allotment(60).others, 1);
    }

    #[test]
    fn who_holds_an_eighth_of_all_does_not_hold_little() {
        let in_flight = Arc::new(InFlight::new(64, 1 << 20));
        let small = ApplicationId(Uuid::from_u128(2));
        assert!(!in_flight.holds_little(small), "nothing is in flight");
        let _places: Vec<_> = (0..8).map(|_| take(&in_flight, GREEDY, KIB)).collect();
        assert!(in_flight.holds_little(small));
        let _one = take(&in_flight, small, KIB);
        assert!(in_flight.holds_little(small), "one of nine");
        let _two = take(&in_flight, small, KIB);
        assert!(!in_flight.holds_little(small), "two of ten");
        assert!(!in_flight.holds_little(GREEDY));
    }

    #[test]
    fn nothing_is_kept_of_an_application_that_holds_nothing() {
        let in_flight = Arc::new(InFlight::new(8, 1 << 20));
        drop(take(&in_flight, GREEDY, KIB));
        assert!(in_flight.usage().by_application.is_empty());
        assert_eq!(in_flight.usage().total, Held::default());
    }
}
