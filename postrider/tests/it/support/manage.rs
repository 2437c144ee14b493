//! A producer that manages its own resources.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::producer::{Producer, text};

impl Producer {
    /// Calls the API. Returns the status and the body, or null if there is no body.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.expect("a response");
        let status = response.status();
        let bytes = response.bytes().await.expect("a body");
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Sends a PATCH. Panics unless the status is 200.
    pub async fn patch(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(Method::PATCH, path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    /// Sends a DELETE. Panics unless the status is 204.
    pub async fn delete(&self, path: &str) {
        let (status, answer) = self.call(Method::DELETE, path, None).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{path}: {answer}");
    }

    /// Expects a refusal with this status, and returns its code.
    pub async fn refusal(&self, method: Method, path: &str, body: Option<&Value>, status: u16) -> String {
        let (answered, problem) = self.call(method, path, body).await;
        assert_eq!(answered.as_u16(), status, "{path}: {problem}");
        text(&problem["code"])
    }

    /// The same application with another credential.
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    /// Returns the path of the application, followed by `rest`.
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/applications/{}{rest}", self.application_id)
    }

    /// Returns the path of one of its endpoints, followed by `rest`.
    pub fn endpoint_path(&self, endpoint: &Value, rest: &str) -> String {
        self.path(&format!("/endpoints/{}{rest}", text(&endpoint["id"])))
    }
}
