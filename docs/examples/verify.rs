use standardwebhooks::{Webhook, WebhookError}; // cargo add standardwebhooks

/// Passes a genuine webhook; answer 400 otherwise.
pub fn check(secret: &str, headers: &http::HeaderMap, body: &[u8]) -> Result<(), WebhookError> {
    Webhook::new(secret)?.verify(body, headers)
}
