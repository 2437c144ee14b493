//! An admin can limit what an application may publish, across all APIs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

const TOKEN: (&str, &str) = ("POSTRIDER_ADMIN_TOKEN", "an-admin-token-of-tests");

async fn create(admin: &Producer, body: Value) -> Producer {
    let created = admin.post("/v1/applications", &body).await;
    Producer { application_id: text(&created["id"]), ..admin.with_key(text(&created["api_key"])) }
}

/// Publishes an event. Returns the status and `Retry-After`.
async fn publish(producer: &Producer, key: &str) -> (StatusCode, Option<u64>) {
    let response = producer.try_publish(key, "a", &json!({})).await.expect("a response");
    let retry_after = response.headers().get("retry-after");
    let seconds = retry_after.map(|value| value.to_str().expect("text").parse().expect("seconds"));
    (response.status(), seconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_apis_share_the_budget_of_an_application() {
    const RATE: usize = 50;
    let bed = Bed::new().await;
    let first = Services::api_alone(&bed, &[TOKEN]).await;
    let second = Services::api_alone(&bed, &[TOKEN]).await;
    let admin = Producer::admin(first.api).with_key(TOKEN.1);
    let producer = create(&admin, json!({"name": "limited", "ingest_rate_limit": RATE})).await;
    let began = Instant::now();
    let total = Arc::new(AtomicUsize::new(0));
    let posting: Vec<_> = (0..8)
        .map(|number| {
            let api = if number % 2 == 0 { first.api } else { second.api };
            let producer = Producer { api, ..producer.clone() };
            let total = total.clone();
            // A machine that can hardly post this many events gets more time.
            let goes_on = move |total: usize| {
                let seconds = if total < 4 * RATE { 12 } else { 4 };
                began.elapsed() < Duration::from_secs(seconds)
            };
            tokio::spawn(async move {
                let (mut accepted, mut refused) = (0, 0);
                while goes_on(total.load(Ordering::Relaxed)) {
                    match publish(&producer, &format!("{number}-{}", accepted + refused)).await {
                        (StatusCode::ACCEPTED, None) => {
                            accepted += 1;
                            total.fetch_add(1, Ordering::Relaxed);
                        }
                        (StatusCode::TOO_MANY_REQUESTS, Some(1)) => {
                            refused += 1;
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                accepted
            })
        })
        .collect();
    let mut accepted = 0;
    for task in posting {
        accepted += task.await.expect("a task");
    }
    // One second's worth is available at the start.
    let allowed = (began.elapsed().as_secs_f64() + 1.0) * RATE as f64;
    assert!(accepted as f64 <= allowed, "{accepted} events were accepted, {allowed} are allowed");
    assert!(accepted >= 4 * RATE, "only {accepted} events were accepted");
    assert_eq!(bed.count("select count(*) from events").await, accepted as i64);
    first.stop().await;
    second.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_from_when_it_is_set_until_it_is_removed_and_affects_no_other() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[TOKEN]).await;
    let admin = Producer::admin(services.api).with_key(TOKEN.1);
    let producer = create(&admin, json!({"name": "limited"})).await;
    let other = create(&admin, json!({"name": "other"})).await;
    for number in 0..20 {
        assert_eq!(publish(&producer, &format!("before-{number}")).await.0, StatusCode::ACCEPTED);
    }
    let change = json!({"ingest_rate_limit": 1});
    assert_eq!(
        producer.refusal(Method::PATCH, &producer.path(""), Some(&change), 403).await,
        "admin_required"
    );
    assert_eq!(admin.patch(&producer.path(""), &change).await["ingest_rate_limit"], 1);
    assert_eq!(publish(&producer, "one").await.0, StatusCode::ACCEPTED);
    assert_eq!(publish(&producer, "two").await, (StatusCode::TOO_MANY_REQUESTS, Some(1)));
    assert_eq!(publish(&other, "one").await.0, StatusCode::ACCEPTED);
    // Events that are posted with an admin token use the same budget.
    let as_admin = admin
        .request(Method::POST, &format!("/v1/events?application_id={}", producer.application_id))
        .header("idempotency-key", "admin")
        .json(&json!({"event_type": "a", "data": {}}))
        .send()
        .await
        .expect("a response");
    assert_eq!(as_admin.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(as_admin.json::<Value>().await.expect("a problem")["code"], "ingest_rate_limited");

    // An event that was refused is accepted later under the same key.
    eventually("room for another event", async || {
        (publish(&producer, "two").await.0 == StatusCode::ACCEPTED).then_some(())
    })
    .await;
    let item = |key: &str| json!({"idempotency_key": key, "event_type": "a", "data": {}});
    let batch = json!({"events": [item("b1"), item("b2")]});
    assert_eq!(
        producer.refusal(Method::POST, "/v1/events/batch", Some(&batch), 429).await,
        "ingest_rate_limited"
    );
    admin.patch(&producer.path(""), &json!({"ingest_rate_limit": 10})).await;
    let batch = json!({"events": (0..30).map(|number| item(&format!("c{number}"))).collect::<Vec<_>>()});
    let answer = eventually("room for a part of a batch", async || {
        let (status, answer) = producer.call(Method::POST, "/v1/events/batch", Some(&batch)).await;
        (status == StatusCode::ACCEPTED).then_some(answer)
    })
    .await;
    let results = answer["results"].as_array().expect("results");
    let limited = results.iter().filter(|result| result["error"]["status"] == 429).count();
    let accepted = results.iter().filter(|result| result["status"] == "accepted").count();
    assert!(accepted >= 1 && limited >= 15 && accepted + limited == 30, "{accepted} accepted, {limited} not");

    admin.patch(&producer.path(""), &json!({"ingest_rate_limit": null})).await;
    // A producer that was just refused may still be refused for a moment.
    eventually("the end of the limit", async || {
        (publish(&producer, "after").await.0 == StatusCode::ACCEPTED).then_some(())
    })
    .await;
    for number in 0..30 {
        assert_eq!(publish(&producer, &format!("after-{number}")).await.0, StatusCode::ACCEPTED);
    }
    for rate in [json!(0), json!(-1), json!(1_000_001)] {
        let body = json!({"ingest_rate_limit": rate});
        assert_eq!(
            admin.refusal(Method::PATCH, &producer.path(""), Some(&body), 422).await,
            "validation_failed"
        );
    }
    services.stop().await;
    bed.finish().await;
}
