//! How PostgreSQL is reached.

use postrider_runtime::config::{self, Reader, settings};
use rustls::pki_types::CertificateDer;

use crate::database_url;

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

impl DatabaseConfig {
    /// Reads `DATABASE_URL` and its companions.
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
