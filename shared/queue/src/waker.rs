//! How a deliverer with nothing to do learns that there is something.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, ErrorKind, RedisError};
use tokio::sync::watch;

use super::connection::{Connection, Numbered};
use super::{QueueError, RESPONSE_TIMEOUT};

/// How long an idle deliverer waits for a wake-up before it looks by itself.
const WAKE_BACKSTOP: Duration = Duration::from_secs(1);

/// Waits for something to do.
pub struct Waker {
    connection: MultiplexedConnection,
    /// The connection that everything else goes through.
    main: watch::Receiver<Numbered>,
    key: String,
}

impl Waker {
    pub(super) async fn connect(connection: &Connection, key: String) -> Result<Self, QueueError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(WAKE_BACKSTOP + RESPONSE_TIMEOUT));
        let main = connection.subscribe();
        let connection = connection.client().get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection, main, key })
    }

    /// Waits until something was queued, or `limit`, or a second has passed.
    ///
    /// # Errors
    /// When the connection is lost, or leads to a server that is of no use.
    pub async fn wait(&mut self, limit: Option<Duration>) -> Result<(), QueueError> {
        let limit = limit.unwrap_or(WAKE_BACKSTOP).clamp(Duration::from_millis(1), WAKE_BACKSTOP);
        let popped = self.connection.blpop::<_, Option<(Vec<u8>, Vec<u8>)>>(&self.key, limit.as_secs_f64());
        tokio::select! {
            popped = popped => Ok(popped.map(|_| ())?),
            _ = self.main.changed() => Err(outdated().into()),
        }
    }
}

fn outdated() -> RedisError {
    (ErrorKind::Io, "the connection leads to a server that is of no use").into()
}
