//! The relay neither drops nor replaces partitions that an operator detaches, for repair or for an archive.

use serde_json::json;
use tokio_postgres::Client;

use crate::support::producer::Producer;
use crate::support::receiver::Receiver;
use crate::support::service::Process;
use crate::support::{Bed, OLD_PARTITIONS, connect, eventually};

const TABLES: [&str; 3] = ["events", "deliveries", "delivery_attempts"];

/// Today's partition: its name, and its bounds.
async fn current(sql: &Client, table: &str) -> (String, String) {
    let query = "select p.name, pg_get_expr(c.relpartbound, c.oid)
                 from partitions p join pg_class c on c.oid = p.name::regclass
                 where p.parent = $1 and p.ends_at > now() order by p.ends_at limit 1";
    let row = sql.query_one(query, &[&table]).await.expect("a partition for today");
    (row.get(0), row.get(1))
}

async fn reported(process: &Process, words: &str) {
    eventually(&format!("a reason with `{words}`"), async || {
        let (status, answer) = process.health("ready").await?;
        let reason = answer["parts"]["relay_partitions"]["reason"].as_str()?;
        (status == 503 && reason.contains(words)).then_some(())
    })
    .await;
}

/// Starts an API, and a producer with an endpoint that accepts everything.
async fn publishing(bed: &Bed) -> (Process, Receiver, Producer) {
    let api = Process::start(bed, "api", &[]);
    api.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    (api, receiver, producer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_partition_of_today_is_named_and_left_alone() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    let (_api, _receiver, producer) = publishing(&bed).await;
    let event = producer.publish_until_accepted("a-key", "user.created", &json!({})).await;
    let mut detached = Vec::new();
    for table in ["events", "deliveries"] {
        let (name, bounds) = current(&sql, table).await;
        sql.batch_execute(&format!("alter table {table} detach partition {name}")).await.expect("detached");
        detached.push((table, name, bounds));
    }

    let relay = Process::start(&bed, "relay", &[]);
    for (table, name, bounds) in detached {
        reported(&relay, &name).await;
        assert_eq!(bed.count(&format!("select count(*) from {name}")).await, 1, "its rows are there");
        sql.batch_execute(&format!("alter table {table} attach partition {name} {bounds}"))
            .await
            .expect("nothing has taken its place");
    }
    relay.ready().await;
    let again = producer.publish_until_accepted("a-key", "user.created", &json!({})).await;
    assert_eq!((&again["event_id"], &again["duplicate"]), (&event["event_id"], &json!(true)));
    let due = "insert into outbox (delivery_id, endpoint_id, application_id)
               select id, endpoint_id, application_id from deliveries";
    sql.batch_execute(due).await.expect("due again, as the audit would have it");
    let _deliverer = Process::start(&bed, "deliverer", &[]);
    bed.all_succeeded(1).await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_interrupted_detach_is_left_alone() {
    let bed = Bed::new().await;
    let mut sql = bed.sql().await;
    let (name, _) = current(&sql, "deliveries").await;
    let operator = connect(&bed.database()).await;
    let pid: i32 = operator.query_one("select pg_backend_pid()", &[]).await.expect("a pid").get(0);
    let reading = sql.transaction().await.expect("a transaction");
    reading.query("select from deliveries", &[]).await.expect("read");
    let detach = format!("alter table deliveries detach partition {name} concurrently");
    let detaching = tokio::spawn(async move { operator.batch_execute(&detach).await });
    eventually("the detachment to wait for the reader", async || {
        (bed.count("select count(*) from pg_inherits where inhdetachpending").await == 1).then_some(())
    })
    .await;
    reading.execute("select pg_cancel_backend($1)", &[&pid]).await.expect("cancelled");
    detaching.await.expect("the task").expect_err("it was interrupted");
    reading.rollback().await.expect("read");

    let relay = Process::start(&bed, "relay", &[]);
    reported(&relay, &name).await;
    assert_eq!(bed.count(&format!("select count(*) from pg_class where relname = '{name}'")).await, 1);
    sql.batch_execute(&format!("alter table deliveries detach partition {name} finalize; drop table {name}"))
        .await
        .expect("the operator has finished the detach");
    relay.ready().await;
    // Once it is gone, a new one is made.
    current(&sql, "deliveries").await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_partition_older_than_the_retention_is_dropped() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    sql.batch_execute(OLD_PARTITIONS).await.expect("old partitions");
    let oldest = "select name from partitions where parent = 'deliveries' order by ends_at limit 1";
    let name: String = sql.query_one(oldest, &[]).await.expect("a partition").get(0);
    sql.batch_execute(&format!("alter table deliveries detach partition {name}")).await.expect("detached");
    let relay = Process::start(&bed, "relay", &[]);
    relay.ready().await;
    eventually("the old partition to be dropped", async || {
        let left = format!("select count(*) from pg_class where relname = '{name}'");
        (bed.count(&left).await == 0).then_some(())
    })
    .await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_partition_of_any_table_is_recreated() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    let (_api, receiver, producer) = publishing(&bed).await;
    let _deliverer = Process::start(&bed, "deliverer", &[]);
    for (round, table) in (1..).zip(TABLES) {
        let (name, bounds) = current(&sql, table).await;
        // Later partitions exist, so that the hole is in the middle.
        let later = format!(
            "select add_partitions(date_trunc('day', now(), 'UTC') + interval '{} days')",
            30 * round
        );
        sql.batch_execute(&later).await.expect("partitions to come");
        sql.batch_execute(&format!("drop table {name}")).await.expect("dropped");
        let relay = Process::start(&bed, "relay", &[]);
        relay.ready().await;
        assert_eq!(current(&sql, table).await, (name, bounds), "only the hole");
        producer.publish_until_accepted(table, "user.created", &json!({})).await;
        receiver.wait_for(round).await;
        let attempted = "select count(*) from deliveries d join delivery_attempts a on a.delivery_id = d.id
                         where d.status = 'succeeded'";
        eventually("the attempt", async || (bed.count(attempted).await >= 1).then_some(())).await;
    }
    bed.finish().await;
}
