//! What one statement is given to store.

use std::time::Duration;

/// Events in one statement, at most.
pub(crate) const MAX_BATCH: usize = 64;
/// Bytes of events in one statement; the event that exceeds them is its last.
const MAX_BATCH_BYTES: u64 = 2 << 20;
/// Deliveries that one statement is expected to make, unless a single event makes more: about five
/// milliseconds' worth.
pub(crate) const MAX_BATCH_DELIVERIES: usize = 1_000;

/// An event that makes more deliveries is heavy.
const MAX_LIGHT_DELIVERIES: usize = 200;

/// After heavy events, the next ones wait for this many times as long as storing them took, but no longer than a
/// second. Meanwhile PostgreSQL and the other services work for everybody else. Sending is slower than storing, so that
/// nothing is sent later for it.
const REST: u32 = 2;
const MAX_REST: Duration = Duration::from_secs(1);

/// True for an event that makes, or is expected to make, many deliveries. Heavy events are stored apart from the others,
/// which wait for none of them, and one batch at a time.
pub(crate) fn is_heavy(deliveries: usize) -> bool {
    deliveries > MAX_LIGHT_DELIVERIES
}

/// How long the next heavy events wait after some that took so long.
pub(crate) fn rest_after(took: Duration) -> Duration {
    (took * REST).min(MAX_REST)
}

/// Keeps the turn of heavy events until the next ones may follow.
pub(crate) fn rest_with<T: Send + 'static>(turn: T, took: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(rest_after(took)).await;
        drop(turn);
    });
}

/// What a statement has been given so far.
#[derive(Debug, Default)]
pub(crate) struct Load {
    events: usize,
    bytes: u64,
    deliveries: usize,
}

impl Load {
    /// True where nothing more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.events >= MAX_BATCH || self.bytes >= MAX_BATCH_BYTES
    }

    /// True where an event that makes so many deliveries may be added to what is expected to make `most` of them in all.
    /// The first one may always be.
    pub(crate) fn has_room(&self, deliveries: usize, most: usize) -> bool {
        self.events == 0 || self.deliveries + deliveries <= most
    }

    /// Adds an event.
    pub(crate) fn add(&mut self, bytes: u64, deliveries: usize) {
        self.events += 1;
        self.bytes += bytes;
        self.deliveries += deliveries;
    }
}
