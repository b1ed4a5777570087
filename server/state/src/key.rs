//! Rows as bytes whose order is the order of the rows: the memcomparable encoding of everything that is kept sorted on disk.
//!
//! Invariant: for rows of the same types, bytes compare as the values do, column by column, and `decode(encode(x)) = x`. The
//! encoding is part of the format of runs: a change to it is a new format version. No row's bytes begin another row's bytes.
//!
//! NULL sorts before every value. Numbers, dates and times sort by value, floats by IEEE 754's total order (-0 below 0, NaN by
//! its sign at either end), text by its UTF-8 bytes, bytes as bytes, intervals by months, then days, then nanoseconds; a list
//! sorts after its beginnings; a struct by its fields in order. Text is encoded alike whatever array type holds it.

mod decode;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, ListArray, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use crate::error::StateError;

pub(crate) const NULL: u8 = 0;
pub(crate) const VALUE: u8 = 1;
/// Ends a text; a zero byte inside of one is followed by `ESCAPED`.
pub(crate) const END: u8 = 0;
pub(crate) const ESCAPED: u8 = 0xFF;

/// Encodes rows of certain types.
#[derive(Debug, Clone)]
pub struct KeyCodec {
    types: Vec<DataType>,
    /// The first columns, which decide the bucket.
    prefix: usize,
}

/// Encoded rows.
#[derive(Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
    /// Where each row's prefix ends, and where the row ends.
    ends: Vec<(usize, usize)>,
}

impl Keys {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all rows.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of a row; empty when there is no such row.
    pub fn row(&self, row: usize) -> &[u8] {
        self.until(row, |end| end.1)
    }

    /// The bytes of a row's prefix columns.
    pub fn prefix(&self, row: usize) -> &[u8] {
        self.until(row, |end| end.0)
    }

    /// A row from its beginning to one of its ends.
    fn until(&self, row: usize, end: impl Fn(&(usize, usize)) -> usize) -> &[u8] {
        let start = row
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .map_or(0, |end| end.1);
        self.ends
            .get(row)
            .and_then(|ends| self.bytes.get(start..end(ends)))
            .unwrap_or_default()
    }
}

impl KeyCodec {
    /// A codec for rows of `types`, whose first `prefix` columns are their key.
    ///
    /// # Errors
    /// `Unsupported` for a type that nothing stored has.
    pub fn new(types: Vec<DataType>, prefix: usize) -> Result<Self, StateError> {
        if let Some(unknown) = types.iter().find(|data_type| !supported(data_type)) {
            return Err(StateError::Unsupported(unknown.to_string()));
        }
        Ok(Self { types, prefix })
    }

    /// Types of the columns.
    pub(crate) fn types(&self) -> &[DataType] {
        &self.types
    }

    /// Encodes `rows` rows.
    ///
    /// # Errors
    /// When the columns are not of the codec's types.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<Keys, StateError> {
        let mut keys = Keys {
            bytes: Vec::with_capacity(rows * 16),
            ends: Vec::with_capacity(rows),
        };
        self.encode_into(columns, rows, &mut keys)?;
        Ok(keys)
    }

    /// The same in the place of what `keys` holds.
    ///
    /// # Errors
    /// When the columns are not of the codec's types.
    pub(crate) fn encode_into(
        &self,
        columns: &[ArrayRef],
        rows: usize,
        keys: &mut Keys,
    ) -> Result<(), StateError> {
        if columns.len() != self.types.len() || columns.iter().any(|column| column.len() != rows) {
            return Err(StateError::Unsupported("rows of another shape".into()));
        }
        let columns = columns
            .iter()
            .map(Column::of)
            .collect::<Result<Vec<_>, _>>()?;
        keys.bytes.clear();
        keys.ends.clear();
        let (head, tail) = columns
            .split_at_checked(self.prefix)
            .unwrap_or((&columns, &[]));
        for row in 0..rows {
            head.iter()
                .for_each(|column| column.put(row, &mut keys.bytes));
            let prefix = keys.bytes.len();
            tail.iter()
                .for_each(|column| column.put(row, &mut keys.bytes));
            keys.ends.push((prefix, keys.bytes.len()));
        }
        Ok(())
    }

    /// The columns that encode to `rows`.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not what `encode` makes of rows of these types.
    pub fn decode<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, StateError> {
        decode::decode(&self.types, rows)
            .map_err(|reason| StateError::corrupt("an encoded key", reason))
    }
}

