//! The specification (OpenAPI 3.0): the document that poem-openapi generates from the operations, corrected and
//! completed so that people and code generators can rely on it. This document is served, shown in `/docs` and kept in
//! the repository.

pub(crate) mod docs;
pub(crate) mod examples;
mod problem_examples;
pub(crate) mod syntax;

use std::collections::BTreeSet;

use poem_openapi::{LicenseObject, OpenApi, OpenApiService, ServerObject};
use serde_json::{Map, Value, json};

use crate::resources::api_keys::ApiKeys;
use crate::resources::applications::Applications;
use crate::resources::attempts::Attempts;
use crate::resources::audit_log::AuditLog;
use crate::resources::deliveries::Deliveries;
use crate::resources::emit_rejections::EmitRejections;
use crate::resources::endpoints::Endpoints;
use crate::resources::endpoints::health::Healths;
use crate::resources::endpoints::secrets::EndpointSecrets;
use crate::resources::endpoints::stats::EndpointStatistics;
use crate::resources::endpoints::test_webhook::EndpointTest;
use crate::resources::endpoints::try_filter::FilterTests;
use crate::resources::event_types::EventTypes;
use crate::resources::events::Events;
use crate::resources::replay_event::ReplayEvent;
use crate::resources::replays::Replays;

const DESCRIPTION: &str = "Postrider delivers webhooks. You publish an event once. Postrider stores it \
                           durably, \
sends it to every endpoint that matches its type and data, signs it according to \
[Standard Webhooks](https://www.standardwebhooks.com), retries failed deliveries and records every attempt.\n\nTimes are \
in RFC 3339 format, in UTC. Lists are paginated with `limit` and `cursor`. Every error response has a problem body \
(RFC 9457) with a stable `code`. Every response has an `X-Request-Id` header. If the request has one, it is used; \
otherwise a new one is generated.";

/// Fields of update requests that may be left out, but may not be null.
const NEVER_NULL: [(&str, &str); 4] = [
    ("UpdateApplicationRequest", "name"),
    ("UpdateApplicationRequest", "is_active"),
    ("UpdateEndpointRequest", "url"),
    ("UpdateEndpointRequest", "is_active"),
];

/// Returns all operations.
pub(crate) fn service() -> OpenApiService<impl OpenApi, ()> {
    let endpoints = (Endpoints, Healths, FilterTests, EndpointSecrets, EndpointTest, EndpointStatistics);
    let events = (Events, ReplayEvent, EventTypes, EmitRejections);
    let operations = (Applications, ApiKeys, endpoints, events, Deliveries, Attempts, Replays, AuditLog);
    OpenApiService::new(operations, "Postrider", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("MIT").url("https://opensource.org/license/mit"))
        .server(ServerObject::new("/").description("The server that serves this document."))
}

/// Returns the specification as published.
pub(crate) fn document() -> Value {
    let mut document: Value = serde_json::from_str(&service().spec()).expect("poem-openapi writes JSON");
    document["openapi"] = json!("3.0.3");
    rename_pages(&mut document);
    correct_schemas(&mut document);
    correct_parameters(&mut document);
    syntax::add(&mut document);
    add_headers(&mut document);
    examples::add(&mut document);
    document
}

/// Returns the specification as pretty-printed JSON, in a fixed order, with a final newline.
pub(crate) fn text() -> String {
    /// The order for human readers. Everything inside is sorted by key.
    const ORDER: [&str; 6] = ["openapi", "info", "servers", "tags", "paths", "components"];
    let document = document();
    let parts: Vec<_> = ORDER
        .iter()
        .map(|name| {
            let part = serde_json::to_string_pretty(&sorted(&document[name])).expect("JSON");
            format!("  \"{name}\": {}", part.replace('\n', "\n  "))
        })
        .collect();
    format!("{{\n{}\n}}\n", parts.join(",\n"))
}

/// Returns the value with the keys of every object sorted, however the map stores them.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|&(key, _)| key);
            entries.into_iter().map(|(key, item)| (key.clone(), sorted(item))).collect()
        }
        leaf => leaf.clone(),
    }
}

/// Renames schemas such as `Page_Event` to `EventPage`.
fn rename_pages(document: &mut Value) {
    let names: Vec<String> =
        schemas(document).keys().filter(|name| name.starts_with("Page_")).cloned().collect();
    let mut text = document.to_string();
    for name in names {
        let item = name.trim_start_matches("Page_");
        text = text.replace(&format!("\"{name}\""), &format!("\"{item}Page\""));
        text = text.replace(&format!("schemas/{name}\""), &format!("schemas/{item}Page\""));
    }
    *document = serde_json::from_str(&text).expect("only names were changed");
}

