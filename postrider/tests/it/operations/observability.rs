//! What users see of deliveries that wait, and what operators see of the system.

use serde_json::json;

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;
use crate::support::{Bed, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_shows_that_it_waits_for_the_rate_limit() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": 1})).await;
    let mut event = String::new();
    for number in 0..20 {
        event = text(&producer.publish("user.created", json!({ "n": number })).await["event_id"]);
    }
    eventually("the last one to say what it waits for", async || {
        let delivery = producer.deliveries(&event).await.remove(0);
        (delivery["waiting_for"] == "rate_limit" && delivery["status"] == "pending").then_some(())
    })
    .await;
    producer.patch(&producer.endpoint_path(&endpoint, ""), &json!({"rate_limit": null})).await;
    let delivery = producer.deliveries(&event).await.remove(0);
    assert!(delivery["waiting_for"].is_null(), "there is no limit any more");
    bed.all_succeeded(20).await;
    services.stop().await;
    bed.finish().await;
}

/// The user from docs/operations.md, with the name, password and prefix of this test.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_redis_user_has_every_permission_the_services_need() {
    let bed = Bed::new().await;
    let docs = include_str!("../../../../docs/operations.md");
    let rule =
        docs.split('`').find(|code| code.starts_with("ACL SETUSER ")).expect("the ACL rule of the user");
    let rule = rule
        .replace("SETUSER postrider ", &format!("SETUSER {} ", bed.name))
        .replace("{postrider:", &format!("{{{}:", bed.name));
    assert!(rule.contains(&format!("~{{{}:*", bed.name)), "{rule}");
    let mut words = rule.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    for word in words {
        command.arg(word);
    }
    let mut redis = bed.redis().await;
    let () = command.query_async(&mut redis).await.expect("a user");

    let url = bed.source.get("REDIS_URL").expect("it was set").to_owned();
    let url = match url.split_once("://") {
        Some(("redis+unix", path)) => format!("redis+unix://{path}?user={}&pass=PASSWORD", bed.name),
        Some((scheme, host)) => {
            let host = host.rsplit('@').next().expect("a host");
            format!("{scheme}://{}:PASSWORD@{host}", bed.name)
        }
        None => panic!("no URL: {url}"),
    };
    let services = Services::start_with(&bed, &[("REDIS_URL", &url)]).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 204 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": 20})).await;
    for number in 0..30 {
        producer.publish("user.created", json!({ "n": number })).await;
    }
    bed.all_succeeded(30).await;
    let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query_async(&mut redis).await.expect("a log");
    let log = log.iter().map(|entry| format!("{entry:?}"));
    let denied: Vec<_> = log.filter(|entry| entry.contains(&bed.name)).collect();
    assert!(denied.is_empty(), "{denied:?}");
    services.stop().await;
    let () = redis::cmd("ACL").arg("DELUSER").arg(&bed.name).query_async(&mut redis).await.expect("removed");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_latency_and_backlog() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 204 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.endpoint(json!({"url": receiver.url("/"), "is_active": false})).await;
    producer.publish("user.created", json!({})).await;
    bed.all_succeeded(1).await;
    let metrics = format!("http://{}/metrics", services.api);
    for sample in [
        "postrider_first_attempt_delay_seconds_count 1",
        "postrider_success_delay_seconds_count 1",
        "postrider_success_delay_seconds_bucket{le=\"0.5\"} 0",
        "postrider_claim_seconds_count ",
        "postrider_record_seconds_count ",
        "postrider_relay_lag_seconds_count ",
        "postrider_endpoints{state=\"well\"} 1",
        "postrider_endpoints{state=\"failing\"} 0",
        "postrider_endpoints{state=\"disabled\"} 1",
        "postrider_inbox_waiting 0",
        "postrider_inbox_oldest_seconds 0",
        "postrider_replays_open 0",
        "postrider_cleanups_open 0",
        "postrider_deliverer_clock_ahead_seconds ",
    ] {
        eventually(sample, async || {
            let text = reqwest::get(&metrics).await.ok()?.text().await.ok()?;
            text.lines().any(|line| line.starts_with(sample)).then_some(())
        })
        .await;
    }
    services.stop().await;
    bed.finish().await;
}
