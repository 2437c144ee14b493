use standardwebhooks::{Webhook, WebhookError}; // cargo add standardwebhooks

/// Returns an error if the webhook is not genuine: respond with 400 then.
pub fn check(secret: &str, headers: &http::HeaderMap, body: &[u8]) -> Result<(), WebhookError> {
    Webhook::new(secret)?.verify(body, headers)
}
