//! Arrays and structs: constructors, subscripts, fields, quantified comparison and containment.
//!
//! Invariant: subscripts count from 1 and give NULL outside the array, as in Postgres.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, ListArray, PrimitiveArray, UInt32Array,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::kernels::cmp;
use datafusion::arrow::compute::{concat as concat_arrays, interleave, nullif, take};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Int32Type, IntervalMonthDayNanoType};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use thalweg_catalog::SqlType;

use super::native::{Call, Kernel, Native, Shape};
use crate::bind::binder::{Binder, Typed, no_operator};
use crate::error::raise;
use crate::types::numeric;

/// Most values one generate_series call may give.
pub(crate) const SERIES_MAX: usize = 10_000_000;

fn list_field(ret: &SqlType) -> Result<datafusion::arrow::datatypes::FieldRef> {
    match ret.arrow() {
        DataType::List(field) => Ok(field),
        _ => Err(DataFusionError::Internal(
            "an array type is not held as a list".to_owned(),
        )),
    }
}

/// `ARRAY[a, b, ...]` of `count` elements.
pub(crate) fn make_array(element: &SqlType, count: usize) -> Native {
    let ret = SqlType::Array(Box::new(element.clone()));
    Native::new("array", vec![element.clone(); count], ret, |call| {
        let field = list_field(call.ret)?;
        let rows = call.rows;
        let count = call.args.len();
        let columns = (0..count)
            .map(|i| call.array(i))
            .collect::<Result<Vec<_>>>()?;
        let values: ArrayRef = if columns.is_empty() {
            datafusion::arrow::array::new_empty_array(field.data_type())
        } else {
            let arrays: Vec<&dyn Array> = columns.iter().map(|c| c.as_ref()).collect();
            let order: Vec<(usize, usize)> = (0..rows)
                .flat_map(|row| (0..count).map(move |column| (column, row)))
                .collect();
            interleave(&arrays, &order)?
        };
        let offsets = OffsetBuffer::<i32>::from_lengths(std::iter::repeat_n(count, rows));
        Ok(Arc::new(ListArray::try_new(field, offsets, values, None)?))
    })
}

/// `x.name` of a struct.
pub(crate) fn field(expr: Expr, ty: &SqlType, name: &str) -> Result<(Expr, SqlType)> {
    let SqlType::Struct(fields) = ty else {
        return Err(raise(
            "42809",
            format!("column notation .{name} applied to type {ty}, which is not a composite type"),
        ));
    };
    let Some((own, field_type)) = fields.iter().find(|(n, _)| n == name) else {
        let names: Vec<&str> = fields.iter().map(|(n, _)| n.as_str()).collect();
        let mut report = crate::error::report(
            "42703",
            format!("column \"{name}\" not found in data type {ty}"),
        );
        report.hint =
            crate::names::nearest(name, &names).map(|n| format!("Perhaps you meant \"{n}\"."));
        return Err(DataFusionError::External(Box::new(report)));
    };
    let position = fields.iter().position(|(n, _)| n == name).unwrap_or(0);
    let index = crate::bind::literal::number(&position.to_string())?;
    let native = Native::new(
        format!("{}{own}", crate::reads::FIELD),
        vec![ty.clone(), SqlType::Int4],
        field_type.clone(),
        field_kernel,
    );
    Ok((native.call(vec![expr, index]), field_type.clone()))
}

fn field_kernel(call: &Call<'_>) -> Result<ArrayRef> {
    let (array, at) = (call.array(0)?, call.array(1)?);
    let at = if at.is_empty() {
        0
    } else {
        usize::try_from(at.as_primitive::<Int32Type>().value(0)).unwrap_or(0)
    };
    let row = array.as_struct();
    let column = row
        .columns()
        .get(at)
        .ok_or_else(|| DataFusionError::Internal("a struct field is missing".to_owned()))?;
    // A NULL struct has NULL fields.
    match row.nulls().filter(|nulls| nulls.null_count() > 0) {
        Some(nulls) => Ok(nullif(column, &BooleanArray::new(!nulls.inner(), None))?),
        None => Ok(Arc::clone(column)),
    }
}

fn element_of(ty: &SqlType) -> Result<SqlType> {
    match ty {
        SqlType::Array(element) => Ok((**element).clone()),
        other => Err(raise(
            "42804",
            format!("cannot subscript type {other} because it does not support subscripting"),
        )),
    }
}

