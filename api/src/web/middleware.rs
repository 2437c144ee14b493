//! What applies to every request and response: a request id, a problem body for every error, metrics.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use poem::error::{MethodNotAllowedError, NotFoundError, ParsePathError};
use poem::middleware::CatchPanic;
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response};
use serde_json::Value;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::connections::Serving;
use crate::metric;
use crate::web::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is accepted from a client.
const MAX_REQUEST_ID_LENGTH: usize = 128;

/// The methods of each path, for the `Allow` header of a 405.
#[derive(Default)]
pub(crate) struct Methods(Vec<(Vec<String>, String)>);

impl Methods {
    /// Reads the methods of all paths from the specification.
    pub(crate) fn of(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        Self(
            paths
                .map(|(path, operations)| {
                    let mut methods: Vec<_> = operations
                        .as_object()
                        .into_iter()
                        .flatten()
                        .map(|(method, _)| method.to_uppercase())
                        .collect();
                    if methods.iter().any(|method| method == "GET") {
                        methods.push("HEAD".to_owned());
                    }
                    (path.split('/').map(str::to_owned).collect(), methods.join(", "))
                })
                .collect(),
        )
    }

    /// Returns the methods of a path. Paths outside the specification are read-only.
    fn allowed(&self, path: &str) -> &str {
        let segments: Vec<_> = path.split('/').collect();
        let fits = |pattern: &[String]| {
            pattern.len() == segments.len()
                && pattern
                    .iter()
                    .zip(&segments)
                    .all(|(part, segment)| part.starts_with('{') || part == segment)
        };
        self.0.iter().find(|(pattern, _)| fits(pattern)).map_or("GET, HEAD", |(_, methods)| methods)
    }
}

/// Wraps all routes.
pub(crate) fn wrap(
    routes: impl Endpoint + 'static,
    methods: Methods,
) -> impl Endpoint<Output = Response> + 'static {
    Edge { routes: routes.with(CatchPanic::new().with_handler(panicked)), methods }
}

struct Edge<E> {
    routes: E,
    methods: Methods,
}

impl<E: Endpoint> Endpoint for Edge<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        Ok(handle(&self.routes, request, &self.methods).await)
    }
}

/// The panic hook has logged the panic. The response gives no details.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::internal().into_response()
}

/// Handles a request within a span, so that every line that is logged meanwhile names the request.
async fn handle(endpoint: &impl Endpoint, request: Request, methods: &Methods) -> Response {
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.original_uri().path().to_owned();
    let request_id = id.to_str().unwrap_or_default();
    // Of the highest level: warnings and errors carry it whichever level is logged.
    let span = tracing::error_span!("request", request_id, %method, path);
    let handled = respond(endpoint, request, &method, &path, methods).instrument(span);
    let mut response = handled.await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn respond(
    endpoint: &impl Endpoint,
    request: Request,
    method: &Method,
    path: &str,
    methods: &Methods,
) -> Response {
    let began = Instant::now();
    let serving = request.data::<Arc<Serving>>().cloned();
    let response = match endpoint.call(request).await {
        Ok(response) => response.into_response(),
        Err(error) if error.is_from_response() => error.into_response(),
        Err(error) => problem_of(&error, path, methods).into_response(),
    };
    let mut response = match serving {
        Some(serving) => serving.respond(response).await.unwrap_or_else(IntoResponse::into_response),
        None => response,
    };
    let status = response.status();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!("responded 500");
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if path.starts_with("/v1/") {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let labels = [("method", method_label(method)), ("status", status_label(status))];
    metrics::counter!(metric::HTTP_REQUESTS, &labels).increment(1);
    metrics::histogram!(metric::HTTP_REQUEST_SECONDS).record(began.elapsed().as_secs_f64());
    response
}

/// Returns the request id of the client if it is 1 to 128 visible ASCII characters, and otherwise a new one.
fn request_id(request: &Request) -> HeaderValue {
    let is_sane = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID_LENGTH).contains(&value.len())
            && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    request.headers().get(REQUEST_ID).filter(is_sane).cloned().unwrap_or_else(|| {
        HeaderValue::try_from(Uuid::now_v7().to_string()).expect("a UUID is visible ASCII")
    })
}

/// Converts an error of the router.
fn problem_of(error: &poem::Error, path: &str, methods: &Methods) -> Problem {
    // A path that is not UTF-8 when decoded does not exist either.
    if error.is::<NotFoundError>() || error.is::<ParsePathError>() {
        let detail = "This path does not exist. See /docs, or the specification at /openapi.json.";
        return Problem::new(StatusCode::NOT_FOUND, "route_not_found", detail);
    }
    if error.is::<MethodNotAllowedError>() {
        let allow = methods.allowed(path);
        let detail = format!("This path does not support this method. Use one of: {allow}.");
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
        return Problem { allow: Some(allow.to_owned()), ..problem };
    }
    let status = error.status();
    if status.is_client_error() {
        return Problem::new(status, "bad_request", format!("{error}."));
    }
    tracing::error!(%error, "a request failed");
    Problem::internal()
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Returns the label of a status, without an allocation.
fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        201 => "201",
        202 => "202",
        204 => "204",
        302 => "302",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        409 => "409",
        413 => "413",
        415 => "415",
        422 => "422",
        429 => "429",
        500 => "500",
        503 => "503",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_405_names_the_methods_of_the_path() {
        let methods = Methods::of(&crate::specification::document());
        assert_eq!(methods.allowed("/v1/deliveries/x/retry"), "POST");
        assert_eq!(methods.allowed("/v1/events/x"), "GET, HEAD");
        assert_eq!(methods.allowed("/v1/applications"), "GET, POST, HEAD");
        assert_eq!(methods.allowed("/docs"), "GET, HEAD");
    }

    #[test]
    fn only_sane_request_ids_are_taken() {
        let id_of =
            |value: HeaderValue| request_id(&Request::builder().header("x-request-id", value).finish());
        assert_eq!(id_of(HeaderValue::from_static("abc-1")), "abc-1");
        for value in ["", "a b", &"x".repeat(129)] {
            let made = id_of(HeaderValue::from_str(value).expect("a header"));
            assert_eq!(made.len(), 36, "{value}");
        }
        assert_eq!(id_of(HeaderValue::from_bytes(b"\xff").expect("a header")).len(), 36);
    }
}
