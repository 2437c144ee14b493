//! Connections that end in unusual ways, after a response that counts.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{Issuer, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::name_server::{NameServer, Reply};
use super::setup::{RawReceiver, Setup, read_request};
use super::tls::{authority, bundle, server};

/// An installation that resolves every name to 127.0.0.1 and trusts the certificates of this issuer.
async fn trusting() -> (Setup, Issuer<'static, KeyPair>, NameServer) {
    let name_server =
        NameServer::start(|_, _| Reply::Addresses(vec!["127.0.0.1".parse().expect("an address")])).await;
    let (issuer, pem) = authority("trusted");
    let bundle = bundle(&pem);
    let setup = Setup::with(&[
        ("POSTRIDER_DNS_SERVERS", &name_server.address.to_string()),
        ("POSTRIDER_EXTRA_CA_FILE", bundle.path().to_str().expect("a path")),
    ])
    .await;
    (setup, issuer, name_server)
}

/// If a body has neither a length nor chunks, it ends with the connection. Otherwise it does not.
#[tokio::test(flavor = "multi_thread")]
async fn tls_ending_without_close_notify_ends_a_body_without_a_length() {
    let (setup, issuer, _name_server) = trusting().await;
    let acceptor = server(&issuer, "old.example.com");
    for (answer, body) in [
        ("HTTP/1.0 200 OK\r\n\r\nok", Some("ok")),
        ("HTTP/1.1 200 OK\r\n\r\n", Some("")),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok", Some("ok")),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some("ok")),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Some("ok")),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", None),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", None),
    ] {
        let acceptor = acceptor.clone();
        let receiver = RawReceiver::start(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                read_request(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.flush().await;
                // The TCP connection ends without a TLS close_notify.
                let (mut tcp, _) = stream.into_inner();
                let _ = tcp.shutdown().await;
                let _ = tcp.read(&mut [0; 1]).await;
            }
        })
        .await;
        let url = format!("https://old.example.com:{}/", receiver.address.port());
        let outcome = setup.deliver_to(&url).await;
        match body {
            Some(body) => assert_eq!(outcome.succeeded()["response_body"], body, "{answer}"),
            None => assert_eq!(outcome.failed("http", Some(200))["response_body"], "ok", "{answer}"),
        }
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_after_a_complete_tls_response_does_not_lose_it() {
    let (setup, issuer, _name_server) = trusting().await;
    let undecipherable = [&b"\x17\x03\x03\x00\x20"[..], &[7; 32]].concat();
    let plain_alert = b"\x15\x03\x03\x00\x02\x02\x28".to_vec();
    for (answer, is_complete) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", false),
    ] {
        for junk in [&undecipherable, &plain_alert] {
            let (acceptor, junk) = (server(&issuer, "odd.example.com"), junk.clone());
            let receiver = RawReceiver::start(move |stream| {
                let (acceptor, junk) = (acceptor.clone(), junk.clone());
                async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    read_request(&mut stream).await;
                    // The response and the garbage arrive together, and the connection stays open.
                    let (mut tcp, mut tls) = stream.into_inner();
                    let mut bytes = Vec::new();
                    std::io::Write::write_all(&mut tls.writer(), answer.as_bytes()).expect("buffered");
                    while tls.wants_write() {
                        tls.write_tls(&mut bytes).expect("encrypted");
                    }
                    bytes.extend(junk);
                    let _ = tcp.write_all(&bytes).await;
                    tokio::time::sleep(Duration::from_secs(600)).await;
                }
            })
            .await;
            let url = format!("https://odd.example.com:{}/", receiver.address.port());
            let outcome = setup.deliver_to(&url).await;
            let attempt = if is_complete { outcome.succeeded() } else { outcome.failed("http", Some(200)) };
            assert_eq!(attempt["response_body"], "ok", "{answer}");
        }
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_counts_even_if_the_request_was_not_read_and_the_connection_is_reset() {
    let setup = Setup::new().await;
    let reading = |answer: &'static [u8], bytes: usize| {
        RawReceiver::start(move |mut stream| async move {
            let mut begun = vec![0; bytes];
            let _ = stream.read_exact(&mut begun).await;
            let _ = stream.write_all(answer).await;
            // Closing a socket with unread data resets the connection.
            drop(stream);
        })
    };
    // Much more than the buffers of a connection hold, so that writing fails too.
    let large = json!({"text": "x".repeat(200_000)});
    for answer in [
        &b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok"[..],
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        b"HTTP/1.0 202 Accepted\r\n\r\nok",
    ] {
        let receiver = reading(answer, 16).await;
        for number in 0..10 {
            let outcome = setup.deliver_data(&receiver.url(), json!({}), large.clone()).await;
            assert_eq!(outcome.delivery["status"], "succeeded", "{number}: {:?}", outcome.attempts);
            assert_eq!(outcome.succeeded()["response_status"], 202);
            assert_eq!(outcome.succeeded()["response_body"], "ok");
        }
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_counts_if_the_receiver_half_closes_or_lingers_afterwards() {
    let setup = Setup::new().await;
    let half_closing = RawReceiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nok").await;
        let _ = stream.shutdown().await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        drop(stream);
    })
    .await;
    assert_eq!(setup.deliver_to(&half_closing.url()).await.succeeded()["response_body"], "ok");
    let resetting = RawReceiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let _ = stream.set_zero_linger();
    })
    .await;
    assert_eq!(setup.deliver_to(&resetting.url()).await.succeeded()["response_body"], "ok");
    setup.finish().await;
}

