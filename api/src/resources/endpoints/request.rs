//! The requests that create an endpoint and change one.

use std::collections::BTreeMap;

use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined::{self, Null, Undefined, Value};
use postrider_secrets::endpoint_changes::{OpenDeliveries, Update};
use postrider_secrets::endpoints::{Endpoint, EndpointSettings};
use postrider_secrets::headers::MASK;
use postrider_secrets::signing::SigningKey;
use serde::{Deserialize, Serialize};
use url::{Origin, Url};

use crate::resources::endpoints::check::UrlRules;
use crate::resources::endpoints::fields::{Fields, defaults, signing_key};
use crate::web::check::Checks;
use crate::web::json_types::JsonObject;
use crate::web::problem::Problem;

const MAX_REASON_LENGTH: usize = 500;

/// The endpoint to create.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateEndpointRequest {
    /// The URL to send webhooks to: an absolute `https` or `http` URL without credentials and without a fragment. The
    /// values of its query are treated as secrets and are never shown again.
    #[oai(validator(max_length = 2048))]
    url: String,
    /// A description for people. Default: empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: MaybeUndefined<String>,
    /// A JSON object for your own use, up to 16 KiB. Default: empty.
    #[serde(default)]
    metadata: MaybeUndefined<JsonObject>,
    /// The event types that the endpoint receives: exact types, `prefix.*` for all types below a prefix, or `*` for
    /// all types. Types that start with `postrider.` are operational events, which `*` does not match. Default:
    /// `["*"]`.
    #[oai(validator(min_items = 1, max_items = 100))]
    #[serde(default)]
    event_types: MaybeUndefined<Vec<String>>,
    /// Conditions on the `data` of an event, such as `{"data.amount": {"gt": 1000}, "data.currency": {"in": ["EUR",
    /// "USD"]}}`. The endpoint receives only events that meet all of them. The total cost of all filters of an
    /// application is limited. If absent or null, the endpoint receives all events that match `event_types`.
    #[serde(default)]
    filter: MaybeUndefined<JsonObject>,
    /// Additional headers to send with every webhook, up to 20. Default: none.
    #[serde(default)]
    headers: MaybeUndefined<BTreeMap<String, String>>,
    /// The names of the `headers` whose values are secret. These values are never shown again. Default: none.
    #[oai(validator(max_items = 20))]
    #[serde(default)]
    sensitive_headers: MaybeUndefined<Vec<String>>,
    /// Maximum number of webhooks per second. If absent, 1000. If null, there is no limit.
    #[oai(validator(minimum(value = "1")))]
    #[serde(default)]
    rate_limit: MaybeUndefined<i32>,
    /// Maximum number of webhooks that are being sent at the same time, from 1 to 1,000. Default: 100.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    #[serde(default)]
    concurrency_limit: MaybeUndefined<i32>,
    /// Maximum number of attempts for each delivery, including the first one, from 1 to 20. Default: 10.
    #[oai(validator(minimum(value = "1"), maximum(value = "20")))]
    #[serde(default)]
    max_attempts: MaybeUndefined<i32>,
    /// The delay before each retry in seconds, from 0 to 2,592,000. If there are more retries than delays, the last
    /// delay is repeated. Jitter of ±20 % is applied. If absent or null, the schedule of the installation is used, by
    /// default 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
    #[oai(validator(min_items = 1, max_items = 20))]
    #[serde(default)]
    retry_schedule: MaybeUndefined<Vec<i32>>,
    /// Response statuses from 300 to 599 after which a delivery is not retried. Default: none.
    #[oai(validator(max_items = 100))]
    #[serde(default)]
    permanent_statuses: MaybeUndefined<Vec<i32>>,
    /// Timeout of a whole attempt in seconds, including reading the response, from 1 to 60. Default: 15.
    #[oai(validator(minimum(value = "1"), maximum(value = "60")))]
    #[serde(default)]
    timeout_seconds: MaybeUndefined<i32>,
    /// If true, deliveries are sent one at a time, in the order in which their events were accepted. A delivery that
    /// fails blocks those behind it until it succeeds, becomes a dead letter or is cancelled. Default: false.
    #[serde(default)]
    ordered: MaybeUndefined<bool>,
    /// If false, the endpoint is disabled: new events do not match it. Default: true.
    #[serde(default)]
    is_active: Option<bool>,
    /// Your own signing secret: `whsec_` followed by the base64 of 24 to 64 bytes. For Ed25519: `whsk_` followed by
    /// the base64 of the private key, with or without the public key appended. If absent or null, a new secret is
    /// generated.
    #[serde(default)]
    secret: Option<String>,
    /// The signing algorithm: `hmac-sha256` (signatures `v1`), or `ed25519` (signatures `v1a`), for which the
    /// receiver only needs a public key. If absent or null, the algorithm of `secret`, or `hmac-sha256` if there is
    /// no `secret`.
    #[oai(validator(pattern = "^(hmac-sha256|ed25519)$"))]
    #[serde(default)]
    signing_algorithm: Option<String>,
}

