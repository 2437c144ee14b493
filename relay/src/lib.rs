//! The relay listens for notifications, takes due rows from the outbox, pushes their ids to Redis, and parks what does
//! not fit. It also notices when Redis has lost its memory. Background upkeep is in `maintenance`. The relay is the
//! only service that adds ids to Redis. It never sees a URL, a secret or a payload, and any number of relays run side
//! by side.

mod config;
mod epoch;
mod listener;
mod low_water;
mod maintenance;
mod metric;
mod pump;
mod refill;

use std::sync::Arc;

use postrider_domain::retry::RetrySchedule;
use postrider_queue::{Queue, QueueError};
use postrider_runtime::every::{Service, Tasks};
use postrider_runtime::health::Health;
use postrider_runtime::supervise::{Supervisor, TaskFailed};
use postrider_store::lock_watch::{self, LockWatch, Tables};
use postrider_store::{DatabaseConfig, Store, StoreError, start};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use config::RelayConfig;
use epoch::EpochWatch;
use listener::{Heard, Listener, ListenerError};
use pump::Pump;
use refill::Refill;

/// The health check for PostgreSQL.
const POSTGRESQL: &str = "relay_postgresql";

/// Tables that a relay needs. The lock watch reports long locks on them.
const TABLES: Tables = Tables {
    written: &["outbox", "deliveries", "leases", "queue_epoch"],
    read: &["endpoints", "endpoint_health"],
};

/// Why a relay stopped.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// PostgreSQL refuses the role or the database, or its schema does not fit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address of Redis or its certificates are not usable.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// One of its tasks panicked.
    #[error("the relay cannot go on")]
    Task(#[from] TaskFailed),
}

/// Why a step of a task failed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Listener(#[from] ListenerError),
}

/// State that the tasks of a relay share.
struct Relay {
    store: Store,
    queue: Queue,
    health: Health,
    retry_schedule: RetrySchedule,
    database: DatabaseConfig,
    retention_days: u32,
    heard: Heard,
    /// Notified when Redis is found to hold a different epoch.
    epoch_changed: Notify,
}

/// Runs a relay until `shutdown`. Waits out outages of PostgreSQL and Redis.
///
/// # Errors
/// At start, if the database is not usable or the configuration is wrong; later, if one of its tasks panics.
pub async fn run(config: RelayConfig, health: Health, shutdown: CancellationToken) -> Result<(), RelayError> {
    metric::describe();
    let store = Store::new(&config.database);
    let queue = Queue::new(&config.queue)?;
    if !start::until_it_fits(&store, || std::future::ready(Ok(())), &health, POSTGRESQL, &shutdown).await? {
        return Ok(());
    }
    let relay = Arc::new(Relay {
        store,
        queue,
        health,
        retry_schedule: config.retry_schedule,
        database: config.database,
        retention_days: config.retention_days,
        heard: Heard::default(),
        epoch_changed: Notify::new(),
    });
    tracing::info!("relay started");
    let supervisor = Supervisor::new(&shutdown);
    let tasks = start_tasks(&supervisor, &relay);
    supervisor.stop().cancelled().await;
    // PostgreSQL rolls back what is still open, and another relay takes it again.
    tasks.end().await;
    tracing::info!("relay stopped");
    Ok(supervisor.outcome()?)
}

fn start_tasks(supervisor: &Supervisor, relay: &Arc<Relay>) -> Tasks<Relay> {
    let mut tasks = Tasks::new(supervisor, relay);
    tasks.every("relay listener", listener::CADENCE, Listener::default());
    tasks.every("relay pump", pump::CADENCE, Pump::default());
    tasks.every("relay refill", refill::CADENCE, Refill::default());
    tasks.every("relay epoch", epoch::CADENCE, EpochWatch::default());
    maintenance::start(relay, &mut tasks);
    let locks = LockWatch::new(&relay.store, &relay.health, "relay_locks", TABLES);
    tasks.every("relay locks", lock_watch::CADENCE, locks);
    tasks
}

impl Service for Relay {
    type Error = StepError;

    fn succeeded(&self) {
        self.health.up(POSTGRESQL);
    }

    async fn failed(&self, error: StepError) {
        match error {
            StepError::Queue(QueueError::EpochChanged) => self.epoch_changed.notify_one(),
            StepError::Queue(error) => {
                self.queue.forget_damage(&error).await;
                self.health.down("relay_redis", error);
            }
            // Another relay is working on the same rows, or a table is locked, which the lock watch reports.
            StepError::Store(error) if error.is_contention() => {}
            StepError::Store(error) => self.health.down(POSTGRESQL, error),
            StepError::Listener(error) => self.health.down("relay_listener", error),
        }
    }
}
