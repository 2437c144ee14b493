//! Asymmetric signing with Ed25519: signatures of version `v1a`. Receivers hold a public key, which cannot sign.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use rand::Rng as _;

use super::SecretError;

const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const VERSION: &str = "v1a";

/// An Ed25519 key pair. Its `Debug` form shows only the public key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// Generates a new key pair.
    #[must_use]
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// Parses `whsk_` and the base64 of the private key (32 bytes), or of the private and the public key (64 bytes),
    /// the form that other Standard Webhooks tools write.
    ///
    /// # Errors
    /// [`SecretError`] if the text is anything else, or the two keys do not belong together.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PRIVATE_PREFIX).ok_or(SecretError::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
        if let Ok(pair) = bytes.as_slice().try_into() {
            return SigningKey::from_keypair_bytes(pair).map(Self).map_err(|_| SecretError::KeyPair);
        }
        Self::from_seed(&bytes)
    }

    /// Creates a key pair from the private key.
    ///
    /// # Errors
    /// [`SecretError::KeyPair`] if it does not have 32 bytes.
    pub fn from_seed(seed: &[u8]) -> Result<Self, SecretError> {
        let seed = seed.try_into().map_err(|_| SecretError::KeyPair)?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// Returns the private key: 32 bytes.
    #[must_use]
    pub fn seed(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the form that receivers get: `whpk_` and the base64 of the public key.
    #[must_use]
    pub fn public_key(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.0.verifying_key().as_bytes()))
    }

    /// Returns `v1a,` and the base64 of the signature over `content`.
    #[must_use]
    pub(super) fn sign(&self, content: &[u8]) -> String {
        format!("{VERSION},{}", STANDARD.encode(self.0.sign(content).to_bytes()))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyPair").field(&self.public_key()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key pair and the signature from the tests of the Standard Webhooks reference implementation.
    const PRIVATE: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const CONTENT: &[u8] = br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
    const SIGNATURE: &str =
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    #[test]
    fn the_published_vector_is_reproduced() {
        let pair = KeyPair::parse(PRIVATE).expect("a pair");
        assert_eq!(pair.public_key(), PUBLIC);
        assert_eq!(pair.sign(CONTENT), SIGNATURE);
        assert_eq!(KeyPair::from_seed(pair.seed()).expect("a seed"), pair);
        assert_eq!(format!("{pair:?}"), format!("KeyPair({PUBLIC:?})"));
    }

    #[test]
    fn what_is_no_private_key_is_refused() {
        let other = KeyPair::generate();
        let mismatched = format!(
            "whsk_{}",
            STANDARD.encode([KeyPair::generate().seed(), other.0.verifying_key().as_bytes()].concat())
        );
        assert_eq!(KeyPair::parse(&mismatched), Err(SecretError::KeyPair));
        assert_eq!(KeyPair::parse(PUBLIC), Err(SecretError::Prefix));
        assert_eq!(KeyPair::parse("whsk_%"), Err(SecretError::Base64));
        assert_eq!(KeyPair::parse("whsk_AAAA"), Err(SecretError::KeyPair));
    }
}
