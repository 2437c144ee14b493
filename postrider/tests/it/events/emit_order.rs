//! `postrider.emit`: the order in which events are accepted.

use std::collections::HashSet;

use serde_json::json;
use tokio_postgres::Client;

use super::emit::{emit, empty_inbox, keys};
use crate::support::producer::Producer;
use crate::support::receiver::Receiver;
use crate::support::service::{Process, Services};
use crate::support::{Bed, eventually};

/// The keys of an application's events, in the order in which they were accepted.
async fn order(sql: &Client, application: &Producer) -> Vec<String> {
    let rows = sql
        .query(
            "select v.idempotency_key from deliveries d join events v on v.id = d.event_id
             where v.application_id = $1::text::uuid
             order by d.position",
            &[&application.application_id],
        )
        .await
        .expect("keys");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn ordered_application(api: &Services) -> Producer {
    let producer = Producer::new(api.api).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/", "ordered": true})).await;
    producer
}

/// Emits an event in its own transaction and waits until it has left the inbox. After that, the api has looked past
/// everything emitted before.
async fn emit_between(sql: &Client, application: &Producer, key: &str) {
    emit(sql, &application.application_id, "order.made", "{}", key).await;
    eventually("the event in between", async || keys(sql).await.contains(&key.to_owned()).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_transaction_keep_their_order_whatever_else_commits() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let first = ordered_application(&services).await;
    let second = ordered_application(&services).await;
    let stranger = ordered_application(&services).await;
    let (mut producer, other) = (bed.sql().await, bed.sql().await);
    let mut expected = (Vec::new(), Vec::new());
    for round in 0..5 {
        let mut transaction = producer.transaction().await.expect("a transaction");
        for step in 0..4 {
            let key = format!("{round}-{step}");
            // A savepoint is a subtransaction with its own id.
            let inner = transaction.savepoint("s").await.expect("a savepoint");
            let function = if step % 2 == 0 { "emit" } else { "emit_quietly" };
            for (application, expected) in [(&first, &mut expected.0), (&second, &mut expected.1)] {
                let statement = format!("select postrider.{function}($1, 'order.made', '{{}}', $2)");
                let id = application.application_id.as_str();
                inner.execute(&statement, &[&id, &key]).await.expect("emitted");
                expected.push(key.clone());
            }
            inner.commit().await.expect("released");
            emit_between(&other, &stranger, &format!("between-{key}")).await;
        }
        transaction.commit().await.expect("committed");
        // The next event of the same session comes next.
        let key = format!("{round}-next");
        emit(&producer, &first.application_id, "order.made", "{}", &key).await;
        expected.0.push(key);
    }
    empty_inbox(&bed).await;
    assert_eq!(order(&other, &first).await, expected.0);
    assert_eq!(order(&other, &second).await, expected.1);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_keeps_its_order_and_delays_no_other() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let (late, stranger) = (ordered_application(&services).await, ordered_application(&services).await);
    let (mut producer, other) = (bed.sql().await, bed.sql().await);
    let mut reader = bed.sql().await;
    // A snapshot from before keeps the rows that are taken in the index.
    let old = reader.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let old = old.start().await.expect("a transaction");
    old.query_one("select count(*) from inbox", &[]).await.expect("a snapshot");
    let open = producer.transaction().await.expect("a transaction");
    let mut expected = Vec::new();
    for part in 0..3 {
        let many = "select postrider.emit_quietly($1, 'order.made', '{}', $2 || '-' || n) from generate_series(1, 50) n";
        let prefix = part.to_string();
        open.execute(many, &[&late.application_id, &prefix]).await.expect("emitted");
        expected.extend((1..=50).map(|n| format!("{part}-{n}")));
        emit_between(&other, &stranger, &format!("between-{part}")).await;
    }
    assert_eq!(order(&other, &stranger).await.len(), 3, "nothing waits for the open transaction");
    open.commit().await.expect("committed");
    empty_inbox(&bed).await;
    assert_eq!(order(&other, &late).await, expected);
    drop(old);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_when_the_api_is_killed_after_accepting() {
    let bed = Bed::new().await;
    let first = Process::start(&bed, "api", &[("FAILPOINTS", "api.before_inbox_finish=1*return")]);
    first.ready().await;
    let application = Producer::new(first.listen).await;
    application.endpoint(json!({"url": "http://127.0.0.1:9/", "ordered": true})).await;
    let (mut producer, other) = (bed.sql().await, bed.sql().await);
    let open = producer.transaction().await.expect("a transaction");
    emit(&open, &application.application_id, "order.made", "{}", "0").await;
    emit(&other, &application.application_id, "order.made", "{}", "x").await;
    let mut first = first;
    first.died().await;
    let many = "select postrider.emit($1, 'order.made', '{}', n::text) from generate_series(1, 150) n";
    open.execute(many, &[&application.application_id]).await.expect("emitted");
    open.commit().await.expect("committed");
    let dying = [("FAILPOINTS", "api.before_inbox_finish=1*off->1*return")];
    let mut second = Process::start(&bed, "api", &dying);
    second.died().await;
    let _third = Process::start(&bed, "api", &[]);
    empty_inbox(&bed).await;
    let order: Vec<_> = order(&other, &application).await.into_iter().filter(|key| key != "x").collect();
    assert_eq!(order, (0..=150).map(|n| n.to_string()).collect::<Vec<_>>());
    let unique: HashSet<_> = order.iter().collect();
    assert_eq!(unique.len(), order.len(), "each once");
    bed.finish().await;
}

/// A dump contains transaction ids of the server on which it was made.
#[tokio::test(flavor = "multi_thread")]
async fn events_emitted_on_another_server_and_restored_here_are_accepted() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = ordered_application(&services).await;
    let sql = bed.sql().await;
    let restored =
        "insert into inbox (transaction_id, application, event_type, data, data_bytes, idempotency_key)
                    values (9e15, $1, 'order.made', '{}', 2, $2)";
    for key in ["1", "2"] {
        sql.execute(restored, &[&producer.application_id, &key]).await.expect("a row");
    }
    emit(&sql, &producer.application_id, "order.made", "{}", "3").await;
    empty_inbox(&bed).await;
    assert_eq!(keys(&sql).await, ["1", "2", "3"]);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_accepted_in_the_order_of_emission() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let other = Services::api_alone(&bed, &[]).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "ordered": true})).await;
    let sql = bed.sql().await;
    sql.execute(
        "select postrider.emit($1, 'order.made', jsonb_build_object('n', n), n::text) from generate_series(1, 200) n",
        &[&producer.application_id],
    )
    .await
    .expect("emitted");
    let numbers: Vec<_> =
        receiver.wait_for(200).await.iter().map(|w| w.json()["data"]["n"].clone()).collect();
    assert_eq!(numbers, (1..=200).map(|n| json!(n)).collect::<Vec<_>>());
    services.stop().await;
    other.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_when_some_schemas_are_not_loaded_yet() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/"), "ordered": true})).await;
    let schema = json!({"properties": {"n": {"type": "integer"}}});
    producer.post("/v1/event-types", &json!({"name": "order.made", "json_schema": schema})).await;
    let sql = bed.sql().await;
    sql.execute(
        "select postrider.emit($1, case n % 3 when 1 then 'order.made' else 'order.paid' end,
                               jsonb_build_object('n', n), n::text)
         from generate_series(1, 30) n",
        &[&producer.application_id],
    )
    .await
    .expect("emitted");
    let order: Vec<_> =
        receiver.wait_for(30).await.iter().map(|webhook| webhook.json()["data"]["n"].clone()).collect();
    assert_eq!(order, (1..=30).map(|n| json!(n)).collect::<Vec<_>>());
    services.stop().await;
    bed.finish().await;
}

