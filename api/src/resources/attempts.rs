//! `/v1/deliveries/{delivery_id}/attempts`: the attempts of a delivery.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use postrider_domain::ids::DeliveryId;
use postrider_store::applications::ApplicationRef;
use postrider_store::attempts;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::{App, Tag};
use crate::auth::{Caller, Scope};
use crate::web::json_types::Timestamp;
use crate::web::page::{Cursor, Page};
use crate::web::parameter::{InQuery, Path};
use crate::web::parameter_values::Limit;
use crate::web::problem::Problem;
use crate::web::refused::{INVALID, NOT_FOUND, Refused};
use crate::web::success::Found;

/// One attempt to deliver a webhook: an HTTP exchange, or one that was started and whose outcome is unknown.
#[derive(Debug, Object, Serialize)]
pub(crate) struct Attempt {
    /// The number of the attempt within its delivery, starting at 1.
    attempt_number: i32,
    /// `succeeded`, `failed`, or `unknown` if the attempt was started and it is not known whether the webhook was
    /// sent.
    outcome: String,
    /// The kind of failure: `dns`, `connect`, `tls`, `timeout`, `refused_address`, `http`, `unrenderable` (the
    /// request could not be built) or `internal` (a fault in Postrider). Null if the attempt did not fail.
    error_class: Option<String>,
    /// A description of the failure. Null if the attempt did not fail.
    error_message: Option<String>,
    /// The request headers. Sensitive values are shown as `***`. Null if no request was sent.
    request_headers: Option<Vec<Header>>,
    /// The HTTP status of the response. Null if there was no response.
    response_status: Option<i32>,
    /// The response headers, in order, up to 16 KiB. Null if there was no response.
    response_headers: Option<Vec<Header>>,
    /// The first 16 KiB of the response body. Null if there was none.
    response_body: Option<String>,
    /// The encoding of `response_body`: `utf8`, or `base64` if the body is not valid UTF-8. Null if `response_body`
    /// is null.
    response_body_encoding: Option<String>,
    /// True if the response body was longer than the part that is kept.
    response_body_truncated: bool,
    /// True if the request was sent twice within this attempt, because a reused connection broke before the response
    /// started.
    resent: bool,
    /// The duration of the attempt in milliseconds. Null if it is not known.
    duration_ms: Option<i32>,
    /// When the attempt started.
    created_at: Timestamp,
}

/// An HTTP header.
#[derive(Debug, Object, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The name of the header.
    name: String,
    /// The value of the header.
    value: String,
}

impl From<attempts::Attempt> for Attempt {
    fn from(stored: attempts::Attempt) -> Self {
        let (response_body, encoding) = stored.response_body.map(text_of).unzip();
        Self {
            attempt_number: stored.attempt_number.into(),
            outcome: stored.outcome.as_str().to_owned(),
            error_class: stored.error_class,
            error_message: stored.error_message,
            request_headers: stored.request_headers.as_deref().map(headers_of),
            response_status: stored.response_status.map(Into::into),
            response_headers: stored.response_headers.as_deref().map(headers_of),
            response_body,
            response_body_encoding: encoding.map(str::to_owned),
            response_body_truncated: stored.response_body_truncated,
            resent: stored.resent,
            duration_ms: stored.duration_ms,
            created_at: stored.created_at.into(),
        }
    }
}

/// Returns bytes as text, together with its encoding.
fn text_of(bytes: Vec<u8>) -> (String, &'static str) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, "utf8"),
        Err(error) => (STANDARD.encode(error.as_bytes()), "base64"),
    }
}

fn headers_of(json: &str) -> Vec<Header> {
    serde_json::from_str(json).unwrap_or_else(|error| {
        tracing::error!(%error, "the stored headers of an attempt cannot be read");
        Vec::new()
    })
}

/// The operation that reads attempts.
pub(crate) struct Attempts;

#[OpenApi(prefix_path = "/v1", tag = "Tag::Deliveries")]
impl Attempts {
    /// List the attempts of a delivery
    ///
    /// Returns the attempts, oldest first. Requires the `read` scope.
    #[oai(
        path = "/deliveries/:delivery_id/attempts",
        method = "get",
        operation_id = "list_delivery_attempts"
    )]
    async fn list(
        &self,
        caller: Caller,
        app: Data<&Arc<App>>,
        /// The id of the delivery.
        delivery_id: Path<DeliveryId>,
        /// The id or `uid` of the application that the delivery must belong to. If it belongs to another one, the
        /// response is 404.
        application_id: InQuery<ApplicationRef>,
        /// Maximum number of items on a page.
        limit: InQuery<Limit>,
        /// The `next_cursor` of the previous page. Leave it out to get the first page.
        cursor: InQuery<Cursor>,
    ) -> Result<Found<Page<Attempt>>, Refused<{ NOT_FOUND | INVALID }>> {
        caller.require(Scope::Read)?;
        let application = caller.listed_application(&app, application_id.0.as_ref()).await?;
        let after = cursor.0.map_or(0, number_in);
        let page = attempts::list(&app.store, application, delivery_id.0, after, limit.items()).await?;
        let page = page.ok_or_else(|| Problem::not_found("delivery_not_found", "delivery"))?;
        Ok(Found::new(Page::with_cursor(page, cursor_after)))
    }
}

/// Returns the cursor after an attempt. Attempts have numbers instead of ids, so the number is in the last bytes of
/// the cursor.
fn cursor_after(number: i16) -> Cursor {
    Cursor(Uuid::from_u128(u128::from(number.unsigned_abs())))
}

fn number_in(cursor: Cursor) -> i16 {
    i16::try_from(cursor.0.as_u128()).unwrap_or(i16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_text_where_it_can_be() {
        assert_eq!(text_of(b"a\0\xc3\xa9".to_vec()), ("a\0é".to_owned(), "utf8"));
        assert_eq!(text_of(vec![0xff, 0]), ("/wA=".to_owned(), "base64"));
    }

    #[test]
    fn a_cursor_holds_a_number() {
        assert_eq!(number_in(cursor_after(20)), 20);
        assert_eq!(number_in(Cursor(Uuid::max())), i16::MAX);
    }
}
