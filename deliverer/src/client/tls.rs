//! TLS to receivers.

use std::sync::Arc;

use postrider_domain::delivery::ErrorClass;
use postrider_runtime::tls_roots;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;
use url::Url;

use super::ClientError;
use super::deadline::Deadline;
use super::failure::Failure;
use super::watched::Stream;

/// Verifies receivers with the system's certificates and those in `POSTRIDER_EXTRA_CA_FILE`.
pub(super) struct Tls(TlsConnector);

impl Tls {
    pub(super) fn new(extra: &[CertificateDer<'static>]) -> Result<Self, ClientError> {
        let roots = tls_roots::roots(extra);
        if roots.is_empty() {
            return Err(ClientError::NoCertificates);
        }
        let mut config = tls_roots::client_config(roots);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Starts TLS over `stream` with the host of `url`.
    pub(super) async fn wrap(
        &self,
        url: &Url,
        stream: Box<dyn Stream>,
        deadline: Deadline,
    ) -> Result<Box<dyn Stream>, Failure> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Failure::new(ErrorClass::Tls, "no certificate can be valid for this host name: it is no DNS name")
        })?;
        match deadline.cap(self.0.connect(name, stream)).await {
            Some(Ok(stream)) => Ok(Box::new(stream)),
            Some(Err(error)) => Err(Failure::of_handshake(&error)),
            None => Err(Failure::new(ErrorClass::Timeout, deadline.exceeded())),
        }
    }
}
