use serde_json::{Value, json};

use super::*;

fn compile(schema: &Value) -> Result<Arc<Schema>, Violation> {
    Schema::compile(&StoredSchema { hash: [0; 32], json: schema.to_string() }).map(Arc::new)
}

fn violations(schema: &Value, data: &str) -> Vec<(String, String)> {
    match compile(schema).expect("a schema").check_apart(data).expect("few steps") {
        Checked::Satisfied => Vec::new(),
        Checked::Violated(errors) => errors.into_iter().map(|error| (error.path, error.message)).collect(),
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
    let of = |field: &str| &found.iter().find(|(other, _)| other == field).expect("a violation").1;
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
        (json!({"properties": {"a": {"pattern": "("}}}), "properties.a.pattern"),
        (json!({"properties": {"a": {"pattern": "(?=a)b"}}}), "properties.a.pattern"),
        (json!({"patternProperties": {"(.)\\1": {}}}), r"patternProperties.(.)\1"),
        (json!({"pattern": r"(\w{1000}){1000}"}), "pattern"),
        (json!({"$schema": "https://example.com/other"}), ""),
        (json!({"$ref": "https://example.com/x"}), "$ref"),
        (json!({"items": {"$ref": "#/$defs/nothing"}}), "items.$ref"),
        (json!({"items": {"$ref": "#"}}), "items.$ref"),
        (
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}),
            "$defs.a.items.$ref",
        ),
        (json!({"$dynamicRef": "#a"}), "$dynamicRef"),
        (json!({"properties": {"a": {"$id": "x"}}}), "properties.a.$id"),
    ] {
        let refused = compile(&schema).err().unwrap_or_else(|| panic!("{schema}"));
        assert!(!refused.message.is_empty());
        if !field.is_empty() {
            assert_eq!(refused.path, field, "{schema}: {}", refused.message);
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

/// Each level applies the next one twice.
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
}

/// Returns the steps to check data.
fn steps(schema: &Value, data: &Value) -> u64 {
    let parts = Parts::of(schema).expect("a schema");
    let mut budget = Budget::new(u64::MAX);
    budget.spend_on(Task::Check, &parts.root, data).expect("no limit");
    u64::MAX - budget.left()
}

#[test]
fn a_check_costs_what_the_schema_does_with_the_data() {
    let flat =
        json!({"properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/b"}}, "$defs": {"b": {}}});
    assert_eq!(steps(&flat, &json!(1)), 2);
    assert_eq!(steps(&flat, &json!({"c": vec![1; 1_000]})), 2 + 2 * 4);
    assert_eq!(steps(&flat, &json!({"b": 1})), 2 + 2 * 4 + 2 * 2);
    let listed = json!({"items": {"anyOf": [{}, {"type": "null"}]}});
    assert_eq!(steps(&listed, &json!(vec![1; 1_000])), 2 + 3 * 2 * 1_000);
    let names = json!({"items": {"required": vec!["a"; 1_000]}});
    assert_eq!(steps(&names, &json!([{}, {}])), 2 + 2 * (2 + 4), "checking stops at the first missing name");
}

#[test]
fn a_pattern_costs_its_states_for_each_byte() {
    let schema = |pattern: &str| json!({"properties": {"x": {"pattern": pattern}}});
    let cost = |pattern: &str, length: usize| {
        steps(&schema(pattern), &json!({"x": "a".repeat(length)}))
            - steps(&schema(pattern), &json!({"x": ""}))
    };
    let hostile = format!("(?:{})+[b-z]", "a?".repeat(2_000));
    assert!(cost(&hostile, 16) >= 16 * 4_000, "{}", cost(&hostile, 16));
    assert_eq!(cost(&hostile, 16_000), 1_000 * cost(&hostile, 16));
    for (pattern, most) in [
        ("^in_[0-9]+$", 20),
        (r"^[^@\s]+@[^@\s]+\.[^@\s]+$", 200),
        (r"^.{1,255}$", 2),
        (r"^[\p{L}\p{M}' -]{1,50}$", 2),
        (r"^\p{L}+$", 2_000),
    ] {
        assert!(cost(pattern, 160) <= 160 * most + 10, "{pattern}: {}", cost(pattern, 160));
    }
    let by_name = json!({"patternProperties": {&hostile: {}}});
    assert!(steps(&by_name, &json!({"aaaaaaaaaaaaaaaa": 1})) >= 16 * 4_000);
    let of_names = json!({"propertyNames": {"anyOf": [{"pattern": hostile}, {}]}});
    assert!(steps(&of_names, &json!({"aaaaaaaaaaaaaaaa": 1})) >= 16 * 4_000);
}

#[test]
fn what_else_depends_on_the_data_is_counted_too() {
    let object: Value = (0..1_000).map(|number| (format!("n{number}"), json!(1))).collect();
    let branches = vec![json!({"properties": {"other": {}}}); 100];
    // Each branch marks which properties it evaluates.
    let marked = json!({"anyOf": branches, "unevaluatedProperties": {}});
    assert!(steps(&marked, &object) >= 100 * 1_000);
    let text = json!("a".repeat(16_000));
    assert!(steps(&json!({"allOf": vec![json!({"maxLength": 1}); 100]}), &text) >= 100 * 1_000);
    assert!(steps(&json!({"format": "uri"}), &text) >= 16_000);
    let nested = json!([[[["a".repeat(1_000)]]]]);
    assert!(steps(&json!({"uniqueItems": true}), &nested) >= 1_000);
    let remainders = json!({"items": {"multipleOf": 0.1}});
    assert!(steps(&remainders, &json!(vec![1.7e308; 100])) >= 100 * 400);
}

