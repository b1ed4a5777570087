//! One column being built from JSON values.
//!
//! Invariant: every call of [`ColumnBuilder::append`] adds exactly one value, a NULL when it reports a fault, so columns stay of
//! equal length and a bad row can be filtered out afterwards instead of being rolled back.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
    FixedSizeBinaryBuilder, Float32Builder, Float64Builder, Int16Builder, Int32Builder,
    Int64Builder, IntervalMonthDayNanoBuilder, ListArray, NullBufferBuilder, StringViewBuilder,
    StructArray, Time64MicrosecondBuilder, TimestampMicrosecondBuilder, UInt32Builder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use thalweg_catalog::SqlType;

use super::interval::interval;
use super::json::{JsonOptions, Members, Token};
use super::number::{self, Misfit};
use super::{Fault, canonical_json, excerpt, time};
use crate::error::ConnectorError;

/// Characters of an offending value that an error repeats.
const VALUE_CHARS_MAX: usize = 60;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Builds one column, or one nested part of one.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    /// Name in messages: `a`, `a.b` for a field of a struct, `a[]` for the elements of an array.
    path: String,
    ty: SqlType,
    options: JsonOptions,
    /// Where a record's layout puts the value.
    slot: usize,
    values: Values,
    /// Present while nobody reads the column: its values are checked, and not kept.
    unread: Option<Unread>,
}

