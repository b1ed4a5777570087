//! What the options of a column mean: which [`Kind`] of values it gets.
//!
//! Invariant: a kind that is returned can be generated at every offset; ranges and values were tried in the column's type.

use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};
use std::sync::Arc;
use thalweg_catalog::{Column, SqlType};

use super::column::checked_cast;
use super::draw::Shares;
use crate::error::ConnectorError;
use crate::format::canonical_json;
use crate::options::Options;

/// Properties of `fields.<column>.<property>`.
pub(super) const PROPERTIES: &[&str] = &[
    "kind",
    "start",
    "end",
    "values",
    "weights",
    "exponent",
    "null_rate",
    "max_lateness",
];

/// Bound of random whole numbers when the options give none.
pub(super) const RANDOM_END: i64 = 1_000;

/// How a column's values are made.
#[derive(Debug)]
pub(super) enum Kind {
    /// `start + offset`, from the start again after `end`.
    Sequence { start: i64, end: i64 },
    /// Uniform whole numbers.
    Whole { start: i64, end: i64 },
    /// Uniform fractions, for float columns.
    Fraction { start: f64, end: f64 },
    /// One of these, uniformly.
    Enum(ArrayRef),
    /// One of these, each with its weight.
    Weighted(ArrayRef, Shares),
    /// One of these, the first most often.
    ZipfEnum(ArrayRef, f64),
    /// `start` most often.
    Zipf { start: i64, end: i64, exponent: f64 },
    /// The row's nominal time less up to so much.
    Time { max_lateness_us: u64 },
    /// What suits the type.
    Natural,
    /// A generated column: NULL here.
    Absent,
}

/// The options of one column.
struct Fields<'a> {
    column: &'a Column,
    options: Options<'a>,
}

/// The kind of values a column gets: the one its options name, or the one that suits its type.
pub(super) fn kind(column: &Column, options: Options<'_>) -> Result<Kind, ConnectorError> {
    let fields = Fields { column, options };
    let ty = &column.ty;
    let number = is_number(ty) || ty.is_string();
    let bounded = fields.has("start") || fields.has("end");
    match fields.text("kind") {
        Some("sequence") if number => {
            let (start, end) = fields.whole_range(i64::MAX)?;
            Ok(Kind::Sequence { start, end })
        }
        Some("zipf") if fields.has("values") => {
            Ok(Kind::ZipfEnum(fields.values()?, fields.exponent()?))
        }
        Some("zipf") if number => {
            let (start, end) = fields.whole_range(RANDOM_END)?;
            let exponent = fields.exponent()?;
            Ok(Kind::Zipf {
                start,
                end,
                exponent,
            })
        }
        Some("enum") => fields.choice(),
        None if fields.has("values") => fields.choice(),
        Some("timestamp") | None if is_time(ty) => fields.time(),
        Some("random") | None if is_float(ty) => fields.fraction(),
        Some("random") if is_number(ty) => fields.whole_numbers(),
        Some("random") | None if number && bounded => fields.whole_numbers(),
        Some("random") | None => {
            refuse_unknown_types(column, ty)?;
            Ok(Kind::Natural)
        }
        Some(_) => Err(ConnectorError::option_hint(
            format!(
                "option \"{}\" does not fit column \"{}\" of type {ty}",
                fields.name("kind"),
                column.name
            ),
            "Kinds are sequence, random and zipf for numbers, enum for anything, timestamp for times.",
        )),
    }
}

impl<'a> Fields<'a> {
    fn name(&self, property: &str) -> String {
        format!("fields.{}.{property}", self.column.name)
    }

