//! Stored data does not slow down new work. The same work touches as many pages of PostgreSQL with a million stored
//! deliveries as with ten thousand, and with a hundred thousand tenants as with one. A statement that reads a whole
//! table would touch thousands of pages more.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;
use crate::support::{Bed, eventually};

/// How many times as many pages a statement may touch with the large history: indexes are one level deeper.
const MOST_WITH_HISTORY: f64 = 1.5;
/// The same for many tenants: indexes that were one page are three levels deep, so that looking up one row touches four
/// pages instead of one or two.
const MOST_WITH_TENANTS: f64 = 4.0;
/// Below this number of pages, a difference means nothing.
const NOISE: f64 = 8.0;

/// Fills six weeks with `count` events, each with a delivery that succeeded at its first attempt. Every hundredth is
/// still open but not due, and as many are parked for a disabled endpoint. No statistics are gathered, because nothing
/// may depend on them. The outbox is the exception: its statistics, taken from one endpoint's backlog, are misleading
/// on purpose.
async fn fill(bed: &Bed, count: i64) {
    let sql = bed.sql().await;
    let weeks = "
        do $$
        declare name text;
        begin
            for name in select p.name from partitions p loop execute format('drop table %I', name); end loop;
        end $$;
        select add_partitions(date_trunc('day', now(), 'UTC') - interval '36 days' + w * interval '7 days')
        from generate_series(0, 6) w;
        select add_partitions(date_trunc('day', now(), 'UTC') + interval '15 days');
        create table history as select i.id, e.id as endpoint_id, e.application_id from (
            select (left(first_id(now() - interval '35 days' * random())::text, 18)
                    || right(gen_random_uuid()::text, 18))::uuid as id
            from generate_series(1, $count)
        ) i cross join (select id as endpoint_id, application_id from endpoints where is_active) e (id, application_id)
        order by 1;
        insert into events (id, application_id, event_type, payload, idempotency_key, created_at)
        select id, application_id, 'user.created', '{\"id\": 1}', id::text, id_time(id) from history;
        insert into idempotency_keys
        select application_id, id::text, id, '', 1 from history;
        insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts, status,
                                attempt_count, next_retry_at, created_at, completed_at)
        select id, application_id, id, endpoint_id, 'user.created', 5,
               case when is_open then 'failed' else 'succeeded' end, 1,
               case when is_open then now() + interval '1 day' end, id_time(id),
               case when not is_open then now() end
        from (select h.id, h.application_id, h.endpoint_id, row_number() over () % 100 = 0 as is_open
              from history h) h;
        insert into delivery_attempts (delivery_id, attempt_number, outcome, response_status)
        select id, 1, 'succeeded', 204 from history;
        insert into outbox (delivery_id, endpoint_id, application_id, due_at)
        select id, endpoint_id, application_id, next_retry_at from deliveries where completed_at is null;
        insert into outbox (delivery_id, endpoint_id, application_id, parked)
        select h.id, e.id, e.application_id, true
        from history h cross join (select id, application_id from endpoints where not is_active) e;
        analyze outbox;
        drop table history;";
    sql.batch_execute(&weeks.replace("$count", &count.to_string())).await.expect("a history");
    without_autovacuum(bed).await;
}

/// Makes sure that statistics are gathered only when a test asks for them, never in the middle of it.
async fn without_autovacuum(bed: &Bed) {
    let off = "do $$
               declare name text;
               begin
                   for name in select relname from pg_class
                               where relkind = 'r' and relnamespace = 'postrider'::regnamespace
                   loop execute format('alter table %I set (autovacuum_enabled = false)', name); end loop;
               end $$";
    bed.sql().await.batch_execute(off).await.expect("settings of tables");
}

/// An installation with one tenant, whose statements are watched.
struct Setup {
    bed: Bed,
    services: Services,
    producer: Producer,
    endpoint: serde_json::Value,
    _receiver: Receiver,
}

impl Setup {
    async fn new() -> Self {
        let bed = Bed::new().await;
        bed.sql().await.batch_execute("create extension pg_stat_statements").await.expect(
            "PostgreSQL with shared_preload_libraries=pg_stat_statements, which script/with-services starts",
        );
        without_autovacuum(&bed).await;
        let services = Services::api_alone(&bed, &[]).await;
        let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 204 }).await;
        let producer = Producer::new(services.api).await;
        let endpoint = producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [0]})).await;
        producer.endpoint(json!({"url": receiver.url("/"), "is_active": false})).await;
        Self { bed, services, producer, endpoint, _receiver: receiver }
    }

    /// Starts relay and deliverer, and makes every kind of plan before counting.
    async fn warm_up(&mut self) {
        self.services.relay(&self.bed, &[]);
        self.services.deliverer(&self.bed, &[]);
        drive(&self.bed, &self.producer, &self.endpoint, 40).await;
    }

    /// Pages touched per call of each statement, by name. If the amount of work per call depends on the speed of the
    /// machine, each returned row counts as a call.
    async fn pages(&self) -> BTreeMap<String, f64> {
        let sql = self.bed.sql().await;
        // Statements that scan everything once a second pass dead rows, more often on a slower machine.
        sql.batch_execute("vacuum outbox").await.expect("vacuumed");
        let reset =
            "select pg_stat_statements_reset(0, oid, 0) from pg_database where datname = current_database()";
        sql.batch_execute(reset).await.expect("a reset");
        drive(&self.bed, &self.producer, &self.endpoint, 60).await;
        let statements = sql
            .query(
                "select split_part(split_part(s.query, E'\\n', 1), '-- ', 2),
                        sum(s.shared_blks_hit + s.shared_blks_read)::float8
                        / sum(s.calls + case when s.query ~ $1 then s.rows else 0 end)::float8
                 from pg_stat_statements s
                 join pg_database d on d.oid = s.dbid and d.datname = current_database()
                 where s.query like '-- %' and s.calls >= 10
                 group by 1",
                &[&"^-- (events.accept|outbox.take|deliveries.claim|deliveries.record)\\n"],
            )
            .await
            .expect("statistics");
        statements.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn finish(self) {
        self.services.stop().await;
        self.bed.finish().await;
    }
}

