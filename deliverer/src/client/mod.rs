//! The HTTP client that sends all webhooks. It sends one request and reads one response. It follows no redirects, uses
//! only the configured proxy, and dials no address that the guard refuses.
//!
//! It uses hyper's connections directly, because general clients hide what matters here: at which stage an exchange
//! failed, whether a connection was used before, and whether any byte of a response arrived.

mod connect;
mod connection;
mod deadline;
mod dial;
mod failure;
mod head;
mod pool;
mod proxy;
mod tls;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::net::NetError;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use postrider_domain::delivery::ErrorClass;
use postrider_runtime::every::Next;
use url::{Position, Url};

use crate::{Deliverer, DelivererConfig, StepError};
use connect::Connector;
use connection::Connection;
pub(crate) use deadline::Deadline;
pub(crate) use failure::{Failure, Fault, root};
use pool::Pool;

/// The client, with its pool of idle connections.
pub(crate) struct Client {
    connector: Connector,
    pool: Arc<Pool>,
}

/// Why the client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There are no trusted certificates.
    #[error(
        "there is no certificate to verify receivers by: install the system's CA certificates (ca-certificates) or set \
         POSTRIDER_EXTRA_CA_FILE"
    )]
    NoCertificates,
    /// The URL of the proxy cannot be used.
    #[error("POSTRIDER_EGRESS_PROXY (--egress-proxy): give an http:// or https:// URL")]
    Proxy,
    /// The system's name servers cannot be read.
    #[error("the system's name servers cannot be read, set POSTRIDER_DNS_SERVERS: {0}")]
    NameServers(#[from] NetError),
}

/// Interval between searches for connections that have been idle for too long.
pub(crate) const SWEEP_CADENCE: Duration = Duration::from_secs(1);

/// Closes connections that have been idle for too long.
pub(crate) async fn sweep(deliverer: Arc<Deliverer>) -> Result<Next, StepError> {
    deliverer.client.pool.sweep();
    Ok(Next::Later)
}

/// The POST request to send.
pub(crate) struct Post {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The result of a request.
pub(crate) struct Sent {
    /// Whether the request was sent a second time, on a new connection: the first was a reused connection, which broke
    /// before any byte of a response arrived.
    pub(crate) resent: bool,
    pub(crate) answer: Result<Responded, Failure>,
}

/// A response whose head has arrived.
pub(crate) struct Responded {
    response: Response<Incoming>,
    connection: Connection,
    origin: Box<str>,
    pool: Arc<Pool>,
}

impl Client {
    /// Builds the client.
    ///
    /// # Errors
    /// If the certificates, the proxy or the name servers cannot be used.
    pub(crate) fn new(config: &DelivererConfig) -> Result<Self, ClientError> {
        Ok(Self { connector: Connector::new(config)?, pool: Arc::new(Pool::new(config.concurrency)) })
    }

    /// Sends a request and waits for the head of the response, all before `deadline`.
    ///
    /// A receiver may close an idle connection at the moment it is used again. So if a reused connection breaks before
    /// any byte of a response arrives, the request is sent once more on a new connection.
    pub(crate) async fn send(&self, post: Post, deadline: Deadline) -> Sent {
        let mut resent = false;
        let request = match self.connector.request(&post) {
            Ok(request) => request,
            Err(failure) => return Sent { resent, answer: Err(failure) },
        };
        let origin = &post.url[..Position::BeforePath];
        if let Some(connection) = self.pool.take(origin) {
            match self.exchange(connection, request.clone(), origin, deadline).await {
                Err(Broken { was_silent: true, was_sent, .. }) => resent = was_sent,
                answer => return Sent { resent, answer: answer.map_err(|broken| broken.failure) },
            }
        }
        let answer = async {
            let connection = self.connector.connect(&post.url, deadline).await?;
            let answer = self.exchange(connection, request, origin, deadline).await;
            answer.map_err(|broken| broken.failure)
        };
        Sent { resent, answer: answer.await }
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
        origin: &str,
        deadline: Deadline,
    ) -> Result<Responded, Broken> {
        let response = match deadline.cap(connection.send(request)).await {
            Some(Ok(response)) => response,
            Some(Err(error)) => return Err(Broken::at(&connection, Failure::of_http(&error))),
            None => {
                let failure = Failure::new(ErrorClass::Timeout, deadline.exceeded());
                return Err(Broken { was_silent: false, was_sent: true, ..Broken::at(&connection, failure) });
            }
        };
        if let Some(failure) = self.connector.refusal(origin, &response) {
            return Err(Broken { failure, was_silent: false, was_sent: true });
        }
        Ok(Responded { response, connection, origin: origin.into(), pool: self.pool.clone() })
    }
}

/// A connection on which no response arrived.
struct Broken {
    failure: Failure,
    /// Whether the connection broke before any byte of a response arrived.
    was_silent: bool,
    /// Whether any of the request was written.
    was_sent: bool,
}

impl Broken {
    fn at(connection: &Connection, failure: Failure) -> Self {
        let traffic = connection.traffic();
        let failure = Failure { status: traffic.status(), ..failure };
        Self { failure, was_silent: !traffic.has_received(), was_sent: traffic.has_sent() }
    }
}

impl Responded {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Reads up to `limit` bytes of the body into `body`. Returns true if there is more, which is left unread, or which
    /// cannot be read because its framing is invalid. If the response was read to its end, the connection is kept for
    /// the next request.
    pub(crate) async fn read(mut self, limit: usize, body: &mut Vec<u8>) -> Result<bool, hyper::Error> {
        while let Some(frame) = self.response.frame().await {
            let frame = match frame {
                Err(error) if is_oddly_framed(&error) => return Ok(true),
                frame => frame?,
            };
            let Ok(chunk) = frame.into_data() else { continue };
            let room = limit - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok(true);
            }
        }
        self.pool.put(self.origin, self.connection);
        Ok(false)
    }
}

/// Returns true if a body did not break off, but its chunks are malformed.
fn is_oddly_framed(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let cause: Option<&std::io::Error> = root(error).downcast_ref();
    cause.is_some_and(|cause| matches!(cause.kind(), InvalidData | InvalidInput))
}
