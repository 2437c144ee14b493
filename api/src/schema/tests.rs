use std::time::Instant;

use serde_json::{Value, json};

use super::*;

fn compile(schema: &Value) -> Result<Arc<Schema>, FieldError> {
    Schema::compile(&StoredSchema { hash: [0; 32], json: schema.to_string() }).map(Arc::new)
}

fn violations(schema: &Value, data: &str) -> Vec<(String, String)> {
    match compile(schema).expect("a schema").check_here(data) {
        Checked::Satisfied => Vec::new(),
        Checked::Violated(errors) => errors.into_iter().map(|error| (error.field, error.message)).collect(),
    }
}

#[test]
fn violations_are_named_by_the_path_of_the_value() {
    let schema = json!({
        "type": "object",
        "required": ["id"],
        "properties": {
            "id": {"type": "string", "pattern": "^in_[0-9]+$"},
            "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
            "at": {"format": "date-time"}
        },
        "$defs": {"item": {"properties": {"a/b": {"type": "integer"}}, "additionalProperties": false}}
    });
    assert_eq!(violations(&schema, r#"{"id":"in_1","items":[{"a/b":1}],"at":"2026-01-31T12:00:00Z"}"#), []);
    let found = violations(&schema, r#"{"items":[{},{"a/b":"secret"},{"x":1}],"at":"now"}"#);
    let mut fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["data", "data.at", "data.items[1].a/b", "data.items[2]"]);
    let of = |field: &str| &found.iter().find(|(other, _)| other == field).expect("it").1;
    assert_eq!(of("data.items[1].a/b"), r#"it is not of type "integer""#);
    assert!(of("data").contains(r#""id" is a required property"#), "{}", of("data"));
    assert!(found.iter().all(|(_, message)| !message.contains("secret")));
    let many = format!(r#"{{"id":"in_1","items":[{}1]}}"#, "1,".repeat(100));
    let strict = json!({"properties": {"items": {"items": {"type": "string"}}}});
    assert_eq!(violations(&strict, &many).len(), MAX_VIOLATIONS);
}

#[test]
fn numbers_that_no_float_holds_are_checked_as_the_nearest_one() {
    let schema = json!({"properties": {"n": {"type": "integer", "maximum": 1e300}}});
    for data in [r#"{"n":12345678901234567890123}"#, r#"{"n":-1e400}"#, r#"{"n":1e300}"#] {
        assert_eq!(violations(&schema, data), [], "{data}");
    }
    assert_eq!(violations(&schema, r#"{"n":1e999}"#).len(), 1);
    assert_eq!(violations(&schema, r#"{"n":0.5}"#).len(), 1);
}

#[test]
fn what_is_no_schema_is_refused_with_its_path() {
    for (schema, field) in [
        (json!({"type": "objekt"}), "type"),
        (json!({"properties": {"a": {"minimum": "1"}}}), "properties.a.minimum"),
        (json!({"properties": {"a": {"pattern": "("}}}), ""),
        (json!({"properties": {"a": {"pattern": "(?=a)b"}}}), ""),
        (json!({"pattern": r"(\w{1000}){1000}"}), ""),
        (json!({"$schema": "https://example.com/other"}), ""),
        (json!({"$ref": "https://example.com/x"}), "$ref"),
        (json!({"items": {"$ref": "#/$defs/nothing"}}), "items.$ref"),
        (json!({"items": {"$ref": "#"}}), "items.$ref"),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}), "$ref.items.$ref"),
        (json!({"$dynamicRef": "#a"}), "$dynamicRef"),
        (json!({"properties": {"a": {"$id": "x"}}}), "properties.a.$id"),
    ] {
        let refused = compile(&schema).err().unwrap_or_else(|| panic!("{schema}"));
        assert!(!refused.message.is_empty());
        if !field.is_empty() {
            assert_eq!(refused.field, field, "{schema}: {}", refused.message);
        }
    }
    for schema in [
        json!({"properties": {"$ref": {"type": "string"}, "$id": {}, "pattern": {}, "default": {"$ref": "#/$defs/d"}},
               "$defs": {"d": true}, "default": {"$ref": "x"}, "enum": [{"$ref": "#"}]}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/a",
               "dependencies": {"a": ["b"], "c": {"type": "object"}}}),
        json!({}),
    ] {
        compile(&schema).unwrap_or_else(|error| panic!("{schema}: {error:?}"));
    }
}

/// Each level of it applies the next one twice.
fn bomb(levels: usize, keyword: &str) -> Value {
    let mut definitions = serde_json::Map::new();
    for level in 0..levels {
        let next = json!({"$ref": format!("#/$defs/l{}", level + 1)});
        definitions.insert(format!("l{level}"), json!({keyword: [next, next]}));
    }
    definitions.insert(format!("l{levels}"), json!({"type": "object"}));
    json!({"$ref": "#/$defs/l0", "$defs": definitions})
}

#[test]
fn what_costs_too_much_is_refused_before_it_is_compiled() {
    let began = Instant::now();
    for keyword in ["allOf", "anyOf", "oneOf"] {
        compile(&bomb(5, keyword)).expect("a small one");
        for levels in [20, 1_000] {
            assert!(compile(&bomb(levels, keyword)).is_err(), "{levels}");
        }
    }
    let mut deep = json!({});
    for _ in 0..70 {
        deep = json!({"not": deep});
    }
    assert!(compile(&deep).err().is_some_and(|error| error.message.contains("nested deeper")));
    let patterns: serde_json::Map<_, _> = (0..51).map(|n| (format!("^p{n}"), json!({}))).collect();
    assert!(compile(&json!({"patternProperties": patterns})).is_err());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_steps_of_a_check_are_counted_before_it_is_done() {
    let cost = |schema: Value| Cost::of(&schema).expect("a schema");
    let flat = cost(
        json!({"properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/b"}}, "$defs": {"b": {}}}),
    );
    assert_eq!((flat.nodes, flat.steps(0), flat.steps(1_000_000)), (4, 4, 4));
    let listed = cost(json!({"items": {"properties": {"a": {}, "b": {"pattern": "x"}}}}));
    assert_eq!((listed.steps(0), listed.steps(2_000)), (1, 1 + 5 * 1_000));
    let twice = cost(json!({"allOf": [{}, {}], "unevaluatedProperties": {"not": {}}}));
    assert_eq!(twice.steps(2), 1 + 2 * 2 + 2 * 2);
}

#[tokio::test]
async fn a_costly_check_takes_its_turn_and_too_costly_a_one_is_refused() {
    let wide = json!({"items": {"allOf": vec![json!({"type": "number"}); 300]}});
    let wide = compile(&json!({"properties": {"list": wide}})).expect("a schema");
    let list = |count: usize| format!(r#"{{"list":[{}1]}}"#, "1,".repeat(count));
    let check = async |count| wide.check(&Party::Admin, &list(count)).await;
    assert!(matches!(check(10).await, Ok(Checked::Satisfied)));
    assert!(wide.cost.steps(list(10_000).len()) > MAX_STEPS_HERE);
    assert!(matches!(check(10_000).await, Ok(Checked::Satisfied)));
    assert_eq!(check(20_000).await.err().expect("a refusal").code, "schema_too_costly");
}

/// What is named of a small event that violates a schema in very many ways, and how many steps that took.
fn named(schema: &Value, data: &str) -> (Vec<String>, u64) {
    let schema = compile(schema).expect("a schema");
    let value = serde_json::from_str(data).expect("JSON");
    let (violations, steps) = naming::count(&schema, &value, data.len());
    (violations.into_iter().map(|violation| violation.field).collect(), steps)
}

#[test]
fn the_first_violations_are_named_in_bounded_steps_whatever_the_schema() {
    let names: Vec<_> = (0..6_500).map(|number| format!("n{number}")).collect();
    let items = |count: usize| format!(r#"{{"list":[{}{{}}]}}"#, "{},".repeat(count));
    let required = json!({"properties": {"list": {"items": {"required": names}}}});
    let never = json!({"type": "null"});
    let branches =
        json!({"properties": {"list": {"items": {"oneOf": vec![json!({"anyOf": [never, never]}); 400]}}}});
    let many: serde_json::Map<_, _> =
        (0..2_000).map(|number| (format!("n{number}"), never.clone())).collect();
    let wide = json!({"properties": {"list": {"items": {"properties": many}}}});
    for (what, schema) in [("required", &required), ("branches", &branches), ("wide", &wide)] {
        for count in [1, 130, 4_000] {
            let (fields, steps) = named(schema, &items(count));
            assert!(steps <= naming::MAX_STEPS, "{what} {count}: {steps}");
            if what != "wide" {
                assert_eq!(fields[0], "data.list[0]", "{what} {count}");
                assert!(fields.len() <= MAX_VIOLATIONS);
            }
        }
    }
}

#[test]
fn where_not_all_can_be_named_what_can_be_is() {
    let names: Vec<_> = (0..6_500).map(|number| format!("n{number}")).collect();
    let schema = json!({"properties": {
        "id": {"type": "string"},
        "list": {"items": {"$ref": "#/$defs/item"}},
    }, "$defs": {"item": {"allOf": [{"$ref": "#/$defs/named"}]}, "named": {"required": names}}});
    let (fields, _) = named(&schema, r#"{"id":1,"list":[5,{},{},{}]}"#);
    assert_eq!(fields.iter().filter(|field| *field == "data.id").count(), 1);
    assert!(fields.iter().any(|field| field == "data.list[1]"), "{fields:?}");
}