/// The fields to change. Absent fields keep their value.
#[derive(Debug, Default, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateEndpointRequest {
    /// The URL to send webhooks to: an absolute `https` or `http` URL without credentials and without a fragment.
    /// Open deliveries are sent there too. To keep the values of the query, send the URL exactly as the API shows it,
    /// with `***`. If the scheme, host or port changes, you must send the values of sensitive headers again.
    #[oai(validator(max_length = 2048))]
    #[serde(default)]
    url: MaybeUndefined<String>,
    /// A description for people. Null makes it empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: MaybeUndefined<String>,
    /// A JSON object for your own use, up to 16 KiB. It replaces the current one. Null makes it empty.
    #[serde(default)]
    metadata: MaybeUndefined<JsonObject>,
    /// The event types that the endpoint receives from now on: exact types, `prefix.*` for all types below a prefix,
    /// or `*` for all types except those that start with `postrider.`. Null means `["*"]`.
    #[oai(validator(min_items = 1, max_items = 100))]
    #[serde(default)]
    event_types: MaybeUndefined<Vec<String>>,
    /// Conditions that the `data` of events must meet from now on. Null removes the filter.
    #[serde(default)]
    filter: MaybeUndefined<JsonObject>,
    /// Additional headers to send with every webhook, up to 20. They replace all current headers. The value `***`
    /// keeps the current value of a sensitive header. Null removes all headers.
    #[serde(default)]
    headers: MaybeUndefined<BTreeMap<String, String>>,
    /// The names of the `headers` whose values are secret. To make a sensitive header visible, you must send its
    /// value again. Null means none.
    #[oai(validator(max_items = 20))]
    #[serde(default)]
    sensitive_headers: MaybeUndefined<Vec<String>>,
    /// Maximum number of webhooks per second. Null removes the limit.
    #[oai(validator(minimum(value = "1")))]
    #[serde(default)]
    rate_limit: MaybeUndefined<i32>,
    /// Maximum number of webhooks that are being sent at the same time, from 1 to 1,000. Null means 100.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    #[serde(default)]
    concurrency_limit: MaybeUndefined<i32>,
    /// Maximum number of attempts, including the first one, for each delivery created from now on, from 1 to 20. Null
    /// means 10.
    #[oai(validator(minimum(value = "1"), maximum(value = "20")))]
    #[serde(default)]
    max_attempts: MaybeUndefined<i32>,
    /// The delay before each retry in seconds, from 0 to 2,592,000. If there are more retries than delays, the last
    /// delay is repeated. Retries that are already scheduled keep their time. Null means the schedule of the
    /// installation.
    #[oai(validator(min_items = 1, max_items = 20))]
    #[serde(default)]
    retry_schedule: MaybeUndefined<Vec<i32>>,
    /// Response statuses from 300 to 599 after which a delivery is not retried. Null means none.
    #[oai(validator(max_items = 100))]
    #[serde(default)]
    permanent_statuses: MaybeUndefined<Vec<i32>>,
    /// Timeout of a whole attempt in seconds, including reading the response, from 1 to 60. Null means 15.
    #[oai(validator(minimum(value = "1"), maximum(value = "60")))]
    #[serde(default)]
    timeout_seconds: MaybeUndefined<i32>,
    /// If true, deliveries of events accepted from now on are sent one at a time, in the order of acceptance.
    /// Deliveries that were accepted before keep their mode. If false or null, no order is kept, not even for waiting
    /// deliveries.
    #[serde(default)]
    ordered: MaybeUndefined<bool>,
    /// If false, the endpoint is disabled: new events do not match it, and open deliveries wait. If true, the
    /// endpoint is enabled, and waiting deliveries are sent.
    #[serde(default)]
    is_active: MaybeUndefined<bool>,
    /// Why the endpoint is disabled, for people. It is removed when the endpoint is enabled.
    #[oai(validator(max_length = 500))]
    #[serde(default)]
    disabled_reason: MaybeUndefined<String>,
    /// What happens to the open deliveries of a disabled endpoint: `keep` (they wait until it is enabled) or
    /// `cancel`. Default: `keep`.
    #[oai(validator(pattern = "^(keep|cancel)$"))]
    #[serde(default)]
    open_deliveries: Option<String>,
}

/// What was asked for, checked.
pub(crate) struct NewEndpoint {
    /// Its settings.
    pub(crate) settings: EndpointSettings,
    /// Whether new events match it.
    pub(crate) is_active: bool,
    /// Signs its webhooks.
    pub(crate) key: SigningKey,
}

