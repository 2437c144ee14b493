//! The checks of the fields of an endpoint.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderName;
use postrider_domain::address::AddressGuard;
use postrider_domain::event_type::Pattern;
use postrider_domain::filter::{Filter, Mistake};
use url::Url;

use crate::web::check::Checks;
use crate::web::json_types::JsonObject;

const MAX_URL_LENGTH: usize = 2_048;
const MAX_PATTERNS: usize = 100;
const MAX_HEADERS: usize = 20;
const MAX_HEADER_LENGTH: usize = 4_096;
const MAX_DELAYS: usize = 20;
const MAX_DELAY_SECONDS: i64 = 30 * 86_400;
const MAX_STATUSES: usize = 100;

/// Headers that belong to the framing of the request, or that Postrider sets.
const RESERVED_HEADERS: [&str; 15] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    // CGI turns this into `HTTP_PROXY`, which programs use as their own proxy.
    "proxy",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
    "http2-settings",
    "accept-encoding",
];
const RESERVED_HEADER_PREFIXES: [&str; 2] = ["proxy-", "webhook-"];

/// Which URLs webhooks may be sent to.
pub(crate) struct UrlRules {
    /// Which IP addresses a URL may contain.
    pub(crate) guard: AddressGuard,
    /// If true, only `https://` is allowed.
    pub(crate) https_only: bool,
}

/// Records a mistake if webhooks may not be sent to the URL.
pub(crate) fn check_url(checks: &mut Checks, text: &str, rules: &UrlRules) {
    if text.len() > MAX_URL_LENGTH {
        return checks.mistake("url", format!("must have at most {MAX_URL_LENGTH} bytes"));
    }
    // The parser removes these silently, so the stored URL would differ from the intended one.
    if text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return checks.mistake("url", "must not contain spaces or control characters");
    }
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => return checks.mistake("url", "must be an absolute URL such as `https://example.com/webhooks`"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        checks.mistake(
            "url",
            "must not contain a user name or password; send them in an `authorization` header, set in \
             `headers`",
        );
    }
    if url.fragment().is_some() {
        checks.mistake("url", "must not contain a fragment (`#…`), because it would never be sent");
    }
    if url.port() == Some(0) {
        checks.mistake("url", "must not use port 0");
    }
    if rules.https_only && url.scheme() != "https" {
        checks.refuse(
            "https_required",
            "url",
            "must use `https`, because this installation only sends to `https` URLs",
        );
    }
    if let Err(error) = rules.guard.check_host(&url) {
        checks.refuse(
            "refused_address",
            "url",
            format!(
                "is not allowed, because {error}; use a public address, or ask the operator to allow its \
                 network"
            ),
        );
    }
}

/// Records a mistake for each invalid event type pattern.
pub(crate) fn check_patterns(checks: &mut Checks, patterns: &[String]) {
    if !(1..=MAX_PATTERNS).contains(&patterns.len()) {
        checks.mistake(
            "event_types",
            format!("must have 1 to {MAX_PATTERNS} items; leave it out to receive all events"),
        );
    }
    for (index, pattern) in patterns.iter().enumerate().take(MAX_PATTERNS) {
        if let Err(error) = Pattern::parse(pattern) {
            checks.mistake(format!("event_types[{index}]"), error.to_string());
        }
    }
}

/// Parses a filter, or records its mistakes.
pub(crate) fn check_filter(checks: &mut Checks, filter: &JsonObject) -> Option<Filter> {
    match Filter::parse(filter.as_str()) {
        Ok(filter) => Some(filter),
        Err(mistakes) => {
            for Mistake { at, message } in mistakes {
                let separator = if at.is_empty() { "" } else { "." };
                checks.refuse("filter_invalid", format!("filter{separator}{at}"), message);
            }
            None
        }
    }
}

/// Records a mistake for each header that cannot be sent or would break signing or framing. Returns the headers with
/// their names in lower case, as they are compared.
pub(crate) fn check_headers(
    checks: &mut Checks,
    headers: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    if headers.len() > MAX_HEADERS {
        checks.mistake("headers", format!("must have at most {MAX_HEADERS} entries"));
    }
    let mut checked = BTreeMap::new();
    for (name, value) in headers.into_iter().take(MAX_HEADERS) {
        let field = format!("headers.{name}");
        let lower = name.to_ascii_lowercase();
        if name.len() > 255 || HeaderName::from_bytes(lower.as_bytes()).is_err() {
            checks.mistake(field, "is not a valid header name");
        } else if is_reserved(&lower) {
            checks.refuse(
                "reserved_header",
                field,
                "is set by Postrider and cannot be overridden; leave it out",
            );
        } else if value.len() > MAX_HEADER_LENGTH
            || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
            || value.trim() != value
        {
            let message = format!(
                "must have at most {MAX_HEADER_LENGTH} visible ASCII characters; spaces are only allowed \
                 between them"
            );
            checks.mistake(field, message);
        } else if checked.insert(lower, value).is_some() {
            checks.mistake(field, "is given twice; header names are not case-sensitive");
        }
    }
    checked
}

/// Returns true if Postrider or the framing uses this header, in any spelling. Behind CGI and its successors,
/// `webhook_id` and `webhook.id` become `HTTP_WEBHOOK_ID`, just as `webhook-id` does.
fn is_reserved(name: &str) -> bool {
    let folded = name.replace(|character: char| !character.is_ascii_alphanumeric(), "-");
    RESERVED_HEADERS.contains(&folded.as_str())
        || RESERVED_HEADER_PREFIXES.iter().any(|prefix| folded.starts_with(prefix))
}

/// Records a mistake for each sensitive name that is not one of these headers.
pub(crate) fn check_sensitive(
    checks: &mut Checks,
    names: Vec<String>,
    headers: &BTreeMap<String, String>,
) -> Vec<String> {
    if names.len() > MAX_HEADERS {
        checks.mistake("sensitive_headers", format!("must have at most {MAX_HEADERS} items"));
    }
    let names: BTreeSet<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    for name in &names {
        if !headers.contains_key(name) {
            checks.mistake("sensitive_headers", format!("contains `{name}`, which is not in `headers`"));
        }
    }
    names.into_iter().collect()
}

/// Records a mistake if a number is out of range.
pub(crate) fn checked_small(checks: &mut Checks, field: &str, number: i32, least: i16, most: i16) -> i16 {
    checks.in_range(field, number.into(), least.into(), most.into());
    i16::try_from(number).unwrap_or(most)
}

/// Records a mistake for delays that are out of range.
pub(crate) fn check_schedule(checks: &mut Checks, delays: &[i32]) {
    if !(1..=MAX_DELAYS).contains(&delays.len()) {
        checks.mistake("retry_schedule", format!("must have 1 to {MAX_DELAYS} items"));
    }
    for (index, &delay) in delays.iter().enumerate().take(MAX_DELAYS) {
        checks.in_range(format!("retry_schedule[{index}]"), delay.into(), 0, MAX_DELAY_SECONDS);
    }
}

/// Records a mistake for statuses that are out of range.
pub(crate) fn check_statuses(checks: &mut Checks, statuses: Vec<i32>) -> Vec<i16> {
    if statuses.len() > MAX_STATUSES {
        checks.mistake("permanent_statuses", format!("must have at most {MAX_STATUSES} items"));
    }
    let numbered = statuses.into_iter().take(MAX_STATUSES).enumerate();
    numbered
        .map(|(index, status)| {
            checked_small(checks, &format!("permanent_statuses[{index}]"), status, 300, 599)
        })
        .collect()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
