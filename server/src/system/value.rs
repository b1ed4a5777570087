//! Rows of system relations as loosely typed cells, and their way into Arrow arrays.
//!
//! Invariant: a batch always has exactly the columns of its relation, in order; a cell that does not fit its column's type
//! becomes NULL, or the type's zero value where the column is NOT NULL, so that no system relation can fail to scan.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Float32Builder, Float64Builder, Int16Builder, Int32Builder,
    Int64Builder, StringBuilder, StringViewBuilder, TimestampMicrosecondBuilder, UInt32Builder,
};
use arrow_array::{ArrayRef, ListArray, StructArray, new_null_array};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::array as arrow_array;
use datafusion::arrow::buffer as arrow_buffer;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use thalweg_catalog::Oid;

/// One value of a system relation or of a catalog function.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    /// NULL.
    Null,
    /// `boolean`.
    Bool(bool),
    /// Every integer type and `oid`; also microseconds of a timestamp.
    Int(i64),
    /// `real` and `double precision`.
    Float(f64),
    /// `text`, `name`, `"char"`, `varchar`.
    Text(String),
    /// An array.
    List(Vec<Cell>),
    /// A record.
    Record(Vec<Cell>),
}

impl Cell {
    /// The zero value of a type, for a NOT NULL column nobody filled.
    pub(crate) fn zero(data_type: &DataType) -> Cell {
        match data_type {
            DataType::Boolean => Cell::Bool(false),
            DataType::Float32 | DataType::Float64 => Cell::Float(0.0),
            DataType::Utf8View | DataType::Utf8 => Cell::Text(String::new()),
            DataType::List(_) => Cell::List(Vec::new()),
            data_type if data_type.is_integer() => Cell::Int(0),
            _ => Cell::Null,
        }
    }

    fn as_int(&self) -> Option<i64> {
        match self {
            Cell::Int(value) => Some(*value),
            _ => None,
        }
    }

    fn as_float(&self) -> Option<f64> {
        match self {
            Cell::Float(value) => Some(*value),
            // Only small counters are given as integers for float columns.
            Cell::Int(value) => i32::try_from(*value).ok().map(f64::from),
            _ => None,
        }
    }

    fn as_text(&self) -> Option<String> {
        match self {
            Cell::Text(value) => Some(value.clone()),
            Cell::Int(value) => Some(value.to_string()),
            Cell::Bool(value) => Some(if *value { "t" } else { "f" }.to_owned()),
            _ => None,
        }
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Cell::Bool(value)
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Cell::Int(value)
    }
}

impl From<i32> for Cell {
    fn from(value: i32) -> Self {
        Cell::Int(i64::from(value))
    }
}

impl From<i16> for Cell {
    fn from(value: i16) -> Self {
        Cell::Int(i64::from(value))
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Self {
        Cell::Int(i64::from(value))
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Cell::Null, Cell::Int)
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        i64::try_from(value).map_or(Cell::Null, Cell::Int)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Cell::Float(value)
    }
}

impl From<Oid> for Cell {
    fn from(value: Oid) -> Self {
        Cell::Int(i64::from(value.0))
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Cell::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Cell::Text(value)
    }
}

impl From<&String> for Cell {
    fn from(value: &String) -> Self {
        Cell::Text(value.clone())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Cell::Null, Into::into)
    }
}

impl<T: Into<Cell>> From<Vec<T>> for Cell {
    fn from(value: Vec<T>) -> Self {
        Cell::List(value.into_iter().map(Into::into).collect())
    }
}

macro_rules! built {
    ($builder:expr, $cells:expr, $read:expr) => {{
        let mut builder = $builder;
        for cell in $cells {
            builder.append_option($read(cell));
        }
        Arc::new(builder.finish()) as ArrayRef
    }};
}

