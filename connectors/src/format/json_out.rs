//! Rows of columns as JSON objects: what a sink writes is what `ENCODE JSON` of a source reads.
//!
//! Invariant: the same value always gives the same bytes; `decode(encode(row)) = row` for every type that JSON is read into.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use base64::Engine;
use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta};
use thalweg_catalog::SqlType;

use crate::error::ConnectorError;

/// Writes rows of some columns as objects.
#[derive(Debug, Clone)]
pub(crate) struct JsonEncoder {
    members: Vec<Member>,
}

#[derive(Debug, Clone)]
struct Member {
    position: usize,
    /// The name as JSON text, with its colon.
    name: String,
    ty: SqlType,
}

impl JsonEncoder {
    /// An encoder for these columns: position in the batch, name, type.
    pub(crate) fn new<'c>(columns: impl Iterator<Item = (usize, &'c str, &'c SqlType)>) -> Self {
        let member = |(position, name, ty): (usize, &str, &SqlType)| Member {
            position,
            name: format!("{}:", quoted(name)),
            ty: ty.clone(),
        };
        Self {
            members: columns.map(member).collect(),
        }
    }

    /// The object of one row. `columns` are those of the whole batch.
    pub(crate) fn row(&self, columns: &[ArrayRef], row: usize) -> Result<Vec<u8>, ConnectorError> {
        let mut out = String::from("{");
        for (index, member) in self.members.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(&member.name);
            let column = columns.get(member.position).ok_or_else(|| {
                ConnectorError::Internal("a column of the sink has no values".into())
            })?;
            value(&member.ty, column.as_ref(), row, &mut out)?;
        }
        out.push('}');
        Ok(out.into_bytes())
    }
}

fn quoted(text: &str) -> String {
    // Writing a string to memory cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// Appends one value. What JSON has no numbers for is a string.
fn value(
    ty: &SqlType,
    array: &dyn Array,
    row: usize,
    out: &mut String,
) -> Result<(), ConnectorError> {
    if row >= array.len() || array.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    let written = match ty {
        SqlType::Array(element) => return list(element, array, row, out),
        SqlType::Struct(fields) => return object(fields, array, row, out),
        SqlType::Bool
        | SqlType::Int2
        | SqlType::Int4
        | SqlType::Int8
        | SqlType::Oid
        | SqlType::Reg(_)
        | SqlType::Float4
        | SqlType::Float8 => number(ty, array, row, out),
        SqlType::Date
        | SqlType::Time
        | SqlType::Timestamp
        | SqlType::Timestamptz
        | SqlType::Interval => moment(ty, array, row, out),
        _ => text(ty, array, row, out),
    };
    written.ok_or_else(|| {
        ConnectorError::Internal(format!(
            "a value of type {ty} came as {}",
            array.data_type()
        ))
    })
}

/// Booleans and numbers that JSON has itself; `None` when the array is of another type.
fn number(ty: &SqlType, array: &dyn Array, row: usize, out: &mut String) -> Option<()> {
    let mut display = |value: &dyn std::fmt::Display| write!(out, "{value}").ok();
    match ty {
        SqlType::Bool => display(&array.as_boolean_opt()?.value(row)),
        SqlType::Int2 => display(&array.as_primitive_opt::<Int16Type>()?.value(row)),
        SqlType::Int4 => display(&array.as_primitive_opt::<Int32Type>()?.value(row)),
        SqlType::Int8 => display(&array.as_primitive_opt::<Int64Type>()?.value(row)),
        SqlType::Float4 => {
            let value = array.as_primitive_opt::<Float32Type>()?.value(row);
            match special(f64::from(value)) {
                Some(word) => display(&word),
                None => display(&serde_json::to_string(&value).ok()?),
            }
        }
        SqlType::Float8 => {
            let value = array.as_primitive_opt::<Float64Type>()?.value(row);
            match special(value) {
                Some(word) => display(&word),
                None => display(&serde_json::to_string(&value).ok()?),
            }
        }
        _ => display(&array.as_primitive_opt::<UInt32Type>()?.value(row)),
    }
}

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("\"NaN\"")
    } else if value.is_infinite() {
        Some(if value > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        })
    } else {
        None
    }
}

/// Dates, times and intervals: RFC 3339 and ISO 8601.
fn moment(ty: &SqlType, array: &dyn Array, row: usize, out: &mut String) -> Option<()> {
    let text = match ty {
        SqlType::Date => {
            let days = array.as_primitive_opt::<Date32Type>()?.value(row);
            let epoch = NaiveDate::from_ymd_opt(1970, 1, 1)?;
            epoch
                .checked_add_signed(TimeDelta::try_days(days.into())?)?
                .to_string()
        }
        SqlType::Time => {
            let us = array
                .as_primitive_opt::<Time64MicrosecondType>()?
                .value(row);
            // 24:00:00 is a time in Postgres.
            let (s, us) = (us / 1_000_000, us % 1_000_000);
            let clock = format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
            match us {
                0 => clock,
                us => format!("{clock}.{us:06}"),
            }
        }
        SqlType::Interval => {
            let value = array
                .as_primitive_opt::<IntervalMonthDayNanoType>()?
                .value(row);
            interval(value.months, value.days, value.nanoseconds)
        }
        _ => {
            let us = array
                .as_primitive_opt::<TimestampMicrosecondType>()?
                .value(row);
            let text =
                DateTime::from_timestamp_micros(us)?.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            match ty {
                SqlType::Timestamptz => text,
                _ => text.trim_end_matches('Z').to_owned(),
            }
        }
    };
    out.push('"');
    out.push_str(&text);
    out.push('"');
    Some(())
}

