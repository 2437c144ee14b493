//! The requests that create an endpoint and change one.

use std::collections::BTreeMap;

use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined::{self, Null, Undefined, Value};
use postrider_shared::signing::SigningKey;
use postrider_shared::store::endpoint_changes::{OpenDeliveries, Update};
use postrider_shared::store::endpoints::{Endpoint, EndpointSettings};
use postrider_shared::store::headers::MASK;
use serde::{Deserialize, Serialize};
use url::{Origin, Url};

use crate::resources::endpoints::check::UrlRules;
use crate::resources::endpoints::fields::{Fields, defaults, signing_key};
use crate::web::check::Checks;
use crate::web::problem::Problem;
use crate::web::value::JsonObject;

const MAX_REASON_LENGTH: usize = 500;

/// An endpoint that is to be created.
#[derive(Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateEndpointRequest {
    /// Where webhooks go: absolute, `https` or `http`, without credentials and fragment. The values in its query are
    /// never shown again.
    #[oai(validator(max_length = 2048))]
    url: String,
    /// For people. Absent or null: empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: MaybeUndefined<String>,
    /// A JSON object of your own, up to 16 KiB. Absent or null: empty.
    #[serde(default)]
    metadata: MaybeUndefined<JsonObject>,
    /// Which events it gets: exact types, `prefix.*` for all below one, or `*` for all. Absent or null:
    /// `["*"]`. The types under `postrider.` are operational events, which `*` does not match.
    #[oai(validator(min_items = 1, max_items = 100))]
    #[serde(default)]
    event_types: MaybeUndefined<Vec<String>>,
    /// Which payloads it gets: conditions on paths of `data`, all of which must hold, such as
    /// `{"data.amount": {"gt": 1000}, "data.currency": {"in": ["EUR", "USD"]}}`. What all filters of the
    /// application cost together is limited. Absent or null: all.
    #[serde(default)]
    filter: MaybeUndefined<JsonObject>,
    /// Headers of your own, sent with every webhook; at most 20. Absent or null: none.
    #[serde(default)]
    headers: MaybeUndefined<BTreeMap<String, String>>,
    /// Names of those of them whose values are secret: they are never shown again. Absent or null: none.
    #[oai(validator(max_items = 20))]
    #[serde(default)]
    sensitive_headers: MaybeUndefined<Vec<String>>,
    /// Webhooks per second. Absent: 1000. Null: no limit.
    #[oai(validator(minimum(value = "1")))]
    #[serde(default)]
    rate_limit: MaybeUndefined<i32>,
    /// Webhooks under way at once. Absent or null: 100.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    #[serde(default)]
    concurrency_limit: MaybeUndefined<i32>,
    /// Attempts of each delivery. Absent or null: 10.
    #[oai(validator(minimum(value = "1"), maximum(value = "20")))]
    #[serde(default)]
    max_attempts: MaybeUndefined<i32>,
    /// Seconds before each retry, 0 to 2,592,000; the last one repeats when attempts are left. Absent or null: the
    /// schedule of the installation (5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h). Jitter of ±20 % is applied.
    #[oai(validator(min_items = 1, max_items = 20))]
    #[serde(default)]
    retry_schedule: MaybeUndefined<Vec<i32>>,
    /// Response statuses from 300 to 599 that are never retried. Absent or null: none.
    #[oai(validator(max_items = 100))]
    #[serde(default)]
    permanent_statuses: MaybeUndefined<Vec<i32>>,
    /// For one whole exchange, the reading of the answer included. Absent or null: 15.
    #[oai(validator(minimum(value = "1"), maximum(value = "60")))]
    #[serde(default)]
    timeout_seconds: MaybeUndefined<i32>,
    /// Keeps the order of acceptance: one delivery at a time, and one that fails holds the rest until it
    /// succeeds, is a dead letter or is cancelled. Absent or null: false.
    #[serde(default)]
    ordered: MaybeUndefined<bool>,
    /// False: new events do not match it. Absent or null: true.
    #[serde(default)]
    is_active: Option<bool>,
    /// A signing secret of your own: `whsec_` and base64 of 24 to 64 bytes, or for Ed25519 `whsk_` and base64
    /// of the private key, with or without the public one behind it. Absent or null: a new one.
    #[serde(default)]
    secret: Option<String>,
    /// How webhooks are signed: `hmac-sha256` (`v1`), or `ed25519` (`v1a`), where the receiver has only a
    /// public key. Absent or null: that of `secret`, or `hmac-sha256`.
    #[oai(validator(pattern = "^(hmac-sha256|ed25519)$"))]
    #[serde(default)]
    signing_algorithm: Option<String>,
}

