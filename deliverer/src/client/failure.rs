//! Why there is no response.

use std::error::Error;
use std::fmt::Display;
use std::io;

use postrider_domain::address::RefusedAddress;
use postrider_domain::delivery::ErrorClass;
use rustix::io::Errno;
use rustls::{AlertDescription, CertificateError};

/// Where and how an exchange failed. The message never contains the URL, which may hold a receiver's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) message: String,
    /// The status, if the head of a response began to arrive.
    pub(crate) status: Option<u16>,
    /// Set if the fault is on our side and nothing was sent to the receiver.
    pub(crate) fault: Option<Fault>,
}

/// A fault of this deliverer, or of the egress proxy that all webhooks go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The health check that fails because of it.
    pub(crate) part: &'static str,
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), status: None, fault: None }
    }

    /// This machine has run out of a resource that every connection needs.
    pub(super) fn of_sockets(error: impl Display) -> Self {
        Self::of_fault("deliverer_sockets", format!("no connection can be made: {error}"))
    }

    /// No name server can be queried.
    pub(super) fn of_name_servers(error: impl Display) -> Self {
        Self::of_fault("deliverer_name_servers", error.to_string())
    }

    /// The egress proxy lets nothing through.
    pub(super) fn of_egress_proxy(reason: impl Display) -> Self {
        Self::of_fault("deliverer_egress_proxy", format!("the egress proxy {reason}"))
    }

    fn of_fault(part: &'static str, reason: String) -> Self {
        let message = reason.clone();
        Self { fault: Some(Fault { part, reason }), ..Self::new(ErrorClass::Internal, message) }
    }

    /// The TLS handshake failed.
    pub(super) fn of_handshake(error: &io::Error) -> Self {
        let message = match tls_cause(error) {
            Some(cause) => format!("the TLS handshake failed: {cause}{}", advice(cause)),
            None => format!("the TLS handshake failed: {error}"),
        };
        Self::new(ErrorClass::Tls, message)
    }

    /// An exchange failed on an established connection. A receiver that wants a client certificate may end TLS after
    /// the handshake.
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

/// Returns the root cause of an error.
pub(crate) fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

/// Returns true if this machine has run out of descriptors, memory or ports. For IPv6, "address not available" does not
/// count: a machine without IPv6 reports it too.
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

/// Returns advice on a TLS error that rustls does not give.
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
        // An error of the verifier for which rustls has no variant.
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
        assert!(!is_ours(Errno::ADDRNOTAVAIL, true), "a machine without IPv6 has not run out of ports");
    }
}
