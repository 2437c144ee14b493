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
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How webhooks are received.
#[derive(Debug, Clone, Copy)]
pub(super) enum Manner {
    /// 200 at once.
    Accept,
    /// 500 at once.
    Fail,
    /// 200 at once to the first ones, and then only after a time.
    Hold { after: u64, time: Duration },
}

/// Receives on loopback until `stop`. What is held then is released.
pub(super) async fn receive(
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
            tokio::spawn(async move {
                let service = service_fn(|request| respond(manner, &received, &stop, request));
                // The deliverer ends connections as it likes.
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
        Manner::Accept => {}
        Manner::Fail => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        Manner::Hold { after, time } if number >= after => {
            stop.run_until_cancelled(tokio::time::sleep(time)).await;
        }
        Manner::Hold { .. } => {}
    }
    Ok(response)
}