#[derive(Debug)]
enum Values {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Oid(UInt32Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Numeric {
        values: Decimal128Builder,
        precision: u8,
        scale: i8,
    },
    Text {
        values: StringViewBuilder,
        length_max: Option<u32>,
    },
    Json {
        values: StringViewBuilder,
        canonical: bool,
    },
    Bytea(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp {
        values: TimestampMicrosecondBuilder,
        zoned: bool,
    },
    Interval(IntervalMonthDayNanoBuilder),
    Uuid(FixedSizeBinaryBuilder),
    List {
        item: Box<ColumnBuilder>,
        lengths: Vec<usize>,
        validity: NullBufferBuilder,
    },
    Struct {
        fields: Vec<ColumnBuilder>,
        members: Members,
        validity: NullBufferBuilder,
        /// Rows that are NULL here and not appended to the fields yet: one event of many kinds is NULL in all but one struct.
        behind: usize,
    },
}

mod slot;
mod unread;

use self::unread::Unread;
pub(crate) use self::unread::Wanted;

/// What went wrong with one value.
enum Problem {
    Misfit(Misfit),
    /// A fault of a nested value, already in words.
    Nested(Fault),
    /// Right type, wrong content.
    Content(String),
}

impl From<Misfit> for Problem {
    fn from(misfit: Misfit) -> Self {
        Problem::Misfit(misfit)
    }
}

impl ColumnBuilder {
    /// A builder for a column of this type.
    ///
    /// # Errors
    /// 42804 for a type JSON has no form for.
    pub(crate) fn new(
        path: &str,
        ty: &SqlType,
        options: JsonOptions,
    ) -> Result<Self, ConnectorError> {
        let data_type = ty.arrow();
        let values = match ty {
            SqlType::Bool => Values::Bool(BooleanBuilder::new()),
            SqlType::Int2 => Values::Int2(Int16Builder::new()),
            SqlType::Int4 => Values::Int4(Int32Builder::new()),
            SqlType::Int8 => Values::Int8(Int64Builder::new()),
            SqlType::Oid => Values::Oid(UInt32Builder::new()),
            SqlType::Float4 => Values::Float4(Float32Builder::new()),
            SqlType::Float8 => Values::Float8(Float64Builder::new()),
            SqlType::Numeric { .. } => match data_type {
                DataType::Decimal128(precision, scale) => Values::Numeric {
                    values: Decimal128Builder::new().with_data_type(data_type),
                    precision,
                    scale,
                },
                _ => return Err(unfit(path, ty)),
            },
            SqlType::Text | SqlType::Name => text(None),
            SqlType::Varchar(length_max) => text(*length_max),
            SqlType::Char(length) => text(Some(*length)),
            SqlType::Json => Values::Json {
                values: StringViewBuilder::new(),
                canonical: false,
            },
            SqlType::Jsonb => Values::Json {
                values: StringViewBuilder::new(),
                canonical: true,
            },
            SqlType::Bytea => Values::Bytea(BinaryBuilder::new()),
            SqlType::Date => Values::Date(Date32Builder::new()),
            SqlType::Time => Values::Time(Time64MicrosecondBuilder::new()),
            SqlType::Timestamp | SqlType::Timestamptz => Values::Timestamp {
                values: TimestampMicrosecondBuilder::new().with_data_type(data_type),
                zoned: *ty == SqlType::Timestamptz,
            },
            SqlType::Interval => Values::Interval(IntervalMonthDayNanoBuilder::new()),
            SqlType::Uuid => Values::Uuid(FixedSizeBinaryBuilder::new(16)),
            SqlType::Array(element) => Values::List {
                item: Box::new(ColumnBuilder::new(&format!("{path}[]"), element, options)?),
                lengths: Vec::new(),
                validity: NullBufferBuilder::new(0),
            },
            SqlType::Struct(fields) => Values::Struct {
                members: Members::new(fields.iter().map(|(name, _)| name.as_str()), options),
                fields: fields
                    .iter()
                    .map(|(name, ty)| ColumnBuilder::new(&format!("{path}.{name}"), ty, options))
                    .collect::<Result<_, _>>()?,
                validity: NullBufferBuilder::new(0),
                behind: 0,
            },
            SqlType::InternalChar | SqlType::Reg(_) | SqlType::Unknown => {
                return Err(unfit(path, ty));
            }
        };
        Ok(Self {
            path: path.to_owned(),
            ty: ty.clone(),
            options,
            slot: 0,
            values,
            unread: None,
        })
    }

    /// Appends the value of a JSON text; `None` and `null` are NULL. True when the value is not NULL.
    pub(crate) fn append(&mut self, json: Option<&str>) -> Result<bool, Fault> {
        // What is not read is built all the same, to find what is wrong with it, and dropped by `finish`.
        let unread = self.unread.take();
        let appended = self.append_read(json);
        self.unread = unread;
        if let Some(unread) = &mut self.unread {
            unread.rows += 1;
        }
        appended
    }

    fn append_read(&mut self, json: Option<&str>) -> Result<bool, Fault> {
        let Some(json) = json else {
            self.append_null();
            return Ok(false);
        };
        let token = match Token::read(json) {
            Ok(Token::Null) => {
                self.append_null();
                return Ok(false);
            }
            Ok(token) => token,
            Err(reason) => {
                self.append_null();
                return Err(Fault::decode(format!("column \"{}\": {reason}", self.path)));
            }
        };
        let appended = match &mut self.values {
            Values::List {
                item,
                lengths,
                validity,
            } => append_list(item, lengths, validity, &token),
            Values::Struct {
                fields,
                members,
                validity,
                behind,
            } => {
                catch_up(fields, behind);
                append_struct(fields, members, validity, &token)
            }
            scalar => scalar
                .append(&token, json, self.options)
                .inspect_err(|_| scalar.append_null()),
        };
        appended
            .map(|()| true)
            .map_err(|problem| self.fault(problem, json))
    }

    fn fault(&self, problem: Problem, json: &str) -> Fault {
        let value = excerpt(json, VALUE_CHARS_MAX);
        let (path, ty) = (&self.path, &self.ty);
        Fault::decode(match problem {
            Problem::Nested(fault) => return fault,
            Problem::Misfit(Misfit::Type) => {
                format!("column \"{path}\": expected {ty}, got {value}")
            }
            Problem::Misfit(Misfit::Range) => {
                format!("column \"{path}\": {value} is out of range for type {ty}")
            }
            Problem::Content(reason) => format!("column \"{path}\": {reason}"),
        })
    }

    /// Appends a NULL.
    pub(crate) fn append_null(&mut self) {
        match &mut self.unread {
            Some(unread) => unread.rows += 1,
            None => self.values.append_null(),
        }
    }

    fn append_nulls(&mut self, count: usize) {
        match &mut self.unread {
            Some(unread) => unread.rows += count,
            None => self.values.append_nulls(count),
        }
    }

    /// Appends bytes to a `bytea` or text column; true when the value is not NULL.
    pub(crate) fn append_bytes(&mut self, bytes: Option<&[u8]>) -> Result<bool, Fault> {
        let Some(bytes) = bytes else {
            self.append_null();
            return Ok(false);
        };
        match (&mut self.values, std::str::from_utf8(bytes)) {
            (Values::Bytea(values), _) => values.append_value(bytes),
            (Values::Text { values, .. }, Ok(text)) if !text.contains('\0') => {
                values.append_value(text)
            }
            _ => {
                self.append_null();
                return Err(Fault::decode(format!(
                    "column \"{}\": bytes are not valid UTF-8 text",
                    self.path
                )));
            }
        }
        Ok(true)
    }

    /// The column so far; the builder starts over.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        match self.unread {
            None => self.values.finish(),
            Some(_) => self.finish_unread(),
        }
    }
}

