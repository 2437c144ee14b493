//! What the deliverer starts from.

use std::net::SocketAddr;
use std::time::Duration;

use postrider_domain::address::AddressGuard;
use postrider_domain::retry::RetrySchedule;
use postrider_queue::QueueConfig;
use postrider_runtime::config::{self, Reader, settings};
use postrider_secrets::keyring::{self, Keyring};
use postrider_store::DatabaseConfig;
use rustls::pki_types::CertificateDer;

/// What the deliverer starts from.
#[derive(Clone, Debug)]
pub struct DelivererConfig {
    /// Where health and metrics are served.
    pub listen: SocketAddr,
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// Redis.
    pub queue: QueueConfig,
    /// Which addresses are dialled.
    pub guard: AddressGuard,
    /// Refuses to send to `http://` endpoints.
    pub https_only: bool,
    /// Decrypts what endpoints keep secret.
    pub keyring: Keyring,
    /// An endpoint that has failed for so long is disabled; `None`: never.
    pub auto_disable_after: Option<Duration>,
    /// The schedule of endpoints that set none.
    pub retry_schedule: RetrySchedule,
    /// Exchanges under way at once.
    pub concurrency: usize,
    /// Bytes of request bodies in memory at once.
    pub body_bytes: usize,
    /// Name servers to ask instead of the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// Certificates that are trusted besides the system's.
    pub extra_certificates: Vec<CertificateDer<'static>>,
    /// A proxy for all webhooks. It must do the guarding: names are resolved by it.
    pub egress_proxy: Option<url::Url>,
    /// How long what is in flight may go on after a signal to stop.
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
