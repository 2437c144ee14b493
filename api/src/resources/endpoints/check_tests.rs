use super::*;

fn url_mistakes(text: &str) -> Vec<String> {
    let mut checks = Checks::default();
    let settings = UrlRules { guard: postrider_domain::address::AddressGuard::default(), https_only: false };
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
        // CGI turns these into the same variables.
        "webhook_id",
        "proxy",
        "Webhook_Signature",
        "webhook.timestamp",
        "content_length",
        "Proxy_Authorization",
    ] {
        assert_eq!(header_codes(name, "x"), Some("reserved_header"), "{name}");
    }
    for (name, value) in [
        ("", "x"),
        ("a b", "x"),
        ("é", "x"),
        ("x", "a\r\nb"),
        ("x", "é"),
        ("x", "a\tb"),
        ("x", " a"),
        ("x", "\u{0}"),
    ] {
        assert_eq!(header_codes(name, value), Some("validation_failed"), "{name}: {value}");
    }
    for (name, value) in [("Authorization", "Bearer abc"), ("x-team", ""), ("X-Team", "a b")] {
        assert_eq!(header_codes(name, value), None, "{name}: {value}");
    }
}

#[test]
fn sensitive_headers_are_bounded_and_among_the_headers() {
    let headers = BTreeMap::from([("x-token".to_owned(), "x".to_owned())]);
    for (names, mistakes) in
        [(["X-Token"; 20].to_vec(), 0), (["x-token"; 21].to_vec(), 1), (vec!["x-other"], 1)]
    {
        let mut checks = Checks::default();
        check_sensitive(&mut checks, names.iter().map(|&name| name.to_owned()).collect(), &headers);
        let found = checks.done().err().map_or(0, |problem| problem.errors.len());
        assert_eq!(found, mistakes, "{names:?}");
    }
}
