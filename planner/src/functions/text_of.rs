//! Values as text, exactly as Postgres prints them.
//!
//! Invariant: what this prints, the cast from text reads back to the same value.

use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
    UInt32Type,
};
use datafusion::common::{DataFusionError, Result};
use thalweg_catalog::SqlType;

use super::decimal;
use super::temporal_text::{self as temporal, Zone};
use crate::types::{BARE_SCALE, scale_of};

/// Prints the values of one array.
#[derive(Debug)]
pub(crate) struct TextOf<'a> {
    array: &'a ArrayRef,
    ty: &'a SqlType,
    zone: Zone,
}

impl<'a> TextOf<'a> {
    /// A printer for `array`, which holds values of `ty` in their own Arrow type.
    pub(crate) fn new(array: &'a ArrayRef, ty: &'a SqlType, zone: Zone) -> Result<TextOf<'a>> {
        let held = match ty {
            SqlType::Unknown => DataType::Utf8View,
            other => other.arrow(),
        };
        let same = match (array.data_type(), &held) {
            (DataType::List(_), DataType::List(_)) | (DataType::Struct(_), DataType::Struct(_)) => {
                true
            }
            (a, b) => a == b,
        };
        if !same {
            return Err(DataFusionError::Internal(format!(
                "{} is not how {ty} is held",
                array.data_type()
            )));
        }
        Ok(TextOf { array, ty, zone })
    }

    /// Appends value `i`, which is not NULL.
    pub(crate) fn write(&self, i: usize, out: &mut String) {
        use SqlType as T;
        // Writing to a String cannot fail, so the results are dropped.
        let a = self.array;
        match self.ty {
            T::Bool => out.push_str(if a.as_boolean().value(i) {
                "true"
            } else {
                "false"
            }),
            T::Int2 => {
                let _ = write!(out, "{}", a.as_primitive::<Int16Type>().value(i));
            }
            T::Int4 => {
                let _ = write!(out, "{}", a.as_primitive::<Int32Type>().value(i));
            }
            T::Int8 => {
                let _ = write!(out, "{}", a.as_primitive::<Int64Type>().value(i));
            }
            T::Oid | T::Reg(_) => {
                let _ = write!(out, "{}", a.as_primitive::<UInt32Type>().value(i));
            }
            T::Float4 => float_text(
                f64::from(a.as_primitive::<Float32Type>().value(i)),
                Some(a.as_primitive::<Float32Type>().value(i)),
                out,
            ),
            T::Float8 => float_text(a.as_primitive::<Float64Type>().value(i), None, out),
            T::Numeric { declared, .. } => {
                let scale = scale_of(self.ty);
                // Bare numeric is held with more places than were written; those are not shown.
                let trim = declared.is_none() && scale >= BARE_SCALE;
                out.push_str(&decimal::print(
                    a.as_primitive::<Decimal128Type>().value(i),
                    scale,
                    trim,
                ));
            }
            T::Text
            | T::Varchar(_)
            | T::Char(_)
            | T::Name
            | T::InternalChar
            | T::Json
            | T::Jsonb
            | T::Unknown => {
                out.push_str(a.as_string_view().value(i));
            }
            T::Bytea => {
                out.push_str("\\x");
                for byte in a.as_binary::<i32>().value(i) {
                    let _ = write!(out, "{byte:02x}");
                }
            }
            T::Date => out.push_str(&temporal::date_text(
                a.as_primitive::<Date32Type>().value(i),
            )),
            T::Time => out.push_str(&temporal::time_text(
                a.as_primitive::<Time64MicrosecondType>().value(i),
            )),
            T::Timestamp => out.push_str(&temporal::timestamp_text(
                a.as_primitive::<TimestampMicrosecondType>().value(i),
            )),
            T::Timestamptz => {
                out.push_str(&temporal::timestamptz_text(
                    a.as_primitive::<TimestampMicrosecondType>().value(i),
                    self.zone,
                ));
            }
            T::Interval => {
                out.push_str(&temporal::interval_text(
                    a.as_primitive::<IntervalMonthDayNanoType>().value(i),
                ));
            }
            T::Uuid => {
                let bytes = a.as_fixed_size_binary().value(i);
                if let Ok(id) = uuid::Uuid::from_slice(bytes) {
                    let _ = write!(out, "{id}");
                }
            }
            T::Array(element) => self.write_array(i, element, out),
            T::Struct(fields) => self.write_struct(i, fields, out),
        }
    }

    /// Appends a value as part of an array or a row: there, as in Postgres, a boolean is one letter.
    fn write_inside(&self, i: usize, out: &mut String) {
        match self.ty {
            SqlType::Bool if self.array.as_boolean().value(i) => out.push('t'),
            SqlType::Bool => out.push('f'),
            _ => self.write(i, out),
        }
    }

    fn write_array(&self, i: usize, element: &SqlType, out: &mut String) {
        let values = self.array.as_list::<i32>().value(i);
        out.push('{');
        for j in 0..values.len() {
            if j > 0 {
                out.push(',');
            }
            if values.is_null(j) {
                out.push_str("NULL");
                continue;
            }
            let mut item = String::new();
            if let Ok(printer) = TextOf::new(&values, element, self.zone) {
                printer.write_inside(j, &mut item);
            }
            let nested = matches!(element, SqlType::Array(_));
            let quote = !nested
                && (item.is_empty()
                    || item.eq_ignore_ascii_case("null")
                    || item.contains(|c: char| {
                        matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_whitespace()
                    }));
            if quote {
                push_quoted(&item, out)
            } else {
                out.push_str(&item)
            }
        }
        out.push('}');
    }

    fn write_struct(&self, i: usize, fields: &[(String, SqlType)], out: &mut String) {
        let row = self.array.as_struct();
        out.push('(');
        for (j, (_, ty)) in fields.iter().enumerate() {
            if j > 0 {
                out.push(',');
            }
            let column = row.column(j);
            if column.is_null(i) {
                continue;
            }
            let mut item = String::new();
            if let Ok(printer) = TextOf::new(column, ty, self.zone) {
                printer.write_inside(i, &mut item);
            }
            let quote = item.is_empty()
                || item.contains(|c: char| {
                    matches!(c, '(' | ')' | ',' | '"' | '\\') || c.is_whitespace()
                });
            if quote {
                push_quoted(&item, out)
            } else {
                out.push_str(&item)
            }
        }
        out.push(')');
    }
}

