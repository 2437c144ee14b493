//! A client of the public API. The demo and the bench use it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

/// The timeout of a call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the client checks whether the service is ready.
const POLL: Duration = Duration::from_millis(50);

/// A client of the public API.
#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    api: Url,
    admin_token: Option<String>,
}

/// The credential of a call.
#[derive(Clone, Copy)]
pub enum As<'a> {
    /// The admin token, or no credential on loopback.
    Admin,
    /// An application's API key.
    Key(&'a str),
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

impl ApiClient {
    /// Creates a client of the API whose root URL is `api`.
    pub fn new(api: Url, admin_token: Option<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        Ok(Self { http, api, admin_token })
    }

    /// Waits until the service is ready.
    pub async fn wait_ready(&self, deadline: Instant) -> anyhow::Result<()> {
        loop {
            let last = match answer(self.request(Method::GET, "health/ready", As::Admin)?).await {
                Ok(answer) => match answer.check() {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(last.context("Postrider did not become ready"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Builds a request with its credential.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        who: As<'_>,
    ) -> anyhow::Result<reqwest::RequestBuilder> {
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

    /// Returns the resource at a path.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, who: As<'_>) -> anyhow::Result<T> {
        parsed(self.request(Method::GET, path, who)?).await
    }

    /// Returns the resource at a path, or `None` if the response is 404.
    pub async fn find<T: DeserializeOwned>(&self, path: &str, who: As<'_>) -> anyhow::Result<Option<T>> {
        let answer = answer(self.request(Method::GET, path, who)?).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { answer.parse().map(Some) }
    }

    /// Returns all pages of a list.
    pub async fn list<T: DeserializeOwned>(&self, path: &str, who: As<'_>) -> anyhow::Result<Vec<T>> {
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

    /// Sends a body and returns the body of the response.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        who: As<'_>,
        body: &Value,
    ) -> anyhow::Result<T> {
        parsed(self.request(method, path, who)?.json(body)).await
    }

    /// Deletes a resource. A 404 response counts as success.
    pub async fn delete(&self, path: &str, who: As<'_>) -> anyhow::Result<()> {
        let answer = answer(self.request(Method::DELETE, path, who)?).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { answer.check() }
    }
}

/// A response, with the request that it belongs to for error messages.
struct Reply {
    asked: String,
    status: StatusCode,
    body: String,
}

/// Sends a request and returns the body of the response.
pub async fn parsed<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> anyhow::Result<T> {
    answer(request).await?.parse()
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<Reply> {
    let (http, request) = request.build_split();
    let request = request?;
    let asked = format!("{} {}", request.method(), request.url());
    let response = http.execute(request).await.with_context(|| format!("{asked}: no response"))?;
    let status = response.status();
    let body = response.text().await.with_context(|| format!("{asked}: the response was incomplete"))?;
    Ok(Reply { asked, status, body })
}

impl Reply {
    fn check(&self) -> anyhow::Result<()> {
        if self.status.is_success() {
            return Ok(());
        }
        bail!("{}: the response was {}: {}", self.asked, self.status, self.body)
    }

    fn parse<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        self.check()?;
        serde_json::from_str(&self.body)
            .with_context(|| format!("{}: unexpected response: {}", self.asked, self.body))
    }
}
