//! A proxy that all webhooks go through.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;

use super::setup::RawReceiver;
use super::tls::{accepting, authority, bundle, server};
use crate::support::service::{Process, Services, free_port};
use crate::support::{Bed, eventually, producer::Producer, producer::text};

/// An HTTP proxy that keeps the heads of the requests to it. It connects every name to this machine.
async fn proxy(heads: Arc<Mutex<Vec<String>>>) -> RawReceiver {
    RawReceiver::start(move |mut client| {
        let heads = heads.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if client.read_buf(&mut head).await.expect("a request") == 0 {
                    return;
                }
                if head.starts_with(b"POST ") && head.ends_with(b"}") {
                    break;
                }
            }
            let head = String::from_utf8(head).expect("text");
            heads.lock().expect("a lock").push(head.clone());
            let target = head.split(' ').nth(1).expect("a target");
            if head.starts_with("POST ") {
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                let _ = client.write_all(answer).await;
            } else if let Some((_, refusal)) = REFUSALS.iter().find(|(name, _)| target.starts_with(name)) {
                let refusal = format!("HTTP/1.1 {refusal}\r\ncontent-length: 0\r\n\r\n");
                let _ = client.write_all(refusal.as_bytes()).await;
            } else {
                let port: u16 = target.rsplit(':').next().expect("a port").parse().expect("a number");
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("the receiver");
                let established = format!("HTTP/1.1 200 Connection established\r\n{}\r\n", odd_lines(target));
                client.write_all(established.as_bytes()).await.expect("written");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        }
    })
    .await
}

/// Responses of proxies about hosts that they cannot or may not reach.
const REFUSALS: [(&str, &str); 5] = [
    ("refused.", "403 Forbidden"),
    ("unreachable.", "502 Bad Gateway"),
    ("slow.", "504 Gateway Timeout"),
    ("squid.", "503 Service Unavailable\r\nx-squid-error: ERR_CONNECT_FAIL 111"),
    ("smokescreen.", "407 Request rejected by proxy\r\nx-smokescreen-error: denied"),
];

