//! JSON operators and functions on texts that hold JSON.
//!
//! Invariant: jsonb text is canonical (keys sorted by length then bytes, last duplicate wins, one space after `:` and `,`),
//! so that equal values are equal texts; numbers keep the digits they were written with.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, PrimitiveArray, StringViewBuilder,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Int32Type};
use datafusion::common::{DataFusionError, Result};
use serde_json::Value;
use thalweg_catalog::SqlType;

use super::native::{Call, Kernel, Native, Shape};
use super::temporal::text_rows;
use super::temporal_text::Zone;
use super::text_of::TextOf;
use crate::error::raise;

/// Postgres' text of a jsonb value.
pub(crate) fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push_str(": ");
                write_canonical(&map[key], out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|_| raise("22P02", "invalid input syntax for type json"))
}

fn shown(value: &Value, jsonb: bool) -> String {
    if jsonb {
        canonical(value)
    } else {
        value.to_string()
    }
}

/// A JSON value as `->>` gives it: strings bare, null as NULL.
fn bare(value: &Value, jsonb: bool) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        other => Some(shown(other, jsonb)),
    }
}

fn at_index(value: &Value, index: i64) -> Option<&Value> {
    let items = value.as_array()?;
    let at = if index < 0 {
        i64::try_from(items.len()).ok()? + index
    } else {
        index
    };
    items.get(usize::try_from(at).ok()?)
}

fn at_path<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Object(map) => map.get(step),
        Value::Array(_) => at_index(value, step.parse().ok()?),
        _ => None,
    })
}

fn texts_of(list: &ArrayRef, i: usize) -> Vec<String> {
    let values = list.as_list::<i32>().value(i);
    values
        .as_string_view()
        .iter()
        .flatten()
        .map(str::to_owned)
        .collect()
}

/// Picks a part of each value.
fn pick(call: &Call<'_>, as_text: bool) -> Result<ArrayRef> {
    let (json, key) = (call.array(0)?, call.array(1)?);
    let jsonb = matches!(call.types[0], SqlType::Jsonb);
    let json = json.as_string_view();
    text_rows(json.len(), |i| {
        if json.is_null(i) || key.is_null(i) {
            return Ok(None);
        }
        let value = parse(json.value(i))?;
        let found = match &call.types[1] {
            SqlType::Int4 => at_index(&value, i64::from(key.as_primitive::<Int32Type>().value(i))),
            SqlType::Array(_) => at_path(&value, &texts_of(&key, i)),
            _ => value
                .as_object()
                .and_then(|map| map.get(key.as_string_view().value(i))),
        };
        Ok(found.and_then(|v| {
            if as_text {
                bare(v, jsonb)
            } else {
                Some(shown(v, jsonb))
            }
        }))
    })
}

fn contains(outer: &Value, inner: &Value) -> bool {
    match (outer, inner) {
        (Value::Object(a), Value::Object(b)) => b
            .iter()
            .all(|(k, v)| a.get(k).is_some_and(|own| contains(own, v))),
        (Value::Array(a), Value::Array(b)) => {
            b.iter().all(|v| a.iter().any(|own| contains(own, v)))
        }
        (Value::Array(a), scalar) if !scalar.is_object() => a.contains(scalar),
        (a, b) => a == b,
    }
}

fn test(call: &Call<'_>, f: fn(&Value, usize, &ArrayRef) -> Result<bool>) -> Result<ArrayRef> {
    let (json, operand) = (call.array(0)?, call.array(1)?);
    let json = json.as_string_view();
    let mut out = BooleanBuilder::with_capacity(json.len());
    for i in 0..json.len() {
        if json.is_null(i) || operand.is_null(i) {
            out.append_null();
        } else {
            out.append_value(f(&parse(json.value(i))?, i, &operand)?);
        }
    }
    Ok(Arc::new(out.finish()))
}

fn has_key(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.contains_key(key),
        Value::Array(items) => items.iter().any(|v| v.as_str() == Some(key)),
        Value::String(s) => s == key,
        _ => false,
    }
}

