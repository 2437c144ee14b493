//! A webhook receiver like that of a customer. It verifies each webhook, prints a line and responds 204. `postrider
//! receive` runs it alone, `postrider up --demo` next to the services.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::Mutex;
use poem::http::{HeaderMap, StatusCode};
use poem::listener::TcpAcceptor;
use poem::web::Data;
use poem::{Body, EndpointExt as _, Response, Route, Server, handler};
use postrider_runtime::telemetry::Lines;
use postrider_secrets::signing::Secret;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A larger body gets a 413 response.
const LARGEST_BODY_BYTES: usize = 4 << 20;
/// Maximum difference between a webhook's timestamp and now, the usual tolerance of Standard Webhooks.
const TIMESTAMP_TOLERANCE_SECONDS: i64 = 5 * 60;
/// Maximum webhooks whose attempts are counted. The oldest are forgotten first.
const REMEMBERED_WEBHOOKS: usize = 10_000;
/// How long open requests may take after shutdown.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The secrets that webhooks are verified with.
#[derive(Debug, Clone)]
pub enum Secrets {
    /// No secret: webhooks are accepted without verification.
    None,
    /// The secret is not known yet: webhooks get a 503 response, so that they are sent again.
    Awaited,
    /// Any of these secrets may match, as during a rotation.
    Known(Vec<Secret>),
}

/// Which webhooks get an error response at first, to show a retry.
#[derive(Debug, Clone)]
pub struct FailFirst {
    /// Number of attempts of each webhook that fail.
    pub attempts: u32,
    /// The event types concerned; empty means all.
    pub event_types: Vec<String>,
    /// Status of the error response.
    pub status: StatusCode,
}

/// How the receiver behaves.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// The secrets, which may change while the receiver runs.
    pub secrets: watch::Receiver<Secrets>,
    /// `None` means that every verified webhook gets a 204 response.
    pub fail_first: Option<FailFirst>,
    /// Delay before each response.
    pub delay: Duration,
    /// Gets every arrival, unless the channel is full.
    pub arrivals: Option<mpsc::Sender<Arrival>>,
    /// Whether to print a line for each arrival.
    pub print: bool,
}

/// A request to `/webhook`.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// `webhook-id`, or empty if it is missing.
    pub webhook_id: String,
    /// `type` in the body, or `None` if the body cannot be parsed.
    pub event_type: Option<String>,
    /// How many times this webhook has arrived, including this one.
    pub attempt: u32,
    /// The result of verifying the signature.
    pub verification: Verification,
    /// Time since `timestamp` in the body; 0 if that is in the future because clocks differ.
    pub latency: Option<Duration>,
    /// Status of the response.
    pub status: StatusCode,
    /// When the request had been read.
    pub at: Instant,
}

/// The result of verifying a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// The webhook has a recent timestamp and a valid signature.
    Verified,
    /// The receiver has no secret.
    NoSecret,
    /// The secret is not known yet.
    Awaited,
    /// Verification failed, for this reason.
    Refused(&'static str),
}

impl Verification {
    /// Returns a short description for people.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::NoSecret => "unverified (no secret given)",
            Self::Awaited => "unverified (the secret is not known yet)",
            Self::Refused(reason) => reason,
        }
    }
}

/// Serves `POST /webhook` until `shutdown`.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: tokio::net::TcpListener,
    options: ReceiveOptions,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let receiver = Arc::new(Receiver { options, seen: Mutex::default() });
    let app = Route::new().at("/webhook", poem::post(webhook).data(receiver));
    Server::new_with_acceptor(TcpAcceptor::from_tokio(listener)?)
        .run_with_graceful_shutdown(app, async move { shutdown.cancelled().await }, Some(STOP_GRACE))
        .await
}

struct Receiver {
    options: ReceiveOptions,
    seen: Mutex<Seen>,
}

/// Counts how often each webhook has arrived.
#[derive(Default)]
struct Seen {
    attempts: HashMap<String, u32>,
    order: VecDeque<String>,
}

