//! The byte stream of a connection, between hyper and TLS or the socket.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::failure::tls_cause;
use super::head::Head;

/// Maximum bytes per read. Tokio's budget lets a task read at most 128 times before it yields, so this bounds the
/// memory of a connection and the time for which it can occupy a thread.
const READ: usize = 4 * 1024;

/// A byte stream: TCP, or TLS over TCP.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What passed over a connection since the latest request began.
#[derive(Default)]
pub(super) struct Traffic {
    /// Set when the head of another response is to be read.
    begins: AtomicBool,
    sent: AtomicBool,
    received: AtomicBool,
    /// The status of the final response once its first line has arrived, otherwise 0.
    status: AtomicU16,
    /// Nothing more can be sent after this response: writing failed, or the response is HTTP/1.0.
    is_last: AtomicBool,
}

impl Traffic {
    /// Resets the state for the next request.
    pub(super) fn begin(&self) {
        self.sent.store(false, Relaxed);
        self.received.store(false, Relaxed);
        self.status.store(0, Relaxed);
        self.begins.store(true, Relaxed);
    }

    pub(super) fn has_sent(&self) -> bool {
        self.sent.load(Relaxed)
    }

    pub(super) fn has_received(&self) -> bool {
        self.received.load(Relaxed)
    }

    pub(super) fn status(&self) -> Option<u16> {
        Some(self.status.load(Relaxed)).filter(|status| *status != 0)
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last.load(Relaxed)
    }
}

/// Observes a stream, rewrites response heads so that hyper can read them, and tolerates ends that other clients treat
/// as errors.
pub(super) struct Watched {
    stream: Box<dyn Stream>,
    traffic: Arc<Traffic>,
    head: Head,
    /// Bytes read from the stream that hyper has not read yet.
    passed: Vec<u8>,
    /// How the stream ended. Reported after the bytes that came before.
    ended: Option<io::Error>,
}

impl Watched {
    pub(super) fn new(stream: Box<dyn Stream>, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic, head: Head::default(), passed: Vec::new(), ended: None }
    }

    /// Reads from the stream. Once a response has begun, any end of the stream counts as a normal end: a reset, a
    /// missing `close_notify` (common with HTTP/1.0), or bytes that are not TLS. HTTP framing then decides whether the
    /// response is complete: a body with a length or in chunks may not end early.
    fn poll_stream(&mut self, cx: &mut Context<'_>, piece: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut read = match self.ended.take() {
            Some(error) => Err(error),
            None => ready!(Pin::new(&mut self.stream).poll_read(cx, piece)),
        };
        // Bytes that were decrypted before the error can still be read.
        if read.as_ref().is_err_and(|error| tls_cause(error).is_some())
            && matches!(Pin::new(&mut self.stream).poll_read(cx, piece), Poll::Ready(Ok(())))
            && !piece.filled().is_empty()
        {
            self.ended = std::mem::replace(&mut read, Ok(())).err();
        }
        if !piece.filled().is_empty() {
            self.traffic.received.store(true, Relaxed);
        }
        Poll::Ready(match read {
            Err(error) if is_end(&error) && self.traffic.has_received() => Ok(()),
            read => read,
        })
    }

    /// Reads bytes that belong to the head.
    fn read_head(&mut self, piece: &[u8]) -> io::Result<()> {
        let read = self.head.read(piece, &mut self.passed);
        if let Some(status) = self.head.status() {
            self.traffic.status.store(status.code, Relaxed);
            self.traffic.is_last.fetch_or(status.minor == 0, Relaxed);
        }
        read.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Handles a failed write. A receiver may respond and close before it has read the whole request, so a failed write
    /// is not an error yet: reading shows whether there is a response.
    fn written(&self, length: usize, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.traffic.sent.store(true, Relaxed);
        Poll::Ready(Ok(ready!(written).unwrap_or_else(|_| {
            self.traffic.is_last.store(true, Relaxed);
            length
        })))
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
        || tls_cause(error).is_some()
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.traffic.begins.swap(false, Relaxed) {
            self.head = Head::default();
        }
        while self.passed.is_empty() {
            let mut space = [MaybeUninit::uninit(); READ];
            let most = if self.head.is_over() { buffer.remaining().min(READ) } else { READ };
            let mut piece = ReadBuf::uninit(&mut space[..most]);
            ready!(self.poll_stream(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.head.is_over() {
                buffer.put_slice(piece.filled());
                return Poll::Ready(Ok(()));
            }
            self.read_head(piece.filled())?;
        }
        let count = buffer.remaining().min(self.passed.len());
        buffer.put_slice(&self.passed[..count]);
        if count == self.passed.len() {
            self.passed = Vec::new();
        } else {
            self.passed.drain(..count);
        }
        Poll::Ready(Ok(()))
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
