//! The limits on what one statement stores.

use std::time::Duration;

/// The most events in one statement.
pub(crate) const MAX_BATCH: usize = 64;
/// The most bytes of events in one statement. The event that exceeds this is still included, as the last.
const MAX_BATCH_BYTES: u64 = 2 << 20;
/// The most deliveries that one statement is expected to make, about five milliseconds' worth. A single event may
/// make more.
pub(crate) const MAX_BATCH_DELIVERIES: usize = 1_000;

/// An event that makes more deliveries than this is heavy.
const MAX_LIGHT_DELIVERIES: usize = 200;

/// The pause after heavy events, as a multiple of the time that storing them took, up to one second. During the pause
/// PostgreSQL and the other services work for everyone else. Since sending is slower than storing, the pause delays
/// no webhook.
const REST: u32 = 2;
const MAX_REST: Duration = Duration::from_secs(1);

/// Returns true for an event that makes, or is expected to make, many deliveries. Heavy events are stored apart from
/// the others, so that those do not wait for them, and one batch at a time.
pub(crate) fn is_heavy(deliveries: usize) -> bool {
    deliveries > MAX_LIGHT_DELIVERIES
}

/// Returns the pause after heavy events that took `took` to store.
pub(crate) fn rest_after(took: Duration) -> Duration {
    (took * REST).min(MAX_REST)
}

/// Holds the turn of heavy events until the pause is over.
pub(crate) fn rest_with<T: Send + 'static>(turn: T, took: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(rest_after(took)).await;
        drop(turn);
    });
}

/// What a statement contains so far.
#[derive(Debug, Default)]
pub(crate) struct Load {
    events: usize,
    bytes: u64,
    deliveries: usize,
}

impl Load {
    /// Returns true if nothing more may be added.
    pub(crate) fn is_full(&self) -> bool {
        self.events >= MAX_BATCH || self.bytes >= MAX_BATCH_BYTES
    }

    /// Returns true if an event with this many expected deliveries may be added without exceeding `most` in total.
    /// The first event always fits.
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
