//! `postrider.emit`: events in a producer's own transaction.

use std::time::Duration;

use postrider_store::DatabaseConfig;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::{Process, Services};
use crate::support::{Bed, connect, eventually};

const EMIT: &str = "select postrider.emit($1, $2, $3::text::jsonb, $4)";

pub(crate) async fn emit(
    sql: &impl tokio_postgres::GenericClient,
    application: &str,
    event_type: &str,
    data: &str,
    key: &str,
) -> i64 {
    sql.query_one(EMIT, &[&application, &event_type, &data, &key]).await.expect("emitted").get(0)
}

pub(crate) async fn empty_inbox(bed: &Bed) {
    eventually("an empty inbox", async || (bed.count("select count(*) from inbox").await == 0).then_some(()))
        .await;
}

/// The keys of all events, in order.
pub(crate) async fn keys(sql: &Client) -> Vec<String> {
    let rows =
        sql.query("select idempotency_key from events order by idempotency_key", &[]).await.expect("keys");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emitted_event_commits_and_rolls_back_with_the_producers_rows() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/")})).await;
    let application = producer.application_id.as_str();
    let mut sql = bed.sql().await;
    sql.batch_execute("create table orders (id text)").await.expect("a table of the producer's");

    let own = "insert into orders values ($1)";
    let transaction = sql.transaction().await.expect("a transaction");
    transaction.execute(own, &[&"undone"]).await.expect("a row");
    emit(&transaction, application, "order.made", r#"{"n":1}"#, "undone").await;
    transaction.rollback().await.expect("rolled back");

    let mut transaction = sql.transaction().await.expect("a transaction");
    transaction.execute(own, &[&"kept"]).await.expect("a row");
    emit(&transaction, application, "order.made", r#"{"n": 12345678901234567890.10}"#, "kept").await;
    let savepoint = transaction.savepoint("s").await.expect("a savepoint");
    emit(&savepoint, application, "order.made", "{}", "undone by its savepoint").await;
    savepoint.rollback().await.expect("rolled back");
    let savepoint = transaction.savepoint("t").await.expect("a savepoint");
    emit(&savepoint, application, "order.made", "{}", "kept-too").await;
    savepoint.commit().await.expect("released");
    assert_eq!(bed.count("select count(*) from inbox").await, 0, "nothing is seen before the commit");
    transaction.commit().await.expect("committed");

    let webhooks = receiver.wait_for(2).await;
    for webhook in &webhooks {
        webhook.verify(&text(&endpoint["secret"]));
        assert_eq!(webhook.json()["type"], "order.made");
    }
    assert!(
        webhooks
            .iter()
            .any(|webhook| String::from_utf8_lossy(&webhook.body).contains("12345678901234567890.10"))
    );
    assert_eq!(keys(&sql).await, ["kept", "kept-too"]);
    assert_eq!(bed.count("select count(*) from orders").await, 1);
    empty_inbox(&bed).await;
    services.stop().await;
    assert_eq!(receiver.count(), 2);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_holds_up_no_other_and_loses_nothing() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let application = producer.application_id.as_str();
    let (mut slow, sql) = (bed.sql().await, bed.sql().await);
    let open = slow.transaction().await.expect("a transaction");
    let first = emit(&open, application, "order.made", "{}", "open-for-long").await;
    for round in 1..=3 {
        let second = emit(&sql, application, "order.made", "{}", &format!("quick-{round}")).await;
        assert!(second > first);
        receiver.wait_for(round).await;
        empty_inbox(&bed).await;
        // Longer than the time for which the api does not look at old numbers again.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(receiver.count(), 3);
    open.commit().await.expect("committed");
    receiver.wait_for(4).await;
    assert_eq!(keys(&sql).await, ["open-for-long", "quick-1", "quick-2", "quick-3"]);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emitting_and_posting_the_same_key_at_once_makes_one_event() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let other = Services::api_alone(&bed, &[]).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let elsewhere = Producer { api: other.api, ..producer.clone() };
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let data = json!({"n": 1});
    let mut tasks = Vec::new();
    for number in 0..30 {
        let key = format!("key-{}", number % 3);
        let (poster, data) = (if number % 2 == 0 { &producer } else { &elsewhere }.clone(), data.clone());
        let posted_key = key.clone();
        tasks.push(tokio::spawn(async move {
            let answer = poster.publish_until_accepted(&posted_key, "order.made", &data).await;
            assert_eq!(answer["status"], "accepted");
        }));
        let (sql, application) = (bed.sql().await, producer.application_id.clone());
        tasks.push(tokio::spawn(async move {
            emit(&sql, &application, "order.made", r#"{"n": 1}"#, &key).await;
        }));
    }
    for task in tasks {
        task.await.expect("a task");
    }
    empty_inbox(&bed).await;
    let sql = bed.sql().await;
    assert_eq!(keys(&sql).await, ["key-0", "key-1", "key-2"]);
    assert_eq!(producer.get("/v1/emit-rejections").await["data"], json!([]));

    // The same key with a different event is detected afterwards.
    emit(&sql, &producer.application_id, "order.made", r#"{"n": 2}"#, "key-0").await;
    empty_inbox(&bed).await;
    let rejected = producer.get("/v1/emit-rejections").await["data"][0].clone();
    assert_eq!(
        (&rejected["code"], &rejected["idempotency_key"]),
        (&json!("idempotency_key_reused"), &json!("key-0"))
    );
    receiver.wait_for(3).await;
    services.stop().await;
    other.stop().await;
    assert_eq!(receiver.count(), 3);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_cannot_be_accepted_stay_visible() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", "the-admin-of-this-test")]).await;
    let admin = Producer { key: Some("the-admin-of-this-test".to_owned()), ..Producer::admin(services.api) };
    let created = admin.post("/v1/applications", &json!({"name": "a", "uid": "acme"})).await;
    let producer = Producer { key: Some(text(&created["api_key"])), ..admin.clone() };
    let schema = json!({"properties": {"n": {"type": "integer"}}});
    producer.post("/v1/event-types", &json!({"name": "order.made", "json_schema": schema})).await;
    let sql = bed.sql().await;
    for (key, application, event_type, data, code) in [
        ("good", "acme", "order.made", r#"{"n":1}"#, ""),
        ("good by id", created["id"].as_str().expect("an id"), "order.made", "{}", "idempotency_key_invalid"),
        ("nobody", "nobody", "order.made", "{}", "application_not_found"),
        (
            "nobody-either",
            "0198f1a2-3b4c-7d5e-8f60-718293a4b5c6",
            "order.made",
            "{}",
            "application_not_found",
        ),
        ("type", "acme", "order made", "{}", "event_type_invalid"),
        ("reserved", "acme", "postrider.order", "{}", "event_type_reserved"),
        ("array", "acme", "order.made", "[1]", "validation_failed"),
        ("number", "acme", "order.made", r#"{"n":1e1001}"#, "json_number_too_long"),
        ("schema", "acme", "order.made", r#"{"n":"x"}"#, "schema_violation"),
    ] {
        emit(&sql, application, event_type, data, key).await;
        empty_inbox(&bed).await;
        let newest = admin.get("/v1/emit-rejections?limit=1").await["data"][0].clone();
        if code.is_empty() {
            assert_eq!(newest, Value::Null);
            continue;
        }
        assert_eq!(
            (newest["code"].as_str(), newest["idempotency_key"].as_str()),
            (Some(code), Some(key)),
            "{newest}"
        );
        assert_eq!(newest["application"], application);
        let one = admin.get(&format!("/v1/emit-rejections/{}", text(&newest["id"]))).await;
        if code != "json_number_too_long" {
            let given: Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(serde_json::from_str::<Value>(&text(&one["data"])).expect("JSON"), given);
        }
        assert_eq!(one["detail"], newest["detail"]);
    }
    assert_eq!(keys(&sql).await, ["good"]);
    // An application sees its own rejections.
    let listed = producer.get("/v1/emit-rejections").await["data"].as_array().expect("a page").len();
    assert_eq!(listed, 6);
    assert_eq!(admin.get("/v1/emit-rejections").await["data"].as_array().expect("a page").len(), 8);
    let foreign = admin.get("/v1/emit-rejections").await["data"][5]["id"].clone();
    let path = format!("/v1/emit-rejections/{}", text(&foreign));
    let stranger = admin.post("/v1/applications", &json!({"name": "b"})).await;
    let stranger = Producer { key: Some(text(&stranger["api_key"])), ..admin.clone() };
    let response = stranger.request(reqwest::Method::GET, &path).send().await.expect("a response");
    assert_eq!(response.status().as_u16(), 404);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_found_by_any_role_beside_any_other_schema() {
    let mut bed = Bed::new().await;
    let sql = bed.sql().await;
    // PostgreSQL first looks in a schema with the name of the role.
    sql.batch_execute(
        "do $$ begin create role postrider superuser login; exception when duplicate_object then null; end $$",
    )
    .await
    .expect("a role");
    sql.batch_execute("create table public.events (id text); create table public.inbox (id text)")
        .await
        .expect("tables of the producer's");
    let url = bed.source.get("DATABASE_URL").expect("it was set").to_owned();
    bed.source.set("DATABASE_URL", as_role(&url, "postrider"));
    let config = bed.source.read(DatabaseConfig::read).expect("a configuration");
    let applied = postrider_store::migrate::migrate(&config).await.expect("nothing to do");
    assert!(applied.is_empty(), "{applied:?}");

    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let application = producer.application_id.as_str();
    emit(&connect(&url.parse().expect("a URL")).await, application, "order.made", "{}", "emitted").await;
    producer.publish("order.made", json!({})).await;
    receiver.wait_for(2).await;
    services.stop().await;
    drop(sql);
    bed.finish().await;
}

/// The URL of the same database, for another role.
fn as_role(url: &str, role: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut url) if url.scheme().starts_with("postgres") => {
            url.set_username(role).expect("a URL with a host");
            url.into()
        }
        _ => format!("{url} user={role}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_emit_can_do_nothing_else() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let application = producer.application_id.as_str();
    let sql = bed.sql().await;
    let role = format!("{}_emitter", bed.name);
    sql.batch_execute(&format!("create role {role} login in role postrider_emitter")).await.expect("a role");
    let mut config = bed.database();
    let emitter = connect(config.user(&role)).await;
    for forbidden in [
        "select * from inbox",
        "insert into inbox (application, event_type, data, idempotency_key) values ('a', 'b', '{}', 'c')",
        "delete from inbox",
        "select * from events",
        "select * from api_keys",
        "select * from emit_rejections",
        "create table public.mine (id integer)",
        "create function postrider.mine() returns integer language sql as 'select 1'",
    ] {
        let error = emitter.batch_execute(forbidden).await.expect_err(forbidden);
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{forbidden}: {error}");
    }
    // The function does not see objects that the caller has created under the same names.
    emitter
        .batch_execute(
            "create temporary table inbox (application text, event_type text, data jsonb, idempotency_key text);
             create function pg_temp.octet_length(text) returns integer language sql as 'select 1/0';
             set search_path = pg_temp, public",
        )
        .await
        .expect("temporary things");
    emit(&emitter, application, "order.made", "{}", "emitted").await;
    for (arguments, code) in [
        ("null, 'a', '{}', 'k'", "22004"),
        ("'a', 'a', null, 'k'", "22004"),
        ("'a', 'a', '{}', repeat('k', 256)", "22001"),
        ("'a', 'a', jsonb_build_object('a', repeat('x', 524288)), 'k'", "54000"),
        ("'a', 'a', ('[' || repeat('1e131071,', 20) || '1]')::jsonb, 'k'", "54000"),
    ] {
        let error =
            emitter.batch_execute(&format!("select postrider.emit({arguments})")).await.expect_err(arguments);
        assert_eq!(error.code().map(|code| code.code()), Some(code), "{arguments}: {error}");
    }
    let quiet = "select postrider.emit_quietly($1, 'order.made', '{}', 'quiet')";
    emitter.query_one(quiet, &[&application]).await.expect("emitted");
    empty_inbox(&bed).await;
    eventually("both events", async || (keys(&sql).await == ["emitted", "quiet"]).then_some(())).await;

    // A role that was not granted the right may not emit.
    let outsider = format!("{}_outsider", bed.name);
    sql.batch_execute(&format!("create role {outsider} login")).await.expect("a role");
    let stranger = connect(config.user(&outsider)).await;
    let error =
        stranger.batch_execute("select postrider.emit('a', 'a', '{}', 'k')").await.expect_err("refused");
    assert_eq!(error.code().map(|code| code.code()), Some("42501"));
    drop((emitter, stranger));
    services.stop().await;
    for role in [role, outsider] {
        eventually("the role to be dropped", async || {
            sql.batch_execute(&format!("drop role {role}")).await.is_ok().then_some(())
        })
        .await;
    }
    bed.finish().await;
}

/// The api dies after it has accepted an event and before the event has left the inbox.
#[tokio::test(flavor = "multi_thread")]
async fn an_emitted_event_is_accepted_once_when_the_api_is_killed() {
    let bed = Bed::new().await;
    let mut first = Process::start(&bed, "api", &[("FAILPOINTS", "api.before_inbox_finish=1*return")]);
    first.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(first.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let sql = bed.sql().await;
    for number in 0..5 {
        emit(&sql, &producer.application_id, "order.made", "{}", &format!("key-{number}")).await;
    }
    first.died().await;
    assert!(bed.count("select count(*) from inbox").await > 0);
    let services = Services::start(&bed).await;
    empty_inbox(&bed).await;
    receiver.wait_for(5).await;
    let producer = Producer { api: services.api, ..producer };
    assert_eq!(producer.get("/v1/emit-rejections").await["data"], json!([]));
    services.stop().await;
    assert_eq!(receiver.count(), 5);
    assert_eq!(bed.count("select count(*) from events").await, 5);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_emitted_for_a_deleted_application_do_not_reach_its_successor() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let admin = Producer::admin(services.api);
    let create = json!({"name": "a", "uid": "acme"});
    let old = text(&admin.post("/v1/applications", &create).await["id"]);
    let (mut early, mut late) = (bed.sql().await, bed.sql().await);
    let before = early.transaction().await.expect("a transaction");
    emit(&before, "acme", "order.made", "{}", "for-the-old-one").await;
    // This transaction began before the new application was created.
    let across = late.transaction().await.expect("a transaction");
    across.query_one("select txid_current()", &[]).await.expect("it began");
    admin.delete(&format!("/v1/applications/{old}")).await;
    emit(&bed.sql().await, "acme", "order.made", "{}", "for-nobody").await;
    let new = text(&admin.post("/v1/applications", &create).await["id"]);
    emit(&across, "acme", "order.made", "{}", "for-the-new-one").await;
    before.commit().await.expect("committed");
    across.commit().await.expect("committed");
    empty_inbox(&bed).await;
    let sql = bed.sql().await;
    let rows =
        sql.query("select application_id::text, idempotency_key from events", &[]).await.expect("events");
    let events: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(events, [(new, "for-the-new-one".to_owned())]);
    let rejected = "select count(*) from emit_rejections
                    where application_id is null and code = 'application_not_found'";
    assert_eq!(bed.count(rejected).await, 2);
    services.stop().await;
    bed.finish().await;
}

/// Like a machine that is frozen or cut off: its session stays open, and nothing comes from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_api_is_replaced_by_another() {
    let bed = Bed::new().await;
    let first = Process::start(&bed, "api", &[]);
    first.ready().await;
    let producer = Producer::new(first.listen).await;
    let sql = bed.sql().await;
    emit(&sql, &producer.application_id, "order.made", "{}", "before").await;
    empty_inbox(&bed).await;
    let second = Services::api_alone(&bed, &[]).await;
    let frozen = std::process::Command::new("kill").args(["-STOP", &first.id().to_string()]).status();
    assert!(frozen.expect("kill").success());
    emit(&sql, &producer.application_id, "order.made", "{}", "after").await;
    empty_inbox(&bed).await;
    assert_eq!(keys(&sql).await, ["after", "before"]);
    drop(first);
    second.stop().await;
    bed.finish().await;
}
