//! An event's journey through the public API to a receiver that verifies with the standard library for Standard
//! Webhooks.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;
use crate::support::{Bed, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_becomes_a_verified_webhook() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer
        .endpoint(
            json!({"url": receiver.url("/hook"), "headers": {"X-Tenant": "blue"}, "event_types": ["user.*"]}),
        )
        .await;

    let data = json!({"id": "usr_123", "email": "user@example.com"});
    let accepted = producer.publish("user.created", data.clone()).await;
    assert_eq!(accepted["status"], "accepted");
    assert_eq!(accepted["deliveries_queued"], 1);
    assert_eq!(accepted["duplicate"], false);

    let webhook = receiver.wait_for(1).await.remove(0);
    webhook.verify(&text(&endpoint["secret"]));
    assert_eq!(webhook.id(), text(&accepted["event_id"]));
    assert_eq!(webhook.header("content-type"), "application/json");
    assert_eq!(webhook.header("x-tenant"), "blue");
    assert!(webhook.header("user-agent").starts_with("Postrider/"));
    assert_eq!(webhook.json()["type"], "user.created");
    assert_eq!(webhook.json()["data"], data);

    let event = producer.get(&format!("/v1/events/{}", text(&accepted["event_id"]))).await;
    assert_eq!(webhook.json()["timestamp"], event["created_at"]);
    let delivery = producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    assert_eq!(delivery["attempt_count"], 1);
    assert_eq!(delivery["last_response_status"], 204);
    assert!(delivery["completed_at"].is_string());
    assert!(delivery["next_retry_at"].is_null());
    let attempts = producer.attempts(&delivery).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["outcome"], "succeeded");
    assert_eq!(attempts[0]["response_status"], 204);

    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_to_exactly_the_endpoints_whose_patterns_match() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let stranger = Producer::new(services.api).await;
    stranger.endpoint(json!({"url": receiver.url("/stranger")})).await;
    for (path, patterns) in [
        ("/all", json!(["*"])),
        ("/invoices", json!(["invoice.*"])),
        ("/paid", json!(["user.created", "invoice.paid"])),
        ("/users", json!(["user.*"])),
        ("/operational", json!(["postrider.*"])),
    ] {
        producer.endpoint(json!({"url": receiver.url(path), "event_types": patterns})).await;
    }

    let accepted = producer.publish("invoice.paid", json!({"n": 1})).await;
    assert_eq!(accepted["deliveries_queued"], 3);
    let mut paths: Vec<_> = receiver.wait_for(3).await.into_iter().map(|webhook| webhook.path).collect();
    paths.sort();
    assert_eq!(paths, ["/all", "/invoices", "/paid"]);
    assert_eq!(producer.publish("invoiced", json!({})).await["deliveries_queued"], 1);

    receiver.wait_for(4).await;

    services.stop().await;
    assert_eq!(receiver.count(), 4);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_retried_with_the_same_id_and_the_same_bytes() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt < 3 { 500 } else { 200 }).await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [0, 1]})).await;

    let accepted =
        producer.publish("user.created", json!({"b": 1, "a": [1.10, 12345678901234567890u64]})).await;
    let event_id = text(&accepted["event_id"]);
    let delivery = producer.delivery_in(&event_id, "succeeded").await;
    assert_eq!(delivery["attempt_count"], 3);
    let webhooks = receiver.received();
    assert_eq!(webhooks.len(), 3);
    for webhook in &webhooks {
        webhook.verify(&text(&endpoint["secret"]));
        assert_eq!(webhook.id(), event_id);
        assert_eq!(webhook.body, webhooks[0].body);
    }
    let outcomes: Vec<_> = producer
        .attempts(&delivery)
        .await
        .iter()
        .map(|a| (a["attempt_number"].clone(), a["response_status"].clone()))
        .collect();
    assert_eq!(outcomes, [(json!(1), json!(500)), (json!(2), json!(500)), (json!(3), json!(200))]);

    services.stop().await;
    bed.finish().await;
}

