//! No endpoint and no tenant affects another. The tests run real processes and look at the order in which webhooks
//! arrive.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::support::producer::{Producer, text};
use crate::support::receiver::{Receiver, Reply};
use crate::support::service::Process;
use crate::support::{Bed, eventually, within};

/// Starts one API, two relays and two deliverers.
async fn start(bed: &Bed) -> (Producer, Vec<Process>) {
    let api = Process::start(bed, "api", &[]);
    let mut processes: Vec<_> =
        ["relay", "relay", "deliverer", "deliverer"].map(|role| Process::start(bed, role, &[])).into();
    api.ready().await;
    for process in &processes {
        process.ready().await;
    }
    let producer = Producer::new(api.listen).await;
    processes.push(api);
    (producer, processes)
}

/// Posts `count` events of a type, in the largest batches that the API accepts.
async fn publish(producer: &Producer, event_type: &str, count: usize) {
    for first in (0..count).step_by(1_000) {
        let events: Vec<_> = (first..count.min(first + 1_000))
            .map(|n| {
                json!({"idempotency_key": format!("{event_type}-{n}"), "event_type": event_type, "data": {"n": n}})
            })
            .collect();
        let answer = producer.post("/v1/events/batch", &json!({"events": events})).await;
        let results = answer["results"].as_array().expect("results");
        assert!(results.iter().all(|result| result["status"] == "accepted"), "{answer}");
    }
}

