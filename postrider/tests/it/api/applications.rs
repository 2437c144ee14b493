//! Applications are named, changed, deactivated, and deleted with all their data.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

const TOKEN: &str = "an-admin-token-of-tests";

/// Starts services with an admin token. Returns them and the admin.
async fn start(bed: &Bed) -> (Services, Producer) {
    let services = Services::start_with(bed, &[("POSTRIDER_ADMIN_TOKEN", TOKEN)]).await;
    let admin = Producer::admin(services.api).with_key(TOKEN);
    (services, admin)
}

/// Creates an application and becomes its producer.
async fn create(admin: &Producer, body: Value) -> Producer {
    let created = admin.post("/v1/applications", &body).await;
    Producer { application_id: text(&created["id"]), ..admin.with_key(text(&created["api_key"])) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uid_is_accepted_wherever_an_id_is() {
    let bed = Bed::new().await;
    let (services, admin) = start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = create(&admin, json!({"name": "Acme", "uid": "acme:1|x"})).await;
    let id = producer.application_id.clone();

    for named in [id.as_str(), "acme:1%7Cx"] {
        let at = |rest: &str| format!("/v1/applications/{named}{rest}");
        assert_eq!(admin.get(&at("")).await["id"], json!(id));
        assert_eq!(producer.get(&at("")).await["uid"], "acme:1|x");
        assert_eq!(
            producer.patch(&at(""), &json!({"metadata": {"by": named}})).await["metadata"]["by"],
            named
        );
        let endpoint = producer.post(&at("/endpoints"), &json!({"url": receiver.url("/")})).await;
        assert_eq!(endpoint["application_id"], json!(id));
        let endpoint = at(&format!("/endpoints/{}", text(&endpoint["id"])));
        producer.get(&endpoint).await;
        producer.get(&format!("{endpoint}/secret")).await;
        producer.get(&format!("{endpoint}/stats")).await;
        producer.post(&format!("{endpoint}/secret/rotate"), &json!({})).await;
        producer.post(&format!("{endpoint}/test"), &json!({})).await;
        producer.get(&at("/endpoints")).await;
        let key = producer.post(&at("/api-keys"), &json!({"name": "k"})).await;
        let key = at(&format!("/api-keys/{}", text(&key["id"])));
        producer.get(&key).await;
        producer.delete(&key).await;
        producer.get(&at("/api-keys")).await;
        producer.delete(&endpoint).await;
        for list in ["/v1/events", "/v1/deliveries", "/v1/audit-log"] {
            admin.get(&format!("{list}?application_id={named}")).await;
            assert_eq!(
                admin.refusal(Method::GET, &format!("{list}?application_id=nobody"), None, 404).await,
                "application_not_found"
            );
        }
        let body = json!({"event_type": "a", "data": {}});
        let published = admin
            .request(Method::POST, &format!("/v1/events?application_id={named}"))
            .header("idempotency-key", named)
            .json(&body)
            .send()
            .await
            .expect("a response");
        assert_eq!(published.status(), 202);
    }
    let taken = json!({"name": "Other", "uid": "acme:1|x"});
    assert_eq!(admin.refusal(Method::POST, "/v1/applications", Some(&taken), 409).await, "uid_taken");
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_can_change_everything_in_an_application_and_its_keys_only_some() {
    let bed = Bed::new().await;
    let (services, admin) = start(&bed).await;
    let producer = create(&admin, json!({"name": "Acme", "uid": "acme", "metadata": {"plan": "pro"}})).await;
    let other = create(&admin, json!({"name": "Other", "uid": "other"})).await;
    let path = producer.path("");

    let changed = producer.patch(&path, &json!({"name": "Acme Ltd"})).await;
    assert_eq!((&changed["name"], &changed["uid"]), (&json!("Acme Ltd"), &json!("acme")));
    assert_eq!(changed["metadata"], json!({"plan": "pro"}));
    assert_eq!(producer.patch(&path, &json!({"metadata": null})).await["metadata"], json!({}));
    // Fields that a key may not change are accepted when their value is unchanged.
    let same = json!({"name": "Acme", "uid": "acme", "is_active": true});
    producer.patch(&path, &same).await;
    for body in [json!({"uid": "mine"}), json!({"uid": null}), json!({"is_active": false})] {
        assert_eq!(producer.refusal(Method::PATCH, &path, Some(&body), 403).await, "admin_required");
    }
    let reader = producer.post(&producer.path("/api-keys"), &json!({"name": "r", "scopes": ["read"]})).await;
    let reader = producer.with_key(text(&reader["api_key"]));
    assert_eq!(reader.refusal(Method::PATCH, &path, Some(&same), 403).await, "scope_required");
    assert_eq!(
        producer.refusal(Method::PATCH, &other.path(""), Some(&same), 404).await,
        "application_not_found"
    );
    assert_eq!(producer.refusal(Method::DELETE, &path, None, 403).await, "admin_required");
    assert_eq!(producer.refusal(Method::DELETE, &other.path(""), None, 404).await, "application_not_found");

    for (body, status, code) in [
        (json!({"uid": "other"}), 409, "uid_taken"),
        (json!({"uid": "a b"}), 422, "validation_failed"),
        (json!({"name": null}), 422, "validation_failed"),
        (json!({"name": " "}), 422, "validation_failed"),
        (json!({"is_active": null}), 422, "validation_failed"),
        (json!({"id": "x"}), 422, "validation_failed"),
    ] {
        assert_eq!(admin.refusal(Method::PATCH, &path, Some(&body), status).await, code, "{body}");
    }
    assert_eq!(admin.patch(&path, &json!({"uid": null})).await["uid"], Value::Null);
    assert_eq!(admin.refusal(Method::GET, "/v1/applications/acme", None, 404).await, "application_not_found");
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inactive_application_cannot_publish_but_accepted_events_still_arrive() {
    let bed = Bed::new().await;
    let (services, admin) = start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 204 }).await;
    let producer = create(&admin, json!({"name": "Acme"})).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [2]})).await;
    let accepted = producer.publish("a", json!({})).await;
    producer.delivery_in(&text(&accepted["event_id"]), "failed").await;

    admin.patch(&producer.path(""), &json!({"is_active": false})).await;
    let refused = producer.try_publish("k", "a", &json!({})).await.expect("a response");
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.json::<Value>().await.expect("a problem")["code"], "application_inactive");
    producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    admin.patch(&producer.path(""), &json!({"is_active": true})).await;
    producer.publish("a", json!({})).await;
    services.stop().await;
    bed.finish().await;
}

