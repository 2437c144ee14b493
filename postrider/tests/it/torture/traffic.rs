//! Producers that do not give up, and a receiver that verifies.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::emitter::{Emitted, Emitter, accepted};
use super::installation::Installation;
use crate::support::Bed;
use crate::support::producer::{Producer, text};
use crate::support::receiver::{Receiver, Reply};

/// Endpoints: two with default settings, two that keep the order, one that is managed while it receives, and one that
/// keeps the order of events emitted in SQL.
pub(crate) const KINDS: [&str; 6] =
    ["plain_0", "plain_1", "ordered_0", "ordered_1", "managed", "ordered_emitted"];
pub(crate) const MANAGED: usize = 4;
const EMITTED: usize = 5;

/// How long a producer waits between two events. An ordered endpoint handles one at a time.
const PACE: Duration = Duration::from_millis(150);
pub(crate) const ORDERED_PACE: Duration = Duration::from_millis(500);

/// An event that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) event_id: String,
    /// Its number among the events of its kind.
    pub(crate) number: u64,
    pub(crate) at: Instant,
}

pub(crate) struct Traffic {
    pub(crate) producers: [Producer; 2],
    pub(crate) receiver: Arc<Receiver>,
    pub(crate) endpoints: Vec<Value>,
    /// All secrets that the endpoint of each kind has ever had.
    pub(crate) secrets: Arc<Mutex<BTreeMap<usize, Vec<String>>>>,
    stop: CancellationToken,
    publishing: Mutex<Vec<JoinHandle<Vec<Acknowledged>>>>,
    emitting: Mutex<Option<JoinHandle<Vec<Emitted>>>>,
}

impl Traffic {
    pub(crate) async fn start(installation: &Installation) -> Self {
        // One in ten fails at first, and each takes a while, so that something is always in flight.
        let receiver = Receiver::start(|webhook| {
            let fails = webhook.attempt == 1 && webhook.id().ends_with('0');
            let status = if fails { 500 } else { 200 };
            Reply { delay: Duration::from_millis(50), ..Reply::from(status) }
        })
        .await;
        let [first, second] = installation.apis();
        let producer = Producer::new(first).await;
        let producers = [producer.clone(), Producer { api: second, ..producer.clone() }];
        let mut endpoints = Vec::new();
        let mut secrets = BTreeMap::new();
        for (index, kind) in KINDS.iter().enumerate() {
            let endpoint = producer
                .endpoint(json!({
                    "url": receiver.url(&format!("/{kind}")),
                    "event_types": [format!("{kind}.*")],
                    "ordered": kind.starts_with("ordered"),
                    "rate_limit": null,
                    "timeout_seconds": 5,
                    // Each death of a deliverer may cost an attempt.
                    "max_attempts": 20,
                    "retry_schedule": [1],
                }))
                .await;
            secrets.insert(index, vec![text(&endpoint["secret"])]);
            endpoints.push(endpoint);
        }
        let stop = CancellationToken::new();
        let publishing =
            (0..EMITTED).map(|kind| tokio::spawn(publish(producers.clone(), kind, stop.clone()))).collect();
        let emitter = Emitter {
            config: installation.proxied_database(),
            application: producer.application_id.clone(),
            kind: KINDS[EMITTED],
        };
        let emitting = Some(tokio::spawn(emitter.emit(stop.clone())));
        Self {
            producers,
            receiver: Arc::new(receiver),
            endpoints,
            secrets: Arc::new(Mutex::new(secrets)),
            stop,
            publishing: Mutex::new(publishing),
            emitting: Mutex::new(emitting),
        }
    }

    /// Waits until everything sent is acknowledged and everything emitted is accepted. Returns the events by kind.
    pub(crate) async fn stop_publishing(&self, bed: &Bed) -> HashMap<usize, Vec<Acknowledged>> {
        self.stop.cancel();
        let publishing = std::mem::take(&mut *self.publishing.lock().expect("the lock"));
        let mut acknowledged = HashMap::new();
        for (kind, task) in publishing.into_iter().enumerate() {
            acknowledged.insert(kind, task.await.expect("a producer whose every event is acknowledged"));
        }
        let emitting = self.emitting.lock().expect("the lock").take().expect("an emitter");
        let emitted = emitting.await.expect("an emitter whose every event is committed");
        acknowledged.insert(EMITTED, accepted(bed, emitted).await);
        acknowledged
    }
}

/// Publishes one event after another, each repeatedly under its key until it is acknowledged.
async fn publish(producers: [Producer; 2], kind: usize, stop: CancellationToken) -> Vec<Acknowledged> {
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().expect("a client");
    let producers = producers.map(|producer| Producer { client: client.clone(), ..producer });
    let mut acknowledged = Vec::new();
    let pace = if KINDS[kind].starts_with("ordered") { ORDERED_PACE } else { PACE };
    for number in 0.. {
        if stop.run_until_cancelled(tokio::time::sleep(pace)).await.is_none() {
            break;
        }
        let (key, data) = (format!("{}-{number}", KINDS[kind]), json!({ "n": number }));
        let event_type = format!("{}.happened", KINDS[kind]);
        let began = Instant::now();
        for producer in producers.iter().cycle() {
            if let Ok(response) = producer.try_publish(&key, &event_type, &data).await {
                let status = response.status();
                let may_be = [StatusCode::ACCEPTED, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
                assert!(may_be, "{key} got status {status}");
                if status == StatusCode::ACCEPTED
                    && let Ok(answer) = response.json::<Value>().await
                {
                    let event_id = text(&answer["event_id"]);
                    acknowledged.push(Acknowledged { event_id, number, at: Instant::now() });
                    break;
                }
            }
            assert!(began.elapsed() < Duration::from_secs(120), "{key} is not acknowledged");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    acknowledged
}
