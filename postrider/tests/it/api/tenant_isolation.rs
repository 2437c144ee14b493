//! No application reaches another's data. Every operation of the specification is called with the ids of one
//! application and the key of another, with keys that lack the scope, with keys that are no longer valid, and with
//! none. The tests follow the specification, so that a new operation is covered, and one that cannot be called from
//! here fails.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::producer::{Producer, text};
use crate::support::service::Services;
use crate::support::{Bed, eventually};

const ADMIN_TOKEN: &str = "the-admin-of-this-test";
/// Is part of everything that the victim has. No other application may read it.
const MARK: &str = "victim";

/// One operation of the specification.
struct Operation {
    id: String,
    method: Method,
    path: String,
    /// Names of parameters, with their location.
    parameters: Vec<(String, String)>,
    /// The example of its body.
    body: Option<Value>,
    /// The schema of its body.
    schema: Value,
    /// The scope that it requires, as its description says. `None` if it is for the admin.
    scope: Option<String>,
}

impl Operation {
    fn has(&self, place: &str, name: &str) -> bool {
        self.parameters.iter().any(|(is_in, is_named)| is_in == place && is_named == name)
    }

    fn named_in(&self, place: &str) -> impl Iterator<Item = &str> {
        self.parameters.iter().filter(move |(is_in, _)| is_in == place).map(|(_, name)| name.as_str())
    }
}

/// All operations of the specification.
fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&postrider_api::specification()).expect("JSON");
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let body = &operation["requestBody"]["content"]["application/json"];
            let schema = body["schema"]["$ref"].as_str().and_then(|text| text.rsplit('/').next());
            operations.push(Operation {
                id: text(&operation["operationId"]),
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                parameters: parameters.map(|one| (text(&one["in"]), text(&one["name"]))).collect(),
                body: body.get("example").cloned(),
                schema: schema
                    .map(|name| document["components"]["schemas"][name].clone())
                    .unwrap_or_default(),
                scope: scope(&text(&operation["description"])),
            });
        }
    }
    assert!(operations.len() >= 20, "the specification has few operations: {}", operations.len());
    operations
}

fn scope(description: &str) -> Option<String> {
    let description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = description.split_once("` scope").and_then(|(text, _)| text.rsplit_once('`'));
    let is_for_admin = description.ends_with("Requires an admin token.");
    assert!(named.is_some() || is_for_admin, "no scope in the description: {description}");
    named.map(|(_, scope)| scope.to_owned())
}

/// An application with one of everything, and the values of parameters that name it.
struct Tenant {
    producer: Producer,
    ids: BTreeMap<&'static str, String>,
}

impl Tenant {
    async fn new(bed: &Bed, admin: &Producer, uid: &str) -> Self {
        let created = admin.post("/v1/applications", &json!({"name": uid, "uid": uid})).await;
        let application_id = text(&created["id"]);
        let key = Some(text(&created["api_key"]));
        let producer = Producer { key, application_id: application_id.clone(), ..admin.clone() };
        let endpoint = producer
            .endpoint(json!({"url": format!("https://{uid}.example.com"), "metadata": {"of": uid}}))
            .await;
        let event = producer.publish(&format!("{uid}.created"), json!({"of": uid})).await;
        let event_id = text(&event["event_id"]);
        let delivery = producer.deliveries(&event_id).await.remove(0);
        let api_keys = format!("/v1/applications/{application_id}/api-keys");
        let api_key = producer.post(&api_keys, &json!({"name": uid})).await;
        let event_type = format!("{uid}.catalogued");
        producer.post("/v1/event-types", &json!({"name": event_type, "description": uid})).await;
        let replay = json!({"mode": "replay", "event_types": [event_type]});
        let replay = producer.post("/v1/replays", &replay).await;
        let rejection = rejection(bed, &application_id, uid).await;
        let ids = BTreeMap::from([
            ("replay_id", text(&replay["id"])),
            ("emit_rejection_id", rejection),
            ("event_type", event_type),
            ("application_id", application_id),
            ("endpoint_id", text(&endpoint["id"])),
            ("event_id", event_id),
            ("delivery_id", text(&delivery["id"])),
            ("api_key_id", text(&api_key["id"])),
        ]);
        Self { producer, ids }
    }

    fn id(&self, name: &str) -> &str {
        self.ids.get(name).unwrap_or_else(|| {
            panic!("the path parameter `{name}` is new: give the tenants of this test such a thing")
        })
    }

