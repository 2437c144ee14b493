//! Shows that this deliverer lives: a session that holds the advisory lock of its number. When the lock has been free
//! for some seconds, its leases are swept.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::ids::DelivererNumber;
use postrider_runtime::health::Health;
use postrider_store::{DatabaseConfig, Dedicated, StoreError, clock, connect_dedicated, leases};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::{Deliverer, PAUSE};

/// How often the session is asked whether it is still there.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// The number under which this deliverer is known to live, for as long as it does.
pub(crate) struct Registration {
    database: DatabaseConfig,
    pub(crate) number: DelivererNumber,
    is_held: watch::Sender<bool>,
}

impl Registration {
    pub(crate) fn new(database: DatabaseConfig) -> Self {
        Self { database, number: DelivererNumber::draw(), is_held: watch::Sender::new(false) }
    }

    /// Waits until the deliverer is registered. What is claimed without that is swept soon.
    pub(crate) async fn held(&self) -> DelivererNumber {
        let mut is_held = self.is_held.subscribe();
        is_held.wait_for(|is_held| *is_held).await.expect("the sender lives as long as this");
        self.number
    }
}

/// Keeps the deliverer registered, for ever.
pub(crate) async fn run(deliverer: Arc<Deliverer>) {
    let registration = &deliverer.registration;
    loop {
        match register(registration).await {
            Ok(Some(session)) => {
                deliverer.health.up("deliverer_registration");
                registration.is_held.send_replace(true);
                watch_over(&deliverer.health, session).await;
                registration.is_held.send_replace(false);
                deliverer.health.down("deliverer_registration", "the connection was lost");
            }
            Ok(None) => deliverer.health.down("deliverer_registration", "the old session is still there"),
            Err(error) => deliverer.health.down("deliverer_registration", error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn register(registration: &Registration) -> Result<Option<Dedicated>, StoreError> {
    let session = connect_dedicated(&registration.database).await?;
    let is_held = leases::register(&session.client, registration.number).await?;
    Ok(is_held.then_some(session))
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
