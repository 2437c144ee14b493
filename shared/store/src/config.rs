//! The settings of the connections to PostgreSQL.

use postrider_runtime::config::{self, Reader, settings};
use rustls::pki_types::CertificateDer;

use crate::database_url;

/// The settings of the connections to PostgreSQL.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// The URL for everything that may pass through a connection pooler.
    pub url: tokio_postgres::Config,
    /// The URL that bypasses a pooler, for what needs a session of its own: `LISTEN` and advisory locks.
    pub direct_url: tokio_postgres::Config,
    /// The number of connections in each pool.
    pub pool_size: usize,
    /// Certificates that are trusted in addition to the system's.
    pub extra_certificates: Vec<CertificateDer<'static>>,
}

impl DatabaseConfig {
    /// Reads `DATABASE_URL` and the related settings.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let parse = |text: &str| database_url::parse(text).map_err(|error| error.to_string());
        let url = reader.required_or(&settings::DATABASE_URL, parse, Default::default);
        let direct_url = reader.optional_with(&settings::DATABASE_DIRECT_URL, parse);
        Self {
            direct_url: direct_url.unwrap_or_else(|| url.clone()),
            url,
            pool_size: reader.in_range(&settings::DATABASE_POOL_SIZE, 2, 1_000) as usize,
            extra_certificates: config::extra_certificates(reader),
        }
    }
}
