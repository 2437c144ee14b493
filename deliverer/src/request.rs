//! Makes the request of a webhook: body, signature and headers.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use postrider_shared::signing::{Secret, signature_header};
use postrider_shared::store::claim::{Claimed, EventContent};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use url::Url;

/// What Postrider calls itself.
pub(crate) const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// A signed request.
pub(crate) struct Outgoing {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The headers as they are kept with the attempt.
    pub(crate) shown_headers: String,
}

/// One header of a request or an answer, as it is kept.
#[derive(Serialize)]
pub(crate) struct ShownHeader<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: std::borrow::Cow<'a, str>,
}

/// The body: the same bytes for every endpoint and every attempt.
pub(crate) fn body(event: &EventContent) -> Bytes {
    // Types and times need no escaping, and `data` is JSON already.
    let EventContent { event_type, timestamp, data } = event;
    format!(r#"{{"type":"{event_type}","timestamp":"{timestamp}","data":{data}}}"#).into()
}

/// Signs the body and assembles the request.
///
/// # Errors
/// With a sentence, when what is stored cannot be made into a request.
pub(crate) fn sign(claimed: &Claimed, body: Bytes, now: SystemTime) -> Result<Outgoing, String> {
    let url: Url =
        claimed.endpoint.url.parse().map_err(|error| format!("the URL cannot be read: {error}"))?;
    let secrets: Result<Vec<_>, _> =
        claimed.endpoint.secrets.iter().map(|bytes| Secret::from_bytes(bytes.clone())).collect();
    let secrets = secrets.map_err(|error| format!("the endpoint's secret cannot be used: it {error}"))?;
    if secrets.is_empty() {
        return Err("the endpoint has no secret to sign with".to_owned());
    }
    let id = claimed.event_id.to_string();
    let timestamp = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());

    let mut headers = own_headers(claimed)?;
    for (name, value) in [
        ("content-type", "application/json".to_owned()),
        ("user-agent", USER_AGENT.to_owned()),
        ("webhook-signature", signature_header(&secrets, &id, timestamp, &body)),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-id", id),
    ] {
        let value = HeaderValue::try_from(value).expect("ids, numbers and base64 are header values");
        headers.insert(HeaderName::from_static(name), value);
    }
    let shown_headers = show(&headers, &claimed.endpoint.sensitive_headers);
    Ok(Outgoing { url, headers, body, shown_headers })
}

fn own_headers(claimed: &Claimed) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let Some(own) = claimed.endpoint.headers.as_object() else { return Ok(headers) };
    for (name, value) in own {
        let unusable = || format!("the endpoint's header `{name}` cannot be sent");
        let header = HeaderName::try_from(name.as_str()).map_err(|_| unusable())?;
        let value = value.as_str().and_then(|text| HeaderValue::from_str(text).ok()).ok_or_else(unusable)?;
        headers.insert(header, value);
    }
    Ok(headers)
}

/// Headers as a JSON array, with the values of sensitive ones left out and bytes that are no text
/// replaced.
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
