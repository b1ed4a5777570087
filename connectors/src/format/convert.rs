//! Columns that come as Arrow arrays, as columns of a source: a column of a Parquet file is not text to be read.
//!
//! Invariant: the result has one value for each that came; one that does not fit is NULL and reported, and its neighbours cannot
//! tell.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, ListArray, PrimitiveArray, StructArray,
    new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use thalweg_catalog::SqlType;

use super::column::ColumnBuilder;
use super::json::JsonOptions;
use super::number::{self, Decimal};
use super::{Fault, excerpt, json_text, time};

/// Characters of an offending value that an error repeats.
const VALUE_CHARS_MAX: usize = 60;

/// What is wrong with single values: the row, and the first of its faults.
pub(crate) type Faults<'f> = &'f mut dyn FnMut(usize, Fault);

/// The SQL type that a column has by itself. What a writer notes about its own types does not count, but for documents.
pub(crate) fn natural(field: &Field) -> SqlType {
    match SqlType::from_field(field) {
        document @ (SqlType::Json | SqlType::Jsonb) => document,
        _ => SqlType::from_arrow(field.data_type()),
    }
}

/// Among columns by name: the exact one, else one that differs in case only.
pub(crate) fn named<'n>(
    mut names: impl Iterator<Item = &'n str> + Clone,
    wanted: &str,
) -> Option<usize> {
    let exact = names.clone().position(|name| name == wanted);
    let folded = wanted.to_lowercase();
    exact.or_else(|| names.position(|name| name.to_lowercase() == folded))
}

/// Whether values of one type can become values of another at all.
pub(crate) fn convertible(from: &SqlType, to: &SqlType) -> bool {
    use SqlType as T;
    let moment = |ty: &T| matches!(ty, T::Date | T::Timestamp | T::Timestamptz);
    match (from, to) {
        (_, T::InternalChar | T::Reg(_) | T::Unknown) => false,
        (T::Unknown, _) => true,
        (T::Array(from), T::Array(to)) => convertible(from, to),
        (T::Struct(from), T::Struct(to)) => to.iter().all(|(name, to)| {
            let index = named(from.iter().map(|(name, _)| name.as_str()), name);
            let from = index.and_then(|index| from.get(index));
            from.is_none_or(|(_, from)| convertible(from, to))
        }),
        (from, T::Json | T::Jsonb) => documented(from),
        (_, T::Array(_) | T::Struct(_)) => false,
        (T::Bytea | T::Uuid, T::Bytea) | (T::Uuid, T::Uuid) => true,
        (_, T::Bytea) => false,
        (from, to) if is_text(from) => !matches!(from, T::Json | T::Jsonb) || is_text(to),
        (from, to) if is_text(to) => {
            is_number(from) || moment(from) || matches!(from, T::Bool | T::Time | T::Bytea)
        }
        (from, T::Int2 | T::Int4 | T::Int8 | T::Oid | T::Float4 | T::Float8) => is_number(from),
        (from, T::Numeric { .. }) => is_number(from),
        (T::Bool | T::Int2 | T::Int4 | T::Int8, T::Bool) => true,
        (T::Time, T::Time) | (T::Interval, T::Interval) => true,
        (from, to) => moment(from) && moment(to),
    }
}

/// Types that a JSON document can hold.
fn documented(ty: &SqlType) -> bool {
    use SqlType as T;
    match ty {
        T::Array(item) => documented(item),
        T::Struct(fields) => fields.iter().all(|(_, ty)| documented(ty)),
        T::Bytea | T::InternalChar | T::Reg(_) => false,
        _ => true,
    }
}

fn is_text(ty: &SqlType) -> bool {
    use SqlType as T;
    matches!(
        ty,
        T::Text | T::Varchar(_) | T::Char(_) | T::Name | T::Json | T::Jsonb
    )
}

fn is_integer(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8)
}

fn is_number(ty: &SqlType) -> bool {
    use SqlType as T;
    is_integer(ty) || matches!(ty, T::Float4 | T::Float8 | T::Numeric { .. })
}

