//! Offenders that load the API and its database.

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use super::MOST_ENDPOINTS;
use super::tenant::Tenant;

/// Connections for events that are expensive. Few, to limit memory usage on the machine.
const FEW_CONNECTIONS: usize = 2;
/// API keys to create in one application.
const KEYS: usize = 1_000;

/// Each of 130 empty objects lacks 6,500 required names.
pub(crate) async fn schema_required(tenant: &Tenant) -> anyhow::Result<()> {
    let names: Vec<_> = (0..6_500).map(|number| format!("n{number:04}")).collect();
    let schema = json!({"properties": {"a": {"items": {"required": names}}}});
    violate(tenant, schema, json!({"a": vec![json!({}); 130]})).await
}

/// Each of 580 numbers matches none of 400 alternatives.
pub(crate) async fn schema_one_of(tenant: &Tenant) -> anyhow::Result<()> {
    let alternative = json!({"anyOf": [{"type": "string"}, {"type": "null"}]});
    let schema = json!({"properties": {"a": {"items": {"oneOf": vec![alternative; 400]}}}});
    violate(tenant, schema, json!({"a": vec![0; 580]})).await
}

/// After each of 48,000 bytes, the pattern may be in any of thousands of states.
pub(crate) async fn schema_pattern(tenant: &Tenant) -> anyhow::Result<()> {
    let pattern = format!("(?:{}+)+[b-z]", "a?".repeat(2_000));
    let schema = json!({"properties": {"a": {"anyOf": [{"pattern": pattern}, {}]}}});
    violate(tenant, schema, json!({"a": "a".repeat(48_000)})).await
}

async fn violate(tenant: &Tenant, schema: Value, data: Value) -> anyhow::Result<()> {
    let body = json!({"name": "costly", "json_schema": schema}).to_string();
    tenant.call("event type", Method::POST, "v1/event-types", body.into()).await;
    tenant.begins();
    tenant
        .again_and_again(FEW_CONNECTIONS, async |_| {
            tenant.publish("costly", &data).await;
        })
        .await;
    Ok(())
}

/// Ten million comparisons per event.
pub(crate) async fn costly_filters(tenant: &Tenant) -> anyhow::Result<()> {
    let path = format!("data{}.items[*]", ".k".repeat(11));
    let conditions: Vec<_> =
        (0..10).map(|number| json!({format!("{path}.v{number}"): {"eq": "none"}})).collect();
    tenant.endpoints(MOST_ENDPOINTS, json!({"filter": {"or": conditions}})).await?;
    let elements: Vec<_> = (0..100).map(|_| json!({"v9": "x".repeat(80)})).collect();
    let data = (0..11).fold(json!({"items": elements}), |inner, _| json!({"k": inner}));
    tenant.begins();
    tenant
        .again_and_again(FEW_CONNECTIONS, async |_| {
            tenant.publish("filtered", &data).await;
        })
        .await;
    Ok(())
}

/// A hundred thousand patterns per event, none of which matches.
pub(crate) async fn event_types(tenant: &Tenant) -> anyhow::Result<()> {
    let prefix = "p".repeat(240);
    let types: Vec<_> = (0..100).map(|number| format!("{prefix}.n{number}")).collect();
    tenant.endpoints(MOST_ENDPOINTS, json!({"event_types": types})).await?;
    tenant.begins();
    tenant
        .again_and_again(8, async |_| {
            tenant.publish_batch("other", &json!({}), 1_000).await;
        })
        .await;
    Ok(())
}

/// Pages of 250 events of 8 kB.
pub(crate) async fn reads(tenant: &Tenant) -> anyhow::Result<()> {
    let data = json!({"text": "x".repeat(8_000)});
    for _ in 0..3 {
        tenant.publish_batch("read", &data, 100).await;
    }
    tenant.begins();
    tenant
        .again_and_again(32, async |_| {
            tenant.call("page", Method::GET, "v1/events?limit=250", Bytes::new()).await;
        })
        .await;
    Ok(())
}

/// Many keys of one application, which count as one tenant.
pub(crate) async fn many_keys(tenant: &Tenant) -> anyhow::Result<()> {
    tenant.endpoints(1, json!({"rate_limit": null})).await?;
    let path = format!("v1/applications/{}/api-keys", tenant.application);
    let mut keys = vec![tenant.api_key.clone()];
    for number in 1..KEYS {
        let body = json!({"name": format!("key {number}")}).to_string();
        let Some(made) = tenant.call("key", Method::POST, &path, body.into()).await else { break };
        keys.extend(made["api_key"].as_str().map(str::to_owned));
    }
    tenant.begins();
    tenant.note(&format!("keys: {}", keys.len()));
    let body = Bytes::from_static(br#"{"event_type":"keys","data":{}}"#);
    let next = std::sync::atomic::AtomicUsize::new(0);
    tenant
        .again_and_again(64, async |_| {
            let turn = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let key = &keys[turn % keys.len()];
            tenant.call_as(key, "event", Method::POST, "v1/events", body.clone()).await;
        })
        .await;
    Ok(())
}
