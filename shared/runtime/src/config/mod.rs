//! Configuration: the available settings, and reading them.
//!
//! Every setting is an environment variable and a flag of the same name. It can also be read from the file that the
//! variable `X_FILE` names, for secrets that are mounted as files. All mistakes are reported at once.

mod read;
pub mod settings;

use std::net::SocketAddr;
use std::time::Duration;

use postrider_domain::address::AddressGuard;
use postrider_domain::retry::RetrySchedule;
use rustls::pki_types::CertificateDer;

use crate::tls_roots;
pub use read::{InvalidSocketAddress, Mistakes, Reader, Source, socket_address};
pub use settings::{SETTINGS, Service, Setting};

/// Returns the address on which a service serves its health, according to its own setting.
pub fn listen_address(reader: &mut Reader<'_>, service: Service) -> SocketAddr {
    let setting = match service {
        Service::Relay => &settings::RELAY_LISTEN,
        Service::Deliverer => &settings::DELIVERER_LISTEN,
        Service::Api | Service::Up | Service::Migrate | Service::Rekey => &settings::API_LISTEN,
    };
    reader.required_with(setting, socket_address)
}

/// Reads `POSTRIDER_ALLOW_NETWORKS`.
pub fn address_guard(reader: &mut Reader<'_>) -> AddressGuard {
    AddressGuard::new(reader.list(&settings::ALLOW_NETWORKS, |text| {
        text.parse().map_err(|_| format!("`{text}` is not a network such as `10.1.0.0/16`"))
    }))
}

/// Reads `POSTRIDER_RETRY_SCHEDULE`.
pub fn retry_schedule(reader: &mut Reader<'_>) -> RetrySchedule {
    let delays: Vec<Duration> = reader.list(&settings::RETRY_SCHEDULE, |text| match text.parse::<u64>() {
        Ok(seconds) if seconds <= 30 * 86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`{text}` is not a number of seconds from 0 to 2592000 (30 days)")),
    });
    if delays.is_empty() { RetrySchedule::default() } else { RetrySchedule::new(delays) }
}

/// Reads `POSTRIDER_EXTRA_CA_FILE`.
pub fn extra_certificates(reader: &mut Reader<'_>) -> Vec<CertificateDer<'static>> {
    reader.optional_with(&settings::EXTRA_CA_FILE, tls_roots::read).unwrap_or_default()
}
