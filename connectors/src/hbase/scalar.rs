//! One value of a column, between Arrow arrays and the bytes that HBase holds.
//!
//! Invariant: a scalar's variant is that of the column's type; building a column appends exactly one value per row.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
    FixedSizeBinaryBuilder, Float32Builder, Float64Builder, Int16Builder, Int32Builder,
    Int64Builder, StringViewBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use std::sync::Arc;
use thalweg_catalog::SqlType;

/// A value that is not NULL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar<'a> {
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    /// Unscaled, at the scale of the column.
    Numeric(i128),
    /// Text of any kind, JSON included.
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Days since the Unix epoch.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since the Unix epoch, with a time zone or without.
    Timestamp(i64),
    Uuid([u8; 16]),
}

impl<'a> Scalar<'a> {
    /// The value of a row; `None` for NULL, and for an array that is not of this type.
    pub(super) fn at(array: &'a dyn Array, row: usize, ty: &SqlType) -> Option<Self> {
        if row >= array.len() || array.is_null(row) {
            return None;
        }
        Some(match ty {
            SqlType::Bool => Scalar::Bool(array.as_boolean_opt()?.value(row)),
            SqlType::Int2 => Scalar::Int2(array.as_primitive_opt::<Int16Type>()?.value(row)),
            SqlType::Int4 => Scalar::Int4(array.as_primitive_opt::<Int32Type>()?.value(row)),
            SqlType::Int8 => Scalar::Int8(array.as_primitive_opt::<Int64Type>()?.value(row)),
            SqlType::Float4 => Scalar::Float4(array.as_primitive_opt::<Float32Type>()?.value(row)),
            SqlType::Float8 => Scalar::Float8(array.as_primitive_opt::<Float64Type>()?.value(row)),
            SqlType::Numeric { .. } => {
                Scalar::Numeric(array.as_primitive_opt::<Decimal128Type>()?.value(row))
            }
            SqlType::Bytea => Scalar::Bytes(array.as_binary_opt::<i32>()?.value(row)),
            SqlType::Date => Scalar::Date(array.as_primitive_opt::<Date32Type>()?.value(row)),
            SqlType::Time => Scalar::Time(
                array
                    .as_primitive_opt::<Time64MicrosecondType>()?
                    .value(row),
            ),
            SqlType::Timestamp | SqlType::Timestamptz => Scalar::Timestamp(
                array
                    .as_primitive_opt::<TimestampMicrosecondType>()?
                    .value(row),
            ),
            SqlType::Uuid => {
                let bytes = array.as_fixed_size_binary_opt()?.value(row);
                Scalar::Uuid(bytes.try_into().ok()?)
            }
            _ => Scalar::Text(array.as_string_view_opt()?.value(row)),
        })
    }
}

/// Whether columns of this type can be cells by themselves; others need the encoding `json`.
pub(super) fn is_scalar(ty: &SqlType) -> bool {
    !matches!(
        ty,
        SqlType::Array(_)
            | SqlType::Struct(_)
            | SqlType::Interval
            | SqlType::Oid
            | SqlType::Reg(_)
            | SqlType::Unknown
            | SqlType::InternalChar
    )
}

/// Precision and scale that numerics of a column are held at.
pub(super) fn decimal(ty: &SqlType) -> (u8, i8) {
    match ty.arrow() {
        DataType::Decimal128(precision, scale) => (precision, scale),
        _ => (38, 0),
    }
}

/// Builds a column of scalars.
#[derive(Debug)]
pub(super) enum ScalarBuilder {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Numeric(Decimal128Builder),
    Text(StringViewBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Uuid(FixedSizeBinaryBuilder),
}

impl ScalarBuilder {
    /// A builder for a column of this type, which is a scalar.
    pub(super) fn new(ty: &SqlType) -> Self {
        let data_type = ty.arrow();
        match ty {
            SqlType::Bool => ScalarBuilder::Bool(BooleanBuilder::new()),
            SqlType::Int2 => ScalarBuilder::Int2(Int16Builder::new()),
            SqlType::Int4 => ScalarBuilder::Int4(Int32Builder::new()),
            SqlType::Int8 => ScalarBuilder::Int8(Int64Builder::new()),
            SqlType::Float4 => ScalarBuilder::Float4(Float32Builder::new()),
            SqlType::Float8 => ScalarBuilder::Float8(Float64Builder::new()),
            SqlType::Numeric { .. } => {
                ScalarBuilder::Numeric(Decimal128Builder::new().with_data_type(data_type))
            }
            SqlType::Bytea => ScalarBuilder::Bytes(BinaryBuilder::new()),
            SqlType::Date => ScalarBuilder::Date(Date32Builder::new()),
            SqlType::Time => ScalarBuilder::Time(Time64MicrosecondBuilder::new()),
            SqlType::Timestamp | SqlType::Timestamptz => ScalarBuilder::Timestamp(
                TimestampMicrosecondBuilder::new().with_data_type(data_type),
            ),
            SqlType::Uuid => ScalarBuilder::Uuid(FixedSizeBinaryBuilder::new(16)),
            _ => ScalarBuilder::Text(StringViewBuilder::new()),
        }
    }

