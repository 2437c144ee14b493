//! Signatures after Standard Webhooks (<https://www.standardwebhooks.com>, version 1).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng as _;
use sha2::Sha256;

/// The fewest bytes a secret may have.
pub const MIN_SECRET_BYTES: usize = 24;
/// The most bytes a secret may have.
pub const MAX_SECRET_BYTES: usize = 64;

const PREFIX: &str = "whsec_";
const VERSION: &str = "v1";

/// Why a text is not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The prefix is missing.
    #[error("must begin with `whsec_`")]
    Prefix,
    /// What follows is not base64.
    #[error("must be base64 (standard alphabet, padded) after `whsec_`")]
    Base64,
    /// Too short to be safe, or too long.
    #[error("must decode to {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes")]
    Length,
}

/// A symmetric signing secret, 24 to 64 bytes. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A new secret of 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes.to_vec())
    }

    /// Parses `whsec_` + base64.
    ///
    /// # Errors
    /// When the text is anything else, or decodes to fewer than 24 or more than 64 bytes.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
        Self::from_bytes(bytes)
    }

    /// Takes the raw bytes of a secret.
    ///
    /// # Errors
    /// When there are fewer than 24 or more than 64.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SecretError> {
        if (MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SecretError::Length)
        }
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The form that receivers are given: `whsec_` + base64.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    fn mac(&self, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        mac
    }

    /// `v1,` + base64 of the HMAC-SHA256 over `id.timestamp.body`. `timestamp` is in Unix seconds.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signature = self.mac(id, timestamp, body).finalize().into_bytes();
        format!("{VERSION},{}", STANDARD.encode(signature))
    }

    /// True when one of the space-separated signatures of a `webhook-signature` header is this secret's.
    /// Whether `timestamp` is recent is the caller's question.
    #[must_use]
    pub fn verifies(&self, header: &str, id: &str, timestamp: i64, body: &[u8]) -> bool {
        header
            .split(' ')
            .filter_map(|signature| signature.strip_prefix(VERSION)?.strip_prefix(','))
            .filter_map(|encoded| STANDARD.decode(encoded).ok())
            .any(|signature| self.mac(id, timestamp, body).verify_slice(&signature).is_ok())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The `webhook-signature` header: one signature for every live secret, so that a receiver may hold
/// either of two during a rotation.
#[must_use]
pub fn signature_header(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    #[test]
    fn the_published_vector_is_reproduced() {
        let secret = Secret::parse(SECRET).expect("a secret");
        let expected = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
        assert_eq!(secret.sign(ID, 1_649_367_553, BODY), expected);
        assert!(secret.verifies(expected, ID, 1_649_367_553, BODY));
        assert!(secret.verifies(&format!("v1a,AAAA v1,BBBB {expected}"), ID, 1_649_367_553, BODY));
        assert!(!secret.verifies(expected, ID, 1_649_367_554, BODY));
        assert_eq!(secret.reveal(), SECRET);
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        assert_eq!(Secret::parse("C2FVsBQI"), Err(SecretError::Prefix));
        assert_eq!(Secret::parse("whsec_%"), Err(SecretError::Base64));
        assert_eq!(Secret::parse("whsec_C2FVsBQI"), Err(SecretError::Length));
        assert_eq!(Secret::from_bytes(vec![0; 65]), Err(SecretError::Length));
    }

    #[test]
    fn a_secret_is_not_shown_by_debug() {
        assert_eq!(format!("{:?}", Secret::generate()), "Secret(***)");
    }

    proptest! {
        /// Whatever is signed, the public verifier of the field accepts, under each of the live secrets.
        #[test]
        fn the_public_verifier_accepts_it(
            keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 24..=64), 1..4),
            id in "[a-z0-9-]{1,40}",
            body in "\\PC{0,200}",
        ) {
            let now = chrono::Utc::now().timestamp();
            let secrets: Vec<_> =
                keys.into_iter().map(|key| Secret::from_bytes(key).expect("24..=64")).collect();
            let header = signature_header(&secrets, &id, now, body.as_bytes());
            let mut headers = http::HeaderMap::new();
            for (name, value) in [
                ("webhook-id", &id),
                ("webhook-timestamp", &now.to_string()),
                ("webhook-signature", &header),
            ] {
                headers.insert(name, value.parse().expect("a header"));
            }
            for secret in &secrets {
                let verifier = standardwebhooks::Webhook::new(&secret.reveal()).expect("a secret");
                prop_assert!(verifier.verify(body.as_bytes(), &headers).is_ok());
            }
        }

        /// Nothing that is signed can be changed unnoticed, not by one bit, nor by moving a full stop.
        #[test]
        fn what_was_changed_is_noticed(
            key in proptest::collection::vec(any::<u8>(), 24..=64),
            id in "[a-z0-9-]{1,40}",
            timestamp in 0..4_000_000_000_i64,
            body in proptest::collection::vec(any::<u8>(), 1..200),
            at: proptest::sample::Index,
            bit in 0..8_u32,
        ) {
            let secret = Secret::from_bytes(key.clone()).expect("24..=64");
            let signature = secret.sign(&id, timestamp, &body);
            prop_assert!(secret.verifies(&signature, &id, timestamp, &body));
            let flip = |bytes: &[u8]| {
                let mut changed = bytes.to_vec();
                changed[at.index(bytes.len())] ^= 1 << bit;
                changed
            };
            prop_assert!(!secret.verifies(&signature, &id, timestamp, &flip(&body)));
            prop_assert!(!secret.verifies(&signature, &id, timestamp + 1, &body));
            let moved = [id.as_str(), &timestamp.to_string()].join(".");
            prop_assert!(!secret.verifies(&signature, &moved, timestamp, &body));
            let other = Secret::from_bytes(flip(&key)).expect("24..=64");
            prop_assert!(!other.verifies(&signature, &id, timestamp, &body));
        }
    }
}
