//! What an endpoint may be: the request that creates one, and its checks.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, HeaderValue};
use poem_openapi::Object;
use postrider_shared::address::AddressGuard;
use postrider_shared::event_type::Pattern;
use postrider_shared::filter::{Filter, Mistake};
use postrider_shared::signing::Secret;
use postrider_shared::store::endpoints::EndpointSettings;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::check::Checks;
use crate::problem::Problem;
use crate::value::JsonObject;

const MAX_URL_LENGTH: usize = 2_048;
const MAX_DESCRIPTION_LENGTH: usize = 1_000;
const MAX_PATTERNS: usize = 100;
const MAX_HEADERS: usize = 20;
const MAX_HEADER_LENGTH: usize = 4_096;
const MAX_DELAYS: usize = 20;
const MAX_DELAY_SECONDS: i64 = 30 * 86_400;
const MAX_STATUSES: usize = 100;

/// Headers that belong to the framing of the request, and to the webhook itself.
const RESERVED_HEADERS: [&str; 14] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
    "http2-settings",
    "accept-encoding",
];
const RESERVED_HEADER_PREFIXES: [&str; 2] = ["proxy-", "webhook-"];

/// An endpoint that is to be created.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateEndpointRequest {
    /// Where webhooks go: absolute, `https` or `http`, without credentials and fragment.
    #[oai(validator(max_length = 2048))]
    url: String,
    /// For people. Absent or null: empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: Option<String>,
    /// A JSON object of your own, up to 16 KiB.
    #[serde(default)]
    metadata: Option<JsonObject>,
    /// Which events it gets: exact types, `prefix.*` for all below one, or `*` for all. Absent or null:
    /// `["*"]`. The types under `postrider.` are operational events, which `*` does not match.
    #[oai(validator(min_items = 1, max_items = 100))]
    #[serde(default)]
    event_types: Option<Vec<String>>,
    /// Which payloads it gets: conditions on paths of `data`, all of which must hold, such as
    /// `{"data.amount": {"gt": 1000}, "data.currency": {"in": ["EUR", "USD"]}}`. Absent or null: all.
    #[serde(default)]
    filter: Option<JsonObject>,
    /// Headers of your own, sent with every webhook; at most 20.
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
    /// Names of those of them whose values are secret: they are never shown again.
    #[oai(validator(max_items = 20))]
    #[serde(default)]
    sensitive_headers: Option<Vec<String>>,
    /// Webhooks per second. Absent: 1000. Null: no limit.
    #[oai(validator(minimum(value = "1")))]
    #[serde(default = "default_rate_limit")]
    rate_limit: Option<i32>,
    /// Webhooks under way at once. Absent or null: 100.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    #[serde(default)]
    concurrency_limit: Option<i32>,
    /// Attempts of each delivery. Absent or null: 5.
    #[oai(validator(minimum(value = "1"), maximum(value = "20")))]
    #[serde(default)]
    max_attempts: Option<i32>,
    /// Seconds before each retry, 0 to 2,592,000; the last is repeated. Absent or null: the schedule of the
    /// installation (5 s, 5 min, 30 min, 2 h, …). ±20 % of jitter is applied.
    #[oai(validator(min_items = 1, max_items = 20))]
    #[serde(default)]
    retry_schedule: Option<Vec<i32>>,
    /// Response statuses from 300 to 599 that are never retried. Absent or null: the default list.
    #[oai(validator(max_items = 100))]
    #[serde(default)]
    permanent_statuses: Option<Vec<i32>>,
    /// For one whole exchange, the reading of the answer included. Absent or null: 15.
    #[oai(validator(minimum(value = "1"), maximum(value = "60")))]
    #[serde(default)]
    timeout_seconds: Option<i32>,
    /// Keeps the order of acceptance: one delivery at a time, and one that fails holds the rest until it
    /// succeeds, is a dead letter or is cancelled. Absent or null: false.
    #[serde(default)]
    ordered: Option<bool>,
    /// False: new events do not match it. Absent or null: true.
    #[serde(default)]
    is_active: Option<bool>,
    /// A signing secret of your own: `whsec_` and base64 of 24 to 64 bytes. Absent or null: a new one.
    #[serde(default)]
    secret: Option<String>,
}