/// `a[i]`
pub(crate) fn index(binder: &Binder, operands: Vec<Typed>) -> Result<Expr> {
    let [list, at] = <[Typed; 2]>::try_from(operands)
        .map_err(|_| raise("XX000", "a subscript takes two operands"))?;
    if matches!(list.1, SqlType::Jsonb) {
        let operand = if crate::types::is_integer(&at.1) {
            SqlType::Int4
        } else {
            SqlType::Text
        };
        let native = super::json::operator("->", &list.1, &operand)
            .ok_or_else(|| no_operator("[]", &list.1, &operand))?;
        return Ok(native.call(vec![list.0, binder.implicit(at, &operand)?]));
    }
    let element = element_of(&list.1)?;
    let at = binder.convert(at, &SqlType::Int4, crate::types::Conversion::Assignment)?;
    let native = Native::new(
        "element",
        vec![list.1.clone(), SqlType::Int4],
        element,
        |call| {
            let (array, at) = (call.array(0)?, call.array(1)?);
            let (list, at) = (array.as_list::<i32>(), at.as_primitive::<Int32Type>());
            let picks: UInt32Array = (0..list.len())
                .map(|i| {
                    let position = if at.is_valid(i) { at.value(i) } else { 0 };
                    let inside =
                        list.is_valid(i) && position >= 1 && position <= list.value_length(i);
                    inside
                        .then(|| u32::try_from(list.value_offsets()[i] + position - 1).unwrap_or(0))
                })
                .collect();
            Ok(take(list.values(), &picks, None)?)
        },
    );
    Ok(native.call(vec![list.0, at]))
}

/// `a[i:j]`
pub(crate) fn slice(binder: &Binder, operands: Vec<Typed>) -> Result<Expr> {
    let [list, low, high] = <[Typed; 3]>::try_from(operands)
        .map_err(|_| raise("XX000", "a slice takes three operands"))?;
    element_of(&list.1)?;
    let bound = |b: Typed| binder.convert(b, &SqlType::Int4, crate::types::Conversion::Assignment);
    let (low, high) = (bound(low)?, bound(high)?);
    let native = Native::new(
        "slice",
        vec![list.1.clone(), SqlType::Int4, SqlType::Int4],
        list.1.clone(),
        |call| {
            let (array, low, high) = (call.array(0)?, call.array(1)?, call.array(2)?);
            let (list, low, high) = (
                array.as_list::<i32>(),
                low.as_primitive::<Int32Type>(),
                high.as_primitive::<Int32Type>(),
            );
            let mut picks: Vec<u32> = Vec::new();
            let mut lengths = Vec::with_capacity(list.len());
            for i in 0..list.len() {
                let before = picks.len();
                if list.is_valid(i) {
                    let length = list.value_length(i);
                    let from = if low.is_valid(i) {
                        low.value(i).max(1)
                    } else {
                        1
                    };
                    let to = if high.is_valid(i) {
                        high.value(i).min(length)
                    } else {
                        length
                    };
                    picks.extend(
                        (from..=to)
                            .filter_map(|p| u32::try_from(list.value_offsets()[i] + p - 1).ok()),
                    );
                }
                lengths.push(picks.len() - before);
            }
            let values = take(list.values(), &UInt32Array::from(picks), None)?;
            let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
            Ok(Arc::new(ListArray::try_new(
                list_field(call.ret)?,
                offsets,
                values,
                list.nulls().cloned(),
            )?))
        },
    );
    Ok(native.call(vec![list.0, low, high]))
}

