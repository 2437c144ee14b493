//! The error responses that an operation documents. An operation returns `Result<_, Refused<{ … }>>`. The
//! specification lists exactly these statuses, and those that any operation may return.

use http::StatusCode;
use poem_openapi::ApiResponse;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry};
use poem_openapi::types::Type;
use postrider_store::StoreError;

use crate::web::problem::{CONTENT_TYPE, Problem, ProblemBody};

/// Only 401, 403 and 503, which every operation may return.
pub(crate) const ALWAYS: u32 = 0;
/// 404: the resource does not exist.
pub(crate) const NOT_FOUND: u32 = 1;
/// 409: the state of the resource does not allow this.
pub(crate) const CONFLICT: u32 = 1 << 1;
/// 422: parameters or fields are not valid.
pub(crate) const INVALID: u32 = 1 << 2;
/// 400, 413, 415, 422: the body can be wrong in these ways.
pub(crate) const BODY: u32 = INVALID | 1 << 3;

/// 429: a rate limit is exceeded.
pub(crate) const LIMITED: u32 = 1 << 4;

/// An error response of an operation that documents `STATUSES`.
#[derive(Debug)]
pub(crate) struct Refused<const STATUSES: u32>(Problem);

const TABLE: [(u32, StatusCode, &str); 10] = [
    (
        1 << 3,
        StatusCode::BAD_REQUEST,
        "The request is malformed: the body is not valid JSON or is incomplete, or a required header is \
         missing.",
    ),
    (0, StatusCode::UNAUTHORIZED, "The credential is missing, unknown, expired or revoked."),
    (0, StatusCode::FORBIDDEN, "The credential is valid, but does not allow this operation."),
    (NOT_FOUND, StatusCode::NOT_FOUND, "The resource does not exist, or it belongs to another application."),
    (CONFLICT, StatusCode::CONFLICT, "The current state of the resource does not allow this operation."),
    (
        1 << 3,
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is too large. The maximum is 262,144 bytes, and 4 MiB for a batch of events.",
    ),
    (1 << 3, StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not `application/json`, or it is compressed."),
    (
        INVALID,
        StatusCode::UNPROCESSABLE_ENTITY,
        "The request is not valid. `errors` lists the invalid fields and parameters, if there are any.",
    ),
    (
        LIMITED,
        StatusCode::TOO_MANY_REQUESTS,
        "The application has exceeded its limit of events per second. Try again after `Retry-After` seconds.",
    ),
    (
        0,
        StatusCode::SERVICE_UNAVAILABLE,
        "The service is overloaded, or its database is unavailable. Try again after `Retry-After` seconds.",
    ),
];

/// The media type of problems, for the specification.
struct ProblemPayload;

impl Payload for ProblemPayload {
    const CONTENT_TYPE: &'static str = CONTENT_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        ProblemBody::schema_ref()
    }
}

impl<const STATUSES: u32> ApiResponse for Refused<STATUSES> {
    fn meta() -> MetaResponses {
        let documented = TABLE.iter().filter(|(bit, ..)| *bit == ALWAYS || STATUSES & bit != 0);
        let responses = documented.map(|&(_, status, description)| MetaResponse {
            description,
            status: Some(status.as_u16()),
            status_range: None,
            content: vec![MetaMediaType { content_type: CONTENT_TYPE, schema: ProblemPayload::schema_ref() }],
            headers: Vec::new(),
        });
        MetaResponses { responses: responses.collect() }
    }

    fn register(registry: &mut Registry) {
        ProblemBody::register(registry);
    }
}

impl<const STATUSES: u32> From<Problem> for Refused<STATUSES> {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl<const STATUSES: u32> From<StoreError> for Refused<STATUSES> {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}

impl<const STATUSES: u32> From<Refused<STATUSES>> for poem::Error {
    fn from(refused: Refused<STATUSES>) -> Self {
        refused.0.into()
    }
}
