//! Hears when there is something new in the outbox. A hint: whoever waits for it looks by himself too.

use std::time::Duration;

use postrider_runtime::health::Health;
use postrider_store::{DatabaseConfig, Dedicated, outbox};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::{PAUSE, Relay};

/// How often a silent connection is asked whether it is still there, and how long it has to answer.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Listens for ever.
pub(crate) async fn run(relay: &Relay) {
    relay.listener.run(&relay.health).await;
}

/// A connection that listens, and is made again when it is lost.
pub(crate) struct Listener {
    config: DatabaseConfig,
    heard: Notify,
    parked: Notify,
    /// When the connection was last made again after a loss.
    recovered: watch::Sender<Option<Instant>>,
}

impl Listener {
    pub(crate) fn new(config: DatabaseConfig) -> Self {
        Self { config, heard: Notify::new(), parked: Notify::new(), recovered: watch::Sender::new(None) }
    }

    /// Waits until something is heard, or `limit` has passed.
    pub(crate) async fn wait(&self, limit: Duration) {
        let _ = timeout(limit, self.heard.notified()).await;
    }

    /// Waits until something that was parked may fit, or `limit` has passed.
    pub(crate) async fn wait_for_parked(&self, limit: Duration) {
        let _ = timeout(limit, self.parked.notified()).await;
    }

    /// How long ago PostgreSQL came back; `None`: it was never away.
    pub(crate) fn since_recovery(&self) -> Option<Duration> {
        self.recovered.borrow().map(|at| at.elapsed())
    }

    async fn run(&self, health: &Health) {
        let mut was_lost = false;
        loop {
            match outbox::listen(&self.config).await {
                Ok(connection) => {
                    health.up("relay_listener");
                    if was_lost {
                        self.recovered.send_replace(Some(Instant::now()));
                    }
                    // What was written before it listened was not heard.
                    self.heard.notify_one();
                    self.hear(connection).await;
                    health.down("relay_listener", "the connection was lost");
                }
                Err(error) => health.down("relay_listener", error),
            }
            was_lost = true;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn hear(&self, mut connection: Dedicated) {
        loop {
            match timeout(CHECK_EVERY, connection.messages.recv()).await {
                Ok(Some(message)) if message.payload() == outbox::PARKED => self.parked.notify_one(),
                Ok(Some(_)) => self.heard.notify_one(),
                Ok(None) => return,
                Err(_) if is_alive(&connection).await => {}
                Err(_) => return,
            }
        }
    }
}

async fn is_alive(connection: &Dedicated) -> bool {
    matches!(timeout(CHECK_EVERY, connection.ping()).await, Ok(Ok(())))
}
