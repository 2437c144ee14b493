//! Every `code` that a problem body can have: the one table that the documentation is made of.

/// What a `code` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// The stable name: programs may rely on it.
    pub code: &'static str,
    /// The HTTP status that it comes with.
    pub status: u16,
    /// What happened, and what to do about it.
    pub meaning: &'static str,
}

macro_rules! catalogue {
    ($($status:literal { $($code:literal: $meaning:literal,)+ })+) => {
        /// The catalogue, by status.
        pub const ERROR_CODES: &[ErrorCode] =
            &[$($(ErrorCode { code: $code, status: $status, meaning: $meaning }),+),+];
    };
}

catalogue! {
    400 {
        "malformed_json": "The body is not JSON, not UTF-8, or empty. `detail` says where it breaks.",
        "body_incomplete": "The body broke off, or took longer than 30 s to arrive. Send it again.",
        "idempotency_key_required": "An event was posted without `Idempotency-Key`. Send one, the same on every try.",
        "bad_request": "The request cannot be understood for a reason that has no name of its own; `detail` gives it.",
    }
    401 {
        "credentials_required": "No credential was sent, or more than one. Send `Authorization: Bearer …` once.",
        "credentials_invalid": "The credential is unknown, expired or revoked. Use another one.",
    }
    403 {
        "admin_required": "Only an admin token may do this.",
        "scope_required": "The API key lacks a scope that this needs; `detail` names it. Use a key that has it.",
        "cross_site_request": "A page of another site has made this request, without a credential. Send one.",
        "application_inactive": "The application is not active, so it may not publish. Activate it first.",
    }
    404 {
        "route_not_found": "There is no such path. The specification is at `/openapi.json`.",
        "application_not_found": "There is no such application, or it is not the caller's.",
        "api_key_not_found": "The application has no such API key.",
        "endpoint_not_found": "The application has no such endpoint.",
        "event_not_found": "There is no such event, it is not the caller's, or it is older than the retention.",
        "delivery_not_found": "There is no such delivery, it is not the caller's, or it is older than the retention.",
        "event_type_not_found": "There is no such event type in the catalogue, or it is not the caller's.",
        "replay_not_found": "There is no such replay, or it is not the caller's.",
        "emit_rejection_not_found": "There is no such rejection, it is not the caller's, or it is older than the retention.",
    }
    405 {
        "method_not_allowed": "The path exists, the method does not. `Allow` lists those that do.",
    }
    409 {
        "uid_taken": "Another application has this `uid`. Choose another one, or use that application.",
        "too_many_endpoints": "The application has as many endpoints as it may have.",
        "too_many_api_keys": "The application has as many API keys as it may have, expired ones included. Delete some first.",
        "too_many_event_types": "The application has 1,000 event types, archived ones included. Delete some first.",
        "too_many_secrets": "As many secrets of the endpoint sign as may. Wait until some end, or rotate with a shorter overlap.",
        "endpoint_inactive": "The endpoint is not active, so that nothing is sent to it. Activate it first.",
        "idempotency_key_reused": "The key belongs to a different event. Use a new key for a new event.",
        "delivery_in_progress": "The delivery is being sent. Wait for its end, then retry it.",
        "delivery_closed": "The delivery is closed: there is nothing left to cancel.",
        "endpoint_deleted": "The endpoint of the delivery was deleted. Replay the event to another one.",
        "event_expunged": "The payload of the event was removed on request: it can no longer be sent.",
        "event_expired": "The event is older than the retention: there is nothing left to send.",
        "event_type_exists": "The catalogue has an event type of this name. Change that one, or choose another name.",
        "too_many_replays": "The application has ten replays that are not closed. Wait, or cancel one.",
        "replay_closed": "The replay is closed: there is nothing left to cancel.",
    }
    413 {
        "body_too_large": "The body is larger than this route takes. Send less.",
        "data_too_large": "The `data` of one event of a batch is larger than 262,144 bytes.",
    }
    415 {
        "unsupported_media_type": "The body is not `application/json`, or it is compressed. Send plain JSON.",
    }
    422 {
        "validation_failed": "Fields or parameters are not valid. `errors` names each with what it must be.",
        "application_required": "An admin token must say for whom it writes: send `application_id`, an id or a `uid`.",
        "idempotency_key_invalid": "The key has not 1 to 255 visible ASCII characters.",
        "event_type_invalid": "The type is not made of parts of letters, digits and `_`, joined by full stops.",
        "event_type_reserved": "Types that begin with `postrider.` are Postrider's own.",
        "unknown_event_type": "The application takes only types of its catalogue, and this is none. Add it there first.",
        "schema_violation": "`data` (or the example of a type) violates the JSON Schema of its type. `errors` says where.",
        "schema_too_costly": "The schema of the type is so large that `data` of this size is not checked against it.",
        "json_schema_invalid": "The JSON Schema cannot be used. `errors` has the path in it, and the reason.",
        "json_too_deep": "The JSON is nested deeper than 64 levels.",
        "json_duplicate_key": "An object has a key twice, so that nobody can tell which value is meant.",
        "json_nul": "A text contains the character NUL, which PostgreSQL cannot hold.",
        "json_lone_surrogate": "A text contains half of a surrogate pair, which is no character.",
        "json_number_too_long": "A number has more than 1,000 characters when written without an exponent. Send it as a string.",
        "json_too_large": "The JSON is larger than 512 KiB when its numbers are written without exponents.",
        "data_not_storable": "PostgreSQL refused a value for another reason than those above.",
        "refused_address": "The URL names an address that webhooks are not sent to. Use a public one, or have its network allowed.",
        "https_required": "This installation sends to `https` only.",
        "filter_invalid": "The payload filter cannot be used. `errors` has the path in it, and what is expected there.",
        "matching_too_costly": "Filters and event types of all endpoints of the application would take more steps for one event than they may. Compare with fewer values, above all behind `[*]`, and list fewer patterns.",
        "reserved_header": "Postrider sets this header itself. Leave it out.",
    }
    500 {
        "internal": "A defect of the server. Report it with the `X-Request-Id` of the response.",
    }
    429 {
        "ingest_rate_limited": "The application publishes more events per second than it may. Try again after `Retry-After`.",
    }
    503 {
        "unavailable": "PostgreSQL does not answer, or refuses. Try again after `Retry-After`, an event with the same key.",
        "busy": "Another request works on the same thing, or a table is locked. Try again after `Retry-After`, an event with the same key.",
        "idempotency_key_busy": "Another request with this key is under way. Try again with the same key.",
        "schema_changing": "The schema of the type was changed again and again meanwhile. Try again with the same key.",
        "overloaded": "More events arrive than can be stored. Try again with the same key, more slowly.",
        "event_too_costly": "Matching the event with the filters of its endpoints took longer than 4 s. Simplify the filters, or send a smaller event.",
        "share_exhausted": "The application has as many requests under way, or as many bytes of them or of unread responses, as is its share of this server. Send fewer at once, and read the responses.",
        "stopping": "This server is being stopped. Try again with the same key; another server may answer.",
    }
}

/// True where the catalogue says that `code` comes with `status`. `bad_request` stands for every client
/// error that a library may raise.
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
