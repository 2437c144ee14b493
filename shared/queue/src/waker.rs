//! How an idle deliverer learns that there is work.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, ErrorKind, RedisError};
use tokio::sync::watch;

use super::connection::{Connection, Numbered};
use super::{QueueError, RESPONSE_TIMEOUT};

/// The longest time that an idle deliverer waits for a wake-up before it looks for itself.
const WAKE_BACKSTOP: Duration = Duration::from_secs(1);

/// Waits for work.
pub struct Waker {
    connection: MultiplexedConnection,
    /// The main connection. When it is replaced, this one is outdated too.
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

    /// Waits until something is queued, at most until `limit` or one second has passed.
    ///
    /// # Errors
    /// [`QueueError`] if the connection is lost, or leads to a server that cannot be used.
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
    (ErrorKind::Io, "the connection leads to a server that cannot be used").into()
}
