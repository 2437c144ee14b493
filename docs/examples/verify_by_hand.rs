use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// `body` is as it arrived, not parsed and serialized again. `None`: a header is missing or malformed.
pub fn is_genuine(secret: &str, headers: &http::HeaderMap, body: &[u8]) -> Option<bool> {
    let header = |name| headers.get(name)?.to_str().ok();
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let key = STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let mac = Hmac::<Sha256>::new_from_slice(&key).ok()?.chain_update(signed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let is_recent = now.abs_diff(timestamp.parse().ok()?) <= 5 * 60;
    let is_signed = header("webhook-signature")?.split(' ').any(|signature| {
        let decoded = signature.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
        decoded.is_some_and(|bytes| mac.clone().verify_slice(&bytes).is_ok())
    });
    Some(is_recent && is_signed)
}
