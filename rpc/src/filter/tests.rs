#![allow(clippy::unwrap_used)]

use super::*;

const FIELDS: [Field; 3] = [
    ("name", Kind::Text),
    ("managed", Kind::Flag),
    ("end", Kind::Time),
];

/// An item `dev` that is managed and ends at noon.
fn value(field: &str) -> Option<Value> {
    match field {
        "name" => Some(Value::Text("dev \"1\"".to_owned())),
        "managed" => Some(Value::Flag(true)),
        _ => Some(Value::Time("2026-01-01T12:00:00Z".parse().unwrap())),
    }
}

#[test]
fn filters_say_what_they_say() {
    for (filter, fits) in [
        ("", true),
        ("  ", true),
        ("managed = true", true),
        ("managed=false", false),
        ("managed != false", true),
        ("name = dev", false),
        ("name = \"dev \\\"1\\\"\"", true),
        ("name = dev*", true),
        ("name != dev*", false),
        ("name = \"*ev*\"", true),
        ("name = *1", false),
        ("name = *1*", true),
        ("name = *", true),
        ("name = \"dev \\*\"", false),
        ("name : \"\\*\"", false),
        ("name : ev", true),
        ("name:*", true),
        ("end < \"2026-01-01T12:00:00.5Z\"", true),
        ("end >= \"2026-01-01T13:00:00+01:00\"", true),
        ("end > \"2026-01-01T12:00:00Z\"", false),
        ("managed = true AND name = dev* AND end:*", true),
        ("managed = true AND name = x", false),
    ] {
        let parsed = Filter::parse(filter, &FIELDS).unwrap();
        assert_eq!(parsed.fits(value), fits, "{filter}");
    }
    let nothing = |_: &str| None;
    let fits = |filter| Filter::parse(filter, &FIELDS).unwrap().fits(nothing);
    assert!(!fits("end:*") && !fits("end < \"2026-01-01T12:00:00Z\"") && fits("name != x"));
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let long = format!("name = {}", "a".repeat(FILTER_CHARS_MAX));
    for (filter, says) in [
        ("size = 1", "the fields are name, managed, end"),
        ("name", "after name"),
        ("name =", "must have a value"),
        ("= dev", "the fields are"),
        ("name = \"dev", "quote"),
        ("name < dev", "which is no time"),
        ("managed = yes", "true or false"),
        ("managed : true", "managed:*"),
        ("end = noon", "with a time"),
        ("name = a name = b", "AND"),
        ("name = a AND", "AND"),
        ("name = a OR name = b", "AND"),
        ("NOT name = a", "the fields are"),
        ("(name = a)", "does not know"),
        ("name = d*v", "at the beginning and the end"),
        ("name = \"*d*v\"", "at the beginning and the end"),
        (&long, "at most"),
    ] {
        let error = Filter::parse(filter, &FIELDS).unwrap_err();
        assert_eq!(error.field, "filter");
        assert!(
            error.description.contains(says),
            "{filter}: {}",
            error.description
        );
    }
}

#[test]
fn orders_go_up_and_down_and_what_has_no_value_comes_last() {
    let names = ["name", "end"];
    let key = |order: &str, end: Option<&str>| {
        let order = Order::parse(order, &names, "name").unwrap();
        order.key(|field| match field {
            "end" => end.map(|end| Value::Time(end.parse().unwrap())),
            _ => Some(Value::Text("same".to_owned())),
        })
    };
    let (early, late) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z"));
    assert!(key("end", early) < key("end", late) && key("end", late) < key("end", None));
    assert!(key("end desc", late) < key("end desc", early));
    assert!(key("end desc", early) < key("end desc", None));
    assert_eq!(key("", early), key("name", late));
    let text = serde_json::to_string(&key("end desc, name", late)).unwrap();
    let back: Key = serde_json::from_str(&text).unwrap();
    assert_eq!(back, key("end desc, name", late));
    for order in ["size", "end down", "end,", "end, end", "desc"] {
        let error = Order::parse(order, &names, "name").unwrap_err();
        assert_eq!(error.field, "order_by", "{order}");
    }
}

#[test]
fn a_star_after_a_backslash_is_a_star() {
    let test = |filter: &str| {
        let filter = Filter::parse(filter, &FIELDS).unwrap();
        let [term] = filter.terms() else {
            panic!("{filter:?}");
        };
        assert_eq!(term.field, "name");
        term.test.clone()
    };
    let like = |text: &str, open_start, open_end| {
        let text = text.to_owned();
        let pattern = Pattern {
            text,
            open_start,
            open_end,
        };
        Test::Like(pattern, true)
    };
    let equal = |text: &str| Test::Compared(Comparison::Equal, Value::Text(text.to_owned()));
    assert_eq!(test("name = é*"), like("é", false, true));
    assert_eq!(test("name = *é"), like("é", true, false));
    assert_eq!(test("name = \"*\""), like("", true, true));
    assert_eq!(test("name = \"a\\*\""), equal("a*"));
    assert_eq!(test("name = \"a\\*b\""), equal("a*b"));
    assert_eq!(test("name = \"a\\**\""), like("a*", false, true));
    assert_eq!(test("name = \"\\\\*\""), like("\\", false, true));
    assert_eq!(test("name = \"\""), equal(""));
}
