//! An API with an admin token and one application, and what every refusal must look like.

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::Bed;
use crate::support::producer::{Producer, text};
use crate::support::service::Services;

pub(crate) const ADMIN_TOKEN: &str = "the-admin-token-of-this-test";

/// Counts everything that an API stores.
const STORED: &str = "select (select count(*) from applications) + (select count(*) from api_keys)
    + (select count(*) from endpoints) + (select count(*) from events) + (select count(*) from deliveries)
    + (select count(*) from outbox) + (select count(*) from idempotency_keys)";

/// An API, and an application whose key has all scopes.
pub(crate) struct Setup {
    pub(crate) bed: Bed,
    pub(crate) services: Services,
    pub(crate) admin: Producer,
    pub(crate) producer: Producer,
}

impl Setup {
    pub(crate) async fn new() -> Self {
        Self::with(&[("POSTRIDER_ADMIN_TOKEN", ADMIN_TOKEN)]).await
    }

    pub(crate) async fn with(settings: &[(&'static str, &str)]) -> Self {
        let bed = Bed::new().await;
        let services = Services::api_alone(&bed, settings).await;
        let admin = Producer { key: Some(ADMIN_TOKEN.to_owned()), ..Producer::admin(services.api) };
        let producer = another(&admin).await;
        Self { bed, services, admin, producer }
    }

    /// A request with a valid event, which the caller can change.
    pub(crate) fn event(&self) -> RequestBuilder {
        self.producer
            .request(Method::POST, "/v1/events")
            .header("idempotency-key", Uuid::new_v4().to_string())
            .header("content-type", "application/json")
    }

    /// The number of rows stored.
    pub(crate) async fn stored(&self) -> i64 {
        self.bed.count(STORED).await
    }

    /// Posts a valid event to show that the API still works, and stops.
    pub(crate) async fn finish(self) {
        self.producer.publish("user.created", json!({})).await;
        self.services.stop().await;
        self.bed.finish().await;
    }
}

/// A new application and its key.
pub(crate) async fn another(admin: &Producer) -> Producer {
    let created = admin.post("/v1/applications", &json!({"name": "test"})).await;
    Producer { key: Some(text(&created["api_key"])), application_id: text(&created["id"]), ..admin.clone() }
}

/// Sends a request that must be refused with this status and code. Returns the problem.
pub(crate) async fn refused(request: RequestBuilder, status: u16, code: &str, what: &str) -> Value {
    let request_id = Uuid::new_v4().to_string();
    let response = request.header("x-request-id", &request_id).send().await;
    let response = response.unwrap_or_else(|error| panic!("{what}: no response: {error:?}"));
    assert_eq!(response.headers()["x-request-id"], *request_id, "{what}");
    let problem = problem_in(response, what).await;
    assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{what}: {problem}");
    problem
}

/// Returns the problem in a response, after checking it against RFC 9457 and the specification.
pub(crate) async fn problem_in(response: Response, what: &str) -> Value {
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.text().await.expect("a body");
    assert_eq!(headers["content-type"], "application/problem+json", "{what}: {status} {body}");
    let problem: Value =
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{what}: {error}: {body}"));
    assert_eq!(problem["status"], status.as_u16(), "{what}");
    assert_eq!(problem["type"], "about:blank", "{what}");
    assert_eq!(problem["title"].as_str(), status.canonical_reason(), "{what}");
    let detail = problem["detail"].as_str().expect("a sentence");
    assert!(detail.ends_with('.') && detail.len() > 10, "{what}: {detail}");
    let errors = problem["errors"].as_array().expect("a list");
    assert_eq!(!errors.is_empty(), status == StatusCode::UNPROCESSABLE_ENTITY, "{what}: {problem}");
    for error in errors {
        let named = [&error["field"], &error["message"]];
        assert!(
            named.iter().all(|text| text.as_str().is_some_and(|text| !text.is_empty())),
            "{what}: {error}"
        );
    }
    for (status_with, header) in [(401, "www-authenticate"), (405, "allow"), (503, "retry-after")] {
        assert_eq!(headers.contains_key(header), status.as_u16() == status_with, "{what}: {header}");
    }
    problem
}
