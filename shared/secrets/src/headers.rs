//! Secret values of an endpoint, and how they are stored so that the API cannot show them again.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider_domain::ids::EndpointId;
use serde::{Deserialize, Serialize};

use crate::endpoints::EndpointSettings;
use crate::keyring::{Keyring, KeyringError, Stored};

/// Replaces a value that is not shown.
pub const MASK: &str = "***";

/// The value of a header, or the query of a URL, as it is stored. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StoredValue {
    /// As it is sent, unencrypted.
    Plain(String),
    /// Encrypted.
    Sealed {
        /// The id of the master key.
        key: String,
        /// The base64 of the ciphertext.
        sealed: String,
    },
}

impl fmt::Debug for StoredValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl StoredValue {
    /// Returns the value as it is sent. `name` is the name it was sealed for.
    ///
    /// # Errors
    /// [`KeyringError`] if its master key is missing, or the stored value was changed.
    pub fn open(self, keyring: &Keyring, endpoint: EndpointId, name: &str) -> Result<String, KeyringError> {
        let (key, sealed) = match self {
            Self::Plain(value) => return Ok(value),
            Self::Sealed { key, sealed } => (key, sealed),
        };
        let changed = || KeyringError::Changed(key.clone());
        let bytes = STANDARD.decode(&sealed).map_err(|_| changed())?;
        let stored = Stored { master_key_id: Some(key.clone()), bytes };
        String::from_utf8(keyring.open(endpoint, name, &stored)?).map_err(|_| changed())
    }

    /// Prepares a secret value for storage. It is encrypted if there is a master key.
    #[must_use]
    pub fn seal(keyring: &Keyring, endpoint: EndpointId, name: &str, value: String) -> Self {
        let stored = keyring.seal(endpoint, name, value.as_bytes());
        match stored.master_key_id {
            Some(key) => Self::Sealed { key, sealed: STANDARD.encode(stored.bytes) },
            None => Self::Plain(value),
        }
    }
}

/// Returns the headers of `settings` as they are to be stored. Sensitive values are encrypted. A value of [`MASK`]
/// keeps what is stored now.
pub(super) fn seal(
    keyring: &Keyring,
    endpoint: EndpointId,
    settings: &EndpointSettings,
    mut stored: BTreeMap<String, StoredValue>,
) -> BTreeMap<String, StoredValue> {
    let seal_one = |(name, value): (&String, &String)| {
        let is_sensitive = settings.sensitive_headers.contains(name);
        let header = match stored.remove(name) {
            Some(kept) if is_sensitive && value == MASK => kept,
            _ if is_sensitive => StoredValue::seal(keyring, endpoint, name, value.clone()),
            _ => StoredValue::Plain(value.clone()),
        };
        (name.clone(), header)
    };
    settings.headers.iter().map(seal_one).collect()
}

/// Returns the headers as they are shown.
pub(super) fn mask(stored: BTreeMap<String, StoredValue>, sensitive: &[String]) -> BTreeMap<String, String> {
    let shown = |(name, header)| match header {
        StoredValue::Plain(value) if !sensitive.contains(&name) => (name, value),
        _ => (name, MASK.to_owned()),
    };
    stored.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::keyring::MasterKey;

    #[test]
    fn a_sensitive_value_is_read_by_the_deliverer_alone() {
        let keyring = Keyring::new(vec![MasterKey::parse(&STANDARD.encode([1; 32])).expect("a key")]);
        let endpoint = EndpointId(Uuid::from_u128(7));
        for ring in [Keyring::default(), keyring] {
            let header = StoredValue::seal(&ring, endpoint, "x-token", "secret".to_owned());
            let json = serde_json::to_string(&header).expect("JSON");
            assert_eq!(json.contains("secret"), ring.current_id().is_none(), "{json}");
            let read: StoredValue = serde_json::from_str(&json).expect("a header");
            let shown = mask(BTreeMap::from([("x-token".to_owned(), read.clone())]), &["x-token".to_owned()]);
            assert_eq!(shown["x-token"], MASK);
            assert_eq!(read.clone().open(&ring, endpoint, "x-token").as_deref(), Ok("secret"));
            let moved = read.open(&ring, endpoint, "x-other");
            assert_eq!(moved.is_err(), ring.current_id().is_some());
        }
    }
}
