//! Support for all tests: a database and a Redis prefix for each test, services in this process or as processes that
//! can be killed, a producer and a receiver.
//!
//! Nothing here sleeps and hopes: tests wait for a condition, with a deadline.

#![allow(unreachable_pub, missing_docs, reason = "only tests use it")]

pub mod manage;
pub mod producer;
pub mod receiver;
pub mod service;
pub mod stack;
pub mod wire;

use std::time::{Duration, Instant};

use postrider_runtime::config::Source;
use postrider_store::DatabaseConfig;
use tokio_postgres::NoTls;
use uuid::Uuid;

/// How long a test waits for something that must happen. Long enough for a machine that is ten times as slow.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// How long deliveries may make no progress while some are open. The audit finds stranded ones after a minute.
const STILLNESS: Duration = Duration::from_secs(45);

/// Replaces the partitions of a new database by two: one that ended 40 days ago, and one that reaches into next week.
pub const OLD_PARTITIONS: &str = "
    do $$
    declare name text;
    begin
        for name in select p.name from partitions p loop
            execute format('drop table %I', name);
        end loop;
    end $$;
    select add_partitions(date_trunc('day', now(), 'UTC') - interval '40 days');
    select add_partitions(date_trunc('day', now(), 'UTC') + interval '8 days');";

/// A database and a Redis prefix that no other test uses.
#[derive(Clone)]
pub struct Bed {
    pub name: String,
    pub source: Source,
    maintenance: String,
}

impl Bed {
    /// Creates a migrated database on the servers that the environment names.
    pub async fn new() -> Self {
        let maintenance = required("POSTRIDER_TEST_DATABASE_URL");
        let redis = required("POSTRIDER_TEST_REDIS_URL");
        Self::on(&maintenance, &redis).await
    }

    /// Creates a database on other servers, for a test that restarts them.
    pub async fn on(maintenance: &str, redis: &str) -> Self {
        let bed = Self::empty_on(maintenance, redis, "").await;
        bed.migrate().await;
        bed
    }

    /// Creates a database without a schema, with these options of `create database`.
    pub async fn empty(options: &str) -> Self {
        let maintenance = required("POSTRIDER_TEST_DATABASE_URL");
        let redis = required("POSTRIDER_TEST_REDIS_URL");
        Self::empty_on(&maintenance, &redis, options).await
    }

