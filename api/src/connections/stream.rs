//! The byte stream of a connection, which reads no more of a request head than allowed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Table;
use super::connection::Connection;

/// An accepted connection. It counts as open until this is dropped.
pub(crate) struct Watched {
    stream: Take<TcpStream>,
    pub(super) connection: Arc<Connection>,
    table: Arc<Table>,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, connection: Arc<Connection>, table: Arc<Table>) -> Self {
        Self { stream: stream.take(0), connection, table }
    }

    /// Returns the token that is cancelled when the connection must be closed.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.connection.closed.clone()
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.get_mut())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut open = self.table.open();
        // It may have been pushed out already, and another connection may now have its address.
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
        let this = &mut *self;
        let mut phase = this.connection.phase();
        let room = phase.may_read(&this.table.heads, this.connection.peer.ip());
        if room == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        this.stream.set_limit(room as u64);
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        phase.note_read(buffer.filled().get(before..).unwrap_or_default(), Instant::now());
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}
