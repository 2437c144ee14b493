//! Valid events that are stored by the same statements as invalid ones.

use futures_util::future::{join, join_all};
use serde_json::json;

use super::setup::{Setup, problem_in};
use crate::support::eventually;
use crate::support::producer::{Producer, sent, text};

#[tokio::test(flavor = "multi_thread")]
async fn valid_events_are_stored_beside_invalid_ones() {
    let setup = Setup::new().await;
    let owner = &setup.producer;
    let path = format!("/v1/applications/{}/api-keys", owner.application_id);
    let reading = owner.post(&path, &json!({"name": "reader", "scopes": ["read"]})).await;
    let reader = Producer { key: Some(text(&reading["api_key"])), ..owner.clone() };
    let known = owner.key.clone().expect("a key");
    let unknown = Producer { key: Some(format!("{}AAAA", &known[..known.len() - 4])), ..owner.clone() };
    owner.try_publish("taken", "user.created", &json!({})).await.expect("a response");
    let before = setup.stored().await;

    let bad = async |number: usize| {
        let data = json!({ "n": number });
        let (key, raw) =
            (format!("bad-{number}"), |data: &str| format!(r#"{{"event_type":"a","data":{data}}}"#));
        let request = || match number % 6 {
            0 => reader.publish_request(&key, "user.created", &data),
            1 => unknown.publish_request(&key, "user.created", &data),
            2 => owner.publish_request("taken", "user.created", &data),
            3 => setup.event().body(raw(r#"{"a":"\u0000"}"#)),
            4 => setup.event().body(raw(r#"{"a":1e131071}"#)),
            _ => setup.event().body("{"),
        };
        let response = sent(request).await;
        let expected = [403, 401, 409, 422, 422, 400][number % 6];
        assert_eq!(response.status(), expected, "{number}");
        problem_in(response, "a bad event").await;
    };
    let good = async |number: usize| {
        let data = json!({ "n": number });
        let key = format!("good-{number}");
        let response = sent(|| owner.publish_request(&key, "user.created", &data)).await;
        assert_eq!(response.status(), 202, "{number}");
    };
    join(join_all((0..300).map(bad)), join_all((0..300).map(good))).await;

    assert_eq!(setup.stored().await, before + 600, "three hundred events with their keys, and nothing else");
    let good = "select count(*) from events where idempotency_key like 'good-%'";
    assert_eq!(setup.bed.count(good).await, 300);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_idempotency_key_affects_only_its_own_event() {
    let setup = Setup::new().await;
    let owner = &setup.producer;
    // Another session has inserted the same key and does not commit.
    let mut sql = setup.bed.sql().await;
    let held = sql.transaction().await.expect("a transaction");
    let hold = "insert into idempotency_keys values ($1::text::uuid, 'stuck', gen_random_uuid(), '', 0)";
    held.execute(hold, &[&owner.application_id]).await.expect("a key");

    let data = json!({});
    let stuck = owner.try_publish("stuck", "user.created", &data);
    let free = join_all((0..50).map(async |number: usize| {
        let response = owner.try_publish(&format!("free-{number}"), "user.created", &json!({})).await;
        response.expect("a response").status()
    }));
    let (stuck, free) = join(stuck, free).await;
    assert!(free.iter().all(|status| *status == 202), "{free:?}");
    let stuck = stuck.expect("a response");
    assert_eq!(stuck.status(), 503);
    assert_eq!(problem_in(stuck, "the key that is held").await["code"], "idempotency_key_busy");
    held.rollback().await.expect("let go");
    eventually("the key to be free", async || {
        let response = owner.try_publish("stuck", "user.created", &json!({})).await.expect("a response");
        (response.status() == 202).then_some(())
    })
    .await;
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_beyond_the_queue_are_a_503_and_accepted_ones_are_stored() {
    // Room for 64 large events. One producer may use half of it.
    let token = ("POSTRIDER_ADMIN_TOKEN", super::setup::ADMIN_TOKEN);
    let setup = Setup::with(&[token, ("POSTRIDER_ACCEPT_QUEUE_BYTES", "16777216")]).await;
    let data = json!({"a": "x".repeat(250_000)});
    let posts = join_all((0..200).map(async |number: usize| {
        // On a busy machine a connection that is silent for too long is closed. Then the same key is sent again.
        let key = number.to_string();
        let response = eventually("a response", async || {
            setup.producer.try_publish(&key, "user.created", &data).await.ok()
        })
        .await;
        if response.status() == 202 {
            return true;
        }
        assert_eq!(problem_in(response, "one too many").await["code"], "overloaded");
        false
    }));
    let taken = posts.await.into_iter().filter(|taken| *taken).count();
    assert!((1..200).contains(&taken), "{taken} were taken");
    assert_eq!(setup.bed.count("select count(*) from events").await, taken as i64);
    setup.finish().await;
}
