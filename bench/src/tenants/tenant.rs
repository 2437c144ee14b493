//! An offender's resources: an application, a receiver, and counts of responses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::MOST_ENDPOINTS;
use super::holder::{self, Manner};
use crate::installation::Installation;
use postrider_api_client::As;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// How long a response may take: long enough for the server to give up first.
const TIMEOUT: Duration = Duration::from_secs(90);
/// Pause after a refusal. An offender that retried at once would show its effect on the processor instead of on
/// Postrider.
const PAUSE: Duration = Duration::from_millis(20);
/// Maximum requests of one offender.
const MOST_REQUESTS: u64 = 50_000;
/// Concurrent requests while an attack is prepared.
const SIDE_BY_SIDE: usize = 16;

/// An offender's resources.
#[derive(Clone)]
pub(crate) struct Tenant {
    http: reqwest::Client,
    api: Url,
    pub(crate) address: SocketAddr,
    pub(crate) application: String,
    pub(crate) api_key: String,
    receiver: SocketAddr,
    received: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    answers: Arc<Mutex<BTreeMap<String, u64>>>,
    /// Cancelled when the offender is prepared.
    pub(crate) ready: CancellationToken,
}

#[derive(Deserialize)]
struct NewApplication {
    id: String,
    api_key: String,
}

impl Tenant {
    pub(crate) async fn new(
        installation: &Installation,
        manner: Manner,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let body = json!({"name": "offender", "uid": "offender"});
        let made: NewApplication =
            installation.client.send(Method::POST, "v1/applications", As::Admin, &body).await?;
        let received = Arc::new(AtomicU64::new(0));
        let api = installation.api.clone();
        let addresses = api.socket_addrs(|| None)?;
        Ok(Self {
            http: reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?,
            address: *addresses.first().context("the API has no address")?,
            api,
            application: made.id,
            api_key: made.api_key,
            receiver: holder::receive(manner, received.clone(), stop).await?,
            received,
            requests: Arc::default(),
            answers: Arc::default(),
            ready: CancellationToken::new(),
        })
    }

    /// Creates endpoints with these settings and returns their ids. Counts those that are refused.
    pub(crate) async fn endpoints(&self, count: usize, settings: Value) -> anyhow::Result<Vec<String>> {
        let path = format!("v1/applications/{}/endpoints", self.application);
        let (path, settings) = (&path, &settings);
        let made = stream::iter(0..count.min(MOST_ENDPOINTS)).map(async |number| {
            let mut body = settings.clone();
            body["url"] = format!("http://{}/{number}", self.receiver).into();
            self.call("endpoint", Method::POST, path, body.to_string().into()).await
        });
        let made: Vec<_> = made.buffer_unordered(SIDE_BY_SIDE).collect().await;
        let ids: Vec<_> = made.into_iter().flatten().filter_map(|made| text(&made["id"])).collect();
        anyhow::ensure!(!ids.is_empty(), "no endpoint could be made");
        Ok(ids)
    }

    /// Posts one event and returns its id.
    pub(crate) async fn publish(&self, event_type: &str, data: &Value) -> Option<String> {
        let body = json!({"event_type": event_type, "data": data});
        let accepted = self.call("event", Method::POST, "v1/events", body.to_string().into()).await?;
        text(&accepted["event_id"])
    }

    /// Posts events with the same data in one request.
    pub(crate) async fn publish_batch(&self, event_type: &str, data: &Value, count: usize) -> Option<Value> {
        let event = |_| {
            let key = format!("{:032x}", rand::random::<u128>());
            json!({"idempotency_key": key, "event_type": event_type, "data": data})
        };
        let events: Vec<_> = (0..count).map(event).collect();
        let body = json!({ "events": events }).to_string();
        self.call("batch", Method::POST, "v1/events/batch", body.into()).await
    }

    /// Makes one request with the tenant's key. Pauses and returns `None` if it is refused.
    pub(crate) async fn call(&self, what: &str, method: Method, path: &str, body: Bytes) -> Option<Value> {
        self.call_as(&self.api_key, what, method, path, body).await
    }

    /// Makes one request with another key.
    pub(crate) async fn call_as(
        &self,
        key: &str,
        what: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Option<Value> {
        if self.requests.fetch_add(1, Relaxed) >= MOST_REQUESTS {
            return std::future::pending().await;
        }
        let mut request = self.http.request(method, self.api.join(path).ok()?).bearer_auth(key);
        if !body.is_empty() {
            // Only events need an idempotency key; other requests ignore it.
            let key = format!("{:032x}", rand::random::<u128>());
            request =
                request.header(IDEMPOTENCY_KEY, key).header(CONTENT_TYPE, "application/json").body(body);
        }
        let Ok(response) = request.send().await else {
            self.note(&format!("{what}: no response"));
            tokio::time::sleep(PAUSE).await;
            return None;
        };
        let status = response.status();
        let body: Value = response.json().await.unwrap_or_default();
        let code = body["code"].as_str().unwrap_or_default();
        self.note(format!("{what}: {} {code}", status.as_u16()).trim_end());
        if status.is_success() {
            return Some(body);
        }
        tokio::time::sleep(PAUSE).await;
        None
    }

    /// Repeats an action forever on several connections at once.
    pub(crate) async fn again_and_again(&self, connections: usize, act: impl AsyncFn(usize)) {
        let acting = (0..connections).map(async |number| {
            loop {
                act(number).await;
            }
        });
        futures_util::future::join_all(acting).await;
    }

    /// Marks the beginning of the attack, and forgets successful responses from its preparation.
    pub(crate) fn begins(&self) {
        let refused = |what: &String| !what.contains(": 2");
        self.lock().retain(|what, _| refused(what));
        self.ready.cancel();
    }

    /// Counts one occurrence of `what`.
    pub(crate) fn note(&self, what: &str) {
        *self.lock().entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn tally(&self) -> BTreeMap<String, u64> {
        let mut tally = self.lock().clone();
        let received = self.received.load(Relaxed);
        if received > 0 {
            tally.insert("webhooks received".to_owned(), received);
        }
        tally
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
