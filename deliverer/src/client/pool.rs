//! Connections that wait for another request to the same origin.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Connection;

/// Common servers close a connection that has been idle for five seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The most connections that wait for one origin.
const MAX_PER_ORIGIN: usize = 256;

/// What connections of one client wait in.
pub(super) struct Pool {
    waiting: Mutex<Waiting>,
    /// The most connections that wait, in all.
    limit: usize,
}

/// Connections by scheme, host and port, those that were used last at the end.
#[derive(Default)]
struct Waiting {
    by_origin: HashMap<Box<str>, Vec<Idle>>,
    count: usize,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Idle {
    fn is_kept(&self) -> bool {
        self.since.elapsed() < IDLE_TIMEOUT && !self.connection.has_failed()
    }
}

impl Pool {
    /// A pool of up to `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self { waiting: Mutex::default(), limit }
    }

    /// The connection that was used last and can be used now.
    pub(super) fn take(&self, origin: &str) -> Option<Connection> {
        let mut waiting = self.waiting.lock();
        let idle = waiting.by_origin.get_mut(origin)?;
        let usable = idle.iter().rposition(|idle| idle.is_kept() && idle.connection.is_ready())?;
        let Idle { connection, .. } = idle.remove(usable);
        waiting.count -= 1;
        Some(connection)
    }

    /// Keeps a connection whose latest answer was read to its end, where there is room.
    pub(super) fn put(&self, origin: Box<str>, connection: Connection) {
        let mut waiting = self.waiting.lock();
        if connection.has_failed() || waiting.count >= self.limit {
            return;
        }
        let idle = waiting.by_origin.entry(origin).or_default();
        if idle.len() < MAX_PER_ORIGIN {
            idle.push(Idle { connection, since: Instant::now() });
            waiting.count += 1;
        }
    }

    /// Closes connections that have waited for too long.
    pub(super) fn sweep(&self) {
        let mut waiting = self.waiting.lock();
        waiting.by_origin.retain(|_, idle| {
            idle.retain(Idle::is_kept);
            !idle.is_empty()
        });
        waiting.count = waiting.by_origin.values().map(Vec::len).sum();
    }
}
