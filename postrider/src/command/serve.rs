//! Runs the services as separate processes.

use std::net::SocketAddr;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use postrider_api::ApiConfig;
use postrider_deliverer::DelivererConfig;
use postrider_relay::RelayConfig;
use postrider_runtime::config::Source;
use postrider_runtime::health::Health;
use postrider_runtime::supervise::Supervisor;
use postrider_runtime::telemetry;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{descriptors, signals};

/// Binds an address. If that fails, the error says how to solve it.
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
    let serving = postrider_api::serve_probes(listener, health.clone(), metrics, supervisor.stop().clone());
    tracing::info!(%address, "health and metrics are served");
    Ok(supervisor.spawn("health and metrics", async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "serving health and metrics failed");
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn source(pairs: &[(&str, &str)]) -> Source {
        let values: HashMap<_, _> = pairs.iter().copied().collect();
        Source::gather(|setting| values.get(setting.env).map(|&text| text.to_owned()), |_| None)
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let source = source(&[
            ("DATABASE_URL", "nonsense"),
            ("POSTRIDER_API_LISTEN", "0.0.0.0:8000"),
            ("POSTRIDER_ALLOW_NETWORKS", "10.0.0.0/8,everything"),
            ("POSTRIDER_HTTPS_ONLY", "perhaps"),
        ]);
        let mistakes = source.read(ApiConfig::read).expect_err("four mistakes").0;
        for name in
            ["DATABASE_URL", "POSTRIDER_ADMIN_TOKEN", "POSTRIDER_ALLOW_NETWORKS", "POSTRIDER_HTTPS_ONLY"]
        {
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(name)), "{name} in {mistakes:?}");
        }
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
    }

    #[test]
    fn a_file_of_certificates_has_one_in_it() {
        let refused = |path: &str| {
            let source = source(&[
                ("DATABASE_URL", "postgres://postrider@localhost/postrider"),
                ("REDIS_URL", "redis://localhost"),
                ("POSTRIDER_EXTRA_CA_FILE", path),
            ]);
            source.read(DelivererConfig::read).expect_err("a mistake").0
        };
        let this_file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(
            refused(this_file),
            [format!(
                "POSTRIDER_EXTRA_CA_FILE (--extra-ca-file): `{this_file}` contains no certificate, that is \
                 no line `-----BEGIN CERTIFICATE-----`"
            )]
        );
        assert!(refused("/nowhere.pem")[0].contains("cannot read `/nowhere.pem`"));
    }

    #[test]
    fn defaults_suffice_but_for_the_servers() {
        let source = source(&[
            ("DATABASE_URL", "postgres://postrider@localhost/postrider"),
            ("REDIS_URL", "redis://localhost"),
        ]);
        let config = source.read(DelivererConfig::read).expect("no mistakes");
        assert_eq!(config.listen, "127.0.0.1:8002".parse().expect("an address"));
        assert!(source.read(ApiConfig::read).is_ok());
    }
}
