//! The binary format: what the types' send functions give.
//!
//! Invariant: numbers are big-endian, dates and timestamps count from 2000-01-01, and a value outside Postgres' range is an
//! error, not another value.

use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::Array;

use super::calendar::{EPOCH_2000_DAYS, EPOCH_2000_US, Interval, Zone};
use super::number::Decimal;
use super::values::Values;
use super::{Format, put_field};
use crate::frontend::Report;
use crate::pg::error::report;

const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_GROUP: usize = 4;
const JSONB_VERSION: u8 = 1;

/// Appends a value that is not NULL.
pub(super) fn put(out: &mut BytesMut, values: &Values, row: usize) -> Result<(), Report> {
    match values {
        Values::Null => {}
        Values::Bool(array) => out.put_u8(u8::from(array.value(row))),
        Values::Int2(array) => out.put_i16(array.value(row)),
        Values::Int4(array) => out.put_i32(array.value(row)),
        Values::Int8(array) => out.put_i64(array.value(row)),
        Values::Oid(array) => out.put_u32(array.value(row)),
        Values::Float4(array) => out.put_f32(array.value(row)),
        Values::Float8(array) => out.put_f64(array.value(row)),
        Values::Numeric { array, shown } => {
            put_numeric(out, &Decimal::new(array.value(row), array.scale(), *shown))
        }
        Values::Text(array) => out.put_slice(array.value(row).as_bytes()),
        Values::Jsonb(array) => {
            out.put_u8(JSONB_VERSION);
            out.put_slice(array.value(row).as_bytes());
        }
        Values::Bytea(array) => out.put_slice(array.value(row)),
        Values::Uuid(array) => out.put_slice(array.value(row)),
        Values::Date(array) => out.put_i32(date(array.value(row))?),
        Values::Time(array) => out.put_i64(array.value(row)),
        Values::Timestamp(array) | Values::Timestamptz(array) => {
            out.put_i64(timestamp(array.value(row))?)
        }
        Values::Interval(array) => {
            let interval = Interval::from_arrow(array.value(row));
            out.put_i64(interval.us);
            out.put_i32(interval.days);
            out.put_i32(interval.months);
        }
        Values::List { element_oid, .. } => put_list(out, values, row, *element_oid)?,
        Values::Record { fields, .. } => {
            out.put_i32(fields.len() as i32);
            for (oid, field) in fields {
                out.put_u32(*oid);
                put_nested(out, field, row)?;
            }
        }
    }
    Ok(())
}

/// Binary values do not depend on the session's zone.
fn put_nested(out: &mut BytesMut, values: &Values, row: usize) -> Result<(), Report> {
    put_field(out, values, row, Format::Binary, &Zone::Fixed(0))
}

fn date(days: i32) -> Result<i32, Report> {
    match days {
        i32::MIN | i32::MAX => Ok(days),
        days => days
            .checked_sub(EPOCH_2000_DAYS)
            .ok_or_else(|| report("22008", "date out of range")),
    }
}

fn timestamp(us: i64) -> Result<i64, Report> {
    match us {
        i64::MIN | i64::MAX => Ok(us),
        us => us
            .checked_sub(EPOCH_2000_US)
            .ok_or_else(|| report("22008", "timestamp out of range")),
    }
}

/// Number of base-10000 groups, weight of the first, sign, digits behind the point, groups.
fn put_numeric(out: &mut BytesMut, decimal: &Decimal) {
    let whole_zeros = decimal.whole.len().next_multiple_of(NUMERIC_GROUP) - decimal.whole.len();
    let fraction_zeros =
        decimal.fraction.len().next_multiple_of(NUMERIC_GROUP) - decimal.fraction.len();
    let digits = [
        &"0".repeat(whole_zeros),
        &decimal.whole,
        &decimal.fraction,
        &"0".repeat(fraction_zeros),
    ]
    .map(String::as_str)
    .concat();
    let groups: Vec<u16> = digits
        .as_bytes()
        .chunks(NUMERIC_GROUP)
        .map(|group| {
            group
                .iter()
                .fold(0, |number, digit| number * 10 + u16::from(digit - b'0'))
        })
        .collect();
    let weight = ((decimal.whole.len() + whole_zeros) / NUMERIC_GROUP) as i16 - 1;
    let leading = groups.iter().take_while(|&&group| group == 0).count();
    let trailing = groups[leading..]
        .iter()
        .rev()
        .take_while(|&&group| group == 0)
        .count();
    let kept = &groups[leading..groups.len() - trailing];
    out.put_u16(kept.len() as u16);
    out.put_i16(if kept.is_empty() {
        0
    } else {
        weight - leading as i16
    });
    out.put_u16(if decimal.negative && !kept.is_empty() {
        NUMERIC_NEGATIVE
    } else {
        0
    });
    out.put_u16(decimal.fraction.len() as u16);
    for group in kept {
        out.put_u16(*group);
    }
}

/// Dimensions, has-nulls flag, element OID, then (length, lower bound) of each dimension and the elements in row-major order.
fn put_list(
    out: &mut BytesMut,
    values: &Values,
    row: usize,
    element_oid: u32,
) -> Result<(), Report> {
    let mut lengths = Vec::new();
    let mut level = values;
    let mut rows = vec![row];
    while let Values::List {
        array, elements, ..
    } = level
    {
        let offsets = array.value_offsets();
        let mut inner = Vec::new();
        let mut length = None;
        for &row in &rows {
            let range = offsets[row] as usize..offsets[row + 1] as usize;
            if *length.get_or_insert(range.len()) != range.len() || array.is_null(row) {
                let message =
                    "multidimensional arrays must have sub-arrays with matching dimensions";
                return Err(report("2202E", message));
            }
            inner.extend(range);
        }
        lengths.push(length.unwrap_or(0));
        level = elements;
        rows = inner;
    }
    if rows.is_empty() {
        lengths.clear();
    }
    out.put_i32(lengths.len() as i32);
    out.put_i32(i32::from(rows.iter().any(|&row| level.is_null(row))));
    out.put_u32(element_oid);
    for length in lengths {
        out.put_i32(length as i32);
        out.put_i32(1);
    }
    for row in rows {
        put_nested(out, level, row)?;
    }
    Ok(())
}
