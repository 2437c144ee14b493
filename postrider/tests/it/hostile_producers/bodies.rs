//! Bodies that are not JSON, not an event, or too large.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use super::setup::{Setup, refused};
use crate::support::producer::text;
use crate::support::receiver::Receiver;

/// An event with this JSON as its data.
fn event(data: &str) -> Vec<u8> {
    format!(r#"{{"event_type":"user.created","data":{data}}}"#).into_bytes()
}

fn deep(levels: usize) -> String {
    format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_json_is_a_400() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    let bodies: [&[u8]; 15] = [
        b"",
        b" \r\n\t",
        b"{",
        b"nonsense",
        b"{\"event_type\":\"a\",\"data\":{}",
        b"{\"event_type\":\"a\",\"data\":{}}}",
        b"{\"event_type\":\"a\",\"data\":{}} {}",
        b"{\"event_type\":\"a\",\"data\":{},}",
        b"{'event_type':'a'}",
        b"{\"event_type\":\"a\",\"data\":{\"a\":NaN}}",
        b"{\"event_type\":\"a\",\"data\":{\"a\":01}}",
        b"{\"event_type\":\"a\",\"data\":{\"a\":\"\n\"}}",
        b"{\"event_type\":\"a\",\"data\":{\"a\":\"\xff\"}}",
        b"\xef\xbb\xbf{\"event_type\":\"a\",\"data\":{}}",
        b"\0",
    ];
    for body in bodies {
        let what = String::from_utf8_lossy(body).into_owned();
        refused(setup.event().body(body), 400, "malformed_json", &what).await;
        let path = format!("/v1/applications/{}/endpoints", setup.producer.application_id);
        let request = setup.producer.request(Method::POST, &path).header("content-type", "application/json");
        refused(request.body(body), 400, "malformed_json", &what).await;
    }
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_or_unstorable_event_is_a_422_that_says_why() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    // Each 1e131071 is nine bytes here, and 128 KiB in PostgreSQL.
    let bombs = format!(r#"{{"a":[{}]}}"#, ["1e131071"; 20_000].join(","));
    let swelling = format!(r#"{{"a":[{}]}}"#, ["1e900"; 700].join(","));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"null".to_vec(), "validation_failed"),
        (b"[]".to_vec(), "validation_failed"),
        (b"{}".to_vec(), "validation_failed"),
        (br#"{"event_type":"a"}"#.to_vec(), "validation_failed"),
        (br#"{"event_type":7,"data":{}}"#.to_vec(), "validation_failed"),
        (br#"{"event_type":"a","data":{},"channel":"x"}"#.to_vec(), "validation_failed"),
        (br#"{"event_type":"a","data":{},"data":{}}"#.to_vec(), "validation_failed"),
        (event("[]"), "validation_failed"),
        (event("\"{}\""), "validation_failed"),
        (event("null"), "validation_failed"),
        (br#"{"event_type":"","data":{}}"#.to_vec(), "event_type_invalid"),
        (br#"{"event_type":"a b","data":{}}"#.to_vec(), "event_type_invalid"),
        (br#"{"event_type":"a.*","data":{}}"#.to_vec(), "event_type_invalid"),
        (format!(r#"{{"event_type":"{}","data":{{}}}}"#, "a".repeat(256)).into_bytes(), "event_type_invalid"),
        (br#"{"event_type":"postrider.test","data":{}}"#.to_vec(), "event_type_reserved"),
        (event(r#"{"a":"\u0000"}"#), "json_nul"),
        (event(r#"{"\u0000":1}"#), "json_nul"),
        (event(r#"{"a":["\ud800"]}"#), "json_lone_surrogate"),
        (event(r#"{"a":"\udc00\ud800"}"#), "json_lone_surrogate"),
        (event(r#"{"\ud83d":1}"#), "json_lone_surrogate"),
        (event(r#"{"a":1,"b":2,"a":3}"#), "json_duplicate_key"),
        (event(r#"{"a":{"b":1,"\u0062":2}}"#), "json_duplicate_key"),
        (event(r#"{"a":1e131071}"#), "json_number_too_long"),
        (event(r#"{"a":-1e-131071}"#), "json_number_too_long"),
        (event(r#"{"a":1e99999999999999999999}"#), "json_number_too_long"),
        (event(r#"{"a":0e1073741823}"#), "json_number_too_long"),
        (event(r#"{"a":0e-1000}"#), "json_number_too_long"),
        (event(&format!(r#"{{"a":{}}}"#, "9".repeat(1_001))), "json_number_too_long"),
        (event(&bombs), "json_number_too_long"),
        (event(&swelling), "json_too_large"),
        (event(&deep(64)), "json_too_deep"),
        (event(&deep(100_000)), "json_too_deep"),
        (event(&r#"{"a":"#.repeat(40_000)), "json_too_deep"),
        ("[".repeat(262_144).into_bytes(), "json_too_deep"),
    ];
    for (body, code) in cases {
        let what: String = String::from_utf8_lossy(&body).chars().take(80).collect();
        refused(setup.event().body(body), 422, code, &what).await;
    }
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zero_is_stored_whatever_its_exponent() {
    let setup = Setup::new().await;
    let response =
        setup.event().body(event(r#"{"a":[0e999999999,0.0e1000,-0e1000000000,0e-2]}"#)).send().await;
    let accepted: Value = response.expect("a response").json().await.expect("JSON");
    let path =
        format!("/v1/events/{}", accepted["event_id"].as_str().unwrap_or_else(|| panic!("{accepted}")));
    assert_eq!(setup.producer.get(&path).await["data"], json!({"a": [0, 0, 0, 0.0]}));
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_type_is_a_415() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    for content_type in
        ["", "text/plain", "application/x-www-form-urlencoded", "application/json5", "json", "\u{7f}"]
    {
        let request = setup.producer.request(Method::POST, "/v1/events").header("idempotency-key", "k");
        let request = match reqwest::header::HeaderValue::from_str(content_type) {
            Ok(value) if !value.is_empty() => request.header("content-type", value),
            _ => request,
        };
        refused(request.body(event("{}")), 415, "unsupported_media_type", content_type).await;
    }
    for encoding in ["gzip", "br", "identity, gzip"] {
        let request = setup.event().header("content-encoding", encoding);
        refused(request.body(event("{}")), 415, "unsupported_media_type", encoding).await;
    }
    for good in ["application/json; charset=utf-8", "APPLICATION/JSON"] {
        let request = setup.producer.request(Method::POST, "/v1/events").header("content-type", good);
        let response = request.header("idempotency-key", good.len()).body(event("{}")).send().await;
        assert_eq!(response.expect("a response").status(), 202, "{good}");
    }
    assert_eq!(setup.stored().await, before + 4, "two events and their keys");
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_256_kib_is_a_413_and_one_of_exactly_256_kib_is_accepted() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    let of_length = |length: usize| {
        let frame = event(r#"{"a":""}"#).len();
        event(&format!(r#"{{"a":"{}"}}"#, "x".repeat(length - frame)))
    };
    for length in [262_145, 1 << 20, 8 << 20] {
        let body = of_length(length);
        refused(setup.event().body(body), 413, "body_too_large", &format!("{length} bytes")).await;
    }
    assert_eq!(setup.stored().await, before);
    let response = setup.event().body(of_length(262_144)).send().await.expect("a response");
    assert_eq!(response.status(), 202);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_required_and_must_be_visible_ascii() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    let post =
        || setup.producer.request(Method::POST, "/v1/events").json(&json!({"event_type": "a", "data": {}}));
    refused(post(), 400, "idempotency_key_required", "none").await;
    let twice = post().header("idempotency-key", "a").header("idempotency-key", "a");
    refused(twice, 422, "validation_failed", "twice").await;
    let keys: [&[u8]; 7] = [b"", b"a b", b"\t", b"caf\xc3\xa9", b"\xff", b"a\tb", &[b'x'; 256]];
    for key in keys {
        let request = post()
            .header("idempotency-key", reqwest::header::HeaderValue::from_bytes(key).expect("a header"));
        let problem = refused(request, 422, "idempotency_key_invalid", &String::from_utf8_lossy(key)).await;
        assert_eq!(problem["errors"][0]["field"], "Idempotency-Key");
    }
    assert_eq!(setup.stored().await, before);

    let longest = "~".repeat(255);
    let first = setup.producer.try_publish(&longest, "a", &json!({})).await.expect("a response");
    assert_eq!(first.status(), 202);
    let request = setup.producer.request(Method::POST, "/v1/events").header("idempotency-key", &longest);
    refused(request.json(&json!({"event_type": "b", "data": {}})), 409, "idempotency_key_reused", "another")
        .await;
    assert_eq!(setup.stored().await, before + 2);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_digit_and_every_character_arrives() {
    let mut setup = Setup::new().await;
    setup.services.relay(&setup.bed, &[]);
    setup.services.deliverer(&setup.bed, &[]);
    let receiver = Receiver::accepting().await;
    setup.producer.endpoint(json!({"url": receiver.url("/")})).await;
    // Neither floating point nor 64 bits can hold any of these numbers.
    let numbers = [
        "98765432109876543210",
        "-98765432109876543210",
        "18446744073709551617",
        "0.12345678901234567890",
        "12345678901234567890.10",
        "1234567890123456789012345678901234567890",
        "0.10",
        "1.0",
        "-0.000000000000000000000000000001",
    ];
    let mut data = String::from("{");
    for (at, number) in numbers.iter().enumerate() {
        write!(data, r#""n{at}":{number},"#).expect("text");
    }
    data.push_str(
        r#""text":"\u0001\u001f\u007f\u2028\u2029\ufeff\ufffe😀\ud83d\ude00 \"\\\/ ключ","":{"":[]}}"#,
    );
    let response = setup.event().body(event(&data)).send().await.expect("a response");
    assert_eq!(response.status(), 202);
    let accepted: Value = response.json().await.expect("a body");

    let webhook = receiver.wait_for(1).await.remove(0);
    let stored = setup.producer.request(Method::GET, &format!("/v1/events/{}", text(&accepted["event_id"])));
    let stored = stored.send().await.expect("a response").text().await.expect("a body");
    let sent = String::from_utf8(webhook.body.clone()).expect("text");
    for (what, json) in [("the webhook", &sent), ("the stored event", &stored)] {
        for (at, number) in numbers.iter().enumerate() {
            let without_space = json.replace("\": ", "\":");
            let written = format!(r#""n{at}":{number}"#);
            let is_whole = [",", "}"].iter().any(|end| without_space.contains(&format!("{written}{end}")));
            assert!(is_whole, "{what} has lost a digit of {number}: {json}");
        }
    }
    let expected: Value = serde_json::from_str(&data).expect("JSON");
    assert_eq!(webhook.json()["data"]["text"], expected["text"]);
    assert_eq!(webhook.json()["data"][""], json!({"": []}));
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_body_may_be_absent_empty_or_null() {
    let setup = Setup::new().await;
    let endpoint = setup.producer.endpoint(json!({"url": "https://example.test/"})).await;
    let path = setup.producer.endpoint_path(&endpoint, "/secret/rotate");
    for body in [None, Some(""), Some("null"), Some(" null\n"), Some("{}")] {
        let mut request = setup.producer.request(Method::POST, &path);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.expect("a response");
        assert_eq!(response.status(), 202, "{body:?}: {}", response.text().await.unwrap_or_default());
    }
    let request = setup.producer.request(Method::POST, &path).header("content-type", "application/json");
    refused(request.body("nul"), 400, "malformed_json", "nul").await;
    setup.finish().await;
}