/// `||` where at least one side is an array.
pub(crate) fn concat(binder: &Binder, left: Typed, right: Typed) -> Result<Expr> {
    let element = match (&left.1, &right.1) {
        (SqlType::Array(a), SqlType::Array(b)) => {
            crate::types::unify(&[(**a).clone(), (**b).clone()])
                .map_err(|_| no_operator("||", &left.1, &right.1))?
        }
        (SqlType::Array(a), SqlType::Unknown) | (SqlType::Unknown, SqlType::Array(a)) => {
            (**a).clone()
        }
        (SqlType::Array(a), b) | (b, SqlType::Array(a)) => {
            crate::types::unify(&[(**a).clone(), b.clone()])
                .map_err(|_| no_operator("||", &left.1, &right.1))?
        }
        _ => return Err(no_operator("||", &left.1, &right.1)),
    };
    let ty = SqlType::Array(Box::new(element.clone()));
    let as_list = |operand: Typed| -> Result<Expr> {
        if matches!(operand.1, SqlType::Array(_) | SqlType::Unknown) {
            binder.implicit(operand, &ty)
        } else {
            Ok(make_array(&element, 1).call(vec![binder.implicit(operand, &element)?]))
        }
    };
    let (a, b) = (as_list(left)?, as_list(right)?);
    let native = Native::new("||", vec![ty.clone(), ty.clone()], ty.clone(), |call| {
        let (a, b) = (call.array(0)?, call.array(1)?);
        let (a, b) = (a.as_list::<i32>(), b.as_list::<i32>());
        let mut pieces: Vec<ArrayRef> = Vec::new();
        let (mut lengths, mut valid) = (Vec::with_capacity(a.len()), Vec::with_capacity(a.len()));
        for i in 0..a.len() {
            let mut length = 0;
            for side in [a, b] {
                if side.is_valid(i) {
                    let values = side.value(i);
                    length += values.len();
                    pieces.push(values);
                }
            }
            lengths.push(length);
            valid.push(a.is_valid(i) || b.is_valid(i));
        }
        let field = list_field(call.ret)?;
        let values = if pieces.is_empty() {
            datafusion::arrow::array::new_empty_array(field.data_type())
        } else {
            let refs: Vec<&dyn Array> = pieces.iter().map(|p| p.as_ref()).collect();
            concat_arrays(&refs)?
        };
        let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
        Ok(Arc::new(ListArray::try_new(
            field,
            offsets,
            values,
            Some(NullBuffer::from(valid)),
        )?))
    })
    .shape(Shape::Infix);
    Ok(native.call(vec![a, b]))
}

type Comparison = fn(
    &dyn datafusion::arrow::array::Datum,
    &dyn datafusion::arrow::array::Datum,
) -> std::result::Result<datafusion::arrow::array::BooleanArray, ArrowError>;

fn quantify(call: &Call<'_>, compare: Comparison, all: bool) -> Result<ArrayRef> {
    let (subject, list) = (call.array(0)?, call.array(1)?);
    let list = list.as_list::<i32>();
    let mut out = BooleanBuilder::with_capacity(list.len());
    for i in 0..list.len() {
        if list.is_null(i) {
            out.append_null();
            continue;
        }
        let values = list.value(i);
        if values.is_empty() {
            out.append_value(all);
            continue;
        }
        if subject.is_null(i) {
            out.append_null();
            continue;
        }
        let scalar = datafusion::arrow::array::Scalar::new(subject.slice(i, 1));
        let matches = compare(&scalar, &values)?;
        // ANY is decided by one true, ALL by one false; otherwise a NULL leaves it open.
        if matches.iter().flatten().any(|m| m != all) {
            out.append_value(!all);
        } else if matches.null_count() > 0 {
            out.append_null();
        } else {
            out.append_value(all);
        }
    }
    Ok(Arc::new(out.finish()))
}

/// `x op ANY (array)` and `x op ALL (array)`.
pub(crate) fn quantified(op: &str, all: bool, element: &SqlType) -> Option<Native> {
    let kernel: Kernel = match (op, all) {
        ("=", false) => |c| quantify(c, cmp::eq, false),
        ("=", true) => |c| quantify(c, cmp::eq, true),
        ("<>" | "!=", false) => |c| quantify(c, cmp::neq, false),
        ("<>" | "!=", true) => |c| quantify(c, cmp::neq, true),
        ("<", false) => |c| quantify(c, cmp::lt, false),
        ("<", true) => |c| quantify(c, cmp::lt, true),
        (">", false) => |c| quantify(c, cmp::gt, false),
        (">", true) => |c| quantify(c, cmp::gt, true),
        ("<=", false) => |c| quantify(c, cmp::lt_eq, false),
        ("<=", true) => |c| quantify(c, cmp::lt_eq, true),
        (">=", false) => |c| quantify(c, cmp::gt_eq, false),
        (">=", true) => |c| quantify(c, cmp::gt_eq, true),
        _ => return None,
    };
    let types = vec![element.clone(), SqlType::Array(Box::new(element.clone()))];
    let word = if all { "ALL" } else { "ANY" };
    Some(Native::new(format!("{op} {word}"), types, SqlType::Bool, kernel).shape(Shape::Infix))
}

