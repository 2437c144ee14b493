//! Clients that send half of a request, or do not read the response, reach a limit of their own.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::setup::{ADMIN_TOKEN, Setup, another};
use crate::support::Bed;
use crate::support::producer::Producer;
use crate::support::service::Process;

/// Much longer than anything takes here.
const LONG: Duration = Duration::from_secs(20);
/// The number of pages of nearly 4 MiB that one application may leave unread: eight ninths of 128 MiB.
const UNREAD_PAGES: usize = 30;
/// More than that.
const CONNECTIONS: usize = 96;

/// Stores events that fill more than a page of 4 MiB.
async fn with_large_events(setup: &Setup) {
    let fill = "insert into events (id, application_id, event_type, payload, idempotency_key)
                select uuid_v7(), $1::text::uuid, 'a', jsonb_build_object('a', repeat('x', 240000)), n::text
                from generate_series(1, 20) n";
    let sql = setup.bed.sql().await;
    sql.execute(fill, &[&setup.producer.application_id]).await.expect("events");
}

/// Checks that another application is served, and that the first one is served again after it closes its connections.
async fn finish<T>(setup: Setup, unread: T) {
    let victim = another(&setup.admin).await;
    victim.publish("user.created", json!({})).await;
    victim.get("/v1/events?limit=250").await;
    drop(unread);
    setup.producer.get("/v1/events?limit=250").await;
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_are_bounded_over_http1() {
    let setup = Setup::new().await;
    with_large_events(&setup).await;
    let key = setup.producer.key.as_deref().expect("a key");
    let request =
        format!("GET /v1/events?limit=250 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n");
    let ask = async || {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a small buffer");
        let mut stream = socket.connect(setup.services.api).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut status = [0; 12];
        timeout(LONG, stream.read_exact(&mut status)).await.expect("a response").expect("read");
        (stream, String::from_utf8_lossy(&status).into_owned())
    };
    let unread = join_all((0..CONNECTIONS).map(|_| ask())).await;
    let count = |status| unread.iter().filter(|(_, found)| found.ends_with(status)).count();
    assert_eq!(count("200") + count("503"), CONNECTIONS);
    assert!((1..=UNREAD_PAGES).contains(&count("200")), "{} responses", count("200"));
    finish(setup, unread).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_are_bounded_over_http2() {
    const STREAMS: u32 = 32;
    let setup = Setup::new().await;
    with_large_events(&setup).await;
    let key = setup.producer.key.as_deref().expect("a key");
    let mut unread = Vec::new();
    let mut pages = 0;
    for _ in 0..CONNECTIONS / STREAMS as usize {
        let mut stream = without_window(setup.services.api).await;
        for number in 0..STREAMS {
            let head = get_head("/v1/events?limit=250", key);
            stream
                .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &head))
                .await
                .expect("sent");
        }
        for _ in 0..STREAMS {
            pages += usize::from(timeout(LONG, is_200(&mut stream)).await.expect("a response"));
        }
        unread.push(stream);
    }
    assert!((1..=UNREAD_PAGES).contains(&pages), "{pages} responses");
    finish(setup, unread).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_request_head_is_a_431_after_64_kib() {
    let setup = Setup::new().await;
    let beginning = "GET / HTTP/1.1\r\nhost: a\r\nx: ";
    let ask = async || {
        let mut stream = TcpStream::connect(setup.services.api).await.expect("a connection");
        let head = format!("{beginning}{}", "x".repeat(65_536 - beginning.len()));
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.expect("an end").expect("read");
        answer
    };
    for answer in join_all((0..20).map(|_| ask())).await {
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    }
    // A head that ends earlier is an ordinary request.
    let mut stream = TcpStream::connect(setup.services.api).await.expect("a connection");
    let request = format!("{beginning}{}\r\nconnection: close\r\n\r\n", "x".repeat(60_000));
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(LONG, stream.read_to_string(&mut answer)).await.expect("an end").expect("read");
    assert!(answer.starts_with("HTTP/1.1 302 "), "{answer:?}");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_request_bodies_occupy_only_a_share_of_the_connections() {
    const MANY: usize = 300;
    let bed = Bed::new().await;
    // 200 connections may be open, and requests of one application may occupy eight ninths of them.
    const SHARE: usize = 177;
    let environment = [("POSTRIDER_ADMIN_TOKEN", ADMIN_TOKEN)];
    let api = Process::start_limited(&bed, "api", 400, &environment, std::process::Stdio::null());
    api.ready().await;
    let admin = Producer { key: Some(ADMIN_TOKEN.to_owned()), ..Producer::admin(api.listen) };
    let (offender, victim) = (another(&admin).await, another(&admin).await);
    let mut idle = TcpStream::connect(api.listen).await.expect("a connection");
    assert_eq!(request_again(&mut idle, &victim).await, "200");

    let key = offender.key.expect("a key");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nidempotency-key: k\r\n\
         content-type: application/json\r\ncontent-length: 50\r\n\r\n"
    );
    let mut asking = JoinSet::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(api.listen).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.expect("sent");
        asking.spawn(async move {
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            answer
        });
    }
    // Most get a 503. Some had to make room for others before that.
    let mut refused = 0;
    for _ in 0..MANY - SHARE {
        let ended = timeout(LONG, asking.join_next()).await.expect("an end").expect("one");
        let answer = ended.expect("no panic");
        let is_refused = answer.starts_with("HTTP/1.1 503 ") && answer.contains("share_exhausted");
        assert!(is_refused || answer.is_empty(), "{answer}");
        refused += usize::from(is_refused);
    }
    assert!(refused > 0);
    assert_eq!(request_again(&mut idle, &victim).await, "200");
    for number in 0..5 {
        let fresh = Producer {
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
            ..victim.clone()
        };
        fresh.publish("user.created", json!({ "n": number })).await;
    }
    drop(asking);
    assert!(api.terminate().await);
    bed.finish().await;
}

