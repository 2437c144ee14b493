//! The deliverer reserves ids, claims their deliveries, signs and sends webhooks, and records every attempt. It never
//! decides who receives what, and holds neither a transaction nor a pooled connection while it sends.

mod claim_loop;
mod claiming;
mod classify;
mod client;
mod clock;
mod conceal;
mod condition;
mod config;
mod exchange;
mod faults;
mod heartbeat;
mod in_flight;
mod leases;
mod metric;
mod notes;
mod recorder;
mod registration;
mod request;
mod resolver;
mod unsent;

use std::sync::Arc;
use std::time::Duration;

use postrider_queue::{Queue, QueueError};
use postrider_runtime::every::{Service, Tasks};
use postrider_runtime::health::Health;
use postrider_runtime::supervise::{Supervisor, TaskFailed};
use postrider_secrets::rekey;
use postrider_store::lock_watch::{self, LockWatch, Tables};
use postrider_store::{Store, StoreError, start};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use claim_loop::ClaimLoop;
use client::Client;
pub use client::ClientError;
use condition::Condition;
pub use config::DelivererConfig;
use faults::Faults;
use heartbeat::Held;
use in_flight::InFlight;
use leases::Leases;
use notes::{NoteWriter, Notes};
use recorder::Recorder;
use registration::{Registration, RegistrationError, Session};

/// Delay before a failed operation is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// The health check for PostgreSQL.
const POSTGRESQL: &str = "deliverer_postgresql";

/// Tables that a deliverer needs. The lock watch reports long locks on them.
const TABLES: Tables = Tables {
    written: &["deliveries", "delivery_attempts", "leases", "outbox"],
    read: &["events", "endpoints", "endpoint_secrets", "replays"],
};

/// Why a deliverer stopped.
#[derive(Debug, thiserror::Error)]
pub enum DelivererError {
    /// PostgreSQL refuses the role or the database, or its schema does not fit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address of Redis or its certificates are not usable.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The HTTP client could not be built: certificates, proxy or name servers.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// One of its tasks panicked.
    #[error("the deliverer cannot go on")]
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
    Registration(#[from] RegistrationError),
}

/// State that the tasks of a deliverer share.
struct Deliverer {
    config: DelivererConfig,
    store: Store,
    queue: Queue,
    client: Client,
    health: Health,
    registration: Registration,
    held: Held,
    leases: Leases,
    recorder: Recorder,
    /// How the latest attempts to each endpoint ended.
    condition: Condition,
    /// Changes of endpoint state that wait to be written to PostgreSQL.
    notes: Notes,
    /// Faults on our side that keep webhooks from being sent.
    faults: Faults,
    in_flight: Arc<InFlight>,
    sending: TaskTracker,
}

impl Deliverer {
    /// Reports a failure of Redis.
    async fn redis_failed(&self, error: QueueError) {
        self.queue.forget_damage(&error).await;
        self.health.down("deliverer_redis", error);
    }
}

impl Service for Deliverer {
    type Error = StepError;

    async fn failed(&self, error: StepError) {
        match error {
            // A table is locked, which the lock watch reports.
            StepError::Store(error) if error.is_contention() => {}
            StepError::Store(error) => self.health.down(POSTGRESQL, error),
            StepError::Queue(error) => self.redis_failed(error).await,
            StepError::Registration(error) => self.health.down("deliverer_registration", error),
        }
    }
}

/// Runs a deliverer until `shutdown`. It then claims nothing new, finishes what is in flight within the configured
/// grace period, records it, and gives back claims that were not sent. Waits out outages of PostgreSQL and Redis.
///
/// # Errors
/// At start, if the database is not usable or the configuration is wrong; later, if one of its tasks panics.
pub async fn run(
    config: DelivererConfig,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), DelivererError> {
    metric::describe();
    let store = Store::new(&config.database);
    let queue = Queue::new(&config.queue)?;
    let client = Client::new(&config)?;
    let keyring = || rekey::check_keyring(&store, &config.keyring);
    if !start::until_it_fits(&store, keyring, &health, POSTGRESQL, &shutdown).await? {
        return Ok(());
    }
    let (recorder, results) = recorder::channel();
    let deliverer = Arc::new(Deliverer {
        registration: Registration::new(config.database.clone()),
        in_flight: Arc::new(InFlight::new(config.concurrency, config.body_bytes)),
        held: Held::default(),
        leases: Leases::default(),
        condition: Condition::default(),
        notes: Notes::default(),
        faults: Faults::default(),
        sending: TaskTracker::new(),
        store,
        queue,
        client,
        health,
        recorder,
        config,
    });
    tracing::info!("deliverer started");

    let supervisor = Supervisor::new(&shutdown);
    let stop = supervisor.stop();
    let upkeep = start_upkeep(&supervisor, &deliverer);
    let recording = supervisor.spawn("deliverer recorder", recorder::run(deliverer.clone(), results));
    let mut claims = Tasks::new(&supervisor, &deliverer);
    claims.every("deliverer claims", claim_loop::CADENCE, ClaimLoop::until(stop.clone()));
    stop.cancelled().await;
    finish(&deliverer, claims, recording).await;
    upkeep.end().await;
    tracing::info!("deliverer stopped");
    Ok(supervisor.outcome()?)
}

/// Starts the tasks that run until everything is recorded.
fn start_upkeep(supervisor: &Supervisor, deliverer: &Arc<Deliverer>) -> Tasks<Deliverer> {
    let mut tasks = Tasks::new(supervisor, deliverer);
    tasks.every("deliverer registration", registration::CADENCE, Session::default());
    tasks.every("deliverer heartbeat", heartbeat::CADENCE, heartbeat::extend);
    tasks.every("deliverer condition", condition::CADENCE, condition::write);
    tasks.every("deliverer notes", notes::CADENCE, NoteWriter);
    tasks.every("deliverer connections", client::SWEEP_CADENCE, client::sweep);
    let locks = LockWatch::new(&deliverer.store, &deliverer.health, "deliverer_locks", TABLES);
    tasks.every("deliverer locks", lock_watch::CADENCE, locks);
    tasks
}

/// Waits until the claim loop has stopped, every exchange has ended, and every attempt is recorded, but no longer than
/// the grace period.
async fn finish(deliverer: &Deliverer, claims: Tasks<Deliverer>, recording: AbortOnDropHandle<()>) {
    let finished = async {
        // The loop stops between two batches.
        claims.finish().await;
        deliverer.sending.close();
        let in_flight = deliverer.sending.len();
        if in_flight > 0 {
            tracing::info!(in_flight, "waiting for webhooks in flight");
        }
        deliverer.sending.wait().await;
        deliverer.recorder.close();
        let _ = recording.await;
    };
    if tokio::time::timeout(deliverer.config.stop_grace, finished).await.is_err() {
        tracing::warn!("the grace period is over; webhooks in flight will be sent again");
    }
}
