//! Connections to PostgreSQL: pools for statements, and dedicated ones for what needs a session.

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

/// The timeout for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a free connection from the pool.
const POOL_TIMEOUT: Duration = Duration::from_secs(5);
/// If sent data is not acknowledged for this long, the connection counts as lost.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of every session. A writer does not wait long for a row lock, so that a batch can be split to isolate the
/// blocked item. A host that disappears does not keep its rows locked.
///
/// A plan is made once per session. Planning each call would cost more than most calls do. A plan may be made while a
/// table is empty, and be used when it has millions of rows, so it uses an index wherever there is one.
const SESSION: &str = "-c lock_timeout=250ms -c idle_in_transaction_session_timeout=10s -c statement_timeout=30s \
     -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off";

/// Settings of an administrator's session instead of these.
const UNLIMITED: &str = "-c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c statement_timeout=0";

/// Additional settings of sessions in the durable pool, and of those in the relaxed pool.
const DURABLE: &str = "-c synchronous_commit=on";
const RELAXED: &str = "-c synchronous_commit=off";

/// Additional settings of the API's sessions. Only requests of the same application wait for each other, and few of
/// them are in flight at once, so they may wait longer.
const PATIENT: &str = "-c lock_timeout=3s";

/// Additional settings of sessions that accept events. An event must not hold up the others in its statement for long.
const ACCEPTING: &str = "-c synchronous_commit=on -c statement_timeout=4s";

const PING: Sql = Sql::named("-- session.ping\nselect 1 as alive");

/// Access to PostgreSQL through three pools.
#[derive(Clone)]
pub struct Store {
    accepting: Pool,
    durable: Pool,
    relaxed: Pool,
}

impl Store {
    /// Prepares the pools. Connections are opened when they are first needed.
    #[must_use]
    pub fn new(config: &DatabaseConfig) -> Self {
        Self::with_durable(config, DURABLE)
    }

    /// Like [`new`](Self::new), for a process that serves requests: its [`durable`](Self::durable) connections wait
    /// longer for locked rows.
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

    /// Returns a connection like a [`durable`](Self::durable) one, from a pool that is reserved for accepting events,
    /// so that other requests cannot exhaust it.
    ///
    /// # Errors
    /// [`StoreError::Pool`] if PostgreSQL cannot be reached, or all connections are in use for too long.
    pub async fn accepting(&self) -> Result<Object, StoreError> {
        Ok(self.accepting.get().await?)
    }

    /// Returns a connection whose commits have reached the disk when they return.
    ///
    /// # Errors
    /// [`StoreError::Pool`] if PostgreSQL cannot be reached, or all connections are in use for too long.
    pub async fn durable(&self) -> Result<Object, StoreError> {
        Ok(self.durable.get().await?)
    }

    /// Returns a connection whose commits may be lost in a crash of PostgreSQL, each as a whole. It is for work that is
    /// then repeated: takes, claims, steps that commit together with their cursor (replays, cleanups, the
    /// reconciliation), draws from budgets, and notes about the health of endpoints.
    ///
    /// # Errors
    /// [`StoreError::Pool`] if PostgreSQL cannot be reached, or all connections are in use for too long.
    pub async fn relaxed(&self) -> Result<Object, StoreError> {
        Ok(self.relaxed.get().await?)
    }

    /// Checks that PostgreSQL responds.
    ///
    /// # Errors
    /// [`StoreError`] if it does not respond within two seconds.
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
        // The connection that was used last has made its plans and has warm caches.
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

/// A dedicated connection, for `LISTEN` and session locks. Dropping this closes it. If the connection is lost,
/// [`messages`](Self::messages) ends.
pub struct Dedicated {
    /// Runs statements in this session.
    pub client: Client,
    /// The notifications. The channel is closed when the connection ends.
    pub messages: tokio::sync::mpsc::Receiver<tokio_postgres::Notification>,
}

impl Dedicated {
    /// Checks that PostgreSQL responds on this connection.
    ///
    /// # Errors
    /// [`StoreError`] if the connection is lost.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.client.simple_query(PING.text()).await.map(|_| ())?)
    }
}

/// Opens a connection that bypasses any pooler. The connection ends when any session finds that its server has become
/// read-only: this connection may be to the same server, which would send no notifications.
///
/// # Errors
/// [`StoreError`] if PostgreSQL cannot be reached.
pub async fn connect_dedicated(config: &DatabaseConfig) -> Result<Dedicated, StoreError> {
    let (client, mut connection) = with_session(&config.direct_url, SESSION).connect(tls(config)).await?;
    // Further notifications can be dropped, because all of them mean the same: "look".
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

/// Connects as an administrator of the schema, without the timeouts of services.
pub(super) async fn connect_unlimited(config: &DatabaseConfig) -> Result<Client, StoreError> {
    let (client, connection) = with_session(&config.direct_url, UNLIMITED).connect(tls(config)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection for migrations ended");
        }
    });
    Ok(client)
}

/// Applies session settings to a URL. Its own `options` can override them, but not those that all statements rely on.
fn with_session(url: &Config, options: &str) -> Config {
    let mut config = url.clone();
    let own = url.get_options().unwrap_or_default();
    config.options(format!("{options} {own} {}", session_settings::options()).trim());
    // Among several servers behind a name, connect to the primary. While there is none, do not connect.
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