fn push_quoted(item: &str, out: &mut String) {
    out.push('"');
    for c in item.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Shortest text that reads back to the same float; exponents as C prints them.
fn float_text(value: f64, single: Option<f32>, out: &mut String) {
    if value.is_nan() {
        out.push_str("NaN");
        return;
    }
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        return;
    }
    let scientific = match single {
        Some(v) => format!("{v:e}"),
        None => format!("{value:e}"),
    };
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let most = if single.is_some() { 6 } else { 15 };
    if (-4..most).contains(&exponent) {
        match single {
            Some(v) => {
                let _ = write!(out, "{v}");
            }
            None => {
                let _ = write!(out, "{value}");
            }
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    }
}

/// A whole array as text.
pub(crate) fn text_array(array: &ArrayRef, ty: &SqlType, zone: Zone) -> Result<ArrayRef> {
    if matches!(array.data_type(), DataType::Utf8View) {
        return Ok(Arc::clone(array));
    }
    let printer = TextOf::new(array, ty, zone)?;
    let mut out = StringViewBuilder::with_capacity(array.len());
    let mut buffer = String::new();
    for i in 0..array.len() {
        if array.is_null(i) {
            out.append_null();
        } else {
            buffer.clear();
            printer.write(i, &mut buffer);
            out.append_value(&buffer);
        }
    }
    Ok(Arc::new(out.finish()))
}
