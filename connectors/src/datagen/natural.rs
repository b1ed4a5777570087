//! Values that suit a type when the options say nothing.
//!
//! Invariant: a value depends on its row alone; whatever the type, generating it cannot fail.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray,
    ListArray, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, IntervalMonthDayNano};
use thalweg_catalog::SqlType;

use super::Row;
use super::draw::{Draw, mix};
use super::kind::RANDOM_END;

const DAY_US: i64 = 86_400_000_000;
/// Digits after the point of a random numeric, where the type holds as many.
const RANDOM_SCALE: i8 = 2;
/// Elements of a generated array, at most.
const ARRAY_LEN_MAX: u64 = 3;

/// Moments in a time type.
pub(super) fn times_of(ty: &SqlType, times_us: &[i64]) -> ArrayRef {
    let times = times_us.iter().copied();
    match ty {
        SqlType::Date => {
            Arc::new(Date32Array::from_iter_values(times.map(|us| {
                i32::try_from(us.div_euclid(DAY_US)).unwrap_or(i32::MAX)
            })))
        }
        SqlType::Timestamptz => {
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
        }
        _ => Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
    }
}

/// Values that suit a type; `offset` of a row is its seed here.
pub(super) fn natural(ty: &SqlType, rows: &[Row]) -> ArrayRef {
    let draws = rows.iter().map(|row| Draw::new(row.offset));
    let whole = |max: i64| move |mut draw: Draw| draw.between(0, max);
    match ty {
        SqlType::Bool => Arc::new(
            draws
                .map(|mut draw| Some(draw.below(2) == 1))
                .collect::<BooleanArray>(),
        ),
        SqlType::Int2 => Arc::new(Int16Array::from_iter_values(
            draws.map(whole(RANDOM_END)).map(|n| n as i16),
        )),
        SqlType::Int4 => Arc::new(Int32Array::from_iter_values(
            draws.map(whole(RANDOM_END)).map(|n| n as i32),
        )),
        SqlType::Int8 => Arc::new(Int64Array::from_iter_values(draws.map(whole(RANDOM_END)))),
        SqlType::Oid | SqlType::Reg(_) => Arc::new(UInt32Array::from_iter_values(
            draws.map(whole(RANDOM_END)).map(|n| n as u32),
        )),
        SqlType::Float4 => Arc::new(Float32Array::from_iter_values(
            draws.map(|mut draw| draw.unit() as f32),
        )),
        SqlType::Float8 => Arc::new(Float64Array::from_iter_values(
            draws.map(|mut draw| draw.unit()),
        )),
        SqlType::Numeric {
            declared,
            held_scale,
        } => {
            let (precision, scale) = declared.unwrap_or((38, *held_scale));
            numerics(precision, scale, draws)
        }
        SqlType::Bytea => {
            let values: Vec<[u8; 8]> = draws.map(|mut draw| draw.next().to_be_bytes()).collect();
            Arc::new(BinaryArray::from_iter_values(values))
        }
        SqlType::Date | SqlType::Timestamp | SqlType::Timestamptz => times_of(
            ty,
            &rows.iter().map(|row| row.nominal_us).collect::<Vec<_>>(),
        ),
        SqlType::Time => Arc::new(Time64MicrosecondArray::from_iter_values(
            rows.iter().map(|row| row.nominal_us.rem_euclid(DAY_US)),
        )),
        SqlType::Interval => Arc::new(IntervalMonthDayNanoArray::from_iter_values(draws.map(
            |mut draw| IntervalMonthDayNano::new(0, 0, draw.between(0, 3_600) * 1_000_000_000),
        ))),
        SqlType::Uuid => uuids(draws),
        SqlType::Json | SqlType::Jsonb => {
            Arc::new(StringViewArray::from_iter_values(draws.map(|mut draw| {
                format!("{{\"n\":{}}}", draw.between(0, RANDOM_END))
            })))
        }
        SqlType::Text
        | SqlType::Name
        | SqlType::Varchar(_)
        | SqlType::Char(_)
        | SqlType::InternalChar
        | SqlType::Unknown => {
            let length = match ty {
                SqlType::Varchar(Some(length)) | SqlType::Char(length) => *length as usize,
                _ => usize::MAX,
            };
            Arc::new(StringViewArray::from_iter_values(
                draws.map(|mut draw| word(&mut draw, length)),
            ))
        }
        SqlType::Array(element) => lists(element, rows),
        SqlType::Struct(_) => structs(ty, rows),
    }
}

