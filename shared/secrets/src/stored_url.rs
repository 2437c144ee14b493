//! The URL of an endpoint, and how it is stored so that the API cannot show the values of its query again.
//!
//! Receivers often identify their callers by a token in the query. The stored URL has `***` in place of each value, and
//! is what users see. The query itself is stored in a separate column, encrypted if there is a master key, and is put
//! back when a webhook is sent.

use postgres_types::Json;
use postrider_domain::ids::EndpointId;
use postrider_store::sql::{Columns, FromRow};

use crate::headers::{MASK, StoredValue};
use crate::keyring::{Keyring, KeyringError};

/// The purpose of an encrypted query. No header can have this name.
pub(super) const QUERY: &str = "URL query";

/// A URL as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUrl {
    shown: String,
    query: Option<StoredValue>,
}

impl FromRow<'_> for StoredUrl {
    fn from_row(row: &mut Columns<'_>) -> Self {
        let shown = row.get("url");
        let query: Option<Json<StoredValue>> = row.get("url_query");
        Self { shown, query: query.map(|Json(query)| query) }
    }
}

impl StoredUrl {
    /// Prepares a URL for storage. If `url` is the masked form of `before`, the stored value is kept.
    pub(super) fn seal(keyring: &Keyring, endpoint: EndpointId, url: &str, before: Option<Self>) -> Self {
        if let Some(before) = before.filter(|before| before.shown == url) {
            return before;
        }
        let shown = mask(url);
        let query = url.split_once('?').filter(|_| shown != url);
        let query = query.map(|(_, query)| StoredValue::seal(keyring, endpoint, QUERY, query.to_owned()));
        Self { shown, query }
    }

    /// Returns the URL with masked values.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns the stored query, if it has values.
    pub(super) fn query(&self) -> Option<Json<&StoredValue>> {
        self.query.as_ref().map(Json)
    }

    /// Returns the URL that webhooks are sent to.
    ///
    /// # Errors
    /// [`KeyringError`] if the master key of its query is missing, or the stored query was changed.
    pub fn open(&self, keyring: &Keyring, endpoint: EndpointId) -> Result<String, KeyringError> {
        match (&self.query, self.shown.split_once('?')) {
            (Some(query), Some((base, _))) => {
                let query = query.clone().open(keyring, endpoint, QUERY)?;
                Ok(format!("{base}?{query}"))
            }
            _ => Ok(self.shown.clone()),
        }
    }
}

/// Replaces every value in the query of a URL with `***`. A part without a name is a value.
fn mask(url: &str) -> String {
    let Some((base, query)) = url.split_once('?') else { return url.to_owned() };
    let masked = query.split('&').map(|part| match part.split_once('=') {
        Some((name, _)) => format!("{name}={MASK}"),
        None if part.is_empty() => String::new(),
        None => MASK.to_owned(),
    });
    format!("{base}?{}", masked.collect::<Vec<_>>().join("&"))
}

/// Returns true for a URL that has `***` in place of a value, in any encoding.
#[must_use]
pub fn is_masked(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    url::form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| value == MASK || name == MASK && value.is_empty())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use uuid::Uuid;

    use super::*;
    use crate::keyring::MasterKey;

    #[test]
    fn values_are_hidden_and_names_are_shown() {
        for (url, shown) in [
            ("https://a.test/x", "https://a.test/x"),
            ("https://a.test/x?", "https://a.test/x?"),
            ("https://a.test/x?token=abc&b=", "https://a.test/x?token=***&b=***"),
            ("https://a.test?abc", "https://a.test?***"),
            ("https://a.test?a=b=c&&d?e=f", "https://a.test?a=***&&d?e=***"),
        ] {
            assert_eq!(mask(url), shown);
            assert_eq!(is_masked(shown), shown.contains(MASK), "{shown}");
            assert!(!is_masked(url), "{url}");
        }
        assert!(is_masked("https://a.test?token=%2A%2A%2A"));
    }

    #[test]
    fn what_is_sent_to_is_what_was_given() {
        let keyring = Keyring::new(vec![MasterKey::parse(&STANDARD.encode([1; 32])).expect("a key")]);
        let endpoint = EndpointId(Uuid::from_u128(7));
        for ring in [Keyring::default(), keyring] {
            for url in ["https://a.test/x", "https://a.test/?", "https://a.test/x?token=a%20b&c=d?e"] {
                let stored = StoredUrl::seal(&ring, endpoint, url, None);
                assert_eq!(stored.open(&ring, endpoint).as_deref(), Ok(url));
                assert!(!format!("{stored:?}").contains("a%20b"));
                let kept = StoredUrl::seal(&ring, endpoint, stored.shown(), Some(stored.clone()));
                assert_eq!(kept, stored);
                let moved = StoredUrl::seal(&ring, endpoint, "https://b.test/?token=e", Some(stored));
                assert_eq!(moved.open(&ring, endpoint).as_deref(), Ok("https://b.test/?token=e"));
            }
        }
    }
}
