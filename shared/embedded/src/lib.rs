//! The private PostgreSQL and Redis of `postrider up`. They are started from the installed programs in a data directory
//! of their own, and are reached by sockets that other users cannot open.
//!
//! Each runs as a process in its own process group. Ctrl-C does not reach them, so that services can finish their work
//! first. If `postrider up` is killed, the servers continue to run, and the next start adopts them. Nothing here
//! deletes data or pid files: PostgreSQL itself decides whether a cluster is in use.

mod data_dir;
mod error;
mod postgres;
mod process;
mod programs;
mod redis;

use std::path::Path;

pub use data_dir::default_data_dir;
pub use error::EmbeddedError;

use self::postgres::Postgres;
use self::redis::Redis;
use data_dir::DataDir;

/// Options for the private servers.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether PostgreSQL waits for the disk. Only tests may turn this off.
    pub fsync: bool,
    /// Whether the servers end at once when the [`Embedded`] is dropped without [`Embedded::stop`], for tests.
    /// Otherwise they continue to run, and the next start adopts them.
    pub end_on_drop: bool,
    /// Whether PostgreSQL records the cost of each statement in `pg_stat_statements`. The extension must be installed.
    pub track_statements: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { fsync: true, end_on_drop: false, track_statements: false }
    }
}

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A normal shutdown that does not wait for clients.
    Fast,
    /// At once. PostgreSQL recovers at its next start, as after a power failure.
    Immediate,
    /// The process is killed with SIGKILL.
    Kill,
}

/// A running private PostgreSQL and Redis.
#[derive(Debug)]
pub struct Embedded {
    data_dir: DataDir,
    options: Options,
    postgres: Postgres,
    redis: Redis,
    database_url: String,
    redis_url: String,
}

impl Embedded {
    /// Starts the servers in `data_dir`, or adopts those that an earlier process left running there. Returns when both
    /// respond and the database `postrider` exists.
    ///
    /// Under root the servers run as the owner of the directory. A new directory is given to `postgres`, or to `nobody`
    /// if that user does not exist.
    ///
    /// # Errors
    /// [`EmbeddedError`] with a sentence that says what to do. Servers that were already started are stopped again.
    pub async fn start(data_dir: &Path, options: Options) -> Result<Self, EmbeddedError> {
        // Report a missing Redis before creating a PostgreSQL cluster.
        programs::redis_server()?;
        let data_dir = DataDir::open(data_dir)?;
        let mut postgres = Postgres::start(&data_dir, options).await?;
        let redis = match Redis::start(&data_dir, postgres.sockets()).await {
            Ok(redis) => redis,
            Err(error) => {
                let _ = postgres.stop(Stop::Fast).await;
                return Err(error);
            }
        };
        let (database_url, redis_url) = (postgres.url("postrider"), redis.url());
        Ok(Self { data_dir, options, postgres, redis, database_url, redis_url })
    }

    /// Returns the address of the database, as `tokio_postgres::Config` parses it:
    /// `host=<directory> port=… user=… dbname=…`.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Returns the address of Redis, a socket: `redis+unix:///….sock`.
    #[must_use]
    pub fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// Returns the process ids of PostgreSQL and Redis while they run.
    #[must_use]
    pub fn process_ids(&self) -> (Option<u32>, Option<u32>) {
        (self.postgres.process_id(), self.redis.process_id())
    }

    /// Waits until a server ends that should be running, and returns which. Otherwise never returns. Cancel safe.
    pub async fn wait_failure(&mut self) -> EmbeddedError {
        tokio::select! {
            failure = self.postgres.failure() => failure,
            failure = self.redis.failure() => failure,
        }
    }

    /// Stops Redis, then PostgreSQL, and waits for both.
    ///
    /// # Errors
    /// [`EmbeddedError::NotStopped`] if one of them does not end.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        let redis = self.redis.stop(Stop::Fast).await;
        self.postgres.stop(Stop::Fast).await?;
        redis
    }

    /// Stops PostgreSQL and waits for it.
    ///
    /// # Errors
    /// [`EmbeddedError::NotStopped`] if it does not end.
    pub async fn stop_postgres(&mut self, how: Stop) -> Result<(), EmbeddedError> {
        self.postgres.stop(how).await
    }

    /// Starts PostgreSQL again after [`stop_postgres`](Self::stop_postgres), or after it has ended unexpectedly.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not start.
    pub async fn start_postgres(&mut self) -> Result<(), EmbeddedError> {
        self.postgres.launch(&self.data_dir).await
    }

    /// Stops Redis and waits for it. Everything in it is lost.
    ///
    /// # Errors
    /// [`EmbeddedError::NotStopped`] if it does not end.
    pub async fn stop_redis(&mut self, how: Stop) -> Result<(), EmbeddedError> {
        self.redis.stop(how).await
    }

    /// Starts Redis again after [`stop_redis`](Self::stop_redis), or after it has ended unexpectedly.
    ///
    /// # Errors
    /// [`EmbeddedError`] if it does not start.
    pub async fn start_redis(&mut self) -> Result<(), EmbeddedError> {
        self.redis.launch(&self.data_dir).await
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if self.options.end_on_drop {
            self.redis.send(Stop::Kill);
            self.postgres.send(Stop::Immediate);
        }
    }
}
