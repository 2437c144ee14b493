//! The few calls of the public API that the demo makes.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the service is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// A client of the public API.
pub(super) struct Client {
    http: reqwest::Client,
    api: Url,
    admin_token: Option<String>,
}

/// As whom a call is made.
#[derive(Clone, Copy)]
pub(super) enum As<'a> {
    /// With the admin's token, or, on loopback, with nothing.
    Admin,
    /// With an application's key.
    Key(&'a str),
}

/// Anything that has an id.
#[derive(Deserialize)]
struct Identified {
    id: String,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct ApiKey {
    id: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct NewApiKey {
    id: String,
    api_key: String,
}

#[derive(Deserialize)]
struct Endpoint {
    id: String,
    url: String,
    is_active: bool,
}

#[derive(Deserialize)]
struct EndpointSecret {
    secret: String,
}

/// The answer to an event.
#[derive(Deserialize)]
pub(super) struct Accepted {
    pub(super) event_id: String,
}

/// What the API tells about a delivery.
#[derive(Deserialize)]
pub(super) struct Delivery {
    pub(super) id: String,
    pub(super) endpoint_id: String,
    pub(super) status: String,
}

/// What the API tells about an attempt.
#[derive(Deserialize)]
pub(super) struct Attempt {
    pub(super) response_status: Option<u16>,
    pub(super) error_class: Option<String>,
}

impl Client {
    pub(super) fn new(api: Url, admin_token: Option<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        Ok(Self { http, api, admin_token })
    }

    /// Waits until the service is ready to be used.
    pub(super) async fn wait_ready(&self, deadline: Instant) -> anyhow::Result<()> {
        loop {
            let last = match answer(self.request(Method::GET, "health/ready", As::Admin)?).await {
                Ok(answer) => match answer.check() {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(last.context("Postrider has not become ready"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The id of the application with this `uid`, which is created where there is none.
    pub(super) async fn application(&self, uid: &str) -> anyhow::Result<String> {
        let path = format!("v1/applications/{uid}");
        if let Some(found) = self.find::<Identified>(&path, As::Admin).await? {
            return Ok(found.id);
        }
        let body = json!({ "name": "Demo", "uid": uid });
        let created: Identified = self.send(Method::POST, "v1/applications", As::Admin, &body).await?;
        Ok(created.id)
    }

    /// A new key of that name; those of the same name before it are revoked.
    pub(super) async fn fresh_api_key(&self, application: &str, name: &str) -> anyhow::Result<String> {
        let path = format!("v1/applications/{application}/api-keys");
        let fresh: NewApiKey = self.send(Method::POST, &path, As::Admin, &json!({ "name": name })).await?;
        for key in self.list::<ApiKey>(&path, As::Admin).await? {
            if key.name.as_deref() == Some(name) && key.id != fresh.id {
                self.delete(&format!("{path}/{}", key.id)).await?;
            }
        }
        Ok(fresh.api_key)
    }

    /// The id of the endpoint with this URL, which is created where there is none, and enabled where it is
    /// not. Its first retry comes after a second.
    pub(super) async fn endpoint(&self, application: &str, key: &str, url: &Url) -> anyhow::Result<String> {
        let path = format!("v1/applications/{application}/endpoints");
        let endpoints = self.list::<Endpoint>(&path, As::Key(key)).await?;
        let endpoint = match endpoints.into_iter().find(|endpoint| endpoint.url == url.as_str()) {
            Some(endpoint) => endpoint,
            None => {
                let body = json!({
                    "url": url,
                    "description": "The demo receiver of `postrider up --demo`",
                    "retry_schedule": [1],
                });
                self.send(Method::POST, &path, As::Key(key), &body).await?
            }
        };
        if !endpoint.is_active {
            let path = format!("{path}/{}", endpoint.id);
            let _: Value =
                self.send(Method::PATCH, &path, As::Key(key), &json!({ "is_active": true })).await?;
        }
        Ok(endpoint.id)
    }

    /// The signing secret of an endpoint.
    pub(super) async fn secret(
        &self,
        application: &str,
        key: &str,
        endpoint: &str,
    ) -> anyhow::Result<String> {
        let path = format!("v1/applications/{application}/endpoints/{endpoint}/secret");
        Ok(self.get::<EndpointSecret>(&path, As::Key(key)).await?.secret)
    }

    /// Posts an event under an idempotency key of its own.
    pub(super) async fn post_event(
        &self,
        key: &str,
        event_type: &str,
        data: &Value,
    ) -> anyhow::Result<Accepted> {
        let body = json!({ "event_type": event_type, "data": data });
        let request = self
            .request(Method::POST, "v1/events", As::Key(key))?
            .header("Idempotency-Key", uuid::Uuid::new_v4().to_string())
            .json(&body);
        parsed(request).await
    }

    /// The deliveries of an event.
    pub(super) async fn deliveries(&self, key: &str, event_id: &str) -> anyhow::Result<Vec<Delivery>> {
        self.list(&format!("v1/events/{event_id}/deliveries"), As::Key(key)).await
    }

    /// The attempts of a delivery, oldest first.
    pub(super) async fn attempts(&self, key: &str, delivery_id: &str) -> anyhow::Result<Vec<Attempt>> {
        self.list(&format!("v1/deliveries/{delivery_id}/attempts"), As::Key(key)).await
    }

    fn request(&self, method: Method, path: &str, who: As<'_>) -> anyhow::Result<reqwest::RequestBuilder> {
        let request = self.http.request(method, self.api.join(path)?);
        let token = match who {
            As::Admin => self.admin_token.as_deref(),
            As::Key(key) => Some(key),
        };
        Ok(match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, who: As<'_>) -> anyhow::Result<T> {
        parsed(self.request(Method::GET, path, who)?).await
    }

    async fn find<T: DeserializeOwned>(&self, path: &str, who: As<'_>) -> anyhow::Result<Option<T>> {
        let answer = answer(self.request(Method::GET, path, who)?).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { answer.parse().map(Some) }
    }

    /// All pages of a list.
    async fn list<T: DeserializeOwned>(&self, path: &str, who: As<'_>) -> anyhow::Result<Vec<T>> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page<T> = self.get(&format!("{path}?limit=250{cursor}"), who).await?;
            items.extend(page.data);
            let Some(next) = page.next_cursor else { return Ok(items) };
            let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
            cursor = format!("&cursor={next}");
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        who: As<'_>,
        body: &Value,
    ) -> anyhow::Result<T> {
        parsed(self.request(method, path, who)?.json(body)).await
    }

    async fn delete(&self, path: &str) -> anyhow::Result<()> {
        let answer = answer(self.request(Method::DELETE, path, As::Admin)?).await?;
        // What is gone already is as it should be.
        if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { answer.check() }
    }
}

/// An answer with what was asked, so that a surprise can be told.
struct Answer {
    asked: String,
    status: StatusCode,
    body: String,
}

async fn parsed<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> anyhow::Result<T> {
    answer(request).await?.parse()
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let (http, request) = request.build_split();
    let request = request?;
    let asked = format!("{} {}", request.method(), request.url());
    let response = http.execute(request).await.with_context(|| format!("{asked} was not answered"))?;
    let status = response.status();
    let body = response.text().await.with_context(|| format!("the answer to {asked} broke off"))?;
    Ok(Answer { asked, status, body })
}

impl Answer {
    fn check(&self) -> anyhow::Result<()> {
        if self.status.is_success() {
            return Ok(());
        }
        bail!("{} was answered {}: {}", self.asked, self.status, self.body)
    }

    fn parse<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        self.check()?;
        serde_json::from_str(&self.body)
            .with_context(|| format!("{} was answered: {}", self.asked, self.body))
    }
}
