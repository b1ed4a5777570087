//! Arrow arrays seen as arrays of one SQL type.
//!
//! Invariant: whatever layout DataFusion chose for a column (views, dictionaries, other integer widths, other time units),
//! it is brought to the one layout of its SQL type here, or the query fails; nothing is reinterpreted.

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray,
    ListArray, PrimitiveArray, StringViewArray, StructArray,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
    UInt32Type,
};
use thalweg_catalog::SqlType;
use thalweg_planner::Planner;

use crate::frontend::Report;

/// One column's values.
#[derive(Debug)]
pub(super) enum Values {
    Null,
    Bool(BooleanArray),
    Int2(PrimitiveArray<Int16Type>),
    Int4(PrimitiveArray<Int32Type>),
    Int8(PrimitiveArray<Int64Type>),
    Float4(PrimitiveArray<Float32Type>),
    Float8(PrimitiveArray<Float64Type>),
    Numeric {
        array: Decimal128Array,
        /// Digits behind the point that are always shown; `None` shows as many as the value needs.
        shown: Option<i8>,
    },
    Text(StringViewArray),
    Jsonb(StringViewArray),
    Bytea(BinaryArray),
    Date(PrimitiveArray<Date32Type>),
    Time(PrimitiveArray<Time64MicrosecondType>),
    Timestamp(PrimitiveArray<TimestampMicrosecondType>),
    Timestamptz(PrimitiveArray<TimestampMicrosecondType>),
    Interval(PrimitiveArray<IntervalMonthDayNanoType>),
    Uuid(FixedSizeBinaryArray),
    Oid(PrimitiveArray<UInt32Type>),
    List {
        array: ListArray,
        element_oid: u32,
        elements: Box<Values>,
    },
    Record {
        array: StructArray,
        fields: Vec<(u32, Values)>,
    },
}

fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, Report> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    // A value that does not fit its announced type is an error, not NULL.
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, to, &options).map_err(|error| Planner::classify(&error.into()))
}

impl Values {
    pub(super) fn new(array: &ArrayRef, ty: &SqlType) -> Result<Self, Report> {
        if matches!(array.data_type(), DataType::Null) {
            return Ok(Values::Null);
        }
        match ty {
            SqlType::Numeric { declared, .. } => {
                numeric(array, declared.map(|(_, scale)| scale), ty)
            }
            SqlType::Array(element) => list(array, element),
            SqlType::Struct(fields) => record(array, fields),
            _ => {
                let array = cast(array, &ty.arrow())?;
                Ok(Self::scalar(&array, ty))
            }
        }
    }

    /// `array` has the layout of `ty`, which is neither numeric nor nested.
    fn scalar(array: &ArrayRef, ty: &SqlType) -> Self {
        match ty {
            SqlType::Bool => Values::Bool(array.as_boolean().clone()),
            SqlType::Int2 => Values::Int2(array.as_primitive().clone()),
            SqlType::Int4 => Values::Int4(array.as_primitive().clone()),
            SqlType::Int8 => Values::Int8(array.as_primitive().clone()),
            SqlType::Float4 => Values::Float4(array.as_primitive().clone()),
            SqlType::Float8 => Values::Float8(array.as_primitive().clone()),
            SqlType::Jsonb => Values::Jsonb(array.as_string_view().clone()),
            SqlType::Bytea => Values::Bytea(array.as_binary().clone()),
            SqlType::Date => Values::Date(array.as_primitive().clone()),
            SqlType::Time => Values::Time(array.as_primitive().clone()),
            SqlType::Timestamp => Values::Timestamp(array.as_primitive().clone()),
            SqlType::Timestamptz => Values::Timestamptz(array.as_primitive().clone()),
            SqlType::Interval => Values::Interval(array.as_primitive().clone()),
            SqlType::Uuid => Values::Uuid(array.as_fixed_size_binary().clone()),
            SqlType::Oid | SqlType::Reg(_) => Values::Oid(array.as_primitive().clone()),
            _ => Values::Text(array.as_string_view().clone()),
        }
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        match self {
            Values::Null => true,
            Values::Bool(array) => array.is_null(row),
            Values::Int2(array) => array.is_null(row),
            Values::Int4(array) => array.is_null(row),
            Values::Int8(array) => array.is_null(row),
            Values::Float4(array) => array.is_null(row),
            Values::Float8(array) => array.is_null(row),
            Values::Numeric { array, .. } => array.is_null(row),
            Values::Text(array) | Values::Jsonb(array) => array.is_null(row),
            Values::Bytea(array) => array.is_null(row),
            Values::Date(array) => array.is_null(row),
            Values::Time(array) => array.is_null(row),
            Values::Timestamp(array) | Values::Timestamptz(array) => array.is_null(row),
            Values::Interval(array) => array.is_null(row),
            Values::Uuid(array) => array.is_null(row),
            Values::Oid(array) => array.is_null(row),
            Values::List { array, .. } => array.is_null(row),
            Values::Record { array, .. } => array.is_null(row),
        }
    }
}

/// Decimals keep the scale they were computed at; only other number types are brought to the type's own layout.
fn numeric(array: &ArrayRef, shown: Option<i8>, ty: &SqlType) -> Result<Values, Report> {
    let array = match array.data_type() {
        DataType::Decimal128(_, _) => array.clone(),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            cast(array, &DataType::Decimal128(*precision, *scale))?
        }
        DataType::Decimal256(_, scale) => cast(array, &DataType::Decimal128(38, *scale))?,
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64 => cast(array, &DataType::Decimal128(38, 0))?,
        _ => cast(array, &ty.arrow())?,
    };
    Ok(Values::Numeric {
        array: array.as_primitive::<Decimal128Type>().clone(),
        shown,
    })
}

fn list(array: &ArrayRef, element: &SqlType) -> Result<Values, Report> {
    let array = match array.data_type() {
        DataType::List(_) => array.clone(),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::ListView(item) => {
            cast(array, &DataType::List(item.clone()))?
        }
        _ => cast(array, &SqlType::Array(Box::new(element.clone())).arrow())?,
    };
    let array = array.as_list::<i32>().clone();
    let elements = Box::new(Values::new(array.values(), element)?);
    let element_oid = innermost(element).oid();
    Ok(Values::List {
        array,
        element_oid,
        elements,
    })
}

/// The element type of a type with any number of dimensions.
fn innermost(ty: &SqlType) -> &SqlType {
    match ty {
        SqlType::Array(element) => innermost(element),
        SqlType::Unknown => &SqlType::Text,
        ty => ty,
    }
}

fn record(array: &ArrayRef, fields: &[(String, SqlType)]) -> Result<Values, Report> {
    let array = match array.data_type() {
        DataType::Struct(_) => array.clone(),
        _ => cast(array, &SqlType::Struct(fields.to_vec()).arrow())?,
    };
    let array = array.as_struct().clone();
    let known = fields.len() == array.num_columns();
    let fields = array
        .fields()
        .iter()
        .zip(array.columns())
        .enumerate()
        .map(|(index, (field, column))| {
            // An anonymous record has no field types of its own; its Arrow fields tell them.
            let ty = if known {
                fields[index].1.clone()
            } else {
                SqlType::from_field(Field::as_ref(field))
            };
            Ok((innermost_oid(&ty), Values::new(column, &ty)?))
        })
        .collect::<Result<_, Report>>()?;
    Ok(Values::Record { array, fields })
}

fn innermost_oid(ty: &SqlType) -> u32 {
    match ty {
        SqlType::Unknown => SqlType::Text.oid(),
        ty => ty.oid(),
    }
}
