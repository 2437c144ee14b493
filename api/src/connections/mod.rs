//! The connections that are open, and which of them have to go: one whose request head does not arrive in time or is
//! too long, one that is idle for too long, one that does not read its response, and, where no more can be had, the one
//! that is missed least. A connection is spared only while the API works on one of its requests, so that nobody keeps
//! others out by being slow.

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

/// Bytes of heads that have not come to their end, beyond what each connection may have anyway.
const HEAD_BYTES: u64 = 32 << 20;
/// Bytes of responses to requests that are on no application's account, such as metrics.
const STRANGERS_BYTES: u64 = 32 << 20;
/// Refusals are over when there was none for this long.
const QUIET: Duration = Duration::from_secs(10);

/// All connections of a listener. All clones are one.
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
    /// Room for `max` connections.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Table {
            max,
            open: Mutex::default(),
            heads: Shares::new(HEAD_BYTES),
            strangers: Shares::new(STRANGERS_BYTES),
            refused: AtomicU64::new(0),
        }))
    }

    /// Takes a connection in, for which another may have to go; `None` where all are being worked on.
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

    /// A request of the connection from `peer` is under way until what this returns is dropped.
    pub(crate) fn serving(&self, peer: SocketAddr) -> Arc<Serving> {
        let connection = self.0.open().get(&peer).cloned();
        Arc::new(Serving::new(connection, self.0.strangers.clone()))
    }

    /// Closes those that have been given their time.
    pub(crate) fn close_overdue(&self, now: Instant) {
        let overdue: Vec<_> =
            self.0.open().values().filter(|connection| connection.phase().is_overdue(now)).cloned().collect();
        for connection in overdue {
            connection.closed.cancel();
        }
    }

    /// Connections that were refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// How many may be open at once.
    pub(crate) fn max(&self) -> usize {
        self.0.max
    }
}

impl Table {
    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Connection>>> {
        self.open.lock()
    }
}

/// The connection that is missed least. Those that have had no request go first, then those on which nothing is worked
/// on; in both cases one of whoever has most of them: an application, or an address where none is known. Of these the
/// one that is idle longest goes, and one with a request under way only where none is idle.
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

/// Says in the log when connections begin to be refused, and when that is over.
pub(crate) struct Refusals {
    seen: u64,
    current: Option<Refusing>,
}

struct Refusing {
    before: u64,
    last: Instant,
}

impl Refusals {
    /// None so far.
    pub(crate) fn new() -> Self {
        Self { seen: 0, current: None }
    }

    /// To be called now and then.
    pub(crate) fn look(&mut self, connections: &Connections, now: Instant) {
        let refused = connections.refused();
        if refused > self.seen {
            let before = self.seen;
            self.current.get_or_insert_with(|| {
                tracing::warn!(
                    max = connections.max(),
                    "connections are refused: all that may be open are in use"
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
