//! Builds the request of a webhook: body, signature and headers.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use postrider_domain::delivery::ErrorClass;
use postrider_secrets::claim::{Claimed, EventContent};
use postrider_secrets::keyring::Keyring;
use postrider_secrets::signing::signature_header;
use serde::Serialize;
use url::Url;

use crate::client::Post;

/// The value of the `user-agent` header.
pub(crate) const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// A signed request.
pub(crate) struct Outgoing {
    pub(crate) post: Post,
    /// The headers as stored with the attempt, as JSON.
    pub(crate) shown_headers: String,
}

/// One header of a request or response, as stored.
#[derive(Serialize)]
pub(crate) struct ShownHeader<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: std::borrow::Cow<'a, str>,
}

/// Renders the body: the same bytes for every endpoint and every attempt.
pub(crate) fn body(event: &EventContent) -> Bytes {
    // Types and times need no escaping, and `data` is already JSON.
    let EventContent { event_type, timestamp, data } = event;
    format!(r#"{{"type":"{event_type}","timestamp":"{timestamp}","data":{data}}}"#).into()
}

/// Why no request could be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsendable {
    /// `unrenderable` is permanent. `internal` depends on this deliverer's configuration.
    pub(crate) class: ErrorClass,
    pub(crate) reason: String,
}

/// The stored data can never be made into a request.
fn never(reason: impl Into<String>) -> Unsendable {
    Unsendable { class: ErrorClass::Unrenderable, reason: reason.into() }
}

/// A secret cannot be decrypted here because a master key is missing. An operator can add the key.
fn not_here(reason: String) -> Unsendable {
    Unsendable { class: ErrorClass::Internal, reason }
}

/// Signs the body and builds the request.
///
/// # Errors
/// If the URL, a header or a secret cannot be used or decrypted.
pub(crate) fn sign(
    claimed: &Claimed,
    keyring: &Keyring,
    body: Bytes,
    now: SystemTime,
) -> Result<Outgoing, Unsendable> {
    let url = claimed.endpoint.url.open(keyring, claimed.endpoint_id);
    let url = url.map_err(|error| not_here(format!("the query of the URL {error}")))?;
    let url: Url = url.parse().map_err(|error| never(format!("the URL cannot be read: {error}")))?;
    let keys: Result<Vec<_>, _> =
        claimed.endpoint.keys.iter().map(|key| key.open(keyring, claimed.endpoint_id)).collect();
    let keys = keys.map_err(|error| not_here(error.to_string()))?;
    if keys.is_empty() {
        return Err(never("the endpoint has no secret to sign with"));
    }
    let id = claimed.event_id.to_string();
    let timestamp = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());

    let mut headers = own_headers(claimed, keyring)?;
    for (name, value) in [
        ("content-type", "application/json".to_owned()),
        ("user-agent", USER_AGENT.to_owned()),
        ("webhook-signature", signature_header(&keys, &id, timestamp, &body)),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-id", id),
    ] {
        let value = HeaderValue::try_from(value).expect("ids, numbers and base64 are header values");
        headers.insert(HeaderName::from_static(name), value);
    }
    let shown_headers = show(&headers, &claimed.endpoint.sensitive_headers);
    Ok(Outgoing { post: Post { url, headers, body }, shown_headers })
}

fn own_headers(claimed: &Claimed, keyring: &Keyring) -> Result<HeaderMap, Unsendable> {
    let mut headers = HeaderMap::new();
    for (name, value) in &claimed.endpoint.headers {
        let unusable = || never(format!("the endpoint's header `{name}` cannot be sent"));
        let value = value
            .clone()
            .open(keyring, claimed.endpoint_id, name)
            .map_err(|error| not_here(format!("the header `{name}` {error}")))?;
        let header = HeaderName::try_from(name.as_str()).map_err(|_| unusable())?;
        headers.insert(header, HeaderValue::from_str(&value).map_err(|_| unusable())?);
    }
    Ok(headers)
}

/// Returns headers as a JSON array. Masks the values of sensitive headers, and replaces bytes that are not UTF-8.
pub(crate) fn show<'a>(
    headers: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    sensitive: &[String],
) -> String {
    let shown: Vec<_> = headers
        .into_iter()
        .map(|(name, value)| {
            let name = name.as_str();
            let is_sensitive = sensitive.iter().any(|sensitive| sensitive.eq_ignore_ascii_case(name));
            let value = if is_sensitive { "***".into() } else { String::from_utf8_lossy(value.as_bytes()) };
            ShownHeader { name, value }
        })
        .collect();
    serde_json::to_string(&shown).expect("names and values are text")
}
