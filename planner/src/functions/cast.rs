//! CAST between SQL types, with Postgres' results, rounding and errors.
//!
//! Invariant: a value either converts exactly as in Postgres or raises 22P02, 22003, 22007, 22008 or 22001; NULL stays NULL.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, ListArray,
    PrimitiveArray, PrimitiveBuilder, StringViewBuilder, StructArray, new_null_array,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType,
    TimestampMicrosecondType, UInt32Type,
};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use thalweg_catalog::SqlType;

use super::decimal;
use super::native::{Call, Native, Shape};
use super::scan::{parse_bool, parse_bytea, parse_float, parse_integer};
use super::temporal_text::{self as temporal, DAY_US, Zone};
use super::text_of::{TextOf, text_array};
use crate::error::raise;
use crate::types::{is_integer, is_text, numeric_rank, scale_of};

/// The function that casts `from` to `to`. `assignment` makes a too long text an error instead of cutting it.
pub(crate) fn cast_function(from: &SqlType, to: &SqlType, zone: &str, assignment: bool) -> Native {
    let kernel = if assignment {
        assign_kernel
    } else {
        cast_kernel
    };
    let depends = [from, to]
        .iter()
        .any(|t| innermost(t) == &SqlType::Timestamptz);
    let native = Native::new(
        if assignment { "assign" } else { "cast" },
        vec![from.clone()],
        to.clone(),
        kernel,
    )
    .shape(Shape::Cast)
    .fallible(fallible(from, to));
    if depends {
        native.in_zone(zone)
    } else {
        native
    }
}

fn innermost(ty: &SqlType) -> &SqlType {
    match ty {
        SqlType::Array(inner) => innermost(inner),
        other => other,
    }
}

fn fallible(from: &SqlType, to: &SqlType) -> bool {
    use SqlType as T;
    match (from, to) {
        (T::Array(a), T::Array(b)) => fallible(a, b),
        (_, T::Text | T::Varchar(None)) => false,
        (a, T::Float8 | T::Float4) if is_integer(a) => false,
        (T::Float4, T::Float8) | (T::Numeric { .. }, T::Float8) => false,
        (
            T::Int2 | T::Int4 | T::Int8,
            T::Numeric {
                declared: None,
                held_scale,
            },
        ) => *held_scale > 18,
        (a, b) if is_integer(a) && is_integer(b) => numeric_rank(a) > numeric_rank(b),
        (
            T::Date | T::Timestamp | T::Timestamptz,
            T::Date | T::Timestamp | T::Timestamptz | T::Time,
        ) => false,
        (T::Numeric { declared: None, .. }, T::Numeric { declared: None, .. }) => {
            scale_of(to) > scale_of(from)
        }
        (a, b) => a != b,
    }
}

fn cast_kernel(call: &Call<'_>) -> Result<ArrayRef> {
    let zone = Zone::parse(call.time_zone)?;
    cast_array(&call.array(0)?, &call.types[0], call.ret, zone, false)
}

fn assign_kernel(call: &Call<'_>) -> Result<ArrayRef> {
    let zone = Zone::parse(call.time_zone)?;
    cast_array(&call.array(0)?, &call.types[0], call.ret, zone, true)
}

/// One value cast; `from` is [`SqlType::Unknown`] or text for a literal's text.
pub(crate) fn cast_scalar(
    value: &ScalarValue,
    from: &SqlType,
    to: &SqlType,
    zone: &str,
    assignment: bool,
) -> Result<ScalarValue> {
    if value.is_null() {
        return ScalarValue::try_from(&to.arrow());
    }
    let array = value.to_array_of_size(1)?;
    let out = cast_array(&array, from, to, Zone::parse(zone)?, assignment)?;
    ScalarValue::try_from_array(&out, 0)
}

