//! Why there is no answer.

use std::error::Error;
use std::fmt::Display;
use std::io;

use postrider_domain::address::RefusedAddress;
use postrider_domain::delivery::ErrorClass;
use rustix::io::Errno;
use rustls::{AlertDescription, CertificateError};

/// Where an exchange failed, and how: in a sentence without the URL, which may hold a receiver's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) message: String,
    /// The status of an answer of which no more than the beginning has come.
    pub(crate) status: Option<u16>,
    /// The receiver has no part in it, and nothing was sent to it.
    pub(crate) fault: Option<Fault>,
}

/// A fault of the deliverer's own, or of the proxy that everything goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The part of the deliverer's health that is down by it.
    pub(crate) part: &'static str,
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), status: None, fault: None }
    }

    /// This machine has no more of what every connection needs.
    pub(super) fn of_sockets(error: impl Display) -> Self {
        Self::of_fault("deliverer_sockets", format!("no connection can be made: {error}"))
    }

    /// No name server can be asked.
    pub(super) fn of_name_servers(error: impl Display) -> Self {
        Self::of_fault("deliverer_name_servers", error.to_string())
    }

    /// Nothing gets past the proxy.
    pub(super) fn of_egress_proxy(reason: impl Display) -> Self {
        Self::of_fault("deliverer_egress_proxy", format!("the egress proxy {reason}"))
    }

    fn of_fault(part: &'static str, reason: String) -> Self {
        let message = reason.clone();
        Self { fault: Some(Fault { part, reason }), ..Self::new(ErrorClass::Internal, message) }
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

/// True where an error says that this machine lacks something: descriptors, memory or ports. IPv6 addresses are said to be
/// unavailable where there is no IPv6 either.
pub(super) fn is_shortage(error: &io::Error, is_ipv6: bool) -> bool {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => true,
        Some(Errno::ADDRNOTAVAIL) => !is_ipv6,
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_told_from_what_a_receiver_does() {
        let is_ours = |errno: Errno, is_ipv6| is_shortage(&errno.into(), is_ipv6);
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL] {
            assert!(is_ours(errno, false), "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::TIMEDOUT] {
            assert!(!is_ours(errno, false), "{errno}");
        }
        assert!(!is_ours(Errno::ADDRNOTAVAIL, true), "a machine without IPv6 lacks no ports");
    }
}
