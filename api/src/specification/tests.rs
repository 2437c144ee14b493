use super::*;
use crate::resources::api_keys::CreateApiKeyRequest;
use crate::resources::applications::{CreateApplicationRequest, UpdateApplicationRequest};
use crate::resources::endpoints::bodies::{CreateEndpointRequest, UpdateEndpointRequest};
use crate::resources::endpoints::secrets::RotateSecretRequest;
use crate::resources::endpoints::try_filter::{TestEndpointFilterRequest, TestFilterRequest};
use crate::resources::event_type_request::{CreateEventTypeRequest, UpdateEventTypeRequest};
use crate::resources::publish::PublishEventRequest;
use crate::resources::publish_batch::PublishEventBatchRequest;
use crate::resources::replay_event::ReplayEventRequest;
use crate::resources::replay_request::CreateReplayRequest;
use crate::web::catalogue::{ERROR_CODES, ErrorCode};

const OPERATIONS: &[&str] = &[
    "cancel_delivery",
    "cancel_replay",
    "create_api_key",
    "create_application",
    "create_endpoint",
    "create_event_type",
    "create_replay",
    "delete_api_key",
    "delete_application",
    "delete_endpoint",
    "delete_event_type",
    "expunge_event",
    "get_api_key",
    "get_application",
    "get_delivery",
    "get_emit_rejection",
    "get_endpoint",
    "get_endpoint_health",
    "get_endpoint_secret",
    "get_endpoint_stats",
    "get_event",
    "get_event_type",
    "get_replay",
    "list_api_keys",
    "list_applications",
    "list_audit_log",
    "list_deliveries",
    "list_delivery_attempts",
    "list_emit_rejections",
    "list_endpoints",
    "list_event_deliveries",
    "list_event_types",
    "list_events",
    "list_replays",
    "publish_event",
    "publish_event_batch",
    "replay_event",
    "retry_delivery",
    "rotate_endpoint_secret",
    "test_endpoint",
    "test_endpoint_filter",
    "test_filter",
    "update_application",
    "update_endpoint",
    "update_event_type",
];

#[test]
fn every_operation_is_described_secured_and_exemplified() {
    let mut ids = Vec::new();
    for_each_operation(&mut document(), |operation| {
        let id = operation["operationId"].as_str().expect("an operation id").to_owned();
        for part in ["summary", "description"] {
            assert!(operation[part].as_str().is_some_and(|text| !text.is_empty()), "{id}: {part}");
        }
        assert_eq!(operation["security"], json!([{ "bearer": [] }]), "{id}");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{id}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{id}: {}", parameter["name"]);
        }
        let request = operation["requestBody"].as_object().map(|body| &body["content"]["application/json"]);
        assert!(request.is_none_or(|media| media["example"].is_object()), "{id}: an example of the request");
        for (status, response) in operation["responses"].as_object().expect("responses") {
            assert!(!response["description"].as_str().unwrap_or_default().is_empty(), "{id}: {status}");
            let is_refusal = status.starts_with(['4', '5']);
            let media_type = if is_refusal { "application/problem+json" } else { "application/json" };
            if status != "204" {
                assert!(response["content"][media_type]["example"].is_object(), "{id}: {status}");
            }
        }
        ids.push(id);
    });
    ids.sort();
    assert_eq!(ids, OPERATIONS);
}

#[test]
fn examples_of_problems_can_occur() {
    for_each_operation(&mut document(), |operation| {
        let id = operation["operationId"].as_str().expect("an operation id");
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let example = &response["content"]["application/problem+json"]["example"];
            let Some(code) = example["code"].as_str() else { continue };
            let is_listed = |entry: &ErrorCode| entry.code == code && entry.status.to_string() == *status;
            assert!(ERROR_CODES.iter().any(is_listed), "{id}: {code} is no {status}");
            for error in example["errors"].as_array().into_iter().flatten() {
                let is_field = |parameter: &Value| parameter["name"] == error["field"];
                let is_parameter = operation["parameters"].as_array().into_iter().flatten().any(is_field);
                assert!(is_parameter || operation["requestBody"].is_object(), "{id}: {}", error["field"]);
            }
        }
    });
}

#[test]
fn fields_of_responses_are_always_there_and_nullable_where_they_may_be_null() {
    let mut document = document();
    let event = &schemas(&document)["Event"];
    assert_eq!(event["required"].as_array().map(Vec::len), event["properties"].as_object().map(Map::len));
    let delivery = &schemas(&document)["Delivery"]["properties"];
    assert_eq!(delivery["next_retry_at"]["nullable"], json!(true));
    assert_eq!(delivery["status"].get("nullable"), None);
    assert_eq!(schemas(&document)["EventPage"]["properties"]["next_cursor"]["nullable"], json!(true));
    assert_eq!(event["properties"]["data"]["additionalProperties"], json!(true));
    assert_eq!(request_schemas(&mut document).len(), 14);
}

#[test]
fn the_document_has_nothing_that_generators_stumble_over() {
    let text = text();
    for word in [
        "oneOf",
        "anyOf",
        "allOf",
        "discriminator",
        "webhooks\":",
        "Page_",
        "\"default\": null",
        "\"parameters\": null",
    ] {
        assert!(!text.contains(word), "{word}");
    }
    assert!(text.ends_with("}\n") && text == super::text());
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), sorted(&document()));
}

#[test]
fn examples_of_responses_have_exactly_the_fields_of_their_schemas() {
    let document = document();
    for (name, schema) in schemas(&document) {
        let example = examples::of(name).unwrap_or_else(|| panic!("{name} has no example"));
        let fields: BTreeSet<_> = schema["properties"].as_object().expect("an object").keys().collect();
        let given: BTreeSet<_> = example.as_object().expect("an object").keys().collect();
        if name.ends_with("Request") {
            assert!(given.is_subset(&fields), "{name}");
        } else {
            assert_eq!(given, fields, "{name}");
        }
    }
}

#[test]
fn examples_of_requests_are_accepted() {
    fn parse<T: serde::de::DeserializeOwned>(name: &str) {
        let example = examples::of(name).expect("an example").to_string();
        crate::web::body::parse::<T>(example.as_bytes())
            .unwrap_or_else(|problem| panic!("{name}: {problem:?}"));
    }
    parse::<CreateApplicationRequest>("CreateApplicationRequest");
    parse::<CreateApiKeyRequest>("CreateApiKeyRequest");
    parse::<CreateEndpointRequest>("CreateEndpointRequest");
    parse::<PublishEventRequest>("PublishEventRequest");
    parse::<PublishEventBatchRequest>("PublishEventBatchRequest");
    parse::<ReplayEventRequest>("ReplayEventRequest");
    parse::<CreateReplayRequest>("CreateReplayRequest");
    parse::<TestFilterRequest>("TestFilterRequest");
    parse::<TestEndpointFilterRequest>("TestEndpointFilterRequest");
    parse::<CreateEventTypeRequest>("CreateEventTypeRequest");
    parse::<UpdateEventTypeRequest>("UpdateEventTypeRequest");
    parse::<RotateSecretRequest>("RotateSecretRequest");
    parse::<UpdateApplicationRequest>("UpdateApplicationRequest");
    parse::<UpdateEndpointRequest>("UpdateEndpointRequest");
}
