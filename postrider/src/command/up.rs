//! `postrider up` runs everything in one process, with its own or given servers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::ArgMatches;
use postrider_api::ApiConfig;
use postrider_deliverer::DelivererConfig;
use postrider_relay::RelayConfig;
use postrider_runtime::config::{Mistakes, Source};
use postrider_runtime::health::Health;
use postrider_runtime::telemetry;
use postrider_store::{DatabaseConfig, migrate};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{descriptors, receive, serve, signals};
use crate::demo;
use postrider_embedded::{Embedded, Options, default_data_dir};

/// Time for services to stop, in addition to the deliverer's grace period.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// The running services, each as a task.
type Services = JoinSet<anyhow::Result<()>>;

/// What the command line asks for.
struct Plan {
    /// Address of the demo's receiver; `None` means no demo.
    receiver: Option<SocketAddr>,
    /// Whether to stop after the demo.
    once: bool,
    /// Whether to start our own PostgreSQL and Redis.
    is_embedded: bool,
}

pub(super) async fn run(matches: &ArgMatches, mut source: Source) -> anyhow::Result<()> {
    let plan = plan(matches, &source)?;
    if plan.receiver.is_some() {
        let allowed = source.get("POSTRIDER_ALLOW_NETWORKS").unwrap_or_default();
        source.set("POSTRIDER_ALLOW_NETWORKS", format!("{allowed},127.0.0.1/32"));
    }
    // Every mistake in the configuration is reported before anything starts.
    let mut rehearsal = source.clone();
    if plan.is_embedded {
        rehearsal.set("DATABASE_URL", "host=localhost user=postrider");
        rehearsal.set("REDIS_URL", "redis://localhost");
    }
    let configs = read(&rehearsal)?;
    let shutdown = signals::shutdown()?;
    let listener = serve::bind(configs.api.listen, "the API", "api-listen").await?;
    let receiver = match plan.receiver {
        Some(address) => Some(serve::bind(address, "the demo's receiver", "receiver-listen").await?),
        None => None,
    };

    let mut embedded = None;
    if plan.is_embedded {
        let directory = source.get("POSTRIDER_DATA_DIR").map_or_else(default_data_dir, PathBuf::from);
        tracing::info!(directory = %directory.display(), "starting PostgreSQL and Redis");
        let servers = Embedded::start(&directory, Options::default()).await?;
        source.set("DATABASE_URL", servers.database_url());
        source.set("REDIS_URL", servers.redis_url());
        embedded = Some(servers);
    }
    let result = serve_all(&plan, &source, listener, receiver, &mut embedded, shutdown).await;
    if let Some(servers) = embedded {
        let stopped = servers.stop().await;
        result.and(stopped.map_err(Into::into))
    } else {
        result
    }
}

fn plan(matches: &ArgMatches, source: &Source) -> anyhow::Result<Plan> {
    let mut mistakes = Vec::new();
    let is_embedded = match (source.get("DATABASE_URL"), source.get("REDIS_URL")) {
        (None, None) => true,
        (Some(_), Some(_)) => false,
        (Some(_), None) => {
            mistakes.push(
                "REDIS_URL (--redis-url): must be set if DATABASE_URL is set; set both or neither".to_owned(),
            );
            false
        }
        (None, Some(_)) => {
            mistakes.push(
                "DATABASE_URL (--database-url): must be set if REDIS_URL is set; set both or neither"
                    .to_owned(),
            );
            false
        }
    };
    let mut receiver = None;
    if matches.get_flag("demo") {
        receiver = receive::listen_address(matches, "receiver-listen")
            .map_err(|error| mistakes.push(error.to_string()))
            .ok();
    }
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes).into());
    }
    Ok(Plan { receiver, once: matches.get_flag("once"), is_embedded })
}

struct Configs {
    database: DatabaseConfig,
    api: ApiConfig,
    relay: RelayConfig,
    deliverer: DelivererConfig,
}

fn read(source: &Source) -> Result<Configs, Mistakes> {
    source.read(|reader| Configs {
        database: DatabaseConfig::read(reader),
        api: ApiConfig::read(reader),
        relay: RelayConfig::read(reader),
        deliverer: DelivererConfig::read(reader),
    })
}

