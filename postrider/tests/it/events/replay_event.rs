//! `POST /v1/events/{event_id}/replay`.

use reqwest::StatusCode;
use serde_json::json;
use uuid::Uuid;

use crate::support::Bed;
use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_the_same_webhook_to_the_endpoints_that_match_now() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let first = producer.endpoint(json!({"url": receiver.url("/first"), "event_types": ["user.*"]})).await;
    let event = text(&producer.publish("user.created", json!({"n": 1})).await["event_id"]);
    let original = receiver.wait_for(1).await.remove(0);
    let second = producer.endpoint(json!({"url": receiver.url("/second")})).await;
    producer.endpoint(json!({"url": receiver.url("/other"), "event_types": ["invoice.*"]})).await;
    producer.endpoint(json!({"url": receiver.url("/disabled"), "is_active": false})).await;

    let replayed = producer.post(&format!("/v1/events/{event}/replay"), &json!({})).await;
    assert_eq!(replayed["event_id"], event);
    assert_eq!(replayed["deliveries_queued"], 2);
    let mut webhooks = receiver.wait_for(3).await.split_off(1);
    webhooks.sort_by_key(|webhook| webhook.path.clone());
    assert_eq!(
        webhooks.iter().map(|webhook| webhook.path.as_str()).collect::<Vec<_>>(),
        ["/first", "/second"]
    );
    for (webhook, endpoint) in webhooks.iter().zip([&first, &second]) {
        webhook.verify(&text(&endpoint["secret"]));
        assert_eq!((webhook.id(), &webhook.body), (event.as_str(), &original.body));
    }
    let deliveries = producer.deliveries(&event).await;
    assert_eq!(deliveries.len(), 3);
    for id in replayed["delivery_ids"].as_array().expect("ids") {
        let delivery = producer.get(&format!("/v1/deliveries/{}", text(id))).await;
        assert!(deliveries.iter().any(|other| other["id"] == *id));
        assert_eq!((&delivery["event_id"], &delivery["max_attempts"]), (&json!(event), &json!(10)));
    }
    services.stop().await;
    assert_eq!(receiver.count(), 3);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_to_named_endpoints_sends_only_to_them() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let event = text(&producer.publish("user.created", json!({})).await["event_id"]);
    let mut ids = Vec::new();
    for settings in [
        json!({"url": receiver.url("/all")}),
        json!({"url": receiver.url("/unsubscribed"), "event_types": ["invoice.*"]}),
        json!({"url": receiver.url("/disabled"), "is_active": false}),
    ] {
        ids.push(text(&producer.endpoint(settings).await["id"]));
    }
    let path = format!("/v1/events/{event}/replay");
    let named = json!({"endpoint_ids": [ids[1], ids[2], ids[1]]});
    assert_eq!(producer.post(&path, &named).await["deliveries_queued"], 2);
    assert_eq!(receiver.wait_for(1).await[0].path, "/unsubscribed");
    let waiting = producer.deliveries(&event).await;
    let waiting = waiting.iter().find(|delivery| delivery["endpoint_id"] == ids[2]).expect("a delivery");
    assert_eq!((&waiting["status"], &waiting["waiting_for"]), (&json!("pending"), &json!("disabled")));

    // Named endpoints must exist.
    let stranger = Producer::new(services.api).await;
    let foreign = text(&stranger.endpoint(json!({"url": receiver.url("/foreign")})).await["id"]);
    bed.sql()
        .await
        .execute("update endpoints set deleted_at = now() where id = $1::text::uuid", &[&ids[0]])
        .await
        .expect("deleted");
    for unknown in [foreign, ids[0].clone(), Uuid::nil().to_string()] {
        let (status, problem) = producer.refused(&path, &json!({"endpoint_ids": [ids[1], unknown]})).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(problem["errors"][0]["field"], "endpoint_ids[1]");
    }
    for (producer, path, body, status, code) in [
        (&producer, path.as_str(), json!({"endpoint_ids": []}), 422, "validation_failed"),
        (&producer, &path, json!({"endpoint_ids": ["x"]}), 422, "validation_failed"),
        (&producer, &path, json!({"endpoints": []}), 422, "validation_failed"),
        (&stranger, &path, json!({}), 404, "event_not_found"),
        (&producer, "/v1/events/x/replay", json!({}), 404, "event_not_found"),
    ] {
        let (answered, problem) = producer.refused(path, &body).await;
        assert_eq!((answered.as_u16(), problem["code"].as_str()), (status, Some(code)), "{path} {body}");
    }
    services.stop().await;
    assert_eq!(receiver.count(), 1);
    assert_eq!(bed.count("select count(*) from deliveries").await, 2);
    bed.finish().await;
}
