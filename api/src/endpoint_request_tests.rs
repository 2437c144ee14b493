use super::*;

fn url_mistakes(text: &str) -> Vec<String> {
    let mut checks = Checks::default();
    let settings = UrlRules { guard: postrider_shared::address::AddressGuard::default(), https_only: false };
    check_url(&mut checks, text, &settings);
    checks
        .done()
        .err()
        .map(|problem| problem.errors.into_iter().map(|error| error.message).collect())
        .unwrap_or_default()
}

#[test]
fn urls_are_absolute_public_and_plain() {
    for url in [
        "https://example.com",
        "http://example.com:8080/a?b=c",
        "https://1.1.1.1/",
        "https://bücher.example/é",
    ] {
        assert_eq!(url_mistakes(url), Vec::<String>::new(), "{url}");
    }
    for url in [
        "",
        "example.com",
        "/a",
        "ftp://example.com",
        "https://",
        "javascript:alert(1)",
        "https://u:p@example.com",
        "https://u@example.com",
        "https://example.com/#a",
        "https://exa mple.com",
        "https://example.com/\n",
        "http://127.0.0.1",
        "http://2130706433",
        "http://0x7f.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::1]:80",
        "http://169.254.169.254/latest",
        "http://example.com:0/",
        &format!("https://example.com/{}", "a".repeat(2_048)),
    ] {
        assert!(!url_mistakes(url).is_empty(), "{url}");
    }
}

fn header_codes(name: &str, value: &str) -> Option<&'static str> {
    let mut checks = Checks::default();
    check_headers(&mut checks, BTreeMap::from([(name.to_owned(), value.to_owned())]));
    checks.done().err().map(|problem| problem.code)
}

#[test]
fn headers_that_frame_or_sign_are_reserved() {
    for name in [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "webhook-id",
        "Webhook-Anything",
        "Proxy-Authorization",
    ] {
        assert_eq!(header_codes(name, "x"), Some("reserved_header"), "{name}");
    }
    for (name, value) in
        [("", "x"), ("a b", "x"), ("é", "x"), ("x", "a\r\nb"), ("x", "é"), ("x", " a"), ("x", "\u{0}")]
    {
        assert_eq!(header_codes(name, value), Some("validation_failed"), "{name}: {value}");
    }
    for (name, value) in [("Authorization", "Bearer abc"), ("x-team", ""), ("X-Team", "a b")] {
        assert_eq!(header_codes(name, value), None, "{name}: {value}");
    }
}

#[test]
fn absent_is_not_null_for_the_rate_limit() {
    let parse = |json: &str| serde_json::from_str::<CreateEndpointRequest>(json).expect("a request");
    assert_eq!(parse(r#"{"url":"https://example.com"}"#).rate_limit, Some(1_000));
    assert_eq!(parse(r#"{"url":"https://example.com","rate_limit":null}"#).rate_limit, None);
    assert_eq!(parse(r#"{"url":"https://example.com","rate_limit":7}"#).rate_limit, Some(7));
}

#[test]
fn every_mistake_is_told_at_once() {
    let request: CreateEndpointRequest = serde_json::from_str(
        r#"{"url":"x","event_types":[],"max_attempts":0,"timeout_seconds":61,"retry_schedule":[-1],
            "permanent_statuses":[200],"concurrency_limit":1001,"rate_limit":0,"secret":"x","filter":{},
            "sensitive_headers":["x"]}"#,
    )
    .expect("a request");
    let rules = UrlRules { guard: postrider_shared::address::AddressGuard::default(), https_only: false };
    let problem = request.check(&rules).err().expect("a problem");
    assert_eq!((problem.status.as_u16(), problem.code), (422, "filter_invalid"));
    let fields: Vec<_> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "url",
            "event_types",
            "filter",
            "sensitive_headers",
            "rate_limit",
            "concurrency_limit",
            "max_attempts",
            "timeout_seconds",
            "retry_schedule[0]",
            "permanent_statuses[0]",
            "secret",
        ]
    );
}