/// Casts a whole array.
pub(crate) fn cast_array(
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    zone: Zone,
    assignment: bool,
) -> Result<ArrayRef> {
    use SqlType as T;
    if array.data_type() == &DataType::Null {
        return Ok(new_null_array(&to.arrow(), array.len()));
    }
    let array = &canonical(array, from)?;
    if from == to {
        return Ok(Arc::clone(array));
    }
    match (from, to) {
        (T::InternalChar, T::Int4) => char_to_integer(array),
        (T::Int4, T::InternalChar) => integer_to_char(array),
        (a, _) if is_text(a) || matches!(a, T::Unknown) => {
            from_text(array, from, to, zone, assignment)
        }
        (T::Json | T::Jsonb, _) if !is_text(to) => from_json(array, to),
        (_, T::Text | T::Varchar(None) | T::Name) => text_array(array, from, zone),
        (_, T::Varchar(_) | T::Char(_) | T::InternalChar) => {
            let text = text_array(array, from, zone)?;
            from_text(&text, &T::Text, to, zone, assignment)
        }
        (T::Float4 | T::Float8, b) if is_integer(b) => float_to_integer(array, from, to),
        (T::Float4 | T::Float8, T::Numeric { .. }) => float_to_numeric(array, from, to),
        (T::Float8, T::Float4) => float8_to_float4(array),
        (T::Numeric { .. }, T::Numeric { .. }) => numeric_to_numeric(array, from, to),
        (T::Numeric { .. }, b) if is_integer(b) => numeric_to_integer(array, from, to),
        (T::Numeric { .. }, T::Float4 | T::Float8) => numeric_to_float(array, from, to),
        (a, T::Numeric { .. }) if is_integer(a) => integer_to_numeric(array, to),
        (a, b) if (is_integer(a) || is_oid(a)) && (is_integer(b) || is_oid(b)) => narrow(array, to),
        (a, T::Float4 | T::Float8) if is_integer(a) => arrow_cast(array, to),
        (a, T::Bool) if is_integer(a) => arrow_cast(array, to),
        (T::Bool, b) if is_integer(b) => arrow_cast(array, to),
        (T::Date | T::Timestamp | T::Timestamptz | T::Time | T::Interval, _) => {
            temporal_cast(array, from, to, zone)
        }
        (T::Array(a), T::Array(b)) => {
            let list = array.as_list::<i32>();
            let values = cast_array(list.values(), a, b, zone, assignment)?;
            let DataType::List(field) = to.arrow() else {
                return Err(mismatch(from, to));
            };
            Ok(Arc::new(ListArray::try_new(
                field,
                list.offsets().clone(),
                values,
                list.nulls().cloned(),
            )?))
        }
        (T::Struct(a), T::Struct(b)) => {
            let input = array.as_struct();
            let mut columns = Vec::with_capacity(a.len());
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                columns.push(cast_array(input.column(i), &x.1, &y.1, zone, assignment)?);
            }
            let DataType::Struct(fields) = to.arrow() else {
                return Err(mismatch(from, to));
            };
            Ok(Arc::new(StructArray::try_new(
                fields,
                columns,
                input.nulls().cloned(),
            )?))
        }
        _ => arrow_cast(array, to),
    }
}

fn is_oid(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Oid | SqlType::Reg(_))
}

fn mismatch(from: &SqlType, to: &SqlType) -> DataFusionError {
    raise("42846", format!("cannot cast type {from} to {to}"))
}

/// The array in the Arrow type that its SQL type is held in.
fn canonical(array: &ArrayRef, ty: &SqlType) -> Result<ArrayRef> {
    let wanted = match ty {
        SqlType::Unknown => DataType::Utf8View,
        other => other.arrow(),
    };
    if array.data_type() == &wanted {
        return Ok(Arc::clone(array));
    }
    Ok(cast_with_options(
        array,
        &wanted,
        &CastOptions {
            safe: false,
            ..Default::default()
        },
    )?)
}

fn arrow_cast(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    Ok(cast_with_options(
        array,
        &to.arrow(),
        &CastOptions {
            safe: false,
            ..Default::default()
        },
    )?)
}

/// `integer out of range`
pub(crate) fn out_of_range(ty: &SqlType) -> DataFusionError {
    match ty {
        SqlType::Numeric { .. } => raise("22003", "numeric field overflow"),
        SqlType::Float4 | SqlType::Float8 => raise("22003", "value out of range: overflow"),
        SqlType::Oid => raise("22003", "OID out of range"),
        other => raise("22003", format!("{other} out of range")),
    }
}

