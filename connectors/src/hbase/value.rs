//! Encodings of values: `bytes` as HBase's own `Bytes.toBytes`, `string`, `ordered`.
//!
//! Invariant: `decode(encode(v)) = v`, or encoding fails and says why; nothing is truncated or rounded. Under `ordered`, byte order
//! is value order.

use std::fmt::Write;

use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta};
use thalweg_catalog::SqlType;

use super::scalar::{Scalar, decimal};
use crate::format::text;

/// How a value becomes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As Java's `Bytes.toBytes` does it; what HBase programs, Flink and Hive's binary columns use.
    Bytes,
    /// As text; what scripts and Hive use.
    Text,
    /// So that bytes sort as values do.
    Ordered,
}

impl Encoding {
    /// The name in options.
    pub(super) fn name(self) -> &'static str {
        match self {
            Encoding::Bytes => "bytes",
            Encoding::Text => "string",
            Encoding::Ordered => "ordered",
        }
    }

    /// Whether the bytes that we write sort as values do, NULLs apart.
    pub(super) fn keeps_order(self, ty: &SqlType) -> bool {
        match self {
            Encoding::Ordered => true,
            Encoding::Bytes | Encoding::Text => matches!(
                ty,
                SqlType::Text
                    | SqlType::Varchar(_)
                    | SqlType::Name
                    | SqlType::Bytea
                    | SqlType::Uuid
            ),
        }
    }
}

/// Milliseconds, for the encodings that have no finer moments.
fn milliseconds(us: i64) -> Result<i64, &'static str> {
    match us % 1000 {
        0 => Ok(us / 1000),
        _ => Err("the encoding holds milliseconds, and the value is finer"),
    }
}

/// Appends the bytes of a value.
///
/// # Errors
/// Why the encoding has no bytes for it.
pub(super) fn encode(
    value: Scalar<'_>,
    ty: &SqlType,
    encoding: Encoding,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    match encoding {
        Encoding::Bytes => encode_bytes(value, ty, out),
        Encoding::Text => encode_text(value, ty, out),
        Encoding::Ordered => {
            encode_ordered(value, out);
            Ok(())
        }
    }
}

/// The value in some bytes; `None` when they hold none.
pub(super) fn decode<'a>(bytes: &'a [u8], ty: &SqlType, encoding: Encoding) -> Option<Scalar<'a>> {
    match encoding {
        Encoding::Bytes => decode_bytes(bytes, ty),
        Encoding::Text => decode_text(bytes, ty),
        Encoding::Ordered => decode_ordered(bytes, ty),
    }
}