/// A column in the type that it is declared with.
///
/// # Errors
/// In words, when no value of it can be read.
pub(crate) fn convert(
    path: &str,
    array: &ArrayRef,
    field: &Field,
    to: &SqlType,
    faults: Faults<'_>,
) -> Result<ArrayRef, String> {
    match (array.data_type(), to) {
        (DataType::Null, _) => Ok(new_null_array(&to.arrow(), array.len())),
        (DataType::Dictionary(_, value), _) => {
            let plain = cast(array, value).map_err(|error| error.to_string())?;
            let field = field.clone().with_data_type(value.as_ref().clone());
            convert(path, &plain, &field, to, faults)
        }
        (
            DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(_, _)
            | DataType::Map(_, _),
            SqlType::Array(element),
        ) => list(path, &as_list(array)?, element, faults),
        (DataType::Struct(_), SqlType::Struct(fields)) => {
            object(path, array.as_struct(), fields, faults)
        }
        (DataType::Map(_, _), SqlType::Json | SqlType::Jsonb) => {
            document(path, &as_list(array)?, to, faults)
        }
        _ => scalar(path, array, &natural(field), to, faults),
    }
}

fn unreadable(path: &str, from: &dyn std::fmt::Display, to: &SqlType) -> String {
    format!("column \"{path}\" of type {from} cannot be read as {to}")
}

/// Lists of any kind, and maps, which are lists of their entries.
fn as_list(array: &ArrayRef) -> Result<ListArray, String> {
    let broken = |error: arrow::error::ArrowError| error.to_string();
    match array.data_type() {
        DataType::Map(entries, _) => {
            let map = array.as_map();
            ListArray::try_new(
                Arc::clone(entries),
                map.offsets().clone(),
                Arc::new(map.entries().clone()),
                map.nulls().cloned(),
            )
            .map_err(broken)
        }
        DataType::List(_) => Ok(array.as_list::<i32>().clone()),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            let list = cast(array, &DataType::List(Arc::clone(item))).map_err(broken)?;
            Ok(list.as_list::<i32>().clone())
        }
        other => Err(format!("{other} is no list")),
    }
}

fn list(
    path: &str,
    lists: &ListArray,
    element: &SqlType,
    faults: Faults<'_>,
) -> Result<ArrayRef, String> {
    let DataType::List(item) = lists.data_type() else {
        return Err(format!("{} is no list", lists.data_type()));
    };
    // A slice of a batch has the items of the whole batch.
    let offsets = lists.offsets();
    let first = offsets.first().copied().unwrap_or(0);
    let last = offsets.last().copied().unwrap_or(0);
    let items = lists
        .values()
        .slice(first as usize, (last - first).max(0) as usize);
    let mut in_row = |index: usize, fault: Fault| {
        let at = first as i64 + index as i64;
        let row = offsets.partition_point(|offset| i64::from(*offset) <= at);
        let row = row.saturating_sub(1);
        if row < lists.len() && lists.is_valid(row) {
            faults(row, fault);
        }
    };
    let items = convert(&format!("{path}[]"), &items, item, element, &mut in_row)?;
    let offsets: Vec<i32> = offsets.iter().map(|offset| offset - first).collect();
    let item = Field::new("item", items.data_type().clone(), true);
    let list = ListArray::try_new(
        Arc::new(item),
        OffsetBuffer::new(offsets.into()),
        items,
        lists.nulls().cloned(),
    );
    list.map(|list| Arc::new(list) as ArrayRef)
        .map_err(|error| error.to_string())
}

fn object(
    path: &str,
    structs: &StructArray,
    fields: &[(String, SqlType)],
    faults: Faults<'_>,
) -> Result<ArrayRef, String> {
    let mut columns = Vec::with_capacity(fields.len());
    let mut types = Vec::with_capacity(fields.len());
    for (name, to) in fields {
        let found = structs.fields().iter().map(|field| field.name().as_str());
        let found = named(found, name);
        let parts = found
            .and_then(|index| Some((structs.fields().get(index)?, structs.columns().get(index)?)));
        let column = match parts {
            Some((field, column)) => {
                let mut in_row = |row: usize, fault: Fault| {
                    if structs.is_valid(row) {
                        faults(row, fault);
                    }
                };
                convert(&format!("{path}.{name}"), column, field, to, &mut in_row)?
            }
            None => new_null_array(&to.arrow(), structs.len()),
        };
        types.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    }
    let nulls = structs.nulls().cloned();
    let object = StructArray::try_new_with_length(types.into(), columns, nulls, structs.len());
    object
        .map(|object| Arc::new(object) as ArrayRef)
        .map_err(|error| error.to_string())
}

/// Maps as objects: their keys are text.
fn document(
    path: &str,
    maps: &ListArray,
    to: &SqlType,
    faults: Faults<'_>,
) -> Result<ArrayRef, String> {
    let builder = ColumnBuilder::new(path, to, JsonOptions::default());
    let mut builder = builder.map_err(|error| error.to_string())?;
    for row in 0..maps.len() {
        let object = match maps.is_valid(row) {
            true => Some(members(path, &maps.value(row), to)?),
            false => None,
        };
        if let Err(fault) = builder.append(object.as_deref()) {
            faults(row, fault);
        }
    }
    Ok(builder.finish())
}

