//! Random JSON values for property tests.

use proptest::prelude::*;
use serde_json::{Map, Number, Value};

/// Values a few levels deep, with awkward strings and numbers.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number().prop_map(Value::Number),
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map(text(), inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Numbers of all sizes, as text that keeps its digits.
pub(crate) fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
    ]
    .prop_map(|text| serde_json::from_str(&text).expect("a JSON number"))
}

/// Text without NUL.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,8}",
        "[ -~]{0,12}",
        "\\PC{0,6}",
        "[\u{1}-\u{1f}\"\\\\\u{7f}é漢\u{1f600}]{0,6}"
    ]
}
