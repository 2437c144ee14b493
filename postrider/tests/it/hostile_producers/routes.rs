//! Routes, methods, ids and parameters that do not exist, on every route of the specification.

use reqwest::Method;
use serde_json::Value;

use super::setup::{Setup, refused};

/// The paths of the specification with their methods.
fn paths() -> Vec<(String, Vec<Method>)> {
    let document: Value = serde_json::from_str(&postrider_api::specification()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let methods = |operations: &Value| {
        let names = operations.as_object().expect("operations").keys();
        names.map(|name| name.to_uppercase().parse().expect("a method")).collect()
    };
    paths.iter().map(|(path, operations)| (path.clone(), methods(operations))).collect()
}

/// The path with every parameter set to `value`.
fn with_parameters(path: &str, value: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { value } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_route_is_a_404() {
    let setup = Setup::new().await;
    for path in [
        "/v1",
        "/v1/",
        "/v2/events",
        "/v1/event",
        "/v1/events/",
        "/v1//events",
        "//v1/events",
        "/V1/EVENTS",
        "/v1/events/0198f1a2-3b4c-7d5e-8f60-718293a4b5c6/unknown",
        "/v1/%65vents/%00",
        "/admin",
        "/.env",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let request = setup.producer.request(method.clone(), path);
            refused(request, 404, "route_not_found", &format!("{method} {path}")).await;
        }
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_id_is_not_found() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    // Applications can have uids of visible characters, so here only other characters are tried.
    let no_names = ["%00", "%ff%fe", "'%20or%201=1--", "..%2f..%2fetc", "%C3%A9"];
    let no_ids =
        ["1", "not-a-uuid", "0198f1a23b4c7d5e8f60718293a4b5c6", "%7B0198f1a2-3b4c-7d5e-8f60-718293a4b5c6%7D"];
    for (path, methods) in paths().iter().filter(|(path, _)| path.contains('{')) {
        let is_named = path.contains("{application_id}");
        for value in no_names.iter().chain(no_ids.iter().filter(|_| !is_named)) {
            for method in methods {
                let path = with_parameters(path, value);
                let request = setup.producer.request(method.clone(), &path).body("{}");
                let request =
                    request.header("content-type", "application/json").header("idempotency-key", "k");
                let what = format!("{method} {path}");
                let response = request.try_clone().expect("a request").send().await.expect("a response");
                let problem: Value = response.json().await.expect("a problem");
                let code = problem["code"].as_str().expect("a code");
                assert!(code.ends_with("_not_found"), "{what}: {problem}");
                refused(request, 404, code, &what).await;
            }
        }
    }
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsupported_method_is_a_405_that_lists_the_supported_ones() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    let served = ["/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"];
    let served = served.map(|path| (path.to_owned(), vec![Method::GET]));
    for (path, methods) in paths().into_iter().chain(served) {
        let path = with_parameters(&path, "0198f1a2-3b4c-7d5e-8f60-718293a4b5c6");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            let method: Method = method.parse().expect("a method");
            if methods.contains(&method) {
                continue;
            }
            let request = setup.producer.request(method.clone(), &path);
            let response = request.try_clone().expect("a request").send().await.expect("a response");
            let allow = response.headers().get("allow").map(|allow| allow.to_str().expect("text").to_owned());
            refused(request, 405, "method_not_allowed", &format!("{method} {path}")).await;
            let mut expected: Vec<String> = methods.iter().map(ToString::to_string).collect();
            if methods.contains(&Method::GET) {
                expected.push("HEAD".to_owned());
            }
            let allow = allow.unwrap_or_default();
            let mut named: Vec<_> = allow.split(", ").map(str::to_owned).collect();
            named.sort();
            expected.sort();
            assert_eq!(named, expected, "{method} {path}");
        }
    }
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_parameter_is_a_422_that_names_it() {
    let setup = Setup::new().await;
    for (path, parameter) in [
        ("/v1/events?limit=251", "limit"),
        ("/v1/events?limit=0", "limit"),
        ("/v1/events?limit=-1", "limit"),
        ("/v1/events?limit=ten", "limit"),
        ("/v1/events?limit=", "limit"),
        ("/v1/events?limit=99999999999999999999", "limit"),
        ("/v1/events?limit=1&limit=2", "limit"),
        ("/v1/deliveries?limit=251", "limit"),
        ("/v1/events?cursor=garbage", "cursor"),
        ("/v1/events?cursor=%00%ff", "cursor"),
        ("/v1/deliveries?cursor=AAAA", "cursor"),
        ("/v1/events?created_after=yesterday", "created_after"),
        ("/v1/events?created_after=2026-01-01", "created_after"),
        ("/v1/events?created_before=2026-13-01T00:00:00Z", "created_before"),
        ("/v1/events?created_before=2026-01-01T00:00:00+1:00", "created_before"),
        ("/v1/events?event_type=a..b", "event_type"),
        ("/v1/events?event_type=%ff", "event_type"),
        ("/v1/events?data_contains=nonsense", "data_contains"),
        ("/v1/events?data_contains=[]", "data_contains"),
        (r#"/v1/events?data_contains={"a":"\u0000"}"#, "data_contains"),
        (r#"/v1/events?data_contains={"a":1e131071}"#, "data_contains"),
        ("/v1/deliveries?status=done", "status"),
        ("/v1/deliveries?status=", "status"),
        ("/v1/deliveries?endpoint_id=1", "endpoint_id"),
        ("/v1/deliveries?event_id=1", "event_id"),
        ("/v1/deliveries?last_response_status=99", "last_response_status"),
        ("/v1/deliveries?last_response_status=600", "last_response_status"),
    ] {
        let problem =
            refused(setup.producer.request(Method::GET, path), 422, "validation_failed", path).await;
        assert_eq!(problem["errors"][0]["field"], parameter, "{path}");
    }
    // As many values as allowed, and one more.
    let many = |count: usize| format!("/v1/events?{}", "event_type=a&".repeat(count));
    setup.producer.get(&many(100)).await;
    refused(setup.producer.request(Method::GET, &many(101)), 422, "validation_failed", "101 values").await;
    // Extreme values that are valid.
    for path in [
        "/v1/events?limit=250",
        "/v1/events?cursor=_____________________w",
        "/v1/events?cursor=AAAAAAAAAAAAAAAAAAAAAA",
        "/v1/events?created_after=0000-01-01T00:00:00Z&created_before=9999-12-31T23:59:59Z",
        "/v1/deliveries?created_after=9999-12-31T23:59:59Z",
        // Times as generated clients write them, and the `null` of a last page.
        "/v1/events?created_before=2026-01-01T00:00:00+01:00",
        "/v1/events?created_before=2026-01-01T00:00:00%20+00:00",
        "/v1/deliveries?created_after=2026-01-01T00:00:00%2B0000",
        "/v1/events?cursor=",
        "/v1/event-types?cursor=&limit=1",
        r#"/v1/events?data_contains={"a":[{"b":98765432109876543210}]}"#,
    ] {
        assert_eq!(setup.producer.get(path).await["data"].as_array().map(Vec::len), Some(0), "{path}");
    }
    setup.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_parameter_is_a_422_that_names_it_on_every_route() {
    let setup = Setup::new().await;
    let before = setup.stored().await;
    for (path, methods) in paths() {
        let path = with_parameters(&path, "0198f1a2-3b4c-7d5e-8f60-718293a4b5c6");
        for method in methods {
            let what = format!("{method} {path}");
            let path = format!("{path}?aplication_id=acme&limit=1&Limit=1");
            let request = setup.admin.request(method.clone(), &path).header("idempotency-key", "k");
            let request = request.header("content-type", "application/json").body("{}");
            let problem = refused(request, 422, "validation_failed", &what).await;
            let named: Vec<_> = problem["errors"].as_array().expect("errors").iter().collect();
            let is_named = |name: &str| named.iter().any(|error| error["field"] == name);
            assert!(is_named("aplication_id") && is_named("Limit"), "{what}: {problem}");
            // Without a valid credential the response only says so.
            let stranger = setup.admin.with_key("pr_0000000000000000000000000000000000000000000");
            let request = stranger.request(method, &path).header("idempotency-key", "k");
            refused(request, 401, "credentials_invalid", &what).await;
        }
    }
    let head = setup.producer.request(Method::HEAD, "/v1/events?limt=1").send().await.expect("a response");
    assert_eq!(head.status(), 422);
    assert_eq!(setup.stored().await, before);
    setup.finish().await;
}
