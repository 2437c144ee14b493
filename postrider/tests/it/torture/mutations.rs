//! Changes through the API, all at the managed endpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::traffic::{MANAGED, Traffic};
use crate::support::producer::{Producer, text};

pub(crate) struct Mutations {
    stop: CancellationToken,
    task: JoinHandle<Mutated>,
}

/// How often each change was made.
#[derive(Default)]
pub(crate) struct Mutated(BTreeMap<&'static str, u32>);

impl fmt::Display for Mutated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<44} {:>6}", "change through the API", "times")?;
        self.0.iter().try_for_each(|(name, count)| writeln!(f, "{name:<44} {count:>6}"))
    }
}

impl Mutations {
    pub(crate) fn start(traffic: &Traffic, mut random: StdRng) -> Self {
        let stop = CancellationToken::new();
        let (producers, endpoint) = (traffic.producers.clone(), traffic.endpoints[MANAGED].clone());
        let (secrets, url) = (traffic.secrets.clone(), traffic.receiver.url("/deleted"));
        let token = stop.clone();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build();
        let client = client.expect("a client");
        let task = tokio::spawn(async move {
            let mut mutated = Mutated::default();
            let own = producers[0].endpoint_path(&endpoint, "");
            loop {
                let pause = Duration::from_millis(random.random_range(200..1_500));
                if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    break;
                }
                let producer =
                    Producer { client: client.clone(), ..producers[random.random_range(0..2)].clone() };
                let name = match random.random_range(0..8) {
                    0 => {
                        let is_active = random.random_bool(0.6);
                        call(&producer, Method::PATCH, &own, Some(json!({ "is_active": is_active }))).await;
                        "disable or enable an endpoint"
                    }
                    1 => {
                        let limit = random.random_range(1..50);
                        call(&producer, Method::PATCH, &own, Some(json!({ "concurrency_limit": limit })))
                            .await;
                        "PATCH of an endpoint"
                    }
                    2 => {
                        if let Some(answer) =
                            call(&producer, Method::POST, &format!("{own}/secret/rotate"), None).await
                            && let Some(secret) = answer["secret"].as_str()
                        {
                            secrets
                                .lock()
                                .expect("the lock")
                                .entry(MANAGED)
                                .or_default()
                                .push(secret.to_owned());
                        }
                        "rotation of a secret"
                    }
                    3 => {
                        on_a_delivery(&producer, &endpoint, "retry", &mut random).await;
                        "manual retry"
                    }
                    4 => {
                        on_a_delivery(&producer, &endpoint, "cancel", &mut random).await;
                        "cancel"
                    }
                    5 => {
                        if let Some(event) = some_delivery(&producer, &endpoint, &mut random).await {
                            let path = format!("/v1/events/{}/replay", text(&event["event_id"]));
                            let body = json!({ "endpoint_ids": [endpoint["id"]] });
                            call(&producer, Method::POST, &path, Some(body)).await;
                        }
                        "replay of an event"
                    }
                    6 => {
                        let mode = ["replay", "missing"][random.random_range(0..2)];
                        let body = json!({
                            "mode": mode,
                            "endpoint_ids": [endpoint["id"]],
                            "created_after": chrono::Utc::now() - chrono::Duration::seconds(20),
                        });
                        call(&producer, Method::POST, "/v1/replays", Some(body)).await;
                        "replay of all events of the last 20 s"
                    }
                    _ => {
                        let path = producer.path("/endpoints");
                        let body = json!({ "url": url, "event_types": ["managed.*"] });
                        if let Some(made) = call(&producer, Method::POST, &path, Some(body)).await
                            && made["id"].is_string()
                        {
                            let path = producer.endpoint_path(&made, "");
                            tokio::time::sleep(Duration::from_millis(300)).await;
                            while call(&producer, Method::DELETE, &path, None).await.is_none() {
                                tokio::time::sleep(Duration::from_millis(300)).await;
                            }
                        }
                        "creation and deletion of an endpoint"
                    }
                };
                *mutated.0.entry(name).or_default() += 1;
            }
            // Deliveries that wait for a disabled endpoint would never end.
            let enabled = json!({ "is_active": true, "concurrency_limit": 50 });
            while call(&producers[0], Method::PATCH, &own, Some(enabled.clone()))
                .await
                .is_none_or(|answer| answer["is_active"] != true)
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            mutated
        });
        Self { stop, task }
    }

    pub(crate) async fn stop(self) -> Mutated {
        self.stop.cancel();
        self.task.await.expect("it does not panic")
    }
}

/// Calls the API. Returns `None` if there is no response.
async fn call(producer: &Producer, method: Method, path: &str, body: Option<Value>) -> Option<Value> {
    let request = producer.request(method, path);
    let request = if let Some(body) = &body { request.json(body) } else { request };
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    assert!(![500, 422].contains(&status), "{path} got status {status}");
    Some(response.json().await.unwrap_or_default())
}

async fn some_delivery(producer: &Producer, endpoint: &Value, random: &mut StdRng) -> Option<Value> {
    let path = format!("/v1/deliveries?limit=20&endpoint_id={}", text(&endpoint["id"]));
    let page = call(producer, Method::GET, &path, None).await?;
    let list = page["data"].as_array()?;
    if list.is_empty() { None } else { Some(list[random.random_range(0..list.len())].clone()) }
}

async fn on_a_delivery(producer: &Producer, endpoint: &Value, verb: &str, random: &mut StdRng) {
    if let Some(delivery) = some_delivery(producer, endpoint, random).await {
        let path = format!("/v1/deliveries/{}/{verb}", text(&delivery["id"]));
        call(producer, Method::POST, &path, None).await;
    }
}
