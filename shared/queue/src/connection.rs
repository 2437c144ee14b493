//! The connection to Redis. It is replaced if it leads to a server that cannot be used.
//!
//! The connection manager of the `redis` crate reconnects when a connection breaks. After a failover it may not break:
//! the server at the other end has become a replica and refuses every write, while the name in the URL already leads to
//! another server.

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::sync::watch;

use super::RESPONSE_TIMEOUT;

/// Error codes of a server that cannot be used for any command. Another server may work, or this one after a new
/// connection signs in again.
const USELESS: [&str; 8] =
    ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "MISCONF", "NOREPLICAS"];

/// A connection that all clones share.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    current: watch::Sender<Numbered>,
}

/// A connection, and the number of connections before it.
#[derive(Clone)]
pub(super) struct Numbered {
    number: u64,
    manager: ConnectionManager,
}

impl Connection {
    /// Prepares a connection. It is established on first use.
    pub(super) fn new(client: Client) -> RedisResult<Self> {
        let current = watch::Sender::new(Numbered { number: 0, manager: manager(&client)? });
        Ok(Self { client, current })
    }

    /// Returns a client for further connections to the same server.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Reports when the connection is replaced. Connections that were made before then are of no use either.
    pub(super) fn subscribe(&self) -> watch::Receiver<Numbered> {
        self.current.subscribe()
    }

    /// Replaces the connection if `error` shows that it cannot be used, unless another task has already done so.
    fn judge(&self, used: u64, error: &RedisError) {
        if !is_useless(error) {
            return;
        }
        let Ok(manager) = manager(&self.client) else { return };
        let is_replaced = self.current.send_if_modified(|current| {
            let is_current = current.number == used;
            if is_current {
                *current = Numbered { number: used + 1, manager };
            }
            is_current
        });
        if is_replaced {
            tracing::debug!(%error, "this connection to Redis cannot be used; opening another one");
        }
    }
}

/// Returns true if a new connection may work better. The manager replaces broken connections itself, but it would keep
/// one whose setup failed.
fn is_useless(error: &RedisError) -> bool {
    match error.code() {
        Some(code) => USELESS.contains(&code),
        None => error.is_timeout() || !error.is_io_error(),
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let Numbered { number, mut manager } = self.current.borrow().clone();
            let result = manager.send_packed_command(command).await.and_then(Value::extract_error);
            result.inspect_err(|error| self.judge(number, error))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let Numbered { number, mut manager } = self.current.borrow().clone();
            let values = manager.send_packed_commands(pipeline, offset, count).await;
            let values = values.inspect_err(|error| self.judge(number, error))?;
            for value in &values {
                if let Value::ServerError(error) = value {
                    self.judge(number, &error.clone().into());
                }
            }
            Ok(values)
        })
    }

    fn get_db(&self) -> i64 {
        self.current.borrow().manager.get_db()
    }
}

fn manager(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_connection_timeout(Some(RESPONSE_TIMEOUT))
        .set_number_of_retries(1);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
