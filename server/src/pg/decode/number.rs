//! Floats and decimals from text and from digits.
//!
//! Invariant: a decimal keeps every digit its type holds; further digits are rounded half away from zero, and one that does
//! not fit the type is 22003.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use thalweg_catalog::SqlType;

use super::{range, syntax};
use crate::frontend::Report;
use crate::pg::error::report;

/// Largest exponent worth reading: far outside every decimal we hold.
const EXPONENT_MAX: i64 = 10_000;

pub(super) fn float4(text: &str, ty: &SqlType) -> Result<f32, Report> {
    let value: f32 = text.parse().map_err(|_| syntax(ty, text))?;
    let lost = text.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
        && (value == 0.0 && !zero_mantissa(text) || value.is_infinite());
    if lost {
        Err(float_range(ty, text))
    } else {
        Ok(value)
    }
}

pub(super) fn float8(text: &str, ty: &SqlType) -> Result<f64, Report> {
    let value: f64 = text.parse().map_err(|_| syntax(ty, text))?;
    let lost = text.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
        && (value == 0.0 && !zero_mantissa(text) || value.is_infinite());
    if lost {
        Err(float_range(ty, text))
    } else {
        Ok(value)
    }
}

/// `0e5` has a digit that is not zero and is zero all the same.
fn zero_mantissa(text: &str) -> bool {
    !text
        .split(['e', 'E'])
        .next()
        .unwrap_or_default()
        .bytes()
        .any(|byte| matches!(byte, b'1'..=b'9'))
}

fn float_range(ty: &SqlType, text: &str) -> Report {
    report(
        "22003",
        format!("\"{}\" is out of range for type {ty}", super::shown(text)),
    )
}

/// `-12.50`, `1e-3`, `.5`.
pub(super) fn decimal_text(text: &str, ty: &SqlType) -> Result<ScalarValue, Report> {
    let bad = || syntax(ty, text);
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if ["nan", "inf", "infinity"]
        .iter()
        .any(|word| rest.eq_ignore_ascii_case(word))
    {
        return Err(report("22003", format!("numeric {rest} is not supported")));
    }
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().map_err(|_| bad())?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    if exponent.abs() > EXPONENT_MAX {
        return Err(range(ty, text));
    }
    decimal(negative, &digits, fraction.len() as i64 - exponent, ty)
}

/// The number `digits` times ten to the minus `places`.
pub(super) fn decimal(
    negative: bool,
    digits: &str,
    places: i64,
    ty: &SqlType,
) -> Result<ScalarValue, Report> {
    let DataType::Decimal128(precision, scale) = ty.arrow() else {
        return Err(report("XX000", "numeric is not held as a decimal"));
    };
    let overflow = || {
        let mut overflow = report("22003", "numeric field overflow");
        overflow.detail = Some(format!(
            "A field with precision {precision}, scale {scale} holds less digits."
        ));
        overflow
    };
    let surplus = places - i64::from(scale);
    let mut digits = digits.trim_start_matches('0').to_owned();
    let mut round_up = false;
    if surplus > 0 {
        let cut = digits.len() as i64 - surplus;
        let dropped = if cut >= 0 {
            digits.split_off(cut as usize)
        } else {
            digits.clear();
            String::new()
        };
        round_up = dropped
            .as_bytes()
            .first()
            .is_some_and(|&digit| digit >= b'5');
    } else if !digits.is_empty() {
        if digits.len() as i64 - surplus > i64::from(precision) {
            return Err(overflow());
        }
        digits.push_str(&"0".repeat(surplus.unsigned_abs() as usize));
    }
    let magnitude: i128 = if digits.is_empty() {
        0
    } else {
        digits.parse().map_err(|_| overflow())?
    };
    let magnitude = magnitude
        .checked_add(i128::from(round_up))
        .ok_or_else(overflow)?;
    let limit = 10_i128
        .checked_pow(u32::from(precision))
        .unwrap_or(i128::MAX);
    if magnitude >= limit {
        return Err(overflow());
    }
    Ok(ScalarValue::Decimal128(
        Some(if negative { -magnitude } else { magnitude }),
        precision,
        scale,
    ))
}
