//! A transaction that stays open for a long time keeps dead rows from being removed, and may commit rows that were due
//! long ago.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::Bed;
use crate::support::eventually;
use crate::support::producer::Producer;
use crate::support::receiver::Receiver;
use crate::support::service::Services;

/// Rows that pass through the outbox while it is open, and how many at once.
const ROWS: i64 = 50_000;
const STEP: i64 = 1_000;

/// Rows that pass afterwards, while pages are counted.
const LAST: i64 = 10 * STEP;

/// An event with an open, queued delivery, as accepting one writes it.
const LATE_EVENT: &str = "
    with e as (
        insert into events (id, application_id, event_type, payload, idempotency_key)
        select uuid_v7(), application_id, 'late', '{}', 'late' from endpoints returning id, application_id
    ),
    d as (
        insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts)
        select uuid_v7(), e.application_id, e.id, p.id, 'late', 5 from e join endpoints p using (application_id)
        returning id, endpoint_id, application_id
    )
    insert into outbox (delivery_id, endpoint_id, application_id)
    select id, endpoint_id, application_id from d";

/// Passes rows of endpoints that do not exist through the outbox, where the relay looks at nothing else. They become
/// due in a different order than they are stored in, so that each dead row costs a page.
async fn pass_rows(bed: &Bed, sql: &tokio_postgres::Client, rows: i64) {
    for _ in 0..rows / STEP {
        let queue = format!(
            "insert into outbox (delivery_id, endpoint_id, application_id, due_at)
             select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now() - random() * interval '400 milliseconds'
             from generate_series(1, {STEP})"
        );
        sql.batch_execute(&queue).await.expect("rows");
        sql.batch_execute("notify postrider_outbox").await.expect("a hint");
        eventually("the rows to be taken", async || {
            let left = "select count(*) from outbox o
                        where not exists (select from endpoints e where e.id = o.endpoint_id)";
            (bed.count(left).await == 0).then_some(())
        })
        .await;
    }
}

/// The most pages that a take of 256 rows touches if it passes no dead rows.
const PAGES: i64 = 3_000;

/// The number of takes since the last reset, and the pages that they touched.
async fn takes_and_pages(sql: &tokio_postgres::Client) -> (i64, i64) {
    let row = sql
        .query_one(
            "select calls, shared_blks_hit + shared_blks_read
             from pg_stat_statements s
             join pg_database d on d.oid = s.dbid and d.datname = current_database()
             where s.query like '-- outbox.take%'",
            &[],
        )
        .await
        .expect("statistics");
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_stay_fast_beside_an_old_transaction_whose_late_rows_are_delivered() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    sql.batch_execute("create extension pg_stat_statements").await.expect("an extension");
    let settings = [("POSTRIDER_QUEUE_CAPACITY", "1000000")];
    let mut services = Services::api_alone(&bed, &settings).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;

    let old = bed.sql().await;
    old.batch_execute("begin isolation level repeatable read").await.expect("an old transaction");
    old.batch_execute(LATE_EVENT).await.expect("written, and not committed");
    services.relay(&bed, &settings);
    pass_rows(&bed, &sql, ROWS).await;
    let dead = "select n_dead_tup from pg_stat_user_tables where relname = 'outbox'";
    eventually("dead rows", async || (bed.count(dead).await >= ROWS).then_some(())).await;
    // Now the rows have been due for longer than the margin of takes and the jitter.
    tokio::time::sleep(Duration::from_secs(1)).await;
    sql.batch_execute("select pg_stat_statements_reset()").await.expect("a reset");
    let began = Instant::now();
    pass_rows(&bed, &sql, LAST).await;
    let seconds = began.elapsed().as_secs() as i64;
    let (takes, pages) = takes_and_pages(&sql).await;
    eprintln!("{takes} takes touched {pages} pages in {seconds} s");
    // One take per second scans everything and passes all dead rows. The others pass only the most recent ones.
    let most = (seconds + 2) * (ROWS + LAST) + takes * (PAGES + LAST);
    assert!(pages < most, "{takes} takes touched {pages} pages in {seconds} s: they pass dead rows");

    services.deliverer(&bed, &settings);
    assert_eq!(receiver.count(), 0, "it is not committed yet");
    old.batch_execute("commit").await.expect("committed, long after its row was due");
    receiver.wait_for(1).await;
    bed.all_succeeded(1).await;
    services.stop().await;
    bed.finish().await;
}
