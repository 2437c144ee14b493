//! Configuration: what can be set, and the parsed form that each service starts from.
//!
//! Every setting is an environment variable, a flag of the same name and, for secrets that are mounted
//! as files, a variable `X_FILE`. All mistakes are reported at once.

mod database_url;
mod read;
mod settings;

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

pub use read::{Mistakes, Reader, Source};
pub use settings::{SETTINGS, Service, Setting};

use crate::address::AddressGuard;
use crate::keyring::{Keyring, MasterKey};
use crate::retry::RetrySchedule;
use crate::trust;

/// How PostgreSQL is reached.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// For everything that may pass through a connection pooler.
    pub url: tokio_postgres::Config,
    /// For what needs a session of its own (LISTEN, advisory locks): past a pooler, if there is one.
    pub direct_url: tokio_postgres::Config,
    /// Connections of each pool.
    pub pool_size: usize,
    /// Certificates that are trusted besides the system's.
    pub extra_certificates: Vec<CertificateDer<'static>>,
}

/// How Redis is reached.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// `redis://`, `rediss://` or `redis+unix://`.
    pub url: redis::ConnectionInfo,
    /// Begins every key, so that installations can share a server.
    pub prefix: String,
    /// Ids per endpoint that wait in Redis; the rest waits in PostgreSQL.
    pub window: u32,
    /// Ids in Redis at most, over all endpoints.
    pub capacity: u32,
    /// Certificates that are trusted besides the system's.
    pub extra_certificates: Vec<CertificateDer<'static>>,
}

/// What the API starts from.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// Either of these is the admin. Empty only where `listen` is a loopback address.
    pub admin_tokens: Vec<String>,
    /// Encrypts what endpoints keep secret.
    pub keyring: Keyring,
    /// Which IP literals an endpoint may name.
    pub guard: AddressGuard,
    /// Refuses `http://` endpoints.
    pub https_only: bool,
    /// Endpoints an application may have.
    pub max_endpoints: u32,
    /// Steps that the filters of an application may take for one event.
    pub max_matching_steps: u32,
    /// Statements that accept events side by side.
    pub accept_writers: usize,
    /// Bytes of events that may wait to be accepted before the API answers 503.
    pub accept_queue_bytes: usize,
}

/// What the relay starts from.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Where health and metrics are served.
    pub listen: SocketAddr,
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// Redis.
    pub queue: QueueConfig,
    /// The schedule of endpoints that set none: for deliveries whose deliverer vanished again and again.
    pub retry_schedule: RetrySchedule,
    /// How long what has happened is kept at least.
    pub retention_days: u32,
}

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

impl DatabaseConfig {
    /// Reads `DATABASE_URL` and its companions.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let url = reader.required_with(&settings::DATABASE_URL, database_url::parse);
        let direct_url = reader.optional_with(&settings::DATABASE_DIRECT_URL, database_url::parse);
        Self {
            direct_url: direct_url.unwrap_or_else(|| url.clone()),
            url,
            pool_size: reader.in_range(&settings::DATABASE_POOL_SIZE, 2, 1_000) as usize,
            extra_certificates: reader
                .optional_with(&settings::EXTRA_CA_FILE, trust::read)
                .unwrap_or_default(),
        }
    }
}

impl QueueConfig {
    /// Reads `REDIS_URL` and its companions.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            url: reader.required_with(&settings::REDIS_URL, |text| {
                redis::IntoConnectionInfo::into_connection_info(text).map_err(|error| error.to_string())
            }),
            prefix: reader.required(&settings::REDIS_PREFIX),
            window: reader.in_range(&settings::QUEUE_WINDOW, 1, 1_000_000) as u32,
            capacity: reader.in_range(&settings::QUEUE_CAPACITY, 1, 100_000_000) as u32,
            extra_certificates: reader
                .optional_with(&settings::EXTRA_CA_FILE, trust::read)
                .unwrap_or_default(),
        }
    }
}