fn encode_bytes(value: Scalar<'_>, ty: &SqlType, out: &mut Vec<u8>) -> Result<(), &'static str> {
    match value {
        Scalar::Bool(value) => out.push(if value { 0xff } else { 0 }),
        Scalar::Int2(value) => out.extend_from_slice(&value.to_be_bytes()),
        Scalar::Int4(value) | Scalar::Date(value) => out.extend_from_slice(&value.to_be_bytes()),
        Scalar::Int8(value) => out.extend_from_slice(&value.to_be_bytes()),
        Scalar::Float4(value) => out.extend_from_slice(&value.to_be_bytes()),
        Scalar::Float8(value) => out.extend_from_slice(&value.to_be_bytes()),
        // A BigDecimal: its scale, then the shortest two's complement of its digits.
        Scalar::Numeric(value) => {
            let (_, scale) = decimal(ty);
            out.extend_from_slice(&i32::from(scale).to_be_bytes());
            out.extend_from_slice(shortest(&value.to_be_bytes()));
        }
        Scalar::Text(value) => out.extend_from_slice(value.as_bytes()),
        Scalar::Bytes(value) => out.extend_from_slice(value),
        Scalar::Time(us) => {
            let ms = i32::try_from(milliseconds(us)?).map_err(|_| "the time is out of range")?;
            out.extend_from_slice(&ms.to_be_bytes());
        }
        Scalar::Timestamp(us) => out.extend_from_slice(&milliseconds(us)?.to_be_bytes()),
        Scalar::Uuid(value) => out.extend_from_slice(&value),
    }
    Ok(())
}

/// Two's complement without bytes that only repeat the sign.
fn shortest(bytes: &[u8; 16]) -> &[u8] {
    let repeats = |pair: &[u8]| match pair {
        [0x00, next] => next & 0x80 == 0,
        [0xff, next] => next & 0x80 != 0,
        _ => false,
    };
    let skip = bytes.windows(2).take_while(|pair| repeats(pair)).count();
    bytes.get(skip..).unwrap_or(bytes)
}

fn decode_bytes<'a>(bytes: &'a [u8], ty: &SqlType) -> Option<Scalar<'a>> {
    Some(match ty {
        SqlType::Bool => match bytes {
            [byte] => Scalar::Bool(*byte != 0),
            _ => return None,
        },
        SqlType::Int2 => Scalar::Int2(i16::from_be_bytes(bytes.try_into().ok()?)),
        SqlType::Int4 => Scalar::Int4(i32::from_be_bytes(bytes.try_into().ok()?)),
        SqlType::Int8 => Scalar::Int8(i64::from_be_bytes(bytes.try_into().ok()?)),
        SqlType::Float4 => Scalar::Float4(f32::from_be_bytes(bytes.try_into().ok()?)),
        SqlType::Float8 => Scalar::Float8(f64::from_be_bytes(bytes.try_into().ok()?)),
        SqlType::Numeric { .. } => Scalar::Numeric(big_decimal(bytes, ty)?),
        SqlType::Bytea => Scalar::Bytes(bytes),
        SqlType::Date => Scalar::Date(i32::from_be_bytes(bytes.try_into().ok()?)),
        SqlType::Time => {
            let ms = i64::from(i32::from_be_bytes(bytes.try_into().ok()?));
            Scalar::Time(in_day(ms.checked_mul(1000)?)?)
        }
        SqlType::Timestamp | SqlType::Timestamptz => {
            Scalar::Timestamp(i64::from_be_bytes(bytes.try_into().ok()?).checked_mul(1000)?)
        }
        SqlType::Uuid => Scalar::Uuid(bytes.try_into().ok()?),
        _ => Scalar::Text(characters(bytes, ty)?),
    })
}

/// A BigDecimal at the scale of the column; `None` when digits would be lost.
fn big_decimal(bytes: &[u8], ty: &SqlType) -> Option<i128> {
    let (scale, digits) = bytes.split_first_chunk::<4>()?;
    let negative = digits.first()? & 0x80 != 0;
    let mut padded = [if negative { 0xff } else { 0 }; 16];
    let start = padded.len().checked_sub(digits.len())?;
    padded.get_mut(start..)?.copy_from_slice(digits);
    let value = i128::from_be_bytes(padded);
    let (precision, held) = decimal(ty);
    let shift = i64::from(held) - i64::from(i32::from_be_bytes(*scale));
    let factor = 10i128.checked_pow(u32::try_from(shift.unsigned_abs()).ok()?)?;
    let value = match shift >= 0 {
        true => value.checked_mul(factor)?,
        false if value % factor == 0 => value / factor,
        false => return None,
    };
    let limit = 10u128.checked_pow(u32::from(precision))?;
    (value.unsigned_abs() < limit).then_some(value)
}

/// UTF-8 that fits the declared length.
fn characters<'a>(bytes: &'a [u8], ty: &SqlType) -> Option<&'a str> {
    // Postgres' text has no zero character.
    let text = std::str::from_utf8(bytes).ok();
    let text = text.filter(|_| !bytes.contains(&0))?;
    let length_max = match ty {
        SqlType::Varchar(Some(length)) | SqlType::Char(length) => *length as usize,
        _ => return Some(text),
    };
    (text.chars().count() <= length_max).then_some(text)
}

const DAY_US: i64 = 86_400_000_000;

fn in_day(us: i64) -> Option<i64> {
    // 24:00:00 is a time in Postgres.
    (0..=DAY_US).contains(&us).then_some(us)
}

