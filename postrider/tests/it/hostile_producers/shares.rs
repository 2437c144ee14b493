//! One application holds as much as it can, and another still gets its share.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::setup::{Setup, another};
use crate::support::eventually;

/// Much longer than anything takes here, and shorter than the wait that would follow if it did not work.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_refused_before_its_body_is_read() {
    let setup = Setup::new().await;
    let known = setup.producer.key.clone().expect("a key");
    let unknown = format!("{}AAAA", &known[..known.len() - 4]);
    for path in ["/v1/events", "/v1/events/batch"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\ncontent-type: application/json\r\n\
             authorization: Bearer {unknown}\r\ncontent-length: 4194304\r\n\r\n"
        );
        let mut stream = TcpStream::connect(setup.services.api).await.expect("a connection");
        // The body never arrives.
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = [0; 12];
        timeout(LONG, stream.read_exact(&mut answer)).await.expect("a response").expect("read");
        assert_eq!(&answer, b"HTTP/1.1 401", "{path}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_arrive_do_not_keep_other_applications_out() {
    let setup = Setup::new().await;
    let victim = another(&setup.admin).await;
    let key = setup.producer.key.clone().expect("a key");
    // More than fits: bodies that never arrive, and requests that need work.
    let mut held = Vec::new();
    for number in 0..100 {
        let (method, path) = [("POST", "/v1/events/batch"), ("POST", "/v1/replays")][number % 2];
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
             authorization: Bearer {key}\r\ncontent-length: 4194304\r\n\r\n"
        );
        let mut stream = TcpStream::connect(setup.services.api).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.expect("sent");
        held.push(stream);
    }
    for number in 0..5 {
        victim.publish("user.created", json!({ "n": number })).await;
        timeout(LONG, victim.get("/v1/events?limit=10")).await.expect("a page");
    }
    drop(held);
    setup.services.stop().await;
    setup.bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reads_do_not_keep_other_applications_out() {
    let setup = Setup::new().await;
    let victim = another(&setup.admin).await;
    // Slow reads wait for a lock here, so that their number does not depend on the speed of the machine.
    let mut sql = setup.bed.sql().await;
    let locked = sql.transaction().await.expect("a transaction");
    locked.batch_execute("lock table audit_log in access exclusive mode").await.expect("locked");
    let reading: Vec<_> = (0..64)
        .map(|_| {
            let producer = setup.producer.clone();
            AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    let answer = producer.call(Method::GET, "/v1/audit-log", None).await;
                    assert_eq!(answer.0, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.1);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }))
        })
        .collect();
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%audit%'";
    eventually("reads that wait", async || (setup.bed.count(waiting).await > 0).then_some(())).await;
    for number in 0..5 {
        timeout(LONG, victim.publish("user.created", json!({ "n": number }))).await.expect("an event");
        timeout(LONG, victim.get("/v1/events?limit=10")).await.expect("a page");
        timeout(LONG, setup.producer.publish("user.created", json!({ "n": number })))
            .await
            .expect("an event");
    }
    eventually("reads that still wait", async || (setup.bed.count(waiting).await > 0).then_some(())).await;
    drop(reading);
    locked.rollback().await.expect("unlocked");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_a_million_schema_violations_is_refused_and_affects_no_other() {
    let setup = Setup::new().await;
    let names: Vec<_> = (0..6_500).map(|number| format!("n{number}")).collect();
    let schema = json!({"properties": {"list": {"items": {"required": names}}}});
    setup.producer.post("/v1/event-types", &json!({"name": "a", "json_schema": schema})).await;
    let body = format!(r#"{{"event_type":"a","data":{{"list":[{}{{}}]}}}}"#, "{},".repeat(1_000));
    let answers = join_all((0..4).map(|_| setup.event().body(body.clone()).send())).await;
    for answer in answers {
        let problem = super::setup::problem_in(answer.expect("a response"), "too many violations").await;
        assert_eq!(problem["code"], "schema_violation");
        assert_eq!(problem["errors"][0]["field"], "data.list[0]");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_too_expensive_a_pattern_is_refused_and_affects_no_other() {
    let setup = Setup::new().await;
    let pattern = format!("(?:{})+[b-z]", "a?".repeat(2_000));
    let schema = json!({"properties": {"x": {"anyOf": [{"pattern": pattern}, {}]}}});
    setup.producer.post("/v1/event-types", &json!({"name": "a", "json_schema": schema})).await;
    let event = |length: usize| {
        let body = json!({"event_type": "a", "data": {"x": "a".repeat(length)}}).to_string();
        async { setup.event().body(body).send().await.expect("a response") }
    };
    for response in join_all((0..8).map(|_| event(48_000))).await {
        let problem = super::setup::problem_in(response, "a costly pattern").await;
        assert_eq!(problem["code"], "schema_too_costly");
    }
    assert_eq!(event(100).await.status(), 202);
    setup.finish().await;
}
