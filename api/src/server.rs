//! The listener, and how its connections are served.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::Scheme;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Request, Response};
use postrider_runtime::health::Health;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections::{Connections, MAX_HEAD_BYTES, Refusals, Watched};
use crate::probes::probe_routes;

/// How long requests in flight may take after the shutdown signal.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Concurrent requests on one HTTP/2 connection. Clients may use HTTP/2 without negotiation.
const MAX_STREAMS: u32 = 32;
/// The largest HTTP/2 request head, counted with its fields uncompressed.
const MAX_HTTP2_HEAD_BYTES: u32 = 16_384;
/// How often overdue connections are closed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The most open connections to the API, if the limit on file descriptors allows it.
const MAX_CONNECTIONS: usize = 8_192;
/// The most open connections for a service that serves only health and metrics.
const MAX_OPERATIONS_CONNECTIONS: usize = 64;
/// The pause after a failed accept. The most likely cause is that no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `/health/live`, `/health/ready` and `/metrics` for a service without an API, until `stop`.
///
/// # Errors
/// If the listener fails.
pub async fn serve_probes(
    listener: TcpListener,
    health: Health,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> io::Result<()> {
    let max_connections = MAX_OPERATIONS_CONNECTIONS.min(spare_descriptors());
    serve(listener, probe_routes(health, metrics), max_connections, stop).await
}

/// Serves at most `max_connections` open connections until `stop`. Then lets requests in flight complete, for at most
/// ten seconds.
///
/// # Errors
/// If the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: impl Endpoint<Output = Response> + 'static,
    max_connections: usize,
    stop: CancellationToken,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let connections = Connections::new(max_connections);
    let server = Arc::new(Server { routes, local, connections: connections.clone(), stop: stop.clone() });
    tracing::info!(address = %local, "listening");
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    let accepting = async {
        loop {
            let Some((stream, peer)) = accept(&listener).await else { continue };
            if let Some(watched) = connections.add(stream, peer) {
                tasks.spawn(cut.clone().run_until_cancelled_owned(server.clone().connection(watched, peer)));
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
        () = close_overdue(&connections) => {}
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(STOP_GRACE, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
    Ok(())
}

/// Accepts the next connection, with `TCP_NODELAY` set so that small responses leave at once. Returns `None` if that
/// failed.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            // If the connection is already closed, the first read will report it.
            let _ = stream.set_nodelay(true);
            Some((stream, peer))
        }
        Err(error) => {
            tracing::warn!(%error, "could not accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// The state that all connections share.
struct Server<E> {
    routes: E,
    local: SocketAddr,
    connections: Connections,
    stop: CancellationToken,
}

impl<E: Endpoint<Output = Response> + 'static> Server<E> {
    /// Serves a connection until it is closed. After `stop`, it completes the requests in flight and takes no more.
    async fn connection(self: Arc<Self>, watched: Watched, peer: SocketAddr) {
        let (stop, closed) = (self.stop.clone(), watched.closed());
        let service = service_fn(move |request| self.clone().request(request, peer));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // A client may close its sending side and still read the response.
        builder.http1().max_buf_size(MAX_HEAD_BYTES).half_close(true);
        builder.http2().max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HTTP2_HEAD_BYTES);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(watched), service));
        let serving = async {
            tokio::select! {
                _ = &mut connection => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            // No one is left to report an error to.
            let _ = connection.await;
        };
        closed.run_until_cancelled(serving).await;
    }

    async fn request(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<http::Response<impl hyper::body::Body<Data = bytes::Bytes, Error = io::Error>>, Infallible>
    {
        let (local, remote) = (LocalAddr(Addr::from(self.local)), RemoteAddr(Addr::from(peer)));
        let mut request = Request::from((request, local, remote, Scheme::HTTP));
        request.set_data(self.connections.serving(peer));
        Ok(self.routes.get_response(request).await.into())
    }
}

async fn close_overdue(connections: &Connections) {
    let mut refusals = Refusals::new();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = Instant::now();
        connections.close_overdue(now);
        refusals.look(connections, now);
    }
}

/// Returns how many connections to the API may be open at once.
pub(crate) fn max_connections() -> usize {
    MAX_CONNECTIONS.min(spare_descriptors())
}

/// Returns half of the file descriptor limit. PostgreSQL and everything else in this process need the rest.
fn spare_descriptors() -> usize {
    let descriptors = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1_024, |(soft, _)| soft);
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX)
}
