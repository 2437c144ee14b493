//! The examples of error responses: for each operation and status, the most common problem.

use serde_json::Value;

use crate::web::problem::{FieldError, Problem};

/// Returns the most common problem with a status in an operation, or `None` if the status is not an error.
pub(super) fn problem(status: &str, operation: &str) -> Option<Value> {
    let status: u16 = status.parse().ok().filter(|&status| status >= 400)?;
    let status = http::StatusCode::from_u16(status).ok()?;
    let (code, detail) = match (status.as_u16(), operation) {
        (400, "publish_event") => (
            "idempotency_key_required",
            "The `Idempotency-Key` header is missing. Send a key of your choice that identifies this event, \
             and the same key on every try.",
        ),
        (400, _) => ("malformed_json", "The body is not valid JSON: expected value at line 1 column 9."),
        (401, _) => (
            "credentials_invalid",
            "This credential is unknown, expired or revoked. Use a valid API key or admin token.",
        ),
        (403, "create_application" | "list_applications" | "delete_application") => {
            ("admin_required", "This operation requires an admin token. API keys cannot perform it.")
        }
        (403, _) => {
            ("scope_required", "This API key does not have the `manage` scope. Use a key that has it.")
        }
        (404, _) => {
            ("application_not_found", "There is no such application, or you do not have access to it.")
        }
        (409, "create_application" | "update_application") => (
            "uid_taken",
            "Another application already has this `uid`. Choose a different one, or use the existing \
             application.",
        ),
        (409, "create_endpoint") => (
            "too_many_endpoints",
            "The application already has 1000 endpoints, which is the maximum. Delete an endpoint, then try \
             again.",
        ),
        (409, "create_replay") => (
            "too_many_replays",
            "The application already has 10 open replays, which is the maximum. Wait until one has \
             finished, or cancel one.",
        ),
        (409, "cancel_replay") => (
            "replay_closed",
            "The replay is already closed with status `cancelled`. There is nothing to cancel.",
        ),
        (409, "create_event_type") => (
            "event_type_exists",
            "The catalogue already has an event type with this name. Update that event type, or choose a \
             different name.",
        ),
        (409, "rotate_endpoint_secret") => (
            "too_many_secrets",
            "The endpoint already has 10 active secrets, which is the maximum. Wait until some of them \
             expire, or rotate with a shorter `overlap_seconds` so that they expire earlier.",
        ),
        (409, "test_endpoint") => {
            ("endpoint_inactive", "The endpoint is disabled, so nothing is sent to it. Enable it first.")
        }
        (409, "publish_event") => (
            "idempotency_key_reused",
            "This idempotency key was already used for a different event. Use a new key for each new event.",
        ),
        (409, "cancel_delivery") => (
            "delivery_closed",
            "The delivery is already closed with status `succeeded`. There is nothing to cancel.",
        ),
        (409, "retry_delivery") => (
            "delivery_in_progress",
            "The delivery is being sent. Wait until it has finished, then try again.",
        ),
        (409, "create_api_key") => (
            "too_many_api_keys",
            "The application already has 100 API keys, which is the maximum. Delete a key, then try again.",
        ),
        (409, "replay_event" | "test_filter" | "test_endpoint_filter") => {
            ("event_expunged", "The data of this event was expunged. The event can no longer be sent.")
        }
        (413, "publish_event_batch") => (
            "body_too_large",
            "The body is larger than 4194304 bytes, which is the maximum. Send a smaller one.",
        ),
        (413, _) => (
            "body_too_large",
            "The body is larger than 262144 bytes, which is the maximum. Send a smaller one.",
        ),
        (415, _) => (
            "unsupported_media_type",
            "The body must be JSON. Send it with the header `Content-Type: application/json`.",
        ),
        (429, _) => (
            "ingest_rate_limited",
            "The application has exceeded its limit of events per second. Try again with the same key, at a \
             lower rate.",
        ),
        (422, _) => return serde_json::to_value(invalid(operation).body()).ok(),
        _ => ("unavailable", "The database is currently unavailable. Try again in a moment."),
    };
    serde_json::to_value(Problem::new(status, code, detail).body()).ok()
}

fn invalid(operation: &str) -> Problem {
    let (field, message) = match operation {
        "create_application" | "update_application" => {
            ("name", "must have 1 to 255 characters, not only spaces")
        }
        "create_api_key" => ("expires_at", "must be in the future"),
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
        "create_replay" => ("mode", "must be one of `replay`, `redrive`, `missing`"),
        "test_filter" => ("filter.data.amount.gt", "must be a number or a string"),
        "test_endpoint_filter" => ("data", "is required, unless `event_id` is given"),
        "replay_event" => ("endpoint_ids[0]", "is not the id of an endpoint of this application"),
        _ if operation.starts_with("list_") => ("limit", "must be a whole number from 1 to 250"),
        _ => {
            ("application_id", "must have 1 to 255 characters, only letters, digits and `. _ - : @ + | ~ =`")
        }
    };
    Problem::invalid(vec![FieldError { field: field.to_owned(), message: message.to_owned() }])
}
