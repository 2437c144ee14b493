//! The receiver of an offender's endpoints.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How webhooks are received.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    /// Responds 200 at once.
    Accept,
    /// Responds with this status at once.
    Fail(StatusCode),
    /// Responds 200, at once to the first `after` webhooks and then only after `time`.
    Hold { after: u64, time: Duration },
    /// Sends 103 repeatedly and never a final response.
    Inform,
}

/// Receives on loopback until `stop`, then releases held requests.
pub(crate) async fn receive(
    manner: Manner,
    received: Arc<AtomicU64>,
    stop: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("the offender's receiver cannot listen")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let (received, stop) = (received.clone(), stop.clone());
            if matches!(manner, Manner::Inform) {
                received.fetch_add(1, Relaxed);
                tokio::spawn(async move { stop.run_until_cancelled(inform(stream)).await });
                continue;
            }
            tokio::spawn(async move {
                let service = service_fn(|request| respond(manner, &received, &stop, request));
                // The deliverer may close connections at any time.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

async fn respond(
    manner: Manner,
    received: &AtomicU64,
    stop: &CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    let number = received.fetch_add(1, Relaxed);
    let mut response = Response::new(Empty::new());
    match manner {
        Manner::Accept | Manner::Inform => {}
        Manner::Fail(status) => *response.status_mut() = status,
        Manner::Hold { after, time } if number >= after => {
            stop.run_until_cancelled(tokio::time::sleep(time)).await;
        }
        Manner::Hold { .. } => {}
    }
    Ok(response)
}

/// Sends as fast as the other end reads.
async fn inform(mut stream: TcpStream) {
    let responses = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(2_000);
    let mut request = [0; 1_024];
    if matches!(stream.read(&mut request).await, Ok(1..)) {
        while stream.write_all(&responses).await.is_ok() {}
    }
}
