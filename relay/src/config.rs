//! Configuration of the relay.

use std::net::SocketAddr;

use postrider_domain::retry::RetrySchedule;
use postrider_queue::QueueConfig;
use postrider_runtime::config::{self, Reader, settings};
use postrider_store::DatabaseConfig;

/// Configuration of the relay.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Address on which health and metrics are served.
    pub listen: SocketAddr,
    /// Connection settings for PostgreSQL.
    pub database: DatabaseConfig,
    /// Connection settings for Redis.
    pub queue: QueueConfig,
    /// Retry schedule of endpoints that do not set their own. Used for deliveries whose deliverer was lost.
    pub retry_schedule: RetrySchedule,
    /// Minimum time that history is kept, in days.
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