    fn text(&self, property: &str) -> Option<&'a str> {
        self.options.text(&self.name(property))
    }

    fn has(&self, property: &str) -> bool {
        self.text(property).is_some()
    }

    /// `start` and `end`, which are tried in the column's type so that generating never fails.
    fn whole_range(&self, default_end: i64) -> Result<(i64, i64), ConnectorError> {
        let largest = whole_max(&self.column.ty);
        let start = self.options.i64(&self.name("start"))?.unwrap_or(0);
        let end = self
            .options
            .i64(&self.name("end"))?
            .unwrap_or(default_end.min(largest));
        if start > end {
            return Err(self.empty_range());
        }
        let fits =
            checked_cast(&Int64Array::from(vec![start, end]), &self.column.ty.arrow()).is_ok();
        if fits && end <= largest {
            return Ok((start, end));
        }
        Err(ConnectorError::option(format!(
            "options \"{}\" and \"{}\" must be in the range of {}",
            self.name("start"),
            self.name("end"),
            self.column.ty
        )))
    }

    fn whole_numbers(&self) -> Result<Kind, ConnectorError> {
        let (start, end) = self.whole_range(RANDOM_END)?;
        Ok(Kind::Whole { start, end })
    }

    fn fraction(&self) -> Result<Kind, ConnectorError> {
        let start = self.options.f64(&self.name("start"))?.unwrap_or(0.0);
        let end = self
            .options
            .f64(&self.name("end"))?
            .unwrap_or(start.max(0.0) + 1.0);
        if start > end {
            return Err(self.empty_range());
        }
        Ok(Kind::Fraction { start, end })
    }

    fn time(&self) -> Result<Kind, ConnectorError> {
        let lateness = self
            .options
            .duration(&self.name("max_lateness"))?
            .unwrap_or_default();
        let max_lateness_us = u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX);
        Ok(Kind::Time { max_lateness_us })
    }

    /// `values`, with `weights` when there are any.
    fn choice(&self) -> Result<Kind, ConnectorError> {
        let values = self.values()?;
        let name = self.name("weights");
        let Some(text) = self.text("weights") else {
            return Ok(Kind::Enum(values));
        };
        let weights: Option<Vec<f64>> = text
            .split(',')
            .map(|part| part.trim().parse().ok())
            .collect();
        let weights = weights.filter(|weights| weights.len() == values.len());
        match weights.and_then(|weights| Shares::new(&weights)) {
            Some(shares) => Ok(Kind::Weighted(values, shares)),
            None => Err(ConnectorError::option_hint(
                format!("option \"{name}\" must be a list of one number for each value"),
                "Weights are not negative and not all zero, as '8,1,1'.",
            )),
        }
    }

    fn exponent(&self) -> Result<f64, ConnectorError> {
        let exponent = self.options.f64(&self.name("exponent"))?.unwrap_or(1.0);
        if (0.0..=10.0).contains(&exponent) {
            return Ok(exponent);
        }
        Err(ConnectorError::option(format!(
            "option \"{}\" must be between 0 and 10",
            self.name("exponent")
        )))
    }

    fn empty_range(&self) -> ConnectorError {
        ConnectorError::option(format!(
            "option \"{}\" must not exceed \"{}\"",
            self.name("start"),
            self.name("end")
        ))
    }

    /// `values`, comma separated, in the column's type.
    fn values(&self) -> Result<ArrayRef, ConnectorError> {
        let name = self.name("values");
        let wrong = || {
            ConnectorError::option(format!(
                "option \"{name}\" must be a list of values of type {}",
                self.column.ty
            ))
        };
        let texts: Vec<&str> = self
            .options
            .required(&name)?
            .split(',')
            .map(str::trim)
            .collect();
        match self.column.ty {
            SqlType::Bytea => Ok(Arc::new(BinaryArray::from_iter_values(texts))),
            SqlType::Json | SqlType::Jsonb => {
                let texts: Result<Vec<String>, String> =
                    texts.into_iter().map(canonical_json).collect();
                let texts = StringArray::from(texts.map_err(|_| wrong())?);
                checked_cast(&texts, &self.column.ty.arrow()).map_err(|_| wrong())
            }
            SqlType::Varchar(Some(length)) | SqlType::Char(length)
                if texts
                    .iter()
                    .any(|text| text.chars().count() > length as usize) =>
            {
                Err(wrong())
            }
            _ => checked_cast(&StringArray::from(texts), &self.column.ty.arrow())
                .map_err(|_| wrong()),
        }
    }
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
