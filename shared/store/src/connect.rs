//! Connections to PostgreSQL: pools for statements, and single ones for what needs a session.

use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use postrider_runtime::tls_roots;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::sql::Sql;
use crate::{DatabaseConfig, StoreError, session_settings, sessions};

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

/// What a session of an administrator sets instead.
const UNLIMITED: &str = "-c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c statement_timeout=0";

/// What a session of the durable pool sets beside that, and what one of the relaxed pool.
const DURABLE: &str = "-c synchronous_commit=on";
const RELAXED: &str = "-c synchronous_commit=off";

/// What a session of the API sets beside that. Only requests of the same application wait for each other, and of these
/// few are under way at once, so they may wait their turn.
const PATIENT: &str = "-c lock_timeout=3s";

/// What a session that accepts events sets beside that: whoever is in a statement with others must not hold them
/// up for long.
const ACCEPTING: &str = "-c synchronous_commit=on -c statement_timeout=4s";

const PING: Sql = Sql::named("-- session.ping\nselect 1 as alive");

/// PostgreSQL, through three pools.
#[derive(Clone)]
pub struct Store {
    accepting: Pool,
    durable: Pool,
    relaxed: Pool,
}

impl Store {
    /// Prepares the pools; nothing is connected before it is needed.
    #[must_use]
    pub fn new(config: &DatabaseConfig) -> Self {
        Self::with_durable(config, DURABLE)
    }

    /// The same for requests: a [`durable`](Self::durable) connection waits longer for what another one has locked.
    #[must_use]
    pub fn for_requests(config: &DatabaseConfig) -> Self {
        Self::with_durable(config, &format!("{DURABLE} {PATIENT}"))
    }

    fn with_durable(config: &DatabaseConfig, durable: &str) -> Self {
        Self {
            accepting: pool(config, ACCEPTING),
            durable: pool(config, durable),
            relaxed: pool(config, RELAXED),
        }
    }

    /// A connection like a [`durable`](Self::durable) one, for accepting events alone: no other request can use
    /// it up.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached, or every connection is in use for too long.
    pub async fn accepting(&self) -> Result<Object, StoreError> {
        Ok(self.accepting.get().await?)
    }

    /// A connection whose commits have reached the disk when they return.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached, or every connection is in use for too long.
    pub async fn durable(&self) -> Result<Object, StoreError> {
        Ok(self.durable.get().await?)
    }

    /// A connection whose commits a crash of PostgreSQL may lose, each wholly or not at all. For work that is then done
    /// again: takes, claims, steps that commit together with their cursor (replays, cleanups, the reconciliation), draws
    /// from budgets, notes about the health of endpoints.
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
        let ping = async { Ok(self.durable().await?.simple_query(PING.text()).await.map(|_| ())?) };
        tokio::time::timeout(Duration::from_secs(2), ping)
            .await
            .unwrap_or_else(|_| Err(StoreError::NoResponse))
    }
}

fn pool(config: &DatabaseConfig, durability: &str) -> Pool {
    let manager = Manager::from_config(
        with_session(&config.url, &format!("{SESSION} {durability}")),
        tls(config),
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    Pool::builder(manager)
        .max_size(config.pool_size)
        .runtime(Runtime::Tokio1)
        // The one that was used last has its plans made and its caches warm.
        .queue_mode(QueueMode::Lifo)
        .pre_recycle(Hook::sync_fn(|_, metrics| match sessions::is_outdated(metrics.created) {
            true => Err(HookError::message("the session is outdated")),
            false => Ok(()),
        }))
        .timeouts(Timeouts {
            wait: Some(POOL_TIMEOUT),
            create: Some(POOL_TIMEOUT),
            recycle: Some(POOL_TIMEOUT),
        })
        .build()
        .expect("a pool with timeouts has a runtime")
}

/// A connection of its own, for LISTEN and session locks. It ends when this is dropped, and
/// [`messages`](Self::messages) ends when it is lost.
pub struct Dedicated {
    /// For statements on this session.
    pub client: Client,
    /// Notifications; closed when the connection is.
    pub messages: tokio::sync::mpsc::Receiver<tokio_postgres::Notification>,
}

impl Dedicated {
    /// Asks PostgreSQL for a sign of life.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.client.simple_query(PING.text()).await.map(|_| ())?)
    }
}

/// Opens a connection past any pooler. It ends when any session turns out to be on a server that has become read-only:
/// this one may be there too, and hear nothing.
///
/// # Errors
/// When PostgreSQL cannot be reached.
pub async fn connect_dedicated(config: &DatabaseConfig) -> Result<Dedicated, StoreError> {
    let (client, mut connection) = with_session(&config.direct_url, SESSION).connect(tls(config)).await?;
    // More notifications than this in one go say no more than these: "look".
    let (sender, messages) = tokio::sync::mpsc::channel(16);
    let forward = async move {
        while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    let _ = sender.try_send(notification);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = forward => {}
            () = sessions::server_is_read_only() => {}
        }
    });
    Ok(Dedicated { client, messages })
}

/// Connects as an administrator of the schema does: without the timeouts of services.
pub(super) async fn connect_unlimited(config: &DatabaseConfig) -> Result<Client, StoreError> {
    let (client, connection) = with_session(&config.direct_url, UNLIMITED).connect(tls(config)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection for migrations ended");
        }
    });
    Ok(client)
}

/// The URL may say otherwise of `options`, and not of what all statements rely on.
fn with_session(url: &Config, options: &str) -> Config {
    let mut config = url.clone();
    let own = url.get_options().unwrap_or_default();
    config.options(format!("{options} {own} {}", session_settings::options()).trim());
    // Of several servers behind a name the primary; and while there is none, no session at all.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
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
    MakeRustlsConnect::new(tls_roots::client_config(tls_roots::roots(&config.extra_certificates)))
}
