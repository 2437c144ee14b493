//! A producer: uses the public API as a team would.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

/// A client of the API with one credential.
#[derive(Clone)]
pub struct Producer {
    pub api: SocketAddr,
    pub client: reqwest::Client,
    pub key: Option<String>,
    pub application_id: String,
}

impl Producer {
    /// The admin of an API on loopback, without a credential.
    pub fn admin(api: SocketAddr) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { api, client, key: None, application_id: String::new() }
    }

    /// Creates an application and becomes its producer.
    pub async fn new(api: SocketAddr) -> Self {
        let admin = Self::admin(api);
        let created = admin.post("/v1/applications", &json!({"name": "test"})).await;
        Self { key: Some(text(&created["api_key"])), application_id: text(&created["id"]), ..admin }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("http://{}{path}", self.api));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a GET. Panics unless the status is 200.
    pub async fn get(&self, path: &str) -> Value {
        expect(sent(|| self.request(Method::GET, path)).await, StatusCode::OK).await
    }

    /// Sends a POST. Panics unless the status is 201 or 202.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let response = sent(|| self.request(Method::POST, path).json(body)).await;
        if ![StatusCode::CREATED, StatusCode::ACCEPTED].contains(&response.status()) {
            panic!("{path}: {}", dump(response).await);
        }
        response.json().await.expect("a JSON body")
    }

    /// Sends a POST that must be refused. Returns the status and the problem.
    pub async fn refused(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.request(Method::POST, path).json(body).send().await.expect("a response");
        let status = response.status();
        assert!(!status.is_success(), "{path}: {}", dump(response).await);
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        (status, response.json().await.expect("a problem body"))
    }

    /// Creates an endpoint and returns it, including its secret.
    pub async fn endpoint(&self, settings: Value) -> Value {
        self.post(&format!("/v1/applications/{}/endpoints", self.application_id), &settings).await
    }

    /// Posts an event under a key, whatever the response.
    pub async fn try_publish(&self, key: &str, event_type: &str, data: &Value) -> reqwest::Result<Response> {
        self.publish_request(key, event_type, data).send().await
    }

    pub fn publish_request(&self, key: &str, event_type: &str, data: &Value) -> reqwest::RequestBuilder {
        self.request(Method::POST, "/v1/events")
            .header("idempotency-key", key)
            .json(&json!({"event_type": event_type, "data": data}))
    }

    /// Posts an event under a new key and returns the response. Panics unless the event is accepted.
    pub async fn publish(&self, event_type: &str, data: Value) -> Value {
        let key = Uuid::new_v4().to_string();
        let response = sent(|| self.publish_request(&key, event_type, &data)).await;
        expect(response, StatusCode::ACCEPTED).await
    }

    /// Posts an event as a careful producer does: repeatedly under the same key, until it is accepted.
    pub async fn publish_until_accepted(&self, key: &str, event_type: &str, data: &Value) -> Value {
        let started = Instant::now();
        loop {
            if let Ok(response) = self.try_publish(key, event_type, data).await
                && response.status() == StatusCode::ACCEPTED
                && let Ok(answer) = response.json().await
            {
                return answer;
            }
            assert!(started.elapsed() < super::DEADLINE, "{key} is not accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The deliveries of an event.
    pub async fn deliveries(&self, event_id: &str) -> Vec<Value> {
        list(self.get(&format!("/v1/events/{event_id}/deliveries")).await)
    }

    /// Waits until the only delivery of an event has this status.
    pub async fn delivery_in(&self, event_id: &str, status: &str) -> Value {
        super::eventually(&format!("a delivery that is {status}"), async || {
            let delivery = self.deliveries(event_id).await.into_iter().next()?;
            (delivery["status"] == status).then_some(delivery)
        })
        .await
    }

    /// The attempts of a delivery, oldest first.
    pub async fn attempts(&self, delivery: &Value) -> Vec<Value> {
        list(self.get(&format!("/v1/deliveries/{}/attempts", text(&delivery["id"]))).await)
    }
}

/// Sends a request, and repeats it while the API is too busy, as a client has to. A slow machine is not a failure.
pub async fn sent(request: impl Fn() -> reqwest::RequestBuilder) -> Response {
    let started = Instant::now();
    loop {
        let response = request().send().await.expect("a response");
        if response.status() != StatusCode::SERVICE_UNAVAILABLE {
            return response;
        }
        assert!(started.elapsed() < super::DEADLINE, "{}", dump(response).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The text of a JSON string.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).to_owned()
}

fn list(page: Value) -> Vec<Value> {
    page["data"].as_array().unwrap_or_else(|| panic!("{page} is not a page")).clone()
}

async fn expect(response: Response, status: StatusCode) -> Value {
    if response.status() != status {
        panic!("expected {status}: {}", dump(response).await);
    }
    response.json().await.expect("a JSON body")
}

async fn dump(response: Response) -> String {
    format!("{} {}", response.status(), response.text().await.unwrap_or_default())
}