/// Starts a server that accepts connections and sends one byte of a response body every second.
async fn dripping() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut rest: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
                while stream.write_all(rest).await.is_ok() {
                    rest = b"x";
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_endpoints_are_served_before_the_first_hanging_one_times_out() {
    const OF_EACH: usize = 8;
    const HEALTHY: usize = 48;
    const EVENTS: usize = 25;
    let bed = Bed::new().await;
    let (producer, processes) = start(&bed).await;
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/hangs" => Reply { delay: Duration::from_secs(600), ..204.into() },
        "/slower" => Reply { headers: vec![("retry-after", "60".to_owned())], ..429.into() },
        _ => 204.into(),
    })
    .await;
    let (drips, refuses) = (dripping().await, format!("http://{}/", crate::support::service::free_port()));
    let endpoint = async |url: &str| {
        producer.endpoint(json!({"url": url, "timeout_seconds": 60, "retry_schedule": [60]})).await;
    };
    for _ in 0..OF_EACH {
        for url in [&receiver.url("/hangs"), &receiver.url("/slower"), &drips, &refuses] {
            endpoint(url).await;
        }
    }
    for number in 0..HEALTHY {
        endpoint(&receiver.url(&format!("/healthy/{number}"))).await;
    }

    publish(&producer, "user.created", EVENTS).await;
    eventually("everything healthy", async || {
        let arrived =
            receiver.received().iter().filter(|webhook| webhook.path.starts_with("/healthy")).count();
        (arrived == HEALTHY * EVENTS).then_some(())
    })
    .await;
    let timed_out = "select count(*) from delivery_attempts where error_class = 'timeout'";
    assert_eq!(bed.count(timed_out).await, 0, "healthy endpoints did not wait for those that hang");
    let of_each = |path: &str| receiver.received().iter().filter(|webhook| webhook.path == path).count();
    assert!(of_each("/hangs") >= OF_EACH && of_each("/slower") >= OF_EACH, "all were tried");
    let refused = "select count(distinct endpoint_id) from deliveries
                   where last_error is not null and attempt_count > 0 and last_response_status is null";
    assert!(bed.count(refused).await >= OF_EACH as i64, "all were tried");
    drop(processes);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_tenant_is_served_before_one_percent_of_a_large_tenants_backlog() {
    const BACKLOG: usize = 20_000;
    let bed = Bed::new().await;
    let (large, processes) = start(&bed).await;
    let receiver = Receiver::start(|webhook| Reply {
        delay: Duration::from_millis(if webhook.path == "/large" { 20 } else { 0 }),
        ..204.into()
    })
    .await;
    let small = Producer::new(large.api).await;
    large.endpoint(json!({"url": receiver.url("/large"), "rate_limit": null, "concurrency_limit": 10})).await;
    small.endpoint(json!({"url": receiver.url("/small")})).await;

    publish(&large, "import.row", BACKLOG).await;
    for round in 1..=5 {
        let answer = small.publish("user.created", json!({"round": round})).await;
        let id = text(&answer["event_id"]);
        let before = receiver.count();
        let position = eventually("the small one's webhook", async || {
            receiver.received().iter().position(|webhook| webhook.id() == id)
        })
        .await;
        let left = bed.count("select count(*) from deliveries where completed_at is null").await;
        assert!(left > BACKLOG as i64 / 4, "almost nothing is left of the backlog: {left}");
        assert!(
            position < before + BACKLOG / 100,
            "{} webhooks of the large tenant came before it",
            position.saturating_sub(before)
        );
    }
    drop(processes);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds_over_any_ten_seconds_while_deliverers_come_and_go() {
    const LIMIT: usize = 60;
    const WINDOW: Duration = Duration::from_secs(10);
    let bed = Bed::new().await;
    let (producer, mut processes) = start(&bed).await;
    let receiver = Receiver::accepting().await;
    producer.endpoint(json!({"url": receiver.url("/"), "rate_limit": LIMIT})).await;
    publish(&producer, "user.created", 3_000).await;

    receiver.wait_for(LIMIT * 4).await;
    // A deliverer and a relay vanish, and new ones start.
    for (index, role) in [(3, "deliverer"), (1, "relay")] {
        processes[index].kill();
        processes[index] = Process::start(&bed, role, &[]);
    }
    let webhooks = eventually("sixteen seconds' worth", async || {
        (receiver.count() >= LIMIT * 16).then(|| receiver.received())
    })
    .await;
    let times: Vec<_> = webhooks.iter().map(|webhook| webhook.at).collect();
    let fullest = (0..times.len())
        .map(|first| times[first..].partition_point(|at| *at < times[first] + WINDOW))
        .max()
        .expect("webhooks");
    let most = LIMIT * 10 * 105 / 100;
    assert!(fullest <= most, "{fullest} in ten seconds; {most} are allowed");
    let unattempted = "select count(*) from deliveries where attempt_count > 0 and status = 'pending'";
    assert_eq!(bed.count(unattempted).await, 0, "waiting for the limit uses no attempt");
    drop(processes);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_deliveries_join_an_existing_backlog_without_passing_through_the_relay() {
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let producer = Producer::new(api.listen).await;
    let receiver = Receiver::accepting().await;
    producer.endpoint(json!({"url": receiver.url("/behind"), "event_types": ["behind"]})).await;
    producer.endpoint(json!({"url": receiver.url("/free"), "event_types": ["free", "behind"]})).await;
    let first = producer.publish("behind", json!({"n": 0})).await;
    let park = "update outbox o set parked = true
                from deliveries d join endpoints e on e.id = d.endpoint_id
                where d.id = o.delivery_id and e.url like '%/behind'";
    assert_eq!(bed.sql().await.execute(park, &[]).await.expect("parked"), 1);

    producer.publish("behind", json!({"n": 1})).await;
    producer.publish("free", json!({"n": 2})).await;
    let parked = "select count(*) from outbox where parked";
    assert_eq!((bed.count(parked).await, bed.count("select count(*) from outbox").await), (2, 5));
    let processes = ["relay", "deliverer"].map(|role| Process::start(&bed, role, &[]));
    let webhooks = receiver.wait_for(5).await;
    let behind: Vec<_> = webhooks.iter().filter(|webhook| webhook.path == "/behind").collect();
    assert_eq!(behind[0].id(), text(&first["event_id"]), "the oldest first");
    assert_eq!(behind.len(), 2);
    drop((processes, api));
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_a_slow_receiver_leaves_exchanges_for_others() {
    /// One tenant may hold 64 of the 72 exchanges.
    const MOST: usize = 64;
    const FAST: usize = 110;
    let bed = Bed::new().await;
    let (large, mut processes) = start(&bed).await;
    processes.drain(1..4);
    processes.push(Process::start(&bed, "deliverer", &[("POSTRIDER_DELIVERER_CONCURRENCY", "72")]));
    // Each endpoint earns concurrency by quick successes. After that, every webhook is held.
    let served = std::sync::atomic::AtomicUsize::new(0);
    let receiver = Receiver::start(move |webhook| match webhook.path.as_str() {
        "/small" => 204.into(),
        _ if served.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 * FAST => 204.into(),
        _ => Reply { delay: Duration::from_secs(600), ..204.into() },
    })
    .await;
    let small = Producer::new(large.api).await;
    for path in ["/one", "/two"] {
        let url = receiver.url(path);
        let settings =
            json!({"url": url, "rate_limit": null, "concurrency_limit": 1000, "timeout_seconds": 60});
        large.endpoint(settings).await;
    }
    small.endpoint(json!({"url": receiver.url("/small")})).await;

    publish(&large, "import.row", 500).await;
    let of_large = || receiver.received().iter().filter(|webhook| webhook.path != "/small").count();
    within(Duration::from_secs(45), "as many held as allowed", async || {
        (of_large() >= 2 * FAST + MOST).then_some(())
    })
    .await;
    publish(&small, "user.created", 40).await;
    within(Duration::from_secs(45), "the small one's webhooks", async || {
        (receiver.count() - of_large() == 40).then_some(())
    })
    .await;
    assert_eq!(of_large(), 2 * FAST + MOST, "it holds as many as allowed, and no more");
    drop(processes);
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_large_events_leaves_memory_for_others() {
    /// One tenant may hold eight ninths of 4 MiB: 14 bodies of 250 kB.
    const BODIES: (&str, &str) = ("POSTRIDER_DELIVERER_BODY_BYTES", "4194304");
    const LARGE: usize = 250_000;
    const MOST: usize = 14;
    let bed = Bed::new().await;
    let (large, mut processes) = start(&bed).await;
    processes.drain(1..4);
    processes.push(Process::start(&bed, "deliverer", &[BODIES]));
    let receiver = Receiver::start(|webhook| match webhook.path.as_str() {
        "/small" => 204.into(),
        _ if webhook.body.len() < LARGE => 204.into(),
        _ => Reply { delay: Duration::from_secs(600), ..204.into() },
    })
    .await;
    let small = Producer::new(large.api).await;
    let settings = json!({
        "url": receiver.url("/large"), "rate_limit": null, "concurrency_limit": 1000, "timeout_seconds": 60,
    });
    large.endpoint(settings).await;
    small.endpoint(json!({"url": receiver.url("/small")})).await;
    // The endpoint earns concurrency by quick successes.
    publish(&large, "import.row", 200).await;
    receiver.wait_for(200).await;

    for n in 0..40 {
        large.publish("import.file", json!({"n": n, "content": "x".repeat(LARGE)})).await;
    }
    let held = || receiver.received().iter().filter(|webhook| webhook.body.len() > LARGE).count();
    within(Duration::from_secs(45), "as many held as allowed", async || (held() >= MOST - 1).then_some(()))
        .await;
    publish(&small, "user.created", 40).await;
    within(Duration::from_secs(45), "the small one's webhooks", async || {
        (receiver.count() - 200 - held() == 40).then_some(())
    })
    .await;
    assert!(held() <= MOST + 1, "{} bodies are held", held());
    drop(processes);
    bed.finish().await;
}

/// Returns the value of a counter of a process.
async fn counted(process: &Process, name: &str) -> f64 {
    let url = format!("http://{}/metrics", process.listen);
    let metrics = reqwest::get(url).await.expect("a response").text().await.expect("metrics");
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split(' ').next_back().and_then(|value| value.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_waits_behind_everything_another_has_in_the_relays_line() {
    const ENDPOINTS: usize = 200;
    const EVENTS: usize = 20;
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let (large, small) = (Producer::new(api.listen).await, Producer::new(api.listen).await);
    let receiver = Receiver::accepting().await;
    for n in 0..ENDPOINTS {
        large.endpoint(json!({"url": receiver.url(&format!("/large/{n}"))})).await;
    }
    small.endpoint(json!({"url": receiver.url("/small")})).await;
    // The very first relay gives Redis its epoch, and would put everything open back into the outbox.
    let first = Process::start(&bed, "relay", &[]);
    within(Duration::from_secs(45), "an epoch", async || {
        let begun = "select count(*) from queue_epoch where epoch > 0 and reconcile_cursor is null";
        (bed.count(begun).await == 1).then_some(())
    })
    .await;
    drop(first);
    publish(&large, "import.row", EVENTS).await;
    publish(&small, "user.created", 1).await;

    let relay = Process::start(&bed, "relay", &[]);
    within(Duration::from_secs(45), "the end of the line", async || {
        (bed.count("select count(*) from outbox where not parked").await == 0).then_some(())
    })
    .await;
    let taken = counted(&relay, "postrider_relay_taken_total").await;
    assert!(
        taken <= 256.0 + 512.0 + 1.0,
        "{taken} of {} rows passed through the relay's line",
        ENDPOINTS * EVENTS + 1
    );
    let deliverer = Process::start(&bed, "deliverer", &[]);
    bed.all_succeeded((ENDPOINTS * EVENTS + 1) as i64).await;
    drop((relay, deliverer, api));
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_very_many_deliveries_holds_up_no_other() {
    const MOST_IN_LINE: usize = 200;
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let producer = Producer::new(api.listen).await;
    let receiver = Receiver::accepting().await;
    for n in 0..=MOST_IN_LINE {
        let types = if n == 0 { json!(["large"]) } else { json!(["large", "small"]) };
        producer.endpoint(json!({"url": receiver.url(&format!("/{n}")), "event_types": types})).await;
    }
    let queued = async |parked: &str| bed.count(&format!("select count(*) from outbox where {parked}")).await;
    producer.publish("small", json!({})).await;
    assert_eq!((queued("not parked").await, queued("parked").await), (200, 0));
    let event = producer.publish("large", json!({})).await;
    assert_eq!((queued("not parked").await, queued("parked").await), (200, 201));
    producer.post(&format!("/v1/events/{}/replay", text(&event["event_id"])), &json!({})).await;
    assert_eq!((queued("not parked").await, queued("parked and not bulk").await), (200, 402));

    let services = ["relay", "deliverer"].map(|role| Process::start(&bed, role, &[]));
    bed.all_succeeded(602).await;
    drop((services, api));
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backlogs_of_disabled_endpoints_hold_up_no_others() {
    let bed = Bed::new().await;
    let api = Process::start(&bed, "api", &[]);
    api.ready().await;
    let (producer, crowd) = (Producer::new(api.listen).await, Producer::new(api.listen).await);
    let receiver = Receiver::accepting().await;
    producer.endpoint(json!({"url": receiver.url("/"), "event_types": ["user.created"]})).await;
    crowd.endpoint(json!({"url": receiver.url("/"), "is_active": false})).await;
    producer.publish("user.created", json!({})).await;
    // Thousands of endpoints of dozens of tenants are disabled, and something waits for each of them.
    let fill = "
        update outbox set parked = true;
        create temporary table disabled as
            select gen_random_uuid() as id, ('00000000-0000-4000-8000-' || lpad((n % 50)::text, 12, '0'))::uuid as tenant
            from generate_series(1, 25000) n;
        insert into applications (id, name) select distinct tenant, 'crowd' from disabled;
        create temporary table made as select e.* from endpoints e where not e.is_active limit 1;
        update made set created_at = now();";
    let sql = bed.sql().await;
    sql.batch_execute(fill).await.expect("tenants");
    let columns: String = sql
        .query_one(
            "select string_agg(format('%I', column_name), ', ') from information_schema.columns
             where table_name = 'endpoints' and column_name not in ('id', 'application_id')
               and is_generated = 'NEVER'",
            &[],
        )
        .await
        .expect("columns")
        .get(0);
    let endpoints = format!(
        "insert into endpoints (id, application_id, {columns}) select d.id, d.tenant, {columns} from disabled d, made;
         insert into outbox (delivery_id, endpoint_id, application_id, parked)
             select gen_random_uuid(), id, tenant, true from disabled;"
    );
    sql.batch_execute(&endpoints).await.expect("their backlogs");

    let processes = ["relay", "deliverer"].map(|role| Process::start(&bed, role, &[]));
    receiver.wait_for(1).await;
    let walks = "select coalesce(sum(calls), 0)::bigint from public.pg_stat_statements
                 where query like '-- outbox.parked_endpoints%'
                   and dbid = (select oid from pg_database where datname = current_database())";
    let _ = sql.batch_execute("create extension if not exists pg_stat_statements schema public").await;
    assert!(bed.count(walks).await <= 30, "it took {} reads", bed.count(walks).await);
    drop((processes, api));
    bed.finish().await;
}