    /// Everything that it can read of its own data, without the times.
    async fn everything(&self, operations: &[Operation]) -> BTreeMap<String, Value> {
        let mut found = BTreeMap::new();
        for operation in operations.iter().filter(|operation| operation.method == Method::GET) {
            let path = path_to(operation, self, self);
            let (status, mut body) = call(operation, &path, None, self.key()).await;
            let expected = if operation.scope.is_some() { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert!(status == expected, "{}: the owner got status {status} {body}", operation.id);
            forget_times(&mut body);
            // Reading a secret is logged, and this reads it.
            if let Some(entries) = body["data"].as_array_mut() {
                entries.retain(|entry| entry["action"] != "endpoint.read_secret");
            }
            found.insert(operation.id.clone(), body);
        }
        found
    }

    /// True if a response contains any of its data.
    fn is_revealed_by(&self, answer: &Value) -> bool {
        let told = answer.to_string();
        told.contains(MARK) || self.ids.values().any(|id| told.contains(id))
    }

    /// The positions of its items in lists, in both forms of a cursor, and the very first and the very last position.
    fn cursors(&self) -> Vec<String> {
        let id = |name: &str| self.id(name).parse::<uuid::Uuid>().expect("a UUID").into_bytes().to_vec();
        let names = self.ids.keys().filter(|name| **name != "event_type");
        let place = [id("application_id"), self.id("event_type").as_bytes().to_vec()].concat();
        let ends = [vec![0; 16], vec![255; 16], [vec![0; 16], b"a".to_vec()].concat(), place];
        names.map(|name| id(name)).chain(ends).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).collect()
    }

    /// Creates another key.
    async fn new_key(&self, settings: Value) -> Value {
        let path = format!("/v1/applications/{}/api-keys", self.id("application_id"));
        self.producer.post(&path, &settings).await
    }

    fn key(&self) -> (&Producer, Option<&str>) {
        (&self.producer, self.producer.key.as_deref())
    }
}

/// Emits an event that cannot be accepted, and waits until its rejection is visible.
async fn rejection(bed: &Bed, application_id: &str, uid: &str) -> String {
    let sql = bed.sql().await;
    let emit = "select postrider.emit($1, 'no type', jsonb_build_object('of', $2::text), $2)";
    sql.execute(emit, &[&application_id, &uid]).await.expect("emitted");
    let find = "select id::text from emit_rejections where idempotency_key = $1";
    eventually("a rejection", async || {
        sql.query_opt(find, &[&uid]).await.expect("a response").map(|row| row.get(0))
    })
    .await
}

/// The path with the ids of `tenant`, below `application`.
fn path_to(operation: &Operation, application: &Tenant, tenant: &Tenant) -> String {
    let mut path = operation.path.clone();
    for name in operation.named_in("path") {
        let owner = if name == "application_id" { application } else { tenant };
        path = path.replace(&format!("{{{name}}}"), owner.id(name));
    }
    path
}

/// Replaces values that change by themselves.
fn forget_times(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(forget_times),
        Value::Array(items) => items.iter_mut().for_each(forget_times),
        // The last use of a key may be written in between.
        Value::Null => *value = json!("a time or null"),
        Value::String(text) if chrono::DateTime::parse_from_rfc3339(text).is_ok() => {
            *value = json!("a time or null");
        }
        _ => {}
    }
}

