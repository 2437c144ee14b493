use chrono::Utc;
use postrider_domain::address::AddressGuard;
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_secrets::headers::MASK;
use postrider_secrets::signing::Algorithm;
use uuid::Uuid;

use super::*;

fn rules() -> UrlRules {
    UrlRules { guard: AddressGuard::default(), https_only: false }
}

fn create(json: &str) -> Result<NewEndpoint, Problem> {
    serde_json::from_str::<CreateEndpointRequest>(json).expect("a request").check(&rules())
}

/// Returns an endpoint with all settings set.
fn endpoint() -> Endpoint {
    let settings = create(
        r#"{"url":"https://example.com","description":"a","metadata":{"a":1},"event_types":["a.*"],
            "headers":{"x-team":"blue","x-token":"secret"},"sensitive_headers":["x-token"],"rate_limit":7,
            "concurrency_limit":7,"max_attempts":7,"retry_schedule":[7],"permanent_statuses":[407],
            "timeout_seconds":7,"ordered":true,
            "filter":{"data.a":1}}"#,
    )
    .expect("an endpoint")
    .settings;
    let headers = settings.headers.into_iter().map(|(name, value)| {
        let shown = if name == "x-token" { MASK.to_owned() } else { value };
        (name, shown)
    });
    let settings = EndpointSettings { headers: headers.collect(), ..settings };
    Endpoint {
        id: EndpointId(Uuid::nil()),
        application_id: ApplicationId(Uuid::nil()),
        settings,
        is_active: true,
        disabled_reason: None,
        created_at: Utc::now(),
        updated_at: Utc::now(),
    }
}

fn change(current: &Endpoint, json: &str) -> Result<Update, Vec<String>> {
    let request: UpdateEndpointRequest = serde_json::from_str(json).expect("a request");
    request
        .apply(current, &rules())
        .map_err(|problem| problem.errors.into_iter().map(|error| error.field).collect())
}

/// Returns the settings as the audit log shows them, for comparison.
fn shown(settings: &EndpointSettings) -> serde_json::Value {
    serde_json::to_value(settings).expect("plain data")
}

