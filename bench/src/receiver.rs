//! The receiver: records what arrives, and responds as planned. It uses only hyper, with one task per connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Empty};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Interval;

use crate::fixture::Endpoint;
use crate::ledger::Ledger;
use crate::payload;
use crate::plan::Behaviour;

/// Interval between the bytes of a dripping response.
const DRIP: Duration = Duration::from_secs(1);
/// Pause after the listener fails, for example because no descriptors are left.
const PAUSE: Duration = Duration::from_millis(100);

type HttpResponse = Response<Either<Empty<Bytes>, Drip>>;

/// Receives until it is dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    ledger: Arc<Ledger>,
    seed: u64,
    verify_every: u64,
    /// The run's mark in every URL, and the endpoints of the run.
    known: OnceLock<(String, Vec<Endpoint>)>,
    seen: Seen,
}

/// What the receiver saw, apart from deliveries.
#[derive(Default)]
struct Seen {
    verified: AtomicU64,
    badly_signed: AtomicU64,
    strays: AtomicU64,
}

/// A snapshot of these counts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Findings {
    pub(crate) verified: u64,
    pub(crate) badly_signed: u64,
    pub(crate) strays: u64,
}

impl Receiver {
    /// Starts to listen. Every request counts as stray until [`expect`](Self::expect) is called.
    pub(crate) async fn start(
        listen: SocketAddr,
        ledger: Arc<Ledger>,
        seed: u64,
        verify_every: u64,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("the receiver cannot listen on {listen}: choose another address with --receiver-listen")
        })?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { ledger, seed, verify_every, known: OnceLock::new(), seen: Seen::default() });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    /// Sets the run and the endpoints whose webhooks are expected.
    pub(crate) fn expect(&self, run: &str, endpoints: &[Endpoint]) {
        let _ = self.shared.known.set((run.to_owned(), endpoints.to_vec()));
    }

    pub(crate) fn findings(&self) -> Findings {
        let seen = &self.shared.seen;
        Findings {
            verified: seen.verified.load(Relaxed),
            badly_signed: seen.badly_signed.load(Relaxed),
            strays: seen.strays.load(Relaxed),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| receive(&shared, request));
            // The deliverer may close connections at any time.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn receive(shared: &Shared, request: Request<Incoming>) -> Result<HttpResponse, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(answer(StatusCode::BAD_REQUEST)) };
    let at = shared.ledger.now();
    let body = body.to_bytes();
    let Some(endpoint) = shared.endpoint(head.uri.path()) else { return Ok(shared.stray()) };
    let number = payload::number(&body);
    let attempt = number.and_then(|number| shared.ledger.arrived(number, endpoint.position, at));
    let fails = |number, percent| attempt == Some(1) && fails(shared.seed, number, percent);
    match (endpoint.behaviour, number) {
        (Behaviour::Hang | Behaviour::Refuse, _) => std::future::pending().await,
        (Behaviour::TooMany, _) => Ok(answer(StatusCode::TOO_MANY_REQUESTS)),
        (Behaviour::Drip, _) => Ok(Response::new(Either::Right(Drip(tokio::time::interval(DRIP))))),
        (Behaviour::Take | Behaviour::FailFirst(_), Some(number)) if attempt.is_some() => {
            if number % shared.verify_every == 0 {
                shared.verify(endpoint, &head.headers, &body);
            }
            if let Behaviour::FailFirst(percent) = endpoint.behaviour
                && fails(number, percent)
            {
                return Ok(answer(StatusCode::INTERNAL_SERVER_ERROR));
            }
            shared.ledger.taken(number, endpoint.position, at);
            Ok(answer(StatusCode::OK))
        }
        (Behaviour::Take | Behaviour::FailFirst(_), _) => Ok(shared.stray()),
    }
}

impl Shared {
    /// Finds the endpoint by the last two segments of the path. A proxy may have added segments before them.
    fn endpoint(&self, path: &str) -> Option<&Endpoint> {
        let (run, endpoints) = self.known.get()?;
        let (rest, number) = path.rsplit_once('/')?;
        let is_ours = rest.rsplit('/').next() == Some(run);
        if is_ours { endpoints.get(number.parse::<usize>().ok()?) } else { None }
    }

    fn verify(&self, endpoint: &Endpoint, headers: &HeaderMap, body: &[u8]) {
        let is_good = is_signed(endpoint, headers, body);
        let count = if is_good { &self.seen.verified } else { &self.seen.badly_signed };
        count.fetch_add(1, Relaxed);
    }

    fn stray(&self) -> HttpResponse {
        self.seen.strays.fetch_add(1, Relaxed);
        answer(StatusCode::NOT_FOUND)
    }
}

fn answer(status: StatusCode) -> HttpResponse {
    let mut answer = Response::new(Either::Left(Empty::new()));
    *answer.status_mut() = status;
    answer
}

/// Decides whether an event fails. Every run with the same seed makes the same events fail.
fn fails(seed: u64, number: u64, percent: u64) -> bool {
    // SplitMix64.
    let mut mixed = seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % 100 < percent
}

fn is_signed(endpoint: &Endpoint, headers: &HeaderMap, body: &[u8]) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(id), Some(signature)) = (text("webhook-id"), text("webhook-signature")) else { return false };
    let timestamp = text("webhook-timestamp").and_then(|text| text.parse().ok());
    timestamp.is_some_and(|timestamp| endpoint.secret.verifies(signature, id, timestamp, body))
}

/// A body that never ends.
struct Drip(Interval);

impl Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_tick(context).map(|_| Some(Ok(Frame::data(Bytes::from_static(b".")))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_failures_is_met_and_repeats() {
        for percent in [0, 20, 100] {
            let failing = (0..10_000).filter(|number| fails(7, *number, percent)).count() as u64;
            assert!(failing.abs_diff(100 * percent) < 200, "{failing} at {percent} %");
        }
        assert_ne!(
            (0..64).filter(|n| fails(1, *n, 50)).collect::<Vec<_>>(),
            (0..64).filter(|n| fails(2, *n, 50)).collect::<Vec<_>>()
        );
    }
}
