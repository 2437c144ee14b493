use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn rendered(json: &str) -> usize {
    check(json).unwrap_or_else(|defect| panic!("{json}: {defect}"))
}

#[test]
fn the_length_is_that_of_what_postgresql_renders() {
    // The lengths come from `select length($1::jsonb::text)`.
    for (json, length) in [
        ("{}", 2),
        (r#"{"a":1}"#, 8),
        (r#"{ "a" : [1,2 , 3], "b":null }"#, 27),
        (r#""\n\u0001é\u00e9\/""#, 2 + 2 + 6 + 2 + 2 + 1),
        ("0.10", 4),
        ("-1.5", 4),
        ("1e3", 4),
        ("1.5e3", 4),
        ("1e-3", 5),
        ("1.25E+1", 4),
        ("12345678901234567890", 20),
        ("1e400", 401),
        ("1e308", 309),
        ("0e999999999", 1),
        ("0.0e1000", 1),
        ("0.00e1", 3),
        ("0e-3", 5),
    ] {
        assert_eq!(rendered(json), length, "{json}");
    }
    assert_eq!(rendered(&"9".repeat(500)), 500);
}

#[test]
fn numbers_that_swell_are_refused() {
    let long = "9".repeat(1_001);
    for number in ["1e131071", "1e1000", "1e-1000", "-1e999", "1e99999999999999999999", &long] {
        assert_eq!(check(&format!("[{number}]")), Err(Defect::NumberTooLong), "{number}");
    }
    for zero in ["0e1073741823", "0e-1000", "0.0e-999", "0e99999999999999999999"] {
        assert_eq!(check(zero), Err(Defect::NumberTooLong), "{zero}");
    }
    assert_eq!(check("1e999"), Ok(1_000));
    let swelling = format!("[{}1]", "1e999,".repeat(600));
    assert_eq!(check(&swelling), Err(Defect::TooLarge));
}

#[test]
fn what_cannot_be_stored_is_refused() {
    for (json, defect) in [
        (r#"{"a":"\u0000"}"#, Defect::Nul),
        (r#"{"\u0000":1}"#, Defect::Nul),
        (r#"["\ud800"]"#, Defect::LoneSurrogate),
        (r#"["\udc00\ud800"]"#, Defect::LoneSurrogate),
        (r#"{"\ud800x":1}"#, Defect::LoneSurrogate),
        (r#"{"a":1,"a":2}"#, Defect::DuplicateKey("a".to_owned())),
        (r#"{"a":1,"\u0061":2}"#, Defect::DuplicateKey("a".to_owned())),
        (r#"[{"x":{"é":1,"\u00e9":2}}]"#, Defect::DuplicateKey("é".to_owned())),
    ] {
        assert_eq!(check(json), Err(defect), "{json}");
    }
    assert!(check(r#"["\ud83d\ude00", {"a":{"a":1}}, "\\u0000"]"#).is_ok());
}

#[test]
fn depth_is_counted_outside_of_strings() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(check(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(check(&nested(MAX_DEPTH + 1)), Err(Defect::TooDeep));
    assert_eq!(check(&nested(100_000)), Err(Defect::TooDeep));
    assert!(check(&format!(r#"["{}\"[["]"#, "[".repeat(1_000))).is_ok());
}

#[test]
fn every_token_is_read_once_however_deep_it_is() {
    let nested = format!("{}{}{}", r#"[{"a":"#.repeat(31), "[1e400]", "}]".repeat(31));
    let mut tokens = Tokens::of(&nested);
    assert_eq!(tokens.by_ref().count(), 31 * 5 + 3);
    assert_eq!(tokens.at, nested.len());
    assert_eq!(check(&nested), Ok(31 * 9 + 403));
    for broken in ["\"", "\"\\", "[\"\\", "{\"a", "é\"\\é", "\\é", "-é"] {
        assert!(Tokens::of(broken).count() <= broken.len(), "{broken}");
    }
}

#[test]
fn what_no_float_holds_is_looked_at_as_the_nearest_one() {
    let value = approximate(r#"{"a":[1e400,-1e999 , 1.50,"1e400"],"1e400":{"b" : 0e999999999}}"#);
    let largest = serde_json::json!({"a": [f64::MAX, f64::MIN, 1.5, "1e400"], "1e400": {"b": 0.0}});
    assert_eq!(value, largest);
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[^\u{0}]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map("[^\u{0}]{0,4}", inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

/// Renders as PostgreSQL does, with a space after `:` and `,`.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let entries =
                map.iter().map(|(key, item)| format!("{}: {}", Value::from(key.as_str()), spaced(item)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        leaf => leaf.to_string(),
    }
}

proptest! {
    #[test]
    fn the_measure_agrees_with_a_rendering(value in json()) {
        prop_assert_eq!(check(&value.to_string()), Ok(spaced(&value).len()));
    }

    #[test]
    fn white_space_does_not_count(value in json()) {
        let pretty = serde_json::to_string_pretty(&value).expect("JSON");
        prop_assert_eq!(check(&pretty), check(&value.to_string()));
    }

    #[test]
    fn no_number_is_longer_than_it_was_measured(
        whole in "0|[1-9][0-9]{0,20}", fraction in "[0-9]{1,20}", exponent in -30_i32..30,
    ) {
        let number = format!("{whole}.{fraction}e{exponent}");
        let value: f64 = number.parse().expect("a number");
        let measured = measure_number(&number).expect("short");
        // Rendering shifts the digits; the digits of the whole part are the fewest that are written.
        let whole = format!("{:.0}", value.trunc());
        prop_assert!(whole.len() <= measured);
    }
}
