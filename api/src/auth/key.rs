//! API keys: made, and told from anything else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng as _;
use sha2::{Digest, Sha256};

/// Begins every key, so that one that was leaked can be recognised.
const PREFIX: &str = "pr_";
/// `pr_` and 43 characters of base64url: 32 random bytes.
const LENGTH: usize = 46;
/// Characters that are kept for people to recognise a key by.
const SHOWN: usize = 11;

/// A key that was just made: the only time its text is known.
pub(crate) struct FreshKey {
    /// The whole key.
    pub(crate) text: String,
    /// Its first characters.
    pub(crate) prefix: String,
    /// What is stored of it.
    pub(crate) hash: [u8; 32],
}

impl FreshKey {
    /// A key of 256 random bits.
    pub(crate) fn generate() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        Self { prefix: text[..SHOWN].to_owned(), hash: hash(text.as_bytes()), text }
    }
}

/// True for a text of the form of a key; whether there is such a key is another question.
pub(crate) fn is_key(token: &[u8]) -> bool {
    let is_base64url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    token.len() == LENGTH && token.starts_with(PREFIX.as_bytes()) && token.iter().all(is_base64url)
}

/// SHA-256, under which keys are stored. They are random, so that a fast hash is the right one.
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