/// Sends a request on a connection that stays open, and returns the status.
async fn request_again(stream: &mut TcpStream, producer: &Producer) -> String {
    let key = producer.key.as_deref().expect("a key");
    let request = format!("GET /v1/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    while !answer.ends_with('}') {
        let mut bytes = [0; 1_024];
        let count = timeout(LONG, stream.read(&mut bytes)).await.expect("a response").expect("read");
        assert!(count > 0, "the connection was closed after {answer:?}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

// HTTP/2 by hand (RFC 9113), because client libraries read what they are sent.

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u8 = 4;

/// Opens a connection on which the server may not send a byte of a body.
async fn without_window(api: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(api).await.expect("a connection");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    stream.write_all(&frame(SETTINGS, 0, 0, &[0, INITIAL_WINDOW_SIZE, 0, 0, 0, 0])).await.expect("sent");
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short one").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The head of a request in HPACK (RFC 7541), with indexed fields and plain literals.
fn get_head(path: &str, key: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short one")], text.as_bytes()].concat();
    const METHOD_GET: u8 = 0x82;
    const SCHEME_HTTP: u8 = 0x86;
    const AUTHORITY: u8 = 1;
    const PATH: u8 = 4;
    const AUTHORIZATION: [u8; 2] = [0x0f, 23 - 15];
    [
        &[METHOD_GET, SCHEME_HTTP, AUTHORITY][..],
        &text("a"),
        &[PATH],
        &text(path),
        &AUTHORIZATION,
        &text(&format!("Bearer {key}")),
    ]
    .concat()
}

/// Reads up to the next response head, and returns true if its status is 200.
async fn is_200(stream: &mut TcpStream) -> bool {
    const STATUS_200: u8 = 0x88;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("the head of a frame");
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut payload).await.expect("a frame");
        if head[3] == HEADERS {
            return payload.first() == Some(&STATUS_200);
        }
    }
}