/// Counts the rows of an application in every table that can hold any.
async fn remaining_rows(bed: &Bed, application: &str) -> Vec<(&'static str, i64)> {
    let sql = bed.sql().await;
    let mut counts = Vec::new();
    for (table, condition) in [
        ("applications", "id"),
        ("api_keys", "application_id"),
        ("endpoints", "application_id"),
        ("events", "application_id"),
        ("idempotency_keys", "application_id"),
        ("deliveries", "application_id"),
    ] {
        let count = format!("select count(*) from {table} where {condition} = '{application}'");
        counts.push((table, sql.query_one(&count, &[]).await.expect("a count").get(0)));
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_application_stops_at_once_and_all_its_data_is_removed() {
    let bed = Bed::new().await;
    let (services, admin) = start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/slow" => Reply { delay: Duration::from_secs(2), ..200.into() },
        "/failing" => 500.into(),
        _ => 204.into(),
    })
    .await;
    let producer = create(&admin, json!({"name": "Acme", "uid": "acme"})).await;
    let other = create(&admin, json!({"name": "Other"})).await;
    other.endpoint(json!({"url": receiver.url("/other")})).await;
    let kept = text(&other.publish("a", json!({})).await["event_id"]);
    for (path, settings) in [
        ("/good", json!({})),
        ("/slow", json!({"concurrency_limit": 1})),
        ("/failing", json!({"retry_schedule": [600]})),
        ("/disabled", json!({})),
    ] {
        let mut endpoint = settings;
        endpoint["url"] = json!(receiver.url(path));
        let created = producer.endpoint(endpoint).await;
        if path == "/disabled" {
            producer.publish("a", json!({})).await;
            producer.patch(&producer.endpoint_path(&created, ""), &json!({"is_active": false})).await;
        }
    }
    for number in 0..50 {
        producer.publish("a", json!({"n": number})).await;
    }
    eventually("a webhook in flight", async || {
        receiver.received().iter().any(|webhook| webhook.path == "/slow").then_some(())
    })
    .await;

    admin.delete(&producer.path("")).await;
    let sent_slowly = || receiver.received().iter().filter(|webhook| webhook.path == "/slow").count();
    let sent_until_then = sent_slowly();
    assert_eq!(producer.refusal(Method::GET, &producer.path(""), None, 401).await, "credentials_invalid");
    let refused = producer.try_publish("k", "a", &json!({})).await.expect("a response");
    assert_eq!(refused.status(), 401);
    assert_eq!(admin.refusal(Method::GET, "/v1/applications/acme", None, 404).await, "application_not_found");
    assert_eq!(
        admin.refusal(Method::DELETE, "/v1/applications/acme", None, 404).await,
        "application_not_found"
    );
    let again = create(&admin, json!({"name": "Acme again", "uid": "acme"})).await;

    eventually("the end of its deliveries and events", async || {
        let left = remaining_rows(&bed, &producer.application_id).await;
        let is_gone = |table: &str| left.iter().any(|&(name, count)| name == table && count == 0);
        ["events", "deliveries", "idempotency_keys"].iter().all(|table| is_gone(table)).then_some(())
    })
    .await;
    // An event that was being accepted at the same time appears late.
    let late = format!(
        "insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts)
         values (first_id(now()), '{0}', first_id(now()), first_id(now()), 'a', 5)",
        producer.application_id
    );
    bed.sql().await.batch_execute(&late).await.expect("a late delivery");
    let passes = "update cleanups set created_at = now() - interval '2 minutes', not_before = now()";
    bed.sql().await.batch_execute(passes).await.expect("time passes");
    eventually("the end of everything", async || {
        (bed.count("select count(*) from cleanups").await == 0).then_some(())
    })
    .await;
    assert!(remaining_rows(&bed, &producer.application_id).await.iter().all(|&(_, count)| count == 0));
    let orphans = "select (select count(*) from delivery_attempts a where not exists (select from deliveries d where d.id = a.delivery_id))
                        + (select count(*) from endpoint_secrets s where not exists (select from endpoints e where e.id = s.endpoint_id))
                        + (select count(*) from outbox where endpoint_id not in (select id from endpoints))";
    assert_eq!(bed.count(orphans).await, 0);

    // Other applications are not affected, and the audit log stays.
    other.delivery_in(&kept, "succeeded").await;
    again.get(&again.path("")).await;
    let log = admin.get("/v1/audit-log?limit=250").await;
    let entries = log["data"].as_array().expect("a page");
    let of_it = |action: &str| {
        entries
            .iter()
            .filter(|entry| {
                entry["application_id"] == json!(producer.application_id) && entry["action"] == action
            })
            .count()
    };
    assert_eq!(
        (of_it("application.create"), of_it("application.delete"), of_it("endpoint.create")),
        (1, 1, 4)
    );
    services.stop().await;
    let sent = sent_slowly();
    assert!(sent <= sent_until_then + 1, "{sent} webhooks were sent, {sent_until_then} of them before");
    bed.finish().await;
}

