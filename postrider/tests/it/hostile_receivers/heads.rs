//! Responses whose heads are unusual or malformed. If there is a status, it counts, as it does for curl and browsers.

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use super::setup::{RawReceiver, Setup, read_request};

/// Reads a request, sends `answer`, and closes the connection.
async fn answering(answer: Vec<u8>) -> RawReceiver {
    RawReceiver::start(move |mut stream| {
        let answer = answer.clone();
        async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_with_malformed_header_lines_counts_by_its_status() {
    let setup = Setup::new().await;
    let many: String = (0..400).map(|number| format!("x-{number}: v\r\n")).collect();
    let long = format!("x-long: {}\r\n", "v".repeat(100_000));
    let long_name = format!("{}: v\r\n", "x".repeat(10_000));
    for (what, lines) in [
        ("a folded line", &b"x-folded: one\r\n two\r\n\tthree\r\n"[..]),
        ("a folded first line", b" folded\r\n"),
        ("a space before the colon", b"x-space : v\r\n"),
        ("a tab before the colon", b"x-tab\t: v\r\n"),
        ("a space within the name", b"x two: v\r\n"),
        ("no colon", b"no colon\r\n"),
        ("no name", b": v\r\n"),
        ("no value", b"x-empty:\r\n"),
        ("bytes beyond ASCII in a value", b"x-bytes: caf\xe9 \xff\r\n"),
        ("bytes beyond ASCII in a name", b"x-caf\xc3\xa9: v\r\n"),
        ("a control character in a value", b"x-control: a\x01b\r\n"),
        ("a control character in a name", b"x-\x01: v\r\n"),
        ("a line that ends in a bare LF", b"x-bare: v\n"),
        ("hundreds of headers", many.as_bytes()),
        ("a very long value", long.as_bytes()),
        ("a very long name", long_name.as_bytes()),
        ("the same length twice", b"content-length: 2\r\n"),
        ("a length with white space", b"Content-Length:   2  \r\n"),
    ] {
        let head = [&b"HTTP/1.1 200 OK\r\n"[..], lines, b"content-length: 2\r\n\r\nok"].concat();
        let receiver = answering(head).await;
        let outcome = setup.deliver_to(&receiver.url()).await;
        assert_eq!(outcome.delivery["status"], "succeeded", "{what}: {:?}", outcome.attempts);
        assert_eq!(outcome.succeeded()["response_body"], "ok", "{what}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_with_an_unusual_status_line_counts_by_its_status() {
    let setup = Setup::new().await;
    for (what, head) in [
        ("a reason in lower case", "HTTP/1.1 200 ok\r\ncontent-length: 2\r\n\r\nok"),
        ("an empty reason", "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok"),
        ("no reason", "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"),
        ("a reason beyond ASCII", "HTTP/1.1 200 très bien\r\ncontent-length: 2\r\n\r\nok"),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("a control character in the reason", "HTTP/1.1 200 O\u{1}K\r\ncontent-length: 2\r\n\r\nok"),
        (
            "HTTP/1.0 and a chunked body",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "a length that nothing can have",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\nok",
        ),
        ("lines that end in a bare LF", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok"),
        ("an empty line before it", "\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("100 before it", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        (
            "102 and 103 before it",
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "a chunked body with an extension and a trailer",
            "HTTP/1.1 200 OK\r\n\
             transfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nx-trailer: v\r\n\r\n",
        ),
        ("a body after 204", "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok"),
        ("more than its length says", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok, and more"),
    ] {
        let receiver = answering(head.as_bytes().to_vec()).await;
        let outcome = setup.deliver_to(&receiver.url()).await;
        assert_eq!(outcome.delivery["status"], "succeeded", "{what}: {:?}", outcome.attempts);
        let body = &outcome.succeeded()["response_body"];
        let expected = if head.contains("204") { "" } else { "ok" };
        assert_eq!(body.as_str(), Some(expected), "{what}");
    }
    setup.finish().await;
}

/// curl and browsers refuse these too: HTTP/0.9, a NUL in the head, lengths that contradict each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_a_readable_status_or_length_is_a_failure() {
    let setup = Setup::new().await;
    for (status, answer) in [
        (None, &b"ok\n"[..]),
        (None, b"<html>ok</html>"),
        (None, b"HTTP/2 200\r\n\r\n"),
        (None, b"HTTP/1.1 OK\r\n\r\n"),
        (Some(200), b"HTTP/1.1 200 OK\r\nx-nul: a\0b\r\ncontent-length: 0\r\n\r\n"),
        (Some(200), b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!"),
        (Some(200), b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok"),
        (Some(200), b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
        (Some(200), b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"),
    ] {
        let receiver = answering(answer.to_vec()).await;
        let outcome = setup.deliver_to(&receiver.url()).await;
        let message = outcome.failed("http", status)["error_message"].clone();
        let message = message.as_str().expect("a message");
        assert!(message.starts_with("the exchange failed: "), "{message}");
    }
    setup.finish().await;
}

/// The body after a 2xx head does not matter: malformed chunks do not lose a webhook.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_with_unreadable_chunks_is_a_success() {
    let setup = Setup::new().await;
    for (answer, body) in [
        ("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n2\nok\n0\n\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nnone\r\n", "ok"),
    ] {
        let receiver = answering(answer.as_bytes().to_vec()).await;
        let outcome = setup.deliver_to(&receiver.url()).await;
        assert_eq!(outcome.succeeded()["response_body"], body, "{answer}");
        assert_eq!(outcome.succeeded()["response_body_truncated"], true);
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_status_counts_even_if_the_head_is_unreadable() {
    let setup = Setup::new().await;
    for rest in ["content-length: two\r\n\r\n", "x: \0\r\n\r\n", "x-cut: o"] {
        let receiver = answering(format!("HTTP/1.1 422 No\r\n{rest}").into_bytes()).await;
        let settings = serde_json::json!({"max_attempts": 5, "permanent_statuses": [422]});
        let outcome = setup.deliver(&receiver.url(), settings).await;
        assert_eq!(outcome.failed("http", Some(422))["error_message"], "the receiver answered 422", "{rest}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_in_a_folded_header_is_read() {
    let setup = Setup::new().await;
    let receiver = answering(
        b"HTTP/1.1 503 Busy\r\nx-folded: a\r\n b\r\nretry-after:\r\nretry-after : 7200\r\ncontent-length: 0\r\n\r\n".to_vec(),
    )
    .await;
    let event_type = "folded.retry_after";
    let endpoint = serde_json::json!({"url": receiver.url(), "event_types": [event_type]});
    let endpoint_id = setup.producer.endpoint(endpoint).await["id"].clone();
    let event_id = setup.producer.publish(event_type, serde_json::json!({})).await["event_id"].clone();
    let delivery = crate::support::eventually("the first attempt", async || {
        let deliveries = setup.producer.deliveries(event_id.as_str().expect("an id")).await;
        deliveries.into_iter().find(|delivery: &Value| {
            delivery["endpoint_id"] == endpoint_id && delivery["last_response_status"] == 503
        })
    })
    .await;
    let due = "select count(*) from deliveries where last_response_status = 503 \
               and next_retry_at > now() + interval '1 hour'";
    assert_eq!(setup.bed.count(due).await, 1, "{delivery}");
    setup.finish().await;
}
