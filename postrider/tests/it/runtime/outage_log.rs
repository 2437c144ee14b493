//! What services log about an outage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postrider_embedded::Stop;
use serde_json::{Value, json};

use crate::support::producer::Producer;
use crate::support::receiver::Receiver;
use crate::support::service::{Process, free_port};
use crate::support::stack::own_servers;
use crate::support::{Bed, within};

/// How long a server is down.
const OUTAGE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_logged_once_when_it_begins_and_once_when_it_ends() {
    let (_directory, mut servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let logs = tempfile::tempdir().expect("a directory");
    let start = |role: &str| {
        let path = logs.path().join(role);
        let environment = [("POSTRIDER_LOG", "info"), ("POSTRIDER_LOG_FORMAT", "json")];
        let log = std::fs::File::create(&path).expect("a file");
        (path, Process::start_logging(&bed, role, free_port(), &environment, log))
    };
    let processes = ["api", "relay", "deliverer"].map(start);
    for (_, process) in &processes {
        process.ready().await;
    }
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(processes[0].1.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": null})).await;
    // Constant load, so that there is always something that can fail.
    let load = tokio::spawn(async move {
        for number in 0_u64.. {
            let _ = producer.try_publish(&number.to_string(), "user.created", &json!({})).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });

    let before = line_counts(&processes);
    servers.stop_postgres(Stop::Immediate).await.expect("stopped");
    outage(&processes).await;
    servers.start_postgres().await.expect("started");
    recovered(&processes, &before).await;
    let seen = outages(&processes, &before);
    for (role, part) in [
        ("api", "api_postgresql"),
        ("api", "api_inbox"),
        ("relay", "relay_listener"),
        ("relay", "relay_postgresql"),
        ("deliverer", "deliverer_registration"),
    ] {
        assert!(
            seen[role].get(part).is_some_and(|lasted| *lasted >= OUTAGE.as_secs_f64()),
            "{part}: {seen:?}"
        );
    }

    let before = line_counts(&processes);
    servers.stop_redis(Stop::Kill).await.expect("stopped");
    outage(&processes[1..]).await;
    servers.start_redis().await.expect("started");
    recovered(&processes, &before).await;
    let seen = outages(&processes, &before);
    assert!(seen["api"].is_empty(), "{seen:?}");
    assert_eq!(seen["relay"].keys().collect::<Vec<_>>(), ["relay_redis"]);
    assert_eq!(seen["deliverer"].keys().collect::<Vec<_>>(), ["deliverer_redis"]);
    load.abort();
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

type Logged = (PathBuf, Process);

/// Waits until all services have noticed that a server is down, and then for `OUTAGE`.
async fn outage(processes: &[Logged]) {
    for (_, process) in processes {
        within(Duration::from_secs(30), "a service that is not ready", async || {
            (process.health("ready").await?.0 == 503).then_some(())
        })
        .await;
    }
    let began = Instant::now();
    while began.elapsed() < OUTAGE {
        for (_, process) in processes {
            process.health("ready").await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until all services are ready and have logged that every part works again.
async fn recovered(processes: &[Logged], before: &BTreeMap<String, usize>) {
    for (_, process) in processes {
        process.ready().await;
    }
    within(Duration::from_secs(30), "the end of each outage", async || {
        let lines = processes.iter().flat_map(|(path, _)| lines(path, before));
        let count = |message: &str| lines.clone().filter(|line| line["message"] == message).count();
        (count("works again") >= count("does not work; trying again")).then_some(())
    })
    .await;
}

/// The number of lines in each log.
fn line_counts(processes: &[Logged]) -> BTreeMap<String, usize> {
    processes.iter().map(|(path, _)| (name(path), lines(path, &BTreeMap::new()).len())).collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// The lines that a service has logged since `before`.
fn lines(path: &Path, before: &BTreeMap<String, usize>) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a log");
    let skipped = before.get(&name(path)).copied().unwrap_or(0);
    text.lines().skip(skipped).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// How long each outage lasted, by service and part. Fails if an outage is logged twice, or if other lines repeat.
fn outages(
    processes: &[Logged],
    before: &BTreeMap<String, usize>,
) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut outages = BTreeMap::new();
    for (path, _) in processes {
        let mut parts = BTreeMap::new();
        let mut said: BTreeMap<(String, String), usize> = BTreeMap::new();
        let lines = lines(path, before);
        for line in &lines {
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            *said.entry((text("message"), text("part"))).or_default() += 1;
            if let Some(lasted) = line["lasted_seconds"].as_f64() {
                parts.insert(text("part"), lasted);
            }
        }
        assert!(said.values().all(|count| *count == 1), "{}: {said:?}\n{lines:#?}", path.display());
        outages.insert(name(path), parts);
    }
    outages
}
