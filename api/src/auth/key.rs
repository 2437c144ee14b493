//! Generates and recognizes API keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng as _;
use sha2::{Digest, Sha256};

/// Starts every key, so that scanners can recognize a leaked one.
const PREFIX: &str = "pr_";
/// The length of a key: `pr_` and 43 characters of base64url, which encode 32 random bytes.
const LENGTH: usize = 46;
/// How many leading characters are stored in clear, so that people can recognize a key.
const SHOWN: usize = 11;

/// A new key. Its text is known only now.
pub(crate) struct FreshKey {
    /// The whole key.
    pub(crate) text: String,
    /// Its first characters, which the API shows later.
    pub(crate) prefix: String,
    /// Its hash, which is stored instead of the key.
    pub(crate) hash: [u8; 32],
}

impl FreshKey {
    /// Generates a key of 256 random bits.
    pub(crate) fn generate() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        Self { prefix: text[..SHOWN].to_owned(), hash: hash(text.as_bytes()), text }
    }
}

/// Returns true if the text has the form of a key, whether or not the key exists.
pub(crate) fn is_key(token: &[u8]) -> bool {
    let is_base64url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    token.len() == LENGTH && token.starts_with(PREFIX.as_bytes()) && token.iter().all(is_base64url)
}

/// Returns the SHA-256 under which a key is stored. A fast hash is sufficient because keys are random.
pub(crate) fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_key_has_the_form_of_a_key() {
        let key = FreshKey::generate();
        assert!(is_key(key.text.as_bytes()));
        assert_eq!((key.text.len(), key.prefix.len()), (46, 11));
        assert_ne!(key.text, FreshKey::generate().text);
        assert!(!is_key(b"pr_short") && !is_key(&[b'x'; 46]));
    }
}
