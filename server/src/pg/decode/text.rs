//! Parameters in text format.
//!
//! Invariant: accepts what Postgres' input function of the type accepts in its common forms, and never takes one value for
//! another.

use datafusion::common::ScalarValue;
use thalweg_catalog::SqlType;
use uuid::Uuid;

use super::{calendar, json, list, number, range, syntax};
use crate::frontend::Report;
use crate::pg::encode::Zone;
use crate::pg::error::report;

/// Reads `text` as a value of `ty`.
pub(super) fn scalar(text: &str, ty: &SqlType, zone: &Zone) -> Result<ScalarValue, Report> {
    // Character types keep their blanks, all others ignore them around the value.
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let bad = || syntax(ty, text);
    Ok(match ty {
        SqlType::Bool => ScalarValue::Boolean(Some(boolean(trimmed).ok_or_else(bad)?)),
        SqlType::Int2 => ScalarValue::Int16(Some(integer(trimmed, ty)?)),
        SqlType::Int4 => ScalarValue::Int32(Some(integer(trimmed, ty)?)),
        SqlType::Int8 => ScalarValue::Int64(Some(integer(trimmed, ty)?)),
        SqlType::Float4 => ScalarValue::Float32(Some(number::float4(trimmed, ty)?)),
        SqlType::Float8 => ScalarValue::Float64(Some(number::float8(trimmed, ty)?)),
        SqlType::Numeric { .. } => number::decimal_text(trimmed, ty)?,
        SqlType::Bytea => ScalarValue::Binary(Some(bytes(text).ok_or_else(bad)?)),
        SqlType::Date => ScalarValue::Date32(Some(calendar::date(trimmed, ty)?)),
        SqlType::Time => ScalarValue::Time64Microsecond(Some(calendar::time(trimmed, ty)?)),
        SqlType::Timestamp => {
            ScalarValue::TimestampMicrosecond(Some(calendar::timestamp(trimmed, ty, None)?), None)
        }
        SqlType::Timestamptz => ScalarValue::TimestampMicrosecond(
            Some(calendar::timestamp(trimmed, ty, Some(zone))?),
            Some("UTC".into()),
        ),
        SqlType::Interval => {
            ScalarValue::IntervalMonthDayNano(Some(calendar::interval(trimmed, ty)?))
        }
        SqlType::Uuid => {
            let uuid = Uuid::try_parse(trimmed).map_err(|_| bad())?;
            ScalarValue::FixedSizeBinary(16, Some(uuid.into_bytes().to_vec()))
        }
        SqlType::Oid => ScalarValue::UInt32(Some(oid(trimmed, ty)?)),
        SqlType::Reg(name) => ScalarValue::UInt32(Some(trimmed.parse().map_err(|_| {
            let mut refused = report(
                "0A000",
                format!("a parameter of type {name} must be given as a number"),
            );
            refused.hint = Some(format!(
                "Cast from text in the statement: $1::text::{name}."
            ));
            refused
        })?)),
        SqlType::Json => ScalarValue::Utf8View(Some(json::checked(text)?.to_owned())),
        SqlType::Jsonb => ScalarValue::Utf8View(Some(json::canonical(text)?)),
        SqlType::Char(_) => ScalarValue::Utf8View(Some(text.trim_end_matches(' ').to_owned())),
        SqlType::InternalChar => ScalarValue::Utf8View(Some(text.chars().take(1).collect())),
        SqlType::Text | SqlType::Varchar(_) | SqlType::Name | SqlType::Unknown => {
            ScalarValue::Utf8View(Some(text.to_owned()))
        }
        SqlType::Array(element) => list::from_text(text, element, ty, zone)?,
        SqlType::Struct(_) => {
            return Err(report(
                "0A000",
                "input of anonymous composite types is not implemented",
            ));
        }
    })
}

/// Any unambiguous beginning of the words, as in Postgres.
fn boolean(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let begins = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    if lower == "1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        Some(true)
    } else if lower == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
        Some(false)
    } else {
        None
    }
}

fn integer<T: TryFrom<i64>>(text: &str, ty: &SqlType) -> Result<T, Report> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(syntax(ty, text));
    }
    let number = text
        .parse::<i64>()
        .ok()
        .and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| range(ty, text))
}

/// An oid is unsigned, but Postgres takes its signed spelling as well.
fn oid(text: &str, ty: &SqlType) -> Result<u32, Report> {
    let number: i64 = integer(text, ty)?;
    u32::try_from(number)
        .or_else(|_| i32::try_from(number).map(i32::cast_unsigned))
        .map_err(|_| range(ty, text))
}

/// `\x` and hexadecimal digits, or the older escape format.
fn bytes(text: &str) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = digits
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        return digits
            .chunks(2)
            .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
            .collect();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\\' {
            out.push(byte);
            rest = tail;
        } else if tail.first() == Some(&b'\\') {
            out.push(b'\\');
            rest = &tail[1..];
        } else {
            let octal = tail.get(..3)?;
            if !octal.iter().all(|digit| (b'0'..=b'7').contains(digit)) || octal[0] > b'3' {
                return None;
            }
            out.push(
                octal
                    .iter()
                    .fold(0, |value, digit| value << 3 | (digit - b'0')),
            );
            rest = &tail[3..];
        }
    }
    Some(out)
}