/// An ISO 8601 duration in months, days and seconds, which do not convert into each other.
fn interval(months: i32, days: i32, nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let ns = nanoseconds.unsigned_abs();
    let fraction = format!("{:09}", ns % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!(
        "P{months}M{days}DT{sign}{}{dot}{fraction}S",
        ns / 1_000_000_000
    )
}

/// Text, and what is written as text.
fn text(ty: &SqlType, array: &dyn Array, row: usize, out: &mut String) -> Option<()> {
    match ty {
        SqlType::Numeric { declared, .. } => {
            let values = array.as_primitive_opt::<Decimal128Type>()?;
            let text = values.value_as_string(row);
            // A numeric without a declared scale has the digits it needs, as on the wire.
            let text = match (declared, text.contains('.')) {
                (None, true) => text.trim_end_matches('0').trim_end_matches('.'),
                _ => &text,
            };
            write!(out, "\"{text}\"").ok()
        }
        SqlType::Bytea => {
            let bytes = array.as_binary_opt::<i32>()?.value(row);
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            write!(out, "\"{text}\"").ok()
        }
        SqlType::Uuid => {
            let bytes = array.as_fixed_size_binary_opt()?.value(row);
            write!(out, "\"{}\"", uuid::Uuid::from_slice(bytes).ok()?).ok()
        }
        SqlType::Json | SqlType::Jsonb => {
            out.push_str(array.as_string_view_opt()?.value(row));
            Some(())
        }
        _ => {
            out.push_str(&quoted(array.as_string_view_opt()?.value(row)));
            Some(())
        }
    }
}

fn list(
    element: &SqlType,
    array: &dyn Array,
    row: usize,
    out: &mut String,
) -> Result<(), ConnectorError> {
    let lists = array
        .as_list_opt::<i32>()
        .ok_or_else(|| ConnectorError::Internal("an array did not come as a list".into()))?;
    let items = lists.value(row);
    out.push('[');
    for index in 0..items.len() {
        if index > 0 {
            out.push(',');
        }
        value(element, items.as_ref(), index, out)?;
    }
    out.push(']');
    Ok(())
}

fn object(
    fields: &[(String, SqlType)],
    array: &dyn Array,
    row: usize,
    out: &mut String,
) -> Result<(), ConnectorError> {
    let structs = array
        .as_struct_opt()
        .ok_or_else(|| ConnectorError::Internal("a row did not come as a struct".into()))?;
    out.push('{');
    for (index, ((name, ty), column)) in fields.iter().zip(structs.columns()).enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&quoted(name));
        out.push(':');
        value(ty, column.as_ref(), row, out)?;
    }
    out.push('}');
    Ok(())
}

/// A value alone, as JSON. `None` for NULL.
pub(crate) fn json_text(
    ty: &SqlType,
    array: &dyn Array,
    row: usize,
) -> Result<Option<String>, ConnectorError> {
    if row >= array.len() || array.is_null(row) {
        return Ok(None);
    }
    let mut out = String::new();
    value(ty, array, row, &mut out)?;
    Ok(Some(out))
}