/// The JSON operator on these operand types.
pub(crate) fn operator(symbol: &str, json: &SqlType, operand: &SqlType) -> Option<Native> {
    let (kernel, ret): (Kernel, SqlType) = match symbol {
        "->" | "#>" => (|c| pick(c, false), json.clone()),
        "->>" | "#>>" => (|c| pick(c, true), SqlType::Text),
        "@>" => (
            |c| {
                test(c, |v, i, o| {
                    Ok(contains(v, &parse(o.as_string_view().value(i))?))
                })
            },
            SqlType::Bool,
        ),
        "<@" => (
            |c| {
                test(c, |v, i, o| {
                    Ok(contains(&parse(o.as_string_view().value(i))?, v))
                })
            },
            SqlType::Bool,
        ),
        "?" => (
            |c| test(c, |v, i, o| Ok(has_key(v, o.as_string_view().value(i)))),
            SqlType::Bool,
        ),
        "?|" => (
            |c| {
                test(c, |v, i, o| {
                    Ok(texts_of(o, i).iter().any(|k| has_key(v, k)))
                })
            },
            SqlType::Bool,
        ),
        "?&" => (
            |c| {
                test(c, |v, i, o| {
                    Ok(texts_of(o, i).iter().all(|k| has_key(v, k)))
                })
            },
            SqlType::Bool,
        ),
        _ => return None,
    };
    if matches!(json, SqlType::Json) && !matches!(symbol, "->" | "->>" | "#>" | "#>>") {
        return None;
    }
    Some(
        Native::new(symbol, vec![json.clone(), operand.clone()], ret, kernel)
            .shape(Shape::Infix)
            .fallible(true),
    )
}

/// `jsonb || jsonb`
pub(crate) fn concat() -> Native {
    Native::new(
        "||",
        vec![SqlType::Jsonb, SqlType::Jsonb],
        SqlType::Jsonb,
        |call| {
            let (a, b) = (call.array(0)?, call.array(1)?);
            let (a, b) = (a.as_string_view(), b.as_string_view());
            text_rows(a.len(), |i| {
                if a.is_null(i) || b.is_null(i) {
                    return Ok(None);
                }
                let joined = match (parse(a.value(i))?, parse(b.value(i))?) {
                    (Value::Object(mut x), Value::Object(y)) => {
                        x.extend(y);
                        Value::Object(x)
                    }
                    (x, y) => {
                        let list = |v| match v {
                            Value::Array(items) => items,
                            other => vec![other],
                        };
                        let mut items = list(x);
                        items.extend(list(y));
                        Value::Array(items)
                    }
                };
                Ok(Some(canonical(&joined)))
            })
        },
    )
    .shape(Shape::Infix)
    .fallible(true)
}

/// `jsonb - key` and `jsonb - index`.
pub(crate) fn delete_key(operand: &SqlType) -> Native {
    Native::new(
        "-",
        vec![SqlType::Jsonb, operand.clone()],
        SqlType::Jsonb,
        |call| {
            let (json, key) = (call.array(0)?, call.array(1)?);
            let json = json.as_string_view();
            text_rows(json.len(), |i| {
                if json.is_null(i) || key.is_null(i) {
                    return Ok(None);
                }
                let mut value = parse(json.value(i))?;
                match (&mut value, &call.types[1]) {
                    (Value::Array(items), SqlType::Int4) => {
                        let index = i64::from(key.as_primitive::<Int32Type>().value(i));
                        let at = if index < 0 {
                            i64::try_from(items.len()).unwrap_or(0) + index
                        } else {
                            index
                        };
                        if let Some(at) = usize::try_from(at).ok().filter(|at| *at < items.len()) {
                            items.remove(at);
                        }
                    }
                    (Value::Object(map), SqlType::Text) => {
                        map.remove(key.as_string_view().value(i));
                    }
                    (Value::Array(items), SqlType::Text) => {
                        items.retain(|v| v.as_str() != Some(key.as_string_view().value(i)))
                    }
                    _ => return Err(raise("22023", "cannot delete from scalar")),
                }
                Ok(Some(canonical(&value)))
            })
        },
    )
    .shape(Shape::Infix)
    .fallible(true)
}

/// The JSON text of value `i` of an array.
fn json_of(array: &ArrayRef, ty: &SqlType, i: usize, zone: Zone) -> Result<Value> {
    if array.is_null(i) {
        return Ok(Value::Null);
    }
    if let SqlType::Array(element) = ty {
        let values = array.as_list::<i32>().value(i);
        return (0..values.len())
            .map(|j| json_of(&values, element, j, zone))
            .collect::<Result<Vec<_>>>()
            .map(Value::Array);
    }
    if let SqlType::Struct(fields) = ty {
        let row = array.as_struct();
        let mut map = serde_json::Map::new();
        for (j, (name, ty)) in fields.iter().enumerate() {
            map.insert(name.clone(), json_of(row.column(j), ty, i, zone)?);
        }
        return Ok(Value::Object(map));
    }
    let mut text = String::new();
    TextOf::new(array, ty, zone)?.write(i, &mut text);
    match ty {
        SqlType::Json | SqlType::Jsonb | SqlType::Bool => parse(&text),
        SqlType::Timestamp | SqlType::Timestamptz => {
            let mut iso = text.replacen(' ', "T", 1);
            if matches!(ty, SqlType::Timestamptz)
                && !iso.ends_with(":00")
                && iso.len() >= 3
                && !iso[iso.len() - 3..].contains(':')
            {
                iso.push_str(":00");
            }
            Ok(Value::String(iso))
        }
        _ if crate::types::numeric_rank(ty).is_some() => {
            Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
        }
        _ => Ok(Value::String(text)),
    }
}

