//! The HTTP client that all webhooks are sent with: a request, an answer, and nothing else. It follows no
//! redirect, uses no proxy but the configured one, and dials no address that the guard refuses.
//!
//! It is built on hyper's connections, because what counts here is what general clients hide: where an
//! exchange failed, whether a connection was used before, and whether a byte of an answer has come.

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

/// The client, with the connections that wait to be used again.
pub(crate) struct Client {
    connector: Connector,
    pool: Arc<Pool>,
}

/// Why there is no client.
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
    /// The system's name servers are not known.
    #[error("the system's name servers cannot be read, set POSTRIDER_DNS_SERVERS: {0}")]
    NameServers(#[from] NetError),
}

/// How often connections are looked for that have waited for too long.
pub(crate) const SWEEP_CADENCE: Duration = Duration::from_secs(1);

/// Closes those connections.
pub(crate) async fn sweep(deliverer: Arc<Deliverer>) -> Result<Next, StepError> {
    deliverer.client.pool.sweep();
    Ok(Next::Later)
}

/// What is sent: a POST.
pub(crate) struct Post {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What came of a request.
pub(crate) struct Sent {
    /// The request was sent on a connection that had been used before and broke before a byte of an answer
    /// came, and then once more on a fresh one.
    pub(crate) resent: bool,
    pub(crate) answer: Result<Responded, Failure>,
}

/// An answer, of which the head has arrived.
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
    /// If certificates, proxy or name servers cannot be used.
    pub(crate) fn new(config: &DelivererConfig) -> Result<Self, ClientError> {
        Ok(Self { connector: Connector::new(config)?, pool: Arc::new(Pool::new(config.concurrency)) })
    }

    /// Sends, and waits for the head of the answer, all before `deadline`.
    ///
    /// A receiver may close an idle connection at the moment it is used again. So where a connection breaks
    /// that has been used before, and not a byte of an answer has come, the request is sent once more, on a
    /// fresh connection.
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

/// A connection on which there was no answer.
struct Broken {
    failure: Failure,
    /// It broke, and not a byte of an answer had come.
    was_silent: bool,
    /// Some of the request was written.
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

    /// Reads up to `limit` bytes of the body into `body`. True: there is more, which is left unread, or cannot be
    /// read because of how it is framed. A connection whose answer was read to its end is kept for the next request.
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

/// True where a body did not break off, and yet what comes is no chunk.
fn is_oddly_framed(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let cause: Option<&std::io::Error> = root(error).downcast_ref();
    cause.is_some_and(|cause| matches!(cause.kind(), InvalidData | InvalidInput))
}
