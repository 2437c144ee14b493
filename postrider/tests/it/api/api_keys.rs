//! API keys and admin tokens: scopes, expiry, last use, and revocation that takes effect everywhere at once.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

const OLD_TOKEN: &str = "the-old-admin-token";
const NEW_TOKEN: &str = "the-new-admin-token";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_do_what_its_scopes_allow() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let all = Producer::new(services.api).await;
    let endpoint = all.endpoint(json!({"url": "https://example.com"})).await;
    let event = text(&all.publish("a", json!({})).await["event_id"]);
    let delivery = text(&all.deliveries(&event).await[0]["id"]);
    let key = async |scope: &str| {
        let made = all.post(&all.path("/api-keys"), &json!({"name": scope, "scopes": [scope]})).await;
        assert_eq!(made["scopes"], json!([scope]));
        all.with_key(text(&made["api_key"]))
    };
    let (publish, read, manage) = (key("publish").await, key("read").await, key("manage").await);
    let of = |rest: &str| all.endpoint_path(&endpoint, rest);
    let calls: Vec<(&str, Method, String, Option<Value>)> = vec![
        ("read", Method::GET, all.path(""), None),
        ("read", Method::GET, all.path("/api-keys"), None),
        ("read", Method::GET, all.path("/endpoints"), None),
        ("read", Method::GET, of(""), None),
        ("read", Method::GET, of("/stats"), None),
        ("read", Method::GET, "/v1/events".to_owned(), None),
        ("read", Method::GET, format!("/v1/events/{event}"), None),
        ("read", Method::GET, "/v1/deliveries".to_owned(), None),
        ("read", Method::GET, format!("/v1/deliveries/{delivery}/attempts"), None),
        ("manage", Method::GET, of("/secret"), None),
        ("manage", Method::GET, "/v1/audit-log".to_owned(), None),
        ("manage", Method::PATCH, all.path(""), Some(json!({}))),
        ("manage", Method::PATCH, of(""), Some(json!({}))),
        ("manage", Method::POST, of("/secret/rotate"), Some(json!({}))),
        ("manage", Method::POST, of("/test"), None),
        ("manage", Method::POST, all.path("/api-keys"), Some(json!({"name": "k"}))),
        ("manage", Method::POST, all.path("/endpoints"), Some(json!({"url": "https://example.com"}))),
        ("manage", Method::POST, format!("/v1/deliveries/{delivery}/cancel"), None),
        ("manage", Method::DELETE, of(""), None),
    ];
    for (scope, method, path, body) in &calls {
        for (name, producer) in [("publish", &publish), ("read", &read), ("manage", &manage)] {
            let (status, answer) = producer.call(method.clone(), path, body.as_ref()).await;
            if name == *scope {
                assert!(status.is_success(), "{name}: {method} {path}: {answer}");
            } else {
                let code = (status.as_u16(), &answer["code"]);
                assert_eq!(code, (403, &json!("scope_required")), "{name}: {method} {path}: {answer}");
            }
        }
    }
    for (status, producer) in [(202, &publish), (403, &read), (403, &manage)] {
        let answer = producer.try_publish(&format!("{status}"), "a", &json!({})).await.expect("a response");
        assert_eq!(answer.status(), status);
    }
    // A key cannot grant a scope that it does not have.
    let more = json!({"name": "more", "scopes": ["manage", "publish"]});
    assert_eq!(
        manage.refusal(Method::POST, &all.path("/api-keys"), Some(&more), 403).await,
        "scope_required"
    );
    let same = manage.post(&all.path("/api-keys"), &json!({"name": "same"})).await;
    assert_eq!(same["scopes"], json!(["manage"]));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_listed_by_its_prefix_and_last_use_and_never_shown_again() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let made = producer.post(&producer.path("/api-keys"), &json!({"name": "billing"})).await;
    let key = text(&made["api_key"]);
    let path = producer.path(&format!("/api-keys/{}", text(&made["id"])));
    let shown = producer.get(&path).await;
    assert_eq!((&shown["name"], &shown["prefix"]), (&json!("billing"), &json!(key[..11])));
    assert_eq!((&shown["last_used_at"], &shown["expires_at"]), (&Value::Null, &Value::Null));
    let listed = producer.get(&producer.path("/api-keys")).await;
    assert_eq!(listed["data"][0], shown);
    assert_eq!(
        listed["data"].as_array().map(Vec::len),
        Some(2),
        "the first key of the application is there too"
    );
    assert!(!listed.to_string().contains(&key));
    let stored = format!("select count(*) from api_keys k where k::text like '%{}%'", &key[11..]);
    assert_eq!(bed.count(&stored).await, 0, "only its hash is stored");

    // The last use is written now and then, and at shutdown.
    let user = producer.with_key(key);
    user.publish("a", json!({})).await;
    services.stop().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer { api: services.api, ..producer };
    let used: DateTime<Utc> =
        text(&producer.get(&path).await["last_used_at"]).parse().expect("a time of last use");
    assert!(Utc::now() - used < TimeDelta::minutes(1));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_or_expired_key_is_refused_by_every_api_at_once() {
    let bed = Bed::new().await;
    let first = Services::api_alone(&bed, &[]).await;
    let second = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(first.api).await;
    let keys = producer.path("/api-keys");
    let at = Utc::now() + TimeDelta::milliseconds(1_500);
    let ends = producer.post(&keys, &json!({"name": "ends", "expires_at": at})).await;
    let revoked = producer.post(&keys, &json!({"name": "revoked"})).await;
    let holders = |key: &Value| {
        let holder = producer.with_key(text(key));
        [holder.clone(), Producer { api: second.api, ..holder }]
    };
    for holder in holders(&ends["api_key"]).iter().chain(&holders(&revoked["api_key"])) {
        holder.get("/v1/events").await;
        holder.publish("a", json!({})).await;
    }

    producer.delete(&format!("{keys}/{}", text(&revoked["id"]))).await;
    for holder in holders(&revoked["api_key"]) {
        assert_eq!(holder.refusal(Method::GET, "/v1/events", None, 401).await, "credentials_invalid");
        let answer = holder.try_publish("k", "a", &json!({})).await.expect("a response");
        assert_eq!(answer.status(), 401);
    }
    for holder in holders(&ends["api_key"]) {
        eventually("the end of a key", async || {
            let answer = holder.try_publish("k", "a", &json!({})).await.ok()?;
            (answer.status() == 401).then_some(())
        })
        .await;
        assert_eq!(holder.refusal(Method::GET, "/v1/events", None, 401).await, "credentials_invalid");
    }
    let past = json!({"name": "x", "expires_at": "2020-01-01T00:00:00Z"});
    assert_eq!(producer.refusal(Method::POST, &keys, Some(&past), 422).await, "validation_failed");
    // A key can revoke itself.
    let own = producer.get(&keys).await["data"].as_array().expect("a page").clone();
    let own = own.iter().find(|key| key["name"] == "default").expect("the first key");
    producer.delete(&format!("{keys}/{}", text(&own["id"]))).await;
    assert_eq!(producer.refusal(Method::GET, &keys, None, 401).await, "credentials_invalid");
    first.stop().await;
    second.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_admin_tokens_are_accepted_during_a_rotation() {
    let bed = Bed::new().await;
    let tokens = format!("{OLD_TOKEN},{NEW_TOKEN}");
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", &tokens)]).await;
    let nobody = Producer::admin(services.api);
    for token in [OLD_TOKEN, NEW_TOKEN] {
        nobody.with_key(token).post("/v1/applications", &json!({"name": token})).await;
    }
    assert_eq!(nobody.refusal(Method::GET, "/v1/applications", None, 401).await, "credentials_required");
    let wrong = nobody.with_key("the-new-admin-tokem");
    assert_eq!(wrong.refusal(Method::GET, "/v1/applications", None, 401).await, "credentials_invalid");
    services.stop().await;

    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", NEW_TOKEN)]).await;
    let nobody = Producer::admin(services.api);
    assert_eq!(
        nobody.with_key(OLD_TOKEN).refusal(Method::GET, "/v1/applications", None, 401).await,
        "credentials_invalid"
    );
    let listed = nobody.with_key(NEW_TOKEN).get("/v1/applications").await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_has_at_most_a_hundred_keys() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let sql = bed.sql().await;
    sql.batch_execute(
        "insert into api_keys (application_id, name, prefix, key_hash, scopes)
         select id, 'many', 'pr_', sha256(n::text::bytea), '{read}' from applications, generate_series(1, 97) n",
    )
    .await
    .expect("97 keys beside the first one");
    let path = producer.path("/api-keys");
    let tries = (0..6).map(|n| {
        let request = producer.request(Method::POST, &path).json(&json!({"name": format!("{n}")}));
        tokio::spawn(async move { request.send().await.expect("a response").status().as_u16() })
    });
    let mut statuses = Vec::new();
    for request in tries.collect::<Vec<_>>() {
        let status = request.await.expect("no panic");
        // Requests that wait too long for their turn get a 503.
        assert!(matches!(status, 201 | 409 | 503), "{status}");
        statuses.push(status);
    }
    while bed.count("select count(*) from api_keys").await < 100 {
        producer.post(&path, &json!({"name": "another"})).await;
    }
    assert!(statuses.iter().filter(|&&status| status == 201).count() <= 2, "{statuses:?}");
    let code = producer.refusal(Method::POST, &path, Some(&json!({"name": "one too many"})), 409).await;
    assert_eq!(code, "too_many_api_keys");
    assert_eq!(bed.count("select count(*) from api_keys").await, 100);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cross_site_requests_without_a_credential_are_refused() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": "https://example.com"})).await;
    let local = Producer { key: None, ..producer.clone() };
    let rotate = producer.endpoint_path(&endpoint, "/secret/rotate");
    let calls = [
        (Method::GET, producer.path("")),
        (Method::POST, rotate.clone()),
        (Method::DELETE, producer.endpoint_path(&endpoint, "")),
    ];
    let own = format!("http://{}", services.api);
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:1"),
    ] {
        for (method, path) in &calls {
            let response =
                local.request(method.clone(), path).header(name, value).send().await.expect("a response");
            assert_eq!(response.status(), 403, "{method} {path} {name}: {value}");
            let problem: Value = response.json().await.expect("a problem");
            assert_eq!(problem["code"], "cross_site_request");
        }
        // With a credential, a cross-site page was given access.
        let request = producer.request(Method::GET, &producer.path("")).header(name, value);
        assert_eq!(request.send().await.expect("a response").status(), 200, "{name}: {value}");
    }
    // Swagger UI, an address typed into the browser, and clients that are not browsers.
    for headers in [
        vec![("sec-fetch-site", "same-origin"), ("origin", own.as_str())],
        vec![("sec-fetch-site", "none")],
        vec![],
    ] {
        let mut request = local.request(Method::POST, &rotate);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        assert_eq!(request.send().await.expect("a response").status(), 202);
    }
    services.stop().await;
    bed.finish().await;
}
