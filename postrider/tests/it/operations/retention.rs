//! Data older than the retention is removed, partition by partition, and partitions for new data are made.

use serde_json::json;

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;
use crate::support::{Bed, OLD_PARTITIONS, eventually};

/// An event of 50 days ago with an open delivery, an attempt, its key, and a parked row.
const OLD_EVENT: &str = "
    insert into events (id, application_id, event_type, payload, idempotency_key)
        select first_id(now() - interval '50 days'), id, 'old.event', '{}', 'old' from applications;
    insert into idempotency_keys (application_id, idempotency_key, event_id, event_hash, deliveries_queued)
        select id, 'old', first_id(now() - interval '50 days'), '', 1 from applications;
    insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts)
        select first_id(now() - interval '50 days'), application_id, first_id(now() - interval '50 days'), id,
               'old.event', 5
        from endpoints;
    insert into delivery_attempts (delivery_id, attempt_number, outcome)
        values (first_id(now() - interval '50 days'), 1, 'unknown');
    insert into outbox (delivery_id, endpoint_id, application_id, parked)
        select first_id(now() - interval '50 days'), id, application_id, true from endpoints where not is_active;";

fn partitions_of(table: &str) -> String {
    format!("select count(*) from pg_class where relname ~ '^{table}_until_' and relkind = 'r'")
}

#[tokio::test(flavor = "multi_thread")]
async fn data_older_than_the_retention_is_removed_and_the_rest_stays() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    sql.batch_execute(OLD_PARTITIONS).await.expect("old partitions");
    let mut services = Services::api_alone(&bed, &[]).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let disabled = producer.endpoint(json!({"url": receiver.url("/"), "is_active": false})).await;
    sql.batch_execute(OLD_EVENT).await.expect("an old event");
    let dead_letters = ["postrider.delivery.dead_letter"];
    producer.endpoint(json!({"url": receiver.url("/told"), "event_types": dead_letters})).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let accepted = producer.publish("user.created", json!({})).await;

    services.relay(&bed, &[]);
    services.deliverer(&bed, &[]);
    let told = eventually("the owner to get the dead letter of the open delivery", async || {
        receiver.received().iter().find(|webhook| webhook.path == "/told").map(|webhook| webhook.json())
    })
    .await;
    assert_eq!(told["data"]["endpoint_id"], disabled["id"]);
    eventually("the old partition of events to be dropped", async || {
        (bed.count(&partitions_of("events")).await == 1).then_some(())
    })
    .await;
    // An attempt in flight may still be recorded.
    assert_eq!(bed.count(&partitions_of("delivery_attempts")).await, 2);
    let path = format!("/v1/deliveries/{}", text(&told["data"]["delivery_id"]));
    let ended = producer.get(&path).await;
    assert_eq!(ended["status"], "dead_letter", "it stays visible for a day");
    assert!(text(&ended["last_error"]).starts_with("event_expired"));
    let (status, refused) = producer.refused(&format!("{path}/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("event_expired")));

    sql.batch_execute(
        "update deliveries set dead_at = now() - interval '25 hours' where status = 'dead_letter'",
    )
    .await
    .expect("a day later");
    services.stop().await;
    let services = Services::start(&bed).await;
    for table in ["events", "deliveries", "delivery_attempts"] {
        eventually(&format!("the old partition of {table} to be dropped"), async || {
            (bed.count(&partitions_of(table)).await == 1).then_some(())
        })
        .await;
    }
    eventually("the old key and the parked row to be removed", async || {
        let left = "select (select count(*) from idempotency_keys where idempotency_key = 'old')
                         + (select count(*) from outbox where parked)";
        (bed.count(left).await == 0).then_some(())
    })
    .await;
    let producer = Producer { api: services.api, ..producer };
    producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    let keys = "select count(*) from idempotency_keys where idempotency_key not like 'postrider.%'";
    assert_eq!(bed.count(keys).await, 1);
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_delivery_keeps_its_partition_and_no_other() {
    let bed = Bed::new().await;
    let mut sql = bed.sql().await;
    sql.batch_execute(OLD_PARTITIONS).await.expect("old partitions");
    let mut services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": "http://127.0.0.1:9/", "is_active": false})).await;
    sql.batch_execute(OLD_EVENT).await.expect("an old event");
    let held = sql.transaction().await.expect("a transaction");
    held.execute("select from deliveries for update", &[]).await.expect("locked");
    services.relay(&bed, &[]);
    eventually("the old partition of events to be dropped", async || {
        (bed.count(&partitions_of("events")).await == 1).then_some(())
    })
    .await;
    eventually("the old key to be removed", async || {
        (bed.count("select count(*) from idempotency_keys").await == 0).then_some(())
    })
    .await;
    assert_eq!(bed.count(&partitions_of("deliveries")).await, 2);
    held.rollback().await.expect("released");
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_a_week_ahead() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    sql.batch_execute(OLD_PARTITIONS).await.expect("old partitions");
    sql.batch_execute(
        "do $$
         declare name text;
         begin
             for name in select p.name from partitions p where ends_at > now() loop
                 execute format('drop table %I', name);
             end loop;
         end $$",
    )
    .await
    .expect("no partition for now");
    let mut services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let refused = producer.try_publish("a-key", "user.created", &json!({})).await.expect("a response");
    assert_eq!(refused.status(), 503, "a missing partition is not the producer's fault");

    services.relay(&bed, &[("POSTRIDER_RETENTION_DAYS", "8")]);
    producer.publish_until_accepted("a-key", "user.created", &json!({})).await;
    let ahead =
        "select count(*) from partitions where parent = 'events' and ends_at > now() + interval '7 days'";
    eventually("a week ahead", async || (bed.count(ahead).await > 0).then_some(())).await;
    let widths = "select count(distinct ends_at - starts_at) from partitions
                  where starts_at > now() and ends_at - starts_at <> interval '2 days'";
    assert_eq!(bed.count(widths).await, 0, "a quarter of the retention");
    services.stop().await;
    bed.finish().await;
}