/// A value alone, as text that is no JSON: for a message key that is one column. `None` for NULL.
pub(crate) fn plain_text(
    ty: &SqlType,
    array: &dyn Array,
    row: usize,
) -> Result<Option<Vec<u8>>, ConnectorError> {
    if row >= array.len() || array.is_null(row) {
        return Ok(None);
    }
    let mut out = String::new();
    value(ty, array, row, &mut out)?;
    // Numbers, dates and text are strings in JSON or need no quotes; a document stays as it is.
    let text = match ty {
        SqlType::Json | SqlType::Jsonb | SqlType::Array(_) | SqlType::Struct(_) => out,
        _ => serde_json::from_str::<String>(&out).unwrap_or(out),
    };
    Ok(Some(text.into_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{JsonDecoder, JsonOptions};
    use crate::testing::column;

    fn types() -> Vec<SqlType> {
        let element = SqlType::Array(Box::new(SqlType::Text));
        vec![
            SqlType::Bool,
            SqlType::Int2,
            SqlType::Int8,
            SqlType::Float4,
            SqlType::Float8,
            SqlType::Numeric {
                declared: None,
                held_scale: 10,
            },
            SqlType::Numeric {
                declared: Some((12, 3)),
                held_scale: 3,
            },
            SqlType::Text,
            SqlType::Jsonb,
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Time,
            SqlType::Timestamp,
            SqlType::Timestamptz,
            SqlType::Interval,
            SqlType::Uuid,
            element.clone(),
            SqlType::Struct(vec![
                ("a".into(), SqlType::Int4),
                ("b \"c\"".into(), element),
            ]),
        ]
    }

    /// Reads a payload, writes what was read, and reads that again.
    fn again(ty: &SqlType, json: &str) -> Option<(String, String)> {
        let columns = [column("x \u{e9}\"", ty.clone())];
        let mut decoder = JsonDecoder::new(columns.iter(), JsonOptions::default()).expect("a type");
        let encoder = JsonEncoder::new([(0, "x \u{e9}\"", ty)].into_iter());
        let payload = format!("{{\"x \u{e9}\\\"\":{json}}}");
        let good = decoder.decode(payload.as_bytes()).is_ok();
        let first = decoder.finish();
        if !good {
            return None;
        }
        let written = encoder.row(&first, 0).expect("encodes");
        decoder.decode(&written).expect("what was written is read");
        let second = decoder.finish();
        assert_eq!(first, second, "{ty}: {}", String::from_utf8_lossy(&written));
        let rewritten = encoder.row(&second, 0).expect("encodes");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Some((text(written), text(rewritten)))
    }

    #[test]
    fn values_by_table() {
        let numeric = |declared| SqlType::Numeric {
            declared,
            held_scale: declared.map_or(10, |(_, scale)| scale),
        };
        for (ty, json, expected) in [
            (SqlType::Int8, "9007199254740993", "9007199254740993"),
            (SqlType::Float8, "\"NaN\"", "\"NaN\""),
            (SqlType::Float8, "1e300", "1e+300"),
            (SqlType::Float4, "0.1", "0.1"),
            (numeric(None), "1.50", "\"1.5\""),
            (numeric(None), "-7", "\"-7\""),
            (numeric(Some((10, 2))), "1.5", "\"1.50\""),
            (SqlType::Text, r#""a\"\n""#, r#""a\"\n""#),
            (SqlType::Jsonb, r#"{"b":1, "a":[]}"#, r#"{"a":[],"b":1}"#),
            (SqlType::Bytea, "\"AAEC\"", "\"AAEC\""),
            (SqlType::Date, "\"2024-02-29\"", "\"2024-02-29\""),
            (SqlType::Time, "\"23:59:59.5\"", "\"23:59:59.500000\""),
            (
                SqlType::Timestamp,
                "\"2024-02-29 01:02:03\"",
                "\"2024-02-29T01:02:03\"",
            ),
            (
                SqlType::Timestamptz,
                "\"2024-02-29T01:02:03.25+01:00\"",
                "\"2024-02-29T00:02:03.250Z\"",
            ),
            (
                SqlType::Interval,
                "\"1 day -00:00:01.5\"",
                "\"P0M1DT-1.5S\"",
            ),
        ] {
            let (written, _) = again(&ty, json).expect(json);
            assert_eq!(written, format!("{{\"x \u{e9}\\\"\":{expected}}}"), "{ty}");
        }
    }

    #[test]
    fn a_key_alone_has_no_quotes() {
        let key = |ty: SqlType, json: &str| {
            let columns = [column("x", ty.clone())];
            let mut decoder =
                JsonDecoder::new(columns.iter(), JsonOptions::default()).expect("a type");
            decoder
                .decode(format!("{{\"x\":{json}}}").as_bytes())
                .expect("decodes");
            let key = plain_text(&ty, decoder.finish()[0].as_ref(), 0).expect("has a text");
            key.map(|bytes| String::from_utf8(bytes).expect("text"))
        };
        assert_eq!(key(SqlType::Text, r#""a\"b""#).as_deref(), Some("a\"b"));
        assert_eq!(key(SqlType::Int4, "7").as_deref(), Some("7"));
        assert_eq!(
            key(SqlType::Date, "\"2024-01-01\"").as_deref(),
            Some("2024-01-01")
        );
        assert_eq!(key(SqlType::Text, "null"), None);
    }

    proptest! {
        /// Whatever a source reads, a sink writes back so that it reads the same, in the same bytes each time.
        #[test]
        fn what_is_read_is_written_back(value in crate::format::json::arbitrary::value(), pick in 0_usize..18) {
            let types = types();
            let ty = &types[pick % types.len()];
            if let Some((written, rewritten)) = again(ty, &value.to_string()) {
                prop_assert_eq!(written, rewritten);
            }
        }

        #[test]
        fn moments_are_written_back(us in -62_135_596_800_000_000_i64..253_402_300_800_000_000, months: i32, days: i32, ns: i64) {
            let text = DateTime::from_timestamp_micros(us).expect("in range").to_rfc3339();
            for ty in [SqlType::Timestamptz, SqlType::Timestamp, SqlType::Date] {
                let json = if ty == SqlType::Date { format!("\"{}\"", &text[..10]) } else { format!("\"{text}\"") };
                prop_assert!(again(&ty, &json).is_some(), "{}", json);
            }
            let json = format!("\"{}\"", interval(months, days, ns));
            prop_assert!(again(&SqlType::Interval, &json).is_some(), "{}", json);
        }
    }
}
