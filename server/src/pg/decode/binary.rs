//! Parameters in binary format.
//!
//! Invariant: every value is read to its last byte; too few or too many bytes are 22P03.

use bytes::Buf;
use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::common::ScalarValue;
use thalweg_catalog::SqlType;

use super::{json, list, null, number, utf8};
use crate::frontend::Report;
use crate::pg::encode::{EPOCH_2000_DAYS, EPOCH_2000_US};
use crate::pg::error::report;

const NUMERIC_POSITIVE: u16 = 0;
const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_GROUP_MAX: u16 = 9999;
/// Groups beyond this cannot be part of a decimal we hold.
const NUMERIC_GROUPS_MAX: usize = 2_000;

/// Reads `bytes` as a value of `ty`; `number` is the parameter's, for messages.
pub(super) fn scalar(bytes: &[u8], ty: &SqlType, number: usize) -> Result<ScalarValue, Report> {
    let incorrect = || {
        report(
            "22P03",
            format!("incorrect binary data format in bind parameter {number}"),
        )
    };
    value(bytes, ty, number)?.ok_or_else(incorrect)
}

fn exactly<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// `None` when the bytes are not a value of the type.
fn value(bytes: &[u8], ty: &SqlType, number: usize) -> Result<Option<ScalarValue>, Report> {
    Ok(match ty {
        SqlType::Bool => exactly::<1>(bytes).map(|[byte]| ScalarValue::Boolean(Some(byte != 0))),
        SqlType::Int2 => exactly(bytes).map(|b| ScalarValue::Int16(Some(i16::from_be_bytes(b)))),
        SqlType::Int4 => exactly(bytes).map(|b| ScalarValue::Int32(Some(i32::from_be_bytes(b)))),
        SqlType::Int8 => exactly(bytes).map(|b| ScalarValue::Int64(Some(i64::from_be_bytes(b)))),
        SqlType::Oid | SqlType::Reg(_) => {
            exactly(bytes).map(|b| ScalarValue::UInt32(Some(u32::from_be_bytes(b))))
        }
        SqlType::Float4 => {
            exactly(bytes).map(|b| ScalarValue::Float32(Some(f32::from_be_bytes(b))))
        }
        SqlType::Float8 => {
            exactly(bytes).map(|b| ScalarValue::Float64(Some(f64::from_be_bytes(b))))
        }
        SqlType::Bytea => Some(ScalarValue::Binary(Some(bytes.to_vec()))),
        SqlType::Uuid => {
            exactly::<16>(bytes).map(|b| ScalarValue::FixedSizeBinary(16, Some(b.to_vec())))
        }
        SqlType::Date => exactly(bytes)
            .map(|b| date(i32::from_be_bytes(b)))
            .transpose()?,
        SqlType::Time => exactly(bytes)
            .map(i64::from_be_bytes)
            .filter(|us| (0..=86_400_000_000).contains(us))
            .map(|us| ScalarValue::Time64Microsecond(Some(us))),
        SqlType::Timestamp => exactly(bytes)
            .map(|b| timestamp(i64::from_be_bytes(b)))
            .transpose()?
            .map(|us| ScalarValue::TimestampMicrosecond(Some(us), None)),
        SqlType::Timestamptz => exactly(bytes)
            .map(|b| timestamp(i64::from_be_bytes(b)))
            .transpose()?
            .map(|us| ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()))),
        SqlType::Interval => exactly::<16>(bytes).map(|b| interval(&b)).transpose()?,
        SqlType::Numeric { .. } => numeric(bytes, ty)?,
        SqlType::Json => Some(ScalarValue::Utf8View(Some(
            json::checked(utf8(bytes)?)?.to_owned(),
        ))),
        SqlType::Jsonb => match bytes.split_first() {
            Some((1, rest)) => Some(ScalarValue::Utf8View(Some(json::canonical(utf8(rest)?)?))),
            _ => None,
        },
        SqlType::Char(_) => Some(ScalarValue::Utf8View(Some(
            utf8(bytes)?.trim_end_matches(' ').to_owned(),
        ))),
        SqlType::InternalChar if bytes.len() != 1 => None,
        SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::Name
        | SqlType::Unknown
        | SqlType::InternalChar => Some(ScalarValue::Utf8View(Some(utf8(bytes)?.to_owned()))),
        SqlType::Array(element) => array(bytes, element, number)?,
        SqlType::Struct(_) => {
            return Err(report(
                "0A000",
                "input of anonymous composite types is not implemented",
            ));
        }
    })
}

