//! Tests of `postrider receive`, over HTTP.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use chrono::Utc;
use postrider::receive::{Arrival, ReceiveOptions, Secrets, Verification, serve};
use postrider_secrets::signing::Secret;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

struct Receiver {
    url: String,
    http: reqwest::Client,
    secrets: watch::Sender<Secrets>,
    arrivals: mpsc::Receiver<Arrival>,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Receiver {
    async fn start(secrets: Secrets) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhook", listener.local_addr().unwrap());
        let (secrets, arrivals) = (watch::Sender::new(secrets), mpsc::channel(10));
        let options = ReceiveOptions {
            secrets: secrets.subscribe(),
            fail_first: None,
            delay: Duration::ZERO,
            arrivals: Some(arrivals.0),
            print: false,
        };
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(listener, options, shutdown.clone()));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, http, secrets, arrivals: arrivals.1, shutdown, served }
    }

    async fn send(&self, secret: &Secret, body: Vec<u8>) -> reqwest::Response {
        let now = Utc::now().timestamp();
        let request = self
            .http
            .post(&self.url)
            .header("webhook-id", "one")
            .header("webhook-timestamp", now)
            .header("webhook-signature", secret.sign("one", now, &body));
        request.body(body).send().await.unwrap()
    }
}

fn body() -> Vec<u8> {
    format!(r#"{{"type":"user.created","timestamp":"{}","data":{{}}}}"#, Utc::now().to_rfc3339()).into()
}

#[tokio::test]
async fn webhooks_are_refused_delayed_or_accepted_by_their_signature() {
    let secret = Secret::generate();
    let mut receiver = Receiver::start(Secrets::Awaited).await;
    let answer = receiver.send(&secret, body()).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "1"));

    receiver.secrets.send_replace(Secrets::Known(vec![secret.clone()]));
    assert_eq!(receiver.send(&Secret::generate(), body()).await.status(), 400);
    assert_eq!(receiver.send(&secret, body()).await.status(), 204);

    for (attempt, status) in [(1, 503), (2, 400), (3, 204)] {
        let arrival = receiver.arrivals.recv().await.unwrap();
        assert_eq!((arrival.attempt, arrival.status.as_u16()), (attempt, status));
        assert_eq!(arrival.verification == Verification::Verified, status == 204);
        assert_eq!(arrival.event_type.as_deref(), Some("user.created"));
        assert!(arrival.latency.unwrap() < Duration::from_secs(10));
    }
    receiver.shutdown.cancel();
    receiver.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_endless_body_is_not_kept() {
    let receiver = Receiver::start(Secrets::None).await;
    assert_eq!(receiver.send(&Secret::generate(), vec![b'x'; 5 << 20]).await.status(), 413);
    assert_eq!(receiver.send(&Secret::generate(), b"no JSON".to_vec()).await.status(), 204);
}
