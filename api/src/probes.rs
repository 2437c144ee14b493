//! `/health/live`, `/health/ready` and `/metrics`, which are the same on every service.

use std::collections::BTreeMap;

use http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::endpoint::make;
use poem::{Endpoint, Response, Route, get};
use postrider_runtime::health::Health;
use postrider_store::Store;
use serde::Serialize;

use crate::POSTGRESQL;
use crate::readiness::SchemaReady;
use crate::web::middleware;

/// The body of `/health/ready`.
#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    parts: BTreeMap<&'static str, Part>,
}

#[derive(Serialize)]
struct Part {
    status: &'static str,
    reason: Option<String>,
}

/// Returns the routes that every service has:
///
/// - `/health/live` responds with 200 as long as the process can serve requests.
/// - `/health/ready` responds with 200 if every part of `health` is up, and otherwise with 503. The JSON body lists
///   the parts.
/// - `/metrics` uses the Prometheus text format.
pub(crate) fn probe_routes(
    health: Health,
    metrics: PrometheusHandle,
) -> impl Endpoint<Output = Response> + 'static {
    middleware::wrap(routes(health, metrics, None), middleware::Methods::default())
}

/// Returns the same routes, without middleware. With a `store` whose schema is ready, each readiness check also pings
/// PostgreSQL.
pub(crate) fn routes(
    health: Health,
    metrics: PrometheusHandle,
    store: Option<(Store, SchemaReady)>,
) -> Route {
    let live = make(|_| async {
        Ok::<_, poem::Error>(json(StatusCode::OK, &serde_json::json!({ "status": "live" })))
    });
    let ready = make(move |_| {
        let (health, store) = (health.clone(), store.clone());
        async move {
            if let Some((store, schema_ready)) = store
                && schema_ready.is_set()
            {
                match store.ping().await {
                    Ok(()) => health.up(POSTGRESQL),
                    Err(error) => health.down(POSTGRESQL, error),
                }
            }
            Ok::<_, poem::Error>(readiness(&health))
        }
    });
    let render = make(move |_| {
        let metrics = metrics.clone();
        async move {
            let response = Response::builder().content_type("text/plain; version=0.0.4; charset=utf-8");
            Ok::<_, poem::Error>(response.body(metrics.render()))
        }
    });
    Route::new().at("/health/live", get(live)).at("/health/ready", get(ready)).at("/metrics", get(render))
}

fn readiness(health: &Health) -> Response {
    let parts: BTreeMap<_, _> = health
        .parts()
        .into_iter()
        .map(|(name, reason)| (name, Part { status: if reason.is_none() { "up" } else { "down" }, reason }))
        .collect();
    let is_ready = !parts.is_empty() && parts.values().all(|part| part.reason.is_none());
    let (status, code) =
        if is_ready { ("ready", StatusCode::OK) } else { ("not_ready", StatusCode::SERVICE_UNAVAILABLE) };
    json(code, &Readiness { status, parts })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("health is plain data");
    Response::builder()
        .status(status)
        .content_type("application/json")
        .header("cache-control", "no-store")
        .body(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_lost_with_any_part() {
        let health = Health::default();
        assert_eq!(readiness(&health).status(), StatusCode::SERVICE_UNAVAILABLE);
        health.expect("postgresql");
        assert_eq!(readiness(&health).status(), StatusCode::SERVICE_UNAVAILABLE);
        health.up("postgresql");
        assert_eq!(readiness(&health).status(), StatusCode::OK);
        health.down("redis", "gone");
        assert_eq!(readiness(&health).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