fn unfit(path: &str, ty: &SqlType) -> ConnectorError {
    ConnectorError::ColumnType {
        message: format!("column \"{path}\" of type {ty} cannot be read from JSON"),
    }
}

fn text(length_max: Option<u32>) -> Values {
    Values::Text {
        values: StringViewBuilder::new(),
        length_max,
    }
}

/// Appends to the fields of a struct the rows that are NULL in it.
fn catch_up(fields: &mut [ColumnBuilder], behind: &mut usize) {
    let count = std::mem::take(behind);
    if count > 0 {
        fields
            .iter_mut()
            .for_each(|field| field.append_nulls(count));
    }
}

fn append_list(
    item: &mut ColumnBuilder,
    lengths: &mut Vec<usize>,
    validity: &mut NullBufferBuilder,
    token: &Token<'_>,
) -> Result<(), Problem> {
    let items = match token.items() {
        Ok(items) => items,
        Err(misfit) => {
            lengths.push(0);
            validity.append_null();
            return Err(misfit.into());
        }
    };
    // Every item is appended even after a fault: the length is pushed once, at the end.
    let mut outcome = Ok(());
    for raw in &items {
        if let Err(fault) = item.append(Some(raw.get())) {
            outcome = outcome.and(Err(Problem::Nested(fault)));
        }
    }
    lengths.push(items.len());
    validity.append_non_null();
    outcome
}

fn append_struct(
    fields: &mut [ColumnBuilder],
    members: &mut Members,
    validity: &mut NullBufferBuilder,
    token: &Token<'_>,
) -> Result<(), Problem> {
    let Token::Object(object) = token else {
        fields.iter_mut().for_each(ColumnBuilder::append_null);
        validity.append_null();
        return Err(Misfit::Type.into());
    };
    if let Err(reason) = members.split(object) {
        fields.iter_mut().for_each(ColumnBuilder::append_null);
        validity.append_null();
        return Err(Problem::Content(reason));
    }
    let mut outcome = Ok(());
    for (index, field) in fields.iter_mut().enumerate() {
        let member: Option<Range<usize>> = members.found(index);
        if let Err(fault) = field.append(member.and_then(|range| object.get(range))) {
            outcome = outcome.and(Err(Problem::Nested(fault)));
        }
    }
    validity.append_non_null();
    outcome
}

