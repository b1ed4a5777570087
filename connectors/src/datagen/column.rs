//! Generators of one column's values.
//!
//! Invariant: a value depends on the column's seed and the row alone, never on what was generated before it.

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options, nullif, take};
use arrow::datatypes::DataType;
use thalweg_catalog::{Column, SqlType};

use super::Row;
use super::draw::{Draw, mix};
use super::kind::{Kind, kind};
use super::natural::{natural, times_of};
use crate::error::ConnectorError;
use crate::options::Options;

/// Makes the values of one column.
#[derive(Debug)]
pub(super) struct ColumnGenerator {
    name: String,
    ty: SqlType,
    seed: u64,
    null_rate: f64,
    kind: Kind,
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
            Kind::Zipf {
                start,
                end,
                exponent,
            } => {
                let count = (end.wrapping_sub(*start) as u64).saturating_add(1);
                self.whole(
                    rows.iter().map(|row| {
                        start.wrapping_add(self.draw(row).zipf(count, *exponent) as i64)
                    }),
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
            Kind::Weighted(values, weights) => self.pick(
                values,
                rows.iter()
                    .map(|row| weights.choose(&mut self.draw(row)))
                    .collect(),
            ),
            Kind::ZipfEnum(values, exponent) => {
                let count = values.len() as u64;
                self.pick(
                    values,
                    rows.iter()
                        .map(|row| self.draw(row).zipf(count, *exponent))
                        .collect(),
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

/// A cast that fails rather than making NULLs.
pub(crate) fn checked_cast(
    values: &dyn Array,
    to: &DataType,
) -> Result<ArrayRef, arrow::error::ArrowError> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(values, to, &options)
}
