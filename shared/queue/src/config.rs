//! How Redis is reached.

use postrider_runtime::config::{self, Reader, settings};
use redis::IntoConnectionInfo as _;
use rustls::pki_types::CertificateDer;

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

impl QueueConfig {
    /// Reads `REDIS_URL` and its companions.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            url: reader.required_or(
                &settings::REDIS_URL,
                |text| text.into_connection_info().map_err(|error| error.to_string()),
                || "redis://127.0.0.1".into_connection_info().expect("a URL of Redis"),
            ),
            prefix: reader.required(&settings::REDIS_PREFIX),
            window: reader.in_range(&settings::QUEUE_WINDOW, 1, 1_000_000) as u32,
            capacity: reader.in_range(&settings::QUEUE_CAPACITY, 1, 100_000_000) as u32,
            extra_certificates: config::extra_certificates(reader),
        }
    }
}
