//! The listener, and the connections it takes in.

use std::io;
use std::time::Duration;

use http::uri::Scheme;
use poem::listener::{Acceptor, TcpAcceptor};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, Server};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How long requests under way may go on after a signal to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long a connection may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Requests under way at once on one connection of HTTP/2, which clients may speak without being asked.
const MAX_STREAMS: u32 = 32;
/// How long to wait after a connection could not be taken in: most likely all descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`, then lets what is under way finish, for ten seconds at most.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: impl Endpoint + 'static,
    stop: CancellationToken,
) -> io::Result<()> {
    let acceptor = QuickAcceptor(TcpAcceptor::from_tokio(listener)?);
    Server::new_with_acceptor(acceptor)
        .idle_timeout(IDLE_TIMEOUT)
        .http2_max_concurrent_streams(MAX_STREAMS)
        .run_with_graceful_shutdown(routes, stop.cancelled_owned(), Some(STOP_GRACE))
        .await
}

/// Sends small answers at once, and does not spin when it cannot accept.
struct QuickAcceptor(TcpAcceptor);

impl Acceptor for QuickAcceptor {
    type Io = TcpStream;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.0.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(TcpStream, LocalAddr, RemoteAddr, Scheme)> {
        match self.0.accept().await {
            Ok(accepted) => {
                // A connection that is gone already is found out by its first read.
                let _ = accepted.0.set_nodelay(true);
                Ok(accepted)
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken in");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                Err(error)
            }
        }
    }
}