fn narrow(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    cast_with_options(
        array,
        &to.arrow(),
        &CastOptions {
            safe: false,
            ..Default::default()
        },
    )
    .map_err(|_| out_of_range(to))
}

/// Maps a primitive array value by value.
pub(crate) fn map_primitive<I, O, F>(array: &ArrayRef, to: &DataType, f: F) -> Result<ArrayRef>
where
    I: ArrowPrimitiveType,
    O: ArrowPrimitiveType,
    F: Fn(I::Native) -> Result<O::Native>,
{
    let input = array.as_primitive::<I>();
    let out: PrimitiveArray<O> = input.try_unary(f)?;
    Ok(Arc::new(out.with_data_type(to.clone())))
}

fn float_to_integer(array: &ArrayRef, from: &SqlType, to: &SqlType) -> Result<ArrayRef> {
    let wide = if matches!(from, SqlType::Float4) {
        arrow_cast(array, &SqlType::Float8)?
    } else {
        Arc::clone(array)
    };
    let rounded = map_primitive::<Float64Type, Int64Type, _>(&wide, &DataType::Int64, |v| {
        let r = v.round_ties_even();
        // 2^63 itself is representable as a double but not as bigint.
        if r.is_nan() || !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&r) {
            return Err(out_of_range(to));
        }
        Ok(r as i64)
    })?;
    narrow(&rounded, to)
}

fn float_to_numeric(array: &ArrayRef, from: &SqlType, to: &SqlType) -> Result<ArrayRef> {
    let digits = if matches!(from, SqlType::Float4) {
        6
    } else {
        15
    };
    let wide = arrow_cast(array, &SqlType::Float8)?;
    let fit = Fit::of(to);
    map_primitive::<Float64Type, Decimal128Type, _>(&wide, &to.arrow(), |v| {
        if v.is_nan() || v.is_infinite() {
            return Err(raise("0A000", "cannot convert NaN or infinity to numeric"));
        }
        fit.check(decimal::from_f64(v, fit.scale, digits))
    })
}

fn float8_to_float4(array: &ArrayRef) -> Result<ArrayRef> {
    map_primitive::<Float64Type, Float32Type, _>(array, &DataType::Float32, |v| {
        let narrow = v as f32;
        if narrow.is_infinite() && v.is_finite() {
            return Err(raise("22003", "value out of range: overflow"));
        }
        Ok(narrow)
    })
}

/// The precision and scale a numeric result must fit.
struct Fit {
    scale: i8,
    limit: i128,
    declared: Option<(u8, i8)>,
}

impl Fit {
    fn of(ty: &SqlType) -> Fit {
        let declared = match ty {
            SqlType::Numeric { declared, .. } => *declared,
            _ => None,
        };
        let precision = declared.map_or(38, |(p, _)| p);
        Fit {
            scale: scale_of(ty),
            limit: decimal::power(u32::from(precision)),
            declared,
        }
    }

    fn check(&self, value: Option<i128>) -> Result<i128> {
        match value {
            Some(v) if -self.limit < v && v < self.limit => Ok(v),
            _ => {
                let mut report = crate::error::report("22003", "numeric field overflow");
                if let Some((p, s)) = self.declared {
                    report.detail = Some(format!(
                        "A field with precision {p}, scale {s} must round to an absolute value less than 10^{}.",
                        i32::from(p) - i32::from(s)
                    ));
                }
                Err(DataFusionError::External(Box::new(report)))
            }
        }
    }
}

/// The byte that a `"char"` is, signed.
fn char_to_integer(array: &ArrayRef) -> Result<ArrayRef> {
    let codes = array.as_string_view().iter();
    Ok(Arc::new(PrimitiveArray::<Int32Type>::from_iter(codes.map(
        |v| v.map(|v| v.bytes().next().map_or(0, |b| i32::from(b as i8))),
    ))))
}