/// The object of one map's entries.
fn members(path: &str, entries: &ArrayRef, to: &SqlType) -> Result<String, String> {
    let wrong = || unreadable(path, entries.data_type(), to);
    let entries = entries.as_struct_opt().ok_or_else(wrong)?;
    let ([_, value], [keys, values]) = (entries.fields().as_ref(), entries.columns()) else {
        return Err(wrong());
    };
    let value = natural(value);
    let keys = cast(keys, &DataType::Utf8View).map_err(|_| wrong())?;
    let keys = keys.as_string_view_opt().ok_or_else(wrong)?;
    let values = plain(values, &value).map_err(|_| wrong())?;
    let mut object = String::from("{");
    for (index, key) in keys.iter().enumerate() {
        if index > 0 {
            object.push(',');
        }
        object.push_str(&quoted(key.unwrap_or_default()));
        object.push(':');
        let text = json_text(&value, values.as_ref(), index).map_err(|_| wrong())?;
        object.push_str(text.as_deref().unwrap_or("null"));
    }
    object.push('}');
    Ok(object)
}

fn scalar(
    path: &str,
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    faults: Faults<'_>,
) -> Result<ArrayRef, String> {
    if !convertible(from, to) {
        return Err(unreadable(path, from, to));
    }
    let plain = plain(array, from).map_err(|_| unreadable(path, array.data_type(), to))?;
    if let Some(converted) = at_once(&plain, from, to) {
        out_of_range(array, &plain, &converted, |row| {
            faults(row, misfit(path, &plain, from, to, row));
        });
        return Ok(converted);
    }
    let mut lost = Vec::new();
    out_of_range(array, &plain, &plain, |row| lost.push(row));
    for row in lost {
        faults(row, misfit(path, &plain, from, to, row));
    }
    let builder = ColumnBuilder::new(path, to, JsonOptions::default());
    let mut builder = builder.map_err(|error| error.to_string())?;
    for row in 0..plain.len() {
        let appended = match text_of(&plain, from, to, row) {
            Ok(json) => builder.append(json.as_deref()),
            Err(reason) => {
                builder.append_null();
                Err(Fault::decode(format!("column \"{path}\": {reason}")))
            }
        };
        if let Err(fault) = appended {
            faults(row, fault);
        }
    }
    Ok(builder.finish())
}

/// Rows that have a value in the file and none any more.
fn out_of_range(
    array: &ArrayRef,
    plain: &ArrayRef,
    converted: &ArrayRef,
    mut report: impl FnMut(usize),
) {
    if converted.null_count() > array.null_count() || plain.null_count() > array.null_count() {
        let lost = (0..array.len()).filter(|row| array.is_valid(*row) && converted.is_null(*row));
        lost.for_each(&mut report);
    }
}

fn misfit(path: &str, plain: &ArrayRef, from: &SqlType, to: &SqlType, row: usize) -> Fault {
    let value = json_text(from, plain.as_ref(), row).ok().flatten();
    let value = value.map_or("a value".to_owned(), |value| {
        excerpt(value.trim_matches('"'), VALUE_CHARS_MAX)
    });
    Fault::decode(format!(
        "column \"{path}\": {value} is out of range for type {to}"
    ))
}

/// The column in the Arrow type its natural type is held in; what that cannot hold is NULL.
fn plain(array: &ArrayRef, from: &SqlType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let wanted = from.arrow();
    if let DataType::Timestamp(TimeUnit::Nanosecond, _) = array.data_type() {
        // Digits below a microsecond are cut off, before 1970 too.
        let nanos = array.as_primitive::<TimestampNanosecondType>();
        let micros: PrimitiveArray<TimestampMicrosecondType> =
            nanos.unary(|ns| ns.div_euclid(1_000));
        return Ok(Arc::new(micros.with_data_type(wanted)));
    }
    if array.data_type() == &wanted {
        return Ok(Arc::clone(array));
    }
    // Inside of a document nobody would see that a value went missing.
    let options = CastOptions {
        safe: !matches!(from, SqlType::Array(_) | SqlType::Struct(_)),
        ..Default::default()
    };
    cast_with_options(array, &wanted, &options)
}

