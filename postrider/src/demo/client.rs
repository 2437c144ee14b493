//! The API calls of the demo.

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use postrider_api_client::{ApiClient, As, parsed};

/// A client of the API.
pub(super) struct Client(ApiClient);

/// Any object with an id.
#[derive(Deserialize)]
struct Identified {
    id: String,
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

/// The response to an event.
#[derive(Deserialize)]
pub(super) struct Accepted {
    pub(super) event_id: String,
}

/// A delivery, as returned by the API.
#[derive(Deserialize)]
pub(super) struct Delivery {
    pub(super) id: String,
    pub(super) endpoint_id: String,
    pub(super) status: String,
}

/// An attempt, as returned by the API.
#[derive(Deserialize)]
pub(super) struct Attempt {
    pub(super) response_status: Option<u16>,
    pub(super) error_class: Option<String>,
}

impl Client {
    pub(super) fn new(api: Url, admin_token: Option<String>) -> anyhow::Result<Self> {
        Ok(Self(ApiClient::new(api, admin_token)?))
    }

    /// Waits until the API is ready.
    pub(super) async fn wait_ready(&self, deadline: Instant) -> anyhow::Result<()> {
        self.0.wait_ready(deadline).await
    }

    /// Returns the id of the application with this `uid`. Creates it if necessary.
    pub(super) async fn application(&self, uid: &str) -> anyhow::Result<String> {
        let path = format!("v1/applications/{uid}");
        if let Some(found) = self.0.find::<Identified>(&path, As::Admin).await? {
            return Ok(found.id);
        }
        let body = json!({ "name": "Demo", "uid": uid });
        let created: Identified = self.0.send(Method::POST, "v1/applications", As::Admin, &body).await?;
        Ok(created.id)
    }

    /// Creates an API key with this name, and revokes older keys with the same name.
    pub(super) async fn fresh_api_key(&self, application: &str, name: &str) -> anyhow::Result<String> {
        let path = format!("v1/applications/{application}/api-keys");
        let fresh: NewApiKey = self.0.send(Method::POST, &path, As::Admin, &json!({ "name": name })).await?;
        for key in self.0.list::<ApiKey>(&path, As::Admin).await? {
            if key.name.as_deref() == Some(name) && key.id != fresh.id {
                self.0.delete(&format!("{path}/{}", key.id), As::Admin).await?;
            }
        }
        Ok(fresh.api_key)
    }

    /// Returns the id of the endpoint with this URL. Creates or enables it if necessary. Its first retry is due after a
    /// second.
    pub(super) async fn endpoint(&self, application: &str, key: &str, url: &Url) -> anyhow::Result<String> {
        let path = format!("v1/applications/{application}/endpoints");
        let endpoints = self.0.list::<Endpoint>(&path, As::Key(key)).await?;
        let endpoint = match endpoints.into_iter().find(|endpoint| endpoint.url == url.as_str()) {
            Some(endpoint) => endpoint,
            None => {
                let body = json!({
                    "url": url,
                    "description": "The demo receiver of `postrider up --demo`",
                    "retry_schedule": [1],
                });
                self.0.send(Method::POST, &path, As::Key(key), &body).await?
            }
        };
        if !endpoint.is_active {
            let path = format!("{path}/{}", endpoint.id);
            let _: Value =
                self.0.send(Method::PATCH, &path, As::Key(key), &json!({ "is_active": true })).await?;
        }
        Ok(endpoint.id)
    }

    /// Returns the signing secret of an endpoint.
    pub(super) async fn secret(
        &self,
        application: &str,
        key: &str,
        endpoint: &str,
    ) -> anyhow::Result<String> {
        let path = format!("v1/applications/{application}/endpoints/{endpoint}/secret");
        Ok(self.0.get::<EndpointSecret>(&path, As::Key(key)).await?.secret)
    }

    /// Posts an event with a new idempotency key.
    pub(super) async fn post_event(
        &self,
        key: &str,
        event_type: &str,
        data: &Value,
    ) -> anyhow::Result<Accepted> {
        let body = json!({ "event_type": event_type, "data": data });
        let request = self
            .0
            .request(Method::POST, "v1/events", As::Key(key))?
            .header("Idempotency-Key", uuid::Uuid::new_v4().to_string())
            .json(&body);
        parsed(request).await
    }

    /// Returns the deliveries of an event.
    pub(super) async fn deliveries(&self, key: &str, event_id: &str) -> anyhow::Result<Vec<Delivery>> {
        self.0.list(&format!("v1/events/{event_id}/deliveries"), As::Key(key)).await
    }

    /// Returns the attempts of a delivery, oldest first.
    pub(super) async fn attempts(&self, key: &str, delivery_id: &str) -> anyhow::Result<Vec<Attempt>> {
        self.0.list(&format!("v1/deliveries/{delivery_id}/attempts"), As::Key(key)).await
    }
}
