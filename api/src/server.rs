//! The listener, and the connections it takes in.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::uri::Scheme;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::listener::{Acceptor, TcpAcceptor};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, EndpointExt as _, Request, Server};
use postrider_shared::health::Health;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connections::{Connections, Watched};
use crate::operations::operations_routes;

/// How long requests under way may go on after a signal to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Requests under way at once on one connection of HTTP/2, which clients may speak without being asked.
const MAX_STREAMS: u32 = 32;
/// How often connections are looked at that may have to be closed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Connections to the API that are open at once, where the system allows so many descriptors.
pub(crate) const MAX_CONNECTIONS: usize = 8_192;
/// The same where health and metrics alone are served.
const MAX_OPERATIONS_CONNECTIONS: usize = 64;
/// How long to wait after a connection could not be taken in: most likely all descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `/health/live`, `/health/ready` and `/metrics` of a service that has no API, until `stop`.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve_operations(
    listener: TcpListener,
    health: Health,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> io::Result<()> {
    serve(listener, operations_routes(health, metrics), MAX_OPERATIONS_CONNECTIONS, stop).await
}

/// Serves until `stop`, then lets what is under way finish, for ten seconds at most. No more than `max_connections` are
/// open at once.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: impl Endpoint + 'static,
    max_connections: usize,
    stop: CancellationToken,
) -> io::Result<()> {
    let connections = Connections::new(max_connections.min(spare_descriptors()));
    let acceptor =
        QuickAcceptor { listener: TcpAcceptor::from_tokio(listener)?, connections: connections.clone() };
    let looking = connections.clone();
    let routes = routes.around(move |next, request: Request| {
        let serving = connections.serving(peer(request.remote_addr()));
        async move {
            let response = next.call(request).await;
            drop(serving);
            response
        }
    });
    let serving = Server::new_with_acceptor(acceptor)
        .http2_max_concurrent_streams(MAX_STREAMS)
        .run_with_graceful_shutdown(routes, stop.cancelled_owned(), Some(STOP_GRACE));
    tokio::select! {
        served = serving => served,
        () = close_overdue(looking) => Ok(()),
    }
}

/// Half of what descriptors there are: PostgreSQL and whatever else is in this process need some too.
fn spare_descriptors() -> usize {
    let descriptors = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1_024, |(soft, _)| soft);
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX)
}

async fn close_overdue(connections: Connections) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        connections.close_overdue(Instant::now());
    }
}

fn peer(address: &RemoteAddr) -> Option<SocketAddr> {
    match address.0 {
        Addr::SocketAddr(address) => Some(address),
        _ => None,
    }
}

/// Sends small answers at once, and does not spin when it cannot accept.
struct QuickAcceptor {
    listener: TcpAcceptor,
    connections: Connections,
}

impl Acceptor for QuickAcceptor {
    type Io = Watched;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.listener.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(Watched, LocalAddr, RemoteAddr, Scheme)> {
        loop {
            let (stream, local, remote, scheme) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken in");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    return Err(error);
                }
            };
            // A connection that is gone already is found out by its first read.
            let _ = stream.set_nodelay(true);
            let taken = peer(&remote).and_then(|peer| self.connections.add(stream, peer));
            if let Some(watched) = taken {
                return Ok((watched, local, remote, scheme));
            }
        }
    }
}