fn contains(outer: &ArrayRef, inner: &ArrayRef) -> Result<bool> {
    for i in 0..inner.len() {
        if inner.is_null(i) {
            return Ok(false);
        }
        let scalar = datafusion::arrow::array::Scalar::new(inner.slice(i, 1));
        if !cmp::eq(outer, &scalar)?.iter().flatten().any(|m| m) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn overlaps(a: &ArrayRef, b: &ArrayRef) -> Result<bool> {
    for i in 0..b.len() {
        if b.is_valid(i) {
            let scalar = datafusion::arrow::array::Scalar::new(b.slice(i, 1));
            if cmp::eq(a, &scalar)?.iter().flatten().any(|m| m) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn pairwise(call: &Call<'_>, f: fn(&ArrayRef, &ArrayRef) -> Result<bool>) -> Result<ArrayRef> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    let (a, b) = (a.as_list::<i32>(), b.as_list::<i32>());
    let mut out = BooleanBuilder::with_capacity(a.len());
    for i in 0..a.len() {
        if a.is_valid(i) && b.is_valid(i) {
            out.append_value(f(&a.value(i), &b.value(i))?)
        } else {
            out.append_null()
        }
    }
    Ok(Arc::new(out.finish()))
}

/// `@>`, `<@` and `&&` on arrays.
pub(crate) fn containment(symbol: &str, element: &SqlType) -> Native {
    let ty = SqlType::Array(Box::new(element.clone()));
    let kernel: Kernel = match symbol {
        "@>" => |c| pairwise(c, contains),
        "<@" => |c| pairwise(c, |a, b| contains(b, a)),
        _ => |c| pairwise(c, overlaps),
    };
    Native::new(symbol, vec![ty.clone(), ty], SqlType::Bool, kernel).shape(Shape::Infix)
}

/// An interval's length as Postgres compares it: a month is 30 days, a day 24 hours.
pub(crate) fn interval_order() -> Native {
    Native::new(
        "interval_order",
        vec![SqlType::Interval],
        numeric(0),
        |call| {
            let array = call.array(0)?;
            let values = array.as_primitive::<IntervalMonthDayNanoType>();
            let lengths = values.iter().map(|v| {
                v.map(|v| {
                    (i128::from(v.months) * 30 + i128::from(v.days)) * 86_400_000_000
                        + i128::from(v.nanoseconds / 1000)
                })
            });
            Ok(Arc::new(
                PrimitiveArray::<Decimal128Type>::from_iter(lengths)
                    .with_data_type(call.ret.arrow()),
            ))
        },
    )
}

/// `cardinality(a)` and `array_length(a, 1)`; the latter is NULL for an empty array.
pub(crate) fn length(ty: &SqlType, dimension: bool) -> Native {
    if !dimension {
        return Native::new("cardinality", vec![ty.clone()], SqlType::Int4, |call| {
            let array = call.array(0)?;
            let list = array.as_list::<i32>();
            Ok(Arc::new(PrimitiveArray::<Int32Type>::from_iter(
                (0..list.len()).map(|i| list.is_valid(i).then(|| list.value_length(i))),
            )))
        });
    }
    Native::new(
        "array_length",
        vec![ty.clone(), SqlType::Int4],
        SqlType::Int4,
        |call| {
            let (array, at) = (call.array(0)?, call.array(1)?);
            let (list, at) = (array.as_list::<i32>(), at.as_primitive::<Int32Type>());
            Ok(Arc::new(PrimitiveArray::<Int32Type>::from_iter(
                (0..list.len()).map(|i| {
                    (list.is_valid(i)
                        && at.is_valid(i)
                        && at.value(i) == 1
                        && list.value_length(i) > 0)
                        .then(|| list.value_length(i))
                }),
            )))
        },
    )
}

/// The array, or the empty one for NULL.
pub(crate) fn or_empty(ty: &SqlType) -> Native {
    Native::new("array_or_empty", vec![ty.clone()], ty.clone(), |call| {
        let array = call.array(0)?;
        let list = array.as_list::<i32>();
        if list.null_count() == 0 {
            return Ok(array);
        }
        let (mut picks, mut lengths): (Vec<u32>, Vec<usize>) = (Vec::new(), Vec::new());
        for i in 0..list.len() {
            let range = list.value_offsets()[i]..list.value_offsets()[i + 1];
            let before = picks.len();
            if list.is_valid(i) {
                picks.extend(range.filter_map(|p| u32::try_from(p).ok()));
            }
            lengths.push(picks.len() - before);
        }
        let values = take(list.values(), &UInt32Array::from(picks), None)?;
        let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
        let field = list_field(call.ret)?;
        Ok(Arc::new(ListArray::try_new(field, offsets, values, None)?))
    })
}
