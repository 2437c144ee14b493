//! Configuration of the deliverer.

use std::net::SocketAddr;
use std::time::Duration;

use postrider_domain::address::AddressGuard;
use postrider_domain::retry::RetrySchedule;
use postrider_queue::QueueConfig;
use postrider_runtime::config::{self, Reader, settings};
use postrider_secrets::keyring::{self, Keyring};
use postrider_store::DatabaseConfig;
use rustls::pki_types::CertificateDer;

/// Configuration of the deliverer.
#[derive(Clone, Debug)]
pub struct DelivererConfig {
    /// Address on which health and metrics are served.
    pub listen: SocketAddr,
    /// Connection settings for PostgreSQL.
    pub database: DatabaseConfig,
    /// Connection settings for Redis.
    pub queue: QueueConfig,
    /// Decides which addresses webhooks may be sent to.
    pub guard: AddressGuard,
    /// Whether sending to `http://` endpoints is refused.
    pub https_only: bool,
    /// Decrypts endpoint secrets, sensitive headers and URL queries.
    pub keyring: Keyring,
    /// An endpoint whose attempts have all failed for this long is disabled; `None` means never.
    pub auto_disable_after: Option<Duration>,
    /// Retry schedule of endpoints that do not set their own.
    pub retry_schedule: RetrySchedule,
    /// Maximum exchanges in flight.
    pub concurrency: usize,
    /// Maximum bytes of request bodies in memory.
    pub body_bytes: usize,
    /// Name servers to use instead of the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// Certificates to trust in addition to the system's.
    pub extra_certificates: Vec<CertificateDer<'static>>,
    /// Proxy for all webhooks. It resolves names, so it must also guard addresses.
    pub egress_proxy: Option<url::Url>,
    /// Maximum time that exchanges in flight may take after a signal to stop.
    pub stop_grace: Duration,
}

impl DelivererConfig {
    /// Reads the settings of the deliverer.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            listen: reader.required_with(&settings::DELIVERER_LISTEN, config::socket_address),
            database: DatabaseConfig::read(reader),
            queue: QueueConfig::read(reader),
            guard: config::address_guard(reader),
            https_only: reader.required(&settings::HTTPS_ONLY),
            keyring: keyring::read(reader),
            auto_disable_after: match reader.in_range(&settings::AUTO_DISABLE_DAYS, 0, 365) {
                0 => None,
                days => Some(Duration::from_secs(days * 86_400)),
            },
            retry_schedule: config::retry_schedule(reader),
            concurrency: reader.in_range(&settings::DELIVERER_CONCURRENCY, 1, 100_000) as usize,
            body_bytes: reader.in_range(&settings::DELIVERER_BODY_BYTES, 1 << 20, 1 << 34) as usize,
            dns_servers: reader.list(&settings::DNS_SERVERS, config::socket_address),
            extra_certificates: config::extra_certificates(reader),
            egress_proxy: reader.optional(&settings::EGRESS_PROXY),
            stop_grace: Duration::from_secs(reader.in_range(&settings::STOP_GRACE_SECONDS, 0, 3_600)),
        }
    }
}
