//! The connections that are open, and which of them have to go: one whose request head does not arrive in time, one
//! that is idle for too long, and, where no more can be had, the one that was longest without a request. So nobody
//! who sends a request is kept out by those who send none.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long the head of a request may take, from its first byte; and how long a new connection may say nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection may be silent after a response.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// All connections of a listener. All clones are one.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Table>);

struct Table {
    max: usize,
    open: Mutex<HashMap<SocketAddr, Arc<Connection>>>,
}

struct Connection {
    peer: SocketAddr,
    closed: AtomicBool,
    waker: AtomicWaker,
    phase: Mutex<Phase>,
}

/// What a connection is doing.
#[derive(Clone, Copy)]
struct Phase {
    /// Requests under way.
    requests: usize,
    /// It has had one.
    is_known: bool,
    /// When it was opened, or last sent something of a response.
    quiet_since: Instant,
    /// When the head began that has not come to its end.
    head_since: Option<Instant>,
}

impl Phase {
    fn is_overdue(&self, now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        let silence = if self.is_known { IDLE_TIMEOUT } else { HEAD_TIMEOUT };
        self.requests == 0
            && (self.head_since.is_some_and(|began| since(began) >= HEAD_TIMEOUT)
                || since(self.quiet_since) >= silence)
    }
}

impl Connections {
    /// Room for `max` connections.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Table { max, open: Mutex::default() }))
    }

    /// Takes a connection in, for which another may have to go; `None` where all are being served.
    pub(crate) fn add(&self, stream: TcpStream, peer: SocketAddr) -> Option<Watched> {
        let connection = Arc::new(Connection {
            peer,
            closed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            phase: Mutex::new(Phase {
                requests: 0,
                is_known: false,
                quiet_since: Instant::now(),
                head_since: None,
            }),
        });
        let mut open = self.open();
        if open.len() >= self.0.max {
            let victim = dispensable(&open)?;
            if let Some(victim) = open.remove(&victim) {
                victim.close();
                metrics::counter!("postrider_connections_pushed_out_total").increment(1);
            }
        }
        open.insert(peer, connection.clone());
        drop(open);
        Some(Watched { stream, connection, table: self.0.clone() })
    }

    /// A request of the connection from `peer` is served until what this returns is dropped.
    pub(crate) fn serving(&self, peer: Option<SocketAddr>) -> Serving {
        let connection = peer.and_then(|peer| self.open().get(&peer).cloned());
        if let Some(connection) = &connection {
            let mut phase = connection.phase();
            phase.requests += 1;
            phase.is_known = true;
            phase.head_since = None;
        }
        Serving(connection)
    }

    /// Closes those that have been given their time.
    pub(crate) fn close_overdue(&self, now: Instant) {
        let overdue: Vec<_> =
            self.open().values().filter(|connection| connection.phase().is_overdue(now)).cloned().collect();
        for connection in overdue {
            connection.close();
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Connection>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection that is missed least: of those that have had no request the oldest, of the address that has
/// most of them; else the one that is idle longest.
fn dispensable(open: &HashMap<SocketAddr, Arc<Connection>>) -> Option<SocketAddr> {
    let waiting = || {
        let all = open.values().map(|connection| (connection.peer, *connection.phase()));
        all.filter(|(_, phase)| phase.requests == 0)
    };
    let mut unknown: HashMap<IpAddr, usize> = HashMap::new();
    for (peer, _) in waiting().filter(|(_, phase)| !phase.is_known) {
        *unknown.entry(peer.ip()).or_default() += 1;
    }
    let oldest = |(_, phase): &(SocketAddr, Phase)| phase.quiet_since;
    let most = unknown.into_iter().max_by_key(|&(_, count)| count).map(|(address, _)| address);
    let of_most = waiting().filter(|(peer, phase)| !phase.is_known && Some(peer.ip()) == most);
    of_most.min_by_key(oldest).or_else(|| waiting().min_by_key(oldest)).map(|(peer, _)| peer)
}

impl Connection {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// While this is there a request of a connection is being served.
pub(crate) struct Serving(Option<Arc<Connection>>);

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            let mut phase = connection.phase();
            phase.requests -= 1;
            phase.quiet_since = Instant::now();
        }
    }
}

/// A connection that can be closed from outside, and tells when something happens on it.
pub(crate) struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
    table: Arc<Table>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut open = self.table.open.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been pushed out, and its address be another's by now.
        if open.get(&self.connection.peer).is_some_and(|other| Arc::ptr_eq(other, &self.connection)) {
            open.remove(&self.connection.peer);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.waker.register(context.waker());
        if self.connection.closed.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            let mut phase = self.connection.phase();
            if phase.requests == 0 && phase.head_since.is_none() {
                phase.head_since = Some(Instant::now());
            }
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_written(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note_written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Watched {
    fn note_written(&self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(written)) if *written > 0) {
            self.connection.phase().quiet_since = Instant::now();
        }
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
