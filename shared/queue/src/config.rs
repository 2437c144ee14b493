//! The settings of the connection to Redis.

use postrider_runtime::config::{self, Reader, settings};
use redis::IntoConnectionInfo as _;
use rustls::pki_types::CertificateDer;

/// The settings of the connection to Redis.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// `redis://`, `rediss://` or `redis+unix://`.
    pub url: redis::ConnectionInfo,
    /// The prefix of every key, so that installations can share a server.
    pub prefix: String,
    /// The most ids per endpoint that wait in Redis. The rest wait in PostgreSQL.
    pub window: u32,
    /// The most ids in Redis, over all endpoints.
    pub capacity: u32,
    /// Certificates that are trusted in addition to the system's.
    pub extra_certificates: Vec<CertificateDer<'static>>,
}

impl QueueConfig {
    /// Reads `REDIS_URL` and the related settings.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            url: reader.required_or(
                &settings::REDIS_URL,
                |text| text.into_connection_info().map_err(|error| error.to_string()),
                || "redis://127.0.0.1".into_connection_info().expect("the default is a valid Redis URL"),
            ),
            prefix: reader.required(&settings::REDIS_PREFIX),
            window: reader.in_range(&settings::QUEUE_WINDOW, 1, 1_000_000) as u32,
            capacity: reader.in_range(&settings::QUEUE_CAPACITY, 1, 100_000_000) as u32,
            extra_certificates: config::extra_certificates(reader),
        }
    }
}