/// The parts of a body that the receiver reads.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    event_type: String,
    timestamp: DateTime<Utc>,
}

#[handler]
async fn webhook(headers: &HeaderMap, body: Body, receiver: Data<&Arc<Receiver>>) -> Response {
    let Ok(body) = body.into_bytes_limit(LARGEST_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into();
    };
    let arrival = receiver.judge(headers, &body);
    if receiver.options.print {
        print(&arrival);
    }
    tokio::time::sleep(receiver.options.delay).await;
    let answer = Response::builder().status(arrival.status);
    let answer = if arrival.status == StatusCode::SERVICE_UNAVAILABLE {
        answer.header("retry-after", "1").finish()
    } else {
        answer.finish()
    };
    if let Some(arrivals) = &receiver.options.arrivals {
        let _ = arrivals.try_send(arrival);
    }
    answer
}

impl Receiver {
    fn judge(&self, headers: &HeaderMap, body: &Bytes) -> Arrival {
        let at = Instant::now();
        let now = Utc::now();
        let webhook_id = header(headers, "webhook-id").unwrap_or_default().to_owned();
        let verification = verify(&self.options.secrets.borrow(), headers, body, now.timestamp());
        let envelope: Option<Envelope> = serde_json::from_slice(body).ok();
        let attempt = self.count(&webhook_id);
        let event_type = envelope.as_ref().map(|envelope| envelope.event_type.clone());
        let status = self.status(&verification, event_type.as_deref(), attempt);
        let latency = envelope.map(|envelope| (now - envelope.timestamp).to_std().unwrap_or_default());
        Arrival { webhook_id, event_type, attempt, verification, latency, status, at }
    }

    fn count(&self, webhook_id: &str) -> u32 {
        let mut seen = self.seen.lock();
        if let Some(attempts) = seen.attempts.get_mut(webhook_id) {
            *attempts += 1;
            return *attempts;
        }
        if seen.order.len() == REMEMBERED_WEBHOOKS
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.attempts.remove(&oldest);
        }
        seen.order.push_back(webhook_id.to_owned());
        seen.attempts.insert(webhook_id.to_owned(), 1);
        1
    }

    fn status(&self, verification: &Verification, event_type: Option<&str>, attempt: u32) -> StatusCode {
        match (verification, &self.options.fail_first) {
            // The response reveals nothing more to a forger.
            (Verification::Refused(_), _) => StatusCode::BAD_REQUEST,
            (Verification::Awaited, _) => StatusCode::SERVICE_UNAVAILABLE,
            (_, Some(fail)) if attempt <= fail.attempts && fail.concerns(event_type) => fail.status,
            _ => StatusCode::NO_CONTENT,
        }
    }
}

impl FailFirst {
    fn concerns(&self, event_type: Option<&str>) -> bool {
        self.event_types.is_empty()
            || event_type.is_some_and(|name| self.event_types.iter().any(|own| own == name))
    }
}