/// Whole columns without a detour through text; `None` where values are read one by one.
fn at_once(array: &ArrayRef, from: &SqlType, to: &SqlType) -> Option<ArrayRef> {
    use SqlType as T;
    let target = to.arrow();
    let safe = |array: &ArrayRef| {
        let options = CastOptions {
            safe: true,
            ..Default::default()
        };
        cast_with_options(array, &target, &options).ok()
    };
    match (from, to) {
        (T::Text, T::Text) => {
            let text = array.as_string_view_opt()?;
            let clean = |text: &str| !text.as_bytes().contains(&0);
            let all = text.iter().flatten().all(clean);
            all.then(|| Arc::clone(array))
        }
        (T::Timestamp | T::Timestamptz, T::Timestamp | T::Timestamptz) => {
            each::<TimestampMicrosecondType, TimestampMicrosecondType>(array, &target, |us| {
                time::in_range(i128::from(us)).ok()
            })
        }
        (T::Timestamp | T::Timestamptz, T::Date) => {
            each::<TimestampMicrosecondType, Date32Type>(array, &target, |us| {
                let us = time::in_range(i128::from(us)).ok()?;
                i32::try_from(us.div_euclid(time::DAY_US)).ok()
            })
        }
        (T::Date, T::Date) => {
            each::<Date32Type, Date32Type>(array, &target, |day| midnight(day).map(|_| day))
        }
        (T::Date, T::Timestamp | T::Timestamptz) => {
            each::<Date32Type, TimestampMicrosecondType>(array, &target, midnight)
        }
        (T::Bool, T::Bool) | (T::Bytea, T::Bytea) | (T::Uuid, T::Uuid) => Some(Arc::clone(array)),
        (T::Interval, T::Interval) => Some(Arc::clone(array)),
        (T::Time, T::Time) => {
            each::<Time64MicrosecondType, Time64MicrosecondType>(array, &target, |us| {
                (0..=time::DAY_US).contains(&us).then_some(us)
            })
        }
        (T::Uuid, T::Bytea) => safe(array),
        (from, T::Int2 | T::Int4 | T::Int8 | T::Oid) if is_integer(from) => safe(array),
        (from, T::Bool | T::Float4 | T::Float8 | T::Numeric { .. }) if is_integer(from) => {
            safe(array)
        }
        (T::Float4, T::Float4 | T::Float8) | (T::Float8, T::Float8) => safe(array),
        (T::Float8, T::Float4) => each::<Float64Type, Float32Type>(array, &target, |wide| {
            let narrow = wide as f32;
            (narrow.is_finite() || !wide.is_finite()).then_some(narrow)
        }),
        (T::Numeric { .. }, T::Numeric { .. }) => safe(array),
        (T::Float4 | T::Float8, T::Int2 | T::Int4 | T::Int8 | T::Oid) => {
            let wide = cast(array, &DataType::Float64).ok()?;
            let whole = each::<Float64Type, Int64Type>(&wide, &DataType::Int64, |value| {
                let whole = value.round_ties_even();
                // 2^63 is a double and no bigint.
                let fits = -9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0;
                fits.contains(&whole).then_some(whole as i64)
            })?;
            safe(&whole)
        }
        _ => None,
    }
}

/// The first moment of a day.
fn midnight(day: i32) -> Option<i64> {
    time::in_range(i128::from(day) * i128::from(time::DAY_US)).ok()
}

/// Value by value; `None` is what does not fit.
fn each<I: ArrowPrimitiveType, O: ArrowPrimitiveType>(
    array: &ArrayRef,
    to: &DataType,
    convert: impl Fn(I::Native) -> Option<O::Native>,
) -> Option<ArrayRef> {
    let input = array.as_primitive_opt::<I>()?;
    let values: PrimitiveArray<O> = input.iter().map(|value| value.and_then(&convert)).collect();
    Some(Arc::new(values.with_data_type(to.clone())))
}

