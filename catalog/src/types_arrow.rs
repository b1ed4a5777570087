//! SQL types as Arrow fields, and back.
//!
//! Invariant: `SqlType::from_field(&ty.field(name, nullable)) == ty` for every type. Only the outermost field carries the SQL
//! type in its metadata: Arrow compares the metadata of nested fields when it compares types, so a tag inside a list or a
//! struct would make equal types differ.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::extension::{EXTENSION_TYPE_METADATA_KEY, EXTENSION_TYPE_NAME_KEY};
use arrow_schema::{DataType, Field, Fields, IntervalUnit, TimeUnit};

use crate::types::{NUMERIC_PRECISION_MAX, SqlType};

/// Metadata key that holds the compact text of a SQL type which Arrow alone cannot tell.
pub const TYPE_METADATA_KEY: &str = "thalweg.type";

/// Name of list items in every list type we make.
const LIST_ITEM: &str = "item";

impl SqlType {
    /// The Arrow type values are held in.
    pub fn arrow(&self) -> DataType {
        match self {
            SqlType::Bool => DataType::Boolean,
            SqlType::Int2 => DataType::Int16,
            SqlType::Int4 => DataType::Int32,
            SqlType::Int8 => DataType::Int64,
            SqlType::Float4 => DataType::Float32,
            SqlType::Float8 => DataType::Float64,
            SqlType::Numeric {
                declared: Some((precision, scale)),
                ..
            } => DataType::Decimal128(*precision, *scale),
            SqlType::Numeric {
                declared: None,
                held_scale,
            } => DataType::Decimal128(NUMERIC_PRECISION_MAX, *held_scale),
            SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Name
            | SqlType::InternalChar
            | SqlType::Unknown => DataType::Utf8View,
            SqlType::Bytea => DataType::Binary,
            SqlType::Date => DataType::Date32,
            SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::Timestamptz => {
                DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
            }
            SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            SqlType::Uuid => DataType::FixedSizeBinary(16),
            SqlType::Oid | SqlType::Reg(_) => DataType::UInt32,
            SqlType::Array(element) => {
                DataType::List(Arc::new(Field::new(LIST_ITEM, element.arrow(), true)))
            }
            SqlType::Struct(fields) => DataType::Struct(
                fields
                    .iter()
                    .map(|(name, ty)| Field::new(name, ty.arrow(), true))
                    .collect::<Fields>(),
            ),
        }
    }