fn encode_text(value: Scalar<'_>, ty: &SqlType, out: &mut Vec<u8>) -> Result<(), &'static str> {
    const RANGE: &str = "the moment has no text";
    let mut text = String::new();
    // Writing to memory cannot fail.
    let _ = match value {
        Scalar::Bool(value) => write!(text, "{value}"),
        Scalar::Int2(value) => write!(text, "{value}"),
        Scalar::Int4(value) => write!(text, "{value}"),
        Scalar::Int8(value) => write!(text, "{value}"),
        Scalar::Float4(value) => write!(text, "{}", float_text(value.into(), &value)),
        Scalar::Float8(value) => write!(text, "{}", float_text(value, &value)),
        Scalar::Numeric(value) => write!(text, "{}", numeric_text(value, ty)),
        Scalar::Text(value) => {
            out.extend_from_slice(value.as_bytes());
            return Ok(());
        }
        Scalar::Bytes(value) => {
            out.extend_from_slice(value);
            return Ok(());
        }
        Scalar::Date(days) => {
            let day = TimeDelta::try_days(days.into())
                .and_then(|days| NaiveDate::default().checked_add_signed(days));
            write!(text, "{}", day.ok_or(RANGE)?)
        }
        Scalar::Time(us) => {
            let (seconds, us) = (us / 1_000_000, us % 1_000_000);
            let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
            let _ = write!(text, "{hour:02}:{minute:02}:{:02}", seconds % 60);
            match us {
                0 => Ok(()),
                us => write!(text, ".{us:06}"),
            }
        }
        Scalar::Timestamp(us) => {
            let moment = DateTime::from_timestamp_micros(us).ok_or(RANGE)?;
            let full = moment.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            match ty {
                SqlType::Timestamptz => write!(text, "{full}"),
                _ => write!(text, "{}", full.trim_end_matches('Z')),
            }
        }
        Scalar::Uuid(value) => write!(text, "{}", uuid::Uuid::from_bytes(value)),
    };
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn float_text(value: f64, shortest: &dyn std::fmt::Display) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        let sign = if value > 0.0 { "" } else { "-" };
        format!("{sign}Infinity")
    } else {
        shortest.to_string()
    }
}

fn numeric_text(value: i128, ty: &SqlType) -> String {
    let (_, scale) = decimal(ty);
    let Ok(scale) = usize::try_from(scale) else {
        return format!("{value}{}", "0".repeat(usize::from(scale.unsigned_abs())));
    };
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    // A numeric without a declared scale has the digits it needs.
    let fraction = match ty {
        SqlType::Numeric { declared: None, .. } => fraction.trim_end_matches('0'),
        _ => fraction,
    };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

fn decode_text<'a>(bytes: &'a [u8], ty: &SqlType) -> Option<Scalar<'a>> {
    if *ty == SqlType::Bytea {
        return Some(Scalar::Bytes(bytes));
    }
    let text = characters(bytes, ty)?;
    Some(match ty {
        SqlType::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Scalar::Bool(true),
            "false" | "f" | "0" => Scalar::Bool(false),
            _ => return None,
        },
        SqlType::Int2 => Scalar::Int2(text.parse().ok()?),
        SqlType::Int4 => Scalar::Int4(text.parse().ok()?),
        SqlType::Int8 => Scalar::Int8(text.parse().ok()?),
        SqlType::Float4 => Scalar::Float4(finite_or_named(text, text.parse::<f32>().ok()?)?),
        SqlType::Float8 => Scalar::Float8(finite_or_named(text, text.parse::<f64>().ok()?)?),
        SqlType::Numeric { .. } => {
            let (precision, scale) = decimal(ty);
            Scalar::Numeric(text::numeric_exact(text, precision, scale)?)
        }
        SqlType::Date => Scalar::Date(text::date(text)?),
        SqlType::Time if text == "24:00:00" => Scalar::Time(DAY_US),
        SqlType::Time => Scalar::Time(text::time(text)?),
        SqlType::Timestamp => Scalar::Timestamp(text::timestamp(text)?),
        SqlType::Timestamptz => Scalar::Timestamp(text::timestamptz(text)?),
        SqlType::Uuid => Scalar::Uuid(*uuid::Uuid::try_parse(text).ok()?.as_bytes()),
        _ => Scalar::Text(text),
    })
}

