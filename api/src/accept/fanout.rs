//! How many deliveries an event may make. A guess that only sizes statements: as many as there were endpoints
//! that subscribed to the last one of the same producer and type. (Those whose filters do not match it cost
//! their evaluation.)

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use postrider_shared::store::accept::NewEvent;

/// For an event of which nothing is known yet.
const UNKNOWN: usize = 100;

/// Producers and types that are remembered; then all is forgotten.
const MAX_KNOWN: usize = 65_536;

/// What was seen.
#[derive(Default)]
pub(crate) struct Fanout {
    hasher: RandomState,
    seen: Mutex<HashMap<u64, u32>>,
}

impl Fanout {
    /// How many to expect.
    pub(crate) fn expect(&self, event: &NewEvent) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&self.key(event)).map_or(UNKNOWN, |&count| count as usize)
    }

    /// Notes how many endpoints there were.
    pub(crate) fn learn(&self, event: &NewEvent, endpoints: i32) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_KNOWN {
            seen.clear();
        }
        seen.insert(self.key(event), endpoints.unsigned_abs());
    }

    fn key(&self, event: &NewEvent) -> u64 {
        self.hasher.hash_one((&event.producer, &event.event_type))
    }
}