impl CreateEndpointRequest {
    /// Checks everything, and tells all mistakes at once.
    ///
    /// # Errors
    /// 422.
    pub(crate) fn check(self, rules: &UrlRules) -> Result<NewEndpoint, Problem> {
        let mut checks = Checks::default();
        let mut settings = defaults();
        let fields = Fields {
            url: Value(self.url),
            description: self.description,
            metadata: self.metadata,
            event_types: self.event_types,
            filter: self.filter,
            headers: self.headers,
            sensitive_headers: self.sensitive_headers,
            rate_limit: self.rate_limit,
            concurrency_limit: self.concurrency_limit,
            max_attempts: self.max_attempts,
            retry_schedule: self.retry_schedule,
            permanent_statuses: self.permanent_statuses,
            timeout_seconds: self.timeout_seconds,
            ordered: self.ordered,
        };
        fields.apply(&mut settings, &mut checks, rules);
        let key = signing_key(
            &mut checks,
            self.secret.as_deref(),
            self.signing_algorithm.as_deref(),
            "signing_algorithm",
        );
        checks.done()?;
        let key = key.expect("a secret that cannot be read was refused above");
        Ok(NewEndpoint { settings, is_active: self.is_active.unwrap_or(true), key })
    }
}

impl UpdateEndpointRequest {
    /// Changes what is given, and tells all mistakes at once.
    ///
    /// # Errors
    /// 422.
    pub(crate) fn apply(self, current: &Endpoint, rules: &UrlRules) -> Result<Update, Problem> {
        let mut checks = Checks::default();
        let mut settings = current.settings.clone();
        let (is_active, disabled_reason, open_deliveries) = self.activity(current, &mut checks);
        let fields = Fields {
            url: self.url,
            description: self.description,
            metadata: self.metadata,
            event_types: self.event_types,
            filter: self.filter,
            headers: self.headers,
            sensitive_headers: self.sensitive_headers,
            rate_limit: self.rate_limit,
            concurrency_limit: self.concurrency_limit,
            max_attempts: self.max_attempts,
            retry_schedule: self.retry_schedule,
            permanent_statuses: self.permanent_statuses,
            timeout_seconds: self.timeout_seconds,
            ordered: self.ordered,
        };
        fields.apply(&mut settings, &mut checks, rules);
        if origin(&settings.url) != origin(&current.settings.url) {
            for name in settings.sensitive_headers.iter().filter(|name| is_kept(&settings, name)) {
                checks.mistake(
                    format!("headers.{name}"),
                    "is sensitive, and the new URL points to another server; send its value again, or \
                     remove it",
                );
            }
        }
        checks.done()?;
        Ok(Update { settings, is_active, disabled_reason, open_deliveries })
    }

    /// Whether it is active from now on, if not, why, and what becomes of what is open.
    fn activity(&self, current: &Endpoint, checks: &mut Checks) -> (bool, Option<String>, OpenDeliveries) {
        let is_active = checks.not_null("is_active", self.is_active).unwrap_or(current.is_active);
        let reason = match &self.disabled_reason {
            Value(_) if is_active => {
                checks.mistake(
                    "disabled_reason",
                    "is only allowed for a disabled endpoint (`is_active` false)",
                );
                None
            }
            Value(reason) if reason.chars().count() > MAX_REASON_LENGTH => {
                checks
                    .mistake("disabled_reason", format!("must have at most {MAX_REASON_LENGTH} characters"));
                None
            }
            Value(reason) => Some(reason.clone()),
            Undefined if !is_active && !current.is_active => current.disabled_reason.clone(),
            Undefined | Null => None,
        };
        let open_deliveries = match self.open_deliveries.as_deref() {
            None | Some("keep") => OpenDeliveries::Keep,
            Some("cancel") if !is_active => OpenDeliveries::Cancel,
            Some("cancel") => {
                checks.mistake(
                    "open_deliveries",
                    "is only allowed for a disabled endpoint (`is_active` false)",
                );
                OpenDeliveries::Keep
            }
            Some(_) => {
                checks.mistake("open_deliveries", "must be `keep` or `cancel`");
                OpenDeliveries::Keep
            }
        };
        (is_active, reason, open_deliveries)
    }
}

/// Scheme, host and port: who gets the headers.
fn origin(url: &str) -> Option<Origin> {
    Some(Url::parse(url).ok()?.origin())
}

/// True for a header whose value was not sent, so that the stored one is kept.
fn is_kept(settings: &EndpointSettings, name: &str) -> bool {
    settings.headers.get(name).is_some_and(|value| value == MASK)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