/// A number too large for the type is no value of it, though Rust reads it as infinite.
fn finite_or_named<T: Into<f64> + Copy>(text: &str, value: T) -> Option<T> {
    let named = text.contains(['n', 'N']);
    (value.into().is_finite() || named).then_some(value)
}

fn encode_ordered(value: Scalar<'_>, out: &mut Vec<u8>) {
    match value {
        Scalar::Bool(value) => out.push(u8::from(value)),
        Scalar::Int2(value) => out.extend_from_slice(&(value ^ i16::MIN).to_be_bytes()),
        Scalar::Int4(value) | Scalar::Date(value) => {
            out.extend_from_slice(&(value ^ i32::MIN).to_be_bytes());
        }
        Scalar::Int8(value) | Scalar::Time(value) | Scalar::Timestamp(value) => {
            out.extend_from_slice(&(value ^ i64::MIN).to_be_bytes());
        }
        // Negative numbers have all bits flipped, others the sign: then bytes sort as numbers, NaN last as in Postgres.
        Scalar::Float4(value) => {
            let bits = value.to_bits();
            let flip = if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
            out.extend_from_slice(&(bits ^ flip).to_be_bytes());
        }
        Scalar::Float8(value) => {
            let bits = value.to_bits();
            let flip = if bits >> 63 == 1 { u64::MAX } else { 1 << 63 };
            out.extend_from_slice(&(bits ^ flip).to_be_bytes());
        }
        Scalar::Numeric(value) => out.extend_from_slice(&(value ^ i128::MIN).to_be_bytes()),
        Scalar::Text(value) => out.extend_from_slice(value.as_bytes()),
        Scalar::Bytes(value) => out.extend_from_slice(value),
        Scalar::Uuid(value) => out.extend_from_slice(&value),
    }
}

fn decode_ordered<'a>(bytes: &'a [u8], ty: &SqlType) -> Option<Scalar<'a>> {
    let int4 = || Some(i32::from_be_bytes(bytes.try_into().ok()?) ^ i32::MIN);
    let int8 = || Some(i64::from_be_bytes(bytes.try_into().ok()?) ^ i64::MIN);
    Some(match ty {
        SqlType::Bool => match bytes {
            [0] => Scalar::Bool(false),
            [1] => Scalar::Bool(true),
            _ => return None,
        },
        SqlType::Int2 => Scalar::Int2(i16::from_be_bytes(bytes.try_into().ok()?) ^ i16::MIN),
        SqlType::Int4 => Scalar::Int4(int4()?),
        SqlType::Date => Scalar::Date(int4()?),
        SqlType::Int8 => Scalar::Int8(int8()?),
        SqlType::Time => Scalar::Time(in_day(int8()?)?),
        SqlType::Timestamp | SqlType::Timestamptz => Scalar::Timestamp(int8()?),
        SqlType::Float4 => {
            let bits = u32::from_be_bytes(bytes.try_into().ok()?);
            let flip = if bits >> 31 == 0 { u32::MAX } else { 1 << 31 };
            Scalar::Float4(f32::from_bits(bits ^ flip))
        }
        SqlType::Float8 => {
            let bits = u64::from_be_bytes(bytes.try_into().ok()?);
            let flip = if bits >> 63 == 0 { u64::MAX } else { 1 << 63 };
            Scalar::Float8(f64::from_bits(bits ^ flip))
        }
        SqlType::Numeric { .. } => {
            let value = i128::from_be_bytes(bytes.try_into().ok()?) ^ i128::MIN;
            let limit = 10u128.checked_pow(u32::from(decimal(ty).0))?;
            Scalar::Numeric((value.unsigned_abs() < limit).then_some(value)?)
        }
        SqlType::Bytea => Scalar::Bytes(bytes),
        SqlType::Uuid => Scalar::Uuid(bytes.try_into().ok()?),
        _ => Scalar::Text(characters(bytes, ty)?),
    })
}
