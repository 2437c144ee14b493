//! Reads lists of the API, one after another, while a phase runs.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::latency::{Latencies, Latency};
use postrider_api_client::{ApiClient, As};

/// Pause between two calls.
const PAUSE: Duration = Duration::from_millis(20);

/// How one list performed.
#[derive(Debug, Clone, Serialize)]
pub struct ListReport {
    /// The path of the list.
    pub path: String,
    /// Time until the response was read and parsed.
    pub latency: Option<Latency>,
    /// Calls that failed.
    pub failures: u64,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Identified>,
}

#[derive(Deserialize)]
struct Identified {
    id: String,
}

struct List {
    path: String,
    latencies: Latencies,
    failures: u64,
}

/// Reads lists until `stop`. `backlogged` is the endpoint with the backlog.
pub(crate) async fn read(
    client: &ApiClient,
    key: &str,
    backlogged: &str,
    stop: &CancellationToken,
) -> Vec<ListReport> {
    let new = |path: String| List { path, latencies: Latencies::new(), failures: 0 };
    let mut lists: Vec<_> = paths(client, key, backlogged).await.into_iter().map(new).collect();
    let started = Instant::now();
    let nanos = || started.elapsed().as_nanos() as u64;
    'reading: loop {
        for list in &mut lists {
            let asked = nanos();
            let asking = client.get::<Value>(&list.path, As::Key(key));
            match stop.run_until_cancelled(asking).await {
                Some(Ok(_)) => list.latencies.record(asked, nanos()),
                Some(Err(error)) => {
                    tracing::debug!(%error, path = list.path, "reading a list failed");
                    list.failures += 1;
                }
                None => break 'reading,
            }
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                break 'reading;
            }
        }
    }
    let report = |list: List| ListReport {
        path: list.path,
        latency: list.latencies.summary(),
        failures: list.failures,
    };
    lists.into_iter().map(report).collect()
}

/// Returns the lists that people look at: the newest deliveries, old ones, failed ones, those of an endpoint, and one
/// event through to its attempts.
async fn paths(client: &ApiClient, key: &str, backlogged: &str) -> Vec<String> {
    let before = chrono::Utc::now() - chrono::TimeDelta::days(14);
    let before = before.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let mut paths = vec![
        "v1/events".to_owned(),
        format!("v1/events?created_before={before}"),
        "v1/events?data_contains=%7B%22number%22%3A1%7D".to_owned(),
        "v1/deliveries".to_owned(),
        format!("v1/deliveries?created_before={before}"),
        "v1/deliveries?status=succeeded".to_owned(),
        "v1/deliveries?status=dead_letter".to_owned(),
        format!("v1/deliveries?endpoint_id={backlogged}"),
    ];
    let first = async |path: &str| {
        let page = client.get::<Page>(path, As::Key(key)).await.ok()?;
        page.data.into_iter().next().map(|found| found.id)
    };
    if let Some(event) = first(&format!("v1/events?created_before={before}")).await {
        paths.push(format!("v1/events/{event}"));
        paths.push(format!("v1/events/{event}/deliveries"));
        if let Some(delivery) = first(&format!("v1/events/{event}/deliveries")).await {
            paths.push(format!("v1/deliveries/{delivery}/attempts"));
        }
    }
    paths
}
