//! The checks of the requests that create and update an endpoint.

use poem_openapi::types::MaybeUndefined::{Null, Undefined, Value};
use postrider_secrets::endpoint_changes::{OpenDeliveries, Update};
use postrider_secrets::endpoints::{Endpoint, EndpointSettings, NewEndpoint};
use postrider_secrets::headers::MASK;
use url::{Origin, Url};

use crate::resources::endpoints::bodies::{CreateEndpointRequest, UpdateEndpointRequest};
use crate::resources::endpoints::check::UrlRules;
use crate::resources::endpoints::fields::{defaults, signing_key};
use crate::web::check::Checks;
use crate::web::problem::Problem;

const MAX_REASON_LENGTH: usize = 500;

impl CreateEndpointRequest {
    /// Checks all fields.
    ///
    /// # Errors
    /// 422 with all mistakes.
    pub(crate) fn check(mut self, rules: &UrlRules) -> Result<NewEndpoint, Problem> {
        let mut checks = Checks::default();
        let mut settings = defaults();
        let is_active = self.is_active.unwrap_or(true);
        let (secret, algorithm) = (self.secret.take(), self.signing_algorithm.take());
        self.into_update().set(&mut settings, &mut checks, rules);
        let key = signing_key(&mut checks, secret.as_deref(), algorithm.as_deref(), "signing_algorithm");
        checks.done()?;
        let key = key.expect("an invalid secret was refused above");
        Ok(NewEndpoint { settings, is_active, key })
    }
}

impl UpdateEndpointRequest {
    /// Applies the given fields to an endpoint.
    ///
    /// # Errors
    /// 422 with all mistakes.
    pub(crate) fn apply(self, current: &Endpoint, rules: &UrlRules) -> Result<Update, Problem> {
        let mut checks = Checks::default();
        let mut settings = current.settings.clone();
        let (is_active, disabled_reason, open_deliveries) = self.activity(current, &mut checks);
        self.set(&mut settings, &mut checks, rules);
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

    /// Returns whether the endpoint is active after the update, the reason if it is not, and what happens to open
    /// deliveries.
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

/// Returns the scheme, host and port, which identify the server that receives the headers.
fn origin(url: &str) -> Option<Origin> {
    Some(Url::parse(url).ok()?.origin())
}

/// Returns true for a header that was sent as `***`, so that its stored value is kept.
fn is_kept(settings: &EndpointSettings, name: &str) -> bool {
    settings.headers.get(name).is_some_and(|value| value == MASK)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
