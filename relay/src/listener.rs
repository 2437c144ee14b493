//! Listens for notifications about the outbox. A notification is only a hint: the tasks that wait for one also poll.

use std::sync::Arc;
use std::time::Duration;

use postrider_runtime::every::{Next, Step};
use postrider_store::{Dedicated, StoreError, outbox};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::{Relay, StepError};

/// Interval between checks of the connection, and the timeout of each check.
pub(crate) const CADENCE: Duration = Duration::from_secs(5);

/// Signals from the listener to other tasks.
#[derive(Default)]
pub(crate) struct Heard {
    /// Rows may be due.
    pub(crate) due: Notify,
    /// Parked rows may fit into Redis.
    pub(crate) parked: Notify,
    /// When the connection was last restored after a loss.
    recovered: watch::Sender<Option<Instant>>,
}

impl Heard {
    /// Returns the time since the connection was last restored, or `None` if it was never lost.
    pub(crate) fn since_recovery(&self) -> Option<Duration> {
        self.recovered.borrow().map(|at| at.elapsed())
    }
}

/// Why the listener receives no notifications.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenerError {
    #[error(transparent)]
    Connect(StoreError),
    #[error("the connection was lost")]
    Lost,
}

/// A listening connection, opened again after it is lost.
#[derive(Default)]
pub(crate) struct Listener {
    connection: Option<Dedicated>,
    was_lost: bool,
}

impl Step<Relay> for Listener {
    /// Connects, or checks the connection.
    async fn run(&mut self, relay: &Arc<Relay>) -> Result<Next, StepError> {
        match &self.connection {
            None => self.connect(relay).await?,
            Some(connection) if is_alive(connection).await => {}
            Some(_) => return Err(self.lost().into()),
        }
        Ok(Next::Later)
    }

    /// Forwards notifications. Returns an error when the connection is lost.
    async fn woken(&mut self, relay: &Arc<Relay>) -> Result<(), StepError> {
        if let Some(connection) = &mut self.connection {
            while let Some(message) = connection.messages.recv().await {
                let is_parked = message.payload() == outbox::PARKED;
                if is_parked { &relay.heard.parked } else { &relay.heard.due }.notify_one();
            }
        }
        Err(self.lost().into())
    }
}

impl Listener {
    async fn connect(&mut self, relay: &Relay) -> Result<(), ListenerError> {
        let connected = outbox::listen(&relay.database).await;
        let was_lost = std::mem::replace(&mut self.was_lost, connected.is_err());
        self.connection = Some(connected.map_err(ListenerError::Connect)?);
        relay.health.up("relay_listener");
        if was_lost {
            relay.heard.recovered.send_replace(Some(Instant::now()));
        }
        // Notifications sent before the connection was listening were missed.
        relay.heard.due.notify_one();
        Ok(())
    }

    fn lost(&mut self) -> ListenerError {
        *self = Self { connection: None, was_lost: true };
        ListenerError::Lost
    }
}

async fn is_alive(connection: &Dedicated) -> bool {
    matches!(timeout(CADENCE, connection.ping()).await, Ok(Ok(())))
}
