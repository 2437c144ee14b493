//! The syntax of request fields that the macros of poem-openapi cannot express. It serves human readers, generated
//! clients that check before they send, and the fuzzer, which requires that everything that matches is accepted.
//!
//! The patterns use the common subset of ECMAScript, Rust and RE2: no look-around.

use postrider_domain::delivery::ReplayMode;
use serde_json::{Value, json};

use crate::auth::Scope;
use crate::resources::replay_request::REDRIVEN;
use crate::specification::{for_each_operation, schemas_mut};

/// An event type. In a pattern, the parts before `.*` have the same syntax.
pub(crate) const EVENT_TYPE: &str = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,15}$";
/// The id or uid of an application, in paths and queries.
pub(crate) const APPLICATION: &str = "^[A-Za-z0-9._:@+|~=-]+$";
/// The uid of an application.
const UID: &str = "^[A-Za-z0-9_:@+|~=-][A-Za-z0-9._:@+|~=-]*$";
const EVENT_TYPE_PATTERN: &str = r"^([*]|[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,14}(\.[*])?)$";
const HEADER_VALUE: &str = "^([!-~]([ -~]*[!-~])?)?$";
const SECRET: &str = "^whs(ec|k)_[A-Za-z0-9+/]+={0,2}$";
const NOT_BLANK: &str = r"[^ \t\r\n]";

/// Adds the syntax to the schemas of all requests.
pub(crate) fn add(document: &mut Value) {
    let mut names = Vec::new();
    for_each_operation(document, |operation| references(&operation["requestBody"], &mut names));
    let schemas = schemas_mut(document);
    while let Some(name) = names.pop() {
        let Some(schema) = schemas.get_mut(&name) else { continue };
        for (field, property) in schema["properties"].as_object_mut().into_iter().flatten() {
            references(property, &mut names);
            for (holder, keyword, value) in of(&name, field) {
                let target = if holder.is_empty() { &mut *property } else { &mut property[holder] };
                target[keyword] = value;
            }
        }
    }
}

/// Collects the names of the schemas that a part of the document refers to.
fn references(part: &Value, names: &mut Vec<String>) {
    match part {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(Value::as_str).and_then(|text| text.rsplit('/').next());
            names.extend(name.map(str::to_owned));
            map.values().for_each(|part| references(part, names));
        }
        Value::Array(parts) => parts.iter().for_each(|part| references(part, names)),
        _ => {}
    }
}

/// Returns the keywords of a field, or (`items`, `additionalProperties`) of the values in it.
fn of(schema: &str, field: &str) -> Vec<(&'static str, &'static str, Value)> {
    match field {
        "name" if schema == "CreateEventTypeRequest" => of(schema, "event_type"),
        "name" => vec![("", "pattern", json!(NOT_BLANK))],
        "uid" => vec![("", "pattern", json!(UID))],
        "event_type" => vec![("", "pattern", json!(EVENT_TYPE)), ("", "maxLength", json!(255))],
        "event_types" if schema == "CreateReplayRequest" => {
            vec![("items", "pattern", json!(EVENT_TYPE)), ("items", "maxLength", json!(255))]
        }
        "event_types" => {
            vec![("items", "pattern", json!(EVENT_TYPE_PATTERN)), ("items", "maxLength", json!(255))]
        }
        "scopes" => vec![("items", "enum", Scope::ALL.iter().map(|scope| scope.as_str()).collect())],
        "headers" => {
            vec![
                ("", "maxProperties", json!(20)),
                ("additionalProperties", "maxLength", json!(4_096)),
                ("additionalProperties", "pattern", json!(HEADER_VALUE)),
            ]
        }
        "mode" => vec![("", "enum", ReplayMode::ALL.iter().map(|mode| mode.as_str()).collect())],
        "statuses" => vec![("items", "enum", REDRIVEN.iter().map(|status| status.as_str()).collect())],
        "secret" => vec![("", "pattern", json!(SECRET))],
        "retry_schedule" => vec![("items", "minimum", json!(0)), ("items", "maximum", json!(2_592_000))],
        "permanent_statuses" => vec![("items", "minimum", json!(300)), ("items", "maximum", json!(599))],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_requests_tell_their_syntax_and_fields_of_responses_do_not() {
        let schemas = crate::specification::document()["components"]["schemas"].clone();
        let request = &schemas["CreateEndpointRequest"]["properties"];
        assert_eq!(request["event_types"]["items"]["pattern"], EVENT_TYPE_PATTERN);
        assert_eq!(request["headers"]["additionalProperties"]["maxLength"], 4_096);
        assert_eq!(schemas["PublishEventRequest"]["properties"]["event_type"]["pattern"], EVENT_TYPE);
        assert_eq!(schemas["CreateApiKeyRequest"]["properties"]["scopes"]["items"]["enum"][0], "publish");
        let replay = &schemas["CreateReplayRequest"]["properties"];
        assert_eq!(replay["event_types"]["items"]["pattern"], EVENT_TYPE);
        assert_eq!(replay["mode"]["enum"], json!(["replay", "redrive", "missing"]));
        assert!(schemas["Event"]["properties"]["event_type"].get("pattern").is_none());
    }
}
