//! Why there is no answer.

use std::error::Error;
use std::io;

use postrider_shared::address::RefusedAddress;
use postrider_shared::delivery::ErrorClass;
use rustls::{AlertDescription, CertificateError};

/// Where an exchange failed, and how: in a sentence without the URL, which may hold a receiver's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) message: String,
    /// The status of an answer of which no more than the beginning has come.
    pub(crate) status: Option<u16>,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), status: None }
    }

    /// A TLS handshake failed.
    pub(super) fn of_handshake(error: &io::Error) -> Self {
        let message = match tls_cause(error) {
            Some(cause) => format!("the TLS handshake failed: {cause}{}", advice(cause)),
            None => format!("the TLS handshake failed: {error}"),
        };
        Self::new(ErrorClass::Tls, message)
    }

    /// An exchange broke on a connection that had been made. A receiver may end TLS after the handshake,
    /// because it wants a certificate of the client.
    pub(super) fn of_http(error: &hyper::Error) -> Self {
        let root = root(error);
        if let Some(cause) = root.downcast_ref().and_then(tls_cause) {
            return Self::new(ErrorClass::Tls, format!("TLS failed: {cause}{}", advice(cause)));
        }
        Self::new(ErrorClass::Http, format!("the exchange failed: {root}"))
    }
}

impl From<RefusedAddress> for Failure {
    fn from(refused: RefusedAddress) -> Self {
        Self::new(ErrorClass::RefusedAddress, format!("the target is not allowed: {refused}"))
    }
}

/// What an error comes from in the end.
pub(crate) fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

pub(super) fn tls_cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What rustls leaves unsaid.
fn advice(cause: &rustls::Error) -> &'static str {
    match cause {
        rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity
            | AlertDescription::ProtocolVersion,
        )
        | rustls::Error::PeerIncompatible(_) => {
            "; the receiver and Postrider may have no TLS version, cipher suite or curve in common"
        }
        // An error of the verifier, which rustls does not name.
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if format!("{other:?}").contains("CaUsedAsEndEntity") =>
        {
            "; a receiver's own certificate has to be made with basicConstraints=CA:FALSE"
        }
        _ => "",
    }
}