/// Marks which fields may be null and which are always present. In a response all fields are present; in a request
/// those that may be left out may also be null. poem-openapi only knows which fields are optional in Rust.
fn correct_schemas(document: &mut Value) {
    let requests = request_schemas(document);
    let all = schemas(document).clone();
    for (name, schema) in schemas_mut(document) {
        schema.as_object_mut().expect("a schema is an object").remove("title");
        let required: BTreeSet<String> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let properties = schema["properties"].as_object_mut().expect("every schema is that of a struct");
        for (field, property) in properties.iter_mut() {
            correct_property(property);
            if !required.contains(field) && !NEVER_NULL.contains(&(name.as_str(), field.as_str())) {
                inline(property, &all);
                property["nullable"] = json!(true);
            }
        }
        let fields: Vec<_> = properties.keys().cloned().collect();
        if requests.contains(name.as_str()) {
            schema["additionalProperties"] = json!(false);
        } else {
            schema["required"] = json!(fields);
        }
    }
}

/// Replaces a reference by the schema itself. A nullable field cannot be a mere reference, because OpenAPI 3.0
/// ignores everything beside `$ref`. (For a reference with a description, poem-openapi writes an `allOf`, which
/// generators do not handle well.)
fn inline(property: &mut Value, schemas: &Map<String, Value>) {
    let parts = property["allOf"].as_array().cloned().unwrap_or_default();
    let part = |name: &str| parts.iter().find_map(|part| part[name].as_str());
    let name = part("$ref").and_then(|text| text.rsplit('/').next());
    if let Some(schema) = name.and_then(|name| schemas.get(name)) {
        let description = part("description").map(str::to_owned);
        *property = schema.clone();
        property["description"] = json!(description);
    }
}

/// Writes `additionalProperties: {}`, which means anything, as `true`, which generators understand better.
fn correct_property(property: &mut Value) {
    if let Some(reference) = property["allOf"].as_array().and_then(|parts| parts.first()) {
        *property = reference.clone();
    }
    if property.get("additionalProperties").is_some_and(|open| open.as_object().is_some_and(Map::is_empty)) {
        property["additionalProperties"] = json!(true);
    }
}

fn correct_parameters(document: &mut Value) {
    for_each_operation(document, |operation| {
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            let parameter = parameter.as_object_mut().expect("a parameter is an object");
            parameter.remove("deprecated");
            if parameter["in"] != "query" {
                parameter.remove("explode");
            }
        }
    });
}

/// Adds the headers of responses.
fn add_headers(document: &mut Value) {
    document["components"]["headers"] = json!({
        "Location": {
            "description": "The path of the new resource.",
            "schema": { "type": "string", "example": "/v1/applications/0198f1a2-3b4c-7d5e-8f60-718293a4b5c6" }
        },
        "Retry-After": {
            "description": "The number of seconds to wait before trying again.",
            "schema": { "type": "integer", "format": "int32", "example": 1 }
        },
        "WWW-Authenticate": {
            "description": "The authentication scheme to use.",
            "schema": { "type": "string", "example": "Bearer" }
        },
        "X-Request-Id": {
            "description": "The id of the request, taken from the request or generated. Include it when you \
                            report a problem.",
            "schema": { "type": "string", "example": "0198f1a2-3b4c-7d5e-8f60-718293a4b5c9" }
        }
    });
    for_each_operation(document, |operation| {
        for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
            let own = match status.as_str() {
                "201" => Some("Location"),
                "401" => Some("WWW-Authenticate"),
                "429" | "503" => Some("Retry-After"),
                _ => None,
            };
            let headers = own.into_iter().chain(["X-Request-Id"]);
            let reference =
                |name| (String::from(name), json!({ "$ref": format!("#/components/headers/{name}") }));
            response["headers"] = Value::Object(headers.map(reference).collect());
        }
    });
}

/// Returns the names of the schemas of request bodies.
fn request_schemas(document: &mut Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for_each_operation(document, |operation| {
        let reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
        names.extend(reference.and_then(|text| text.rsplit('/').next()).map(str::to_owned));
    });
    names
}

/// Applies a change to every operation.
pub(crate) fn for_each_operation(document: &mut Value, mut change: impl FnMut(&mut Value)) {
    for (_, path) in document["paths"].as_object_mut().into_iter().flatten() {
        for (_, operation) in path.as_object_mut().into_iter().flatten() {
            change(operation);
        }
    }
}

fn schemas(document: &Value) -> &Map<String, Value> {
    document["components"]["schemas"].as_object().expect("the document has schemas")
}

/// Returns the schemas by name.
pub(crate) fn schemas_mut(document: &mut Value) -> &mut Map<String, Value> {
    document["components"]["schemas"].as_object_mut().expect("the document has schemas")
}

#[cfg(test)]
mod tests;
