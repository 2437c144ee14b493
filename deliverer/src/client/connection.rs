//! One connection to a receiver, for one exchange at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::head::MAX_HEADERS;
use super::watched::{Stream, Traffic, Watched};

/// How long a connection may take to close after its last use.
const FAREWELL: Duration = Duration::from_secs(1);

/// Maximum bytes that hyper buffers to parse. The heads that we pass on are smaller.
const MAX_BUFFERED: usize = 32 * 1024;

/// Starts HTTP/1.1 on a stream. Heads are parsed as leniently as curl and browsers do.
pub(super) async fn handshake(
    stream: Box<dyn Stream>,
    traffic: Arc<Traffic>,
) -> Result<(SendRequest<Full<Bytes>>, http1::Connection<TokioIo<Watched>, Full<Bytes>>), hyper::Error> {
    http1::Builder::new()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFERED)
        .handshake(TokioIo::new(Watched::new(stream, traffic)))
        .await
}

/// An HTTP/1.1 connection that is used for one exchange at a time. Dropping it closes it.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    traffic: Arc<Traffic>,
    _wanted: oneshot::Sender<()>,
}

impl Connection {
    pub(super) async fn open(stream: Box<dyn Stream>) -> Result<Self, hyper::Error> {
        let traffic = Arc::<Traffic>::default();
        let (sender, connection) = handshake(stream, traffic.clone()).await?;
        let (wanted, unwanted) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let mut connection = connection;
            // Errors of the connection reach the caller that waits for the response.
            tokio::select! {
                _ = &mut connection => {}
                _ = unwanted => drop(tokio::time::timeout(FAREWELL, connection).await),
            }
        });
        Ok(Self { sender, traffic, _wanted: wanted })
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.traffic.begin();
        self.sender.send_request(request).await
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Returns true if another request can be sent now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready() && !self.has_failed()
    }

    /// Returns true if no request can be sent any more.
    pub(super) fn has_failed(&self) -> bool {
        self.sender.is_closed() || self.traffic.is_last()
    }
}
