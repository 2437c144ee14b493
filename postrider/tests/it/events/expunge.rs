//! `POST /v1/events/{event_id}/expunge`.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

/// Data of the event, of which nothing may be left.
const SECRET: &str = "born-1970-01-01";

async fn assert_nothing_is_left(bed: &Bed) {
    for table in ["events", "deliveries", "delivery_attempts", "inbox", "emit_rejections"] {
        let find = format!("select count(*) from {table} t where t::text like '%{SECRET}%'");
        assert_eq!(bed.count(&find).await, 0, "{table}");
    }
    let bodies = format!(
        "select count(*) from delivery_attempts where position('{SECRET}' in encode(response_body, 'escape')) > 0"
    );
    assert_eq!(bed.count(&bodies).await, 0);
}

fn echo(webhook: &crate::support::receiver::Received, status: u16) -> Reply {
    Reply { body: webhook.body.clone(), ..Reply::from(status) }
}

async fn refusal(producer: &Producer, path: &str, body: Value) -> (u16, String) {
    let (status, problem) = producer.refused(path, &body).await;
    (status.as_u16(), text(&problem["code"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expunged_event_is_gone_and_cannot_be_sent_again() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/refusing" => echo(webhook, 422),
        "/failing" => echo(webhook, 500),
        _ => echo(webhook, 200),
    })
    .await;
    let producer = Producer::new(services.api).await;
    for path in ["/good", "/refusing", "/failing"] {
        let settings =
            json!({"url": receiver.url(path), "retry_schedule": [3600], "permanent_statuses": [422]});
        producer.endpoint(settings).await;
    }
    let data = json!({"person": SECRET});
    let response = producer.try_publish("the-key", "user.created", &data).await.expect("a response");
    let event = text(&response.json::<Value>().await.expect("a body")["event_id"]);
    let bystander = text(&producer.publish("user.created", json!({"n": 1})).await["event_id"]);
    receiver.wait_for(6).await;
    let recorded = "select count(*) from delivery_attempts";
    eventually("six attempts", async || (bed.count(recorded).await == 6).then_some(())).await;

    let expunged = producer.post(&format!("/v1/events/{event}/expunge"), &json!({})).await;
    assert_eq!((&expunged["data"], &expunged["id"]), (&Value::Null, &json!(event)));
    assert!(expunged["expunged_at"].is_string());
    assert_nothing_is_left(&bed).await;
    assert_eq!(producer.get(&format!("/v1/events/{event}")).await, expunged);
    let listed = producer.get("/v1/events").await["data"].as_array().expect("a page").clone();
    assert!(listed.contains(&expunged) && listed.len() == 2);
    assert_eq!(
        producer.get("/v1/events?data_contains={}").await["data"].as_array().expect("a page").len(),
        1
    );
    // A second call changes nothing.
    assert_eq!(producer.post(&format!("/v1/events/{event}/expunge"), &json!({})).await, expunged);

    let deliveries = producer.deliveries(&event).await;
    let mut statuses: Vec<_> = deliveries.iter().map(|delivery| text(&delivery["status"])).collect();
    statuses.sort();
    assert_eq!(statuses, ["cancelled", "dead_letter", "succeeded"]);
    for delivery in &deliveries {
        let attempts = producer.attempts(delivery).await;
        assert_eq!((attempts.len(), &attempts[0]["response_body"]), (1, &Value::Null));
        assert!(attempts[0]["response_status"].is_number() && attempts[0]["request_headers"].is_array());
        if delivery["status"] == "cancelled" {
            assert!(text(&delivery["last_error"]).contains("removed on request"));
        }
        let path = format!("/v1/deliveries/{}/retry", text(&delivery["id"]));
        assert_eq!(refusal(&producer, &path, json!({})).await, (409, "event_expunged".to_owned()));
    }
    let replay = format!("/v1/events/{event}/replay");
    assert_eq!(refusal(&producer, &replay, json!({})).await, (409, "event_expunged".to_owned()));
    let test = format!("/v1/applications/{}/endpoints/filter/test", producer.application_id);
    let body = json!({"filter": {"data.person": SECRET}, "event_id": event});
    assert_eq!(refusal(&producer, &test, body).await, (409, "event_expunged".to_owned()));
    for body in
        [json!({"mode": "redrive", "statuses": ["dead_letter", "cancelled"]}), json!({"mode": "replay"})]
    {
        let replay = producer.post("/v1/replays", &body).await;
        let matched = eventually("the end of a replay", async || {
            let replay = producer.get(&format!("/v1/replays/{}", text(&replay["id"]))).await;
            (replay["status"] == "completed").then_some(replay["matched_count"].clone())
        })
        .await;
        assert_eq!(matched, if body["mode"] == "replay" { 3 } else { 1 }, "that of the bystander");
    }
    // The idempotency key still works.
    let again = producer.try_publish("the-key", "user.created", &data).await.expect("a response");
    assert_eq!(again.json::<Value>().await.expect("a body")["duplicate"], true);
    let other = producer.try_publish("the-key", "user.created", &json!({})).await.expect("a response");
    assert_eq!(other.status(), StatusCode::CONFLICT);
    assert_nothing_is_left(&bed).await;
    assert_eq!(producer.get(&format!("/v1/events/{bystander}")).await["data"], json!({"n": 1}));
    receiver.wait_for(6 + 4).await;
    services.stop().await;
    assert_eq!(receiver.received().iter().filter(|webhook| webhook.id() == event).count(), 3);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_in_flight_during_an_expunge_stores_no_response() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver =
        Receiver::start(|webhook| Reply { delay: Duration::from_secs(2), ..echo(webhook, 500) }).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/cancelled"), "retry_schedule": [0]})).await;
    producer.endpoint(json!({"url": receiver.url("/open"), "retry_schedule": [0]})).await;
    let event = text(&producer.publish("user.created", json!({"person": SECRET})).await["event_id"]);
    receiver.wait_for(2).await;
    let deliveries = producer.deliveries(&event).await;
    // One of them is already closed while its attempt is in flight.
    producer.post(&format!("/v1/deliveries/{}/cancel", text(&deliveries[0]["id"])), &json!({})).await;
    producer.post(&format!("/v1/events/{event}/expunge"), &json!({})).await;
    let recorded = "select count(*) from delivery_attempts where response_status = 500";
    eventually("both attempts", async || (bed.count(recorded).await == 2).then_some(())).await;
    assert_nothing_is_left(&bed).await;
    for delivery in producer.deliveries(&event).await {
        assert_eq!(delivery["status"], "cancelled");
        assert_eq!(producer.attempts(&delivery).await[0]["response_body"], Value::Null);
    }
    services.stop().await;
    assert_eq!(receiver.count(), 2);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_very_many_deliveries_is_expunged_in_steps() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let sql = bed.sql().await;
    sql.execute(
        "insert into endpoints (application_id, url)
         select $1::text::uuid, 'http://127.0.0.1:9/' from generate_series(1, 1300)",
        &[&producer.application_id],
    )
    .await
    .expect("endpoints");
    let event = text(&producer.publish("user.created", json!({"person": SECRET})).await["event_id"]);
    sql.execute(
        "insert into delivery_attempts (delivery_id, attempt_number, outcome, response_body)
         select id, 1, 'failed', convert_to($1, 'UTF8') from deliveries",
        &[&SECRET],
    )
    .await
    .expect("attempts");
    let stranger = Producer::new(services.api).await;
    for path in [format!("/v1/events/{event}/expunge"), "/v1/events/x/expunge".to_owned()] {
        assert_eq!(refusal(&stranger, &path, json!({})).await, (404, "event_not_found".to_owned()));
    }
    assert_eq!(bed.count("select count(*) from deliveries where completed_at is null").await, 1_300);
    producer.post(&format!("/v1/events/{event}/expunge"), &json!({})).await;
    assert_eq!(bed.count("select count(*) from deliveries where status = 'cancelled'").await, 1_300);
    assert_nothing_is_left(&bed).await;
    services.stop().await;
    bed.finish().await;
}