    async fn empty_on(maintenance: &str, redis: &str, options: &str) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let client = connect(&maintenance.parse().expect("a database URL")).await;
        client.batch_execute(&format!("create database {name} {options}")).await.expect("a database");
        let mut source = Source::gather(|_| None, |_| None);
        source.set("DATABASE_URL", with_database(maintenance, &name));
        source.set("REDIS_URL", redis);
        source.set("POSTRIDER_REDIS_PREFIX", name.clone());
        source.set("POSTRIDER_ALLOW_NETWORKS", "127.0.0.1/32");
        source.set("POSTRIDER_RETRY_SCHEDULE", "1");
        source.set("POSTRIDER_DATABASE_POOL_SIZE", "4");
        Self { name, source, maintenance: maintenance.to_owned() }
    }

    /// Runs the migrations.
    pub async fn migrate(&self) {
        let config = self.source.read(DatabaseConfig::read).expect("the configuration of a test");
        postrider_store::migrate::migrate(&config).await.expect("the schema");
    }

    /// A connection to inspect or change what the services have stored.
    pub async fn sql(&self) -> tokio_postgres::Client {
        connect(&self.database()).await
    }

    /// A connection as the owner of the tables, for tests whose services use another role.
    pub async fn sql_as_owner(&self) -> tokio_postgres::Client {
        let mut config: tokio_postgres::Config =
            with_database(&self.maintenance, &self.name).parse().expect("a URL");
        connect(config.options("-c search_path=postrider,public")).await
    }

    /// The URL of the server, with a database that no test uses.
    pub fn maintenance(&self) -> &str {
        &self.maintenance
    }

    /// The configuration of a connection whose search path finds the tables.
    pub fn database(&self) -> tokio_postgres::Config {
        let url = self.source.get("DATABASE_URL").expect("it was set");
        let mut config: tokio_postgres::Config = url.parse().expect("a URL");
        config.options("-c search_path=postrider,public");
        config
    }

    /// A connection to the test's Redis.
    pub async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.source.get("REDIS_URL").expect("it was set")).expect("a URL");
        // Scanning all keys, including those of other tests, can take a while.
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        client.get_multiplexed_async_connection_with_config(&config).await.expect("Redis")
    }

    /// Removes every key of this test from Redis at once, as FLUSHALL does in a real installation.
    pub async fn flush(&self) {
        let script = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
        let mut redis = self.redis().await;
        let pattern = format!("{{{}:*", self.name);
        let flush = redis::cmd("EVAL").arg(script).arg(0).arg(pattern).query_async(&mut redis).await;
        let () = flush.expect("flushed");
    }

    /// True if Redis holds no id, neither waiting nor reserved.
    pub async fn is_queue_empty(&self) -> bool {
        !self.queue_holds(b":q:").await && !self.queue_holds(b":r:").await
    }

    /// True if Redis holds ids that wait (`:q:`) or that are reserved (`:r:`).
    pub async fn queue_holds(&self, kind: &[u8; 3]) -> bool {
        let mut redis = self.redis().await;
        let keys: Vec<Vec<u8>> =
            redis::cmd("KEYS").arg(format!("{{{}:*", self.name)).query_async(&mut redis).await.expect("keys");
        keys.iter().any(|key| key.windows(3).any(|part| part == kind))
    }

    /// Waits until all deliveries have succeeded and none was stranded.
    pub async fn all_succeeded(&self, count: i64) {
        let succeeded = "select count(*) from deliveries where status = 'succeeded'";
        self.without_stillness(&format!("{count} deliveries to succeed"), async || {
            (self.count(succeeded).await == count).then_some(())
        })
        .await;
    }

    /// Waits for `condition` while deliveries make progress.
    pub async fn without_stillness<T>(&self, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
        let steps = "select count(completed_at) + coalesce(sum(attempt_count), 0)::bigint from deliveries";
        let (mut before, mut since) = (0, Instant::now());
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            let now = self.count(steps).await;
            if now != before {
                (before, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < STILLNESS, "no progress for {STILLNESS:?} while waiting for: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Counts the attempts with the outcome `unknown`.
    pub async fn unknown_attempts(&self) -> i64 {
        self.count("select count(*) from delivery_attempts where outcome = 'unknown'").await
    }

    /// Returns one number from the database.
    pub async fn count(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.expect("a count").get(0)
    }

    /// Drops the database.
    pub async fn finish(self) {
        let client = connect(&self.maintenance.parse().expect("a URL")).await;
        let _ = client.batch_execute(&format!("drop database {} with (force)", self.name)).await;
        self.flush().await;
    }
}

/// Waits until `condition` returns a value. Fails with a message that says `what` it waited for.
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    within(DEADLINE, what, condition).await
}

/// Like [`eventually`], with this deadline.
pub async fn within<T>(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < deadline, "still waiting after {deadline:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Connects. The connection lives as long as the client.
pub async fn connect(config: &tokio_postgres::Config) -> tokio_postgres::Client {
    let (client, connection) = config.connect(NoTls).await.expect("PostgreSQL");
    tokio::spawn(connection);
    client
}

fn required(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests through `script/with-services cargo nextest run`")
    })
}

/// Returns the same server with another database. Accepts URLs and the `key=value` form.
fn with_database(url: &str, name: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut url) if url.scheme().starts_with("postgres") => {
            url.set_path(name);
            url.into()
        }
        _ => format!("{url} dbname={name}"),
    }
}