/// A connection whose first request gets a response. After that, `then` is called with it.
async fn answering_once<F, Fut>(then: F) -> RawReceiver
where
    F: Fn(tokio::net::TcpStream, String) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let then = Arc::new(then);
    RawReceiver::start(move |mut stream| {
        let then = then.clone();
        async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let second = read_request(&mut stream).await;
            if !second.is_empty() {
                then(stream, second).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_connection_that_breaks_is_replaced_within_the_attempt() {
    let setup = Setup::new().await;
    let requests = Arc::new(std::sync::Mutex::new(Vec::new()));
    let broken = requests.clone();
    let receiver = answering_once(move |stream, request| {
        broken.lock().expect("a lock").push(request);
        async move { drop(stream) }
    })
    .await;
    let first = setup.deliver_to(&receiver.url()).await;
    assert_eq!(first.succeeded()["resent"], false);
    let second = setup.deliver_to(&receiver.url()).await;
    assert_eq!(second.succeeded()["resent"], true);
    assert_eq!(second.delivery["attempt_count"], 1);
    assert_eq!(receiver.connections(), 2, "one that broke, and a fresh one");
    assert_eq!(requests.lock().expect("a lock").len(), 1);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_on_a_fresh_connection_or_after_a_response_byte_is_not_resent() {
    let setup = Setup::new().await;
    // On a fresh connection.
    let slamming = RawReceiver::start(|mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    assert_eq!(setup.deliver_to(&slamming.url()).await.failed("http", None)["resent"], false);
    assert_eq!(slamming.connections(), 1);
    // On a reused connection, after one byte.
    let stuttering = answering_once(|mut stream, _| async move {
        let _ = stream.write_all(b"H").await;
    })
    .await;
    setup.deliver_to(&stuttering.url()).await.succeeded();
    assert_eq!(setup.deliver_to(&stuttering.url()).await.failed("http", None)["resent"], false);
    assert_eq!(stuttering.connections(), 1);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_resent_at_most_once() {
    let setup = Setup::new().await;
    let has_broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let receiver = RawReceiver::start(move |mut stream| {
        let has_broken = has_broken.clone();
        async move {
            read_request(&mut stream).await;
            if has_broken.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            read_request(&mut stream).await;
            has_broken.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    })
    .await;
    setup.deliver_to(&receiver.url()).await.succeeded();
    let outcome = setup.deliver_to(&receiver.url()).await;
    assert_eq!(outcome.failed("http", None)["resent"], true);
    assert_eq!(receiver.connections(), 2);
    setup.finish().await;
}

/// The receiver's idle timeout ends the connection between two webhooks. Nothing is sent on it, so nothing is sent
/// twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_closed_while_idle_is_not_reused() {
    let setup = Setup::new().await;
    let receiver = RawReceiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        // Some load balancers send this before they close an idle connection.
        let _ = stream.write_all(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    for number in 1..=5 {
        let outcome = setup.deliver_to(&receiver.url()).await;
        assert_eq!(outcome.succeeded()["resent"], false);
        assert_eq!(receiver.connections(), number);
    }
    setup.finish().await;
}
