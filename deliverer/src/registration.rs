//! Shows that this deliverer is alive: a session holds the advisory lock of its number. When the lock has been free for
//! some seconds, the leases of the deliverer are swept.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::ids::DelivererNumber;
use postrider_runtime::every::{Next, Step};
use postrider_store::{DatabaseConfig, Dedicated, StoreError, clock, connect_dedicated, leases};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::{Deliverer, StepError};

/// Interval between checks of the session, and the timeout of each check.
pub(crate) const CADENCE: Duration = Duration::from_secs(5);

/// The number of this deliverer, and whether its lock is held.
pub(crate) struct Registration {
    database: DatabaseConfig,
    pub(crate) number: DelivererNumber,
    is_held: watch::Sender<bool>,
}

impl Registration {
    pub(crate) fn new(database: DatabaseConfig) -> Self {
        Self { database, number: DelivererNumber::draw(), is_held: watch::Sender::new(false) }
    }

    /// Waits until the deliverer is registered. Leases claimed without registration would be swept soon.
    pub(crate) async fn held(&self) -> DelivererNumber {
        let mut is_held = self.is_held.subscribe();
        is_held.wait_for(|is_held| *is_held).await.expect("the sender lives as long as this");
        self.number
    }
}

/// Why a deliverer is not registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrationError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the old session is still there")]
    Occupied,
    #[error("the connection was lost")]
    Lost,
}

/// The session that holds the lock, opened again after it is lost.
#[derive(Default)]
pub(crate) struct Session(Option<Dedicated>);

impl Step<Deliverer> for Session {
    /// Registers if necessary, and checks the session by reading PostgreSQL's clock.
    async fn run(&mut self, deliverer: &Arc<Deliverer>) -> Result<Next, StepError> {
        let session = match &self.0 {
            Some(session) => session,
            None => self.0.insert(register(deliverer).await?),
        };
        match timeout(CADENCE, clock::ahead_seconds(&session.client)).await {
            Ok(Ok(ahead)) => crate::clock::note(&deliverer.health, ahead),
            Ok(Err(_)) | Err(_) => return Err(self.lost(deliverer).into()),
        }
        Ok(Next::Later)
    }

    /// Waits until the session is lost.
    async fn woken(&mut self, deliverer: &Arc<Deliverer>) -> Result<(), StepError> {
        if let Some(session) = &mut self.0 {
            while session.messages.recv().await.is_some() {}
        }
        Err(self.lost(deliverer).into())
    }
}

impl Session {
    fn lost(&mut self, deliverer: &Deliverer) -> RegistrationError {
        self.0 = None;
        deliverer.registration.is_held.send_replace(false);
        RegistrationError::Lost
    }
}

async fn register(deliverer: &Deliverer) -> Result<Dedicated, RegistrationError> {
    let registration = &deliverer.registration;
    let session = connect_dedicated(&registration.database).await?;
    if !leases::register(&session.client, registration.number).await? {
        return Err(RegistrationError::Occupied);
    }
    deliverer.health.up("deliverer_registration");
    registration.is_held.send_replace(true);
    Ok(session)
}
