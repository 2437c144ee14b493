//! Payload filters of endpoints.

use postrider_domain::filter::Filter;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::Bed;
use crate::support::producer::{Producer, text};
use crate::support::receiver::Receiver;
use crate::support::service::Services;

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_gets_the_events_that_its_filter_matches_and_no_others() {
    let bed = Bed::new().await;
    let services = Services::start(&bed).await;
    let receiver = Receiver::accepting().await;
    let producer = Producer::new(services.api).await;
    let filter = json!({"data.amount": {"gt": 1000}, "data.currency": {"in": ["EUR", "USD"]}});
    let endpoint = producer.endpoint(json!({"url": receiver.url("/large"), "filter": filter})).await;
    assert_eq!(endpoint["filter"], filter);
    producer.endpoint(json!({"url": receiver.url("/all")})).await;
    let mut large = Vec::new();
    for (amount, currency, expected) in
        [(1001, "EUR", 2), (1000, "EUR", 1), (5000, "CHF", 1), (2000, "USD", 2), (2000, "eur", 1)]
    {
        let accepted =
            producer.publish("invoice.paid", json!({"amount": amount, "currency": currency})).await;
        assert_eq!(accepted["deliveries_queued"], expected, "{amount} {currency}");
        if expected == 2 {
            large.push(text(&accepted["event_id"]));
        }
    }
    let webhooks = receiver.wait_for(7).await;
    let mut got: Vec<_> = webhooks.iter().filter(|w| w.path == "/large").map(|w| w.id().to_owned()).collect();
    got.sort();
    large.sort();
    assert_eq!(got, large);

    // A replay applies the filter too, unless it names the endpoint.
    let small = producer.publish("invoice.paid", json!({"amount": 1, "currency": "EUR"})).await;
    let path = format!("/v1/events/{}/replay", text(&small["event_id"]));
    assert_eq!(producer.post(&path, &json!({})).await["deliveries_queued"], 1);
    let named = json!({"endpoint_ids": [endpoint["id"]]});
    assert_eq!(producer.post(&path, &named).await["deliveries_queued"], 1);
    receiver.wait_for(10).await;
    services.stop().await;
    bed.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_can_be_tried_on_samples_and_on_stored_events() {
    let bed = Bed::new().await;
    let services = Services::api_alone(&bed, &[]).await;
    let producer = Producer::new(services.api).await;
    let application = producer.application_id.clone();
    let path = format!("/v1/applications/{application}/endpoints/filter/test");
    let try_on = async |path: &str, body: Value| {
        let response =
            producer.request(reqwest::Method::POST, path).json(&body).send().await.expect("a response");
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.expect("a body"))
    };
    let data = json!({
        "amount": 12.50, "big": 12345678901234567890_u64, "currency": "EUR", "paid": true, "note": null,
        "customer": {"name": "Zoë \"Z\" \\ $", "a.b": 1}, "tags": ["a", "b"],
        "items": [{"sku": "x1", "count": 1}, {"sku": "y2", "count": 3}], "matrix": [[1], [2]]
    });
    for (filter, expected) in [
        (json!({"data.amount": 12.5}), true),
        (json!({"data.amount": "12.5"}), false),
        (json!({"data.amount": {"gte": 12.5, "lt": 13}}), true),
        (json!({"data.amount": {"gt": 12.5}}), false),
        (json!({"data.amount": {"gt": "a"}}), false),
        (json!({"data.big": {"gt": 12345678901234567889_u64}}), true),
        (json!({"data.big": {"gt": 12345678901234567890_u64}}), false),
        (json!({"data.currency": {"ne": "USD"}}), true),
        (json!({"data.currency": {"ne": "EUR"}}), false),
        (json!({"data.currency": {"ne": 5}}), true),
        (json!({"data.currency": {"not_in": ["USD", 1, null]}}), true),
        (json!({"data.currency": {"not_in": ["USD", "EUR"]}}), false),
        (json!({"data.currency": {"starts_with": "E", "gt": "EU", "lte": "EUR"}}), true),
        (json!({"data.currency": {"starts_with": "e"}}), false),
        (json!({"data.paid": true, "data.note": null}), true),
        (json!({"data.paid": {"ne": false}, "data.note": {"ne": null}}), false),
        (json!({"data.nothing": {"ne": 1}}), false),
        (json!({"not": {"data.nothing": 1}}), true),
        (json!({"data.nothing": {"exists": false}, "data.note": {"exists": true}}), true),
        (json!({"data.note": {"exists": false}}), false),
        (json!({"data.nothing": null}), false),
        (json!({"data.amount.x.y": {"exists": false}}), true),
        (json!({"data.customer.name": "Zoë \"Z\" \\ $"}), true),
        (json!({"data.customer.\"a.b\"": 1}), true),
        (json!({"data.customer": {"exists": true, "ne": 1}}), true),
        (json!({"data.tags[*]": "b"}), true),
        (json!({"data.tags[*]": {"ne": "a"}}), true),
        (json!({"not": {"data.tags[*]": "c"}}), true),
        (json!({"data.tags": "b"}), false),
        (json!({"data.currency[*]": "EUR"}), false),
        (json!({"data.items[*].sku": {"starts_with": "y"}}), true),
        (json!({"data.items[*].count": {"gt": 1, "lt": 3}}), false),
        (json!({"data.items.sku": "x1"}), false),
        (json!({"data.matrix[*]": 1}), false),
        (json!({"or": [{"data.amount": 1}, {"and": [{"data.paid": true}, {"data.tags[*]": "a"}]}]}), true),
        (json!({"or": [{"data.amount": 1}, {"data.paid": false}]}), false),
    ] {
        let (status, body) = try_on(&path, json!({"filter": filter, "data": data})).await;
        assert_eq!((status, &body["matched"]), (200, &json!(expected)), "{filter} {body}");
    }

    let event = text(&producer.publish("a", json!({"n": 1})).await["event_id"]);
    let other = text(&producer.publish("a", json!({"n": 2})).await["event_id"]);
    let filter = json!({"data.n": 1});
    let settings = json!({"url": "http://127.0.0.1:9/", "filter": filter});
    let endpoint = text(&producer.endpoint(settings).await["id"]);
    let open = text(&producer.endpoint(json!({"url": "http://127.0.0.1:9/"})).await["id"]);
    let own = |id: &str| format!("/v1/applications/{application}/endpoints/{id}/filter/test");
    for (path, body, expected) in [
        (path.clone(), json!({"filter": filter, "event_id": event}), true),
        (path.clone(), json!({"filter": filter, "event_id": other}), false),
        (own(&endpoint), json!({"event_id": event}), true),
        (own(&endpoint), json!({"data": {"n": 2}}), false),
        (own(&open), json!({"event_id": other}), true),
        (own(&open), json!({"data": {}}), true),
    ] {
        assert_eq!(try_on(&path, body).await, (200, json!({"matched": expected})), "{path}");
    }
    let stranger = Producer::new(services.api).await;
    let foreign = text(&stranger.publish("a", json!({})).await["event_id"]);
    for (path, body, status, code) in [
        (path.clone(), json!({"filter": filter, "event_id": foreign}), 404, "event_not_found"),
        (own(&Uuid::nil().to_string()), json!({"data": {}}), 404, "endpoint_not_found"),
        (path.clone(), json!({"filter": filter}), 422, "validation_failed"),
        (path.clone(), json!({"filter": filter, "data": []}), 422, "validation_failed"),
        (path.clone(), json!({"filter": filter, "data": {}, "event_id": event}), 422, "validation_failed"),
        (
            path.clone(),
            json!({"filter": {"or": [{"data.a": {"gt": []}}]}, "data": {}}),
            422,
            "filter_invalid",
        ),
    ] {
        let (answered, problem) = try_on(&path, body).await;
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{problem}");
    }
    let path = format!("/v1/applications/{application}/endpoints");
    let body = json!({"url": "http://127.0.0.1:9/", "filter": {"or": [{"data.a": {"gt": []}}], "amount": 1}});
    let (status, problem) = producer.refused(&path, &body).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("filter_invalid")));
    let fields: Vec<_> =
        problem["errors"].as_array().expect("errors").iter().map(|e| text(&e["field"])).collect();
    assert_eq!(fields, ["filter.amount", "filter.or[0].data.a.gt"]);
    services.stop().await;
    bed.finish().await;
}