#[tokio::test]
async fn a_costly_check_takes_its_turn_and_too_costly_a_one_is_refused() {
    let wide = json!({"items": {"allOf": vec![json!({"type": "number"}); 300]}});
    let wide = compile(&json!({"properties": {"list": wide}})).expect("a schema");
    let list = |count: usize| format!(r#"{{"list":[{}1]}}"#, "1,".repeat(count));
    let check = async |count| wide.check(&Party::Admin, &list(count)).await;
    assert!(matches!(check(10).await, Ok(Checked::Satisfied)));
    assert_eq!(wide.is_satisfied_by(&storable_json::approximate(&list(2_000)), MAX_STEPS_HERE), None);
    assert!(matches!(check(2_000).await, Ok(Checked::Satisfied)));
    assert_eq!(check(20_000).await.err(), Some(SchemaError::TooCostly));
}

#[tokio::test]
async fn an_event_for_which_a_pattern_costs_too_much_is_refused() {
    let pattern = format!("(?:{})+[b-z]", "a?".repeat(2_000));
    let schema =
        compile(&json!({"properties": {"x": {"anyOf": [{"pattern": pattern}, {}]}}})).expect("a schema");
    let data = |length: usize| json!({"x": "a".repeat(length)}).to_string();
    let check = async |length| schema.check(&Party::Admin, &data(length)).await;
    assert!(matches!(check(100).await, Ok(Checked::Satisfied)));
    assert_eq!(
        schema.is_satisfied_by(&storable_json::approximate(&data(100)), MAX_STEPS_HERE),
        None,
        "not inline"
    );
    assert_eq!(check(48_000).await.err(), Some(SchemaError::TooCostly));
}

#[test]
fn patterns_that_are_too_large_together_are_refused() {
    let patterns = |count: usize, repeated: usize| {
        let pattern = |number| format!("(?:{})+[b-z]{number}", "a?".repeat(repeated));
        let patterns: Vec<_> = (0..count).map(|number| json!({"pattern": pattern(number)})).collect();
        compile(&json!({"allOf": patterns})).err().map(|error| (error.path, error.message))
    };
    assert_eq!(patterns(40, 20), None);
    let (field, message) = patterns(48, 150).expect("a refusal");
    assert!(message.contains("20000 states"), "{message}");
    assert!(field.starts_with("allOf["), "{field}");
    // Parsing them has a cost even if the result is empty.
    for unread in [r"(?i)\pL{0}".repeat(250), r"\pL{0}".repeat(3_000)] {
        let message = compile(&json!({"pattern": unread})).err().expect("a refusal").message;
        assert!(message.contains("16384 characters"), "{message}");
    }
}

/// Returns the violations named for a small event that violates a schema in very many ways, and the work that took.
fn named(schema: &Value, data: &str) -> (Vec<String>, naming::Work) {
    let schema = compile(schema).expect("a schema");
    let value = serde_json::from_str(data).expect("JSON");
    let (violations, work) = naming::violations(&schema, &value);
    (violations.into_iter().map(|violation| violation.path).collect(), work)
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
        for count in [1, 130, 2_000] {
            let (fields, work) = named(schema, &items(count));
            assert!(work.steps <= MAX_STEPS, "{what} {count}: {work:?}");
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

#[test]
fn each_part_is_compiled_once_however_many_values_it_is_asked_about() {
    let unused: serde_json::Map<_, _> = (0..3_600).map(|number| (format!("f{number}"), json!({}))).collect();
    let names: Vec<_> = (0..800).map(|number| format!("{number:x}")).collect();
    let items =
        |all: usize| json!({"allOf": vec![json!({}); all], "anyOf": [{"items": {"required": names}}]});
    let schema = |all| json!({"$defs": unused, "properties": {"z": {"items": items(all)}}});
    let data = json!({"z": vec![vec![json!({}); 60]; 12]}).to_string();
    let (fields, work) = named(&schema(3), &data);
    assert_eq!(work.compiled, 1 + 1 + 3, "{work:?}");
    assert_eq!((fields.len(), fields[0].as_str()), (12, "data.z[0]"));
    let (_, work) = named(&schema(1_600), &data);
    assert!(work.steps <= MAX_STEPS && work.compiled <= 1_602, "{work:?}");
}

#[test]
fn parts_are_named_wherever_they_are_in_the_schema() {
    let names: Vec<_> = (0..6_500).map(|number| format!("n{number}")).collect();
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.com/a",
        "properties": {
            "x y%": {"$ref": "#/properties/a~1b"},
            "a/b": {"properties": {"é~": {"type": "integer", "pattern": "^x"}}},
            "list": {"items": {"$ref": "#/properties/a~1b"}},
            "z": {"items": {"required": names}},
        },
    });
    let data = json!({"z": vec![json!({}); 10], "x y%": {"é~": ""}, "list": [{}, {"é~": ""}]});
    let (fields, _) = named(&schema, &data.to_string());
    for field in ["data.x y%.é~", "data.list[1].é~"] {
        assert!(fields.iter().any(|other| other == field), "{field}: {fields:?}");
    }
}