/// A change of an endpoint: what is absent stays as it is.
#[derive(Debug, Default, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateEndpointRequest {
    /// Where webhooks go: absolute, `https` or `http`, without credentials and fragment. What is open goes there
    /// too. The URL as it is shown, with `***` in its query, keeps the values. With another scheme, host or port, the
    /// values of sensitive headers have to be sent again.
    #[oai(validator(max_length = 2048))]
    #[serde(default)]
    url: MaybeUndefined<String>,
    /// For people. Null: empty.
    #[oai(validator(max_length = 1000))]
    #[serde(default)]
    description: MaybeUndefined<String>,
    /// A JSON object of your own, up to 16 KiB, in place of the one that is there. Null: empty.
    #[serde(default)]
    metadata: MaybeUndefined<JsonObject>,
    /// Which events it gets from now on. Null: `["*"]`.
    #[oai(validator(min_items = 1, max_items = 100))]
    #[serde(default)]
    event_types: MaybeUndefined<Vec<String>>,
    /// Which payloads it gets from now on. Null: all.
    #[serde(default)]
    filter: MaybeUndefined<JsonObject>,
    /// Headers of your own, in place of all that are there; at most 20. `***` keeps the value of a sensitive
    /// one. Null: none.
    #[serde(default)]
    headers: MaybeUndefined<BTreeMap<String, String>>,
    /// Names of those of them whose values are secret. One that is can only cease to be together with a new
    /// value. Null: none.
    #[oai(validator(max_items = 20))]
    #[serde(default)]
    sensitive_headers: MaybeUndefined<Vec<String>>,
    /// Webhooks per second. Null: no limit.
    #[oai(validator(minimum(value = "1")))]
    #[serde(default)]
    rate_limit: MaybeUndefined<i32>,
    /// Webhooks under way at once. Null: 100.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    #[serde(default)]
    concurrency_limit: MaybeUndefined<i32>,
    /// Attempts of each delivery that is made from now on. Null: 10.
    #[oai(validator(minimum(value = "1"), maximum(value = "20")))]
    #[serde(default)]
    max_attempts: MaybeUndefined<i32>,
    /// Seconds before each retry, 0 to 2,592,000; the last one repeats when attempts are left. Null: the schedule of
    /// the installation. What waits already keeps its time.
    #[oai(validator(min_items = 1, max_items = 20))]
    #[serde(default)]
    retry_schedule: MaybeUndefined<Vec<i32>>,
    /// Response statuses from 300 to 599 that are never retried. Null: none.
    #[oai(validator(max_items = 100))]
    #[serde(default)]
    permanent_statuses: MaybeUndefined<Vec<i32>>,
    /// For one whole exchange, the reading of the answer included. Null: 15.
    #[oai(validator(minimum(value = "1"), maximum(value = "60")))]
    #[serde(default)]
    timeout_seconds: MaybeUndefined<i32>,
    /// Keeps the order of acceptance of what is accepted from now on. What waits goes in order if it was accepted
    /// so, and as it comes when this is false or null.
    #[serde(default)]
    ordered: MaybeUndefined<bool>,
    /// False: new events do not match it, and what is open waits. True: what waits is delivered.
    #[serde(default)]
    is_active: MaybeUndefined<bool>,
    /// Why it is not active, for people. Gone when it is active again.
    #[oai(validator(max_length = 500))]
    #[serde(default)]
    disabled_reason: MaybeUndefined<String>,
    /// What happens to the open deliveries of an endpoint that is not active: `keep` (they wait until it is) or
    /// `cancel`. Absent or null: `keep`.
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
                    "is secret, and the URL leads to another server: send its value again, or remove it",
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
                checks.mistake("disabled_reason", "is for an endpoint that is not active");
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
                checks.mistake("open_deliveries", "is for an endpoint that is not active");
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
