//! One connection to a receiver, and what went over it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// A connection may go on for so long after nobody wants it any more, to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// The most header lines of an answer. They are parsed into a buffer for so many.
const MAX_HEADERS: usize = 1_000;

/// A byte stream: TCP, or TLS over it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An HTTP/1.1 connection that is used for one exchange at a time. Dropping it closes it.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    traffic: Arc<Traffic>,
    _wanted: oneshot::Sender<()>,
}

/// What went over a connection since the latest request began.
#[derive(Default)]
pub(super) struct Traffic {
    sent: AtomicBool,
    received: AtomicBool,
    /// Writing has failed: when ever.
    write_failed: AtomicBool,
}

impl Traffic {
    pub(super) fn has_sent(&self) -> bool {
        self.sent.load(Relaxed)
    }

    pub(super) fn has_received(&self) -> bool {
        self.received.load(Relaxed)
    }
}

impl Connection {
    /// Speaks HTTP over a stream. Heads are read as leniently as curl and browsers read them.
    pub(super) async fn open(stream: Box<dyn Stream>) -> Result<Self, hyper::Error> {
        let traffic = Arc::<Traffic>::default();
        let watched = Watched { stream, traffic: traffic.clone() };
        let (sender, connection) = Builder::new()
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(watched))
            .await?;
        let (wanted, unwanted) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let mut connection = connection;
            // How it ends is told to whoever waits for an answer.
            tokio::select! {
                _ = &mut connection => {}
                _ = unwanted => drop(tokio::time::timeout(FAREWELL, connection).await),
            }
        });
        Ok(Self { sender, traffic, _wanted: wanted })
    }

    /// Sends a request, and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.traffic.sent.store(false, Relaxed);
        self.traffic.received.store(false, Relaxed);
        self.sender.send_request(request).await
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// True when another request can be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready() && !self.has_failed()
    }

    /// True when no request can be sent any more.
    pub(super) fn has_failed(&self) -> bool {
        self.sender.is_closed() || self.traffic.write_failed.load(Relaxed)
    }
}

/// Notes what goes over a stream, and reads on where others would give up.
struct Watched {
    stream: Box<dyn Stream>,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Watched {
    /// Where an answer has begun, its end is an end however it comes: by a reset, or without `close_notify`,
    /// as in HTTP/1.0. Whether it may end there is for HTTP to say: a body with a length, or in chunks, may
    /// not.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            self.traffic.received.store(true, Relaxed);
        }
        Poll::Ready(match read {
            Err(error) if is_end(&error) && self.traffic.has_received() => Ok(()),
            read => read,
        })
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

impl Watched {
    /// A receiver may answer and close before it has read the request. So a failure to write is no failure
    /// yet: reading tells whether there is an answer.
    fn written(&self, length: usize, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.traffic.sent.store(true, Relaxed);
        Poll::Ready(Ok(ready!(written).unwrap_or_else(|_| {
            self.traffic.write_failed.store(true, Relaxed);
            length
        })))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(bytes.len(), written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(slices.iter().map(|slice| slice.len()).sum(), written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.written(0, Poll::Ready(flushed.map(|()| 0))).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
