//! Names with several addresses, some of them dead, and name servers that fail.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hickory_proto::op::ResponseCode;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::name_server::{NameServer, Reply};
use super::setup::{RawReceiver, Setup, Unanswered, read_request};

/// An installation that may send to all of the loopback network.
async fn setup_with_name_server(name_server: &NameServer) -> Setup {
    Setup::with(&[
        ("POSTRIDER_DNS_SERVERS", &name_server.address.to_string()),
        ("POSTRIDER_ALLOW_NETWORKS", "127.0.0.0/8"),
    ])
    .await
}

async fn accept(mut stream: TcpStream) {
    read_request(&mut stream).await;
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_address_costs_only_a_moment_if_another_is_alive() {
    let name_server = NameServer::start(|name, _| match name {
        "two.example.test" => Reply::Addresses(vec![loopback(11), loopback(20)]),
        "five.example.test" => Reply::Addresses([11, 12, 13, 14, 20].map(loopback).to_vec()),
        "refusing.example.test" => Reply::Addresses([15, 16, 17, 20].map(loopback).to_vec()),
        _ => Reply::Addresses([11, 12].map(loopback).to_vec()),
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    let alive = RawReceiver::at(SocketAddr::new(loopback(20), 0), accept).await;
    let port = alive.address.port();
    let mut dead = Vec::new();
    for last in 11..=14 {
        dead.push(Unanswered::at(SocketAddr::new(loopback(last), port)).await);
    }
    for name in ["two", "five", "refusing"] {
        let url = format!("http://{name}.example.test:{port}/");
        let outcome = setup.deliver(&url, json!({"timeout_seconds": 30})).await;
        assert_eq!(outcome.delivery["status"], "succeeded", "{name}: {:?}", outcome.attempts);
    }
    assert_eq!(alive.connections(), 3);
    let outcome = setup.deliver_to(&format!("http://none.example.test:{port}/")).await;
    let message = outcome.failed("connect", None)["error_message"].clone();
    assert_eq!(message, "no connection could be made within 4 s");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_many_dead_addresses_is_a_connect_failure() {
    let name_server = NameServer::start(|_, _| {
        Reply::Addresses((0..60).map(|n| Ipv4Addr::new(127, 0, 1, n).into()).collect())
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    let address = crate::support::service::free_port();
    let outcome = setup.deliver_to(&format!("http://many.example.test:{}/", address.port())).await;
    let message = outcome.failed("connect", None)["error_message"].clone();
    assert!(message.as_str().is_some_and(|message| message.contains("Connection refused")), "{message}");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_drops_ipv6_queries_delays_nothing() {
    let name_server = NameServer::start(|name, _| match name {
        "silent.example.test" => Reply::Silence,
        _ => Reply::WithoutIpv6(vec![loopback(1)]),
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    let receiver = RawReceiver::start(accept).await;
    let url = format!("http://v4.example.test:{}/", receiver.address.port());
    // Too short if IPv6 were waited for: a name server is asked three times, two seconds apart.
    let outcome = setup.deliver(&url, json!({"timeout_seconds": 5})).await;
    assert_eq!(outcome.delivery["status"], "succeeded", "{:?}", outcome.attempts);

    let outcome = setup.deliver_to("http://silent.example.test/").await;
    let message = outcome.failed("dns", None)["error_message"].clone();
    assert_eq!(message, "the name cannot be resolved: the name servers did not answer within 4 s");
    let outcome = setup.deliver("http://silent.example.test/", json!({"timeout_seconds": 30})).await;
    let message = outcome.failed("dns", None)["error_message"].clone();
    assert_eq!(message, "the name cannot be resolved: the name servers do not answer");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_fails_for_ipv6_does_not_matter_if_there_is_ipv4() {
    let name_server = NameServer::start(|name, _| {
        let code = match name {
            "nxdomain.example.test" => ResponseCode::NXDomain,
            "servfail.example.test" => ResponseCode::ServFail,
            "refused.example.test" => ResponseCode::Refused,
            _ => ResponseCode::NotImp,
        };
        Reply::FailingForIpv6(code, vec![loopback(1)])
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    let receiver = RawReceiver::start(accept).await;
    for name in ["nxdomain", "servfail", "refused", "notimp"] {
        let url = format!("http://{name}.example.test:{}/", receiver.address.port());
        let outcome = setup.deliver_to(&url).await;
        assert_eq!(outcome.delivery["status"], "succeeded", "{name}: {:?}", outcome.attempts);
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_name_server_is_skipped_if_another_is_alive() {
    let silent = NameServer::start(|_, _| Reply::Silence).await;
    let alive = NameServer::start(|_, _| Reply::Addresses(vec![loopback(1)])).await;
    let servers = format!("{},{}", silent.address, alive.address);
    let setup = Setup::with(&[("POSTRIDER_DNS_SERVERS", &servers)]).await;
    let receiver = RawReceiver::start(accept).await;
    for number in 0..3 {
        let url = format!("http://number-{number}.example.test:{}/", receiver.address.port());
        let outcome = setup.deliver(&url, json!({"timeout_seconds": 30})).await;
        assert_eq!(outcome.delivery["status"], "succeeded", "{:?}", outcome.attempts);
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_used_and_replaced_by_ipv4_if_it_is_dead() {
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else {
        eprintln!("this machine has no IPv6");
        return;
    };
    let v6 = probe.local_addr().expect("an address");
    drop(probe);
    let name_server =
        NameServer::start(|_, _| Reply::Addresses(vec![loopback(1), "::1".parse().expect("an address")]))
            .await;
    let setup = Setup::with(&[
        ("POSTRIDER_DNS_SERVERS", &name_server.address.to_string()),
        ("POSTRIDER_ALLOW_NETWORKS", "127.0.0.1/32,::1/128"),
    ])
    .await;
    let v4 = RawReceiver::at(SocketAddr::new(loopback(1), v6.port()), accept).await;
    let url = format!("http://both.example.test:{}/", v6.port());
    setup.deliver_to(&url).await.succeeded();
    assert_eq!(v4.connections(), 1, "nobody was there on IPv6");

    let v6 = RawReceiver::at(v6, accept).await;
    setup.deliver_to(&url).await.succeeded();
    setup.deliver_to(&v6.url()).await.succeeded();
    assert_eq!((v4.connections(), v6.connections()), (1, 2));
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolution_failure_says_why() {
    let name_server = NameServer::start(|name, _| match name {
        "empty.example.test" => Reply::Addresses(Vec::new()),
        "failing.example.test" => Reply::Failure(ResponseCode::ServFail),
        "refusing.example.test" => Reply::Failure(ResponseCode::Refused),
        _ => Reply::Unknown,
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    for (name, reason) in [
        ("unknown", "the name does not exist"),
        ("empty", "the name has no address"),
        ("failing", "the name server answered SERVFAIL"),
        ("refusing", "the name server answered REFUSED"),
    ] {
        let outcome = setup.deliver_to(&format!("http://{name}.example.test/")).await;
        let message = outcome.failed("dns", None)["error_message"].clone();
        assert_eq!(message, format!("the name cannot be resolved: {reason}"), "{name}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_host_names_are_resolved() {
    let name_server = NameServer::start(|name, _| match name {
        "alias.example.test" => Reply::Alias(
            ["one.example.test", "two.example.test", "three.example.test"].to_vec(),
            vec![loopback(1)],
        ),
        _ => Reply::Addresses(vec![loopback(1)]),
    })
    .await;
    let setup = setup_with_name_server(&name_server).await;
    let receiver = RawReceiver::start(accept).await;
    for host in [
        "my_service.example.test",
        "_service.example.test",
        "service_.example.test",
        "service-.example.test",
        "-service.example.test",
        "a--b.example.test",
        "xn--bcher-kva.example.test",
        "bücher.example.test",
        "absolute.example.test.",
        "UPPER.Example.test",
        "123.example.test",
        "alias.example.test",
    ] {
        let url = format!("http://{host}:{}/", receiver.address.port());
        let outcome = setup.deliver_to(&url).await;
        assert_eq!(outcome.delivery["status"], "succeeded", "{host}: {:?}", outcome.attempts);
    }
    setup.finish().await;
}