fn date(days: i32) -> Result<ScalarValue, Report> {
    let days = match days {
        i32::MIN | i32::MAX => days,
        days => days
            .checked_add(EPOCH_2000_DAYS)
            .ok_or_else(|| report("22008", "date out of range"))?,
    };
    Ok(ScalarValue::Date32(Some(days)))
}

fn timestamp(us: i64) -> Result<i64, Report> {
    match us {
        i64::MIN | i64::MAX => Ok(us),
        us => us
            .checked_add(EPOCH_2000_US)
            .ok_or_else(|| report("22008", "timestamp out of range")),
    }
}

fn interval(mut bytes: &[u8]) -> Result<ScalarValue, Report> {
    let us = bytes.get_i64();
    let days = bytes.get_i32();
    let months = bytes.get_i32();
    let nanoseconds = us
        .checked_mul(1000)
        .ok_or_else(|| report("22008", "interval out of range"))?;
    Ok(ScalarValue::IntervalMonthDayNano(Some(
        IntervalMonthDayNano::new(months, days, nanoseconds),
    )))
}

fn numeric(mut bytes: &[u8], ty: &SqlType) -> Result<Option<ScalarValue>, Report> {
    let (Ok(count), Ok(weight), Ok(sign), Ok(_scale)) = (
        bytes.try_get_u16(),
        bytes.try_get_i16(),
        bytes.try_get_u16(),
        bytes.try_get_u16(),
    ) else {
        return Ok(None);
    };
    let count = usize::from(count);
    if !matches!(sign, NUMERIC_POSITIVE | NUMERIC_NEGATIVE) {
        return Err(report(
            "22003",
            "numeric NaN and infinity are not supported",
        ));
    }
    if bytes.len() != count * 2 {
        return Ok(None);
    }
    if count > NUMERIC_GROUPS_MAX || i32::from(weight).unsigned_abs() as usize > NUMERIC_GROUPS_MAX
    {
        return Err(report("22003", "numeric field overflow"));
    }
    let groups: Vec<u16> = (0..count).map(|_| bytes.get_u16()).collect();
    if groups.iter().any(|&group| group > NUMERIC_GROUP_MAX) {
        return Ok(None);
    }
    let digits: String = groups.iter().map(|group| format!("{group:04}")).collect();
    // The first group counts 10000 to the weight, the last one so many groups less.
    let places = (count as i64 - 1 - i64::from(weight)) * 4;
    number::decimal(sign == NUMERIC_NEGATIVE, &digits, places, ty).map(Some)
}

fn array(
    mut bytes: &[u8],
    element: &SqlType,
    number: usize,
) -> Result<Option<ScalarValue>, Report> {
    let (Ok(dimensions), Ok(_has_nulls), Ok(oid)) = (
        bytes.try_get_i32(),
        bytes.try_get_i32(),
        bytes.try_get_u32(),
    ) else {
        return Ok(None);
    };
    if dimensions > 1 || matches!(element, SqlType::Array(_)) {
        return Err(list::too_many_dimensions());
    }
    if oid != element.oid() {
        let mut wrong = report(
            "42804",
            format!("wrong element type in bind parameter {number}"),
        );
        wrong.detail = Some(format!(
            "The array has elements of type OID {oid}, expected {}.",
            element.oid()
        ));
        return Err(wrong);
    }
    let count = match dimensions {
        0 => 0,
        1 => match (
            bytes.try_get_i32().map(usize::try_from),
            bytes.try_get_i32(),
        ) {
            // Every element has at least its length field, so a count cannot promise more than there is.
            (Ok(Ok(count)), Ok(_lower_bound)) if count <= bytes.len() / 4 => count,
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let Ok(length) = bytes.try_get_i32() else {
            return Ok(None);
        };
        match usize::try_from(length) {
            Ok(length) if length <= bytes.len() => {
                values.push(scalar(&bytes[..length], element, number)?);
                bytes = &bytes[length..];
            }
            Err(_) if length == -1 => values.push(null(element)?),
            _ => return Ok(None),
        }
    }
    Ok(bytes.is_empty().then(|| list::list(&values, element)))
}
