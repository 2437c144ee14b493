//! Hears when there is something new in the outbox. A hint: whoever waits for it looks by himself too.

use std::sync::Arc;
use std::time::Duration;

use postrider_runtime::every::{Next, Step};
use postrider_store::{Dedicated, StoreError, outbox};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::{Relay, StepError};

/// How often the connection is asked whether it is still there, and how long it has to answer.
pub(crate) const CADENCE: Duration = Duration::from_secs(5);

/// What the listener has heard.
#[derive(Default)]
pub(crate) struct Heard {
    /// Something may be due.
    pub(crate) due: Notify,
    /// Something that was parked may fit.
    pub(crate) parked: Notify,
    /// When the connection was last made again after a loss.
    recovered: watch::Sender<Option<Instant>>,
}

impl Heard {
    /// How long ago PostgreSQL came back; `None`: it was never away.
    pub(crate) fn since_recovery(&self) -> Option<Duration> {
        self.recovered.borrow().map(|at| at.elapsed())
    }
}

/// Why nothing is heard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenerError {
    #[error(transparent)]
    Connect(StoreError),
    #[error("the connection was lost")]
    Lost,
}

/// A connection that listens, and is made again when it is lost.
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

    /// Passes on what is heard. Returns when the connection is lost.
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
        // What was written before it listened was not heard.
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
