//! Texts read as integers, floats, booleans and bytes.
//!
//! Invariant: what Postgres does not read is 22P02, what does not fit is 22003.

use datafusion::common::Result;
use thalweg_catalog::SqlType;

use super::cast::bad_syntax;
use crate::error::raise;

pub(crate) fn parse_integer(text: &str, to: &SqlType) -> Result<i64> {
    let trimmed = text.trim();
    let body = trimmed.strip_prefix('+').unwrap_or(trimmed);
    let digits = body.strip_prefix('-').unwrap_or(body);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad_syntax(to, text));
    }
    let too_big = || {
        raise(
            "22003",
            format!("value \"{text}\" is out of range for type {to}"),
        )
    };
    let value: i64 = body.parse().map_err(|_| too_big())?;
    let fits = match to {
        SqlType::Int2 => i16::try_from(value).is_ok(),
        SqlType::Int4 => i32::try_from(value).is_ok(),
        SqlType::Oid | SqlType::Reg(_) => {
            u32::try_from(value).is_ok() || i32::try_from(value).is_ok()
        }
        _ => true,
    };
    if fits { Ok(value) } else { Err(too_big()) }
}

pub(crate) fn parse_float(text: &str, to: &SqlType) -> Result<f64> {
    let trimmed = text.trim();
    let lower = trimmed.to_ascii_lowercase();
    let value = match lower.as_str() {
        "nan" => f64::NAN,
        "infinity" | "+infinity" | "inf" | "+inf" => f64::INFINITY,
        "-infinity" | "-inf" => f64::NEG_INFINITY,
        _ => {
            if !trimmed.bytes().any(|b| b.is_ascii_digit()) {
                return Err(bad_syntax(to, text));
            }
            let value: f64 = trimmed.parse().map_err(|_| bad_syntax(to, text))?;
            if value.is_infinite()
                || (matches!(to, SqlType::Float4) && (value as f32).is_infinite())
            {
                return Err(raise(
                    "22003",
                    format!("\"{text}\" is out of range for type {to}"),
                ));
            }
            value
        }
    };
    Ok(value)
}

pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    let lower = text.trim().to_ascii_lowercase();
    let prefix = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    if prefix("true", 1) || prefix("yes", 1) || lower == "on" || lower == "1" {
        Some(true)
    } else if prefix("false", 1) || prefix("no", 1) || prefix("off", 2) || lower == "0" {
        Some(false)
    } else {
        None
    }
}

pub(crate) fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        if digits.len() % 2 != 0 {
            return Err(raise(
                "22023",
                "invalid hexadecimal data: odd number of digits",
            ));
        }
        return digits
            .chunks(2)
            .map(|pair| {
                let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
                match (digit(pair[0]), digit(pair[1])) {
                    (Some(h), Some(l)) => Ok(h << 4 | l),
                    _ => Err(raise(
                        "22023",
                        format!(
                            "invalid hexadecimal digit: \"{}\"",
                            String::from_utf8_lossy(pair)
                        ),
                    )),
                }
            })
            .collect();
    }
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            out.push(bytes[at]);
            at += 1;
        } else if bytes.get(at + 1) == Some(&b'\\') {
            out.push(b'\\');
            at += 2;
        } else {
            let octal = text
                .get(at + 1..at + 4)
                .and_then(|o| u8::from_str_radix(o, 8).ok());
            out.push(octal.ok_or_else(|| raise("22P02", "invalid input syntax for type bytea"))?);
            at += 4;
        }
    }
    Ok(out)
}
