use super::*;

fn path(json: &str) -> String {
    Filter::parse(json).unwrap_or_else(|mistakes| panic!("{json}: {mistakes:?}")).path
}

#[test]
fn a_filter_is_compiled_to_a_predicate() {
    assert_eq!(path(r#"{"data.a":1.50}"#), r#"strict (exists($ ? (exists(@."a"))."a" ? (@ == 1.50)))"#);
    assert_eq!(
        path(r#"{"data.a.b":{"gt":-1e3,"lte":10}}"#),
        r#"strict (exists($ ? (exists(@."a"))."a" ? (exists(@."b"))."b" ? (@ > -1e3 && @ <= 10)))"#
    );
    assert_eq!(
        path(r#"{"or":[{"data.a":null},{"not":{"data.b":{"exists":true}}}]}"#),
        r#"strict (((exists($ ? (exists(@."a"))."a" ? (@ == null))) || (!(exists($ ? (exists(@."b"))."b")))))"#
    );
    assert_eq!(
        path(r#"{"data.t[*].x":{"in":["a"]}}"#),
        r#"strict ((exists($ ? (exists(@."t"))."t" ? (@.size() <= 100)[*] ? (exists(@."x"))."x" ? ((@ == "a"))) || exists($ ? (exists(@."t"))."t" ? (@.size() > 100)[0 to 99] ? (exists(@."x"))."x" ? ((@ == "a")))))"#
    );
}

#[test]
fn a_path_has_keys_of_any_kind() {
    for (text, keys, elements_of) in [
        ("data.a", &["a"][..], None),
        ("data.a-b.c d", &["a-b", "c d"], None),
        (r#"data."a.b".c"#, &["a.b", "c"], None),
        (r#"data."\"[*]\u00e9""#, &["\"[*]é"], None),
        ("data.a[*]", &["a"], Some(1)),
        ("data.a.b[*].c", &["a", "b", "c"], Some(2)),
    ] {
        let path = Path::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(
            (path.keys, path.elements_of),
            (keys.iter().map(|&k| k.to_owned()).collect(), elements_of)
        );
    }
    for text in [
        "",
        "a",
        "data",
        "data.",
        "data..a",
        "data[*]",
        "data.a[0]",
        "data.a[*]b",
        "data.a[*][*]",
        "data.a[*].b[*]",
        "data.\"a",
        "data.\"a\"b",
        "data.a]",
        "database.a",
        "type",
        "$or",
    ] {
        assert!(Path::parse(text).is_err(), "{text}");
    }
    assert!(Path::parse(&format!("data{}", ".a".repeat(17))).is_err());
}

#[test]
fn every_mistake_is_told_with_its_place() {
    for (json, at) in [
        ("[]", &[""][..]),
        ("{}", &[""]),
        (r#"{"amount":1}"#, &["amount"]),
        (r#"{"data.a":[1]}"#, &["data.a"]),
        (r#"{"data.a":{}}"#, &["data.a"]),
        (r#"{"data.a":{"like":"x"}}"#, &["data.a.like"]),
        (r#"{"data.a":{"gt":true},"data.b":{"lt":null}}"#, &["data.a.gt", "data.b.lt"]),
        (r#"{"data.a":{"in":[]}}"#, &["data.a.in"]),
        (r#"{"data.a":{"in":[1,[2]]}}"#, &["data.a.in[1]"]),
        (r#"{"data.a":{"eq":{}}}"#, &["data.a.eq"]),
        (r#"{"data.a":{"starts_with":1}}"#, &["data.a.starts_with"]),
        (r#"{"data.a":{"exists":1}}"#, &["data.a.exists"]),
        (r#"{"data.a":{"exists":false,"eq":1}}"#, &["data.a.exists"]),
        (r#"{"or":{}}"#, &["or"]),
        (r#"{"or":[]}"#, &["or"]),
        (r#"{"or":[{"data.a":1},{"x":1}],"not":{}}"#, &["not", "or[1].x"]),
        (r#"{"data.a":"\ud800"}"#, &["data.a"]),
    ] {
        let mistakes = Filter::parse(json).expect_err(json);
        assert_eq!(mistakes.iter().map(|mistake| mistake.at.as_str()).collect::<Vec<_>>(), at, "{json}");
    }
}

#[test]
fn what_an_evaluation_costs_is_bounded() {
    let values = |path: &str, count: usize| {
        let list = vec!["1"; count].join(",");
        Filter::parse(&format!(r#"{{"{path}":{{"in":[{list}]}}}}"#)).is_ok()
    };
    assert!(values("data.a", MAX_VALUES) && !values("data.a", MAX_VALUES + 1));
    assert!(values("data.a[*]", MAX_VALUES_IN_ARRAYS) && !values("data.a[*]", MAX_VALUES_IN_ARRAYS + 1));
    let nested = |depth: usize| {
        let json = format!("{}{{\"data.a\":1}}{}", "{\"not\":".repeat(depth), "}".repeat(depth));
        Filter::parse(&json).is_ok()
    };
    assert!(nested(MAX_DEPTH) && !nested(MAX_DEPTH + 1));
    assert!(Filter::parse(&format!(r#"{{"data.a":"{}"}}"#, "x".repeat(MAX_BYTES))).is_err());
}

#[test]
fn what_it_costs_is_known_beforehand() {
    for (json, steps) in [
        (r#"{"data.a":1}"#, 4),
        (r#"{"data.a.b":{"gt":1,"lt":5}}"#, 8),
        (r#"{"data.a":{"exists":false}}"#, 4),
        (r#"{"data.a[*]":1}"#, 204),
        (r#"{"data.a[*].b":{"in":[1,2]}}"#, 604),
        (r#"{"or":[{"data.a":1},{"not":{"data.b[*]":1}}]}"#, 208),
    ] {
        assert_eq!(Filter::parse(json).expect("a filter").steps, steps, "{json}");
    }
}
