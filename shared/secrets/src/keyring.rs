//! The encryption of secrets at rest: XChaCha20-Poly1305 with the master keys of the installation.
//!
//! A ciphertext is bound to its endpoint and its purpose, so that it is useless in another row. Nonces are random.
//! Their 192 bits are enough for any number of secrets.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use postrider_domain::ids::EndpointId;
use postrider_runtime::config::{Reader, settings};
use rand::Rng as _;
use sha2::{Digest as _, Sha256};

const NONCE_BYTES: usize = 24;

/// The purpose of a signing key.
pub const SIGNING: &str = "signing";

/// Why a secret cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The key that it was encrypted with is missing.
    #[error("is encrypted with the master key `{0}`, which is not in POSTRIDER_MASTER_KEY")]
    MissingKey(String),
    /// The ciphertext was not made with this key for this endpoint and purpose.
    #[error("cannot be decrypted with the master key `{0}`, because the stored value was changed")]
    Changed(String),
}

/// The text is not a master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("each key must be the base64 of 32 bytes; create one with `openssl rand -base64 32`")]
pub struct MasterKeyError;

/// A master key: 256 bits. Its `Debug` form shows only its id.
#[derive(Clone)]
pub struct MasterKey {
    id: String,
    cipher: XChaCha20Poly1305,
}

impl MasterKey {
    /// Parses the base64 of 32 bytes, as `openssl rand -base64 32` prints it.
    ///
    /// # Errors
    /// [`MasterKeyError`] if the text is anything else.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| MasterKeyError)?;
        let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| MasterKeyError)?;
        Ok(Self { id: key_id(&bytes), cipher })
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MasterKey").field(&self.id).finish()
    }
}

/// Derives a name that reveals nothing about the key.
fn key_id(bytes: &[u8]) -> String {
    let digest = Sha256::new().chain_update(b"postrider master key").chain_update(bytes).finalize();
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A secret as it is stored. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// The key that encrypted it, or `None` if it is stored unencrypted.
    pub master_key_id: Option<String>,
    /// The ciphertext, or the unencrypted secret.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("master_key_id", &self.master_key_id).finish_non_exhaustive()
    }
}

/// The master keys. The first one encrypts, all of them decrypt. If there is none, secrets are stored unencrypted.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Arc<[MasterKey]>);

impl Keyring {
    /// Creates a keyring of these keys.
    #[must_use]
    pub fn new(keys: Vec<MasterKey>) -> Self {
        Self(keys.into())
    }

    /// Returns the id of the key that encrypts, if there is one.
    #[must_use]
    pub fn current_id(&self) -> Option<&str> {
        self.0.first().map(|key| key.id.as_str())
    }

    /// Returns true if the keyring contains this key.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    /// Encrypts a secret of an endpoint if there is a key, or else keeps it unencrypted.
    #[must_use]
    pub fn seal(&self, endpoint: EndpointId, purpose: &str, secret: &[u8]) -> Stored {
        let Some(key) = self.0.first() else {
            return Stored { master_key_id: None, bytes: secret.to_vec() };
        };
        let mut bytes = vec![0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let nonce = XNonce::try_from(bytes.as_slice()).expect("a nonce has this many bytes");
        let associated = associated(endpoint, purpose);
        let ciphertext = key
            .cipher
            .encrypt(&nonce, Payload { msg: secret, aad: &associated })
            .expect("a secret is far shorter than the cipher's limit");
        bytes.extend(ciphertext);
        Stored { master_key_id: Some(key.id.clone()), bytes }
    }

    /// Decrypts the result of [`seal`](Self::seal) for the same endpoint and purpose.
    ///
    /// # Errors
    /// [`KeyringError`] if its key is not in the keyring, or the stored value was changed.
    pub fn open(
        &self,
        endpoint: EndpointId,
        purpose: &str,
        stored: &Stored,
    ) -> Result<Vec<u8>, KeyringError> {
        let Some(id) = &stored.master_key_id else {
            return Ok(stored.bytes.clone());
        };
        let key =
            self.0.iter().find(|key| key.id == *id).ok_or_else(|| KeyringError::MissingKey(id.clone()))?;
        let changed = || KeyringError::Changed(id.clone());
        let (nonce, ciphertext) = stored.bytes.split_at_checked(NONCE_BYTES).ok_or_else(changed)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| changed())?;
        let associated = associated(endpoint, purpose);
        key.cipher.decrypt(&nonce, Payload { msg: ciphertext, aad: &associated }).map_err(|_| changed())
    }
}

