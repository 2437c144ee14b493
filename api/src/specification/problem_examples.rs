//! The problem that each status means most often, by operation: the examples of refusals.

use serde_json::Value;

use crate::web::problem::{FieldError, Problem};

/// The problem that a status most often means in an operation; `None` for what is no refusal.
pub(super) fn problem(status: &str, operation: &str) -> Option<Value> {
    let status: u16 = status.parse().ok().filter(|&status| status >= 400)?;
    let status = http::StatusCode::from_u16(status).ok()?;
    let (code, detail) = match (status.as_u16(), operation) {
        (400, "publish_event") => (
            "idempotency_key_required",
            "Send the header Idempotency-Key: a key of your own for this event, the same on every try.",
        ),
        (400, _) => ("malformed_json", "The body is not valid JSON: expected value at line 1 column 9."),
        (401, _) => (
            "credentials_invalid",
            "This credential is unknown, expired or revoked. Use another API key or admin token.",
        ),
        (403, "create_application" | "list_applications" | "delete_application") => {
            ("admin_required", "Only the admin token may do this.")
        }
        (403, _) => ("scope_required", "This API key has not the scope `manage`. Use one that has."),
        (404, _) => ("application_not_found", "There is no such application."),
        (409, "create_application" | "update_application") => {
            ("uid_taken", "Another application has this `uid`. Choose another one, or use that application.")
        }
        (409, "create_endpoint") => {
            ("too_many_endpoints", "The application has 1000 endpoints, as many as it may have.")
        }
        (409, "create_replay") => {
            ("too_many_replays", "The application has 10 replays that are not closed. Wait, or cancel one.")
        }
        (409, "cancel_replay") => {
            ("replay_closed", "The replay is `cancelled`: there is nothing left to cancel.")
        }
        (409, "create_event_type") => (
            "event_type_exists",
            "The catalogue has an event type of this name. Change that one, or choose another name.",
        ),
        (409, "rotate_endpoint_secret") => (
            "too_many_secrets",
            "10 secrets sign already, as many as may. Wait until some of them end, or rotate with a shorter \
             `overlap_seconds`, which ends them earlier.",
        ),
        (409, "test_endpoint") => (
            "endpoint_inactive",
            "The endpoint is not active, so that nothing is sent to it. Activate it first.",
        ),
        (409, "publish_event") => (
            "idempotency_key_reused",
            "This Idempotency-Key belongs to a different event. Use a new key for a new event.",
        ),
        (409, "cancel_delivery") => {
            ("delivery_closed", "The delivery is `succeeded`. It is closed: there is nothing left to cancel.")
        }
        (409, "retry_delivery") => {
            ("delivery_in_progress", "The delivery is under way. Wait for its end, then try again.")
        }
        (409, _) => {
            ("event_expunged", "The payload of the event was removed on request: it can no longer be sent.")
        }
        (413, "publish_event_batch") => {
            ("body_too_large", "The body is larger than 4194304 bytes. Send less.")
        }
        (413, _) => ("body_too_large", "The body is larger than 262144 bytes. Send less."),
        (415, _) => ("unsupported_media_type", "Send JSON with the header `Content-Type: application/json`."),
        (429, _) => (
            "ingest_rate_limited",
            "The application publishes more events per second than it may. Try again with the same key, more slowly.",
        ),
        (422, _) => return serde_json::to_value(invalid(operation).body()).ok(),
        _ => ("unavailable", "The database cannot be reached. Try again in a moment."),
    };
    serde_json::to_value(Problem::new(status, code, detail).body()).ok()
}

fn invalid(operation: &str) -> Problem {
    let (field, message) = match operation {
        "create_application" | "update_application" => {
            ("name", "must have 1 to 255 characters, not only spaces")
        }
        "create_api_key" => ("expires_at", "must lie in the future"),
        "rotate_endpoint_secret" => ("overlap_seconds", "must be from 0 to 2592000"),
        "get_endpoint_stats" => ("window_seconds", "must be a whole number of seconds from 60 to 2592000"),
        "create_endpoint" | "update_endpoint" | "" => {
            ("url", "must be an absolute URL such as `https://example.com/webhooks`")
        }
        "publish_event" => ("data", "must be a JSON object"),
        "publish_event_batch" => ("events", "must have 1 to 1000 items"),
        "create_event_type" | "update_event_type" => {
            ("json_schema.properties.amount.minimum", "it is not of type \"number\"")
        }
        "create_replay" => ("mode", "must be one of `replay`, `redrive`"),
        "test_filter" => ("filter.data.amount.gt", "must be a number or a text"),
        "test_endpoint_filter" => ("data", "must be given, or `event_id`"),
        "replay_event" => ("endpoint_ids[0]", "names no endpoint of the application"),
        "get_event" | "get_delivery" | "retry_delivery" | "cancel_delivery" => {
            ("application_id", "must be 1 to 255 letters, digits and `. _ - : @ + | ~ =`")
        }
        _ => ("limit", "must be a whole number from 1 to 250"),
    };
    Problem::invalid(vec![FieldError { field: field.to_owned(), message: message.to_owned() }])
}
