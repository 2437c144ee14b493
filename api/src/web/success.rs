//! The responses of successful operations. Serde writes the bodies, so that raw JSON is passed on unchanged.

use http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use serde::Serialize;

const CONTENT_TYPE: &str = "application/json";

/// A JSON body with its status.
#[derive(Debug)]
pub(crate) struct Success<const STATUS: u16, T> {
    body: T,
    location: Option<String>,
}

/// 200.
pub(crate) type Found<T> = Success<200, T>;
/// 201, with the `Location` of the new resource.
pub(crate) type Created<T> = Success<201, T>;
/// 202.
pub(crate) type Accepted<T> = Success<202, T>;

impl<const STATUS: u16, T> Success<STATUS, T> {
    /// Creates a response without a `Location`.
    pub(crate) fn new(body: impl Into<T>) -> Self {
        Self { body: body.into(), location: None }
    }
}

impl<T> Created<T> {
    /// Creates the response for a new resource, which can be read at `location`.
    pub(crate) fn at(location: String, body: impl Into<T>) -> Self {
        Self { body: body.into(), location: Some(location) }
    }
}

fn description(status: u16) -> &'static str {
    match status {
        201 => "The resource was created. The `Location` header contains its path.",
        202 => "The request was accepted and is being processed.",
        _ => "The request succeeded.",
    }
}

impl<const STATUS: u16, T: Type + Serialize> IntoResponse for Success<STATUS, T> {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(STATUS).expect("operations only use valid statuses");
        let body = serde_json::to_vec(&self.body).expect("a response body is plain data");
        let mut response = Response::builder().status(status).content_type(CONTENT_TYPE).body(body);
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

impl<const STATUS: u16, T: Type + Serialize> ApiResponse for Success<STATUS, T> {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: description(STATUS),
                status: Some(STATUS),
                status_range: None,
                content: vec![MetaMediaType { content_type: CONTENT_TYPE, schema: T::schema_ref() }],
                headers: Vec::new(),
            }],
        }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// 204, without a body.
#[derive(Debug)]
pub(crate) struct Done;

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        Response::builder().status(StatusCode::NO_CONTENT).finish()
    }
}

impl ApiResponse for Done {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The request succeeded. The response has no body.",
                status: Some(204),
                status_range: None,
                content: Vec::new(),
                headers: Vec::new(),
            }],
        }
    }

    fn register(_: &mut Registry) {}
}
