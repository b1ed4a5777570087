//! Generators of one column's values.
//!
//! Invariant: a value depends on the column's seed and the row alone, never on what was generated before it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray,
    ListArray, StringArray, StringViewArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast_with_options, nullif, take};
use arrow::datatypes::{DataType, IntervalMonthDayNano};
use thalweg_catalog::{Column, SqlType};

use super::Row;
use super::draw::{Draw, mix};
use crate::error::ConnectorError;
use crate::options::Options;

/// Properties of `fields.<column>.<property>`.
pub(super) const PROPERTIES: &[&str] = &[
    "kind",
    "start",
    "end",
    "values",
    "null_rate",
    "max_lateness",
];

const DAY_US: i64 = 86_400_000_000;
/// Digits after the point of a random numeric, where the type holds as many.
const RANDOM_SCALE: i8 = 2;
/// Bound of random whole numbers when the options give none.
const RANDOM_END: i64 = 1_000;
/// Elements of a generated array, at most.
const ARRAY_LEN_MAX: u64 = 3;

/// Makes the values of one column.
#[derive(Debug)]
pub(super) struct ColumnGenerator {
    name: String,
    ty: SqlType,
    seed: u64,
    null_rate: f64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// `start + offset`, from the start again after `end`.
    Sequence { start: i64, end: i64 },
    /// Uniform whole numbers.
    Whole { start: i64, end: i64 },
    /// Uniform fractions, for float columns.
    Fraction { start: f64, end: f64 },
    /// One of these, uniformly.
    Enum(ArrayRef),
    /// One of these, the first most often.
    ZipfEnum(ArrayRef),
    /// `start` most often.
    Zipf { start: i64, end: i64 },
    /// The row's nominal time less up to so much.
    Time { max_lateness_us: u64 },
    /// What suits the type.
    Natural,
    /// A generated column: NULL here.
    Absent,
}

impl ColumnGenerator {
    pub(super) fn new(
        column: &Column,
        seed: u64,
        options: Options<'_>,
    ) -> Result<Self, ConnectorError> {
        let option = |property: &str| format!("fields.{}.{property}", column.name);
        let null_rate = options.f64(&option("null_rate"))?.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&null_rate) || (null_rate > 0.0 && column.not_null) {
            return Err(ConnectorError::option(format!(
                "option \"{}\" must be between 0 and 1, and 0 for a NOT NULL column",
                option("null_rate")
            )));
        }
        let kind = if column.generated.is_some() {
            Kind::Absent
        } else {
            kind(column, options)?
        };
        Ok(Self {
            name: column.name.clone(),
            ty: column.ty.clone(),
            seed,
            null_rate,
            kind,
        })
    }

    /// The values of these rows.
    pub(super) fn generate(&self, rows: &[Row]) -> Result<ArrayRef, ConnectorError> {
        let values = self.values(rows)?;
        if self.null_rate <= 0.0 {
            return Ok(values);
        }
        let null: BooleanArray = rows
            .iter()
            .map(|row| Some(Draw::new(mix(!self.seed ^ mix(row.offset))).unit() < self.null_rate))
            .collect();
        nullif(values.as_ref(), &null).map_err(|error| self.broken(&error))
    }

    fn draw(&self, row: &Row) -> Draw {
        Draw::new(mix(self.seed ^ mix(row.offset)))
    }

    fn values(&self, rows: &[Row]) -> Result<ArrayRef, ConnectorError> {
        match &self.kind {
            Kind::Absent => Ok(arrow::array::new_null_array(&self.ty.arrow(), rows.len())),
            Kind::Sequence { start, end } => {
                let span = end.wrapping_sub(*start) as u64;
                self.whole(rows.iter().map(|row| {
                    let step = span
                        .checked_add(1)
                        .map_or(row.offset, |count| row.offset % count);
                    start.wrapping_add(step as i64)
                }))
            }
            Kind::Whole { start, end } => {
                self.whole(rows.iter().map(|row| self.draw(row).between(*start, *end)))
            }
            Kind::Zipf { start, end } => {
                let count = (end.wrapping_sub(*start) as u64).saturating_add(1);
                self.whole(
                    rows.iter()
                        .map(|row| start.wrapping_add(self.draw(row).zipf(count) as i64)),
                )
            }
            Kind::Fraction { start, end } => {
                let values: Float64Array = rows
                    .iter()
                    .map(|row| Some(start + self.draw(row).unit() * (end - start)))
                    .collect();
                self.cast(&values)
            }
            Kind::Enum(values) => {
                let count = values.len() as u64;
                self.pick(
                    values,
                    rows.iter().map(|row| self.draw(row).below(count)).collect(),
                )
            }
            Kind::ZipfEnum(values) => {
                let count = values.len() as u64;
                self.pick(
                    values,
                    rows.iter().map(|row| self.draw(row).zipf(count)).collect(),
                )
            }
            Kind::Time { max_lateness_us } => {
                let late = |row: &Row| match max_lateness_us {
                    0 => 0,
                    max => self.draw(row).below(max.saturating_add(1)) as i64,
                };
                let times: Vec<i64> = rows
                    .iter()
                    .map(|row| row.nominal_us.saturating_sub(late(row)))
                    .collect();
                Ok(times_of(&self.ty, &times))
            }
            Kind::Natural => {
                let seeds: Vec<Row> = rows
                    .iter()
                    .map(|row| Row {
                        offset: self.draw(row).next(),
                        nominal_us: row.nominal_us,
                    })
                    .collect();
                Ok(natural(&self.ty, &seeds))
            }
        }
    }

    /// Whole numbers in the column's type.
    fn whole(&self, values: impl Iterator<Item = i64>) -> Result<ArrayRef, ConnectorError> {
        self.cast(&Int64Array::from_iter_values(values))
    }

    fn pick(&self, values: &ArrayRef, indices: Vec<u64>) -> Result<ArrayRef, ConnectorError> {
        take(values.as_ref(), &UInt64Array::from(indices), None)
            .map_err(|error| self.broken(&error))
    }

    fn cast(&self, values: &dyn Array) -> Result<ArrayRef, ConnectorError> {
        checked_cast(values, &self.ty.arrow()).map_err(|error| self.broken(&error))
    }

    /// Options were checked when the generator was made, so this cannot be the user's fault.
    fn broken(&self, error: &arrow::error::ArrowError) -> ConnectorError {
        ConnectorError::Internal(format!("generator of column \"{}\": {error}", self.name))
    }
}

