//! What the relay starts from.

use std::net::SocketAddr;

use postrider_domain::retry::RetrySchedule;
use postrider_queue::QueueConfig;
use postrider_runtime::config::{self, Reader, settings};
use postrider_store::DatabaseConfig;

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

impl RelayConfig {
    /// Reads the settings of the relay.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            listen: reader.required_with(&settings::RELAY_LISTEN, config::socket_address),
            database: DatabaseConfig::read(reader),
            queue: QueueConfig::read(reader),
            retry_schedule: config::retry_schedule(reader),
            retention_days: reader.in_range(&settings::RETENTION_DAYS, 1, 3_650) as u32,
        }
    }
}
