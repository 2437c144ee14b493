//! Signing secrets: shown, supplied, rotated, asymmetric, and encrypted in the database.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Received, Receiver};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

const OLD_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const NEW_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

/// Publishes an event, and returns the webhook that arrives.
async fn webhook(producer: &Producer, receiver: &Receiver) -> Received {
    let before = receiver.count();
    producer.publish("a", json!({})).await;
    receiver.wait_for(before + 1).await.remove(before)
}

fn verifies(webhook: &Received, secret: &Value) -> bool {
    let verifier = standardwebhooks::Webhook::new(&text(secret)).expect("a secret");
    verifier.verify(&webhook.body, &webhook.headers).is_ok()
}

/// Verifies as a receiver that has only the public key.
fn verifies_by_public_key(webhook: &Received, public_key: &Value) -> bool {
    let decode = |text: &str| STANDARD.decode(text).expect("base64");
    let public_key = text(public_key);
    let key: [u8; 32] =
        decode(public_key.strip_prefix("whpk_").expect("a public key")).try_into().expect("32 bytes");
    let key = ed25519_dalek::VerifyingKey::from_bytes(&key).expect("a key");
    let head = format!("{}.{}.", webhook.id(), webhook.header("webhook-timestamp"));
    let content = [head.as_bytes(), &webhook.body].concat();
    webhook.header("webhook-signature").split(' ').filter_map(|signature| signature.strip_prefix("v1a,")).any(
        |signature| {
            let signature = ed25519_dalek::Signature::from_slice(&decode(signature)).expect("64 bytes");
            key.verify_strict(&content, &signature).is_ok()
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_sign_during_a_rotation_and_only_the_new_one_afterwards() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/")})).await;
    let path = producer.endpoint_path(&endpoint, "/secret");
    let first = endpoint["secret"].clone();
    let shown = producer.get(&path).await;
    assert_eq!((&shown["secret"], &shown["algorithm"]), (&first, &json!("hmac-sha256")));
    assert_eq!((&shown["public_key"], &shown["previous"]), (&Value::Null, &json!([])));

    // Without a body: a new secret, and an overlap of one day.
    let (status, rotated) = producer.call(Method::POST, &format!("{path}/rotate"), None).await;
    assert_eq!(status, 202, "{rotated}");
    let second = rotated["secret"].clone();
    assert_ne!(second, first);
    assert_eq!(rotated["previous"][0]["secret"], first);
    assert!(rotated["previous"][0]["expires_at"].is_string());
    assert_eq!(producer.get(&path).await, rotated);
    let both = webhook(&producer, &receiver).await;
    assert!(verifies(&both, &first) && verifies(&both, &second));
    assert_eq!(both.header("webhook-signature").split(' ').count(), 2);

    // With a supplied secret; the older ones stop at once.
    let own = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let rotated =
        producer.post(&format!("{path}/rotate"), &json!({"secret": own, "overlap_seconds": 0})).await;
    assert_eq!((&rotated["secret"], &rotated["previous"]), (&json!(own), &json!([])));
    let third = webhook(&producer, &receiver).await;
    assert!(verifies(&third, &json!(own)) && !verifies(&third, &first) && !verifies(&third, &second));

    // An overlap of one second is over after one second.
    producer.post(&format!("{path}/rotate"), &json!({"overlap_seconds": 1})).await;
    eventually("the end of the overlap", async || {
        (producer.get(&path).await["previous"] == json!([])).then_some(())
    })
    .await;
    assert!(!verifies(&webhook(&producer, &receiver).await, &json!(own)));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asymmetric_endpoint_is_verified_with_its_public_key() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let settings = json!({"url": receiver.url("/"), "signing_algorithm": "ed25519"});
    let endpoint = producer.endpoint(settings).await;
    let path = producer.endpoint_path(&endpoint, "/secret");
    assert_eq!(endpoint["secret"], Value::Null);
    let shown = producer.get(&path).await;
    assert_eq!((&shown["algorithm"], &shown["secret"]), (&json!("ed25519"), &Value::Null));
    assert_eq!(shown["public_key"], endpoint["public_key"]);
    let signed = webhook(&producer, &receiver).await;
    assert!(verifies_by_public_key(&signed, &endpoint["public_key"]));

    // A supplied key pair, and both kinds at the same time.
    let private =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let public = json!("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");
    let rotated = producer.post(&format!("{path}/rotate"), &json!({"secret": private})).await;
    assert_eq!((&rotated["public_key"], &rotated["secret"]), (&public, &Value::Null));
    let symmetric = producer.post(&format!("{path}/rotate"), &json!({"algorithm": "hmac-sha256"})).await;
    let signed = webhook(&producer, &receiver).await;
    assert!(verifies(&signed, &symmetric["secret"]));
    assert!(verifies_by_public_key(&signed, &public));
    assert!(verifies_by_public_key(&signed, &endpoint["public_key"]));

    // What is not requested stays as it is: an asymmetric endpoint gets no symmetric secret.
    producer.post(&format!("{path}/rotate"), &json!({"algorithm": "ed25519"})).await;
    let rotated = producer.post(&format!("{path}/rotate"), &json!({"overlap_seconds": 0})).await;
    assert_eq!((&rotated["algorithm"], &rotated["secret"]), (&json!("ed25519"), &Value::Null));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_rotation_is_refused() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": "https://example.com"})).await;
    let path = producer.endpoint_path(&endpoint, "/secret/rotate");
    for body in [
        json!({"secret": "whsec_short"}),
        json!({"secret": "whsk_AAAA"}),
        json!({"secret": "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="}),
        json!({"algorithm": "rsa"}),
        json!({"algorithm": "ed25519", "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}),
        json!({"overlap_seconds": -1}),
        json!({"overlap_seconds": 2_592_001}),
        json!({"key": "x"}),
    ] {
        assert_eq!(
            producer.refusal(Method::POST, &path, Some(&body), 422).await,
            "validation_failed",
            "{body}"
        );
    }
    // Ten secrets can sign at once. A shorter overlap ends the older ones.
    for _ in 0..9 {
        producer.post(&path, &json!({})).await;
    }
    assert_eq!(producer.refusal(Method::POST, &path, None, 409).await, "too_many_secrets");
    let rotated = producer.post(&path, &json!({"overlap_seconds": 0})).await;
    assert_eq!(rotated["previous"], json!([]));
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn query_values_of_a_url_are_sent_and_never_shown() {
    let bed = Bed::new().await;
    let settings = [("POSTRIDER_MASTER_KEY", OLD_KEY)];
    let services = Services::start_with(&bed, &settings).await;
    let receiver = Receiver::start(|webhook| if webhook.query.contains("gone") { 410 } else { 204 }).await;
    let producer = Producer::new(services.api).await;
    let url = receiver.url("/hook?token=first-secret&v=1&bare-secret");
    let masked = receiver.url("/hook?token=***&v=***&***");
    let events = json!(["*", "postrider.*"]);
    let created = producer.endpoint(json!({"url": url, "event_types": events})).await;
    let path = producer.endpoint_path(&created, "");
    assert_eq!(created["url"], masked);
    assert_eq!(producer.get(&path).await["url"], masked);
    assert_eq!(producer.get(&producer.path("/endpoints")).await["data"][0]["url"], masked);
    assert_eq!(webhook(&producer, &receiver).await.query, "token=first-secret&v=1&bare-secret");
    assert_eq!(bed.count("select count(*) from endpoints where url_query::text like '%secret%'").await, 0);

    // Sending back the URL as it is shown keeps the values, also together with other changes.
    let kept = producer.patch(&path, &json!({"url": masked, "description": "kept"})).await;
    assert_eq!((&kept["url"], &kept["description"]), (&json!(masked), &json!("kept")));
    assert_eq!(webhook(&producer, &receiver).await.query, "token=first-secret&v=1&bare-secret");
    // Any other mask is refused.
    for url in [
        receiver.url("/other?token=***&v=***&***"),
        receiver.url("/hook?token=***&v=***"),
        receiver.url("/hook?token=***&v=2&bare"),
        receiver.url("/hook?token=%2A%2A%2A&v=***&***"),
    ] {
        assert_eq!(
            producer.refusal(Method::PATCH, &path, Some(&json!({"url": url})), 422).await,
            "validation_failed"
        );
        let (status, _) = producer.refused(&producer.path("/endpoints"), &json!({"url": url})).await;
        assert_eq!(status, 422, "{url}");
    }
    producer.patch(&path, &json!({"url": receiver.url("/hook?token=second-secret")})).await;
    assert_eq!(webhook(&producer, &receiver).await.query, "token=second-secret");
    producer.patch(&path, &json!({"url": receiver.url("/hook?token=third-secret")})).await;
    assert_eq!(webhook(&producer, &receiver).await.query, "token=third-secret");
    producer.patch(&path, &json!({"url": receiver.url("/hook?token=gone-secret")})).await;
    producer.publish("a", json!({})).await;
    eventually("the endpoint to be disabled", async || {
        (producer.get(&path).await["is_active"] == false).then_some(())
    })
    .await;
    producer
        .patch(&path, &json!({"url": receiver.url("/hook?token=fourth-secret"), "is_active": true}))
        .await;

    // The audit log, operational events, deliveries and attempts do not show them.
    let log = producer.get("/v1/audit-log").await;
    assert!(log.to_string().contains("token=*** (new)"), "{log}");
    let told = eventually("the reports", async || {
        let told = producer.get("/v1/events").await;
        told.to_string().contains("postrider.endpoint.enabled").then_some(told)
    })
    .await;
    let deliveries = producer.get("/v1/deliveries").await;
    let mut shown = format!("{log}{told}{deliveries}");
    for delivery in deliveries["data"].as_array().expect("a page") {
        shown += &json!(producer.attempts(delivery).await).to_string();
    }
    assert!(!shown.contains("-secret"), "{shown}");
    services.stop().await;
    bed.finish().await;
}

/// Runs `postrider` until it exits.
fn run(bed: &Bed, arguments: &[&str], master_key: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(arguments)
        .env("DATABASE_URL", bed.source.get("DATABASE_URL").expect("it was set"))
        .env("REDIS_URL", bed.source.get("REDIS_URL").expect("it was set"))
        .env("POSTRIDER_MASTER_KEY", master_key)
        .env("POSTRIDER_API_LISTEN", "127.0.0.1:0")
        .env("POSTRIDER_DELIVERER_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .output()
        .expect("the program of this crate");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_encrypted_and_reencrypted_when_the_master_key_changes() {
    let bed = Bed::new().await;
    let receiver = Receiver::accepting().await;
    // First there is no master key, and secrets are stored as they are.
    let services = Services::start(&bed).await;
    let producer = Producer::new(services.api).await;
    let settings = json!({
        "url": receiver.url("/?token=very-secret"),
        "headers": {"x-token": "very-secret"}, "sensitive_headers": ["x-token"],
    });
    let endpoint = producer.endpoint(settings).await;
    producer
        .post(&producer.endpoint_path(&endpoint, "/secret/rotate"), &json!({"algorithm": "ed25519"}))
        .await;
    services.stop().await;
    let sealed = "select count(*) from endpoint_secrets where master_key_id is not null";
    let plain_values = "select count(*) filter (where headers::text like '%very-secret%')
                             + count(*) filter (where url_query::text like '%very-secret%') from endpoints";
    assert_eq!((bed.count(sealed).await, bed.count(plain_values).await), (0, 2));

    let (succeeded, said) = run(&bed, &["rekey"], "");
    assert!(!succeeded && said.contains("POSTRIDER_MASTER_KEY"), "{said}");
    let (succeeded, said) = run(&bed, &["rekey"], "not a key");
    assert!(!succeeded && said.contains("openssl rand -base64 32"), "{said}");
    let (succeeded, said) = run(&bed, &["rekey"], OLD_KEY);
    assert!(succeeded && said.contains("2 secrets and the headers and URLs of 1 endpoints"), "{said}");
    assert_eq!((bed.count(sealed).await, bed.count(plain_values).await), (2, 0));
    let raw = STANDARD.decode(text(&endpoint["secret"]).trim_start_matches("whsec_")).expect("base64");
    let same = "select count(*) from endpoint_secrets where position($1 in secret) > 0";
    let row = bed.sql().await.query_one(same, &[&raw]).await.expect("a count");
    assert_eq!(row.get::<_, i64>(0), 0);

    // Without its key no service starts, and the error names the key.
    for role in ["api", "deliverer"] {
        for other in ["", NEW_KEY] {
            let (succeeded, said) = run(&bed, &[role], other);
            assert!(!succeeded && said.contains("which is not in POSTRIDER_MASTER_KEY"), "{role}: {said}");
        }
    }

    // The same for a sensitive header and for a URL.
    let sql = bed.sql().await;
    sql.batch_execute("create table kept as table endpoint_secrets; delete from endpoint_secrets")
        .await
        .expect("no secret");
    let (succeeded, said) = run(&bed, &["deliverer"], NEW_KEY);
    assert!(!succeeded && said.contains("which is not in POSTRIDER_MASTER_KEY"), "{said}");
    sql.batch_execute("insert into endpoint_secrets select * from kept").await.expect("the secrets again");

    // The new key comes first, the old one second. Everything works during the change.
    let both = format!("{NEW_KEY},{OLD_KEY}");
    let services = Services::start_with(&bed, &[("POSTRIDER_MASTER_KEY", &both)]).await;
    let producer = Producer { api: services.api, ..producer };
    let other = producer.endpoint(json!({"url": receiver.url("/other"), "event_types": ["b"]})).await;
    let signed = webhook(&producer, &receiver).await;
    assert!(verifies(&signed, &endpoint["secret"]));
    assert_eq!((signed.header("x-token"), signed.query.as_str()), ("very-secret", "token=very-secret"));
    let (succeeded, said) = run(&bed, &["rekey"], &both);
    assert!(succeeded && said.contains("2 secrets and the headers and URLs of 1 endpoints"), "{said}");
    let (succeeded, said) = run(&bed, &["rekey"], &both);
    assert!(succeeded && said.contains("0 secrets and the headers and URLs of 0 endpoints"), "{said}");
    assert_eq!(bed.count("select count(distinct master_key_id) from endpoint_secrets").await, 1);
    services.stop().await;

    // A process with the old order still encrypts with the old key. That is noticed and corrected.
    let late = format!("{OLD_KEY},{NEW_KEY}");
    let services = Services::api_alone(&bed, &[("POSTRIDER_MASTER_KEY", &late)]).await;
    let producer = Producer { api: services.api, ..producer };
    let header = json!({"headers": {"x-token": "very-secret"}});
    producer.patch(&producer.endpoint_path(&endpoint, ""), &header).await;
    services.stop().await;
    for role in ["api", "deliverer"] {
        let (succeeded, said) = run(&bed, &[role], NEW_KEY);
        assert!(!succeeded && said.contains("which is not in POSTRIDER_MASTER_KEY"), "{role}: {said}");
    }
    let (succeeded, said) = run(&bed, &["rekey"], &both);
    assert!(succeeded && said.contains("0 secrets and the headers and URLs of 1 endpoints"), "{said}");

    // The old key can be removed.
    let services = Services::start_with(&bed, &[("POSTRIDER_MASTER_KEY", NEW_KEY)]).await;
    let producer = Producer { api: services.api, ..producer };
    let signed = webhook(&producer, &receiver).await;
    assert!(verifies(&signed, &endpoint["secret"]));
    assert_eq!((signed.header("x-token"), signed.query.as_str()), ("very-secret", "token=very-secret"));
    let secret = producer.get(&producer.endpoint_path(&other, "/secret")).await;
    assert_eq!(secret["secret"], other["secret"]);
    services.stop().await;
    bed.finish().await;
}

/// The API has a new key that the deliverer lacks: nothing is lost, and the attempt says why it failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_one_deliverer_cannot_decrypt_is_used_by_another_that_can() {
    let bed = Bed::new().await;
    let receiver = Receiver::accepting().await;
    let mut services = Services::api_alone(&bed, &[("POSTRIDER_MASTER_KEY", OLD_KEY)]).await;
    services.relay(&bed, &[]);
    services.deliverer(&bed, &[]);
    eventually("a deliverer that has started", async || {
        // The lock of its registration, beside that of the api that empties the inbox.
        let locks = "select count(*) from pg_locks
                     where locktype = 'advisory' and objsubid = 1
                       and database = (select oid from pg_database where datname = current_database())";
        (bed.count(locks).await >= 2).then_some(())
    })
    .await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [2]})).await;
    let accepted = producer.publish("a", json!({})).await;
    let failed = producer.delivery_in(&text(&accepted["event_id"]), "failed").await;
    let attempt = producer.attempts(&failed).await.remove(0);
    assert_eq!(attempt["error_class"], "internal");
    assert!(text(&attempt["error_message"]).contains("POSTRIDER_MASTER_KEY"), "{attempt}");
    services.stop().await;

    let services = Services::start_with(&bed, &[("POSTRIDER_MASTER_KEY", OLD_KEY)]).await;
    let producer = Producer { api: services.api, ..producer };
    producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    receiver.received()[0].verify(&text(&endpoint["secret"]));
    services.stop().await;
    bed.finish().await;
}