impl Values {
    /// Appends a scalar, or nothing when it reports a problem.
    fn append(
        &mut self,
        token: &Token<'_>,
        json: &str,
        options: JsonOptions,
    ) -> Result<(), Problem> {
        match self {
            Values::Bool(values) => match token {
                Token::Bool(value) => values.append_value(*value),
                _ => return Err(Misfit::Type.into()),
            },
            Values::Int2(values) => values.append_value(narrow(token)?),
            Values::Int4(values) => values.append_value(narrow(token)?),
            Values::Int8(values) => values.append_value(narrow(token)?),
            Values::Oid(values) => values.append_value(narrow(token)?),
            Values::Float4(values) => {
                let value: f32 = float(token)?;
                values.append_value(finite(token, value, value.is_finite())?);
            }
            Values::Float8(values) => {
                let value: f64 = float(token)?;
                values.append_value(finite(token, value, value.is_finite())?);
            }
            Values::Numeric {
                values,
                precision,
                scale,
            } => {
                let text = match token {
                    Token::Number(text) => text,
                    Token::String(text) => text.as_ref(),
                    _ => return Err(Misfit::Type.into()),
                };
                values.append_value(number::numeric(text, *precision, *scale)?);
            }
            Values::Text { values, length_max } => {
                let text = match token {
                    Token::String(text) => text.as_ref(),
                    Token::Number(text) => text,
                    Token::Bool(true) => "true",
                    Token::Bool(false) => "false",
                    _ => return Err(Misfit::Type.into()),
                };
                values.append_value(fit(text, *length_max)?);
            }
            Values::Json { values, canonical } => {
                let rewritten = canonical_json(json).map_err(Problem::Content)?;
                values.append_value(if *canonical { rewritten.as_str() } else { json });
            }
            Values::Bytea(values) => {
                let bytes = BASE64.decode(string(token)?.as_bytes());
                values.append_value(
                    bytes.map_err(|_| Problem::Content("expected base64 text".into()))?,
                );
            }
            Values::Date(values) => values.append_value(time::date(string(token)?)?),
            Values::Time(values) => values.append_value(time::time(string(token)?)?),
            Values::Timestamp { values, zoned } => values.append_value(match token {
                Token::Number(text) => time::timestamp_number(text, options.timestamps)?,
                Token::String(text) if *zoned => time::timestamptz(text, options.timestamps)?,
                Token::String(text) => time::timestamp(text)?,
                _ => return Err(Misfit::Type.into()),
            }),
            Values::Interval(values) => values.append_value(interval(string(token)?)?),
            Values::Uuid(values) => {
                let uuid = uuid::Uuid::try_parse(string(token)?).map_err(|_| Misfit::Type)?;
                values
                    .append_value(uuid.as_bytes())
                    .map_err(|error| Problem::Content(error.to_string()))?;
            }
            // Nested values go through `append_list` and `append_struct`, which append NULL by themselves.
            Values::List { .. } | Values::Struct { .. } => return Err(Misfit::Type.into()),
        }
        Ok(())
    }

    fn append_null(&mut self) {
        match self {
            Values::Bool(values) => values.append_null(),
            Values::Int2(values) => values.append_null(),
            Values::Int4(values) => values.append_null(),
            Values::Int8(values) => values.append_null(),
            Values::Oid(values) => values.append_null(),
            Values::Float4(values) => values.append_null(),
            Values::Float8(values) => values.append_null(),
            Values::Numeric { values, .. } => values.append_null(),
            Values::Text { values, .. } | Values::Json { values, .. } => values.append_null(),
            Values::Bytea(values) => values.append_null(),
            Values::Date(values) => values.append_null(),
            Values::Time(values) => values.append_null(),
            Values::Timestamp { values, .. } => values.append_null(),
            Values::Interval(values) => values.append_null(),
            Values::Uuid(values) => values.append_null(),
            Values::List {
                lengths, validity, ..
            } => {
                lengths.push(0);
                validity.append_null();
            }
            Values::Struct {
                validity, behind, ..
            } => {
                validity.append_null();
                *behind += 1;
            }
        }
    }