    /// Appends a value of the column's type, or NULL. `false` when it is of another type; then NULL was appended.
    pub(super) fn append(&mut self, value: Option<Scalar<'_>>) -> bool {
        match (self, value) {
            (ScalarBuilder::Bool(values), Some(Scalar::Bool(value))) => values.append_value(value),
            (ScalarBuilder::Int2(values), Some(Scalar::Int2(value))) => values.append_value(value),
            (ScalarBuilder::Int4(values), Some(Scalar::Int4(value))) => values.append_value(value),
            (ScalarBuilder::Int8(values), Some(Scalar::Int8(value))) => values.append_value(value),
            (ScalarBuilder::Float4(values), Some(Scalar::Float4(value))) => {
                values.append_value(value);
            }
            (ScalarBuilder::Float8(values), Some(Scalar::Float8(value))) => {
                values.append_value(value);
            }
            (ScalarBuilder::Numeric(values), Some(Scalar::Numeric(value))) => {
                values.append_value(value);
            }
            (ScalarBuilder::Text(values), Some(Scalar::Text(value))) => values.append_value(value),
            (ScalarBuilder::Bytes(values), Some(Scalar::Bytes(value))) => {
                values.append_value(value);
            }
            (ScalarBuilder::Date(values), Some(Scalar::Date(value))) => values.append_value(value),
            (ScalarBuilder::Time(values), Some(Scalar::Time(value))) => values.append_value(value),
            (ScalarBuilder::Timestamp(values), Some(Scalar::Timestamp(value))) => {
                values.append_value(value);
            }
            (ScalarBuilder::Uuid(values), Some(Scalar::Uuid(value))) => {
                return values.append_value(value).is_ok();
            }
            (builder, value) => {
                builder.append_null();
                return value.is_none();
            }
        }
        true
    }

    fn append_null(&mut self) {
        match self {
            ScalarBuilder::Bool(values) => values.append_null(),
            ScalarBuilder::Int2(values) => values.append_null(),
            ScalarBuilder::Int4(values) => values.append_null(),
            ScalarBuilder::Int8(values) => values.append_null(),
            ScalarBuilder::Float4(values) => values.append_null(),
            ScalarBuilder::Float8(values) => values.append_null(),
            ScalarBuilder::Numeric(values) => values.append_null(),
            ScalarBuilder::Text(values) => values.append_null(),
            ScalarBuilder::Bytes(values) => values.append_null(),
            ScalarBuilder::Date(values) => values.append_null(),
            ScalarBuilder::Time(values) => values.append_null(),
            ScalarBuilder::Timestamp(values) => values.append_null(),
            ScalarBuilder::Uuid(values) => values.append_null(),
        }
    }

    /// The column; the builder is empty afterwards.
    pub(super) fn finish(&mut self) -> ArrayRef {
        match self {
            ScalarBuilder::Bool(values) => Arc::new(values.finish()),
            ScalarBuilder::Int2(values) => Arc::new(values.finish()),
            ScalarBuilder::Int4(values) => Arc::new(values.finish()),
            ScalarBuilder::Int8(values) => Arc::new(values.finish()),
            ScalarBuilder::Float4(values) => Arc::new(values.finish()),
            ScalarBuilder::Float8(values) => Arc::new(values.finish()),
            ScalarBuilder::Numeric(values) => Arc::new(values.finish()),
            ScalarBuilder::Text(values) => Arc::new(values.finish()),
            ScalarBuilder::Bytes(values) => Arc::new(values.finish()),
            ScalarBuilder::Date(values) => Arc::new(values.finish()),
            ScalarBuilder::Time(values) => Arc::new(values.finish()),
            ScalarBuilder::Timestamp(values) => Arc::new(values.finish()),
            ScalarBuilder::Uuid(values) => Arc::new(values.finish()),
        }
    }
}