fn default_rate_limit() -> Option<i32> {
    Some(1_000)
}

/// Where webhooks may be sent.
pub(crate) struct UrlRules {
    /// Which IP literals a URL may name.
    pub(crate) guard: AddressGuard,
    /// Refuses `http://`.
    pub(crate) https_only: bool,
}

/// What was asked for, checked.
pub(crate) struct NewEndpoint {
    /// Its settings.
    pub(crate) settings: EndpointSettings,
    /// Whether new events match it.
    pub(crate) is_active: bool,
    /// Signs its webhooks.
    pub(crate) secret: Secret,
}

impl CreateEndpointRequest {
    /// Checks everything, and tells all mistakes at once.
    ///
    /// # Errors
    /// 422.
    pub(crate) fn check(self, rules: &UrlRules) -> Result<NewEndpoint, Problem> {
        let mut checks = Checks::default();
        check_url(&mut checks, &self.url, rules);
        let description = self.description.unwrap_or_default();
        if description.chars().count() > MAX_DESCRIPTION_LENGTH {
            checks.mistake("description", format!("must have at most {MAX_DESCRIPTION_LENGTH} characters"));
        }
        let metadata = checks.metadata(self.metadata);
        let event_types = self.event_types.unwrap_or_else(|| vec!["*".to_owned()]);
        check_patterns(&mut checks, &event_types);
        let filter = self.filter.and_then(|filter| check_filter(&mut checks, &filter));
        let headers = check_headers(&mut checks, self.headers.unwrap_or_default());
        let sensitive_headers =
            check_sensitive(&mut checks, self.sensitive_headers.unwrap_or_default(), &headers);
        if let Some(rate) = self.rate_limit {
            checks.in_range("rate_limit", rate.into(), 1, i32::MAX.into());
        }
        let concurrency_limit = self.concurrency_limit.unwrap_or(100);
        checks.in_range("concurrency_limit", concurrency_limit.into(), 1, 1_000);
        let max_attempts = checked_small(&mut checks, "max_attempts", self.max_attempts.unwrap_or(5), 1, 20);
        let timeout_seconds =
            checked_small(&mut checks, "timeout_seconds", self.timeout_seconds.unwrap_or(15), 1, 60);
        check_schedule(&mut checks, self.retry_schedule.as_deref());
        let permanent_statuses = check_statuses(&mut checks, self.permanent_statuses);
        let secret = match &self.secret {
            None => Some(Secret::generate()),
            Some(text) => checks.text("secret", Secret::parse(text).map_err(|error| error.to_string())),
        };
        checks.done()?;
        let settings = EndpointSettings {
            url: self.url,
            description,
            metadata,
            event_types,
            headers,
            sensitive_headers,
            rate_limit: self.rate_limit,
            concurrency_limit,
            max_attempts,
            retry_schedule: self.retry_schedule,
            permanent_statuses,
            timeout_seconds,
            filter,
            ordered: self.ordered.unwrap_or(false),
        };
        let secret = secret.expect("a secret that cannot be read was refused above");
        Ok(NewEndpoint { settings, is_active: self.is_active.unwrap_or(true), secret })
    }
}

fn check_url(checks: &mut Checks, text: &str, rules: &UrlRules) {
    if text.len() > MAX_URL_LENGTH {
        return checks.mistake("url", format!("must have at most {MAX_URL_LENGTH} bytes"));
    }
    // The parser takes these out silently; what is stored would not be what is meant.
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
            "must not contain a user name or password; send them in `headers`, as `authorization`",
        );
    }
    if url.fragment().is_some() {
        checks.mistake("url", "must not contain a fragment (`#…`), which is never sent");
    }
    if url.port() == Some(0) {
        checks.mistake("url", "must not name port 0");
    }
    if rules.https_only && url.scheme() != "https" {
        checks.refuse("https_required", "url", "must be `https`: this installation sends to nothing else");
    }
    if let Err(error) = rules.guard.check_host(&url) {
        checks.refuse(
            "refused_address",
            "url",
            format!("names an address that webhooks are not sent to: {error}; use a public one, or have its network allowed"),
        );
    }
}

