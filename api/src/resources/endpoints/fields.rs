//! The settings of an endpoint, with their defaults and checks. They are the same for creation and update.

use std::collections::BTreeMap;

use poem_openapi::types::MaybeUndefined::{self, Null, Undefined, Value};
use postrider_secrets::endpoints::EndpointSettings;
use postrider_secrets::headers::MASK;
use postrider_secrets::signing::{Algorithm, SigningKey};
use postrider_secrets::stored_url::is_masked;

use crate::resources::endpoints::bodies::UpdateEndpointRequest;
use crate::resources::endpoints::check::{
    UrlRules, check_filter, check_headers, check_patterns, check_schedule, check_sensitive, check_statuses,
    check_url, checked_small,
};
use crate::web::check::{Checks, set};

const MAX_DESCRIPTION_LENGTH: usize = 1_000;

/// Returns the settings of an endpoint for which nothing was given.
pub(crate) fn defaults() -> EndpointSettings {
    EndpointSettings {
        url: String::new(),
        description: String::new(),
        metadata: "{}".to_owned(),
        event_types: vec!["*".to_owned()],
        headers: BTreeMap::new(),
        sensitive_headers: Vec::new(),
        rate_limit: Some(1_000),
        concurrency_limit: 100,
        max_attempts: 10,
        retry_schedule: None,
        permanent_statuses: Vec::new(),
        timeout_seconds: 15,
        filter: None,
        ordered: false,
    }
}

impl UpdateEndpointRequest {
    /// Sets the given fields and records every mistake. Null sets the default, except that null for `rate_limit`
    /// means no limit. Fields that are not given are not checked, because they may be older than the rules.
    pub(crate) fn set(self, settings: &mut EndpointSettings, checks: &mut Checks, rules: &UrlRules) {
        if let Some(url) = checks.not_null("url", self.url) {
            check_url(checks, &url, rules);
            if is_masked(&url) && url != settings.url {
                checks.mistake(
                    "url",
                    format!(
                        "contains `{MASK}` instead of a value; send the value itself, or the URL exactly as \
                         the API shows it"
                    ),
                );
            }
            settings.url = url;
        }
        let defaults = defaults();
        set(&mut settings.description, defaults.description, self.description, |description| {
            if description.chars().count() > MAX_DESCRIPTION_LENGTH {
                let message = format!("must have at most {MAX_DESCRIPTION_LENGTH} characters");
                checks.mistake("description", message);
            }
            description
        });
        set(&mut settings.metadata, defaults.metadata, self.metadata, |json| checks.metadata(Some(json)));
        set(&mut settings.event_types, defaults.event_types, self.event_types, |patterns| {
            check_patterns(checks, &patterns);
            patterns
        });
        set(&mut settings.filter, None, self.filter, |filter| check_filter(checks, &filter));
        set(&mut settings.ordered, false, self.ordered, |ordered| ordered);
        set_headers(settings, checks, self.headers, self.sensitive_headers);
        set(&mut settings.rate_limit, None, self.rate_limit, |rate| {
            checks.in_range("rate_limit", rate.into(), 1, i32::MAX.into());
            Some(rate)
        });
        set(&mut settings.concurrency_limit, defaults.concurrency_limit, self.concurrency_limit, |limit| {
            checks.in_range("concurrency_limit", limit.into(), 1, 1_000);
            limit
        });
        set(&mut settings.max_attempts, defaults.max_attempts, self.max_attempts, |attempts| {
            checked_small(checks, "max_attempts", attempts, 1, 20)
        });
        set(&mut settings.timeout_seconds, defaults.timeout_seconds, self.timeout_seconds, |seconds| {
            checked_small(checks, "timeout_seconds", seconds, 1, 60)
        });
        set(&mut settings.retry_schedule, None, self.retry_schedule, |delays| {
            check_schedule(checks, &delays);
            Some(delays)
        });
        set(&mut settings.permanent_statuses, Vec::new(), self.permanent_statuses, |statuses| {
            check_statuses(checks, statuses)
        });
    }
}

/// Sets the headers. The value of a sensitive header is never shown: `***` keeps it, and it can become readable only
/// if it is sent again.
fn set_headers(
    settings: &mut EndpointSettings,
    checks: &mut Checks,
    headers: MaybeUndefined<BTreeMap<String, String>>,
    sensitive: MaybeUndefined<Vec<String>>,
) {
    let hidden = std::mem::take(&mut settings.sensitive_headers);
    match headers {
        Undefined => {}
        Null => settings.headers.clear(),
        Value(headers) => settings.headers = check_headers(checks, headers),
    }
    settings.sensitive_headers = match sensitive {
        Undefined => hidden.iter().filter(|name| settings.headers.contains_key(*name)).cloned().collect(),
        Null => Vec::new(),
        Value(names) => check_sensitive(checks, names, &settings.headers),
    };
    for (name, value) in &settings.headers {
        let is_sensitive = settings.sensitive_headers.contains(name);
        match (value == MASK, hidden.contains(name), is_sensitive) {
            (true, true, false) => checks.mistake(
                "sensitive_headers",
                format!(
                    "must contain `{name}`, because its value is hidden; to make it visible, send its value \
                     again"
                ),
            ),
            (true, false, _) => checks.mistake(
                format!("headers.{name}"),
                format!(
                    "must be the value itself; `{MASK}` only keeps the value of an existing sensitive \
                     header"
                ),
            ),
            _ => {}
        }
    }
}

/// Returns the given signing key, or a new one.
pub(crate) fn signing_key(
    checks: &mut Checks,
    secret: Option<&str>,
    algorithm: Option<&str>,
    algorithm_field: &str,
) -> Option<SigningKey> {
    let parse = |text: &str| text.parse::<Algorithm>().map_err(|_| "must be `hmac-sha256` or `ed25519`");
    let algorithm = algorithm.and_then(|text| checks.value(algorithm_field, parse(text)));
    let Some(secret) = secret else {
        return Some(SigningKey::generate(algorithm.unwrap_or(Algorithm::HmacSha256)));
    };
    let key = checks.value("secret", SigningKey::parse(secret))?;
    if algorithm.is_some_and(|algorithm| algorithm != key.algorithm()) {
        checks.mistake(algorithm_field, "must match `secret`; leave it out to use the algorithm of `secret`");
    }
    Some(key)
}
