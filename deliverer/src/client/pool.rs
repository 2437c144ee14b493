//! Idle connections, kept for the next request to the same origin.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Connection;

/// How long a connection may be idle. Common servers close connections that have been idle for five seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum idle connections per origin.
const MAX_PER_ORIGIN: usize = 256;

/// The idle connections of one client.
pub(super) struct Pool {
    waiting: Mutex<Waiting>,
    /// Maximum idle connections in total.
    limit: usize,
}

/// Connections by scheme, host and port, with the most recently used at the end.
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
    /// Creates a pool of up to `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self { waiting: Mutex::default(), limit }
    }

    /// Takes the most recently used connection that is ready.
    pub(super) fn take(&self, origin: &str) -> Option<Connection> {
        let mut waiting = self.waiting.lock();
        let idle = waiting.by_origin.get_mut(origin)?;
        let usable = idle.iter().rposition(|idle| idle.is_kept() && idle.connection.is_ready())?;
        let Idle { connection, .. } = idle.remove(usable);
        waiting.count -= 1;
        Some(connection)
    }

    /// Keeps a connection whose latest response was read to its end, if there is room.
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

    /// Closes connections that have been idle for too long.
    pub(super) fn sweep(&self) {
        let mut waiting = self.waiting.lock();
        waiting.by_origin.retain(|_, idle| {
            idle.retain(Idle::is_kept);
            !idle.is_empty()
        });
        waiting.count = waiting.by_origin.values().map(Vec::len).sum();
    }
}