/// Unusual header lines that some proxies send in their response to `CONNECT`.
fn odd_lines(target: &str) -> String {
    match target.split('.').next() {
        Some("folded") => "x-folded: one\r\n two\r\n".to_owned(),
        Some("spaced") => "Via : 1.1 proxy\r\nProxy agent: x\r\nno colon\r\n".to_owned(),
        Some("many") => (0..200).map(|number| format!("x-{number}: v\r\n")).collect(),
        _ => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_go_through_the_egress_proxy_which_resolves_names() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let proxy = proxy(heads.clone()).await;
    let (issuer, pem) = authority("trusted");
    let bundle = bundle(&pem);
    let bed = Bed::new().await;
    let url = format!("http://user:pass%20word@{}", proxy.address);
    let services = Services::start_with(
        &bed,
        &[
            ("POSTRIDER_EGRESS_PROXY", &url),
            ("POSTRIDER_EXTRA_CA_FILE", bundle.path().to_str().expect("a path")),
        ],
    )
    .await;
    let producer = Producer::new(services.api).await;
    let receiver = accepting(server(&issuer, "secure.example.test")).await;
    let deliver = async |event_type: &str, url: String| {
        let endpoint = json!({"url": url, "event_types": [event_type], "max_attempts": 1});
        producer.endpoint(endpoint).await;
        let event_id = text(&producer.publish(event_type, json!({"n": 1})).await["event_id"]);
        crate::support::eventually("the end of a delivery", async || {
            let delivery = producer.deliveries(&event_id).await.into_iter().next()?;
            delivery["completed_at"].is_string().then_some(delivery)
        })
        .await
    };
    let authorization = "proxy-authorization: Basic dXNlcjpwYXNzIHdvcmQ=\r\n";

    let delivery = deliver("proxied.plain", "http://plain.example.test:81/a?b=c".to_owned()).await;
    assert_eq!(delivery["status"], "succeeded", "{delivery}");
    let head = heads.lock().expect("a lock").remove(0);
    assert!(head.starts_with("POST http://plain.example.test:81/a?b=c HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: plain.example.test:81\r\n") && head.contains(authorization), "{head}");

    let port = receiver.address.port();
    let delivery = deliver("proxied.secure", format!("https://secure.example.test:{port}/a")).await;
    assert_eq!(delivery["status"], "succeeded", "{delivery}");
    let head = heads.lock().expect("a lock").remove(0);
    assert!(head.starts_with(&format!("CONNECT secure.example.test:{port} HTTP/1.1\r\n")), "{head}");
    assert!(head.contains(authorization) && !head.contains("webhook-"), "{head}");

    for kind in ["folded", "spaced", "many"] {
        let receiver = accepting(server(&issuer, &format!("{kind}.example.test"))).await;
        let url = format!("https://{kind}.example.test:{}/a", receiver.address.port());
        let delivery = deliver(&format!("proxied.{kind}"), url).await;
        assert_eq!(delivery["status"], "succeeded", "{delivery}");
    }

    for (name, refusal) in REFUSALS {
        let delivery = deliver(&format!("proxied.{name}x"), format!("https://{name}example.test/")).await;
        assert_eq!(delivery["status"], "dead_letter", "{delivery}");
        let status = &refusal[..3];
        let told = delivery["last_error"].as_str().expect("an error");
        assert!(told.starts_with(&format!("the egress proxy answered {status} ")), "{told}");
    }
    services.stop().await;
    bed.finish().await;
}

/// A proxy that is closed, fails or requires other credentials is not the fault of any receiver.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_egress_proxy_uses_no_attempt() {
    /// What the proxy does, in order, and what the deliverer reports about it.
    const WAYS: [(&str, &str); 3] = [
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "answered 503"),
        ("", "failed"),
        ("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", "answered 407"),
    ];
    let (issuer, pem) = authority("trusted");
    let bundle = bundle(&pem);
    let bed = Bed::new().await;
    let mut services = Services::api_alone(&bed, &[]).await;
    services.relay(&bed, &[]);
    let address = free_port();
    let url = format!("http://{address}");
    let environment = [
        ("POSTRIDER_EGRESS_PROXY", url.as_str()),
        ("POSTRIDER_EXTRA_CA_FILE", bundle.path().to_str().expect("a path")),
    ];
    let deliverer = Process::start(&bed, "deliverer", &environment);
    deliverer.ready().await;
    let unwell = async |sign: &str| {
        eventually("the egress proxy to be reported as down", async || {
            let (status, health) = deliverer.health("ready").await?;
            let reason = health["parts"]["deliverer_egress_proxy"]["reason"].as_str().unwrap_or_default();
            (status == 503 && reason.contains(sign)).then_some(())
        })
        .await;
    };
    let producer = Producer::new(services.api).await;
    let receiver = accepting(server(&issuer, "secure.example.test")).await;
    let urls = [
        format!("https://secure.example.test:{}/", receiver.address.port()),
        "http://plain.example.test/".to_owned(),
    ];
    producer.endpoint(json!({"url": urls[0], "event_types": ["unwell.secure"], "max_attempts": 1})).await;
    producer.endpoint(json!({"url": urls[1], "event_types": ["unwell.plain"], "max_attempts": 1})).await;

    let secure = text(&producer.publish("unwell.secure", json!({})).await["event_id"]);
    unwell("cannot be reached: no connection could be made: Connection refused").await;
    let way = Arc::new(AtomicUsize::new(0));
    let plain_refusals = Arc::new(AtomicUsize::new(0));
    let _proxy = {
        let (way, plain_refusals) = (way.clone(), plain_refusals.clone());
        RawReceiver::at(address, move |mut client| {
            let (way, plain_refusals) = (way.clone(), plain_refusals.clone());
            async move {
                let mut head = vec![0; 4096];
                let read = client.read(&mut head).await.unwrap_or(0);
                let is_plain = head.starts_with(b"POST ");
                match WAYS.get(way.load(Ordering::SeqCst)) {
                    Some((answer, _)) => {
                        plain_refusals.fetch_add(usize::from(is_plain), Ordering::SeqCst);
                        let _ = client.write_all(answer.as_bytes()).await;
                    }
                    None if is_plain => {
                        let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                        let _ = client.write_all(answer).await;
                    }
                    None if read == 0 => {}
                    None => {
                        let mut server = TcpStream::connect(receiver.address).await.expect("the receiver");
                        let _ = client.write_all(b"HTTP/1.1 200 Established\r\n\r\n").await;
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                }
            }
        })
        .await
    };
    for (number, (_, sign)) in WAYS.iter().enumerate() {
        way.store(number, Ordering::SeqCst);
        unwell(sign).await;
    }
    let plain = text(&producer.publish("unwell.plain", json!({})).await["event_id"]);
    eventually("a plain request to be refused", async || {
        (plain_refusals.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    way.store(WAYS.len(), Ordering::SeqCst);
    for event_id in [secure, plain] {
        let delivery = eventually("the end of a delivery", async || {
            let delivery = producer.deliveries(&event_id).await.into_iter().next()?;
            delivery["completed_at"].is_string().then_some(delivery)
        })
        .await;
        assert_eq!(delivery["status"], "succeeded", "{delivery}");
        assert_eq!(delivery["attempt_count"], 1);
        assert_eq!(producer.attempts(&delivery).await.len(), 1);
    }
    deliverer.ready().await;
    drop(deliverer);
    services.stop().await;
    bed.finish().await;
}
