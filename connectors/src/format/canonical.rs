//! The canonical text of a JSON value, in which `jsonb` is held and compared.
//!
//! Invariant: equal values have equal text: no white space, object keys sorted by their bytes and unique (the last one wins),
//! strings minimally escaped, numbers digit for digit with `e+` or `e-` before an exponent. It is idempotent.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Depth of nesting beyond which a value is refused; serde_json's own limit.
const DEPTH_MAX: usize = 128;

/// Rewrites JSON text into its canonical form.
///
/// It walks raw slices rather than a `serde_json::Value`, because with arbitrary precision a `Value` takes the object
/// `{"$serde_json::private::Number": "1"}` for the number 1. A slice is scanned again at every level it is nested in: at most
/// [`DEPTH_MAX`] times.
///
/// # Errors
/// The reason, when the text is not JSON, nests too deeply, or holds a string that SQL text cannot (a NUL, half a surrogate pair).
pub fn canonical_json(text: &str) -> Result<String, String> {
    let value: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut canonical = String::with_capacity(text.len());
    write_value(value, DEPTH_MAX, &mut canonical)?;
    Ok(canonical)
}

fn write_value(value: &RawValue, depth_left: usize, out: &mut String) -> Result<(), String> {
    let text = value.get();
    if depth_left == 0 {
        return Err(format!("nested more than {DEPTH_MAX} levels deep"));
    }
    match text.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = parse(text)?;
            out.push('{');
            for (index, (key, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(&key, out)?;
                out.push(':');
                write_value(member, depth_left - 1, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = parse(text)?;
            out.push('[');
            for (index, item) in items.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(item, depth_left - 1, out)?;
            }
            out.push(']');
        }
        Some(b'"') => write_string(&parse::<String>(text)?, out)?,
        Some(b'-' | b'0'..=b'9') => write_number(text, out),
        _ => out.push_str(text),
    }
    Ok(())
}

fn parse<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn write_string(text: &str, out: &mut String) -> Result<(), String> {
    if text.contains('\0') {
        return Err("\\u0000 cannot be held in text".to_owned());
    }
    out.push_str(&serde_json::to_string(text).map_err(|error| error.to_string())?);
    Ok(())
}

fn write_number(text: &str, out: &mut String) {
    match text.split_once(['e', 'E']) {
        None => out.push_str(text),
        Some((mantissa, exponent)) => {
            out.push_str(mantissa);
            out.push('e');
            if !exponent.starts_with(['+', '-']) {
                out.push('+');
            }
            out.push_str(exponent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_text_is_compact_sorted_and_unique() {
        for (text, expected) in [
            (
                r#" { "b" : 1 , "a" : [ true , null ] , "b" : 2 } "#,
                r#"{"a":[true,null],"b":2}"#,
            ),
            (r#""\u0041\/\n""#, r#""A/\n""#),
            ("1E5", "1e+5"),
            ("1.50", "1.50"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            (
                r#"{"$serde_json::private::Number":"1"}"#,
                r#"{"$serde_json::private::Number":"1"}"#,
            ),
            (r#""\ud83d\ude00""#, "\"\u{1f600}\""),
        ] {
            assert_eq!(canonical_json(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_or_not_text_is_refused() {
        let deep = "[".repeat(129) + &"]".repeat(129);
        let very_deep = "[".repeat(1_000_000);
        for text in [
            "",
            "{",
            "[1,]",
            "NaN",
            "Infinity",
            "01",
            "1 2",
            r#""\ud800""#,
            r#"{"\udc00":1}"#,
            r#""\u0000""#,
            "'a'",
            "+1",
            &deep,
            &very_deep,
        ] {
            assert!(
                canonical_json(text).is_err(),
                "{}",
                &text[..text.len().min(20)]
            );
        }
        let fits = "[".repeat(128) + &"]".repeat(128);
        assert!(canonical_json(&fits).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_value_tree_and_is_idempotent(value in crate::format::json::arbitrary::value()) {
            let text = value.to_string();
            let canonical = canonical_json(&text).map_err(proptest::test_runner::TestCaseError::fail)?;
            let tree: serde_json::Value = serde_json::from_str(&text).expect("printed JSON parses");
            proptest::prop_assert_eq!(&canonical, &tree.to_string());
            proptest::prop_assert_eq!(canonical_json(&canonical), Ok(canonical.clone()));
        }
    }
}
