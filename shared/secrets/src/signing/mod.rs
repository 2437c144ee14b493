//! Signatures of Standard Webhooks (<https://www.standardwebhooks.com>, version 1): symmetric (`v1`) and asymmetric
//! (`v1a`).

mod key_pair;
mod secret;

pub use key_pair::KeyPair;
pub use secret::Secret;

/// The minimum length of a symmetric secret, in bytes.
pub const MIN_SECRET_BYTES: usize = 24;
/// The maximum length of a symmetric secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 64;

/// Why a text is not a valid secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The prefix is missing.
    #[error("must start with `whsec_`, or with `whsk_` for Ed25519")]
    Prefix,
    /// The text after the prefix is not base64.
    #[error("must be base64 (standard alphabet, with padding) after the prefix")]
    Base64,
    /// Too short to be safe, or too long.
    #[error("must be the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes after `whsec_`")]
    Length,
    /// Not an Ed25519 private key, or the public key does not belong to it.
    #[error(
        "must be the base64 of an Ed25519 private key after `whsk_`: 32 bytes, or 64 bytes with its public key"
    )]
    KeyPair,
}

/// How webhooks are signed.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum Algorithm {
    /// With a secret that the receiver also has: `v1`.
    #[strum(serialize = "hmac-sha256")]
    HmacSha256,
    /// With a private key. The receiver has the public key: `v1a`.
    Ed25519,
}

postrider_domain::text_enum!(Algorithm);

/// A key that signs the webhooks of an endpoint. Its `Debug` form does not show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningKey {
    /// A secret for signatures of version `v1`.
    Symmetric(Secret),
    /// A key pair for signatures of version `v1a`.
    Asymmetric(Box<KeyPair>),
}

impl SigningKey {
    /// Generates a new key.
    #[must_use]
    pub fn generate(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::HmacSha256 => Self::Symmetric(Secret::generate()),
            Algorithm::Ed25519 => Self::Asymmetric(Box::new(KeyPair::generate())),
        }
    }

    /// Parses `whsec_…` or `whsk_…`.
    ///
    /// # Errors
    /// [`SecretError`] if the text is neither.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        match KeyPair::parse(text) {
            Err(SecretError::Prefix) => Secret::parse(text).map(Self::Symmetric),
            pair => pair.map(Box::new).map(Self::Asymmetric),
        }
    }

    /// Creates a key from the result of [`as_bytes`](Self::as_bytes).
    ///
    /// # Errors
    /// [`SecretError`] if the bytes are not a key for this algorithm.
    pub fn from_bytes(algorithm: Algorithm, bytes: Vec<u8>) -> Result<Self, SecretError> {
        match algorithm {
            Algorithm::HmacSha256 => Secret::from_bytes(bytes).map(Self::Symmetric),
            Algorithm::Ed25519 => KeyPair::from_seed(&bytes).map(Box::new).map(Self::Asymmetric),
        }
    }

    /// Returns the raw bytes, as they are stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Symmetric(secret) => secret.as_bytes(),
            Self::Asymmetric(pair) => pair.seed(),
        }
    }

    /// Returns the algorithm that the key signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Symmetric(_) => Algorithm::HmacSha256,
            Self::Asymmetric(_) => Algorithm::Ed25519,
        }
    }

    /// Returns the secret that receivers verify with, `whsec_…`, if the key is symmetric. A private key is never shown.
    #[must_use]
    pub fn secret(&self) -> Option<String> {
        match self {
            Self::Symmetric(secret) => Some(secret.reveal()),
            Self::Asymmetric(_) => None,
        }
    }

    /// Returns the public key that receivers verify with, `whpk_…`, if the key is asymmetric.
    #[must_use]
    pub fn public_key(&self) -> Option<String> {
        match self {
            Self::Symmetric(_) => None,
            Self::Asymmetric(pair) => Some(pair.public_key()),
        }
    }

    /// Returns one signature for a `webhook-signature` header. `timestamp` is in Unix seconds.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        match self {
            Self::Symmetric(secret) => secret.sign(id, timestamp, body),
            Self::Asymmetric(pair) => {
                let head = format!("{id}.{timestamp}.");
                pair.sign(&[head.as_bytes(), body].concat())
            }
        }
    }
}

/// Returns the `webhook-signature` header. It has one signature for each live key, so that during a rotation a receiver
/// may hold either key.
#[must_use]
pub fn signature_header(keys: &[SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<_> = keys.iter().map(|key| key.sign(id, timestamp, body)).collect();
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

    #[test]
    fn a_key_is_told_by_its_prefix_and_comes_back_from_its_bytes() {
        for algorithm in [Algorithm::HmacSha256, Algorithm::Ed25519] {
            let key = SigningKey::generate(algorithm);
            assert_eq!(key.algorithm(), algorithm);
            assert_eq!(SigningKey::from_bytes(algorithm, key.as_bytes().to_vec()), Ok(key));
        }
        let key = SigningKey::parse(SECRET).expect("a secret");
        assert_eq!((key.secret().as_deref(), key.public_key()), (Some(SECRET), None));
        assert_eq!(SigningKey::parse("whpk_AAAA"), Err(SecretError::Prefix));
        assert_eq!(SigningKey::parse("whsk_AAAA"), Err(SecretError::KeyPair));
    }

    proptest! {
        /// The official verifier of Standard Webhooks accepts every signature under each of the live secrets, also next
        /// to the signature of a key pair.
        #[test]
        fn the_public_verifier_accepts_it(
            keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 24..=64), 1..4),
            id in "[a-z0-9-]{1,40}",
            body in "\\PC{0,200}",
        ) {
            let now = chrono::Utc::now().timestamp();
            let secrets: Vec<_> =
                keys.into_iter().map(|key| Secret::from_bytes(key).expect("24..=64")).collect();
            let mut live: Vec<_> = secrets.iter().cloned().map(SigningKey::Symmetric).collect();
            live.insert(0, SigningKey::generate(Algorithm::Ed25519));
            let header = signature_header(&live, &id, now, body.as_bytes());
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

        /// No change to signed content goes unnoticed: not a single bit, nor a moved full stop.
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