/// Verifies a webhook by Standard Webhooks: all three headers, a recent timestamp, and at least one valid signature.
fn verify(secrets: &Secrets, headers: &HeaderMap, body: &[u8], now: i64) -> Verification {
    let secrets = match secrets {
        Secrets::None => return Verification::NoSecret,
        Secrets::Awaited => return Verification::Awaited,
        Secrets::Known(secrets) => secrets,
    };
    let (Some(id), Some(timestamp), Some(signature)) = (
        header(headers, "webhook-id"),
        header(headers, "webhook-timestamp"),
        header(headers, "webhook-signature"),
    ) else {
        return Verification::Refused("REFUSED: webhook-id, -timestamp or -signature is missing");
    };
    let Ok(timestamp) = timestamp.parse::<i64>() else {
        return Verification::Refused("REFUSED: webhook-timestamp is not a number of seconds");
    };
    if now.abs_diff(timestamp) > TIMESTAMP_TOLERANCE_SECONDS.unsigned_abs() {
        return Verification::Refused("REFUSED: webhook-timestamp is more than 5 minutes from now");
    }
    if secrets.iter().any(|secret| secret.verifies(signature, id, timestamp, body)) {
        Verification::Verified
    } else {
        Verification::Refused("REFUSED: no signature matches the secret")
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn print(arrival: &Arrival) {
    let latency =
        arrival.latency.map_or_else(|| "—".to_owned(), |latency| format!("{} ms", latency.as_millis()));
    // A reader of the output that is slow or gone must not stop the receiver.
    Lines::stdout().line(format!(
        "{}  {}  {}  attempt {}  {}  answered {} after {latency}\n",
        Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        printable(&arrival.webhook_id),
        printable(arrival.event_type.as_deref().unwrap_or("(no event)")),
        arrival.attempt,
        arrival.verification.as_str(),
        arrival.status.as_u16(),
    ));
}

/// Replaces control characters, so that a request cannot control the terminal.
fn printable(text: &str) -> String {
    text.chars().take(100).map(|char| if char.is_control() { '·' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;
    const BODY: &[u8] = br#"{"type":"user.created","timestamp":"2026-01-01T00:00:00.000000Z","data":{}}"#;

    fn headers(id: &str, timestamp: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", &timestamp.to_string()),
            ("webhook-signature", signature),
        ] {
            headers.insert(name, value.parse().expect("a header"));
        }
        headers
    }

    fn receiver(secrets: Secrets, fail_first: Option<FailFirst>) -> Receiver {
        let (_, secrets) = watch::channel(secrets);
        let options =
            ReceiveOptions { secrets, fail_first, delay: Duration::ZERO, arrivals: None, print: false };
        Receiver { options, seen: Mutex::default() }
    }

    #[test]
    fn either_secret_of_a_rotation_verifies_and_no_other_does() {
        let (old, new, foreign) = (Secret::generate(), Secret::generate(), Secret::generate());
        let secrets = Secrets::Known(vec![old.clone(), new.clone()]);
        for (secret, is_verified) in [(old, true), (new, true), (foreign, false)] {
            let headers = headers("one", NOW, &secret.sign("one", NOW, BODY));
            assert_eq!(verify(&secrets, &headers, BODY, NOW) == Verification::Verified, is_verified);
        }
    }

    #[test]
    fn an_old_a_future_and_an_incomplete_webhook_are_refused() {
        let secret = Secret::generate();
        let secrets = Secrets::Known(vec![secret.clone()]);
        for (now, is_verified) in
            [(NOW + 300, true), (NOW + 301, false), (NOW - 300, true), (NOW - 301, false)]
        {
            let headers = headers("one", NOW, &secret.sign("one", NOW, BODY));
            assert_eq!(verify(&secrets, &headers, BODY, now) == Verification::Verified, is_verified, "{now}");
        }
        assert!(matches!(verify(&secrets, &HeaderMap::new(), BODY, NOW), Verification::Refused(_)));
    }

    #[test]
    fn the_first_attempt_of_each_such_event_fails() {
        let fail_first = FailFirst {
            attempts: 1,
            event_types: vec!["user.created".into()],
            status: StatusCode::INTERNAL_SERVER_ERROR,
        };
        let receiver = receiver(Secrets::None, Some(fail_first));
        let statuses = ["one", "one", "two", "two"].map(|id| {
            let arrival = receiver.judge(&headers(id, NOW, "v1,"), &Bytes::from_static(BODY));
            assert_eq!(arrival.verification, Verification::NoSecret);
            (arrival.attempt, arrival.status.as_u16())
        });
        assert_eq!(statuses, [(1, 500), (2, 204), (1, 500), (2, 204)]);
    }

    #[test]
    fn what_is_not_verified_is_answered_400_and_what_cannot_be_yet_503() {
        let (headers, body) = (headers("one", NOW, "v1,AAAA"), Bytes::from_static(BODY));
        let known = receiver(Secrets::Known(vec![Secret::generate()]), None);
        assert_eq!(known.judge(&headers, &body).status, StatusCode::BAD_REQUEST);
        let awaiting = receiver(Secrets::Awaited, None);
        assert_eq!(awaiting.judge(&headers, &body).status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
