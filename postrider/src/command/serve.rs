//! The services as processes of their own.

use std::net::SocketAddr;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use postrider_shared::config::{ApiConfig, DelivererConfig, RelayConfig, Source};
use postrider_shared::health::Health;
use postrider_shared::supervise::Supervisor;
use postrider_shared::telemetry;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{descriptors, signals};

/// Binds, or says who else might.
pub(super) async fn bind(address: SocketAddr, what: &str, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "{what} cannot listen on {address}: stop the program that uses this address, or choose \
                 another one with --{flag}"
        )
    })
}

pub(super) async fn api(source: &Source) -> anyhow::Result<()> {
    let config = source.read(ApiConfig::read)?;
    let shutdown = signals::shutdown()?;
    let listener = bind(config.listen, "the API", "api-listen").await?;
    tracing::info!(address = %config.listen, "the API listens");
    Box::pin(postrider_api::run(config, listener, Health::default(), telemetry::start_metrics(), shutdown))
        .await?;
    Ok(())
}

pub(super) async fn relay(source: &Source) -> anyhow::Result<()> {
    let config = source.read(RelayConfig::read)?;
    let supervisor = Supervisor::new(&signals::shutdown()?);
    let health = Health::default();
    let _operations = operations(config.listen, "the relay", "relay-listen", &health, &supervisor).await?;
    postrider_relay::run(config, health, supervisor.stop().clone()).await?;
    Ok(supervisor.outcome()?)
}

pub(super) async fn deliverer(source: &Source) -> anyhow::Result<()> {
    let mut config = source.read(DelivererConfig::read)?;
    descriptors::cap_concurrency(&mut config);
    let supervisor = Supervisor::new(&signals::shutdown()?);
    let health = Health::default();
    let _operations =
        operations(config.listen, "the deliverer", "deliverer-listen", &health, &supervisor).await?;
    postrider_deliverer::run(config, health, supervisor.stop().clone()).await?;
    Ok(supervisor.outcome()?)
}

/// Serves health and metrics of a service that has no API.
async fn operations(
    address: SocketAddr,
    what: &str,
    flag: &str,
    health: &Health,
    supervisor: &Supervisor,
) -> anyhow::Result<AbortOnDropHandle<()>> {
    let metrics: PrometheusHandle = telemetry::start_metrics();
    let listener = bind(address, what, flag).await?;
    let serving =
        postrider_api::serve_operations(listener, health.clone(), metrics, supervisor.stop().clone());
    tracing::info!(%address, "health and metrics are served");
    Ok(supervisor.spawn("health and metrics", async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    }))
}
