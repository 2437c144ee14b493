//! A private installation: PostgreSQL and Redis as `up` runs them, and the services as processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postrider_embedded::{self as embedded, Embedded, Stop};
use postrider_runtime::config::Source;
use postrider_store::{DatabaseConfig, migrate};
use rand::Rng as _;
use tempfile::TempDir;
use url::Url;

use crate::options::{Fault, Options};
use crate::roster::{POSTGRES, REDIS, Roster};
use crate::service::Service;

/// Survives a reboot, and is on a disk almost everywhere. With data in memory, fsync would cost nothing and the figures
/// would be meaningless.
const ON_DISK: &str = "/var/tmp";
/// The network that endpoints may be in: the receiver listens on loopback.
const LOOPBACK: &str = "127.0.0.1/32";

/// Servers and services of one run.
pub(crate) struct Private {
    servers: Embedded,
    services: [Service; 3],
    http: reqwest::Client,
    roster: Arc<Roster>,
    pub(crate) admin_token: String,
    /// A directory that is removed at the end.
    temporary: Option<TempDir>,
}

const API: usize = 0;
const RELAY: usize = 1;
const DELIVERER: usize = 2;

impl Private {
    /// Starts everything and waits until it is ready.
    pub(crate) async fn start(options: &Options, roster: Arc<Roster>) -> anyhow::Result<Self> {
        let (directory, temporary) = data_dir(options.data_dir.as_deref())?;
        let server_options =
            embedded::Options { fsync: true, end_on_drop: true, track_statements: options.statements };
        let servers = Embedded::start(&directory, server_options).await?;
        match Self::start_services(&servers, &directory, &roster).await {
            Ok((services, http, admin_token)) => {
                let private = Self { servers, services, http, roster, admin_token, temporary };
                private.enlist();
                Ok(private)
            }
            Err(error) => {
                let _ = servers.stop().await;
                Err(error)
            }
        }
    }

    async fn start_services(
        servers: &Embedded,
        directory: &Path,
        roster: &Arc<Roster>,
    ) -> anyhow::Result<([Service; 3], reqwest::Client, String)> {
        let mut source = Source::gather(|_| None, |_| None);
        source.set("DATABASE_URL", servers.database_url());
        migrate::migrate(&source.read(DatabaseConfig::read)?).await?;

        let mut token = [0; 16];
        rand::rng().fill_bytes(&mut token);
        let admin_token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let environment = environment(servers, &admin_token);
        let start =
            |name| Service::start(name, &environment, directory.join(format!("{name}.log")), roster.clone());
        let mut services = [start("api")?, start("relay")?, start("deliverer")?];
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        for service in &mut services {
            service.ready(&http).await?;
        }
        Ok((services, http, admin_token))
    }

    pub(crate) fn api(&self) -> anyhow::Result<Url> {
        self.services[API].url()
    }

    /// Returns the URLs of the services' metrics.
    pub(crate) fn metrics(&self) -> anyhow::Result<Vec<Url>> {
        self.services.iter().map(|service| Ok(service.url()?.join("metrics")?)).collect()
    }

    pub(crate) fn database_url(&self) -> &str {
        self.servers.database_url()
    }

    /// Causes a fault and repairs it. Returns when everything is ready again.
    pub(crate) async fn suffer(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Api => self.restart(&[API], false).await,
            Fault::Relay => self.restart(&[RELAY], false).await,
            Fault::Deliverer => self.restart(&[DELIVERER], false).await,
            Fault::All => self.restart(&[API, RELAY, DELIVERER], true).await,
            Fault::Flush => self.flush().await,
            Fault::Redis => {
                self.roster.ends(REDIS);
                self.servers.stop_redis(Stop::Kill).await?;
                self.servers.start_redis().await?;
                self.enlist();
                self.ready().await
            }
            Fault::Postgres => {
                self.roster.ends(POSTGRES);
                self.servers.stop_postgres(Stop::Immediate).await?;
                self.servers.start_postgres().await?;
                self.enlist();
                self.ready().await
            }
        }
    }

    /// Stops everything, and removes what was created for this run.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for service in &mut self.services {
            service.kill().await;
        }
        self.servers.stop().await?;
        if let Some(directory) = self.temporary {
            let path = directory.path().to_owned();
            directory.close().with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    async fn restart(&mut self, which: &[usize], flush: bool) -> anyhow::Result<()> {
        for index in which {
            self.services[*index].kill().await;
        }
        if flush {
            self.flush().await?;
        }
        for index in which {
            self.services[*index].launch()?;
        }
        self.ready().await
    }

    async fn flush(&self) -> anyhow::Result<()> {
        let client = redis::Client::open(self.servers.redis_url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        Ok(redis::cmd("FLUSHALL").query_async(&mut connection).await?)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        for service in &mut self.services {
            service.ready(&self.http).await?;
        }
        Ok(())
    }

    fn enlist(&self) {
        let (postgres, redis) = self.servers.process_ids();
        for (name, pid) in [(POSTGRES, postgres), (REDIS, redis)] {
            if let Some(pid) = pid {
                self.roster.runs(name, pid);
            }
        }
    }
}

/// Returns the given directory, or a temporary one that is removed at the end.
fn data_dir(named: Option<&Path>) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    if let Some(directory) = named {
        return Ok((directory.to_owned(), None));
    }
    let place = Path::new(ON_DISK);
    let place = if place.is_dir() { place.to_owned() } else { std::env::temp_dir() };
    // The name shows which process it belongs to.
    let prefix = format!("postrider-bench-{}-", std::process::id());
    let temporary = tempfile::Builder::new().prefix(&prefix).tempdir_in(&place);
    let temporary = temporary.with_context(|| format!("cannot create a directory in {}", place.display()))?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

/// Returns the environment variables of the services. They inherit the rest from the bench.
fn environment(servers: &Embedded, admin_token: &str) -> Vec<(String, String)> {
    let inherited = |name: &str| std::env::var(name).unwrap_or_default();
    let log = Some(inherited("POSTRIDER_LOG")).filter(|log| !log.is_empty());
    [
        ("DATABASE_URL", servers.database_url().to_owned()),
        ("POSTRIDER_DATABASE_DIRECT_URL", servers.database_url().to_owned()),
        ("REDIS_URL", servers.redis_url().to_owned()),
        ("POSTRIDER_ADMIN_TOKEN", admin_token.to_owned()),
        ("POSTRIDER_ALLOW_NETWORKS", format!("{},{LOOPBACK}", inherited("POSTRIDER_ALLOW_NETWORKS"))),
        ("POSTRIDER_LOG", log.unwrap_or_else(|| "warn".to_owned())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}