/// Another transaction holds the key of the second of three events. Events of other applications do not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn events_behind_a_waiting_event_wait_too() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/", "ordered": true})).await;
    let stranger = Producer::new(services.api).await;
    let mut blocker = bed.sql().await;
    let open = blocker.transaction().await.expect("a transaction");
    open.execute(
        "insert into idempotency_keys values ($1::text::uuid, 'key-2', uuid_v7(), '', 0)",
        &[&producer.application_id],
    )
    .await
    .expect("the key is taken");
    let mut emitter = bed.sql().await;
    let transaction = emitter.transaction().await.expect("a transaction");
    for (application, key) in
        [(&producer, "key-1"), (&producer, "key-2"), (&producer, "key-3"), (&stranger, "s")]
    {
        emit(&transaction, &application.application_id, "order.made", "{}", key).await;
    }
    transaction.commit().await.expect("committed");
    let sql = bed.sql().await;
    eventually("the other application's event", async || {
        keys(&sql).await.contains(&"s".to_owned()).then_some(())
    })
    .await;
    // The event is tried again and again, and nothing overtakes it.
    emit(&sql, &producer.application_id, "order.made", "{}", "key-4").await;
    emit(&sql, &stranger.application_id, "order.made", "{}", "t").await;
    eventually("the other application's next event", async || {
        keys(&sql).await.contains(&"t".to_owned()).then_some(())
    })
    .await;
    assert_eq!(keys(&sql).await, ["key-1", "s", "t"]);
    open.rollback().await.expect("the key is free");
    empty_inbox(&bed).await;
    assert_eq!(order(&sql, &producer).await, ["key-1", "key-2", "key-3", "key-4"]);
    services.stop().await;
    bed.finish().await;
}

/// The events of one application make many deliveries. An event of another application, committed after them, gets its
/// turn.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_does_not_wait_for_everything_another_application_emitted_before() {
    const MANY: usize = 300;
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    for _ in 0..50 {
        producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await;
    }
    let victim = ordered_application(&services).await;
    services.stop().await;
    let sql = bed.sql().await;
    let many = "select postrider.emit($1, 'order.made', '{}', n::text) from generate_series(1, $2::bigint) n";
    sql.execute(many, &[&producer.application_id, &(MANY as i64)]).await.expect("emitted");
    emit(&sql, &victim.application_id, "order.made", "{}", "victim").await;
    let services = Services::api_alone(&bed, &[]).await;
    empty_inbox(&bed).await;
    // Ids are in the order of time, to the millisecond.
    let keys: Vec<String> = sql
        .query("select idempotency_key from events order by id", &[])
        .await
        .expect("keys")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(keys.len(), MANY + 1);
    let place = keys.iter().position(|key| key == "victim").expect("accepted");
    assert!(place < 64, "{place} were accepted before it");
    services.stop().await;
    bed.finish().await;
}
