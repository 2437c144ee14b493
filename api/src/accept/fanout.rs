//! Estimates what storing an event costs, in deliveries. The cost counts the endpoints that subscribe to the event
//! and the steps of their filters. The estimate only sizes statements. It is the cost of the last event of the same
//! producer and type, or else of the last event of the same producer.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postrider_domain::event::{NewEvent, Producer};

/// How many producers and types are remembered. When the map is full, it is cleared.
const MAX_KNOWN: usize = 65_536;

/// How long events of a producer and type are refused after one of them took too long on its own.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// The costs seen so far.
#[derive(Default)]
pub(crate) struct Fanout {
    hasher: RandomState,
    seen: Mutex<HashMap<u64, u32>>,
    /// When an event took too long on its own, by producer and type.
    too_costly: Mutex<HashMap<u64, Instant>>,
}

impl Fanout {
    /// Returns the expected cost of an event, or `None` if the producer has not been seen yet.
    pub(crate) fn expect(&self, event: &NewEvent) -> Option<usize> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = seen.get(&self.key(event)).or_else(|| seen.get(&self.hasher.hash_one(&event.producer)));
        cost.map(|&cost| cost as usize)
    }

    /// Returns the expected cost of an event of any type, or `None` if the producer has not been seen yet.
    pub(crate) fn expect_of(&self, producer: &Producer) -> Option<usize> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&self.hasher.hash_one(producer)).map(|&cost| cost as usize)
    }

    /// Records the cost of an event.
    pub(crate) fn learn(&self, event: &NewEvent, cost: i32) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_KNOWN {
            seen.clear();
        }
        for key in [self.key(event), self.hasher.hash_one(&event.producer)] {
            seen.insert(key, cost.unsigned_abs());
        }
    }

    /// Records that an event was in a statement that took too long. The next one like it gets a statement of its own,
    /// which shows its cost.
    pub(crate) fn suspect(&self, event: &NewEvent) {
        self.learn(event, i32::MAX);
    }

    /// Records that an event took too long on its own.
    pub(crate) fn refuse(&self, event: &NewEvent) {
        let mut too_costly = self.too_costly.lock().unwrap_or_else(PoisonError::into_inner);
        if too_costly.len() >= MAX_KNOWN {
            too_costly.clear();
        }
        too_costly.insert(self.key(event), Instant::now());
    }

    /// Returns true if that happened a moment ago. The events that wait behind it would each take as long.
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
