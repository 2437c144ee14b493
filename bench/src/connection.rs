//! One persistent connection to the API. It is as cheap as possible, because the bench shares its machine with what it
//! measures.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tower_service::Service as _;
use url::Url;

/// How long a response may take.
const TIMEOUT: Duration = Duration::from_secs(30);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Where events are posted, and with which credential.
pub(crate) struct Target {
    root: Uri,
    host: HeaderValue,
    credential: HeaderValue,
    connector: HttpsConnector<HttpConnector>,
    event_path: Uri,
    batch_path: Uri,
}

/// The request to post.
pub(crate) enum Post {
    Event { idempotency_key: HeaderValue, body: Bytes },
    Batch { body: Bytes },
}

/// The response.
pub(crate) struct RawResponse {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

impl Target {
    pub(crate) fn new(api: &Url, api_key: &str) -> anyhow::Result<Self> {
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
            .context("cannot read the certificates of the system");
        let mut plain = HttpConnector::new();
        plain.enforce_http(false);
        plain.set_nodelay(true);
        let connector = https?.https_or_http().enable_http1().wrap_connector(plain);
        let root: Uri = api.as_str().parse().context("the URL of the API is not valid")?;
        let Some(authority) = root.authority() else { bail!("--api: `{api}` has no host") };
        let path = |path| -> anyhow::Result<Uri> { Ok(api.join(path)?.path().parse()?) };
        let mut credential = HeaderValue::try_from(format!("Bearer {api_key}"))?;
        credential.set_sensitive(true);
        Ok(Self {
            host: HeaderValue::from_str(authority.as_str())?,
            credential,
            connector,
            event_path: path("v1/events")?,
            batch_path: path("v1/events/batch")?,
            root,
        })
    }

    fn request(&self, post: &Post) -> Request<Full<Bytes>> {
        let (path, body) = match post {
            Post::Event { body, .. } => (&self.event_path, body),
            Post::Batch { body } => (&self.batch_path, body),
        };
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, self.credential.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Post::Event { idempotency_key, .. } = post {
            headers.insert(IDEMPOTENCY_KEY, idempotency_key.clone());
        }
        request
    }
}

/// A connection that opens itself when necessary, and again after a failure.
pub(crate) struct Connection {
    target: Arc<Target>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(crate) fn new(target: Arc<Target>) -> Self {
        Self { target, sender: None }
    }

    /// Posts once.
    ///
    /// # Errors
    /// If no response arrived. It is then unknown whether the event was accepted.
    pub(crate) async fn post(&mut self, post: &Post) -> anyhow::Result<RawResponse> {
        let exchange = tokio::time::timeout(TIMEOUT, self.exchange(post)).await;
        let answer = exchange.unwrap_or_else(|_| bail!("no response within {} s", TIMEOUT.as_secs()));
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn exchange(&mut self, post: &Post) -> anyhow::Result<RawResponse> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        sender.ready().await?;
        let response = sender.send_request(self.target.request(post)).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        self.sender = Some(sender);
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(RawResponse { status: head.status, retry_after: retry_after.map(Duration::from_secs), body })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let connecting = self.target.connector.clone().call(self.target.root.clone()).await;
        let stream =
            connecting.map_err(|error| anyhow::anyhow!(error)).context("cannot connect to the API")?;
        let (sender, connection) = handshake(stream).await?;
        // If the connection fails, the request on it fails too.
        tokio::spawn(connection);
        Ok(sender)
    }
}