fn build_object(call: &Call<'_>) -> Result<ArrayRef> {
    let columns = (0..call.args.len())
        .map(|i| call.array(i))
        .collect::<Result<Vec<_>>>()?;
    let zone = Zone::parse(call.time_zone)?;
    let jsonb = matches!(call.ret, SqlType::Jsonb);
    text_rows(call.rows, |row| {
        let mut pairs: Vec<(String, Value)> = Vec::new();
        for at in (0..columns.len()).step_by(2) {
            if columns[at].is_null(row) {
                return Err(raise("22004", "null value not allowed for object key"));
            }
            let mut key = String::new();
            TextOf::new(&columns[at], &call.types[at], zone)?.write(row, &mut key);
            pairs.push((
                key,
                json_of(&columns[at + 1], &call.types[at + 1], row, zone)?,
            ));
        }
        if jsonb {
            return Ok(Some(canonical(&Value::Object(pairs.into_iter().collect()))));
        }
        // json keeps the order and the repeats.
        let items: Vec<String> = pairs
            .into_iter()
            .map(|(k, v)| format!("{} : {v}", Value::String(k)))
            .collect();
        Ok(Some(format!("{{{}}}", items.join(", "))))
    })
}

fn build_array(call: &Call<'_>) -> Result<ArrayRef> {
    let columns = (0..call.args.len())
        .map(|i| call.array(i))
        .collect::<Result<Vec<_>>>()?;
    let zone = Zone::parse(call.time_zone)?;
    text_rows(call.rows, |row| {
        let items = columns
            .iter()
            .zip(call.types)
            .map(|(c, ty)| json_of(c, ty, row, zone))
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(canonical(&Value::Array(items))))
    })
}

fn to_json(call: &Call<'_>) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let zone = Zone::parse(call.time_zone)?;
    let jsonb = matches!(call.ret, SqlType::Jsonb);
    text_rows(array.len(), |i| {
        if array.is_null(i) {
            Ok(None)
        } else {
            Ok(Some(shown(
                &json_of(&array, &call.types[0], i, zone)?,
                jsonb,
            )))
        }
    })
}