    fn append_nulls(&mut self, count: usize) {
        match self {
            Values::Int2(values) => values.append_nulls(count),
            Values::Int4(values) => values.append_nulls(count),
            Values::Int8(values) => values.append_nulls(count),
            Values::Float8(values) => values.append_nulls(count),
            Values::Timestamp { values, .. } => values.append_nulls(count),
            Values::Text { values, .. } => (0..count).for_each(|_| values.append_null()),
            Values::Struct {
                validity, behind, ..
            } => {
                validity.append_n_nulls(count);
                *behind += count;
            }
            other => (0..count).for_each(|_| other.append_null()),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Values::Bool(values) => ArrayBuilder::finish(values),
            Values::Int2(values) => ArrayBuilder::finish(values),
            Values::Int4(values) => ArrayBuilder::finish(values),
            Values::Int8(values) => ArrayBuilder::finish(values),
            Values::Oid(values) => ArrayBuilder::finish(values),
            Values::Float4(values) => ArrayBuilder::finish(values),
            Values::Float8(values) => ArrayBuilder::finish(values),
            Values::Numeric { values, .. } => ArrayBuilder::finish(values),
            Values::Text { values, .. } | Values::Json { values, .. } => {
                ArrayBuilder::finish(values)
            }
            Values::Bytea(values) => ArrayBuilder::finish(values),
            Values::Date(values) => ArrayBuilder::finish(values),
            Values::Time(values) => ArrayBuilder::finish(values),
            Values::Timestamp { values, .. } => ArrayBuilder::finish(values),
            Values::Interval(values) => ArrayBuilder::finish(values),
            Values::Uuid(values) => ArrayBuilder::finish(values),
            Values::List {
                item,
                lengths,
                validity,
            } => {
                let items = item.finish();
                let field = Field::new("item", items.data_type().clone(), true);
                let offsets = OffsetBuffer::from_lengths(std::mem::take(lengths));
                Arc::new(ListArray::new(
                    Arc::new(field),
                    offsets,
                    items,
                    validity.finish(),
                ))
            }
            Values::Struct {
                fields,
                members,
                validity,
                behind,
            } => {
                catch_up(fields, behind);
                let length = validity.len();
                let columns: Vec<ArrayRef> = fields.iter_mut().map(ColumnBuilder::finish).collect();
                let types = members
                    .names()
                    .zip(&columns)
                    .map(|(name, column)| Field::new(name, column.data_type().clone(), true))
                    .collect();
                match StructArray::try_new_with_length(types, columns, validity.finish(), length) {
                    Ok(array) => Arc::new(array),
                    // Columns are of equal length by this file's invariant.
                    Err(error) => unreachable!("fields of a struct: {error}"),
                }
            }
        }
    }
}

/// Text of a string token.
fn string<'t>(token: &'t Token<'_>) -> Result<&'t str, Misfit> {
    match token {
        Token::String(text) => Ok(text),
        _ => Err(Misfit::Type),
    }
}

/// A whole number in a type that may be too small for it.
fn narrow<T: TryFrom<i64>>(token: &Token<'_>) -> Result<T, Misfit> {
    match token {
        Token::Number(text) => T::try_from(number::whole(text)?).map_err(|_| Misfit::Range),
        _ => Err(Misfit::Type),
    }
}

/// A float; the texts JSON has no numbers for are accepted as strings, as other writers print them.
fn float<T: std::str::FromStr>(token: &Token<'_>) -> Result<T, Misfit> {
    match token {
        Token::Number(text) => text.parse().map_err(|_| Misfit::Type),
        Token::String(text) if matches!(text.as_ref(), "NaN" | "Infinity" | "-Infinity") => {
            text.parse().map_err(|_| Misfit::Type)
        }
        _ => Err(Misfit::Type),
    }
}

/// A number whose text is too large for the type is an error, not infinity.
fn finite<T>(token: &Token<'_>, value: T, is_finite: bool) -> Result<T, Misfit> {
    if is_finite || matches!(token, Token::String(_)) {
        Ok(value)
    } else {
        Err(Misfit::Range)
    }
}

/// Text that fits a length; blanks beyond it are cut, as in an assignment in Postgres.
fn fit(text: &str, length_max: Option<u32>) -> Result<&str, Problem> {
    if text.contains('\0') {
        return Err(Problem::Content("\\u0000 cannot be held in text".into()));
    }
    let Some(length_max) = length_max else {
        return Ok(text);
    };
    match text.char_indices().nth(length_max as usize) {
        None => Ok(text),
        Some((end, _))
            if text
                .get(end..)
                .is_some_and(|rest| rest.trim_matches(' ').is_empty()) =>
        {
            Ok(text.get(..end).unwrap_or(text))
        }
        Some(_) => Err(Problem::Content(format!(
            "value is longer than {length_max} characters"
        ))),
    }
}
