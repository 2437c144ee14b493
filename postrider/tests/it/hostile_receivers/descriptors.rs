//! A deliverer with too few file descriptors. This is its own fault, not that of a receiver.

use futures_util::future::join_all;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::name_server::{NameServer, Reply};
use super::setup::{RawReceiver, read_request};
use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::{Process, Services};
use crate::support::{Bed, eventually};

async fn accept(mut stream: TcpStream) {
    read_request(&mut stream).await;
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
}

/// Checks that all deliveries of an event succeed at their first attempt.
async fn all_succeed_at_once(producer: &Producer, event_id: &str, count: usize) {
    let deliveries = eventually("the end of all deliveries", async || {
        let deliveries = producer.deliveries(event_id).await;
        deliveries.iter().all(|delivery| delivery["completed_at"].is_string()).then_some(deliveries)
    })
    .await;
    assert_eq!(deliveries.len(), count);
    for delivery in deliveries {
        assert_eq!(delivery["status"], "succeeded", "{delivery}");
        assert_eq!(delivery["attempt_count"], 1, "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_without_file_descriptors_uses_no_attempt() {
    let name_server =
        NameServer::start(|_, _| Reply::Addresses(vec!["127.0.0.1".parse().expect("an address")])).await;
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    services.relay(&bed, &[]);
    let asking = name_server.address.to_string();
    let deliverer = Process::start(&bed, "deliverer", &[("POSTRIDER_DNS_SERVERS", &asking)]);
    deliverer.ready().await;
    let producer = Producer::new(services.api).await;
    let receiver = RawReceiver::start(accept).await;
    for host in ["127.0.0.1", "127.0.0.1", "named.example.test", "other.example.test"] {
        let url = format!("http://{host}:{}/", receiver.address.port());
        producer.endpoint(json!({"url": url, "event_types": ["short.*"], "max_attempts": 1})).await;
    }
    let event_id = text(&producer.publish("short.first", json!({})).await["event_id"]);
    all_succeed_at_once(&producer, &event_id, 4).await;

    // From here on the deliverer can open nothing. Open connections stay open, including this one to its health.
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1).build().expect("a client");
    let health = async || -> Value {
        let url = format!("http://{}/health/ready", deliverer.listen);
        client.get(url).send().await.expect("a response").json().await.expect("JSON")
    };
    assert_eq!(health().await["parts"]["deliverer_sockets"], Value::Null);
    let process = Pid::from_raw(deliverer.id().cast_signed());
    let before =
        prlimit(process, Resource::Nofile, Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) })
            .expect("a limit");
    let event_id = text(&producer.publish("short.second", json!({})).await["event_id"]);
    eventually("a deliverer that says what it lacks", async || {
        let reason =
            health().await["parts"]["deliverer_sockets"]["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains("Too many open files").then_some(())
    })
    .await;
    let given_back = eventually("claims to be given back", async || {
        let deliveries = producer.deliveries(&event_id).await;
        let is_back = |delivery: &Value| delivery["status"] == "pending" && delivery["attempt_count"] == 0;
        deliveries.iter().all(is_back).then_some(deliveries)
    })
    .await;
    assert_eq!(given_back.len(), 4);
    prlimit(process, Resource::Nofile, before).expect("a limit");
    all_succeed_at_once(&producer, &event_id, 4).await;
    assert_eq!(bed.count("select count(*) from delivery_attempts").await, 8);
    deliverer.ready().await;
    drop(deliverer);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_sends_only_as_much_at_once_as_it_has_file_descriptors_for() {
    const ENDPOINTS: usize = 200;
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    services.relay(&bed, &[]);
    let log = tempfile::NamedTempFile::new().expect("a file");
    let file = log.reopen().expect("a file");
    let deliverer = Process::start_limited(&bed, "deliverer", 64, &[], file);
    let producer = Producer::new(services.api).await;
    let receiver = Receiver::accepting().await;
    let endpoints = (0..ENDPOINTS).map(|number| {
        let url = receiver.url(&format!("/{number}"));
        producer.endpoint(json!({"url": url, "event_types": ["many"], "max_attempts": 1}))
    });
    join_all(endpoints).await;
    let event_id = text(&producer.publish("many", json!({})).await["event_id"]);
    receiver.wait_for(ENDPOINTS).await;
    let not_at_once = "select count(*) from deliveries where status <> 'succeeded' or attempt_count <> 1";
    eventually("all deliveries to be recorded", async || (bed.count(not_at_once).await == 0).then_some(()))
        .await;
    assert_eq!(receiver.count(), ENDPOINTS, "{event_id}");
    let said = std::fs::read_to_string(log.path()).expect("a log");
    assert!(said.contains("fewer webhooks are sent at once") && said.contains("concurrency=16"), "{said}");
    drop(deliverer);
    services.stop().await;
    bed.finish().await;
}
