//! The relay: listens, takes what is due from the outbox, pushes it to Redis, parks what does not fit,
//! and reconciles; takes bulk replays on, and removes what was deleted. The only producer to Redis. It never
//! sees a URL, a secret or a payload, and any number of relays run side by side.

mod audit;
mod cleanup;
mod listener;
mod memory;
mod partitions;
mod pump;
mod refill;
mod replay;
mod statistics;
mod sweep;

use std::time::Duration;

use postrider_shared::config::{DatabaseConfig, RelayConfig};
use postrider_shared::health::Health;
use postrider_shared::queue::{Queue, QueueError};
use postrider_shared::retry::RetrySchedule;
use postrider_shared::store::{Store, StoreError, migrate};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use listener::Listener;

/// After a failure, nothing is tried for this long.
const PAUSE: Duration = Duration::from_millis(250);

/// What ends a relay, or one of its steps.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// PostgreSQL.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Redis.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// What the loops of a relay share.
struct Relay {
    store: Store,
    queue: Queue,
    health: Health,
    retry_schedule: RetrySchedule,
    database: DatabaseConfig,
    retention_days: u32,
    listener: Listener,
    /// Redis was found to hold another epoch.
    epoch_changed: Notify,
}

/// Runs a relay until `shutdown`. Outages of PostgreSQL and Redis are waited out.
///
/// # Errors
/// At its start only, when the schema is not the one it needs or the configuration cannot be used.
pub async fn run(config: RelayConfig, health: Health, shutdown: CancellationToken) -> Result<(), RelayError> {
    let store = Store::new(&config.database)?;
    if !migrate::await_schema(&store, &health, "relay_postgresql", &shutdown).await? {
        return Ok(());
    }
    let relay = Relay {
        queue: Queue::new(&config.queue)?,
        store,
        health,
        retry_schedule: config.retry_schedule,
        listener: Listener::new(config.database.clone()),
        database: config.database,
        retention_days: config.retention_days,
        epoch_changed: Notify::new(),
    };
    tracing::info!("relay started");
    // The loops are large futures.
    Box::pin(async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = relay.listener.run(&relay.health) => {}
            () = pump::run(&relay) => {}
            () = refill::run(&relay) => {}
            () = memory::run(&relay) => {}
            () = replay::run(&relay) => {}
            () = sweep::run(&relay) => {}
            () = audit::run(&relay) => {}
            () = cleanup::run(&relay) => {}
            () = statistics::run(&relay) => {}
            () = partitions::run(&relay) => {}
        }
    })
    .await;
    // Whatever was under way is undone by PostgreSQL, and taken again by another relay.
    tracing::info!("relay stopped");
    Ok(())
}

impl Relay {
    /// Notes how a step ended, and waits a little after a failure.
    async fn settle<T>(&self, result: Result<T, RelayError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.health.up("relay_postgresql");
                return Some(value);
            }
            Err(RelayError::Queue(QueueError::EpochChanged)) => self.epoch_changed.notify_one(),
            Err(RelayError::Queue(error)) => self.health.down("relay_redis", error),
            Err(RelayError::Store(error)) if error.is_contention() => {
                tracing::debug!(%error, "another relay is at it");
            }
            Err(RelayError::Store(error)) => self.health.down("relay_postgresql", error),
        }
        tokio::time::sleep(PAUSE).await;
        None
    }
}
