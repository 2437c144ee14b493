//! The relay: listens, takes what is due from the outbox, pushes it to Redis, parks what does not fit,
//! and reconciles; takes bulk replays on, and removes what was deleted. The only producer to Redis. It never
//! sees a URL, a secret or a payload, and any number of relays run side by side.

mod cleanup;
mod config;
mod epoch;
mod listener;
mod low_water;
mod partitions;
mod pump;
mod refill;
mod replay;
mod statistics;
mod stranded;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::retry::RetrySchedule;
use postrider_queue::{Queue, QueueError};
use postrider_runtime::health::Health;
use postrider_runtime::supervise::{self, Supervisor, TaskFailed};
use postrider_store::lock_watch::{self, Tables};
use postrider_store::{DatabaseConfig, Store, StoreError, start};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use config::RelayConfig;
use listener::Listener;

/// After a failure, nothing is tried for this long.
const PAUSE: Duration = Duration::from_millis(250);

/// The tables that a relay cannot do without.
const TABLES: Tables = Tables {
    written: &["outbox", "deliveries", "leases", "queue_epoch"],
    read: &["endpoints", "endpoint_health"],
};

/// What ends a relay, or one of its steps.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// PostgreSQL.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Redis.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A defect in one of the loops.
    #[error("the relay cannot go on")]
    Task(#[from] TaskFailed),
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
/// At its start, when PostgreSQL does not fit or the configuration cannot be used; later, when one of its loops has
/// panicked.
pub async fn run(config: RelayConfig, health: Health, shutdown: CancellationToken) -> Result<(), RelayError> {
    let store = Store::new(&config.database);
    let queue = Queue::new(&config.queue)?;
    if !start::until_it_fits(&store, || std::future::ready(Ok(())), &health, "relay_postgresql", &shutdown)
        .await?
    {
        return Ok(());
    }
    let relay = Arc::new(Relay {
        store,
        queue,
        health,
        retry_schedule: config.retry_schedule,
        listener: Listener::new(config.database.clone()),
        database: config.database,
        retention_days: config.retention_days,
        epoch_changed: Notify::new(),
    });
    tracing::info!("relay started");
    let supervisor = Supervisor::new(&shutdown);
    let mut loops = start_loops(&supervisor, &relay);
    let watch = lock_watch::run(relay.store.clone(), relay.health.clone(), "relay_locks", TABLES);
    loops.push(supervisor.spawn("relay locks", watch));
    supervisor.stop().cancelled().await;
    // Whatever was under way is undone by PostgreSQL, and taken again by another relay.
    supervise::end(loops).await;
    tracing::info!("relay stopped");
    Ok(supervisor.outcome()?)
}

/// Starts the loops. They run until their handles are dropped.
fn start_loops(supervisor: &Supervisor, relay: &Arc<Relay>) -> Vec<AbortOnDropHandle<()>> {
    macro_rules! start {
        ($($name:literal: $run:path),+ $(,)?) => {
            vec![$({
                let relay = relay.clone();
                supervisor.spawn($name, async move { $run(&relay).await })
            }),+]
        };
    }
    start![
        "relay listener": listener::run,
        "relay pump": pump::run,
        "relay refill": refill::run,
        "relay epoch": epoch::run,
        "relay replay": replay::run,
        "relay sweep": sweep::run,
        "relay stranded": stranded::run,
        "relay cleanup": cleanup::run,
        "relay statistics": statistics::run,
        "relay partitions": partitions::run,
    ]
}

impl Relay {
    /// Notes how a step ended, and waits a little after a failure.
    async fn note_result<T>(&self, result: Result<T, RelayError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.health.up("relay_postgresql");
                return Some(value);
            }
            Err(RelayError::Queue(QueueError::EpochChanged)) => self.epoch_changed.notify_one(),
            Err(RelayError::Queue(error)) => {
                self.queue.forget_damage(&error).await;
                self.health.down("relay_redis", error);
            }
            // Another relay is at it, or a table is locked, which the health has a part for.
            Err(RelayError::Store(error)) if error.is_contention() => {
                tracing::debug!(%error, "a step met a lock");
            }
            Err(RelayError::Store(error)) => self.health.down("relay_postgresql", error),
            Err(RelayError::Task(failed)) => tracing::error!(%failed, "a step has failed"),
        }
        tokio::time::sleep(PAUSE).await;
        None
    }
}