fn integer_to_char(array: &ArrayRef) -> Result<ArrayRef> {
    let mut out = StringViewBuilder::with_capacity(array.len());
    for code in array.as_primitive::<Int32Type>() {
        match code {
            // Zero is the empty "char"; bytes above ASCII are no text of their own.
            Some(0) => out.append_value(""),
            Some(code) => match u8::try_from(code).ok().filter(u8::is_ascii) {
                Some(byte) => out.append_value(char::from(byte).to_string()),
                None => return Err(raise("22003", "\"char\" out of range")),
            },
            None => out.append_null(),
        }
    }
    Ok(Arc::new(out.finish()))
}

fn numeric_to_numeric(array: &ArrayRef, from: &SqlType, to: &SqlType) -> Result<ArrayRef> {
    let (scale, fit) = (scale_of(from), Fit::of(to));
    map_primitive::<Decimal128Type, Decimal128Type, _>(array, &to.arrow(), |v| {
        fit.check(decimal::rescale(v, scale, fit.scale))
    })
}

fn numeric_to_integer(array: &ArrayRef, from: &SqlType, to: &SqlType) -> Result<ArrayRef> {
    let scale = scale_of(from);
    let wide = map_primitive::<Decimal128Type, Int64Type, _>(array, &DataType::Int64, |v| {
        decimal::rescale(v, scale, 0)
            .and_then(|v| i64::try_from(v).ok())
            .ok_or_else(|| out_of_range(to))
    })?;
    narrow(&wide, to)
}

fn integer_to_numeric(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    let wide = arrow_cast(array, &SqlType::Int8)?;
    let fit = Fit::of(to);
    map_primitive::<Int64Type, Decimal128Type, _>(&wide, &to.arrow(), |v| {
        fit.check(decimal::rescale(i128::from(v), 0, fit.scale))
    })
}

fn numeric_to_float(array: &ArrayRef, from: &SqlType, to: &SqlType) -> Result<ArrayRef> {
    let scale = scale_of(from);
    let wide = map_primitive::<Decimal128Type, Float64Type, _>(array, &DataType::Float64, |v| {
        Ok(decimal::to_f64(v, scale))
    })?;
    if matches!(to, SqlType::Float4) {
        float8_to_float4(&wide)
    } else {
        Ok(wide)
    }
}

fn temporal_cast(array: &ArrayRef, from: &SqlType, to: &SqlType, zone: Zone) -> Result<ArrayRef> {
    use SqlType as T;
    type Ts = TimestampMicrosecondType;
    let arrow = to.arrow();
    let days = |us: i64| {
        i32::try_from(us.div_euclid(DAY_US)).map_err(|_| raise("22008", "date out of range"))
    };
    match (from, to) {
        (T::Date, T::Timestamp) => {
            map_primitive::<Date32Type, Ts, _>(array, &arrow, |d| Ok(i64::from(d) * DAY_US))
        }
        (T::Date, T::Timestamptz) => map_primitive::<Date32Type, Ts, _>(array, &arrow, |d| {
            Ok(zone.to_utc(i64::from(d) * DAY_US))
        }),
        (T::Timestamp, T::Timestamptz) => {
            map_primitive::<Ts, Ts, _>(array, &arrow, |us| Ok(zone.to_utc(us)))
        }
        (T::Timestamptz, T::Timestamp) => {
            map_primitive::<Ts, Ts, _>(array, &arrow, |us| Ok(zone.to_local(us)))
        }
        (T::Timestamp, T::Date) => map_primitive::<Ts, Date32Type, _>(array, &arrow, days),
        (T::Timestamptz, T::Date) => {
            map_primitive::<Ts, Date32Type, _>(array, &arrow, |us| days(zone.to_local(us)))
        }
        (T::Timestamp, T::Time) => {
            map_primitive::<Ts, Time64MicrosecondType, _>(array, &arrow, |us| {
                Ok(us.rem_euclid(DAY_US))
            })
        }
        (T::Timestamptz, T::Time) => {
            map_primitive::<Ts, Time64MicrosecondType, _>(array, &arrow, |us| {
                Ok(zone.to_local(us).rem_euclid(DAY_US))
            })
        }
        (T::Time, T::Interval) => {
            map_primitive::<Time64MicrosecondType, IntervalMonthDayNanoType, _>(
                array,
                &arrow,
                |us| Ok(IntervalMonthDayNanoType::make_value(0, 0, us * 1000)),
            )
        }
        (T::Interval, T::Time) => {
            map_primitive::<IntervalMonthDayNanoType, Time64MicrosecondType, _>(
                array,
                &arrow,
                |v| Ok((v.nanoseconds / 1000).rem_euclid(DAY_US)),
            )
        }
        _ => Err(mismatch(from, to)),
    }
}

