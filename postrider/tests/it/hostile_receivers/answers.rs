//! Responses that never arrive, never end, break off, or are not HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use super::setup::{RawReceiver, Setup, Unanswered, read_request};
use crate::support::receiver::Receiver;

/// One byte now and then: far too slow for the timeout, but too often for an idle timeout.
const DRIP: Duration = Duration::from_millis(200);

/// Reads a request, sends `bytes`, and closes the connection.
async fn responding_with(bytes: &'static [u8]) -> RawReceiver {
    RawReceiver::start(move |mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(bytes).await;
    })
    .await
}

/// Reads a request, sends `first` at once, and then `rest` after every pause.
async fn dripping(first: &'static [u8], rest: &'static [u8], pause: Duration) -> RawReceiver {
    RawReceiver::start(move |mut stream| async move {
        read_request(&mut stream).await;
        let mut is_open = stream.write_all(first).await.is_ok();
        while is_open {
            sleep(pause).await;
            is_open = stream.write_all(rest).await.is_ok();
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_response_is_a_timeout_of_the_whole_exchange() {
    let setup = Setup::new().await;
    let forever = Duration::from_secs(600);
    let receivers = [
        // Hangs.
        dripping(b"", b"", forever).await,
        // One byte now and then, of a status line that never ends.
        dripping(b"HTTP/1.1 200 OK", b"x", DRIP).await,
        // Promises a response, again and again.
        dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", DRIP).await,
        // Accepts connections and reads nothing.
        RawReceiver::start(move |stream| async move {
            sleep(forever).await;
            drop(stream);
        })
        .await,
    ];
    let urls = receivers.each_ref().map(RawReceiver::url);
    for outcome in join_all(urls.iter().map(|url| setup.deliver_to(url))).await {
        let attempt = outcome.timed_out(None);
        assert_eq!(attempt["error_message"], "the exchange took longer than 4 s");
        assert!(attempt["response_headers"].is_null() && attempt["response_body"].is_null());
        let sent = attempt["request_headers"].as_array().expect("headers");
        assert!(sent.iter().any(|header| header["name"] == "webhook-signature"), "{attempt}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unaccepted_connection_is_a_connect_failure_within_the_timeout() {
    let setup = Setup::new().await;
    let receiver = Unanswered::at("127.0.0.1:0".parse().expect("an address")).await;
    let outcome = setup.deliver_to(&format!("http://{}/", receiver.address)).await;
    let attempt = outcome.failed("connect", None);
    assert_eq!(attempt["error_message"], "no connection could be made within 4 s");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dripping_body_is_a_timeout_that_keeps_what_arrived() {
    let setup = Setup::new().await;
    let started = dripping(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b"x", DRIP).await;
    let chunked =
        dripping(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n", DRIP).await;
    let urls = [started.url(), chunked.url()];
    for outcome in join_all(urls.iter().map(|url| setup.deliver_to(url))).await {
        let attempt = outcome.timed_out(Some(200));
        let body = attempt["response_body"].as_str().expect("a body");
        assert!((1..=20).contains(&body.len()) && body.bytes().all(|byte| byte == b'x'), "{attempt}");
        assert_eq!(attempt["response_body_truncated"], false, "it is everything that arrived");
        assert_eq!(attempt["response_headers"].as_array().map(Vec::len), Some(1));
    }
    // So does a dripping head, once there is a status.
    let head = dripping(b"HTTP/1.1 200 OK\r\nx-drip: ", b"x", DRIP).await;
    assert!(setup.deliver_to(&head.url()).await.timed_out(Some(200))["response_headers"].is_null());
    // A failure stays the same failure. How its body ends does not matter.
    let failing = dripping(b"HTTP/1.1 422 No\r\ncontent-length: 100\r\n\r\n", b"x", DRIP).await;
    let outcome =
        setup.deliver(&failing.url(), json!({"max_attempts": 5, "permanent_statuses": [422]})).await;
    assert_eq!(outcome.failed("http", Some(422))["error_message"], "the receiver answered 422");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_16_kib_of_a_large_response_body_are_read_and_kept() {
    let setup = Setup::new().await;
    let sent = Arc::new(AtomicU64::new(0));
    let flood = async |head: &'static str, unit: Vec<u8>| {
        let (sent, unit) = (sent.clone(), Arc::new(unit));
        RawReceiver::start(move |mut stream| {
            let (sent, unit) = (sent.clone(), unit.clone());
            async move {
                read_request(&mut stream).await;
                let mut is_open = stream.write_all(head.as_bytes()).await.is_ok();
                while is_open {
                    is_open = stream.write_all(&unit).await.is_ok();
                    sent.fetch_add(unit.len() as u64, Ordering::Relaxed);
                }
            }
        })
        .await
    };
    let chunk = [b"10000\r\n", vec![b'x'; 0x10000].as_slice(), b"\r\n"].concat();
    let whole = flood("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n", vec![b'x'; 0x10000]).await;
    let chunked = flood("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunk).await;
    let until_closed = flood("HTTP/1.0 200 OK\r\n\r\n", vec![b'x'; 0x10000]).await;
    for receiver in [&whole, &chunked, &until_closed] {
        let outcome = setup.deliver_to(&receiver.url()).await;
        let attempt = outcome.succeeded();
        assert_eq!(attempt["response_status"], 200);
        assert_eq!(attempt["response_body"].as_str().map(str::len), Some(16 * 1024));
        assert_eq!(attempt["response_body_encoding"], "utf8");
        assert_eq!(attempt["response_body_truncated"], true);
    }
    let head = flood("HTTP/1.1 200 OK\r\n", b"x-flood: 0123456789\r\n".repeat(1_000)).await;
    let attempt = setup.deliver_to(&head.url()).await.failed("http", Some(200)).clone();
    assert_eq!(
        attempt["error_message"],
        "the exchange failed: the head of the answer is longer than 400 KiB"
    );
    // What fits into the buffers of four connections.
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_16_kib_of_response_headers_are_kept() {
    let setup = Setup::new().await;
    let receiver = RawReceiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        let headers: String = (0..90).map(|n| format!("x-{n}: {}\r\n", "v".repeat(3_000))).collect();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{headers}\r\n");
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let outcome = setup.deliver_to(&receiver.url()).await;
    let headers = outcome.succeeded()["response_headers"].as_array().expect("headers").clone();
    assert_eq!(headers[0], json!({"name": "content-length", "value": "0"}));
    assert_eq!(headers.len(), 6, "as many as fit");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_response_is_a_failure() {
    let setup = Setup::new().await;
    for (answer, body) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it"[..], "half of it"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nhalf of it\r\n", "half of it"),
        (b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", ""),
    ] {
        let receiver = responding_with(answer).await;
        let outcome = setup.deliver_to(&receiver.url()).await;
        if answer.starts_with(b"HTTP/1.1 204") {
            // It has no body, whatever its headers say.
            assert_eq!(outcome.succeeded()["response_body"], body);
            continue;
        }
        let attempt = outcome.failed("http", Some(200));
        assert_eq!(attempt["response_body"], body);
        assert_eq!(attempt["response_body_truncated"], false);
        let message = attempt["error_message"].as_str().expect("a message");
        assert!(message.starts_with("the answer's body broke off: "), "{message}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_or_another_protocol_is_a_failure() {
    let setup = Setup::new().await;
    let mut receivers = Vec::new();
    for answer in [
        &b""[..],
        b"HTTP/1.1 20",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 9 Too Short\r\n\r\n",
    ] {
        receivers.push(responding_with(answer).await);
    }
    // Closes at once.
    receivers.push(RawReceiver::start(|stream| async move { drop(stream) }).await);
    // Resets the connection.
    receivers.push(
        RawReceiver::start(|mut stream| async move {
            read_request(&mut stream).await;
            stream.set_zero_linger().expect("a reset");
        })
        .await,
    );
    for receiver in &receivers {
        let outcome = setup.deliver_to(&receiver.url()).await;
        let attempt = outcome.failed("http", None);
        let message = attempt["error_message"].as_str().expect("a message");
        assert!(message.starts_with("the exchange failed: "), "{message}");
        assert!(!message.contains("http://"), "URLs hold secrets: {message}");
    }
    // Nothing listens there.
    let address = crate::support::service::free_port();
    let outcome = setup.deliver_to(&format!("http://{address}/secret-path")).await;
    let message = outcome.failed("connect", None)["error_message"].clone();
    assert!(message.as_str().is_some_and(|message| message.contains("Connection refused")), "{message}");
    assert!(message.as_str().is_some_and(|message| !message.contains("secret-path")), "{message}");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn response_bytes_are_kept_unchanged() {
    let setup = Setup::new().await;
    let binary = responding_with(
        b"HTTP/1.1 500 \xff\xfe\r\nx-bytes: caf\xe9\r\nx-bytes: two\r\ncontent-length: 6\r\n\r\n\0\xff\xc3\x28\0a",
    )
    .await;
    let outcome = setup.deliver_to(&binary.url()).await;
    let attempt = outcome.failed("http", Some(500));
    assert_eq!(attempt["response_body_encoding"], "base64");
    assert_eq!(attempt["response_body"], STANDARD.encode(b"\0\xff\xc3\x28\0a"));
    let headers = attempt["response_headers"].as_array().expect("headers");
    assert_eq!(headers[0], json!({"name": "x-bytes", "value": "caf\u{fffd}"}));
    assert_eq!(headers[1], json!({"name": "x-bytes", "value": "two"}));

    // NUL is valid text, and JSON can represent it.
    let text = responding_with(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na\0\x01b").await;
    let outcome = setup.deliver_to(&text.url()).await;
    assert_eq!(outcome.succeeded()["response_body"], "a\0\u{1}b");
    assert_eq!(outcome.succeeded()["response_body_encoding"], "utf8");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let setup = Setup::new().await;
    let target = Receiver::accepting().await;
    for status in [301, 302, 303, 307, 308] {
        let location = target.url("/");
        let redirecting = RawReceiver::start(move |mut stream| {
            let answer =
                format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await;
        let outcome = setup.deliver_to(&redirecting.url()).await;
        let attempt = outcome.failed("http", Some(status));
        let message = format!("the receiver answered {status}; redirects are not followed");
        assert_eq!(attempt["error_message"], message);
        assert_eq!(attempt["response_headers"][0]["name"], "location");
    }
    assert_eq!(target.count(), 0);
    setup.finish().await;
}