    /// An Arrow field of this type, tagged with the SQL type when Arrow alone cannot tell it.
    pub fn field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.arrow(), nullable);
        let metadata = self.metadata();
        if metadata.is_empty() {
            field
        } else {
            field.with_metadata(metadata)
        }
    }

    /// The metadata [`SqlType::field`] puts on a field; empty when the Arrow type says it all.
    pub fn metadata(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::new();
        if *self == SqlType::Uuid || SqlType::from_arrow(&self.arrow()) != *self {
            metadata.insert(TYPE_METADATA_KEY.to_owned(), self.compact());
        }
        match self {
            SqlType::Uuid => {
                metadata.insert(EXTENSION_TYPE_NAME_KEY.to_owned(), "arrow.uuid".to_owned());
            }
            SqlType::Json | SqlType::Jsonb => {
                metadata.insert(EXTENSION_TYPE_NAME_KEY.to_owned(), "arrow.json".to_owned());
                metadata.insert(EXTENSION_TYPE_METADATA_KEY.to_owned(), "{}".to_owned());
            }
            _ => {}
        }
        metadata
    }

    /// The SQL type of an Arrow field: what its metadata says when that fits the Arrow type, else what the Arrow type says.
    ///
    /// The fit is checked because DataFusion carries a column's metadata through casts and some functions, where it would
    /// name the type of the input.
    pub fn from_field(field: &Field) -> SqlType {
        let metadata = field.metadata();
        if let Some(tagged) = metadata
            .get(TYPE_METADATA_KEY)
            .and_then(|text| SqlType::parse_compact(text))
            && same_shape(&tagged.arrow(), field.data_type())
        {
            return tagged;
        }
        let fallback = SqlType::from_arrow(field.data_type());
        match metadata.get(EXTENSION_TYPE_NAME_KEY).map(String::as_str) {
            Some("arrow.json") if fallback == SqlType::Text => SqlType::Json,
            _ => fallback,
        }
    }

    /// The SQL type an Arrow type stands for when nothing else is known.
    pub fn from_arrow(data_type: &DataType) -> SqlType {
        match data_type {
            DataType::Null => SqlType::Unknown,
            DataType::Boolean => SqlType::Bool,
            DataType::Int8 | DataType::Int16 => SqlType::Int2,
            DataType::Int32 | DataType::UInt8 | DataType::UInt16 => SqlType::Int4,
            DataType::Int64 | DataType::UInt32 => SqlType::Int8,
            DataType::UInt64 => held(0),
            DataType::Float16 | DataType::Float32 => SqlType::Float4,
            DataType::Float64 => SqlType::Float8,
            DataType::Decimal32(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal128(_, scale)
            | DataType::Decimal256(_, scale) => held(*scale),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => SqlType::Text,
            DataType::FixedSizeBinary(16) => SqlType::Uuid,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => SqlType::Bytea,
            DataType::Date32 | DataType::Date64 => SqlType::Date,
            DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
            DataType::Timestamp(_, None) => SqlType::Timestamp,
            DataType::Timestamp(_, Some(_)) => SqlType::Timestamptz,
            DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::ListView(item)
            | DataType::LargeListView(item) => {
                SqlType::Array(Box::new(SqlType::from_arrow(item.data_type())))
            }
            // A map is a list of entries, and so it shows as one.
            DataType::Map(entries, _) => {
                SqlType::Array(Box::new(SqlType::from_arrow(entries.data_type())))
            }
            DataType::Struct(fields) => SqlType::Struct(
                fields
                    .iter()
                    .map(|field| (field.name().clone(), SqlType::from_arrow(field.data_type())))
                    .collect(),
            ),
            DataType::Dictionary(_, value) => SqlType::from_arrow(value),
            DataType::RunEndEncoded(_, values) => SqlType::from_arrow(values.data_type()),
            DataType::Union(_, _) => SqlType::Text,
        }
    }
}

fn held(scale: i8) -> SqlType {
    SqlType::Numeric {
        declared: None,
        held_scale: scale,
    }
}

/// True when a value of type `found` can be what `tagged` describes: equal but for encodings that hold the same values.
fn same_shape(tagged: &DataType, found: &DataType) -> bool {
    match (tagged, found) {
        (_, DataType::Dictionary(_, value)) => same_shape(tagged, value),
        (_, DataType::RunEndEncoded(_, values)) => same_shape(tagged, values.data_type()),
        (DataType::Utf8View, DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8)
        | (DataType::Binary, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => {
            true
        }
        (
            DataType::List(tagged),
            DataType::List(found)
            | DataType::LargeList(found)
            | DataType::FixedSizeList(found, _)
            | DataType::ListView(found)
            | DataType::LargeListView(found),
        ) => same_shape(tagged.data_type(), found.data_type()),
        (DataType::Struct(tagged), DataType::Struct(found)) => {
            tagged.len() == found.len()
                && tagged.iter().zip(found).all(|(tagged, found)| {
                    tagged.name() == found.name()
                        && same_shape(tagged.data_type(), found.data_type())
                })
        }
        (DataType::Timestamp(_, None), DataType::Timestamp(_, None)) => true,
        (DataType::Timestamp(_, Some(_)), DataType::Timestamp(_, Some(_))) => true,
        // An untyped NULL column is held as Null until something gives it a type.
        (DataType::Utf8View, DataType::Null) => true,
        _ => tagged == found,
    }
}