/// A pronounceable word of up to eight letters.
fn word(draw: &mut Draw, length_max: usize) -> String {
    const SYLLABLES: [&str; 16] = [
        "ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu",
        "za",
    ];
    let syllables = 2 + draw.below(3);
    let word: String = (0..syllables)
        .filter_map(|_| SYLLABLES.get(draw.below(16) as usize).copied())
        .collect();
    word.chars().take(length_max).collect()
}

fn numerics(precision: u8, scale: i8, draws: impl Iterator<Item = Draw>) -> ArrayRef {
    let power = |exponent: i32| {
        10i128
            .checked_pow(u32::try_from(exponent).unwrap_or(0))
            .unwrap_or(i128::MAX)
    };
    let largest = power(i32::from(precision)).saturating_sub(1);
    let fine = power(i32::from(scale.max(0) - RANDOM_SCALE.min(scale.max(0))));
    let values = draws.map(|mut draw| {
        let hundredths = i128::from(draw.between(0, RANDOM_END * 100));
        // With scale 0 or 1 the digits that do not fit are dropped from the draw, not from the number.
        let unscaled = match scale {
            0 | i8::MIN..0 => hundredths / 100,
            1 => hundredths / 10,
            _ => hundredths.saturating_mul(fine),
        };
        unscaled % largest.max(1)
    });
    let array = Decimal128Array::from_iter_values(values);
    let data_type = DataType::Decimal128(precision, scale);
    match array.clone().with_precision_and_scale(precision, scale) {
        Ok(array) => Arc::new(array),
        Err(_) => arrow::array::new_null_array(&data_type, array.len()),
    }
}

fn uuids(draws: impl Iterator<Item = Draw>) -> ArrayRef {
    let bytes: Vec<u8> = draws
        .flat_map(|mut draw| {
            let random = (u128::from(draw.next()) << 64) | u128::from(draw.next());
            uuid::Builder::from_random_bytes(random.to_be_bytes())
                .into_uuid()
                .into_bytes()
        })
        .collect();
    Arc::new(FixedSizeBinaryArray::new(16, bytes.into(), None))
}

fn lists(element: &SqlType, rows: &[Row]) -> ArrayRef {
    let mut items = Vec::new();
    let lengths: Vec<usize> = rows
        .iter()
        .map(|row| {
            let mut draw = Draw::new(row.offset);
            let length = draw.below(ARRAY_LEN_MAX + 1);
            items.extend((0..length).map(|_| Row {
                offset: draw.next(),
                nominal_us: row.nominal_us,
            }));
            length as usize
        })
        .collect();
    let values = natural(element, &items);
    let field = arrow::datatypes::Field::new("item", values.data_type().clone(), true);
    let none: Option<NullBuffer> = None;
    Arc::new(ListArray::new(
        Arc::new(field),
        OffsetBuffer::from_lengths(lengths),
        values,
        none,
    ))
}

fn structs(ty: &SqlType, rows: &[Row]) -> ArrayRef {
    let (SqlType::Struct(fields), DataType::Struct(arrow_fields)) = (ty, ty.arrow()) else {
        return arrow::array::new_null_array(&ty.arrow(), rows.len());
    };
    let children = fields
        .iter()
        .enumerate()
        .map(|(index, (_, ty))| {
            let seeds: Vec<Row> = rows
                .iter()
                .map(|row| Row {
                    offset: mix(row.offset ^ mix(index as u64)),
                    nominal_us: row.nominal_us,
                })
                .collect();
            natural(ty, &seeds)
        })
        .collect();
    Arc::new(StructArray::new(arrow_fields, children, None))
}