/// A random generator. Its seed is printed, so that a failure can be repeated.
fn random() -> StdRng {
    let seed = std::env::var("POSTRIDER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    eprintln!("POSTRIDER_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

const TEXTS: [&str; 16] = [
    "",
    "a",
    "\"",
    "\\",
    "'",
    "$",
    "a.b",
    "[*]",
    "\" || true || \"",
    "\\\" ? (true)",
    "\n\t\u{1}\u{7f}",
    "é😀",
    "@ == 1",
    "\\u0041",
    "/* */",
    "%",
];

fn one_of<'a, T>(random: &mut StdRng, choices: &'a [T]) -> &'a T {
    &choices[random.random_range(0..choices.len())]
}

fn scalar(random: &mut StdRng) -> Value {
    match random.random_range(0..8) {
        0 => Value::Null,
        1 => json!(random.random_bool(0.5)),
        2..5 => json!(one_of(random, &TEXTS)),
        5 => json!(-1.5),
        _ => json!(random.random_range(-1..3)),
    }
}

fn payload(random: &mut StdRng, depth: usize) -> Value {
    match random.random_range(0..4) {
        0 if depth > 0 => (0..random.random_range(0..4)).map(|_| payload(random, depth - 1)).collect(),
        1 | 2 if depth > 0 => object(random, depth),
        _ => scalar(random),
    }
}

