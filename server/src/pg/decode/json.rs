//! JSON parameters.
//!
//! Invariant: json keeps its text, jsonb becomes its canonical text: keys by length and then bytes, the last of equal keys,
//! numbers with their digits, one blank behind each colon and comma.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::frontend::Report;
use crate::pg::error::report;

fn parse(text: &str) -> Result<Value, Report> {
    serde_json::from_str(text).map_err(|error| {
        let mut bad = report("22P02", "invalid input syntax for type json");
        bad.detail = Some(format!("{error}."));
        bad
    })
}

/// The text itself, when it is JSON.
pub(super) fn checked(text: &str) -> Result<&str, Report> {
    parse(text).map(|_| text)
}

/// The text as jsonb prints it.
pub(super) fn canonical(text: &str) -> Result<String, Report> {
    let mut out = String::with_capacity(text.len());
    print(&parse(text)?, &mut out);
    Ok(out)
}

fn print(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                print(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let sorted: BTreeMap<(usize, &str), &Value> = members
                .iter()
                .map(|(key, value)| ((key.len(), key.as_str()), value))
                .collect();
            out.push('{');
            for (index, ((_, key), value)) in sorted.into_iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                out.push_str(&Value::from(key).to_string());
                out.push_str(": ");
                print(value, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}
