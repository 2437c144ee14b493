//! Whose certificates PostgreSQL and Redis are verified by: the system's authorities, and those of
//! `POSTRIDER_EXTRA_CA_FILE`.

use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Certificates that can be roots. The system may have some that cannot; the file may not.
fn certificates(extra: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    if let Some(path) = extra {
        let unreadable = |error: &dyn std::fmt::Display| {
            format!("POSTRIDER_EXTRA_CA_FILE: cannot read {}: {error}", path.display())
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            RootCertStore::empty().add(certificate.clone()).map_err(|error| unreadable(&error))?;
            certificates.push(certificate);
        }
    }
    Ok(certificates)
}

/// As rustls wants them.
pub(crate) fn roots(extra: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(extra)?);
    Ok(roots)
}

/// As the client of Redis wants them.
pub(crate) fn roots_as_pem(extra: Option<&Path>) -> Result<Vec<u8>, String> {
    let pem = |certificate: &CertificateDer<'_>| {
        let text = BASE64_STANDARD.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    Ok(certificates(extra)?.iter().map(pem).collect::<String>().into_bytes())
}
