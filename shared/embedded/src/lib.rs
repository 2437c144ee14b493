//! The private PostgreSQL and Redis of `postrider up`: started from the installed programs, in a data
//! directory of their own, reached by sockets that nobody else can open.
//!
//! They are processes of their own, in groups of their own. Ctrl-C does not reach them, so that services
//! can finish their work first; and when `postrider up` is killed they go on, and the next start adopts
//! them. Nothing here deletes data or pid files: whether a cluster is in use, PostgreSQL decides.

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

/// How the private servers are run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether PostgreSQL waits for the disk. Only a test may do without.
    pub fsync: bool,
    /// Whether the servers end at once when the [`Embedded`] is dropped without [`Embedded::stop`], as a
    /// test wants it. Otherwise they go on, and the next start adopts them.
    pub end_on_drop: bool,
    /// Whether PostgreSQL counts what each statement costs, in `pg_stat_statements`, where that is installed.
    pub track_statements: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { fsync: true, end_on_drop: false, track_statements: false }
    }
}

/// How a server is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// In good order, without waiting for clients.
    Fast,
    /// At once: PostgreSQL recovers at its next start, as after a power cut.
    Immediate,
    /// By SIGKILL.
    Kill,
}

/// A private PostgreSQL and Redis that run.
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
    /// Starts the servers in `data_dir`, or adopts those that an earlier process left running there.
    /// Returns when both answer and the database `postrider` exists.
    ///
    /// Under root the servers run as whoever owns the directory, and a new directory is given to
    /// `postgres`, or else to `nobody`.
    ///
    /// # Errors
    /// With a sentence that says what to do. What had been started is stopped again.
    pub async fn start(data_dir: &Path, options: Options) -> Result<Self, EmbeddedError> {
        // What is missing is said before a cluster is made in vain.
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

    /// The database, as `tokio_postgres::Config` parses it: `host=<directory> port=… user=… dbname=…`.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Redis, by its socket: `redis+unix:///….sock`.
    #[must_use]
    pub fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// The numbers of the processes of PostgreSQL and Redis, while they run.
    #[must_use]
    pub fn process_ids(&self) -> (Option<u32>, Option<u32>) {
        (self.postgres.process_id(), self.redis.process_id())
    }

    /// Waits until a server ends that should run, and tells which; otherwise never returns. May be
    /// cancelled and called again.
    pub async fn wait_failure(&mut self) -> EmbeddedError {
        tokio::select! {
            failure = self.postgres.failure() => failure,
            failure = self.redis.failure() => failure,
        }
    }

    /// Ends Redis, then PostgreSQL, and waits for both.
    ///
    /// # Errors
    /// When one of them does not end.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        let redis = self.redis.stop(Stop::Fast).await;
        self.postgres.stop(Stop::Fast).await?;
        redis
    }

    /// Ends PostgreSQL and waits for it.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_postgres(&mut self, how: Stop) -> Result<(), EmbeddedError> {
        self.postgres.stop(how).await
    }

    /// Starts PostgreSQL again after [`stop_postgres`](Self::stop_postgres), or after it has ended by itself.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_postgres(&mut self) -> Result<(), EmbeddedError> {
        self.postgres.launch(&self.data_dir).await
    }

    /// Ends Redis and waits for it. All that it held is gone.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_redis(&mut self, how: Stop) -> Result<(), EmbeddedError> {
        self.redis.stop(how).await
    }

    /// Starts Redis again after [`stop_redis`](Self::stop_redis), or after it has ended by itself.
    ///
    /// # Errors
    /// When it does not start.
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