fn supported(data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(..)
        | DataType::Utf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_)
        | DataType::Date32
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Interval(IntervalUnit::MonthDayNano) => true,
        DataType::List(item) => supported(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| supported(field.data_type())),
        _ => false,
    }
}

/// A column whose type has been looked at once.
struct Column<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Bool(&'a BooleanArray),
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    I128(&'a [i128]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    Interval(&'a [IntervalMonthDayNano]),
    Bytes(Bytes<'a>),
    Fixed(&'a FixedSizeBinaryArray),
    List(&'a ListArray, Box<Column<'a>>),
    Struct(Vec<Column<'a>>),
}

enum Bytes<'a> {
    Text(&'a arrow::array::StringArray),
    TextView(&'a arrow::array::StringViewArray),
    Binary(&'a arrow::array::BinaryArray),
    BinaryView(&'a arrow::array::BinaryViewArray),
}

impl<'a> Bytes<'a> {
    fn at(&self, row: usize) -> &'a [u8] {
        match self {
            Bytes::Text(array) => array.value(row).as_bytes(),
            Bytes::TextView(array) => array.value(row).as_bytes(),
            Bytes::Binary(array) => array.value(row),
            Bytes::BinaryView(array) => array.value(row),
        }
    }
}

impl<'a> Column<'a> {
    fn of(array: &'a ArrayRef) -> Result<Self, StateError> {
        let values = match array.data_type() {
            DataType::Boolean => Values::Bool(array.as_boolean()),
            DataType::Int8 => Values::I8(array.as_primitive::<Int8Type>().values()),
            DataType::Int16 => Values::I16(array.as_primitive::<Int16Type>().values()),
            DataType::Int32 => Values::I32(array.as_primitive::<Int32Type>().values()),
            DataType::Date32 => Values::I32(array.as_primitive::<Date32Type>().values()),
            DataType::UInt8 => Values::U8(array.as_primitive::<UInt8Type>().values()),
            DataType::UInt16 => Values::U16(array.as_primitive::<UInt16Type>().values()),
            DataType::UInt32 => Values::U32(array.as_primitive::<UInt32Type>().values()),
            DataType::UInt64 => Values::U64(array.as_primitive::<UInt64Type>().values()),
            DataType::Float32 => Values::F32(array.as_primitive::<Float32Type>().values()),
            DataType::Float64 => Values::F64(array.as_primitive::<Float64Type>().values()),
            DataType::Decimal128(..) => {
                Values::I128(array.as_primitive::<Decimal128Type>().values())
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Values::Interval(array.as_primitive::<IntervalMonthDayNanoType>().values())
            }
            DataType::Utf8 => Values::Bytes(Bytes::Text(array.as_string())),
            DataType::Utf8View => Values::Bytes(Bytes::TextView(array.as_string_view())),
            DataType::Binary => Values::Bytes(Bytes::Binary(array.as_binary())),
            DataType::BinaryView => Values::Bytes(Bytes::BinaryView(array.as_binary_view())),
            DataType::FixedSizeBinary(_) => Values::Fixed(array.as_fixed_size_binary()),
            DataType::List(_) => {
                let list = array.as_list();
                Values::List(list, Box::new(Column::of(list.values())?))
            }
            DataType::Struct(_) => {
                let fields: &StructArray = array.as_struct();
                let columns = fields.columns().iter().map(Column::of);
                Values::Struct(columns.collect::<Result<_, _>>()?)
            }
            other => {
                Values::I64(wide(array).ok_or_else(|| StateError::Unsupported(other.to_string()))?)
            }
        };
        Ok(Self {
            nulls: array.nulls(),
            values,
        })
    }

    fn put(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.push(NULL);
            return;
        }
        if let Values::I64(values) = &self.values {
            // Most keys are such numbers.
            let mut bytes = [VALUE; 9];
            bytes[1..].copy_from_slice(&ordered_i64(values[row]));
            out.extend_from_slice(&bytes);
            return;
        }
        out.push(VALUE);
        match &self.values {
            Values::Bool(array) => out.push(u8::from(array.value(row))),
            Values::I8(values) => out.push((values[row] as u8) ^ 0x80),
            Values::I16(values) => {
                out.extend_from_slice(&((values[row] as u16) ^ 1 << 15).to_be_bytes());
            }
            Values::I32(values) => out.extend_from_slice(&ordered_i32(values[row])),
            Values::I64(values) => out.extend_from_slice(&ordered_i64(values[row])),
            Values::I128(values) => {
                out.extend_from_slice(&((values[row] as u128) ^ 1 << 127).to_be_bytes());
            }
            Values::U8(values) => out.push(values[row]),
            Values::U16(values) => out.extend_from_slice(&values[row].to_be_bytes()),
            Values::U32(values) => out.extend_from_slice(&values[row].to_be_bytes()),
            Values::U64(values) => out.extend_from_slice(&values[row].to_be_bytes()),
            Values::F32(values) => {
                let bits = values[row].to_bits();
                let flip = if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
                out.extend_from_slice(&(bits ^ flip).to_be_bytes());
            }
            Values::F64(values) => {
                let bits = values[row].to_bits();
                let flip = if bits >> 63 == 1 { u64::MAX } else { 1 << 63 };
                out.extend_from_slice(&(bits ^ flip).to_be_bytes());
            }
            Values::Interval(values) => {
                let value = values[row];
                out.extend_from_slice(&ordered_i32(value.months));
                out.extend_from_slice(&ordered_i32(value.days));
                out.extend_from_slice(&ordered_i64(value.nanoseconds));
            }
            Values::Bytes(bytes) => put_bytes(bytes.at(row), out),
            Values::Fixed(array) => out.extend_from_slice(array.value(row)),
            Values::List(list, items) => {
                let offsets = list.value_offsets();
                for item in offsets[row]..offsets[row + 1] {
                    out.push(VALUE);
                    items.put(item as usize, out);
                }
                out.push(END);
            }
            Values::Struct(columns) => columns.iter().for_each(|column| column.put(row, out)),
        }
    }
}

/// The numbers of a column that holds moments.
fn wide(array: &ArrayRef) -> Option<&[i64]> {
    Some(match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().values(),
        DataType::Time64(TimeUnit::Microsecond) => {
            array.as_primitive::<Time64MicrosecondType>().values()
        }
        DataType::Time64(TimeUnit::Nanosecond) => {
            array.as_primitive::<Time64NanosecondType>().values()
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            array.as_primitive::<TimestampSecondType>().values()
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().values()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().values()
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            array.as_primitive::<TimestampNanosecondType>().values()
        }
        _ => return None,
    })
}

fn ordered_i32(value: i32) -> [u8; 4] {
    ((value as u32) ^ 1 << 31).to_be_bytes()
}

fn ordered_i64(value: i64) -> [u8; 8] {
    ((value as u64) ^ 1 << 63).to_be_bytes()
}

fn put_bytes(mut bytes: &[u8], out: &mut Vec<u8>) {
    while let Some(zero) = bytes.iter().position(|byte| *byte == 0) {
        let (head, rest) = bytes.split_at(zero);
        out.extend_from_slice(head);
        out.extend_from_slice(&[0, ESCAPED]);
        bytes = &rest[1..];
    }
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[END, END]);
}

#[cfg(test)]
mod tests;
