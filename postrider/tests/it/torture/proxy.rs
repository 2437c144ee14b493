//! A proxy to a server that can delay, cut and swallow data.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    Delay(Duration),
    /// It never arrives, and neither end notices.
    Swallow,
}

/// A proxy from a port to a socket.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// The mode, and how often all connections were cut.
    state: watch::Sender<(Mode, u32)>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = watch::Sender::new((Mode::Pass, 0));
        let states = state.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let (socket, states) = (socket.clone(), states.clone());
                tokio::spawn(async move {
                    let Ok(far) = UnixStream::connect(socket).await else { return };
                    let (near_reads, near_writes) = near.into_split();
                    let (far_reads, far_writes) = far.into_split();
                    let mut cuts = states.subscribe();
                    let cut = cuts.borrow().1;
                    tokio::select! {
                        () = carry(near_reads, far_writes, states.subscribe()) => {}
                        () = carry(far_reads, near_writes, states.subscribe()) => {}
                        _ = cuts.wait_for(|(_, now)| *now != cut) => {}
                    }
                });
            }
        });
        Self { address, state, accepting }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.0 = mode);
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.1 += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: watch::Receiver<(Mode, u32)>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mode = state.borrow().0;
        match mode {
            Mode::Pass => {}
            Mode::Delay(delay) => tokio::time::sleep(delay).await,
            // Data after a gap would be nonsense, so this connection carries nothing any more.
            Mode::Swallow => std::future::pending().await,
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
