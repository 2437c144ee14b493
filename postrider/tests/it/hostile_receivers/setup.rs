//! A running installation with a healthy endpoint, and receivers on raw sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;
use crate::support::{Bed, DEADLINE, eventually};

/// How long an exchange with a hostile endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(4);

/// One of each service, and a healthy endpoint.
pub(crate) struct Setup {
    pub(crate) bed: Bed,
    pub(crate) producer: Producer,
    pub(crate) healthy: Receiver,
    services: Services,
    deliveries: AtomicUsize,
}

/// The result of one delivery.
pub(crate) struct Outcome {
    pub(crate) delivery: Value,
    pub(crate) attempts: Vec<Value>,
}

impl Setup {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    pub(crate) async fn with(settings: &[(&'static str, &str)]) -> Self {
        let bed = Bed::new().await;
        let services = Services::start_with(&bed, settings).await;
        let healthy = Receiver::accepting().await;
        let producer = Producer::new(services.api).await;
        producer.endpoint(json!({"url": healthy.url("/")})).await;
        // So that everything that is slow the first time happens before anything is measured.
        producer.publish("first", json!({})).await;
        healthy.wait_for(1).await;
        Self { bed, producer, healthy, services, deliveries: AtomicUsize::new(0) }
    }

    /// Sends one event to a hostile endpoint and to the healthy one, and waits until both deliveries are closed.
    /// `settings` override those of an endpoint with a single attempt of [`TIMEOUT`].
    pub(crate) async fn deliver(&self, url: &str, settings: Value) -> Outcome {
        self.deliver_data(url, settings, json!({"n": 1})).await
    }

    /// Like [`Setup::deliver`], with this `data`.
    pub(crate) async fn deliver_data(&self, url: &str, settings: Value, data: Value) -> Outcome {
        let event_type = format!("hostile.number_{}", self.deliveries.fetch_add(1, Ordering::Relaxed));
        let mut endpoint = json!({
            "url": url, "event_types": [event_type],
            "timeout_seconds": TIMEOUT.as_secs(), "max_attempts": 1, "retry_schedule": [0],
        });
        let own = settings.as_object().expect("settings").clone();
        endpoint.as_object_mut().expect("an object").extend(own);
        let endpoint_id = text(&self.producer.endpoint(endpoint).await["id"]);

        let event_id = text(&self.producer.publish(&event_type, data).await["event_id"]);
        let deliveries = eventually("the end of a hostile and of a healthy delivery", async || {
            let deliveries = self.producer.deliveries(&event_id).await;
            let is_over = |delivery: &Value| delivery["completed_at"].is_string();
            (deliveries.len() == 2 && deliveries.iter().all(is_over)).then_some(deliveries)
        })
        .await;
        let is_hostile = |delivery: &Value| delivery["endpoint_id"] == *endpoint_id;
        let (hostile, healthy): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_hostile);
        let delivery = hostile.into_iter().next().expect("a delivery to the hostile endpoint");
        let attempts = self.producer.attempts(&delivery).await;
        assert_eq!(healthy[0]["status"], "succeeded", "{healthy:?}");
        if attempts.iter().any(|attempt| attempt["error_class"] == "timeout") {
            let ends = [&healthy[0], &delivery].map(|delivery| delivery["completed_at"].as_str());
            assert!(ends[0] < ends[1], "the healthy endpoint waited for the hostile one: {ends:?}");
        }
        Outcome { delivery, attempts }
    }

    /// Like [`Setup::deliver`], with the default settings.
    pub(crate) async fn deliver_to(&self, url: &str) -> Outcome {
        self.deliver(url, json!({})).await
    }

    pub(crate) async fn finish(self) {
        self.services.stop().await;
        self.bed.finish().await;
    }
}

impl Outcome {
    /// Returns the only attempt. It must have failed with this class, and with this response status, if any.
    pub(crate) fn failed(&self, error_class: &str, response_status: Option<u16>) -> &Value {
        assert_eq!(self.attempts.len(), 1, "{:?}", self.attempts);
        let attempt = &self.attempts[0];
        let told = (&attempt["outcome"], &attempt["error_class"], &attempt["response_status"]);
        assert_eq!(told, (&json!("failed"), &json!(error_class), &json!(response_status)), "{attempt}");
        assert_eq!(self.delivery["status"], "dead_letter");
        assert_eq!(self.delivery["last_error"], attempt["error_message"]);
        assert_eq!(self.delivery["last_response_status"], json!(response_status));
        attempt
    }

    /// Returns the only attempt. It must have timed out, and not too early.
    pub(crate) fn timed_out(&self, response_status: Option<u16>) -> &Value {
        let attempt = self.failed("timeout", response_status);
        let duration = Duration::from_millis(attempt["duration_ms"].as_u64().expect("a duration"));
        assert!((TIMEOUT..DEADLINE).contains(&duration), "{attempt}");
        attempt
    }

    /// Returns the only attempt. It must have succeeded.
    pub(crate) fn succeeded(&self) -> &Value {
        assert_eq!(self.delivery["status"], "succeeded", "{:?}", self.attempts);
        assert_eq!(self.attempts.len(), 1);
        &self.attempts[0]
    }
}

/// A receiver that does anything with its connections, until it is dropped.
pub(crate) struct RawReceiver {
    pub(crate) address: SocketAddr,
    connections: std::sync::Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl RawReceiver {
    /// Starts on a free port.
    pub(crate) async fn start<F, Fut>(behave: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::at("127.0.0.1:0".parse().expect("an address"), behave).await
    }

    /// Starts at this address.
    pub(crate) async fn at<F, Fut>(address: SocketAddr, behave: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = std::sync::Arc::<AtomicUsize>::default();
        let counter = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut behaving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                counter.fetch_add(1, Ordering::Relaxed);
                behaving.spawn(behave(stream));
            }
        });
        Self { address, connections, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for RawReceiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An address that never accepts a connection: the queue of the listener is full, and nothing takes from it.
pub(crate) struct Unanswered {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Unanswered {
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(address).expect("a port");
        let listener = socket.listen(1).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let connect =
            async || tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await;
        let mut waiting = Vec::new();
        while let Ok(connection) = connect().await {
            waiting.push(connection.expect("it waits to be accepted"));
        }
        Self { address, _listener: listener, _waiting: waiting }
    }
}

/// Reads one complete request.
pub(crate) async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    let is_whole = |request: &[u8]| {
        let text = String::from_utf8_lossy(request);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
        Some(body.len() >= length.parse::<usize>().expect("a number"))
    };
    while is_whole(&request) != Some(true) {
        if stream.read_buf(&mut request).await.expect("a request") == 0 {
            break;
        }
    }
    String::from_utf8(request).expect("a request in UTF-8")
}