#[test]
fn absent_is_not_null_for_the_rate_limit() {
    let rate = |json| create(json).expect("an endpoint").settings.rate_limit;
    assert_eq!(rate(r#"{"url":"https://example.com"}"#), Some(1_000));
    assert_eq!(rate(r#"{"url":"https://example.com","rate_limit":null}"#), None);
    assert_eq!(rate(r#"{"url":"https://example.com","rate_limit":7}"#), Some(7));
}

#[test]
fn every_mistake_is_told_at_once() {
    let problem = create(
        r#"{"url":"x","event_types":[],"max_attempts":0,"timeout_seconds":61,"retry_schedule":[-1],
            "permanent_statuses":[200],"concurrency_limit":1001,"rate_limit":0,"secret":"x","filter":{},
            "sensitive_headers":["x"],"signing_algorithm":"x"}"#,
    )
    .expect_err("a problem");
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
            "signing_algorithm",
            "secret",
        ]
    );
}

#[test]
fn an_empty_change_changes_nothing() {
    let current = endpoint();
    let update = change(&current, "{}").expect("a change");
    assert_eq!(shown(&update.settings), shown(&current.settings));
    assert_eq!((update.is_active, update.disabled_reason), (true, None));
}

#[test]
fn null_means_what_creation_makes_of_an_absent_field() {
    let update = change(
        &endpoint(),
        r#"{"description":null,"metadata":null,"event_types":null,"filter":null,"headers":null,
            "sensitive_headers":null,"rate_limit":null,"concurrency_limit":null,"max_attempts":null,
            "retry_schedule":null,"permanent_statuses":null,"timeout_seconds":null,"ordered":null}"#,
    )
    .expect("a change");
    let fresh = create(r#"{"url":"https://example.com","rate_limit":null}"#).expect("an endpoint");
    assert_eq!(shown(&update.settings), shown(&fresh.settings));
    assert_eq!(
        change(&endpoint(), r#"{"url":null,"is_active":null}"#).err(),
        Some(vec!["is_active".to_owned(), "url".to_owned()])
    );
}

#[test]
fn a_sensitive_header_is_kept_replaced_or_removed_but_never_shown() {
    let headers = |json| {
        let settings = change(&endpoint(), json)?.settings;
        Ok((settings.headers.into_iter().collect::<Vec<_>>(), settings.sensitive_headers))
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let token = vec!["x-token".to_owned()];
    for (json, expected) in [
        (r#"{"headers":{"X-Token":"***"}}"#, Ok((pairs(&[("x-token", MASK)]), token.clone()))),
        (r#"{"headers":{"x-token":"new"}}"#, Ok((pairs(&[("x-token", "new")]), token.clone()))),
        (r#"{"headers":{"x-team":"red"}}"#, Ok((pairs(&[("x-team", "red")]), vec![]))),
        (
            r#"{"headers":{"x-token":"shown"},"sensitive_headers":[]}"#,
            Ok((pairs(&[("x-token", "shown")]), vec![])),
        ),
        (
            r#"{"sensitive_headers":["x-team","x-token"]}"#,
            Ok((
                pairs(&[("x-team", "blue"), ("x-token", MASK)]),
                vec!["x-team".to_owned(), "x-token".to_owned()],
            )),
        ),
        (r#"{"sensitive_headers":[]}"#, Err(vec!["sensitive_headers".to_owned()])),
        (r#"{"sensitive_headers":null}"#, Err(vec!["sensitive_headers".to_owned()])),
        (
            r#"{"headers":{"x-token":"***"},"sensitive_headers":["x-team"]}"#,
            Err(vec!["sensitive_headers".to_owned(), "sensitive_headers".to_owned()]),
        ),
        (
            r#"{"headers":{"x-other":"***"},"sensitive_headers":["x-other"]}"#,
            Err(vec!["headers.x-other".to_owned()]),
        ),
    ] {
        assert_eq!(headers(json), expected, "{json}");
    }
    assert!(
        create(r#"{"url":"https://example.com","headers":{"x":"***"},"sensitive_headers":["x"]}"#).is_err()
    );
}

#[test]
fn a_reason_and_an_end_of_what_is_open_are_for_an_endpoint_that_is_not_active() {
    let disabled = Endpoint { is_active: false, disabled_reason: Some("gone".to_owned()), ..endpoint() };
    let reason = |current: &Endpoint, json| change(current, json).map(|update| update.disabled_reason);
    assert_eq!(reason(&disabled, "{}"), Ok(Some("gone".to_owned())));
    assert_eq!(reason(&disabled, r#"{"disabled_reason":null}"#), Ok(None));
    assert_eq!(reason(&disabled, r#"{"is_active":true}"#), Ok(None));
    assert_eq!(reason(&endpoint(), r#"{"is_active":false}"#), Ok(None));
    let json = r#"{"is_active":false,"disabled_reason":"moved","open_deliveries":"cancel"}"#;
    let update = change(&endpoint(), json).expect("a change");
    assert_eq!((update.is_active, update.disabled_reason.as_deref()), (false, Some("moved")));
    assert_eq!(update.open_deliveries, OpenDeliveries::Cancel);
    assert_eq!(
        change(&endpoint(), r#"{"disabled_reason":"x"}"#).err(),
        Some(vec!["disabled_reason".to_owned()])
    );
    for value in ["cancel", "x"] {
        let json = format!(r#"{{"open_deliveries":"{value}"}}"#);
        assert_eq!(change(&endpoint(), &json).err(), Some(vec!["open_deliveries".to_owned()]));
    }
}

#[test]
fn a_field_that_is_not_given_is_not_judged() {
    let https_only = UrlRules { https_only: true, ..rules() };
    let mut old = endpoint();
    old.settings.url = "http://example.com".to_owned();
    let update = |json| serde_json::from_str::<UpdateEndpointRequest>(json).expect("a request");
    assert!(update(r#"{"description":"b"}"#).apply(&old, &https_only).is_ok());
    let problem = update(r#"{"url":"http://example.com"}"#).apply(&old, &https_only).expect_err("a problem");
    assert_eq!(problem.code, "https_required");
}

#[test]
fn the_algorithm_is_that_of_the_secret_or_the_one_asked_for() {
    let algorithm = |rest: &str| {
        create(&format!(r#"{{"url":"https://example.com",{rest}}}"#)).map(|new| new.key.algorithm()).ok()
    };
    assert_eq!(algorithm(r#""secret":null"#), Some(Algorithm::HmacSha256));
    assert_eq!(algorithm(r#""signing_algorithm":"ed25519""#), Some(Algorithm::Ed25519));
    let private =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    assert_eq!(algorithm(&format!(r#""secret":"{private}""#)), Some(Algorithm::Ed25519));
    assert_eq!(algorithm(&format!(r#""secret":"{private}","signing_algorithm":"hmac-sha256""#)), None);
}

#[test]
fn secret_headers_are_not_sent_to_another_server_than_before() {
    let change = |json: &str| {
        let request: UpdateEndpointRequest = serde_json::from_str(json).expect("a request");
        request.apply(&endpoint(), &rules())
    };
    for url in ["https://example.net", "http://example.com", "https://example.com:8443"] {
        let problem = change(&format!(r#"{{"url":"{url}"}}"#)).expect_err("refused");
        assert_eq!(problem.errors[0].field, "headers.x-token", "{url}");
    }
    assert!(change(r#"{"url":"https://example.com/other?path=1"}"#).is_ok());
    assert!(change(r#"{"url":"https://example.net","headers":{"x-token":"new"}}"#).is_ok());
    assert!(
        change(r#"{"url":"https://example.net","headers":{"x-team":"blue"},"sensitive_headers":null}"#)
            .is_ok()
    );
}

#[test]
fn a_mask_is_no_value_of_a_header() {
    let url = r#""url":"https://example.com""#;
    for headers in [r#"{"x-a":"***"}"#, r#"{"x-a":"***"},"sensitive_headers":["x-a"]"#] {
        let Err(problem) = create(&format!("{{{url},\"headers\":{headers}}}")) else { panic!("{headers}") };
        assert_eq!(problem.errors[0].field, "headers.x-a");
    }
}
