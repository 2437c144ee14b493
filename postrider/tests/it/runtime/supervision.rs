//! A task that panics stops its process.

use std::io::{Read as _, Seek as _};
use std::time::Duration;

use serde_json::json;

use crate::support::producer::Producer;
use crate::support::receiver::Receiver;
use crate::support::service::{Process, free_port};
use crate::support::{Bed, within};

const TASKS: [(&str, &[&str]); 4] = [
    ("api", &["api key use", "api metrics", "api locks", "api inbox", "api writer"]),
    (
        "relay",
        &[
            "health and metrics",
            "relay listener",
            "relay pump",
            "relay refill",
            "relay epoch",
            "relay replay",
            "relay sweep",
            "relay stranded",
            "relay cleanup",
            "relay statistics",
            "relay survey",
            "relay partitions",
            "relay locks",
        ],
    ),
    (
        "deliverer",
        &[
            "health and metrics",
            "deliverer registration",
            "deliverer heartbeat",
            "deliverer condition",
            "deliverer notes",
            "deliverer connections",
            "deliverer locks",
            "deliverer recorder",
            "deliverer claims",
        ],
    ),
    ("up", &["api writer", "relay sweep", "deliverer heartbeat"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_task_stops_its_process_with_an_error_that_names_it() {
    let bed = Bed::new().await;
    for (role, tasks) in TASKS {
        for task in tasks {
            let mut log = tempfile::tempfile().expect("a file");
            let failpoint = format!("task:{task}=panic");
            let environment = [("FAILPOINTS", failpoint.as_str())];
            let stderr = log.try_clone().expect("a handle");
            let mut process = Process::start_logging(&bed, role, free_port(), &environment, stderr);
            let status = process.died().await;
            let mut text = String::new();
            log.rewind().and_then(|()| log.read_to_string(&mut text)).expect("its log");
            assert_eq!(status.code(), Some(1), "{role}, {task}: {text}");
            let cause = format!("the task `{task}` panicked: ");
            let is_said = text.lines().any(|line| line.starts_with("postrider: ") && line.contains(&cause));
            assert!(is_said, "{role}, {task}: {text}");
        }
    }
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_exchange_fails_only_that_attempt() {
    let bed = Bed::new().await;
    let (api, _relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    let environment = [("FAILPOINTS", "deliverer.before_send:user.poison=1*panic")];
    let mut deliverer = Process::start(&bed, "deliverer", &environment);
    for process in [&api, &deliverer] {
        process.ready().await;
    }
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let poison = producer.publish("user.poison", json!({})).await;
    producer.publish("user.created", json!({})).await;
    bed.all_succeeded(2).await;
    assert!(!deliverer.has_died());
    let id = poison["event_id"].as_str().expect("an id");
    let delivery = producer.delivery_in(id, "succeeded").await;
    let attempts = producer.attempts(&delivery).await;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    within(Duration::from_secs(20), "an empty queue", async || bed.is_queue_empty().await.then_some(()))
        .await;
    bed.finish().await;
}