/// A value as the JSON text of which the target type reads it.
///
/// # Errors
/// In words, for a value that has none.
fn text_of(
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    row: usize,
) -> Result<Option<String>, String> {
    use SqlType as T;
    if array.is_null(row) {
        return Ok(None);
    }
    let no_value = || "a value is missing".to_owned();
    let wrong = || format!("a value of type {from} cannot be read as {to}");
    match (from, to) {
        (T::Bytea, _) => {
            let bytes = array.as_binary_opt::<i32>().ok_or_else(no_value)?;
            let text = std::str::from_utf8(bytes.value(row));
            let text = text.map_err(|_| "bytes are not valid UTF-8 text".to_owned())?;
            return Ok(Some(quoted(text)));
        }
        (T::Text, _) => {
            let text = array.as_string_view_opt().ok_or_else(no_value)?.value(row);
            return text_as(text, to).map(Some);
        }
        (T::Timestamp | T::Timestamptz, _) if is_text(to) && *to != T::Json && *to != T::Jsonb => {
            let us = array.as_primitive_opt::<TimestampMicrosecondType>();
            let us = us.ok_or_else(no_value)?.value(row);
            return moment(us, *from == T::Timestamptz)
                .map(|text| Some(quoted(&text)))
                .ok_or_else(wrong);
        }
        (T::Float4 | T::Float8, T::Numeric { .. }) => {
            // As many digits as the type is sure of, as in a cast.
            let text = match from {
                T::Float4 => {
                    let value = array.as_primitive_opt::<Float32Type>();
                    let value = value.ok_or_else(no_value)?.value(row);
                    sure(value.to_string(), 6, || format!("{value:.5e}"))
                }
                _ => {
                    let value = array.as_primitive_opt::<Float64Type>();
                    let value = value.ok_or_else(no_value)?.value(row);
                    sure(value.to_string(), 15, || format!("{value:.14e}"))
                }
            };
            return Ok(Some(match Decimal::parse(&text) {
                Some(_) => text,
                None => quoted(&text),
            }));
        }
        (T::Numeric { .. }, to) if is_number(to) || *to == T::Oid => {
            let value = array.as_primitive_opt::<Decimal128Type>();
            let text = value.ok_or_else(no_value)?.value_as_string(row);
            return match to {
                T::Float4 | T::Float8 => Ok(Some(text)),
                T::Numeric { .. } => Ok(Some(text)),
                _ => number::rounded(&text)
                    .map(|whole| Some(whole.to_string()))
                    .ok_or_else(wrong),
            };
        }
        (T::Numeric { .. }, to) if is_text(to) && !matches!(to, T::Json | T::Jsonb) => {
            let value = array.as_primitive_opt::<Decimal128Type>();
            let text = value.ok_or_else(no_value)?.value_as_string(row);
            return Ok(Some(quoted(&text)));
        }
        (T::Json | T::Jsonb, to) if !matches!(to, T::Json | T::Jsonb) => {
            let text = array.as_string_view_opt().ok_or_else(no_value)?.value(row);
            return Ok(Some(quoted(text)));
        }
        _ => {}
    }
    json_text(from, array.as_ref(), row).map_err(|error| error.to_string())
}

/// A float's shortest text, or the rounded one when it has more digits.
fn sure(shortest: String, digits_max: usize, rounded: impl FnOnce() -> String) -> String {
    let digits = shortest.bytes().filter(u8::is_ascii_digit).count();
    match digits <= digits_max {
        true => shortest,
        false => rounded(),
    }
}

/// A text as JSON: as it is where the type is read from a number, a boolean or a document, else as a string.
///
/// # Errors
/// In words, for a text that should be a document and is none.
fn text_as(text: &str, to: &SqlType) -> Result<String, String> {
    use SqlType as T;
    let trimmed = text.trim();
    Ok(match to {
        T::Json | T::Jsonb => {
            let valid = serde_json::from_str::<serde::de::IgnoredAny>(trimmed);
            valid.map_err(|error| format!("invalid JSON: {error}"))?;
            trimmed.to_owned()
        }
        T::Bool => match thalweg_catalog::option::parse_bool(trimmed) {
            Some(value) => value.to_string(),
            None => quoted(text),
        },
        to if is_number(to) || *to == T::Oid => match Decimal::parse(trimmed) {
            Some(_) => trimmed.to_owned(),
            None => quoted(trimmed),
        },
        to if is_text(to) => quoted(text),
        _ => quoted(trimmed),
    })
}

/// A moment as Postgres prints it, in UTC.
fn moment(us: i64, zoned: bool) -> Option<String> {
    let moment = chrono::DateTime::from_timestamp_micros(us)?;
    let mut text = moment.format("%Y-%m-%d %H:%M:%S").to_string();
    let us = us.rem_euclid(1_000_000);
    if us > 0 {
        let digits = format!(".{us:06}");
        text.push_str(digits.trim_end_matches('0'));
    }
    if zoned {
        text.push_str("+00");
    }
    Some(text)
}

fn quoted(text: &str) -> String {
    // Writing a string to memory cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// A copy of one row of a column as its natural type, for a dead letter; `None` when it has none.
pub(crate) fn natural_row(array: &ArrayRef, field: &Field, row: usize) -> Option<String> {
    let from = natural(field);
    let one = array.slice(row, 1);
    let one = match one.data_type() {
        DataType::Dictionary(_, value) => cast(&one, value).ok()?,
        _ => one,
    };
    json_text(&from, plain(&one, &from).ok()?.as_ref(), 0)
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests;