/// Calls an operation with this body, or with the example of its body.
async fn call(
    operation: &Operation,
    path: &str,
    body: Option<&Value>,
    (producer, key): (&Producer, Option<&str>),
) -> (StatusCode, Value) {
    let caller = Producer { key: key.map(str::to_owned), ..producer.clone() };
    let mut request = caller.request(operation.method.clone(), path);
    if operation.has("header", "Idempotency-Key") {
        request = request.header("idempotency-key", uuid::Uuid::new_v4().to_string());
    }
    if let Some(body) = body.or(operation.body.as_ref()) {
        request = request.json(body);
    }
    let response = request.send().await.expect("a response");
    let status = response.status();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Every way in which an operation can name something of the victim's: by its ids, by the application's uid, by the
/// victim's ids below one's own application, and in `application_id`.
fn intrusions(operation: &Operation, victim: &Tenant, intruder: &Tenant) -> Vec<String> {
    let path = path_to(operation, victim, victim);
    let mut paths = Vec::new();
    if operation.named_in("path").count() > 0 {
        paths.push(path.clone());
    }
    if operation.has("path", "application_id") {
        paths.push(path.replace(victim.id("application_id"), MARK));
        if operation.named_in("path").count() > 1 {
            paths.push(path_to(operation, intruder, victim));
        }
    }
    if operation.has("query", "application_id") {
        paths.push(format!("{path}?application_id={}", victim.id("application_id")));
        paths.push(format!("{path}?application_id={MARK}"));
        if operation.named_in("path").count() > 0 {
            paths.push(format!("{path}?application_id={}", intruder.id("application_id")));
        }
    }
    paths
}

/// Lists of the intruder's own, with the victim's ids in every filter, and with cursors that the victim could have got.
fn searches(operation: &Operation, victim: &Tenant, intruder: &Tenant) -> Vec<String> {
    let path = path_to(operation, intruder, intruder);
    let filters = operation.named_in("query").flat_map(|name| {
        match (name, victim.ids.get(name)) {
            ("application_id", _) => Vec::new(),
            ("resource_id", _) => victim.ids.values().cloned().collect(),
            ("cursor", _) => victim.cursors(),
            (_, id) => id.into_iter().cloned().collect(),
        }
        .into_iter()
        .map(move |value| format!("{name}={value}"))
    });
    let filtered = filters.map(|filter| format!("{path}?{filter}"));
    let is_list = operation.has("query", "cursor");
    filtered.chain(is_list.then(|| path.clone())).collect()
}

/// Bodies that name something of the victim's: the example, and only its required fields, each with the id.
fn bodies(operation: &Operation, victim: &Tenant) -> Vec<Value> {
    let Some(example) = &operation.body else { return Vec::new() };
    let required: Vec<_> = operation.schema["required"].as_array().into_iter().flatten().map(text).collect();
    let mut least = example.clone();
    least.as_object_mut().expect("an object").retain(|field, _| required.contains(field));
    let mut bodies = Vec::new();
    let fields = operation.schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field);
    for field in fields {
        // Names of event types are not secret.
        let id = |name: &str| victim.ids.get(name).filter(|_| name.ends_with("_id"));
        let one = id(field).map(|id| json!(id));
        let Some(value) = one.or_else(|| Some(json!([id(field.strip_suffix('s')?)?]))) else { continue };
        for mut body in [example.clone(), least.clone()] {
            body[field] = value.clone();
            bodies.push(body);
        }
    }
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn no_operation_reaches_another_application() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", ADMIN_TOKEN)]).await;
    let admin = Producer { key: Some(ADMIN_TOKEN.to_owned()), ..Producer::admin(services.api) };
    let victim = Tenant::new(&bed, &admin, MARK).await;
    let intruder = Tenant::new(&bed, &admin, "intruder").await;
    let operations = operations();
    let before = victim.everything(&operations).await;
    let mut tried_in_bodies = BTreeSet::new();

    for operation in &operations {
        for path in intrusions(operation, &victim, &intruder) {
            let (status, body) = call(operation, &path, None, intruder.key()).await;
            let what = format!("{} {path} got status {status} {body}", operation.id);
            assert!([StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&status), "{what}");
            assert_ne!(body["code"], "route_not_found", "{what}");
        }
        // The admin cannot do it by mistake either, when acting for one of them.
        if operation.has("query", "application_id") && operation.named_in("path").count() > 0 {
            let path = path_to(operation, &victim, &victim);
            let path = format!("{path}?application_id={}", intruder.id("application_id"));
            let (status, body) = call(operation, &path, None, (&admin, Some(ADMIN_TOKEN))).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{} {path}: {body}", operation.id);
        }
        for path in searches(operation, &victim, &intruder) {
            let (status, body) = call(operation, &path, None, intruder.key()).await;
            let what = format!("{} {path} got status {status} {body}", operation.id);
            // A cursor may belong to another list, and lists of all applications are for the admin only.
            let is_refused = path.contains("cursor=") && status == StatusCode::UNPROCESSABLE_ENTITY
                || operation.scope.is_none() && status == StatusCode::FORBIDDEN;
            assert!(status.is_success() || is_refused, "{what}");
            assert!(!victim.is_revealed_by(&body), "{what}");
        }
        for body in bodies(operation, &victim) {
            let path = path_to(operation, &intruder, &intruder);
            let (status, answer) = call(operation, &path, Some(&body), intruder.key()).await;
            let what = format!("{} with {body} got status {status} {answer}", operation.id);
            let is_refused = [StatusCode::NOT_FOUND, StatusCode::UNPROCESSABLE_ENTITY].contains(&status);
            assert!(is_refused, "{what}");
            tried_in_bodies.insert(operation.id.as_str());
        }
    }
    assert!(tried_in_bodies.len() >= 4, "few bodies contain an id: {tried_in_bodies:?}");
    assert_eq!(victim.everything(&operations).await, before, "something of the victim's was changed");

    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_requires_a_valid_credential() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", ADMIN_TOKEN)]).await;
    let admin = Producer { key: Some(ADMIN_TOKEN.to_owned()), ..Producer::admin(services.api) };
    let tenant = Tenant::new(&bed, &admin, MARK).await;
    let gone = Tenant::new(&bed, &admin, "gone").await;
    let revoked = tenant.new_key(json!({"name": "revoked"})).await;
    let expired = tenant.new_key(json!({"name": "expired", "expires_at": "2100-01-01T00:00:00Z"})).await;
    let application = format!("/v1/applications/{}", tenant.id("application_id"));
    let revocation = format!("{application}/api-keys/{}", text(&revoked["id"]));
    for path in [revocation, format!("/v1/applications/{}", gone.id("application_id"))] {
        let response = admin.request(Method::DELETE, &path).send().await.expect("a response");
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
    }
    let expire = "update api_keys set expires_at = now() where id = $1::text::uuid";
    bed.sql().await.execute(expire, &[&text(&expired["id"])]).await.expect("expired");
    let operations = operations();
    let before = tenant.everything(&operations).await;

    let unknown = format!("pr_{}", "x".repeat(43));
    let (revoked, expired) = (text(&revoked["api_key"]), text(&expired["api_key"]));
    let credentials = [
        None,
        Some("nonsense"),
        Some(&unknown),
        Some(&revoked),
        Some(&expired),
        gone.producer.key.as_deref(),
        Some(&ADMIN_TOKEN[1..]),
        Some(tenant.id("api_key_id")),
    ];
    for operation in &operations {
        for credential in credentials {
            let path = path_to(operation, &tenant, &tenant);
            let (status, body) = call(operation, &path, None, (&tenant.producer, credential)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{} with {credential:?}: {body}", operation.id);
        }
    }
    assert_eq!(tenant.everything(&operations).await, before, "something was changed");

    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_requires_its_scope_and_no_other() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[("POSTRIDER_ADMIN_TOKEN", ADMIN_TOKEN)]).await;
    let admin = Producer { key: Some(ADMIN_TOKEN.to_owned()), ..Producer::admin(services.api) };
    let tenant = Tenant::new(&bed, &admin, MARK).await;
    let scopes = ["publish", "read", "manage"];
    let mut without = BTreeMap::new();
    for missing in scopes {
        let others: Vec<_> = scopes.into_iter().filter(|&scope| scope != missing).collect();
        let key = tenant.new_key(json!({"name": "others", "scopes": others})).await;
        without.insert(missing, text(&key["api_key"]));
    }
    let operations = operations();
    let before = tenant.everything(&operations).await;

    for operation in &operations {
        let path = path_to(operation, &tenant, &tenant);
        let (keys, code): (Vec<&String>, _) = match &operation.scope {
            Some(scope) => (vec![&without[scope.as_str()]], "scope_required"),
            None => (tenant.producer.key.iter().chain(without.values()).collect(), "admin_required"),
        };
        for key in keys {
            let (status, body) = call(operation, &path, None, (&tenant.producer, Some(key))).await;
            let refusal = (status, text(&body["code"]));
            assert_eq!(refusal, (StatusCode::FORBIDDEN, code.to_owned()), "{}: {body}", operation.id);
        }
    }
    assert_eq!(tenant.everything(&operations).await, before, "something was changed");

    for operation in &operations {
        let Some(scope) = &operation.scope else { continue };
        let key = tenant.new_key(json!({"name": "this", "scopes": [scope]})).await;
        let path = path_to(operation, &tenant, &tenant);
        let (status, body) = call(operation, &path, None, (&tenant.producer, key["api_key"].as_str())).await;
        // A key that can create keys cannot give them scopes that it does not have.
        let is_giving = operation.id == "create_api_key" && status == StatusCode::FORBIDDEN;
        let is_refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) && !is_giving;
        assert!(!is_refused && !status.is_server_error(), "{}: {status} {body}", operation.id);
    }

    services.stop().await;
    bed.finish().await;
}