fn check_patterns(checks: &mut Checks, patterns: &[String]) {
    if !(1..=MAX_PATTERNS).contains(&patterns.len()) {
        checks.mistake(
            "event_types",
            format!("must have 1 to {MAX_PATTERNS} items; leave it out for all events"),
        );
    }
    for (index, pattern) in patterns.iter().enumerate().take(MAX_PATTERNS) {
        if let Err(error) = Pattern::parse(pattern) {
            checks.mistake(format!("event_types[{index}]"), error.to_string());
        }
    }
}

/// Notes what is wrong with a filter.
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

/// Names are kept in lower case, as they are compared.
fn check_headers(checks: &mut Checks, headers: BTreeMap<String, String>) -> BTreeMap<String, String> {
    if headers.len() > MAX_HEADERS {
        checks.mistake("headers", format!("must have at most {MAX_HEADERS} entries"));
    }
    let mut checked = BTreeMap::new();
    for (name, value) in headers.into_iter().take(MAX_HEADERS) {
        let field = format!("headers.{name}");
        let lower = name.to_ascii_lowercase();
        let is_reserved = RESERVED_HEADERS.contains(&lower.as_str())
            || RESERVED_HEADER_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
        if name.len() > 255 || HeaderName::from_bytes(lower.as_bytes()).is_err() {
            checks.mistake(field, "is not the name of a header");
        } else if is_reserved {
            checks.refuse("reserved_header", field, "is set by Postrider itself; leave it out");
        } else if value.len() > MAX_HEADER_LENGTH
            || !value.is_ascii()
            || value.trim() != value
            || HeaderValue::from_str(&value).is_err()
        {
            let message = format!(
                "must be at most {MAX_HEADER_LENGTH} visible ASCII characters, with spaces only between them"
            );
            checks.mistake(field, message);
        } else if checked.insert(lower, value).is_some() {
            checks.mistake(field, "is there twice: case does not tell names of headers apart");
        }
    }
    checked
}

fn check_sensitive(
    checks: &mut Checks,
    names: Vec<String>,
    headers: &BTreeMap<String, String>,
) -> Vec<String> {
    let names: BTreeSet<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    for name in &names {
        if !headers.contains_key(name) {
            checks.mistake("sensitive_headers", format!("names `{name}`, which is not one of `headers`"));
        }
    }
    names.into_iter().collect()
}

fn checked_small(checks: &mut Checks, field: &str, number: i32, least: i16, most: i16) -> i16 {
    checks.in_range(field, number.into(), least.into(), most.into());
    i16::try_from(number).unwrap_or(most)
}

fn check_schedule(checks: &mut Checks, delays: Option<&[i32]>) {
    let Some(delays) = delays else { return };
    if !(1..=MAX_DELAYS).contains(&delays.len()) {
        checks.mistake("retry_schedule", format!("must have 1 to {MAX_DELAYS} items"));
    }
    for (index, &delay) in delays.iter().enumerate().take(MAX_DELAYS) {
        checks.in_range(format!("retry_schedule[{index}]"), delay.into(), 0, MAX_DELAY_SECONDS);
    }
}

fn check_statuses(checks: &mut Checks, statuses: Option<Vec<i32>>) -> Option<Vec<i16>> {
    let statuses = statuses?;
    if statuses.len() > MAX_STATUSES {
        checks.mistake("permanent_statuses", format!("must have at most {MAX_STATUSES} items"));
    }
    let numbered = statuses.into_iter().take(MAX_STATUSES).enumerate();
    Some(
        numbered
            .map(|(index, status)| {
                checked_small(checks, &format!("permanent_statuses[{index}]"), status, 300, 599)
            })
            .collect(),
    )
}

#[cfg(test)]
#[path = "endpoint_request_tests.rs"]
mod tests;
