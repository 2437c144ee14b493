//! Every `code` that a problem body can have. The documentation is generated from this table.

/// An error code and its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// The stable code, which programs may rely on.
    pub code: &'static str,
    /// The HTTP status of responses with this code.
    pub status: u16,
    /// What happened, and what to do about it.
    pub meaning: &'static str,
}

macro_rules! catalogue {
    ($($status:literal { $($code:literal: $meaning:literal,)+ })+) => {
        /// The catalogue of error codes, grouped by status.
        pub const ERROR_CODES: &[ErrorCode] =
            &[$($(ErrorCode { code: $code, status: $status, meaning: $meaning }),+),+];
    };
}

catalogue! {
    400 {
        "malformed_json": "The body is not valid JSON, is not UTF-8 or is empty. `detail` says where the error is.",
        "body_incomplete": "The body was incomplete, or took longer than 30 s to arrive. Send the request again.",
        "idempotency_key_required": "An event was published without an `Idempotency-Key` header. Send one, and use the same key on every try.",
        "bad_request": "The request is malformed in a way that has no code of its own. `detail` explains it.",
    }
    401 {
        "credentials_required": "The request has no credential, or more than one. Send one `Authorization: Bearer …` header.",
        "credentials_invalid": "The credential is unknown, expired or revoked. Use a valid one.",
    }
    403 {
        "admin_required": "This operation requires an admin token.",
        "scope_required": "The API key does not have a scope that this operation requires; `detail` names it. Use a key that has it.",
        "cross_site_request": "The request was made by a page of another site without a credential. Send a credential.",
        "application_inactive": "The application is not active, so it cannot publish events. Activate it first.",
    }
    404 {
        "route_not_found": "The path does not exist. The specification is at `/openapi.json`.",
        "application_not_found": "The application does not exist, or the caller has no access to it.",
        "api_key_not_found": "The application has no such API key.",
        "endpoint_not_found": "The application has no such endpoint.",
        "event_not_found": "The event does not exist, belongs to another application, or is older than the retention period.",
        "delivery_not_found": "The delivery does not exist, belongs to another application, or is older than the retention period.",
        "event_type_not_found": "The event type is not in the catalogue of the application.",
        "replay_not_found": "The replay does not exist, or belongs to another application.",
        "emit_rejection_not_found": "The rejection does not exist, belongs to another application, or is older than the retention period.",
    }
    405 {
        "method_not_allowed": "The path exists, but does not support the method. The `Allow` header lists the methods that it supports.",
    }
    409 {
        "uid_taken": "Another application already has this `uid`. Choose a different one, or use the existing application.",
        "too_many_endpoints": "The application has reached its maximum number of endpoints. Delete endpoints that are no longer used.",
        "too_many_api_keys": "The application has reached its maximum number of API keys, including expired ones. Delete keys that are no longer used.",
        "too_many_event_types": "The application has 1,000 event types, including archived ones, which is the maximum. Delete event types that are no longer used.",
        "too_many_secrets": "The endpoint has reached its maximum number of active secrets. Wait until some expire, or rotate with a shorter overlap.",
        "endpoint_inactive": "The endpoint is disabled, so nothing is sent to it. Enable it first.",
        "idempotency_key_reused": "The idempotency key was already used for a different event. Use a new key for each new event.",
        "delivery_in_progress": "The delivery is being sent. Wait until it has finished, then retry it.",
        "delivery_closed": "The delivery is already closed, so there is nothing to cancel.",
        "endpoint_deleted": "The endpoint of the delivery was deleted. Replay the event to another endpoint.",
        "event_expunged": "The data of the event was expunged, so the event can no longer be sent.",
        "event_expired": "The event is older than the retention period, so it can no longer be sent.",
        "event_type_exists": "The catalogue already has an event type with this name. Update that event type, or choose a different name.",
        "too_many_replays": "The application has ten open replays, which is the maximum. Wait until one has finished, or cancel one.",
        "replay_closed": "The replay is cancelled or failed, or is a completed dry run, so there is nothing to cancel.",
    }
    413 {
        "body_too_large": "The body is larger than this operation allows. Send a smaller one.",
        "data_too_large": "The `data` of one event of a batch is larger than 262,144 bytes. Send less data.",
    }
    415 {
        "unsupported_media_type": "The body is not `application/json`, or it is compressed. Send uncompressed JSON.",
    }
    422 {
        "validation_failed": "Some fields or parameters are not valid. `errors` lists each of them with the reason.",
        "application_required": "With an admin token, this operation needs the `application_id` parameter: the id or `uid` of the application.",
        "idempotency_key_invalid": "The idempotency key does not have 1 to 255 visible ASCII characters.",
        "event_type_invalid": "The event type does not consist of parts of letters, digits and `_`, separated by periods.",
        "event_type_reserved": "Event types that start with `postrider.` are reserved for Postrider's own events.",
        "unknown_event_type": "The application only accepts event types of its catalogue, and this type is not in it. Add it first.",
        "schema_violation": "`data`, or the example of an event type, violates the JSON Schema of the type. `errors` says where.",
        "schema_too_costly": "Checking `data` against the schema of its event type would take too long. Send less data, or simplify the schema.",
        "json_schema_invalid": "The JSON Schema cannot be used. `errors` has the path in the schema and the reason.",
        "json_too_deep": "The JSON is nested deeper than 64 levels.",
        "json_duplicate_key": "An object has a duplicate key. Remove one of them.",
        "json_nul": "A string contains the NUL character, which PostgreSQL cannot store.",
        "json_lone_surrogate": "A string contains half of a surrogate pair, which is not a valid character.",
        "json_number_too_long": "A number has more than 1,000 characters when written without an exponent. Send it as a string.",
        "json_too_large": "The JSON is larger than 512 KiB when its numbers are written without exponents.",
        "data_not_storable": "PostgreSQL rejected a value for a reason that has no code of its own. Change the value.",
        "refused_address": "The URL has an address that webhooks are not sent to. Use a public address, or ask the operator to allow its network.",
        "https_required": "This installation only sends to `https` URLs.",
        "filter_invalid": "The payload filter is not valid. `errors` has the path in the filter and what is expected there.",
        "matching_too_costly": "Matching one event with the filters and event types of all endpoints of the application would take too many steps. Compare with fewer values, especially on paths with `[*]`, and use fewer patterns in `event_types`.",
        "reserved_header": "This header is set by Postrider and cannot be overridden. Leave it out.",
    }
    500 {
        "internal": "An internal error occurred. Report it with the `X-Request-Id` of the response.",
    }
    429 {
        "ingest_rate_limited": "The application has exceeded its limit of events per second. Try again after `Retry-After` seconds.",
    }
    503 {
        "unavailable": "PostgreSQL is unavailable or refuses the request. Try again after `Retry-After` seconds; use the same idempotency key for an event.",
        "busy": "Another request is changing the same resource, or a table is locked. Try again after `Retry-After` seconds; use the same idempotency key for an event.",
        "idempotency_key_busy": "Another request with this idempotency key is in progress. Try again with the same key.",
        "schema_changing": "The schema of the event type changed repeatedly during the request. Try again with the same key.",
        "ingest_rate_limit_changing": "The `ingest_rate_limit` of the application changed during the request. Try again with the same key.",
        "overloaded": "More events are arriving than can be stored, or too many schema checks are waiting. Try again with the same key, at a lower rate.",
        "event_too_costly": "Matching the event with the filters of the application's endpoints took longer than 4 s. Simplify the filters, or send a smaller event.",
        "share_exhausted": "The application has reached its share of this server: too many requests in progress, or too many bytes of request bodies or unread responses. Send fewer requests at the same time, and read the responses.",
        "stopping": "This server is shutting down. Try again with the same key; another server may respond.",
    }
}

/// Returns true if the catalogue lists `code` with `status`. `bad_request` covers every client error that a library
/// may raise.
pub(crate) fn has(code: &str, status: u16) -> bool {
    ERROR_CODES.iter().any(|entry| {
        entry.code == code
            && (entry.status == status || (code == "bad_request" && (400..500).contains(&status)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_snake_case_and_explained() {
        let mut codes: Vec<_> = ERROR_CODES.iter().map(|entry| entry.code).collect();
        for entry in ERROR_CODES {
            assert!(
                entry.code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{}",
                entry.code
            );
            assert!(entry.meaning.ends_with('.'), "{} is not explained in a sentence", entry.code);
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ERROR_CODES.len());
    }

    #[test]
    fn a_code_comes_with_its_status() {
        assert!(has("uid_taken", 409) && has("bad_request", 431));
        assert!(!has("uid_taken", 404) && !has("nonsense", 400));
    }
}