/// A value of a type as JSON number or boolean.
fn from_json(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    if matches!(to, SqlType::Json) {
        return Ok(Arc::clone(array));
    }
    if matches!(to, SqlType::Jsonb) {
        return from_text(array, &SqlType::Text, to, Zone::Fixed(0), false);
    }
    let text = array.as_string_view();
    let mut out = StringViewBuilder::with_capacity(text.len());
    for value in text.iter() {
        match value {
            None | Some("null") => out.append_null(),
            Some(v) if v.starts_with(['"', '{', '[']) => {
                let kind = if v.starts_with('"') {
                    "string"
                } else if v.starts_with('{') {
                    "object"
                } else {
                    "array"
                };
                return Err(raise(
                    "22023",
                    format!("cannot cast jsonb {kind} to type {to}"),
                ));
            }
            Some(v) => out.append_value(v),
        }
    }
    let text: ArrayRef = Arc::new(out.finish());
    if is_integer(to) {
        let number = from_text(
            &text,
            &SqlType::Text,
            &crate::types::numeric(10),
            Zone::Fixed(0),
            false,
        )?;
        return numeric_to_integer(&number, &crate::types::numeric(10), to);
    }
    from_text(&text, &SqlType::Text, to, Zone::Fixed(0), false)
}

/// A uuid without the braces it may be written in.
fn unbraced(text: &str) -> &str {
    let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
    inner.unwrap_or(text)
}

/// 22P02, or what the type has in its place.
pub(crate) fn bad_syntax(to: &SqlType, text: &str) -> DataFusionError {
    let name = match to {
        SqlType::Numeric { .. } => "numeric".to_owned(),
        other => other.to_string(),
    };
    raise(
        "22P02",
        format!("invalid input syntax for type {name}: \"{text}\""),
    )
}

fn parse_each<T, F>(text: &ArrayRef, to: &DataType, f: F) -> Result<ArrayRef>
where
    T: ArrowPrimitiveType,
    F: Fn(&str) -> Result<T::Native>,
{
    let text = text.as_string_view();
    let mut out = PrimitiveBuilder::<T>::with_capacity(text.len()).with_data_type(to.clone());
    for value in text.iter() {
        match value {
            Some(v) => out.append_value(f(v)?),
            None => out.append_null(),
        }
    }
    Ok(Arc::new(out.finish()))
}