fn associated(endpoint: EndpointId, purpose: &str) -> Vec<u8> {
    [endpoint.0.as_bytes(), purpose.as_bytes()].concat()
}

/// Reads `POSTRIDER_MASTER_KEY`.
pub fn read(reader: &mut Reader<'_>) -> Keyring {
    let parse = |text: &str| MasterKey::parse(text).map_err(|error| error.to_string());
    Keyring::new(reader.list(&settings::MASTER_KEY, parse))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn key(byte: u8) -> MasterKey {
        MasterKey::parse(&STANDARD.encode([byte; 32])).expect("a key")
    }

    fn endpoint() -> EndpointId {
        EndpointId(Uuid::from_u128(7))
    }

    proptest! {
        #[test]
        fn the_first_key_encrypts_and_all_decrypt(secret in proptest::collection::vec(any::<u8>(), 0..200)) {
            let old = Keyring::new(vec![key(1)]);
            let both = Keyring::new(vec![key(2), key(1)]);
            for ring in [&old, &both] {
                let stored = ring.seal(endpoint(), SIGNING, &secret);
                prop_assert_eq!(stored.master_key_id.as_deref(), ring.current_id());
                prop_assert_eq!(both.open(endpoint(), SIGNING, &stored), Ok(secret.clone()));
            }
        }

        #[test]
        fn whatever_is_changed_is_noticed(at in 0..56_usize, bit in 0..8_u8) {
            let ring = Keyring::new(vec![key(1)]);
            let mut stored = ring.seal(endpoint(), SIGNING, b"sixteen bytes...");
            stored.bytes[at] ^= 1 << bit;
            prop_assert!(matches!(ring.open(endpoint(), SIGNING, &stored), Err(KeyringError::Changed(_))));
        }
    }

    #[test]
    fn a_ciphertext_is_of_no_use_elsewhere() {
        let ring = Keyring::new(vec![key(1)]);
        let stored = ring.seal(endpoint(), SIGNING, b"secret");
        let other = EndpointId(Uuid::from_u128(8));
        assert!(matches!(ring.open(other, SIGNING, &stored), Err(KeyringError::Changed(_))));
        assert!(matches!(ring.open(endpoint(), "x-token", &stored), Err(KeyringError::Changed(_))));
        let short = Stored { bytes: vec![1], ..stored };
        assert!(matches!(ring.open(endpoint(), SIGNING, &short), Err(KeyringError::Changed(_))));
    }

    #[test]
    fn without_its_key_a_secret_is_not_read_and_the_key_is_named() {
        let stored = Keyring::new(vec![key(1)]).seal(endpoint(), SIGNING, b"secret");
        let id = stored.master_key_id.clone().expect("it is encrypted");
        for ring in [Keyring::default(), Keyring::new(vec![key(2)])] {
            assert!(!ring.has(&id));
            assert_eq!(ring.open(endpoint(), SIGNING, &stored), Err(KeyringError::MissingKey(id.clone())));
        }
    }

    #[test]
    fn without_any_key_secrets_are_stored_as_they_are() {
        let stored = Keyring::default().seal(endpoint(), SIGNING, b"secret");
        assert_eq!(stored, Stored { master_key_id: None, bytes: b"secret".to_vec() });
        assert_eq!(format!("{stored:?}"), "Stored { master_key_id: None, .. }");
        assert_eq!(Keyring::new(vec![key(1)]).open(endpoint(), SIGNING, &stored), Ok(b"secret".to_vec()));
    }

    #[test]
    fn a_key_has_32_bytes_and_does_not_show_itself() {
        for text in ["", "x", "AAAA", &STANDARD.encode([0; 31]), &STANDARD.encode([0; 33])] {
            assert!(MasterKey::parse(text).is_err(), "{text}");
        }
        assert_eq!(format!("{:?}", key(1)), format!("MasterKey({:?})", key(1).id));
        assert_ne!(key(1).id, key(2).id);
    }
}
