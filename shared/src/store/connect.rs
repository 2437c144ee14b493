//! Connections to PostgreSQL: pools for statements, and single ones for what needs a session.

use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;
use crate::config::DatabaseConfig;
use crate::trust;

/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a free connection of the pool.
const POOL_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without an acknowledgement the network has lost the server.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);

/// What every session sets. A writer does not wait long for a row, so that a batch can be split around
/// the item that is blocked; and a host that vanishes does not keep its rows locked.
///
/// A plan is made once for a session, and not for each call, which costs more than most calls do. It may be made while
/// a table is empty and be used when it has millions of rows, so it goes by an index wherever there is one.
const SESSION: &str = "-c lock_timeout=250ms -c idle_in_transaction_session_timeout=10s -c statement_timeout=30s \
     -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off";

/// Where all tables are, whoever connects and whatever else is in the database. It is set after what the URL
/// says: PostgreSQL's own default looks first into a schema of the role's name, which might be this one or not.
pub(super) const SCHEMA: &str = "postrider";

/// What a session of the relaxed pool sets beside that.
const RELAXED: &str = "-c synchronous_commit=off";

/// PostgreSQL, through two pools.
#[derive(Clone)]
pub struct Store {
    durable: Pool,
    relaxed: Pool,
}

impl Store {
    /// Prepares the pools; nothing is connected before it is needed.
    ///
    /// # Errors
    /// When the extra certificates cannot be read.
    pub fn new(config: &DatabaseConfig) -> Result<Self, StoreError> {
        Ok(Self { durable: pool(config, SESSION)?, relaxed: pool(config, &format!("{SESSION} {RELAXED}"))? })
    }

    /// A connection whose commits have reached the disk when they return.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached, or every connection is in use for too long.
    pub async fn durable(&self) -> Result<Object, StoreError> {
        Ok(self.durable.get().await?)
    }

    /// A connection whose commits may be lost by a crash of PostgreSQL, never half of one: for claims and
    /// takes, which such a crash merely undoes.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached, or every connection is in use for too long.
    pub async fn relaxed(&self) -> Result<Object, StoreError> {
        Ok(self.relaxed.get().await?)
    }

    /// Asks PostgreSQL for a sign of life.
    ///
    /// # Errors
    /// When there is none within two seconds.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let ping = async { Ok(self.durable().await?.simple_query("select 1").await.map(|_| ())?) };
        tokio::time::timeout(Duration::from_secs(2), ping)
            .await
            .unwrap_or_else(|_| Err(StoreError::Schema("PostgreSQL does not answer".to_owned())))
    }
}

fn pool(config: &DatabaseConfig, options: &str) -> Result<Pool, StoreError> {
    let manager = Manager::from_config(
        with_session(&config.url, options),
        tls(config),
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    Pool::builder(manager)
        .max_size(config.pool_size)
        .runtime(Runtime::Tokio1)
        // The one that was used last has its plans made and its caches warm.
        .queue_mode(QueueMode::Lifo)
        .timeouts(Timeouts {
            wait: Some(POOL_TIMEOUT),
            create: Some(POOL_TIMEOUT),
            recycle: Some(POOL_TIMEOUT),
        })
        .build()
        .map_err(|error| StoreError::Schema(error.to_string()))
}

/// A connection of its own, for LISTEN and session locks. It ends when this is dropped, and
/// [`messages`](Self::messages) ends when it is lost.
pub struct Dedicated {
    /// For statements on this session.
    pub client: Client,
    /// Notifications; closed when the connection is.
    pub messages: tokio::sync::mpsc::Receiver<tokio_postgres::Notification>,
}

/// Opens a connection past any pooler.
///
/// # Errors
/// When PostgreSQL cannot be reached.
pub async fn connect_dedicated(config: &DatabaseConfig) -> Result<Dedicated, StoreError> {
    let (client, mut connection) = with_session(&config.direct_url, SESSION).connect(tls(config)).await?;
    // More notifications than this in one go say no more than these: "look".
    let (sender, messages) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    let _ = sender.try_send(notification);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    });
    Ok(Dedicated { client, messages })
}

/// Connects as an administrator of the schema does: without the timeouts of services.
pub(super) async fn connect_unlimited(config: &DatabaseConfig) -> Result<Client, StoreError> {
    let (client, connection) = with_session(&config.direct_url, "").connect(tls(config)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection for migrations ended");
        }
    });
    Ok(client)
}

fn with_session(url: &Config, options: &str) -> Config {
    let mut config = url.clone();
    let own = url.get_options().unwrap_or_default();
    config.options(format!("{options} {own} -c search_path={SCHEMA}").trim());
    if config.get_application_name().is_none() {
        config.application_name("postrider");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    config.tcp_user_timeout(TCP_TIMEOUT);
    config.keepalives_idle(TCP_TIMEOUT);
    config
}

fn tls(config: &DatabaseConfig) -> MakeRustlsConnect {
    MakeRustlsConnect::new(trust::client_config(trust::roots(&config.extra_certificates)))
}