/// A receiver that was deployed with the wrong secret refuses every signature until somebody notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_responds_4xx_for_a_while_loses_nothing() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.attempt {
        1 => 400,
        2 => 404,
        3 => 422,
        _ => 204,
    })
    .await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/"), "permanent_statuses": null})).await;
    assert_eq!((&endpoint["max_attempts"], &endpoint["permanent_statuses"]), (&json!(10), &json!([])));
    let accepted = producer.publish("user.created", json!({})).await;
    let delivered = producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    assert_eq!((&delivered["attempt_count"], &delivered["max_attempts"]), (&json!(4), &json!(10)));

    // A receiver can declare statuses as permanent.
    producer.patch(&producer.endpoint_path(&endpoint, ""), &json!({"permanent_statuses": [400]})).await;
    let accepted = producer.publish("user.created", json!({})).await;
    let dead = producer.delivery_in(&text(&accepted["event_id"]), "dead_letter").await;
    assert_eq!((&dead["attempt_count"], &dead["last_response_status"]), (&json!(1), &json!(400)));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_can_be_retried_manually() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 422 } else { 200 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "max_attempts": 1})).await;

    let accepted = producer.publish("user.created", json!({})).await;
    let event_id = text(&accepted["event_id"]);
    let dead = producer.delivery_in(&event_id, "dead_letter").await;
    assert_eq!(dead["last_response_status"], 422);
    assert!(dead["last_error"].is_string());
    producer.post(&format!("/v1/deliveries/{}/retry", text(&dead["id"])), &json!({})).await;
    let delivered = producer.delivery_in(&event_id, "succeeded").await;
    assert_eq!(delivered["max_attempts"], 2);
    assert_eq!(producer.attempts(&delivered).await.len(), 2);

    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manually_retried_delivery_is_sent_at_once_and_only_once() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 200 }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [3]})).await;

    let accepted = producer.publish("user.created", json!({})).await;
    let event_id = text(&accepted["event_id"]);
    let failed = producer.delivery_in(&event_id, "failed").await;
    assert!(failed["next_retry_at"].is_string());
    producer.post(&format!("/v1/deliveries/{}/retry", text(&failed["id"])), &json!({})).await;
    producer.delivery_in(&event_id, "succeeded").await;
    // The outbox row for the retry in three seconds becomes due, finds the delivery closed, and does nothing.
    eventually("an empty outbox", async || {
        (bed.count("select count(*) from outbox").await == 0).then_some(())
    })
    .await;
    services.stop().await;
    assert_eq!(receiver.count(), 2);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_concurrent_requests_with_one_key_make_one_event() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;

    let data = json!({"n": 1});
    let posts: Vec<_> = (0..100)
        .map(|_| {
            let (producer, data) = (producer.clone(), data.clone());
            tokio::spawn(
                async move { producer.publish_until_accepted("the-key", "user.created", &data).await },
            )
        })
        .collect();
    let mut answers = Vec::new();
    for post in posts {
        answers.push(post.await.expect("a task"));
    }
    assert_eq!(answers.iter().filter(|answer| answer["duplicate"] == false).count(), 1);
    assert!(answers.iter().all(|answer| answer["event_id"] == answers[0]["event_id"]));
    assert!(answers.iter().all(|answer| answer["deliveries_queued"] == 1));
    let other = producer.try_publish("the-key", "user.created", &json!({"n": 2})).await.expect("a response");
    assert_eq!(other.status(), 409);
    assert_eq!(other.json::<Value>().await.expect("a problem")["code"], "idempotency_key_reused");
    producer.delivery_in(&text(&answers[0]["event_id"]), "succeeded").await;
    services.stop().await;
    assert_eq!(receiver.count(), 1);
    assert_eq!(bed.count("select count(*) from events").await, 1);
    bed.finish().await;
}

/// Real input: GitHub's webhook payloads, if they are next to the project, and always the project's own samples.
fn real_events() -> Vec<(String, Box<serde_json::value::RawValue>)> {
    #[derive(serde::Deserialize)]
    struct Line {
        event_type: String,
        data: Box<serde_json::value::RawValue>,
    }
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/github-events.jsonl");
    let path = std::env::var("POSTRIDER_TEST_EVENTS").unwrap_or_else(|_| beside.to_owned());
    let mut text = include_str!("samples/events.jsonl").to_owned();
    match std::fs::read_to_string(&path) {
        Ok(real) => text.push_str(&real),
        Err(error) => eprintln!(
            "{path}: {error}. Only the project's own samples are used; POSTRIDER_TEST_EVENTS can name a file of real ones."
        ),
    }
    text.lines()
        .map(|line| {
            let line: Line = serde_json::from_str(line).expect("a line of the samples");
            (line.event_type, line.data)
        })
        .collect()
}

/// Posts all real events and follows each one to its webhook.
async fn real_events_arrive(answer: impl Fn(usize) -> u16 + Send + Sync + 'static) -> usize {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(move |webhook| answer(webhook.attempt)).await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [0]})).await;
    let secret = text(&endpoint["secret"]);

    let events = real_events();
    let mut posted = HashMap::new();
    for (number, (event_type, data)) in events.iter().enumerate() {
        let response = producer
            .request(reqwest::Method::POST, "/v1/events")
            .header("idempotency-key", format!("real-{number}"))
            .header("content-type", "application/json")
            .body(format!(r#"{{"event_type":"{event_type}","data":{data}}}"#))
            .send()
            .await
            .expect("a response");
        assert_eq!(response.status(), 202, "{event_type}: {}", response.text().await.unwrap_or_default());
        let accepted: Value = response.json().await.expect("a body");
        posted.insert(text(&accepted["event_id"]), (event_type.clone(), data));
    }
    assert_eq!(posted.len(), events.len());
    eventually("all deliveries to succeed", async || {
        (bed.count("select count(*) from deliveries where status = 'succeeded'").await == events.len() as i64)
            .then_some(())
    })
    .await;
    let leases = bed.count("select count(*) from leases").await;
    assert_eq!(leases, 0, "a lease ends with the record of its last delivery");
    let webhooks = receiver.received();
    let mut bodies: HashMap<String, Vec<u8>> = HashMap::new();
    for webhook in &webhooks {
        webhook.verify(&secret);
        let (event_type, data) = &posted[webhook.id()];
        assert_eq!(webhook.json()["type"], **event_type);
        assert_eq!(webhook.json()["data"], serde_json::from_str::<Value>(data.get()).expect("JSON"));
        let first = bodies.entry(webhook.id().to_owned()).or_insert_with(|| webhook.body.clone());
        assert_eq!(*first, webhook.body, "the bytes change between attempts");
    }
    assert_eq!(bodies.len(), events.len());
    services.stop().await;
    bed.finish().await;
    webhooks.len() / events.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_events_arrive_as_they_were_posted() {
    assert_eq!(real_events_arrive(|_| 200).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn real_events_arrive_when_every_first_attempt_fails() {
    assert_eq!(real_events_arrive(|attempt| if attempt == 1 { 503 } else { 200 }).await, 2);
}