fn from_text(
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    zone: Zone,
    assignment: bool,
) -> Result<ArrayRef> {
    use SqlType as T;
    let arrow = to.arrow();
    match to {
        T::Text | T::Name | T::Varchar(None) | T::Unknown => Ok(Arc::clone(array)),
        T::Varchar(Some(limit)) | T::Char(limit) => cut(
            array,
            *limit as usize,
            to,
            assignment,
            matches!(to, T::Char(_)),
        ),
        T::InternalChar => cut(array, 1, to, false, false),
        T::Int2 => parse_each::<Int16Type, _>(array, &arrow, |t| Ok(parse_integer(t, to)? as i16)),
        T::Int4 => parse_each::<Int32Type, _>(array, &arrow, |t| Ok(parse_integer(t, to)? as i32)),
        T::Int8 => parse_each::<Int64Type, _>(array, &arrow, |t| parse_integer(t, to)),
        T::Oid | T::Reg(_) => {
            parse_each::<UInt32Type, _>(array, &arrow, |t| Ok(parse_integer(t, to)? as u32))
        }
        T::Float4 => {
            parse_each::<Float32Type, _>(array, &arrow, |t| Ok(parse_float(t, to)? as f32))
        }
        T::Float8 => parse_each::<Float64Type, _>(array, &arrow, |t| parse_float(t, to)),
        T::Numeric { .. } => {
            let fit = Fit::of(to);
            parse_each::<Decimal128Type, _>(array, &arrow, |t| match decimal::parse(t, fit.scale) {
                Ok(value) => fit.check(Some(value)),
                Err(decimal::Malformed::Range) => fit.check(None),
                Err(decimal::Malformed::Syntax) => Err(bad_syntax(to, t)),
            })
        }
        T::Bool => {
            let mut out = BooleanBuilder::with_capacity(array.len());
            for value in array.as_string_view().iter() {
                match value {
                    Some(t) => out.append_value(parse_bool(t).ok_or_else(|| bad_syntax(to, t))?),
                    None => out.append_null(),
                }
            }
            Ok(Arc::new(out.finish()))
        }
        T::Date => parse_each::<Date32Type, _>(array, &arrow, temporal::parse_date),
        T::Time => parse_each::<Time64MicrosecondType, _>(array, &arrow, temporal::parse_time),
        T::Timestamp => {
            parse_each::<TimestampMicrosecondType, _>(array, &arrow, temporal::parse_timestamp)
        }
        T::Timestamptz => parse_each::<TimestampMicrosecondType, _>(array, &arrow, |t| {
            temporal::parse_timestamptz(t, zone)
        }),
        T::Interval => parse_each::<IntervalMonthDayNanoType, _>(array, &arrow, |t| {
            temporal::parse_interval(t, None)
        }),
        T::Uuid => {
            let mut out = FixedSizeBinaryBuilder::with_capacity(array.len(), 16);
            for value in array.as_string_view().iter() {
                match value {
                    Some(t) => out.append_value(
                        uuid::Uuid::parse_str(unbraced(t.trim()))
                            .map_err(|_| bad_syntax(to, t))?
                            .as_bytes(),
                    )?,
                    None => out.append_null(),
                }
            }
            Ok(Arc::new(out.finish()))
        }
        T::Bytea => {
            let mut out = BinaryBuilder::new();
            for value in array.as_string_view().iter() {
                match value {
                    Some(t) => out.append_value(parse_bytea(t)?),
                    None => out.append_null(),
                }
            }
            Ok(Arc::new(out.finish()))
        }
        T::Json | T::Jsonb => json_text(array, to),
        T::Array(element) => super::array_text::parse_arrays(array, element, to, zone, assignment),
        T::Struct(_) => Err(mismatch(from, to)),
    }
}

fn cut(
    array: &ArrayRef,
    limit: usize,
    to: &SqlType,
    assignment: bool,
    padded: bool,
) -> Result<ArrayRef> {
    let text = array.as_string_view();
    let mut out = StringViewBuilder::with_capacity(text.len());
    for value in text.iter() {
        let Some(value) = value else {
            out.append_null();
            continue;
        };
        // character(n) is held without its padding.
        let value = if padded {
            value.trim_end_matches(' ')
        } else {
            value
        };
        match value.char_indices().nth(limit) {
            None => out.append_value(value),
            Some((at, _)) if !assignment || value[at..].bytes().all(|b| b == b' ') => {
                out.append_value(&value[..at])
            }
            Some(_) => return Err(raise("22001", format!("value too long for type {to}"))),
        }
    }
    Ok(Arc::new(out.finish()))
}

fn json_text(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef> {
    let text = array.as_string_view();
    let mut out = StringViewBuilder::with_capacity(text.len());
    for value in text.iter() {
        let Some(value) = value else {
            out.append_null();
            continue;
        };
        let parsed: serde_json::Value = serde_json::from_str(value)
            .map_err(|_| raise("22P02", format!("invalid input syntax for type {to}")))?;
        if matches!(to, SqlType::Json) {
            out.append_value(value);
        } else {
            out.append_value(super::json::canonical(&parsed));
        }
    }
    Ok(Arc::new(out.finish()))
}

/// The text of one value, as `CAST(value AS text)` gives it.
pub(crate) fn display_scalar(value: &ScalarValue, ty: &SqlType) -> Option<String> {
    let array = value.to_array_of_size(1).ok()?;
    let array = canonical(&array, ty).ok()?;
    if array.is_null(0) {
        return None;
    }
    let mut out = String::new();
    TextOf::new(&array, ty, Zone::Fixed(0))
        .ok()?
        .write(0, &mut out);
    Some(out)
}
