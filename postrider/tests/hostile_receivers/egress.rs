//! A proxy that all webhooks go through.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;

use crate::scene::RawReceiver;
use crate::support::{Bed, producer::Producer, producer::text, service::Services};
use crate::tls::{accepting, authority, server};

/// An HTTP proxy that keeps the heads of the requests to it. Whatever name it is asked for is this machine.
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
            } else if target.starts_with("refused.") {
                let _ = client.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
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

/// What some proxies have in their answers to `CONNECT`.
fn odd_lines(target: &str) -> String {
    match target.split('.').next() {
        Some("folded") => "x-folded: one\r\n two\r\n".to_owned(),
        Some("spaced") => "Via : 1.1 proxy\r\nProxy agent: x\r\nno colon\r\n".to_owned(),
        Some("many") => (0..200).map(|number| format!("x-{number}: v\r\n")).collect(),
        _ => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_go_through_the_egress_proxy_which_resolves_their_names() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let proxy = proxy(heads.clone()).await;
    let (issuer, pem) = authority("trusted");
    let mut bundle = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut bundle, pem.as_bytes()).expect("written");
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

    let delivery = deliver("proxied.refused", "https://refused.example.test/".to_owned()).await;
    assert_eq!(delivery["last_error"], "the egress proxy answered 403 Forbidden");
    services.stop().await;
    bed.finish().await;
}
