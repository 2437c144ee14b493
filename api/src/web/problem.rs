//! Problem bodies, the format of every error response (RFC 9457).

use http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::Object;
use postrider_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::web::catalogue;

/// The media type of a problem body.
pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// Why a request was refused, and what to do about it.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    /// The status of the response.
    pub(crate) status: StatusCode,
    /// The stable error code, one of [`catalogue`].
    pub(crate) code: &'static str,
    /// What is wrong, and what to do.
    pub(crate) detail: String,
    /// The invalid fields and parameters.
    pub(crate) errors: Vec<FieldError>,
    /// Seconds to wait before trying again, for `Retry-After`.
    pub(crate) retry_after: Option<u32>,
    /// For a 405: the methods that the path supports.
    pub(crate) allow: Option<String>,
}

/// An invalid field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Object, Serialize, Deserialize)]
pub(crate) struct FieldError {
    /// The path of the field in the body, such as `headers.x-team`, or the name of a parameter or header.
    pub(crate) field: String,
    /// What is wrong with the field.
    pub(crate) message: String,
}

/// The body of every error response (RFC 9457).
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Problem")]
pub(crate) struct ProblemBody {
    /// Always `about:blank`. Use `code` to tell problems apart.
    r#type: String,
    /// The reason phrase of the HTTP status.
    title: String,
    /// The HTTP status.
    status: u16,
    /// A stable code of the problem, for programs.
    code: String,
    /// A description of the problem for people: what happened, and what to do.
    detail: String,
    /// The invalid fields and parameters. Empty if the problem is not about fields.
    errors: Vec<FieldError>,
}

impl Problem {
    /// Creates a problem without field errors.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry_after: None, allow: None }
    }

    /// 422: fields of the body, or parameters, are not valid.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let named: Vec<_> =
            errors.iter().map(|error| format!("`{}` {}", error.field, error.message)).collect();
        Self {
            errors,
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "validation_failed",
                format!("{}.", named.join("; ")),
            )
        }
    }

    /// 422: one field is not valid.
    pub(crate) fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// 422: one field is refused for a reason that has a code of its own.
    pub(crate) fn refused_field(
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { code, ..Self::invalid_field(field, message) }
    }

    /// 404: the resource does not exist, or the caller has no access to it.
    pub(crate) fn not_found(code: &'static str, what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            code,
            format!("There is no such {what}, or you do not have access to it."),
        )
    }

    /// 503: unavailable, with a `Retry-After` of one second.
    pub(crate) fn unavailable(code: &'static str, detail: &str) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    /// 503: PostgreSQL is unavailable.
    pub(crate) fn database_unavailable() -> Self {
        Self::unavailable("unavailable", "The database is currently unavailable. Try again in a moment.")
    }

    /// 503: a row or table that the request needs is locked.
    pub(crate) fn busy() -> Self {
        Self::unavailable(
            "busy",
            "Another operation holds a lock that this request needs. Try again in a moment.",
        )
    }

    /// 500: a defect of this program. The log has the details, the response has none.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "An internal error occurred. Report it with the `X-Request-Id` of this response.",
        )
    }

    /// Returns the response body.
    pub(crate) fn body(&self) -> ProblemBody {
        debug_assert!(
            catalogue::has(self.code, self.status.as_u16()),
            "`{}` with status {} is not in api/src/web/catalogue.rs",
            self.code,
            self.status
        );
        ProblemBody {
            r#type: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            code: self.code.to_owned(),
            detail: self.detail.clone(),
            errors: self.errors.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).expect("a problem is plain data");
        let mut response = Response::builder().status(self.status).content_type(CONTENT_TYPE).body(body);
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<Problem> for poem::Error {
    fn from(problem: Problem) -> Self {
        Self::from_response(problem.into_response())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            tracing::debug!(%error, "responding with 503");
            Self::database_unavailable()
        } else if error.is_contention() {
            Self::busy()
        } else if error.is_data_error() {
            Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "data_not_storable",
                "The database cannot store or compare a value of this request. Change the value.",
            )
        } else {
            tracing::error!(%error, "a statement failed");
            Self::internal()
        }
    }
}
