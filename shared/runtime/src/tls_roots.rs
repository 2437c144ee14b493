//! Whose certificates PostgreSQL, Redis and receivers are verified by: the system's authorities, and those of
//! `POSTRIDER_EXTRA_CA_FILE`.

use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Reads the certificates of a PEM file. There has to be one at least, and each has to be usable as a root: who
/// names a file expects it to count.
pub fn read(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("cannot read `{path}`: {error}");
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        RootCertStore::empty().add(certificate.clone()).map_err(|error| unreadable(&error))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(format!(
            "`{path}` contains no certificate, that is no line `-----BEGIN CERTIFICATE-----`"
        ));
    }
    Ok(certificates)
}

/// The system's certificates that can be roots, which not all may be, and the extra ones.
fn certificates(extra: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    certificates.extend_from_slice(extra);
    certificates
}

/// As rustls wants them.
#[must_use]
pub fn roots(extra: &[CertificateDer<'static>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(extra));
    roots
}

/// TLS of a client that verifies by these roots.
#[must_use]
pub fn client_config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// As the client of Redis wants them.
pub fn roots_as_pem(extra: &[CertificateDer<'static>]) -> Vec<u8> {
    let pem = |certificate: &CertificateDer<'_>| {
        let text = BASE64_STANDARD.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    certificates(extra).iter().map(pem).collect::<String>().into_bytes()
}
