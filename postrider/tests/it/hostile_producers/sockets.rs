//! Bytes that no HTTP client would send: the API responds or closes the connection, and continues to work.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::setup::Setup;
use crate::support::Bed;
use crate::support::service::Process;

/// Sends bytes, ends the sending side, and reads until the connection is closed.
async fn talk(api: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(api).await.expect("a connection");
    // The connection may be closed before everything is sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let reading = timeout(Duration::from_secs(45), stream.read_to_end(&mut answer)).await;
    let _ = reading.unwrap_or_else(|_| panic!("it does not end: {:?}", String::from_utf8_lossy(bytes)));
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of the first response, and its problem.
fn problem(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = match body.split_once("\r\n") {
        Some((_, chunk)) if head.contains("chunked") => chunk.split("\r\n").next().unwrap_or_default(),
        _ => body,
    };
    assert!(head.contains("application/problem+json"), "{answer}");
    (
        status.expect("a status"),
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")),
    )
}

/// The head of a request to publish, with these headers.
fn head(setup: &Setup, headers: &str) -> String {
    let key = setup.producer.key.as_deref().expect("a key");
    format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         idempotency-key: k\r\ncontent-type: application/json\r\n{headers}\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_a_413_whatever_its_headers_say() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    let chunks = |bytes: usize| {
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        format!("{}0\r\n\r\n", chunk.repeat(bytes / 0x10000))
    };
    for (headers, body) in [
        // Announced with a length, and sent or not.
        ("content-length: 300000\r\n", "x".repeat(300_000)),
        ("content-length: 99999999999\r\n", String::new()),
        // Not announced: sent in chunks, incomplete, complete, or more than the API reads before it closes.
        ("transfer-encoding: chunked\r\n", chunks(327_680)),
        ("transfer-encoding: chunked\r\n", chunks(8 << 20)),
        ("transfer-encoding: chunked\r\n", chunks(64 << 20)),
    ] {
        let bytes = format!("{}{body}", head(&setup, headers));
        let answer = talk(setup.services.api, bytes.as_bytes()).await;
        if body.len() > 32 << 20 && answer.is_empty() {
            // A client that keeps sending may find the connection reset before it reads.
            continue;
        }
        let (status, problem) = problem(&answer);
        assert_eq!((status, &problem["code"]), (413, &json!("body_too_large")), "{headers}");
    }
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_body_is_a_400_and_is_not_stored() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    let event = r#"{"event_type":"a","data":{}}"#;
    for (headers, body) in [
        ("content-length: 100\r\n", event.to_owned()),
        ("transfer-encoding: chunked\r\n", format!("{:x}\r\n{event}\r\n", event.len())),
        ("transfer-encoding: chunked\r\n", format!("{:x}\r\n{event}", event.len())),
        ("transfer-encoding: chunked\r\n", format!("nonsense\r\n{event}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked\r\n", format!("fffffffffffffffff\r\n{event}\r\n0\r\n\r\n")),
    ] {
        let answer = talk(setup.services.api, format!("{}{body}", head(&setup, headers)).as_bytes()).await;
        let (status, problem) = problem(&answer);
        assert_eq!((status, &problem["code"]), (400, &json!("body_incomplete")), "{headers} {body}");
    }
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_but_valid_requests_are_answered() {
    let setup = Setup::new().await;
    let key = setup.producer.key.clone().expect("a key");
    let api = setup.services.api;
    for request in [
        format!("GET /v1/events HTTP/1.0\r\nauthorization: Bearer {key}\r\n\r\n"),
        format!("GET /v1/events HTTP/1.1\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n"),
        format!(
            "GET /v1/events HTTP/1.1\r\nhost: \r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n"
        ),
        format!(
            "GET http://example.com/v1/events HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n"
        ),
        format!(
            "GET /v1/events HTTP/1.1\r\nHoSt: a\r\nCONNECTION: close\r\nAuthorization:Bearer {key}\r\n\r\n"
        ),
    ] {
        let answer = talk(api, request.as_bytes()).await;
        let status = answer.split(' ').nth(1);
        assert_eq!(status, Some("200"), "{request}: {answer}");
    }
    // Three requests at once are answered in order.
    let requests = ["/health/live", "/unknown", "/health/live"]
        .map(|path| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
        .concat();
    let answers = talk(api, requests.as_bytes()).await;
    let statuses: Vec<_> =
        answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
    // `expect: 100-continue` gets a 100.
    let event = r#"{"event_type":"a","data":{}}"#;
    let headers = format!("expect: 100-continue\r\ncontent-length: {}\r\n", event.len());
    let answer = talk(api, format!("{}{event}", head(&setup, &headers)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 100 ") && answer.contains("HTTP/1.1 202 "), "{answer}");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_host_is_not_the_local_admin() {
    // On loopback and without an admin token, a request to a loopback host is the admin's.
    let bed = crate::support::Bed::new().await;
    let services = crate::support::service::Services::api_alone(&bed, &[]).await;
    for (host, expected) in [
        ("host: 127.0.0.1:8000\r\n", 200),
        ("host: localhost\r\n", 200),
        ("", 401),
        ("host: \r\n", 401),
        ("host: rebound.example.com\r\n", 401),
        ("host: localhost.example.com\r\n", 401),
        ("host: rebound.example.com\r\nx-forwarded-host: localhost\r\n", 401),
    ] {
        let request = format!("GET /v1/applications HTTP/1.1\r\nconnection: close\r\n{host}\r\n");
        let answer = talk(services.api, request.as_bytes()).await;
        assert_eq!(answer.split(' ').nth(1), Some(expected.to_string().as_str()), "{host:?}: {answer}");
    }
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_rejected_and_have_no_effect() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    let long = "x".repeat(1 << 20);
    let many: String = (0..1_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let event = r#"{"event_type":"a","data":{}}"#;
    let length = event.len();
    let requests: Vec<Vec<u8>> = vec![
        b"\r\n\r\n".to_vec(),
        b"GET".to_vec(),
        b"nonsense\r\n\r\n".to_vec(),
        b"GET /v1/events\r\n\r\n".to_vec(),
        b"GET /v1/events HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /v1/\0events HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"GET /v1/events HTTP/1.1\r\nhost: a\r\nx-\xff: \0\r\n\r\n".to_vec(),
        b"GET /v1/events HTTP/1.1\r\nhost: a\r\n folded: yes\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense nonsense nonsense".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec(),
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\nconnection: close\r\n\r\n".to_vec(),
        format!("GET /{long} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").into_bytes(),
        format!("GET / HTTP/1.1\r\nx: {long}\r\nconnection: close\r\n\r\n").into_bytes(),
        format!("GET / HTTP/1.1\r\n{many}connection: close\r\n\r\n").into_bytes(),
        format!("{}{event}", head(&setup, "content-length: 28\r\ncontent-length: 29\r\n")).into_bytes(),
        format!("{}{event}", head(&setup, "content-length: -28\r\n")).into_bytes(),
        format!("{}{event}", head(&setup, "transfer-encoding: gzip\r\n")).into_bytes(),
        // Request smuggling: what one server takes for the body, another may take for the next request.
        format!(
            "{}0\r\n\r\n{event}",
            head(&setup, &format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"))
        )
        .into_bytes(),
    ];
    for request in requests {
        let answer = talk(setup.services.api, &request).await;
        let what: String = String::from_utf8_lossy(&request).chars().take(100).collect();
        if let Some(status) = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)) {
            assert!(status.starts_with('4') || status.starts_with('3'), "{what:?}: {answer}");
        }
    }
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_hold_up_neither_others_nor_shutdown() {
    let setup = Setup::new().await;
    let mut silent = Vec::new();
    let beginnings = ["", "POST /v1/ev", "POST /v1/events HTTP/1.1\r\nhost: a\r\nx-header: "];
    let whole_head = head(&setup, "content-length: 100\r\n");
    for beginning in beginnings.into_iter().chain([whole_head.as_str()]).cycle().take(400) {
        let mut stream = TcpStream::connect(setup.services.api).await.expect("a connection");
        stream.write_all(beginning.as_bytes()).await.expect("sent");
        silent.push(stream);
    }
    for number in 0..20 {
        setup.producer.publish("user.created", json!({ "n": number })).await;
    }
    // The API stops after its grace period of ten seconds, although these connections are still open. It does not wait
    // for the 90 seconds that a connection may be silent. How long it takes to drop the database does not matter here.
    let stopping = timeout(Duration::from_secs(45), setup.services.stop());
    stopping.await.expect("the API stops although they are still open");
    setup.bed.finish().await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dripping_request_head_is_cut_off() {
    let setup = Setup::new().await;
    let mut stream = TcpStream::connect(setup.services.api).await.expect("a connection");
    let beginning = "GET /v1/events HTTP/1.1\r\nhost: a\r\nx-header: ";
    stream.write_all(beginning.as_bytes()).await.expect("sent");
    let (mut near, mut far) = stream.into_split();
    let dripping = async {
        while far.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        read = near.read_to_end(&mut answer) => drop(read),
        () = dripping => {}
        () = tokio::time::sleep(Duration::from_secs(90)) => panic!("it still drips"),
    }
    setup.finish().await;
}

/// Returns the number of concurrent streams that a server allows on one connection.
async fn max_streams(server: SocketAddr) -> Option<u32> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    stream.write_all(&[PREFACE, &EMPTY_SETTINGS].concat()).await.expect("sent");
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("the head of a frame");
    assert_eq!(head[3], EMPTY_SETTINGS[3], "SETTINGS come first");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut settings).await.expect("settings");
    settings.chunks_exact(6).find_map(|setting| {
        let is_bound = u16::from_be_bytes([setting[0], setting[1]]) == MAX_CONCURRENT_STREAMS;
        is_bound.then(|| u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_streams_are_bounded() {
    let setup = Setup::new().await;
    assert_eq!(max_streams(setup.services.api).await, Some(32));
    let relay = Process::start(&setup.bed, "relay", &[]);
    relay.ready().await;
    assert_eq!(max_streams(relay.listen).await, Some(32));
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_served_beside_many_silent_connections() {
    const MANY: usize = 200;
    let bed = Bed::new().await;
    let deliverer = Process::start(&bed, "deliverer", &[]);
    deliverer.ready().await;
    let mut silent = Vec::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(deliverer.listen).await.expect("a connection");
        stream.write_all(b"GET /met").await.expect("sent");
        silent.push(stream);
    }
    deliverer.ready().await;
    // They would use descriptors that the exchanges need.
    for stream in &mut silent[..MANY - 64] {
        let read = timeout(Duration::from_secs(60), stream.read_u8()).await;
        read.expect("it was closed to make room").expect_err("no byte");
    }
    drop(deliverer);
    bed.finish().await;
}