fn object(random: &mut StdRng, depth: usize) -> Value {
    let keys: Vec<_> = (0..random.random_range(0..4)).map(|_| *one_of(random, &TEXTS)).collect();
    keys.into_iter()
        .map(|key| (key.to_owned(), payload(random, depth - 1)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn path(random: &mut StdRng) -> String {
    let mut path = "data".to_owned();
    let keys = random.random_range(1..4);
    let array_after = random.random_range(0..6);
    for number in 0..keys {
        path.push('.');
        path.push_str(&json!(one_of(random, &TEXTS)).to_string());
        if number == array_after {
            path.push_str("[*]");
        }
    }
    path
}

fn condition(random: &mut StdRng) -> Value {
    let mut operators = serde_json::Map::new();
    for _ in 0..random.random_range(1..3) {
        let operator =
            *one_of(random, &["eq", "ne", "gt", "gte", "lt", "lte", "in", "not_in", "starts_with", "exists"]);
        let operand = match operator {
            "gt" | "gte" | "lt" | "lte" => {
                if random.random_bool(0.5) {
                    json!(random.random_range(-1..3))
                } else {
                    json!(one_of(random, &TEXTS))
                }
            }
            "in" | "not_in" => (0..random.random_range(1..4)).map(|_| scalar(random)).collect(),
            "starts_with" => json!(one_of(random, &TEXTS)),
            "exists" => json!(true),
            _ => scalar(random),
        };
        operators.insert(operator.to_owned(), operand);
    }
    match random.random_range(0..6) {
        0 => json!({"exists": false}),
        1 => scalar(random),
        _ => operators.into(),
    }
}

fn filter(random: &mut StdRng, depth: usize) -> Value {
    let mut entries = serde_json::Map::new();
    for _ in 0..random.random_range(1..3) {
        let (key, value) = match random.random_range(0..6) {
            0 if depth > 0 => ("not".to_owned(), filter(random, depth - 1)),
            1 if depth > 0 => ("or".to_owned(), (0..2).map(|_| filter(random, depth - 1)).collect()),
            2 if depth > 0 => ("and".to_owned(), (0..2).map(|_| filter(random, depth - 1)).collect()),
            _ => (path(random), condition(random)),
        };
        entries.insert(key, value);
    }
    entries.into()
}

/// A plain interpreter of the filter language, without PostgreSQL.
fn matches(filter: &Value, data: &Value) -> bool {
    filter.as_object().expect("a filter").iter().all(|(key, value)| match key.as_str() {
        "and" => value.as_array().expect("a list").iter().all(|filter| matches(filter, data)),
        "or" => value.as_array().expect("a list").iter().any(|filter| matches(filter, data)),
        "not" => !matches(value, data),
        path => condition_holds(&values_at(path, data), value),
    })
}

fn values_at<'a>(path: &str, data: &'a Value) -> Vec<&'a Value> {
    let mut values = vec![data];
    let mut rest = path.strip_prefix("data").expect("a path");
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("[*]") {
            values = values.into_iter().filter_map(Value::as_array).flatten().collect();
            rest = after;
            continue;
        }
        let mut keys = serde_json::Deserializer::from_str(&rest[1..]).into_iter::<String>();
        let key = keys.next().expect("a key").expect("a key");
        rest = &rest[1 + keys.byte_offset()..];
        values = values.into_iter().filter_map(|value| value.as_object()?.get(&key)).collect();
    }
    values
}

