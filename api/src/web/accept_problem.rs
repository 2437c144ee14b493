//! Translates the reasons why an event is not accepted into problems.

use std::time::Duration;

use http::StatusCode;

use crate::accept::error::{AcceptError, InvalidEvent};
use crate::auth::{self, Scope};
use crate::schema::{SchemaError, Violation};
use crate::web::problem::{FieldError, Problem};

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Invalid(error) => error.into(),
            AcceptError::SchemaViolation(violations) => Self {
                code: "schema_violation",
                ..Self::invalid(violations.into_iter().map(Into::into).collect())
            },
            AcceptError::Schema(error) => error.into(),
            AcceptError::KeyReused => Problem::new(
                StatusCode::CONFLICT,
                "idempotency_key_reused",
                "This idempotency key was already used for a different event. Use a new key for each new event.",
            ),
            AcceptError::UnknownKey => auth::invalid(),
            AcceptError::Forbidden => auth::scope_required(Scope::Publish.as_str()),
            AcceptError::UnknownApplication => Self::not_found("application_not_found", "application"),
            AcceptError::InactiveApplication => Problem::new(
                StatusCode::FORBIDDEN,
                "application_inactive",
                "The application is not active, so it cannot publish events. Activate it first.",
            ),
            AcceptError::RateLimited(wait) => rate_limited(wait),
            AcceptError::SchemaChanging => Self::unavailable(
                "schema_changing",
                "The schema of this event type keeps changing. Try again with the same key.",
            ),
            AcceptError::RateLimitChanging => Self::unavailable(
                "ingest_rate_limit_changing",
                "The rate limit of the application is changing. Try again with the same key.",
            ),
            AcceptError::KeyBusy => Self::unavailable(
                "idempotency_key_busy",
                "Another request with this idempotency key is in progress. Try again with the same key.",
            ),
            AcceptError::Busy => Self::busy(),
            AcceptError::Unavailable => Self::database_unavailable(),
            AcceptError::TooCostly => Self::unavailable(
                "event_too_costly",
                "Matching this event with the filters of the application's endpoints took too long. \
                 Simplify the filters, or send a smaller event.",
            ),
            AcceptError::Overloaded => Self::unavailable(
                "overloaded",
                "More events are arriving than can be stored. Try again with the same key, at a lower rate.",
            ),
            AcceptError::Stopping => {
                Self::unavailable("stopping", "This server is shutting down. Try again with the same key.")
            }
            AcceptError::Internal => Self::internal(),
        }
    }
}

impl From<InvalidEvent> for Problem {
    fn from(error: InvalidEvent) -> Self {
        let (code, field) = match &error {
            InvalidEvent::EventType(_) => ("event_type_invalid", "event_type"),
            InvalidEvent::ReservedEventType => ("event_type_reserved", "event_type"),
            InvalidEvent::UnknownEventType => ("unknown_event_type", "event_type"),
            InvalidEvent::IdempotencyKey => ("idempotency_key_invalid", "idempotency_key"),
            InvalidEvent::NotAnObject => ("validation_failed", "data"),
            InvalidEvent::Data(defect) => (defect.code(), "data"),
            InvalidEvent::NotStorable => ("data_not_storable", "data"),
        };
        Self::refused_field(code, field, error.to_string())
    }
}

impl From<SchemaError> for Problem {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::TooCostly => Self::refused_field(
                "schema_too_costly",
                "data",
                "takes too long to check against the schema of its event type; send less data, or simplify \
                 the schema",
            ),
            SchemaError::Overloaded => Self::unavailable(
                "overloaded",
                "Too many schema checks are waiting. Try again; use the same idempotency key for an event.",
            ),
            SchemaError::Internal => Self::internal(),
        }
    }
}

impl From<Violation> for FieldError {
    fn from(Violation { path, message }: Violation) -> Self {
        Self { field: path, message }
    }
}

fn rate_limited(wait: Duration) -> Problem {
    let seconds = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
    let problem = Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "ingest_rate_limited",
        "The application has exceeded its limit of events per second. Try again with the same key, at a \
         lower rate.",
    );
    Problem { retry_after: Some(seconds), ..problem }
}

#[cfg(test)]
mod tests {
    use postrider_domain::event_type::EventTypeError;

    use super::*;
    use crate::web::catalogue;

    #[test]
    fn a_retryable_error_has_a_status_that_asks_for_another_try() {
        for error in [
            InvalidEvent::EventType(EventTypeError::Length).into(),
            InvalidEvent::ReservedEventType.into(),
            InvalidEvent::UnknownEventType.into(),
            InvalidEvent::IdempotencyKey.into(),
            InvalidEvent::NotAnObject.into(),
            InvalidEvent::NotStorable.into(),
            AcceptError::SchemaViolation(vec![Violation {
                path: "data".to_owned(),
                message: "x".to_owned(),
            }]),
            SchemaError::TooCostly.into(),
            SchemaError::Overloaded.into(),
            SchemaError::Internal.into(),
            AcceptError::KeyReused,
            AcceptError::UnknownKey,
            AcceptError::Forbidden,
            AcceptError::UnknownApplication,
            AcceptError::InactiveApplication,
            AcceptError::RateLimited(Duration::from_millis(1)),
            AcceptError::SchemaChanging,
            AcceptError::RateLimitChanging,
            AcceptError::KeyBusy,
            AcceptError::Busy,
            AcceptError::Unavailable,
            AcceptError::TooCostly,
            AcceptError::Overloaded,
            AcceptError::Stopping,
            AcceptError::Internal,
        ] {
            let is_retryable = error.is_retryable();
            let Problem { code, status, .. } = error.into();
            assert!(catalogue::has(code, status.as_u16()), "{code} {status}");
            let asks = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            assert_eq!(is_retryable, asks, "{code} {status}");
        }
    }

    #[test]
    fn a_producer_is_asked_to_wait_for_whole_seconds() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2)] {
            assert_eq!(rate_limited(Duration::from_millis(millis)).retry_after, Some(seconds));
        }
    }
}