/// Pages with this much history.
async fn with_history(count: i64) -> BTreeMap<String, f64> {
    let mut setup = Setup::new().await;
    fill(&setup.bed, count).await;
    setup.warm_up().await;
    let pages = setup.pages().await;
    setup.finish().await;
    pages
}

/// Does what producers and operators do: post, follow, list, with and without filters.
async fn drive(bed: &Bed, producer: &Producer, endpoint: &serde_json::Value, rounds: i64) {
    let before =
        bed.count("select count(*) from deliveries where status = 'succeeded' and attempt_count = 2").await;
    for number in 0..rounds {
        let accepted = producer.publish("user.created", json!({"number": number})).await;
        let event = text(&accepted["event_id"]);
        producer.get(&format!("/v1/events/{event}")).await;
        let delivery = producer.deliveries(&event).await.remove(0);
        producer.attempts(&delivery).await;
        producer.get(&format!("/v1/deliveries/{}", text(&delivery["id"]))).await;
        producer.get("/v1/events").await;
        producer.get("/v1/events?event_type=none.such&data_contains=%7B%22id%22%3A2%7D").await;
        producer.get("/v1/deliveries").await;
        let of_endpoint = format!("/v1/deliveries?status=dead_letter&endpoint_id={}", text(&endpoint["id"]));
        producer.get(&of_endpoint).await;
        producer.get("/v1/deliveries?created_before=2026-01-01T00:00:00Z").await;
    }
    eventually("everything to be delivered", async || {
        let done = bed
            .count("select count(*) from deliveries where status = 'succeeded' and attempt_count = 2")
            .await;
        (done == before + rounds).then_some(())
    })
    .await;
}

fn assert_no_growth(small: &BTreeMap<String, f64>, large: &BTreeMap<String, f64>, most: f64) {
    for name in ["events.accept", "outbox.take", "deliveries.claim", "deliveries.record", "events.list"] {
        assert!(large.contains_key(name), "{name} did not run often enough: {large:?}");
    }
    let mut grown = Vec::new();
    for (name, pages) in large {
        let before = small.get(name).copied().unwrap_or(*pages);
        eprintln!("{name}: {before:.1} → {pages:.1} pages");
        if *pages > (before * most).max(NOISE) {
            grown.push(format!("{name}: {before:.1} → {pages:.1} pages"));
        }
    }
    assert!(grown.is_empty(), "{}", grown.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_stored_deliveries_cost_no_more_than_ten_thousand() {
    let small = with_history(10_000).await;
    assert_no_growth(&small, &with_history(1_000_000).await, MOST_WITH_HISTORY);
}

/// The plans are made while PostgreSQL knows of only one tenant and has no statistics about the few events. Then many
/// tenants are added, and no statistics are gathered: as between an import and the next run of autovacuum.
#[tokio::test(flavor = "multi_thread")]
async fn plans_made_for_one_tenant_hold_for_a_hundred_thousand() {
    let mut setup = Setup::new().await;
    let sql = setup.bed.sql().await;
    let small = "select count(*) from pg_partition_tree('deliveries') t join pg_class c on c.oid = t.relid
                 where t.isleaf and not 'autovacuum_analyze_threshold=20000' = any (c.reloptions)";
    assert_eq!(setup.bed.count(small).await, 0, "autovacuum leaves partitions alone while they are small");
    let tenants = "analyze applications, api_keys, endpoints, endpoint_secrets, endpoint_health, event_types";
    sql.batch_execute(tenants).await.expect("statistics");
    setup.warm_up().await;
    let one = setup.pages().await;
    sql.batch_execute(
        "insert into event_types (application_id, name)
         select id, 'type.' || n from applications, generate_series(1, 2000) n;
         insert into event_types (application_id, name) select id, 'user.created' from applications;
         insert into applications (name) select 'many' from generate_series(1, 100000);
         insert into api_keys (application_id, name, prefix, key_hash)
         select id, 'default', 'pr_', sha256(uuid_send(id)) from applications where name = 'many';
         insert into endpoints (application_id, url, is_active)
         select id, 'http://127.0.0.1:9/', false from applications where name = 'many';
         insert into endpoint_secrets (endpoint_id, secret)
         select id, '\\x00' from endpoints e
         where not exists (select from endpoint_secrets s where s.endpoint_id = e.id);
         insert into endpoint_health (endpoint_id) select id from endpoints on conflict do nothing;
         insert into events (id, application_id, event_type, payload, idempotency_key, created_at)
         select (left(first_id(now())::text, 18) || right(gen_random_uuid()::text, 18))::uuid, id,
                'user.created', '{\"id\": 1}', id::text, now()
         from applications where name = 'many';
         insert into deliveries (id, application_id, event_id, endpoint_id, event_type, max_attempts, status,
                                 attempt_count, created_at, completed_at)
         select v.id, v.application_id, v.id, e.id, v.event_type, 5, 'succeeded', 1, v.created_at, now()
         from events v join endpoints e on e.application_id = v.application_id
         where not e.is_active;",
    )
    .await
    .expect("tenants");
    assert_no_growth(&one, &setup.pages().await, MOST_WITH_TENANTS);
    setup.finish().await;
}