fn condition_holds(values: &[&Value], condition: &Value) -> bool {
    match condition.as_object() {
        None => values.iter().any(|value| **value == *condition),
        Some(operators) if operators.get("exists") == Some(&json!(false)) => values.is_empty(),
        Some(operators) => {
            values.iter().any(|value| operators.iter().all(|(name, operand)| holds(name, value, operand)))
        }
    }
}

fn holds(operator: &str, value: &Value, operand: &Value) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match (value, operand) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let is_equal =
        |other: &Value| value == other || (value.as_f64().is_some() && value.as_f64() == other.as_f64());
    match operator {
        "eq" => is_equal(operand),
        "ne" => !is_equal(operand),
        "gt" => order == Some(Greater),
        "gte" => matches!(order, Some(Greater | Equal)),
        "lt" => order == Some(Less),
        "lte" => matches!(order, Some(Less | Equal)),
        "in" => operand.as_array().expect("a list").iter().any(is_equal),
        "not_in" => !operand.as_array().expect("a list").iter().any(is_equal),
        "starts_with" => {
            matches!((value, operand), (Value::String(a), Value::String(b)) if a.starts_with(b.as_str()))
        }
        _ => true,
    }
}

/// Evaluates ten thousand random filters on payloads made of the same awkward texts. PostgreSQL gives the documented
/// result: no filter raises an error, none is unknown, and no text is taken for syntax.
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_evaluates_filters_as_documented() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    let statement = sql.prepare("select $1::text::jsonb @@ $2::text::jsonpath").await.expect("a statement");
    let mut random = random();
    let mut matched = 0;
    for _ in 0..10_000 {
        let (filter, data) = (filter(&mut random, 2), object(&mut random, 3));
        let compiled = match Filter::parse(&filter.to_string()) {
            Ok(compiled) => compiled,
            // Now and then a filter is larger than allowed.
            Err(mistakes) if mistakes.iter().all(|mistake| mistake.message.contains("more than")) => continue,
            Err(mistakes) => panic!("{filter}: {mistakes:?}"),
        };
        let row = sql.query_one(&statement, &[&data.to_string(), &compiled.path]).await;
        let is_matched: Option<bool> = row.unwrap_or_else(|error| panic!("{filter} {data}: {error}")).get(0);
        assert_eq!(is_matched, Some(matches(&filter, &data)), "{filter} {data}\n{}", compiled.path);
        matched += u32::from(is_matched == Some(true));
    }
    assert!((500..9_500).contains(&matched), "{matched} of them match");
    bed.finish().await;
}

/// Only the first hundred elements of an array count.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_beginning_of_a_long_array_is_examined() {
    let bed = Bed::new().await;
    let sql = bed.sql().await;
    let filter = Filter::parse(r#"{"data.list[*]":1}"#).expect("a filter");
    for (position, length, expected) in
        [(0, 1, true), (99, 100, true), (99, 100_000, true), (100, 101, false)]
    {
        let mut list = vec![json!(0); length];
        list[position] = json!(1);
        let data = json!({ "list": list }).to_string();
        let row = sql
            .query_one("select $1::text::jsonb @@ $2::text::jsonpath", &[&data, &filter.path])
            .await
            .expect("a response");
        assert_eq!(row.get::<_, Option<bool>>(0), Some(expected), "{position} of {length}");
    }
    bed.finish().await;
}
