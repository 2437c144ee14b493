//! What it may cost to store an event, in deliveries. A guess that only sizes statements: as much as the last one of
//! the same producer and type cost, by the endpoints that subscribed to it and the steps of their filters; for another
//! type, as the last one of the same producer.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postrider_domain::event::{NewEvent, Producer};

/// Producers and types that are remembered; then all is forgotten.
const MAX_KNOWN: usize = 65_536;

/// How long events of a producer and type are refused after one that took too long although it was alone.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Default)]
pub(crate) struct Fanout {
    hasher: RandomState,
    seen: Mutex<HashMap<u64, u32>>,
    /// When one took too long although it was alone.
    too_costly: Mutex<HashMap<u64, Instant>>,
}

impl Fanout {
    /// What to expect; `None` where nothing is known of the producer yet.
    pub(crate) fn expect(&self, event: &NewEvent) -> Option<usize> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = seen.get(&self.key(event)).or_else(|| seen.get(&self.hasher.hash_one(&event.producer)));
        cost.map(|&cost| cost as usize)
    }

    /// The same for an event of any type.
    pub(crate) fn expect_of(&self, producer: &Producer) -> Option<usize> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&self.hasher.hash_one(producer)).map(|&cost| cost as usize)
    }

    /// Notes what one cost.
    pub(crate) fn learn(&self, event: &NewEvent, cost: i32) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_KNOWN {
            seen.clear();
        }
        for key in [self.key(event), self.hasher.hash_one(&event.producer)] {
            seen.insert(key, cost.unsigned_abs());
        }
    }

    /// Notes that an event was in a statement that took too long: the next such one has a statement of its own, and
    /// shows what it costs.
    pub(crate) fn suspect(&self, event: &NewEvent) {
        self.learn(event, i32::MAX);
    }

    /// Notes that an event took too long although nothing else was with it.
    pub(crate) fn refuse(&self, event: &NewEvent) {
        let mut too_costly = self.too_costly.lock().unwrap_or_else(PoisonError::into_inner);
        if too_costly.len() >= MAX_KNOWN {
            too_costly.clear();
        }
        too_costly.insert(self.key(event), Instant::now());
    }

    /// True where that was a moment ago: those that wait behind it would each take as long.
    pub(crate) fn is_refused(&self, event: &NewEvent) -> bool {
        let mut too_costly = self.too_costly.lock().unwrap_or_else(PoisonError::into_inner);
        if too_costly.is_empty() {
            return false;
        }
        too_costly.retain(|_, noted| noted.elapsed() < REFUSED_FOR);
        too_costly.contains_key(&self.key(event))
    }

    fn key(&self, event: &NewEvent) -> u64 {
        self.hasher.hash_one((&event.producer, &event.event_type))
    }
}
