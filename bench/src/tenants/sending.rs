//! Offenders that load the path from an event to its receivers.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use reqwest::Method;
use serde_json::json;
use serde_json::value::RawValue;

use super::MOST_ENDPOINTS;
use super::tenant::Tenant;

/// Connections that an offender posts on.
const CONNECTIONS: usize = 4;

/// More deliveries than a deliverer has permits, to receivers whose concurrency has grown.
pub(crate) async fn slow_successes(tenant: &Tenant) -> anyhow::Result<()> {
    tenant
        .endpoints(2, json!({"concurrency_limit": 1000, "timeout_seconds": 60, "rate_limit": null}))
        .await?;
    tenant.begins();
    for _ in 0..40 {
        tenant.publish_batch("slow", &json!({}), 50).await;
    }
    Ok(())
}

/// As many bytes as a deliverer may hold in bodies. Small events come first, until the endpoints may have many
/// exchanges at once.
pub(crate) async fn large_bodies(tenant: &Tenant) -> anyhow::Result<()> {
    tenant
        .endpoints(2, json!({"concurrency_limit": 1000, "timeout_seconds": 60, "rate_limit": null}))
        .await?;
    tenant.begins();
    tenant.publish_batch("small", &json!({}), 110).await;
    let numbers = vec!["1e998"; 521].join(",");
    let data = RawValue::from_string(format!("[{numbers}]"))?;
    for _ in 0..70 {
        let body = format!(r#"{{"event_type":"large","data":{{"n":{data}}}}}"#);
        tenant.call("event", Method::POST, "v1/events", body.into()).await;
    }
    Ok(())
}

/// A thousand deliveries per small request.
pub(crate) async fn replays(tenant: &Tenant) -> anyhow::Result<()> {
    tenant.endpoints(MOST_ENDPOINTS, json!({})).await?;
    let event = tenant.publish("replayed", &json!({})).await.context("the event was refused")?;
    let path = format!("v1/events/{event}/replay");
    tenant.begins();
    let body = Bytes::from_static(b"{}");
    tenant
        .again_and_again(16, async |_| {
            tenant.call("replay", Method::POST, &path, body.clone()).await;
        })
        .await;
    Ok(())
}

/// A hundred thousand deliveries per request.
pub(crate) async fn fan_out(tenant: &Tenant) -> anyhow::Result<()> {
    tenant.endpoints(MOST_ENDPOINTS, json!({})).await?;
    tenant.begins();
    tenant
        .again_and_again(CONNECTIONS, async |_| {
            tenant.publish_batch("fan.out", &json!({}), 100).await;
        })
        .await;
    Ok(())
}

/// Ten thousand deliveries, each due again a second after it failed.
pub(crate) async fn retry_storm(tenant: &Tenant) -> anyhow::Result<()> {
    tenant.endpoints(MOST_ENDPOINTS, json!({"retry_schedule": [1], "max_attempts": 20})).await?;
    tenant.begins();
    for _ in 0..10 {
        tenant.publish("storm", &json!({})).await;
    }
    std::future::pending().await
}

/// A thousand dead letters of one event, each reported to a thousand endpoints.
pub(crate) async fn dead_letters(tenant: &Tenant) -> anyhow::Result<()> {
    let types = ["dead.letter", "postrider.*"];
    let settings =
        json!({"event_types": types, "permanent_statuses": [404], "max_attempts": 1, "rate_limit": null});
    tenant.endpoints(MOST_ENDPOINTS, settings).await?;
    tenant.begins();
    tenant.publish("dead.letter", &json!({})).await;
    std::future::pending().await
}

/// Each connection is busy for the maximum duration of an exchange.
pub(crate) async fn informational_responses(tenant: &Tenant) -> anyhow::Result<()> {
    tenant.endpoints(2, json!({"timeout_seconds": 60, "retry_schedule": [0], "max_attempts": 20})).await?;
    tenant.begins();
    tenant.publish("inform", &json!({})).await;
    std::future::pending().await
}

/// Rows that wait in PostgreSQL for endpoints that are never enabled. Now and then, new ones are added through an
/// endpoint that is enabled and disabled again.
pub(crate) async fn parked_backlog(tenant: &Tenant) -> anyhow::Result<()> {
    let endpoints = tenant.endpoints(MOST_ENDPOINTS, json!({"rate_limit": 1})).await?;
    tenant.publish_batch("parked", &json!({}), 25).await;
    let set = async |endpoint: &str, is_active: bool| {
        let path = format!("v1/applications/{}/endpoints/{endpoint}", tenant.application);
        let body = json!({"is_active": is_active}).to_string();
        tenant.call("endpoint", Method::PATCH, &path, body.into()).await;
    };
    for endpoint in &endpoints {
        set(endpoint, false).await;
    }
    tenant.begins();
    loop {
        for endpoint in &endpoints {
            set(endpoint, true).await;
            set(endpoint, false).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