/// Runs all services until shutdown, or until one of them ends.
async fn serve_all(
    plan: &Plan,
    source: &Source,
    listener: TcpListener,
    receiver: Option<TcpListener>,
    embedded: &mut Option<Embedded>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let configs = read(source)?;
    for migration in migrate::migrate(&configs.database).await? {
        tracing::info!(version = migration.version, name = migration.name, "migration applied");
    }
    let api = listener.local_addr().context("cannot read the address that the API listens on")?;
    let admin_token = configs.api.admin_tokens.first().cloned();
    let stop_grace = configs.deliverer.stop_grace;

    let mut services = Services::new();
    start(&mut services, configs, listener, &shutdown);
    tracing::info!(address = %api, "Postrider is up");
    let demonstration = async {
        match receiver {
            Some(receiver) => demo::run(api, receiver, admin_token, plan.once, shutdown.clone()).await,
            None => std::future::pending().await,
        }
    };
    let server_failure = async {
        match embedded {
            Some(servers) => servers.wait_failure().await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        // After a signal, services and servers may end before this task wakes up. That is not a failure.
        biased;
        () = shutdown.cancelled() => Ok(()),
        result = first_end(&mut services, &shutdown) => result,
        failure = server_failure => Err(failure.into()),
        result = demonstration => result,
    };
    shutdown.cancel();
    let drained = tokio::time::timeout(stop_grace + STOP_MARGIN, drain(&mut services)).await;
    result.and(drained.unwrap_or_else(|_| {
        tracing::warn!("some services did not stop in time");
        Ok(())
    }))
}

/// Waits until a service ends. It is a failure if a service ends before shutdown.
async fn first_end(services: &mut Services, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let ended = services.join_next().await.context("no service was started")?;
    ended??;
    if shutdown.is_cancelled() { Ok(()) } else { bail!("a service stopped unexpectedly") }
}

/// Waits until all services have ended. Returns the first error.
async fn drain(services: &mut Services) -> anyhow::Result<()> {
    let mut result = Ok(());
    while let Some(ended) = services.join_next().await {
        if let Err(error) = ended.map_err(Into::into).and_then(std::convert::identity) {
            tracing::error!(%error, "a service failed while it stopped");
            result = result.and(Err(error));
        }
    }
    result
}

fn start(services: &mut Services, configs: Configs, listener: TcpListener, shutdown: &CancellationToken) {
    let health = Health::default();
    let metrics = telemetry::start_metrics();
    let Configs { api, relay, mut deliverer, .. } = configs;
    descriptors::cap_concurrency(&mut deliverer);
    let (stop, api_health) = (shutdown.clone(), health.clone());
    services.spawn(async move {
        Box::pin(postrider_api::run(api, listener, api_health, metrics, stop))
            .await
            .map_err(|error| anyhow!(error))
    });
    let (stop, relay_health) = (shutdown.clone(), health.clone());
    services.spawn(async move { Ok(postrider_relay::run(relay, relay_health, stop).await?) });
    let stop = shutdown.clone();
    services.spawn(async move { Ok(postrider_deliverer::run(deliverer, health, stop).await?) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_ends_when_it_is_told_to_has_not_ended_by_itself() {
        let shutdown = CancellationToken::new();
        let mut services = Services::new();
        let stop = shutdown.clone();
        services.spawn(async move {
            stop.cancelled().await;
            Ok(())
        });
        shutdown.cancel();
        // The service has ended before the token is checked.
        first_end(&mut services, &shutdown).await.expect("no failure");

        services.spawn(async { Ok(()) });
        let error = first_end(&mut services, &CancellationToken::new()).await.expect_err("a failure");
        assert_eq!(error.to_string(), "a service stopped unexpectedly");
    }

    #[tokio::test]
    async fn a_service_that_fails_while_it_stops_is_a_failure() {
        let mut services = Services::new();
        services.spawn(async { Ok(()) });
        services.spawn(async { bail!("the service failed") });
        services.spawn(async { Ok(()) });
        assert!(drain(&mut services).await.is_err());
        assert!(services.is_empty());
    }
}
