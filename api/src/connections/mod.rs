//! The open connections, and which of them to close: a connection whose request head takes too long or is too large,
//! one that is idle for too long, one that does not read its response, and, if no further connection can be opened,
//! the least important one. A connection is exempt only while the API works on one of its requests, so that slow
//! clients cannot keep others out.

mod connection;
mod serving;
mod stream;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use postrider_domain::share::Shares;
use tokio::net::TcpStream;

pub(crate) use self::connection::MAX_HEAD_BYTES;
use self::connection::{Candidate, Connection};
pub(crate) use self::serving::Serving;
pub(crate) use self::stream::Watched;
use crate::metric;

/// The most bytes of incomplete request heads, beyond what each connection may use anyway.
const HEAD_BYTES: u64 = 32 << 20;
/// The most bytes of unread responses that count for no application, such as metrics.
const STRANGERS_BYTES: u64 = 32 << 20;
/// After this long without a refusal, the log says that refusing is over.
const QUIET: Duration = Duration::from_secs(10);

/// All connections of a listener. Clones share them.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Table>);

struct Table {
    max: usize,
    open: Mutex<HashMap<SocketAddr, Arc<Connection>>>,
    heads: Shares<IpAddr>,
    strangers: Shares<IpAddr>,
    refused: AtomicU64,
}

impl Connections {
    /// Creates an empty table for at most `max` connections.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Table {
            max,
            open: Mutex::default(),
            heads: Shares::new(HEAD_BYTES),
            strangers: Shares::new(STRANGERS_BYTES),
            refused: AtomicU64::new(0),
        }))
    }

    /// Adds a connection. If the table is full, closes another one for it. Returns `None` if the API is working on a
    /// request of every connection.
    pub(crate) fn add(&self, stream: TcpStream, peer: SocketAddr) -> Option<Watched> {
        let connection = Arc::new(Connection::new(peer, Instant::now()));
        let mut open = self.0.open();
        if open.len() >= self.0.max {
            let Some(victim) = dispensable(&open) else {
                drop(open);
                self.0.refused.fetch_add(1, Ordering::Relaxed);
                metrics::counter!(metric::CONNECTIONS_REFUSED).increment(1);
                return None;
            };
            if let Some(victim) = open.remove(&victim) {
                victim.closed.cancel();
                metrics::counter!(metric::CONNECTIONS_PUSHED_OUT).increment(1);
            }
        }
        open.insert(peer, connection.clone());
        drop(open);
        Some(Watched::new(stream, connection, self.0.clone()))
    }

    /// Marks a request of the connection from `peer` as in flight until the returned value is dropped.
    pub(crate) fn serving(&self, peer: SocketAddr) -> Arc<Serving> {
        let connection = self.0.open().get(&peer).cloned();
        Arc::new(Serving::new(connection, self.0.strangers.clone()))
    }

    /// Closes the connections whose time is up.
    pub(crate) fn close_overdue(&self, now: Instant) {
        let overdue: Vec<_> =
            self.0.open().values().filter(|connection| connection.phase().is_overdue(now)).cloned().collect();
        for connection in overdue {
            connection.closed.cancel();
        }
    }

    /// Returns how many connections were refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Returns how many connections may be open at once.
    pub(crate) fn max(&self) -> usize {
        self.0.max
    }
}

impl Table {
    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Connection>>> {
        self.open.lock()
    }
}

/// Returns the connection to close for a new one. Connections that have had no request go first, then those on which
/// no work is being done. In both groups, the holder with the most connections loses one. A holder is an application,
/// or a client address if the application is not known. Of its connections, the one that has been idle longest is
/// closed; one with a request in flight is closed only if none is idle.
fn dispensable(open: &HashMap<SocketAddr, Arc<Connection>>) -> Option<SocketAddr> {
    let candidates: Vec<Candidate> = open.values().filter_map(|connection| connection.candidate()).collect();
    let of_most = |is_known: bool| {
        let candidates = || candidates.iter().filter(move |candidate| candidate.is_known == is_known);
        let mut counts: HashMap<_, usize> = HashMap::new();
        for candidate in candidates() {
            *counts.entry(candidate.holder).or_default() += 1;
        }
        let (most, _) = counts.into_iter().max_by_key(|&(_, count)| count)?;
        let of_holder = candidates().filter(|candidate| candidate.holder == most);
        of_holder.min_by_key(|candidate| (candidate.is_busy, candidate.quiet_since))
    };
    of_most(false).or_else(|| of_most(true)).map(|candidate| candidate.peer)
}

/// Logs when connections begin to be refused, and when that ends.
pub(crate) struct Refusals {
    seen: u64,
    current: Option<Refusing>,
}

struct Refusing {
    before: u64,
    last: Instant,
}

impl Refusals {
    /// Starts with no refusals.
    pub(crate) fn new() -> Self {
        Self { seen: 0, current: None }
    }

    /// Compares the number of refusals with the last call. Call it regularly.
    pub(crate) fn look(&mut self, connections: &Connections, now: Instant) {
        let refused = connections.refused();
        if refused > self.seen {
            let before = self.seen;
            self.current.get_or_insert_with(|| {
                tracing::warn!(
                    max = connections.max(),
                    "connections are refused: all allowed connections are in use"
                );
                Refusing { before, last: now }
            });
            if let Some(current) = &mut self.current {
                current.last = now;
            }
            self.seen = refused;
        }
        if let Some(Refusing { before, .. }) =
            self.current.take_if(|current| now.saturating_duration_since(current.last) >= QUIET)
        {
            tracing::info!(refused = refused - before, "connections are no longer refused");
        }
    }
}

#[cfg(test)]
mod tests;
