//! The failure table: real processes that die at a named failpoint, a Redis that loses its memory, and a PostgreSQL
//! outage.

use std::time::{Duration, Instant};

use postrider_embedded::Stop;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Received, Receiver, Reply};
use crate::support::service::{Clock, Process};
use crate::support::stack::{Stack, own_servers};
use crate::support::wire::Wire;
use crate::support::{Bed, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn an_api_killed_before_the_commit_stores_nothing_and_a_retry_is_accepted() {
    let bed = Bed::new().await;
    let mut api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    api.kill();
    let mut dying =
        Process::start_at(&bed, "api", api.listen, &[("FAILPOINTS", "api.before_commit=1*return")]);
    dying.ready().await;

    assert!(producer.try_publish("a-key", "user.created", &json!({})).await.is_err(), "no response");
    dying.died().await;
    assert_eq!(bed.count("select count(*) from events").await, 0);
    let _api = Process::start_at(&bed, "api", api.listen, &[]);
    let (_relay, _deliverer) = (Process::start(&bed, "relay", &[]), Process::start(&bed, "deliverer", &[]));
    let accepted = producer.publish_until_accepted("a-key", "user.created", &json!({})).await;
    assert_eq!(accepted["duplicate"], false);
    bed.all_succeeded(1).await;
    assert_eq!(receiver.count(), 1);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_killed_after_the_commit_has_stored_the_event_and_a_retry_is_a_duplicate() {
    let bed = Bed::new().await;
    let mut api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    api.kill();
    let mut dying =
        Process::start_at(&bed, "api", api.listen, &[("FAILPOINTS", "api.after_commit=1*return")]);
    dying.ready().await;

    assert!(producer.try_publish("a-key", "user.created", &json!({})).await.is_err(), "no response");
    dying.died().await;
    let (_relay, _deliverer) = (Process::start(&bed, "relay", &[]), Process::start(&bed, "deliverer", &[]));
    bed.all_succeeded(1).await;
    let _api = Process::start_at(&bed, "api", api.listen, &[]);
    let again = producer.publish_until_accepted("a-key", "user.created", &json!({})).await;
    assert_eq!(again["duplicate"], true);
    assert_eq!(again["deliveries_queued"], 1);
    assert_eq!(receiver.count(), 1);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_notification_delays_delivery_by_a_second_and_a_cut_listener_reconnects() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.publish("user.created", json!({})).await;
    bed.all_succeeded(1).await;

    // Nothing notifies the relay of this row.
    let sql = bed.sql().await;
    let reopen =
        "with d as (update deliveries set status = 'pending', completed_at = null, next_retry_at = now()
                              returning id, endpoint_id, application_id)
                  insert into outbox (delivery_id, endpoint_id, application_id)
                  select id, endpoint_id, application_id from d";
    sql.batch_execute(reopen).await.expect("a row without a notification");
    let started = Instant::now();
    receiver.wait_for(2).await;
    // The audit would find it after a minute.
    assert!(started.elapsed() < Duration::from_secs(45), "the poll took {:?}", started.elapsed());

    let listeners = "select count(*) from pg_stat_activity where datname = current_database() and query like '%listen postrider_outbox'";
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and query like '%listen postrider_outbox'";
    assert_eq!(bed.count(cut).await, 1);
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(3).await;
    eventually("a listener", async || (bed.count(listeners).await == 1).then_some(())).await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_a_relay_killed_after_the_push_are_pushed_twice_and_sent_once() {
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    producer.publish("user.created", json!({})).await;
    let row = bed.count("select id from outbox").await;

    let mut dying = Process::start(&bed, "relay", &[("FAILPOINTS", "relay.after_push=1*return")]);
    dying.died().await;
    let still_there = format!("select count(*) from outbox where id = {row}");
    assert_eq!(bed.count(&still_there).await, 1, "the take was undone");
    let _relay = Process::start(&bed, "relay", &[]);
    eventually("the second push", async || {
        (bed.count("select count(*) from outbox").await == 0).then_some(())
    })
    .await;
    let _deliverer = Process::start(&bed, "deliverer", &[]);
    bed.all_succeeded(1).await;
    eventually("both ids to leave Redis", async || bed.is_queue_empty().await.then_some(())).await;
    assert_eq!(receiver.count(), 1);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_killed_before_the_claim_loses_its_reservation() {
    let bed = Bed::new().await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    api.ready().await;
    relay.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let mut dying = Process::start(&bed, "deliverer", &[("FAILPOINTS", "deliverer.after_reserve=1*return")]);
    dying.ready().await;

    producer.publish("user.created", json!({})).await;
    dying.died().await;
    let _deliverer = Process::start(&bed, "deliverer", &[]);
    bed.all_succeeded(1).await;
    assert_eq!(receiver.count(), 1);
    assert_eq!(bed.unknown_attempts().await, 0, "nothing had been claimed");
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_killed_after_sending_leaves_an_unknown_attempt_and_the_webhook_is_sent_again() {
    let bed = Bed::new().await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    api.ready().await;
    relay.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    let endpoint = producer.endpoint(json!({"url": receiver.url("/")})).await;
    let mut dying = Process::start(&bed, "deliverer", &[("FAILPOINTS", "deliverer.after_send=1*return")]);
    dying.ready().await;

    let accepted = producer.publish("user.created", json!({})).await;
    dying.died().await;
    let _deliverer = Process::start(&bed, "deliverer", &[]);
    let delivery = producer.delivery_in(&text(&accepted["event_id"]), "succeeded").await;
    let webhooks = receiver.received();
    assert_eq!(webhooks.len(), 2);
    for webhook in &webhooks {
        webhook.verify(&text(&endpoint["secret"]));
        assert_eq!(webhook.id(), text(&accepted["event_id"]));
    }
    let attempts = producer.attempts(&delivery).await;
    let outcomes: Vec<_> = attempts.iter().map(|attempt| text(&attempt["outcome"])).collect();
    assert_eq!(outcomes, ["unknown", "succeeded"]);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_loses_nothing() {
    let (_directory, servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::start(|_| Reply { delay: Duration::from_millis(50), ..Reply::from(200) }).await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "concurrency_limit": 4, "rate_limit": null})).await;
    for number in 0..200 {
        producer.publish("user.created", json!({ "n": number })).await;
    }
    assert!(!bed.is_queue_empty().await, "Redis holds ids to lose");
    let mut redis = bed.redis().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
    bed.all_succeeded(200).await;
    assert_eq!(bed.unknown_attempts().await, 0);
    assert_eq!(receiver.count(), 200, "nothing was sent twice");
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_outage_or_an_old_snapshot_loses_nothing() {
    let (_directory, mut servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::start(|_| Reply { delay: Duration::from_millis(50), ..Reply::from(200) }).await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "concurrency_limit": 2, "rate_limit": null})).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(1).await;
    // The snapshot contains the epoch, but not the ids that are pushed from now on.
    let mut redis = bed.redis().await;
    let _: () = redis::cmd("SAVE").query_async(&mut redis).await.expect("a snapshot");
    for number in 0..60 {
        producer.publish("user.created", json!({ "n": number })).await;
    }
    eventually("the ids in Redis", async || {
        (bed.count("select count(*) from outbox").await == 0).then_some(())
    })
    .await;
    servers.stop_redis(Stop::Kill).await.expect("killed");
    // While Redis is down, the API accepts events.
    for number in 0..20 {
        producer.publish("user.created", json!({ "away": number })).await;
    }
    servers.start_redis().await.expect("started");
    bed.all_succeeded(81).await;
    let sent_twice = i64::try_from(receiver.count()).expect("few") - 81;
    assert!(sent_twice <= bed.unknown_attempts().await, "{sent_twice} webhooks were sent twice");
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_during_a_take_and_a_reconciliation_strands_nothing() {
    let (_directory, servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let holding = Process::start(&bed, "relay", &[("FAILPOINTS", "relay.after_push=1*sleep(3000)")]);
    holding.ready().await;
    for number in 0..10 {
        producer.publish("user.created", json!({ "n": number })).await;
    }
    eventually("ids in Redis", async || (!bed.is_queue_empty().await).then_some(())).await;
    assert!(bed.count("select count(*) from outbox").await > 0, "the take is still open");
    let mut redis = bed.redis().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.expect("flushed");
    let (_other, _deliverer) = (Process::start(&bed, "relay", &[]), Process::start(&bed, "deliverer", &[]));
    bed.all_succeeded(10).await;
    assert_eq!(receiver.count(), 10);
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_outage_longer_than_a_lease_is_a_503_and_nothing_is_sent_again() {
    let (_directory, mut servers) = own_servers().await;
    let bed = Bed::on(servers.database_url(), servers.redis_url()).await;
    let wire = Wire::to(&bed).await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    let sending = Process::start(&bed, "deliverer", &[("DATABASE_URL", &wire.url)]);
    for process in [&api, &relay, &sending] {
        process.ready().await;
    }
    let receiver = Receiver::start(|webhook| {
        let delay = if webhook.json()["type"] == "slow" { Duration::from_secs(10) } else { Duration::ZERO };
        Reply { delay, ..Reply::from(200) }
    })
    .await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "timeout_seconds": 12, "rate_limit": null})).await;
    // The endpoint has to succeed before it may have this many exchanges at once.
    for number in 0..100 {
        producer.publish("quick", json!({ "n": number })).await;
    }
    bed.all_succeeded(100).await;
    for number in 0..50 {
        producer.publish("slow", json!({ "n": number })).await;
    }
    receiver.wait_for(150).await;
    let in_progress = "select count(*) from deliveries where status = 'in_progress'";
    assert_eq!(bed.count(in_progress).await, 50, "all are in flight, and none is recorded");
    // A crash loses a claim that is not on disk yet, and its webhook may be sent again.
    let unwritten = "select (pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn())::bigint";
    eventually("claims on disk", async || (bed.count(unwritten).await <= 0).then_some(())).await;
    wire.close();
    servers.stop_postgres(Stop::Immediate).await.expect("stopped");

    let refused = producer.try_publish("while-away", "quick", &json!({})).await.expect("a response");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.json::<Value>().await.expect("a problem")["status"], 503);
    // Longer than the lease: 12 s and the margin of 15 s.
    tokio::time::sleep(Duration::from_secs(29)).await;
    let _eager = Process::start(&bed, "deliverer", &[]);
    servers.start_postgres().await.expect("started");
    producer.publish_until_accepted("while-away", "quick", &json!({})).await;
    // All other services are back, and would send again what this one has sent but not recorded yet.
    tokio::time::sleep(Duration::from_secs(4)).await;
    wire.open();
    bed.all_succeeded(151).await;
    assert_eq!(bed.unknown_attempts().await, 0, "the deliverer waited for its records");
    assert_eq!(receiver.count(), 151);
    bed.finish().await;
    servers.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_rendered_becomes_a_dead_letter_and_affects_no_other() {
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/")})).await;
    let bomb = producer.publish("user.created", json!({})).await;
    // Only a few: PostgreSQL needs seconds to read a batch with this event.
    for number in 0..3 {
        producer.publish("user.created", json!({ "n": number })).await;
    }
    // Bypasses the API, which would refuse it: numbers that take a gigabyte when they are written out.
    let sql = bed.sql().await;
    let id: uuid::Uuid = text(&bomb["event_id"]).parse().expect("an id");
    let swell = "update events set payload = jsonb_build_object('n',
                     (select jsonb_agg(to_jsonb('1e131071'::numeric)) from generate_series(1, 9000)))
                 where id = $1";
    sql.execute(swell, &[&id]).await.expect("a bomb");

    let (_relay, _deliverer) = (Process::start(&bed, "relay", &[]), Process::start(&bed, "deliverer", &[]));
    let dead = producer.delivery_in(&text(&bomb["event_id"]), "dead_letter").await;
    bed.all_succeeded(3).await;
    let attempts = producer.attempts(&dead).await;
    assert_eq!(attempts[0]["error_class"], "unrenderable");
    assert_eq!(receiver.count(), 3);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_takes_too_long_to_render_uses_up_its_attempts_and_affects_no_other() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "max_attempts": 3, "retry_schedule": [0]})).await;
    let ordered = Producer::new(stack.api.listen).await;
    ordered
        .endpoint(
            json!({"ordered": true, "url": receiver.url("/"), "max_attempts": 3, "retry_schedule": [0]}),
        )
        .await;
    // The error of a statement that reaches its timeout, without waiting for it.
    let slow = "create or replace function rfc3339(at timestamptz) returns text language plpgsql as $$
                begin
                    if at = '2001-01-01Z' then
                        raise exception 'canceling statement due to statement timeout' using errcode = '57014';
                    end if;
                    return to_char(at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"');
                end $$;
                create function make_slow() returns trigger language plpgsql as $$
                begin new.created_at = '2001-01-01Z'; return new; end $$;
                create trigger make_slow before insert on events for each row
                when (new.event_type = 'slow') execute function make_slow()";
    bed.sql().await.batch_execute(slow).await.expect("a slow event");

    for producer in [&producer, &ordered] {
        let slow = producer.publish("slow", json!({})).await;
        for number in 0..3 {
            producer.publish("user.created", json!({ "n": number })).await;
        }
        let dead = producer.delivery_in(&text(&slow["event_id"]), "dead_letter").await;
        let classes: Vec<_> =
            producer.attempts(&dead).await.iter().map(|attempt| text(&attempt["error_class"])).collect();
        assert_eq!(classes, ["internal"; 3]);
    }
    bed.all_succeeded(6).await;
    assert_eq!(receiver.count(), 6);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_its_deliverers_becomes_a_dead_letter_and_affects_no_other() {
    let bed = Bed::new().await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    api.ready().await;
    relay.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "max_attempts": 4, "retry_schedule": [0]})).await;
    let poison = producer.publish("poison", json!({})).await;
    for number in 0..10 {
        producer.publish("user.created", json!({ "n": number })).await;
    }
    let start =
        || Process::start(&bed, "deliverer", &[("FAILPOINTS", "deliverer.before_send:poison=return")]);
    let mut deliverer = start();
    let mut deaths = 0;
    let dead = eventually("a dead letter", async || {
        if deliverer.has_died() {
            deaths += 1;
            deliverer = start();
        }
        producer
            .deliveries(&text(&poison["event_id"]))
            .await
            .into_iter()
            .find(|d| d["status"] == "dead_letter")
    })
    .await;
    assert_eq!(deaths, 4);
    bed.all_succeeded(10).await;
    let outcomes: Vec<_> = producer.attempts(&dead).await.iter().map(|a| text(&a["outcome"])).collect();
    assert_eq!(outcomes, ["unknown"; 4]);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_duplicate_id_does_not_send_a_retry_early() {
    let bed = Bed::new().await;
    let stack = Stack::start(&bed).await;
    let receiver = Receiver::start(|webhook| if webhook.attempt == 1 { 500 } else { 200 }).await;
    let producer = Producer::new(stack.api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [3]})).await;
    let accepted = producer.publish("user.created", json!({})).await;
    producer.delivery_in(&text(&accepted["event_id"]), "failed").await;

    let sql = bed.sql().await;
    let duplicate = "insert into outbox (delivery_id, endpoint_id, application_id)
                     select id, endpoint_id, application_id from deliveries";
    while receiver.count() == 1 {
        sql.batch_execute(duplicate).await.expect("a stale id");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let webhooks = receiver.wait_for(2).await;
    // Three seconds, less the jitter.
    assert!(webhooks[1].at - webhooks[0].at > Duration::from_millis(2300));
    bed.all_succeeded(1).await;
    eventually("an empty queue", async || bed.is_queue_empty().await.then_some(())).await;
    assert_eq!(receiver.count(), 2);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_a_day_off_do_not_change_schedules() {
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    // The relay's clock is a day ahead, the deliverer's a day behind.
    let (Some(ahead), Some(behind)) = (Clock::new("+1d"), Clock::new("-1d")) else {
        eprintln!("libfaketime is not installed (script/bootstrap --test installs it): nothing was tested");
        return;
    };
    let _relay = Process::start(&bed, "relay", &ahead.environment());
    let deliverer = Process::start(&bed, "deliverer", &behind.environment());
    let receiver = Receiver::start(|webhook| if webhook.attempt < 4 { 500 } else { 200 }).await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "retry_schedule": [2]})).await;
    producer.publish("user.created", json!({})).await;
    receiver.wait_for(2).await;
    // Both clocks are corrected, too far.
    ahead.set("-1d");
    behind.set("+1d");
    let webhooks = receiver.wait_for(4).await;
    for pair in webhooks.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause > Duration::from_millis(1500) && pause < Duration::from_secs(60), "{pause:?}");
    }
    // The clocks were really off: a receiver gets the deliverer's time.
    let timestamp = |webhook: &Received| webhook.header("webhook-timestamp").parse::<i64>().expect("seconds");
    assert!(
        timestamp(&webhooks[3]) - timestamp(&webhooks[0]) > 170_000,
        "the deliverer's clock has stepped two days"
    );
    for (offset, how) in [("+1d", "ahead of"), ("-1d", "behind")] {
        behind.set(offset);
        let reason = format!("this machine's clock is 86400 s {how} PostgreSQL's");
        eventually("the deliverer to say that its clock is wrong", async || {
            let (status, answer) = deliverer.health("ready").await?;
            (status == 503 && answer["parts"]["deliverer_clock"]["reason"] == reason.as_str()).then_some(())
        })
        .await;
    }
    behind.set("+0");
    deliverer.ready().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_deliverer_finishes_what_is_in_flight_and_gives_back_the_rest() {
    let bed = Bed::new().await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    api.ready().await;
    relay.ready().await;
    let receiver = Receiver::start(|_| Reply { delay: Duration::from_millis(300), ..Reply::from(200) }).await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "concurrency_limit": 50, "rate_limit": null})).await;
    for number in 0..300 {
        producer.publish("user.created", json!({ "n": number })).await;
    }
    let first = Process::start(&bed, "deliverer", &[]);
    receiver.wait_for(60).await;
    assert!(first.terminate().await, "it exits 0");
    assert_eq!(bed.count("select count(*) from deliveries where status = 'in_progress'").await, 0);
    let _second = Process::start(&bed, "deliverer", &[]);
    bed.all_succeeded(300).await;
    assert_eq!(receiver.count(), 300, "nothing was sent twice");
    assert_eq!(bed.unknown_attempts().await, 0);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_stopped_before_sending_undoes_its_claim() {
    stops_without_a_trace("deliverer.after_claim", async |bed| bed.count(CLAIMS).await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_stopped_before_claiming_undoes_its_reservation() {
    stops_without_a_trace("deliverer.after_reserve", async |bed| bed.queue_holds(b":r:").await).await;
}

const CLAIMS: &str = "select count(*) from deliveries where lease_id is not null";

/// Stops a deliverer while it stalls at a failpoint, once `has_reached` is true.
async fn stops_without_a_trace(failpoint: &str, has_reached: impl AsyncFn(&Bed) -> bool) {
    let bed = Bed::new().await;
    let (api, relay) = (Process::start(&bed, "api", &[]), Process::start(&bed, "relay", &[]));
    api.ready().await;
    relay.ready().await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(api.listen).await;
    producer.endpoint(json!({"url": receiver.url("/"), "max_attempts": 1})).await;
    let stalls = format!("{failpoint}=1*sleep(2000)");
    let stalling = Process::start(&bed, "deliverer", &[("FAILPOINTS", &stalls)]);
    stalling.ready().await;
    let accepted = producer.publish("user.created", json!({})).await;
    eventually(failpoint, async || has_reached(&bed).await.then_some(())).await;
    assert!(stalling.terminate().await, "it exits 0");
    assert_eq!(receiver.count(), 0);
    let delivery = producer.deliveries(&text(&accepted["event_id"])).await.remove(0);
    assert_eq!((&delivery["status"], &delivery["attempt_count"]), (&json!("pending"), &json!(0)));
    assert_eq!(bed.count(CLAIMS).await, 0);

    let _deliverer = Process::start(&bed, "deliverer", &[]);
    bed.all_succeeded(1).await;
    let outcomes: Vec<_> = producer.attempts(&delivery).await.iter().map(|a| text(&a["outcome"])).collect();
    assert_eq!(outcomes, ["succeeded"]);
    bed.finish().await;
}