/// Steps are bounded, and each is its own transaction. If a relay is killed in between, the next one continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_resumes_where_a_killed_relay_stopped() {
    let bed = Bed::new().await;
    let admin_token = ("POSTRIDER_ADMIN_TOKEN", TOKEN);
    let services = Services::api_alone(&bed, &[admin_token]).await;
    let admin = Producer::admin(services.api).with_key(TOKEN);
    let producer = create(&admin, json!({"name": "Acme"})).await;
    let endpoint = producer.endpoint(json!({"url": "https://example.com"})).await;
    let fill = format!(
        "insert into events (id, application_id, event_type, payload, idempotency_key)
             select uuid_v7(), '{0}', 'a', '{{}}', n::text from generate_series(1, 30000) n;
         insert into idempotency_keys (application_id, idempotency_key, event_id, event_hash, deliveries_queued)
             select application_id, idempotency_key, id, '', 1 from events;
         insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts)
             select uuid_v7(), application_id, id, '{1}', event_type, 5 from events;
         insert into delivery_attempts (delivery_id, attempt_number, outcome)
             select id, 1, 'failed' from deliveries;
         insert into outbox (delivery_id, endpoint_id, application_id, parked)
             select id, endpoint_id, application_id, true from deliveries;",
        producer.application_id,
        text(&endpoint["id"]),
    );
    bed.sql().await.batch_execute(&fill).await.expect("many rows");
    admin.delete(&producer.path("")).await;
    for _ in 0..3 {
        let mut relay = crate::support::service::Process::start(&bed, "relay", &[]);
        let before = bed.count("select count(*) from deliveries").await;
        eventually("progress", async || {
            let now = bed.count("select count(*) from deliveries").await;
            (now < before || now == 0).then_some(())
        })
        .await;
        relay.kill();
    }
    let mut services = services;
    services.relay(&bed, &[]);
    services.relay(&bed, &[]);
    eventually("all rows to be removed", async || {
        let passes = "update cleanups set created_at = now() - interval '2 minutes', not_before = now() where not_before > now()";
        bed.sql().await.batch_execute(passes).await.expect("time passes");
        (bed.count("select count(*) from cleanups").await == 0).then_some(())
    })
    .await;
    assert!(remaining_rows(&bed, &producer.application_id).await.iter().all(|&(_, count)| count == 0));
    assert_eq!(bed.count("select count(*) from delivery_attempts").await, 0);
    assert_eq!(bed.count("select count(*) from outbox").await, 0);
    services.stop().await;
    bed.finish().await;
}
