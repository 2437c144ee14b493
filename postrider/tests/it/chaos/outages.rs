//! The lines of the failure table about servers and shutdown: a connection that is cut silently, a Redis outage, a
//! PostgreSQL restart, and services that are stopped under load.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postrider_embedded::Stop;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Process;
use crate::support::stack::{Stack, own_servers};
use crate::support::wire::Wire;
use crate::support::{Bed, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_silently_cut_listener_is_noticed_and_replaced() {
    let bed = Bed::new().await;
    let wire = Wire::to(&bed).await;
    let (api, deliverer) = (Process::start(&bed, "api", &[]), Process::start(&bed, "deliverer", &[]));
    let relay = Process::start(&bed, "relay", &[("POSTRIDER_DATABASE_DIRECT_URL", &wire.url)]);
    for process in [&api, &deliverer, &relay] {
        process.ready().await;
    }
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(1).await;
    let listeners = "select count(*) from pg_stat_activity
                     where datname = current_database() and query like '%listen postrider_outbox'";
    assert_eq!(bed.count(listeners).await, 1);

    wire.cut();
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(2).await;
    assert_eq!(bed.count(listeners).await, 1, "the poll delivered it");
    // PostgreSQL does not know yet that the first listener is cut off.
    eventually("another listener", async || (bed.count(listeners).await == 2).then_some(())).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(3).await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_outage_stops_sending_and_nothing_else() {
    let (_directory, mut servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 200 }).await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(1).await;
    servers.stop_redis(Stop::Fast).await.expect("stopped");
    let began = Instant::now();
    let mut accepted = 1;
    while began.elapsed() < Duration::from_secs(6) {
        producer.publish("user.created", json!({ "n": accepted })).await;
        accepted += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!is_ready(&stack.relay).await && !is_ready(&stack.deliverer).await, "they report what is wrong");
    assert!(is_ready(&stack.api).await, "it is as ready as before");

    servers.start_redis().await.expect("started");
    bed.all_succeeded(accepted).await;
    assert_eq!(receiver.count() as i64, 2 * accepted, "one failure of each, and nothing twice");
    assert_eq!(bed.unknown_attempts().await, 0);
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_started_before_postgresql_wait_for_it() {
    let (_directory, mut servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    servers.stop_postgres(Stop::Fast).await.expect("stopped");
    let roles = ["api", "relay", "deliverer"];
    let processes = roles.map(|role| Process::start(&bed, role, &[]));
    for (role, process) in roles.iter().zip(&processes) {
        let part = format!("{role}_postgresql");
        eventually("a service that says what it waits for", async || {
            let (status, answer) = process.health("ready").await?;
            assert_eq!(status, 503, "{answer}");
            answer["parts"][&part]["reason"].as_str()?.contains("PostgreSQL cannot be reached").then_some(())
        })
        .await;
        assert_eq!(process.health("live").await.expect("a response").0, 200);
    }
    let api = format!("http://{}/v1/applications", processes[0].listen);
    let refused = reqwest::get(api).await.expect("a response");
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "1");

    servers.start_postgres().await.expect("started");
    for process in &processes {
        process.ready().await;
    }
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(processes[0].listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(1).await;
    for process in processes {
        assert!(process.terminate().await, "it exits 0");
    }
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_do_not_wait_for_a_database_that_does_not_exist() {
    let bed = Bed::new().await;
    let absent = bed.source.get("DATABASE_URL").expect("it was set").replace(&bed.name, "absent");
    for role in ["api", "relay", "deliverer"] {
        let mut process = Process::start(&bed, role, &[("DATABASE_URL", &absent)]);
        assert_eq!(process.died().await.code(), Some(1), "{role}");
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_restart_under_load_loses_nothing_that_was_acknowledged() {
    let (_directory, mut servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::start(|_| Reply { delay: Duration::from_millis(50), ..Reply::from(200) }).await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "timeout_seconds": 1, "rate_limit": null})).await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let shares: Vec<_> = (0..8)
        .map(|share| {
            let (producer, accepted) = (producer.clone(), accepted.clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for number in 0..100 {
                    let key = format!("{share}-{number}");
                    let answer = producer.publish_until_accepted(&key, "user.created", &json!({})).await;
                    ids.push(text(&answer["event_id"]));
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                ids
            })
        })
        .collect();
    eventually("some load", async || {
        (accepted.load(Ordering::Relaxed) > 200 && receiver.count() > 100).then_some(())
    })
    .await;
    servers.stop_postgres(Stop::Immediate).await.expect("stopped");
    assert!(accepted.load(Ordering::Relaxed) < 800, "it stops in the middle of the load");
    servers.start_postgres().await.expect("started");
    let mut ids = Vec::new();
    for share in shares {
        ids.extend(share.await.expect("a producer whose every event is accepted"));
    }

    bed.all_succeeded(800).await;
    let mut arrivals: HashMap<String, usize> = HashMap::new();
    for webhook in receiver.received() {
        *arrivals.entry(webhook.id().to_owned()).or_default() += 1;
    }
    assert!(ids.iter().all(|id| arrivals.contains_key(id)), "everything acknowledged has arrived");
    assert_eq!(arrivals.len(), 800, "and each key has made one event");
    // A claim that was not yet on disk, or whose response was lost, may cost one extra send.
    assert!(arrivals.values().all(|count| *count <= 2), "nothing is sent more than twice");
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_and_a_relay_stopped_under_load_leave_nothing_half_done() {
    let bed = Bed::new().await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    api.ready().await;
    relay.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": null})).await;
    let posting: Vec<_> = (0..20)
        .map(|share| {
            let producer = producer.clone();
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for number in 0.. {
                    let key = format!("{share}-{number}");
                    match producer.try_publish(&key, "user.created", &json!({ "n": number })).await {
                        Ok(response) if response.status() == 202 => {
                            let answer: Value = response.json().await.expect("a complete response");
                            ids.push(text(&answer["event_id"]));
                        }
                        Ok(response) => assert_eq!(response.status(), 503),
                        // The API no longer accepts connections.
                        Err(_) => break,
                    }
                }
                ids
            })
        })
        .collect();
    let events = "select count(*) from events";
    eventually("some load", async || (bed.count(events).await > 300).then_some(())).await;
    assert!(relay.terminate().await && api.terminate().await, "they exit 0");
    let mut acknowledged = 0;
    for share in posting {
        acknowledged += share.await.expect("a producer").len() as i64;
    }
    assert_eq!(
        bed.count(events).await,
        acknowledged,
        "what is stored was acknowledged, and the other way round"
    );

    let (_relay, _deliverer) = (Process::start(&bed, "relay", &[]), Process::start(&bed, "deliverer", &[]));
    bed.all_succeeded(acknowledged).await;
    assert_eq!(receiver.count() as i64, acknowledged);
    bed.finish().await;
}

async fn is_ready(process: &Process) -> bool {
    process.health("ready").await.expect("a response").0 == 200
}
