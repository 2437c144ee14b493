//! Names that resolve to addresses where no webhook may go, or to none.

use std::net::SocketAddr;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::name_server::{NameServer, Reply};
use super::setup::{RawReceiver, Setup, read_request};

fn addresses(texts: &[&str]) -> Reply {
    Reply::Addresses(texts.iter().map(|text| text.parse().expect("an address")).collect())
}

/// Responds and closes the connection, so that every attempt has to resolve the name.
async fn answer_once(mut stream: TcpStream, status: u16) {
    read_request(&mut stream).await;
    let answer = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// An installation that uses this name server. 127.0.0.1 is allowed, and no other private address.
async fn setup_with_name_server(name_server: &NameServer) -> Setup {
    Setup::with(&[("POSTRIDER_DNS_SERVERS", &name_server.address.to_string())]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_only_a_refused_address_fails_with_that_reason_and_is_retried() {
    const NAMES: [(&str, &str); 7] = [
        ("private.example.com", "10.0.0.1"),
        ("loopback.example.com", "127.0.0.2"),
        ("metadata.example.com", "169.254.169.254"),
        ("any.example.com", "0.0.0.0"),
        ("loopback6.example.com", "::1"),
        ("mapped.example.com", "::ffff:10.0.0.1"),
        ("nat64.example.com", "64:ff9b::7f00:2"),
    ];
    let address_of = |name: &str| NAMES.iter().find(|(known, _)| *known == name).map(|(_, address)| *address);
    let name_server = NameServer::start(move |name, _| match address_of(name) {
        Some(address) => addresses(&[address]),
        None => Reply::Unknown,
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    let settings = json!({"max_attempts": 3});
    // Nothing listens on that port, in case the guard fails here.
    let urls = NAMES.map(|(name, _)| format!("http://{name}:9/"));
    let outcomes = join_all(urls.iter().map(|url| setup.deliver(url, settings.clone()))).await;
    for (outcome, (name, _)) in outcomes.iter().zip(NAMES) {
        assert_eq!(outcome.attempts.len(), 3, "{name}: it is retried as a failure of the network");
        for attempt in &outcome.attempts {
            assert_eq!(attempt["error_class"], "refused_address", "{name}: {attempt}");
            // The address itself would tell a tenant about the network.
            assert_eq!(attempt["error_message"], "the target is not allowed: *** is not a public address");
            assert!(attempt["response_status"].is_null());
        }
        assert_eq!(outcome.delivery["status"], "dead_letter");
        let shown = outcome.delivery.to_string();
        assert!(NAMES.iter().all(|(_, address)| !shown.contains(&format!("{address} "))), "{shown}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_addresses_of_a_name_are_dialled() {
    let name_server =
        NameServer::start(|_, _| addresses(&["127.0.0.2", "192.0.2.1", "127.0.0.1", "::1"])).await;
    let setup = setup_with_name_server(&name_server).await;
    let passing = RawReceiver::start(|stream| answer_once(stream, 200)).await;
    let refused_at = SocketAddr::new("127.0.0.2".parse().expect("an address"), passing.address.port());
    let refused = RawReceiver::at(refused_at, |stream| answer_once(stream, 200)).await;
    for _ in 0..5 {
        setup.deliver_to(&format!("http://mixed.example.com:{}/", passing.address.port())).await.succeeded();
    }
    assert_eq!((passing.connections(), refused.connections()), (5, 0));
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_rebound_at_the_second_lookup_is_not_reached() {
    let name_server = NameServer::start(|_, look| match look {
        0 => addresses(&["127.0.0.1"]),
        _ => addresses(&["127.0.0.2"]),
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    let first = RawReceiver::start(|stream| answer_once(stream, 503)).await;
    let rebound_to = SocketAddr::new("127.0.0.2".parse().expect("an address"), first.address.port());
    let second = RawReceiver::at(rebound_to, |stream| answer_once(stream, 200)).await;
    let url = format!("http://rebinding.example.com:{}/", first.address.port());
    let outcome = setup.deliver(&url, json!({"max_attempts": 2})).await;
    let told: Vec<_> = outcome.attempts.iter().map(|a| (&a["error_class"], &a["response_status"])).collect();
    assert_eq!(told, [(&json!("http"), &json!(503)), (&json!("refused_address"), &Value::Null)]);
    assert_eq!((first.connections(), second.connections()), (1, 0));
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_at_every_lookup_is_dialled_only_at_allowed_addresses() {
    let name_server = NameServer::start(|_, look| match look % 2 {
        0 => addresses(&["127.0.0.1"]),
        _ => addresses(&["127.0.0.2"]),
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    let passing = RawReceiver::start(|stream| answer_once(stream, 500)).await;
    let refused_at = SocketAddr::new("127.0.0.2".parse().expect("an address"), passing.address.port());
    let refused = RawReceiver::at(refused_at, |stream| answer_once(stream, 500)).await;
    let url = format!("http://flapping.example.com:{}/", passing.address.port());
    let outcome = setup.deliver(&url, json!({"max_attempts": 4})).await;
    let classes: Vec<_> =
        outcome.attempts.iter().map(|a| a["error_class"].as_str().expect("a class")).collect();
    // The address that was checked is the one that is dialled. A second lookup in between would swap them.
    assert_eq!(classes, ["http", "refused_address"].repeat(2));
    assert_eq!((passing.connections(), refused.connections()), (2, 0));
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_a_refused_address_cannot_be_created() {
    let setup = Setup::new().await;
    let path = format!("/v1/applications/{}/endpoints", setup.producer.application_id);
    for host in ["10.0.0.1", "2130706434", "0x7f.2", "[::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a00:1]"]
    {
        let request = setup.producer.request(Method::POST, &path);
        let response =
            request.json(&json!({"url": format!("http://{host}/")})).send().await.expect("a response");
        assert_eq!(response.status(), 422, "{host}");
        let problem: Value = response.json().await.expect("a problem");
        assert_eq!(
            (&problem["code"], &problem["errors"][0]["field"]),
            (&json!("refused_address"), &json!("url"))
        );
    }
    setup.finish().await;
}
