//! The roots that certificates of PostgreSQL, Redis and receivers are verified with: the system's authorities, and the
//! certificates in `POSTRIDER_EXTRA_CA_FILE`.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::{ClientConfig, RootCertStore};

/// Why a file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// What is wrong with the file.
        cause: CertificateError,
    },
    /// It contains no certificate.
    #[error("`{0}` contains no certificate, that is no line `-----BEGIN CERTIFICATE-----`")]
    Empty(String),
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It is not PEM.
    #[error(transparent)]
    Pem(#[from] pem::Error),
    /// It cannot be used as a root.
    #[error(transparent)]
    Root(#[from] rustls::Error),
}

/// Reads the certificates of a PEM file. It must contain at least one, and each must be usable as a root, because a
/// user who names a file expects all of it to take effect.
///
/// # Errors
/// [`CertificateFileError`] if the file cannot be read, has no certificate, or has one that cannot be a root.
pub fn read(path: &str) -> Result<Vec<CertificateDer<'static>>, CertificateFileError> {
    let path = path.to_owned();
    match certificates_of(&path) {
        Ok(certificates) if certificates.is_empty() => Err(CertificateFileError::Empty(path)),
        Ok(certificates) => Ok(certificates),
        Err(cause) => Err(CertificateFileError::Unreadable { path, cause }),
    }
}

fn certificates_of(path: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_file_iter(path)? {
        let certificate = certificate?;
        RootCertStore::empty().add(certificate.clone())?;
        certificates.push(certificate);
    }
    Ok(certificates)
}

/// Returns the system's certificates and the extra ones. System certificates that cannot be roots are left out.
fn certificates(extra: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    certificates.extend_from_slice(extra);
    certificates
}

/// Returns the roots as rustls needs them.
#[must_use]
pub fn roots(extra: &[CertificateDer<'static>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(extra));
    roots
}

/// Builds the TLS configuration of a client that verifies with these roots.
#[must_use]
pub fn client_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Returns the roots as the Redis client needs them.
pub fn roots_as_pem(extra: &[CertificateDer<'static>]) -> Vec<u8> {
    let pem = |certificate: &CertificateDer<'_>| {
        let text = BASE64_STANDARD.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    certificates(extra).iter().map(pem).collect::<String>().into_bytes()
}