/// The JSON array of an array, as `json_agg` writes it.
fn array_of(call: &Call<'_>) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let zone = Zone::parse(call.time_zone)?;
    let Some(SqlType::Array(element)) = call.types.first() else {
        return Err(DataFusionError::Internal("an array is none".to_owned()));
    };
    let between = match element.as_ref() {
        SqlType::Array(_) | SqlType::Struct(_) => ", \n ",
        _ => ", ",
    };
    text_rows(array.len(), |i| {
        if array.is_null(i) {
            return Ok(None);
        }
        let values = array.as_list::<i32>().value(i);
        let items = (0..values.len())
            .map(|j| Ok(shown(&json_of(&values, element, j, zone)?, false)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Some(format!("[{}]", items.join(between))))
    })
}

/// One object of the pairs of an array of objects; `None` for no array.
fn object_of(call: &Call<'_>) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let jsonb = matches!(call.ret, SqlType::Jsonb);
    text_rows(array.len(), |i| {
        if array.is_null(i) {
            return Ok(None);
        }
        let objects = array.as_list::<i32>().value(i);
        let objects = objects.as_string_view().iter().flatten();
        if !jsonb {
            // json keeps the order and the repeats.
            let pairs = objects.filter_map(|object| object.strip_prefix('{')?.strip_suffix('}'));
            let pairs: Vec<&str> = pairs.collect();
            return Ok(Some(format!("{{ {} }}", pairs.join(", "))));
        }
        let mut all = serde_json::Map::new();
        for object in objects {
            if let Value::Object(pairs) = parse(object)? {
                all.extend(pairs);
            }
        }
        Ok(Some(canonical(&Value::Object(all))))
    })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn array_length(call: &Call<'_>) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let mut out = Vec::with_capacity(array.len());
    for value in array.as_string_view().iter() {
        out.push(match value.map(parse).transpose()? {
            None => None,
            Some(Value::Array(items)) => i32::try_from(items.len()).ok(),
            Some(Value::Object(_)) => {
                return Err(raise("22023", "cannot get array length of a non-array"));
            }
            Some(_) => return Err(raise("22023", "cannot get array length of a scalar")),
        });
    }
    Ok(Arc::new(PrimitiveArray::<Int32Type>::from_iter(out)))
}

/// Lists of the parts of each value.
fn parts(call: &Call<'_>, f: impl Fn(&Value) -> Result<Vec<Option<String>>>) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let mut items = StringViewBuilder::new();
    let mut lengths = Vec::with_capacity(array.len());
    for value in array.as_string_view().iter() {
        let found = match value {
            Some(text) => f(&parse(text)?)?,
            None => Vec::new(),
        };
        lengths.push(found.len());
        found.into_iter().for_each(|item| items.append_option(item));
    }
    let DataType::List(field) = call.ret.arrow() else {
        return Err(DataFusionError::Internal(
            "a list result is not held as a list".to_owned(),
        ));
    };
    let values: ArrayRef = Arc::new(items.finish());
    Ok(Arc::new(datafusion::arrow::array::ListArray::try_new(
        field,
        OffsetBuffer::<i32>::from_lengths(lengths),
        values,
        None,
    )?))
}

fn elements(value: &Value) -> Result<&Vec<Value>> {
    value
        .as_array()
        .ok_or_else(|| raise("22023", "cannot extract elements from a non-array"))
}

/// The JSON function `name` on these argument types, already converted by [`arguments`].
pub(crate) fn function(name: &str, types: &[SqlType], zone: &str) -> Option<Native> {
    let jsonb = name.contains("jsonb");
    let json_type = if jsonb { SqlType::Jsonb } else { SqlType::Json };
    let list = |item: SqlType| SqlType::Array(Box::new(item));
    let (kernel, ret): (Kernel, SqlType) = match (name, types.len()) {
        ("json_build_object" | "jsonb_build_object", n) if n % 2 == 0 => (build_object, json_type),
        ("json_build_array" | "jsonb_build_array", _) => (build_array, json_type),
        ("to_json" | "to_jsonb" | "row_to_json" | "array_to_json", 1) => (to_json, json_type),
        ("json_array_of", 1) => (array_of, json_type),
        ("json_object_of" | "jsonb_object_of", 1) => (object_of, json_type),
        ("json_typeof" | "jsonb_typeof", 1) => (
            |c| {
                let array = c.array(0)?;
                let json = array.as_string_view();
                text_rows(json.len(), |i| {
                    if json.is_null(i) {
                        Ok(None)
                    } else {
                        Ok(Some(type_name(&parse(json.value(i))?).to_owned()))
                    }
                })
            },
            SqlType::Text,
        ),
        ("json_array_length" | "jsonb_array_length", 1) => (array_length, SqlType::Int4),
        ("jsonb_array_elements" | "json_array_elements", 1) => (
            |c| {
                parts(c, |v| {
                    Ok(elements(v)?.iter().map(|e| Some(canonical(e))).collect())
                })
            },
            list(json_type),
        ),
        ("jsonb_array_elements_text" | "json_array_elements_text", 1) => (
            |c| {
                parts(c, |v| {
                    Ok(elements(v)?.iter().map(|e| bare(e, true)).collect())
                })
            },
            list(SqlType::Text),
        ),
        ("jsonb_object_keys" | "json_object_keys", 1) => (
            |c| {
                parts(c, |v| match v {
                    Value::Object(map) => Ok(map.keys().map(|k| Some(k.clone())).collect()),
                    _ => Err(raise(
                        "22023",
                        "cannot call jsonb_object_keys on a scalar or an array",
                    )),
                })
            },
            list(SqlType::Text),
        ),
        ("jsonb_pretty", 1) => (
            |c| {
                let array = c.array(0)?;
                let json = array.as_string_view();
                text_rows(json.len(), |i| {
                    if json.is_null(i) {
                        return Ok(None);
                    }
                    Ok(serde_json::to_string_pretty(&parse(json.value(i))?)
                        .ok()
                        .map(|t| t.replace("  ", "    ")))
                })
            },
            SqlType::Text,
        ),
        _ => return None,
    };
    Some(
        Native::new(name, types.to_vec(), ret, kernel)
            .in_zone(zone)
            .fallible(true),
    )
}
