//! What one statement is given to store.

use std::time::Duration;

/// Events in one statement, at most.
pub(crate) const MAX_BATCH: usize = 64;
/// Bytes of events in one statement; the event that exceeds them is its last.
const MAX_BATCH_BYTES: u64 = 2 << 20;
/// Deliveries that one statement is expected to make, unless a single event makes more: about five
/// milliseconds' worth.
pub(crate) const MAX_BATCH_DELIVERIES: usize = 1_000;

/// An event that is expected to make more is stored apart from those that make fewer, one such batch at a time: the others
/// wait for none of them.
pub(crate) const MAX_LIGHT_DELIVERIES: usize = 200;

/// After a batch of events that make many deliveries, the next one waits so many times as long as that one took, but no
/// longer than this: PostgreSQL and the services that deliver get to the others' events meanwhile. Sending is slower than storing, so
/// nothing is lost by it.
const REST: u32 = 2;
const MAX_REST: Duration = Duration::from_secs(1);

/// How long to wait after a batch of events that make many deliveries.
pub(crate) fn rest_after(took: Duration) -> Duration {
    (took * REST).min(MAX_REST)
}

/// Keeps a turn while what it was needed for rests, if it has made many deliveries.
pub(crate) fn rest_with<T: Send + 'static>(turn: T, took: Duration, deliveries: usize) {
    if deliveries > MAX_LIGHT_DELIVERIES {
        tokio::spawn(async move {
            tokio::time::sleep(rest_after(took)).await;
            drop(turn);
        });
    }
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
