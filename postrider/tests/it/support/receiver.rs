//! A receiver that keeps every request, verifies it with the standard library for Standard Webhooks, and responds as
//! its test says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use poem::http::{HeaderMap, StatusCode};
use poem::listener::TcpAcceptor;
use poem::{Body, Endpoint, Request, Response, Server};
use tokio::net::TcpListener;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The number of this request among those with the same `webhook-id` and path, from 1.
    pub attempt: usize,
    pub at: std::time::Instant,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Panics unless the public library accepts the signature.
    pub fn verify(&self, secret: &str) {
        let verifier = standardwebhooks::Webhook::new(secret).expect("a secret");
        verifier.verify(&self.body, &self.headers).unwrap_or_else(|error| panic!("{error}: {self:?}"));
    }
}

/// A response.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub delay: Duration,
}

impl From<u16> for Reply {
    fn from(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), delay: Duration::ZERO }
    }
}

type Answer = dyn Fn(&Received) -> Reply + Send + Sync;

/// A receiver on its own port. It stops when it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    received: Mutex<Vec<Received>>,
    attempts: Mutex<HashMap<(String, String), usize>>,
    answer: Box<Answer>,
}

impl Receiver {
    /// Starts a receiver that responds to each request with the result of `answer`.
    pub async fn start<R: Into<Reply>>(answer: impl Fn(&Received) -> R + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            received: Mutex::default(),
            attempts: Mutex::default(),
            answer: Box::new(move |received| answer(received).into()),
        });
        let server = Server::new_with_acceptor(TcpAcceptor::from_tokio(listener).expect("an acceptor"));
        let endpoint = Recording(state.clone());
        let task = tokio::spawn(async move {
            server.run(endpoint).await.expect("the receiver runs");
        });
        Self { address, state, task }
    }

    /// Starts a receiver that responds 204 to everything.
    pub async fn accepting() -> Self {
        Self::start(|_| 204).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far, in order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().expect("the lock").clone()
    }

    pub fn count(&self) -> usize {
        self.state.received.lock().expect("the lock").len()
    }

    /// Waits for `count` requests, and returns all that have arrived.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        super::eventually(&format!("{count} webhooks"), async || {
            (self.count() >= count).then(|| self.received())
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Recording(Arc<State>);

impl Endpoint for Recording {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let headers = request.headers().clone();
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = request.take_body().into_vec().await?;
        let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let attempt = {
            let mut attempts = self.0.attempts.lock().expect("the lock");
            let attempt = attempts.entry((id, path.clone())).or_default();
            *attempt += 1;
            *attempt
        };
        let received = Received { path, query, headers, body, attempt, at: std::time::Instant::now() };
        let reply = (self.0.answer)(&received);
        self.0.received.lock().expect("the lock").push(received);
        if !reply.delay.is_zero() {
            tokio::time::sleep(reply.delay).await;
        }
        let mut response = Response::builder().status(StatusCode::from_u16(reply.status).expect("a status"));
        for (name, value) in reply.headers {
            response = response.header(name, value);
        }
        Ok(response.body(Body::from(reply.body)))
    }
}
