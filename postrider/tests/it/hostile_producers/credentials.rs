//! Callers without permission.

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use super::setup::{ADMIN_TOKEN, Setup, another, refused};
use crate::support::producer::{Producer, text};

/// One route for each kind of check: the key alone, the scope, the admin, and the key that is checked by the statement
/// that stores.
const ROUTES: [(Method, &str); 5] = [
    (Method::GET, "/v1/events"),
    (Method::GET, "/v1/deliveries"),
    (Method::GET, "/v1/applications"),
    (Method::POST, "/v1/applications"),
    (Method::POST, "/v1/events"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_credential_is_a_401_whatever_else_is_wrong() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    let good = setup.producer.key.clone().expect("a key");
    let with_another_end =
        format!("{}{}", &good[..good.len() - 1], if good.ends_with('a') { 'b' } else { 'a' });
    let expired = own_key(&setup.producer, json!({"name": "expired"})).await;
    let revoked = own_key(&setup.producer, json!({"name": "revoked"})).await;
    let sql = setup.bed.sql().await;
    sql.batch_execute("update api_keys set expires_at = now() where name = 'expired'")
        .await
        .expect("expired");
    let path =
        format!("/v1/applications/{}/api-keys/{}", setup.producer.application_id, text(&revoked["id"]));
    setup
        .producer
        .request(Method::DELETE, &path)
        .send()
        .await
        .expect("a response")
        .error_for_status()
        .expect("204");
    let bearer = |token: &str| HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");

    let credentials: Vec<(&str, Vec<HeaderValue>)> = vec![
        ("credentials_required", vec![]),
        ("credentials_required", vec![bearer(&good), bearer(&good)]),
        ("credentials_required", vec![bearer(ADMIN_TOKEN), bearer(&good)]),
        ("credentials_invalid", vec![HeaderValue::from_static("")]),
        ("credentials_invalid", vec![HeaderValue::from_static("Bearer")]),
        ("credentials_invalid", vec![HeaderValue::from_static("Basic YWRtaW46YWRtaW4=")]),
        ("credentials_invalid", vec![HeaderValue::from_str(&good).expect("a header")]),
        ("credentials_invalid", vec![HeaderValue::from_bytes(b"Bearer \xff\xfe").expect("a header")]),
        ("credentials_invalid", vec![bearer("nonsense")]),
        ("credentials_invalid", vec![bearer(&with_another_end)]),
        ("credentials_invalid", vec![bearer(&format!("{good} {good}"))]),
        ("credentials_invalid", vec![bearer(&format!("{good},{ADMIN_TOKEN}"))]),
        ("credentials_invalid", vec![bearer(&good.to_uppercase())]),
        ("credentials_invalid", vec![bearer(&ADMIN_TOKEN[1..])]),
        ("credentials_invalid", vec![bearer(&"x".repeat(10_000))]),
        ("credentials_invalid", vec![bearer(&text(&expired["api_key"]))]),
        ("credentials_invalid", vec![bearer(&text(&revoked["api_key"]))]),
    ];
    let stranger = Producer { key: None, ..setup.producer.clone() };
    for (code, values) in credentials {
        for (method, path) in ROUTES {
            // A caller without a valid credential is not told what else is wrong.
            for body in [r#"{"event_type":"a","data":{}}"#, "{", r#"{"event_type":"\u0000"}"#] {
                let mut request = stranger.request(method.clone(), path);
                for value in &values {
                    request = request.header("authorization", value);
                }
                let request =
                    request.header("idempotency-key", "a key").header("content-type", "application/json");
                refused(request.body(body), 401, code, &format!("{method} {path} {values:?}")).await;
            }
        }
    }
    assert_eq!(setup.stored().await, before + 1, "there is one key more, which has expired");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_of_another_application_do_not_exist() {
    let setup = Setup::new().await;
    let owner = &setup.producer;
    let endpoint = owner.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    let event = text(&owner.publish("user.created", json!({})).await["event_id"]);
    let delivery = text(&owner.deliveries(&event).await[0]["id"]);
    let key = own_key(owner, json!({"name": "own"})).await;
    let stranger = another(&setup.admin).await;
    let before = setup.stored().await;
    let application = format!("/v1/applications/{}", owner.application_id);
    let endpoints = format!("{application}/endpoints");
    let (endpoint, key) = (text(&endpoint["id"]), text(&key["id"]));
    for (method, path, code) in [
        (Method::GET, application.clone(), "application_not_found"),
        (Method::GET, endpoints.clone(), "application_not_found"),
        (Method::POST, endpoints.clone(), "application_not_found"),
        (Method::GET, format!("{endpoints}/{endpoint}"), "application_not_found"),
        (Method::GET, format!("{endpoints}/{endpoint}/secret"), "application_not_found"),
        (Method::GET, format!("{application}/api-keys"), "application_not_found"),
        (Method::POST, format!("{application}/api-keys"), "application_not_found"),
        (Method::DELETE, format!("{application}/api-keys/{key}"), "application_not_found"),
        (Method::GET, format!("/v1/events/{event}"), "event_not_found"),
        (Method::GET, format!("/v1/events/{event}/deliveries"), "event_not_found"),
        (Method::GET, format!("/v1/deliveries/{delivery}"), "delivery_not_found"),
        (Method::GET, format!("/v1/deliveries/{delivery}/attempts"), "delivery_not_found"),
        (Method::POST, format!("/v1/deliveries/{delivery}/retry"), "delivery_not_found"),
        (Method::POST, format!("/v1/deliveries/{delivery}/cancel"), "delivery_not_found"),
        (Method::GET, format!("/v1/events?application_id={}", owner.application_id), "application_not_found"),
        (
            Method::GET,
            format!("/v1/deliveries?application_id={}", owner.application_id),
            "application_not_found",
        ),
        (
            Method::POST,
            format!("/v1/events?application_id={}", owner.application_id),
            "application_not_found",
        ),
        // Another application's endpoint does not exist under one's own path either.
        (
            Method::GET,
            format!("/v1/applications/{}/endpoints/{endpoint}/secret", stranger.application_id),
            "endpoint_not_found",
        ),
    ] {
        let body = json!({"url": "http://127.0.0.1:9/", "name": "a", "event_type": "a", "data": {}});
        let body = if path.contains("/events") { json!({"event_type": "a", "data": {}}) } else { body };
        let body = if path.ends_with("/api-keys") { json!({"name": "a"}) } else { body };
        let body = if path.ends_with("/endpoints") { json!({"url": "http://127.0.0.1:9/"}) } else { body };
        let request = stranger.request(method.clone(), &path).header("idempotency-key", "k").json(&body);
        refused(request, 404, code, &format!("{method} {path}")).await;
    }
    assert_eq!(stranger.get("/v1/events").await["data"], json!([]));
    assert_eq!(stranger.get("/v1/deliveries").await["data"], json!([]));
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_do_only_what_its_scope_allows() {
    let setup = Setup::new().await;
    let owner = &setup.producer;
    let with_scope = async |scope: &str| {
        let key = own_key(owner, json!({"name": scope, "scopes": [scope]})).await;
        Producer { key: Some(text(&key["api_key"])), ..owner.clone() }
    };
    let publisher = with_scope("publish").await;
    let reader = with_scope("read").await;
    let manager = with_scope("manage").await;
    let event = text(&owner.publish("user.created", json!({})).await["event_id"]);
    let application = format!("/v1/applications/{}", owner.application_id);
    let before = setup.stored().await;
    for (producer, method, path, code) in [
        (&publisher, Method::GET, "/v1/events".to_owned(), "scope_required"),
        (&publisher, Method::GET, format!("/v1/events/{event}"), "scope_required"),
        (&publisher, Method::GET, format!("{application}/endpoints"), "scope_required"),
        (&publisher, Method::POST, format!("{application}/endpoints"), "scope_required"),
        (&reader, Method::POST, "/v1/events".to_owned(), "scope_required"),
        (&reader, Method::POST, format!("{application}/endpoints"), "scope_required"),
        (&reader, Method::POST, format!("{application}/api-keys"), "scope_required"),
        (&manager, Method::POST, "/v1/events".to_owned(), "scope_required"),
        (owner, Method::GET, "/v1/applications".to_owned(), "admin_required"),
        (owner, Method::POST, "/v1/applications".to_owned(), "admin_required"),
    ] {
        let body = match path.rsplit('/').next() {
            Some("events") => json!({"event_type": "a", "data": {}}),
            Some("endpoints") => json!({"url": "http://127.0.0.1:9/"}),
            _ => json!({"name": "a"}),
        };
        let request = producer.request(method.clone(), &path).header("idempotency-key", "k").json(&body);
        refused(request, 403, code, &format!("{method} {path}")).await;
    }
    // A key cannot grant more than it has.
    let path = format!("{application}/api-keys");
    let request = manager.request(Method::POST, &path).json(&json!({"name": "more", "scopes": ["publish"]}));
    refused(request, 403, "scope_required", "a key with more scopes").await;
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_must_name_the_application_it_writes_for() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    for (query, status, code) in [
        ("", 422, "application_required"),
        ("?application_id=unknown", 404, "application_not_found"),
        ("?application_id=0198f1a2-3b4c-7d5e-8f60-718293a4b5c6", 404, "application_not_found"),
        ("?application_id=a%20b", 422, "validation_failed"),
        ("?application_id=a&application_id=b", 422, "validation_failed"),
    ] {
        let request = setup.admin.request(Method::POST, &format!("/v1/events{query}"));
        let event = json!({"event_type": "a", "data": {}});
        refused(request.header("idempotency-key", "k").json(&event), status, code, query).await;
    }
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

async fn own_key(producer: &Producer, key: Value) -> Value {
    producer.post(&format!("/v1/applications/{}/api-keys", producer.application_id), &key).await
}