fn checked_cast(values: &dyn Array, to: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(values, to, &options)
}

fn kind(column: &Column, options: Options<'_>) -> Result<Kind, ConnectorError> {
    let option = |property: &str| format!("fields.{}.{property}", column.name);
    let start = option("start");
    let end = option("end");
    let name = options.text(&option("kind"));
    let refuse = || {
        ConnectorError::option_hint(
            format!(
                "option \"{}\" does not fit column \"{}\" of type {}",
                option("kind"),
                column.name,
                column.ty
            ),
            "Kinds are sequence, random and zipf for numbers, enum for anything, timestamp for times.",
        )
    };
    let number = is_number(&column.ty) || column.ty.is_string();
    match name {
        Some("sequence") if number => {
            let start = options.i64(&start)?.unwrap_or(0);
            let end = options.i64(&end)?.unwrap_or(whole_max(&column.ty));
            whole_range(column, start, end)?;
            Ok(Kind::Sequence { start, end })
        }
        Some("random") | None if is_float(&column.ty) => {
            let start = options.f64(&start)?.unwrap_or(0.0);
            let end = options.f64(&end)?.unwrap_or(if name.is_some() {
                RANDOM_END as f64
            } else {
                1.0
            });
            if start > end {
                return Err(empty_range(column));
            }
            Ok(Kind::Fraction { start, end })
        }
        Some("random") if is_number(&column.ty) || (number && options.text(&end).is_some()) => {
            let start = options.i64(&start)?.unwrap_or(0);
            let end = options
                .i64(&end)?
                .unwrap_or(RANDOM_END.min(whole_max(&column.ty)));
            whole_range(column, start, end)?;
            Ok(Kind::Whole { start, end })
        }
        Some("random") => Ok(Kind::Natural),
        Some("zipf") if options.text(&option("values")).is_some() => {
            Ok(Kind::ZipfEnum(enum_values(column, options)?))
        }
        Some("zipf") if number => {
            let start = options.i64(&start)?.unwrap_or(0);
            let end = options
                .i64(&end)?
                .unwrap_or(RANDOM_END.min(whole_max(&column.ty)));
            whole_range(column, start, end)?;
            Ok(Kind::Zipf { start, end })
        }
        Some("enum") => Ok(Kind::Enum(enum_values(column, options)?)),
        Some("timestamp") if is_time(&column.ty) => {
            let lateness = options
                .duration(&option("max_lateness"))?
                .unwrap_or_default();
            Ok(Kind::Time {
                max_lateness_us: u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX),
            })
        }
        None if is_time(&column.ty) => {
            let lateness = options
                .duration(&option("max_lateness"))?
                .unwrap_or_default();
            Ok(Kind::Time {
                max_lateness_us: u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX),
            })
        }
        None if options.text(&option("values")).is_some() => {
            Ok(Kind::Enum(enum_values(column, options)?))
        }
        None if number && (options.text(&start).is_some() || options.text(&end).is_some()) => {
            let start = options.i64(&start)?.unwrap_or(0);
            let end = options.i64(&end)?.unwrap_or(whole_max(&column.ty));
            whole_range(column, start, end)?;
            Ok(Kind::Whole { start, end })
        }
        None => {
            refuse_unknown_types(column, &column.ty)?;
            Ok(Kind::Natural)
        }
        Some(_) => Err(refuse()),
    }
}

