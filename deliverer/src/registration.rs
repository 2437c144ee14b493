//! Shows that this deliverer lives: a session that holds the advisory lock of its number. When the lock
//! is free, its leases are swept.

use std::sync::Arc;
use std::time::Duration;

use postrider_shared::config::DatabaseConfig;
use postrider_shared::health::Health;
use postrider_shared::ids::DelivererNumber;
use postrider_shared::store::{Dedicated, StoreError, clock, connect_dedicated, leases};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::{Deliverer, PAUSE};

/// How often the session is asked whether it is still there.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// A session that was lost may live on at the server for a while and hold the old number. After this
/// long the deliverer takes another.
const KEEP_NUMBER_FOR: Duration = Duration::from_secs(5);

/// The number under which this deliverer is known to live.
pub(crate) struct Registration {
    database: DatabaseConfig,
    number: watch::Sender<Option<DelivererNumber>>,
}

impl Registration {
    pub(crate) fn new(database: DatabaseConfig) -> Self {
        Self { database, number: watch::Sender::new(None) }
    }

    /// Waits until the deliverer is registered. What is claimed without that is swept at once.
    pub(crate) async fn number(&self) -> DelivererNumber {
        let mut number = self.number.subscribe();
        let registered = number.wait_for(Option::is_some).await.expect("the sender lives as long as this");
        registered.expect("it was waited for")
    }
}

/// Keeps the deliverer registered, for ever.
pub(crate) async fn run(deliverer: Arc<Deliverer>) {
    let registration = &deliverer.registration;
    let mut last: Option<(DelivererNumber, Instant)> = None;
    loop {
        let wanted = last.filter(|(_, lost)| lost.elapsed() < KEEP_NUMBER_FOR).map(|(number, _)| number);
        match register(registration, wanted).await {
            Ok(Some((session, number))) => {
                deliverer.health.up("deliverer_registration");
                registration.number.send_replace(Some(number));
                watch_over(&deliverer.health, session).await;
                registration.number.send_replace(None);
                last = Some((number, Instant::now()));
                deliverer.health.down("deliverer_registration", "the connection was lost");
            }
            Ok(None) => deliverer.health.down("deliverer_registration", "the old session is still there"),
            Err(error) => deliverer.health.down("deliverer_registration", error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn register(
    registration: &Registration,
    wanted: Option<DelivererNumber>,
) -> Result<Option<(Dedicated, DelivererNumber)>, StoreError> {
    let session = connect_dedicated(&registration.database).await?;
    let number = match wanted {
        Some(number) => number,
        None => leases::draw_number(&session.client).await?,
    };
    let is_held = leases::hold_number(&session.client, number).await?;
    Ok(is_held.then_some((session, number)))
}

/// Returns when the session is lost. What it is asked is the time.
async fn watch_over(health: &Health, mut session: Dedicated) {
    loop {
        match timeout(CHECK_EVERY, clock::ahead_seconds(&session.client)).await {
            Ok(Ok(ahead)) => crate::clock::note(health, ahead),
            Ok(Err(_)) | Err(_) => return,
        }
        // Nobody notifies it: this ends with the connection, or never.
        if let Ok(None) = timeout(CHECK_EVERY, session.messages.recv()).await {
            return;
        }
    }
}