/// The array of `cells` as `data_type`.
pub(crate) fn array<'a>(
    data_type: &DataType,
    cells: impl ExactSizeIterator<Item = &'a Cell>,
) -> ArrayRef {
    match data_type {
        DataType::Boolean => built!(BooleanBuilder::new(), cells, |cell: &Cell| match cell {
            Cell::Bool(value) => Some(*value),
            _ => None,
        }),
        DataType::Int16 => built!(Int16Builder::new(), cells, |cell: &Cell| cell
            .as_int()
            .and_then(|value| i16::try_from(value).ok())),
        DataType::Int32 => built!(Int32Builder::new(), cells, |cell: &Cell| cell
            .as_int()
            .and_then(|value| i32::try_from(value).ok())),
        DataType::Int64 => built!(Int64Builder::new(), cells, Cell::as_int),
        DataType::UInt32 => built!(UInt32Builder::new(), cells, |cell: &Cell| cell
            .as_int()
            .and_then(|value| u32::try_from(value).ok())),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "real columns hold estimates"
        )]
        DataType::Float32 => {
            built!(Float32Builder::new(), cells, |cell: &Cell| cell
                .as_float()
                .map(|value| value as f32))
        }
        DataType::Float64 => built!(Float64Builder::new(), cells, Cell::as_float),
        DataType::Utf8View => built!(StringViewBuilder::new(), cells, Cell::as_text),
        DataType::Utf8 => built!(StringBuilder::new(), cells, Cell::as_text),
        DataType::Binary => {
            built!(BinaryBuilder::new(), cells, |cell: &Cell| cell
                .as_text()
                .map(String::into_bytes))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => built!(
            TimestampMicrosecondBuilder::new().with_timezone_opt(zone.clone()),
            cells,
            Cell::as_int
        ),
        DataType::List(item) => {
            let mut values = Vec::new();
            let mut lengths = Vec::with_capacity(cells.len());
            let mut valid = Vec::with_capacity(cells.len());
            for cell in cells {
                let items: &[Cell] = if let Cell::List(items) = cell {
                    items
                } else {
                    &[]
                };
                values.extend(items.iter());
                lengths.push(items.len());
                valid.push(matches!(cell, Cell::List(_)));
            }
            let count = valid.len();
            let offsets = OffsetBuffer::from_lengths(lengths);
            let values = array(item.data_type(), values.into_iter());
            match ListArray::try_new(
                Arc::clone(item),
                offsets,
                values,
                Some(NullBuffer::from(valid)),
            ) {
                Ok(list) => Arc::new(list),
                Err(_) => new_null_array(data_type, count),
            }
        }
        DataType::Struct(fields) => {
            let records: Vec<&Cell> = cells.collect();
            let columns = fields
                .iter()
                .enumerate()
                .map(|(position, field)| {
                    let members: Vec<&Cell> = records
                        .iter()
                        .map(|record| match record {
                            Cell::Record(members) => members.get(position).unwrap_or(&Cell::Null),
                            _ => &Cell::Null,
                        })
                        .collect();
                    array(field.data_type(), members.into_iter())
                })
                .collect();
            let valid: Vec<bool> = records
                .iter()
                .map(|record| matches!(record, Cell::Record(_)))
                .collect();
            match StructArray::try_new(fields.clone(), columns, Some(NullBuffer::from(valid))) {
                Ok(records) => Arc::new(records),
                Err(_) => new_null_array(data_type, records.len()),
            }
        }
        other => new_null_array(other, cells.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::Array;
    use datafusion::arrow::datatypes::Field;

    #[test]
    fn lists_keep_their_nulls_and_lengths() {
        let data_type = DataType::List(Arc::new(Field::new("item", DataType::Int16, true)));
        let cells = [Cell::from(vec![1_i16, 2]), Cell::Null, Cell::List(vec![])];
        let list = array(&data_type, cells.iter());
        assert_eq!(list.len(), 3);
        assert_eq!(list.null_count(), 1);
        assert_eq!(list.data_type(), &data_type);
    }
}