/// Checks that both ends exist in the column's type, so that generating never fails.
fn whole_range(column: &Column, start: i64, end: i64) -> Result<(), ConnectorError> {
    if start > end {
        return Err(empty_range(column));
    }
    checked_cast(&Int64Array::from(vec![start, end]), &column.ty.arrow())
        .map(|_| ())
        .map_err(|_| {
            ConnectorError::option(format!(
                "options \"fields.{0}.start\" and \"fields.{0}.end\" must be in the range of {1}",
                column.name, column.ty
            ))
        })
}

fn empty_range(column: &Column) -> ConnectorError {
    ConnectorError::option(format!(
        "option \"fields.{0}.start\" must not exceed \"fields.{0}.end\"",
        column.name
    ))
}

/// `fields.<column>.values`, comma separated, in the column's type.
fn enum_values(column: &Column, options: Options<'_>) -> Result<ArrayRef, ConnectorError> {
    let name = format!("fields.{}.values", column.name);
    let texts: Vec<&str> = options.required(&name)?.split(',').map(str::trim).collect();
    if matches!(column.ty, SqlType::Bytea) {
        let values = BinaryArray::from_iter_values(texts.iter().map(|text| text.as_bytes()));
        return Ok(Arc::new(values));
    }
    checked_cast(&StringArray::from(texts), &column.ty.arrow()).map_err(|_| {
        ConnectorError::option(format!(
            "option \"{name}\" must be a list of values of type {}",
            column.ty
        ))
    })
}

fn is_float(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Float4 | SqlType::Float8)
}

fn is_number(ty: &SqlType) -> bool {
    is_float(ty)
        || matches!(
            ty,
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Oid | SqlType::Numeric { .. }
        )
}

fn is_time(ty: &SqlType) -> bool {
    matches!(
        ty,
        SqlType::Timestamp | SqlType::Timestamptz | SqlType::Date
    )
}

/// Largest whole number of a type, where that is below bigint's.
fn whole_max(ty: &SqlType) -> i64 {
    match ty {
        SqlType::Int2 => i64::from(i16::MAX),
        SqlType::Int4 => i64::from(i32::MAX),
        SqlType::Oid => i64::from(u32::MAX),
        SqlType::Numeric {
            declared,
            held_scale,
        } => {
            let (precision, scale) = declared.unwrap_or((38, *held_scale));
            let digits = i32::from(precision) - i32::from(scale);
            u32::try_from(digits)
                .ok()
                .and_then(|digits| 10i64.checked_pow(digits))
                .map_or(i64::MAX, |max| max - 1)
        }
        SqlType::Char(length) | SqlType::Varchar(Some(length)) => {
            10i64.checked_pow(*length).map_or(i64::MAX, |max| max - 1)
        }
        _ => i64::MAX,
    }
}

fn refuse_unknown_types(column: &Column, ty: &SqlType) -> Result<(), ConnectorError> {
    match ty {
        SqlType::Reg(_) | SqlType::InternalChar | SqlType::Unknown => {
            Err(ConnectorError::ColumnType {
                message: format!(
                    "column \"{}\" of type {} cannot be generated",
                    column.name, column.ty
                ),
            })
        }
        SqlType::Array(element) => refuse_unknown_types(column, element),
        SqlType::Struct(fields) => fields
            .iter()
            .try_for_each(|(_, ty)| refuse_unknown_types(column, ty)),
        _ => Ok(()),
    }
}

/// Moments in a time type.
fn times_of(ty: &SqlType, times_us: &[i64]) -> ArrayRef {
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
fn natural(ty: &SqlType, rows: &[Row]) -> ArrayRef {
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