impl ApiConfig {
    /// Reads the settings of the API. Without an admin token it may listen on loopback only.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let listen: SocketAddr = reader.required_with(&settings::API_LISTEN, read::socket_address);
        let admin_tokens: Vec<String> = reader.list(&settings::ADMIN_TOKEN, |text| {
            if text.len() < 16 {
                return Err("each token must have at least 16 characters".to_owned());
            }
            Ok(text.to_owned())
        });
        if admin_tokens.len() > 2 {
            reader.mistake(
                &settings::ADMIN_TOKEN,
                "must not have more than two tokens, the old one and the new one",
            );
        }
        if admin_tokens.is_empty() && !listen.ip().is_loopback() {
            reader.mistake(
                &settings::ADMIN_TOKEN,
                format!("must be set, because the API listens on {listen}, which is not a loopback address"),
            );
        }
        Self {
            listen,
            database: DatabaseConfig::read(reader),
            admin_tokens,
            keyring: read_keyring(reader),
            guard: read_guard(reader),
            https_only: reader.required(&settings::HTTPS_ONLY),
            max_endpoints: reader.in_range(&settings::MAX_ENDPOINTS, 1, 100_000) as u32,
            max_matching_steps: reader.in_range(&settings::MAX_MATCHING_STEPS, 40_000, 100_000_000) as u32,
            accept_writers: reader.in_range(&settings::ACCEPT_WRITERS, 1, 64) as usize,
            accept_queue_bytes: reader.in_range(&settings::ACCEPT_QUEUE_BYTES, 16 << 20, 1 << 34) as usize,
        }
    }
}

impl RelayConfig {
    /// Reads the settings of the relay.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            listen: reader.required_with(&settings::RELAY_LISTEN, read::socket_address),
            database: DatabaseConfig::read(reader),
            queue: QueueConfig::read(reader),
            retry_schedule: read_schedule(reader),
            retention_days: reader.in_range(&settings::RETENTION_DAYS, 1, 3_650) as u32,
        }
    }
}

impl DelivererConfig {
    /// Reads the settings of the deliverer.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            listen: reader.required_with(&settings::DELIVERER_LISTEN, read::socket_address),
            database: DatabaseConfig::read(reader),
            queue: QueueConfig::read(reader),
            guard: read_guard(reader),
            https_only: reader.required(&settings::HTTPS_ONLY),
            keyring: read_keyring(reader),
            auto_disable_after: match reader.in_range(&settings::AUTO_DISABLE_DAYS, 0, 365) {
                0 => None,
                days => Some(Duration::from_secs(days * 86_400)),
            },
            retry_schedule: read_schedule(reader),
            concurrency: reader.in_range(&settings::DELIVERER_CONCURRENCY, 1, 100_000) as usize,
            body_bytes: reader.in_range(&settings::DELIVERER_BODY_BYTES, 1 << 20, 1 << 34) as usize,
            dns_servers: reader.list(&settings::DNS_SERVERS, read::socket_address),
            extra_certificates: reader
                .optional_with(&settings::EXTRA_CA_FILE, trust::read)
                .unwrap_or_default(),
            egress_proxy: reader.optional(&settings::EGRESS_PROXY),
            stop_grace: Duration::from_secs(reader.in_range(&settings::STOP_GRACE_SECONDS, 0, 3_600)),
        }
    }
}

/// Where a service serves its health, as its own configuration would say.
pub fn listen_address(reader: &mut Reader<'_>, service: Service) -> SocketAddr {
    let setting = match service {
        Service::Relay => &settings::RELAY_LISTEN,
        Service::Deliverer => &settings::DELIVERER_LISTEN,
        Service::Api | Service::Up | Service::Migrate | Service::Rekey => &settings::API_LISTEN,
    };
    reader.required_with(setting, read::socket_address)
}

/// What `postrider rekey` starts from.
#[derive(Clone, Debug)]
pub struct RekeyConfig {
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// The first of these keys is to encrypt everything.
    pub keyring: Keyring,
}

impl RekeyConfig {
    /// Reads the settings of `postrider rekey`, which is of no use without a master key.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let keyring = read_keyring(reader);
        if keyring.current_id().is_none() {
            reader.mistake(
                &settings::MASTER_KEY,
                "must be set; `postrider rekey` encrypts everything with its first key",
            );
        }
        Self { database: DatabaseConfig::read(reader), keyring }
    }
}

fn read_keyring(reader: &mut Reader<'_>) -> Keyring {
    Keyring::new(reader.list(&settings::MASTER_KEY, MasterKey::parse))
}

fn read_guard(reader: &mut Reader<'_>) -> AddressGuard {
    AddressGuard::new(reader.list(&settings::ALLOW_NETWORKS, |text| {
        text.parse().map_err(|_| format!("`{text}` is not a network such as `10.1.0.0/16`"))
    }))
}

fn read_schedule(reader: &mut Reader<'_>) -> RetrySchedule {
    let delays: Vec<Duration> = reader.list(&settings::RETRY_SCHEDULE, |text| match text.parse::<u64>() {
        Ok(seconds) if seconds <= 30 * 86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`{text}` is not a number of seconds from 0 to 2592000 (30 days)")),
    });
    if delays.is_empty() { RetrySchedule::default() } else { RetrySchedule::new(delays) }
}
