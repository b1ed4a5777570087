//! The inverse of the key encoding.
//!
//! Invariant: bytes that no row encodes to are an error that says what does not fit; nothing is read past the end of a row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BinaryViewBuilder, BooleanArray, FixedSizeBinaryBuilder, ListArray,
    StringArray, StringViewArray, StructArray, make_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields, IntervalMonthDayNano};

use super::{END, ESCAPED, NULL, VALUE};

/// Decodes rows into one array per type.
pub(super) fn decode<'a>(
    types: &[DataType],
    rows: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<ArrayRef>, String> {
    let mut columns: Vec<Filling> = types.iter().map(Filling::new).collect();
    for row in rows {
        let mut rest = row;
        for column in &mut columns {
            column.take(&mut rest)?;
        }
        if !rest.is_empty() {
            return Err("it has bytes too many".into());
        }
    }
    columns.into_iter().map(Filling::finish).collect()
}

/// A column being filled.
struct Filling {
    data_type: DataType,
    valid: Vec<bool>,
    values: Values,
}

enum Values {
    Bool(Vec<bool>),
    /// Native bytes of fixed width.
    Native(Vec<u8>),
    Bytes(Vec<Vec<u8>>),
    List {
        item: FieldRef,
        lengths: Vec<usize>,
        items: Box<Filling>,
    },
    Struct(Fields, Vec<Filling>),
}

impl Filling {
    fn new(data_type: &DataType) -> Self {
        let values = match data_type {
            DataType::Boolean => Values::Bool(Vec::new()),
            DataType::Utf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Values::Bytes(Vec::new()),
            DataType::List(item) => Values::List {
                item: Arc::clone(item),
                lengths: Vec::new(),
                items: Box::new(Filling::new(item.data_type())),
            },
            DataType::Struct(fields) => Values::Struct(
                fields.clone(),
                fields
                    .iter()
                    .map(|field| Filling::new(field.data_type()))
                    .collect(),
            ),
            _ => Values::Native(Vec::new()),
        };
        Self {
            data_type: data_type.clone(),
            valid: Vec::new(),
            values,
        }
    }

    fn take(&mut self, rest: &mut &[u8]) -> Result<(), String> {
        let valid = match first(rest)? {
            NULL => false,
            VALUE => true,
            _ => return Err("a value has an unknown mark".into()),
        };
        self.valid.push(valid);
        if !valid {
            self.pad();
            return Ok(());
        }
        match &mut self.values {
            Values::Bool(values) => values.push(match first(rest)? {
                0 => false,
                1 => true,
                _ => return Err("a boolean is neither true nor false".into()),
            }),
            Values::Native(bytes) => native(&self.data_type, rest, bytes)?,
            Values::Bytes(values) => values.push(match &self.data_type {
                DataType::FixedSizeBinary(width) => split(rest, *width as usize)?.to_vec(),
                _ => text(rest)?,
            }),
            Values::List { lengths, items, .. } => {
                let mut length = 0;
                loop {
                    match first(rest)? {
                        END => break,
                        VALUE => items.take(rest)?,
                        _ => return Err("a list has an unknown mark".into()),
                    }
                    length += 1;
                }
                lengths.push(length);
            }
            Values::Struct(_, columns) => {
                for column in columns {
                    column.take(rest)?;
                }
            }
        }
        Ok(())
    }

    /// Keeps the place of a NULL.
    fn pad(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.push(false),
            Values::Native(bytes) => bytes.extend(std::iter::repeat_n(0, width(&self.data_type))),
            Values::Bytes(values) => values.push(Vec::new()),
            Values::List { lengths, .. } => lengths.push(0),
            Values::Struct(_, columns) => {
                for column in columns {
                    column.valid.push(false);
                    column.pad();
                }
            }
        }
    }

    fn finish(self) -> Result<ArrayRef, String> {
        let rows = self.valid.len();
        let nulls = NullBuffer::from(self.valid.clone());
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        Ok(match self.values {
            Values::Bool(values) => Arc::new(BooleanArray::new(values.into(), nulls)),
            Values::Native(bytes) => {
                let data = arrow::array::ArrayData::builder(self.data_type)
                    .len(rows)
                    .nulls(nulls)
                    // Copied, so that it is aligned as its type wants it.
                    .add_buffer(Buffer::from_slice_ref(bytes))
                    .align_buffers(true)
                    .build()
                    .map_err(|error| error.to_string())?;
                make_array(data)
            }
            Values::Bytes(values) => bytes_array(&self.data_type, values, &self.valid)?,
            Values::List {
                item,
                lengths,
                items,
            } => {
                let offsets = OffsetBuffer::from_lengths(lengths);
                let list = ListArray::try_new(item, offsets, items.finish()?, nulls);
                Arc::new(list.map_err(|error| error.to_string())?)
            }
            Values::Struct(fields, columns) => {
                let columns = columns
                    .into_iter()
                    .map(Filling::finish)
                    .collect::<Result<Vec<_>, _>>()?;
                let array = StructArray::try_new_with_length(fields, columns, nulls, rows);
                Arc::new(array.map_err(|error| error.to_string())?)
            }
        })
    }
}

fn bytes_array(
    data_type: &DataType,
    values: Vec<Vec<u8>>,
    valid: &[bool],
) -> Result<ArrayRef, String> {
    let items = || {
        values
            .iter()
            .zip(valid)
            .map(|(value, valid)| valid.then_some(value.as_slice()))
    };
    let texts = || {
        items()
            .map(|value| value.map(std::str::from_utf8).transpose())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "a text is no UTF-8".to_owned())
    };
    Ok(match data_type {
        DataType::Utf8 => Arc::new(StringArray::from(texts()?)),
        DataType::Utf8View => Arc::new(StringViewArray::from(texts()?)),
        DataType::BinaryView => {
            let mut builder = BinaryViewBuilder::new();
            items().for_each(|value| builder.append_option(value));
            Arc::new(builder.finish())
        }
        DataType::FixedSizeBinary(width) => {
            let mut builder = FixedSizeBinaryBuilder::new(*width);
            for value in items() {
                match value {
                    Some(value) => builder
                        .append_value(value)
                        .map_err(|error| error.to_string())?,
                    None => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }
        _ => {
            let mut builder = BinaryBuilder::new();
            items().for_each(|value| builder.append_option(value));
            Arc::new(builder.finish())
        }
    })
}

/// Bytes a value takes in its array.
fn width(data_type: &DataType) -> usize {
    data_type.primitive_width().unwrap_or(0)
}

/// Turns one encoded number into the bytes its array holds.
fn native(data_type: &DataType, rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    match data_type {
        DataType::Interval(_) => {
            let months = signed::<4>(rest)? as i32;
            let days = signed::<4>(rest)? as i32;
            let nanoseconds = signed::<8>(rest)? as i64;
            // Written through the type itself, whose layout is Arrow's to know.
            let value = IntervalMonthDayNano::new(months, days, nanoseconds);
            out.extend_from_slice(Buffer::from_slice_ref([value]).as_slice());
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            let bytes = split(rest, width(data_type))?;
            out.extend(bytes.iter().rev());
        }
        DataType::Float32 => {
            let bits = unsigned::<4>(rest)? as u32;
            let flip = if bits >> 31 == 1 { 1 << 31 } else { u32::MAX };
            out.extend_from_slice(&(bits ^ flip).to_le_bytes());
        }
        DataType::Float64 => {
            let bits = unsigned::<8>(rest)? as u64;
            let flip = if bits >> 63 == 1 { 1 << 63 } else { u64::MAX };
            out.extend_from_slice(&(bits ^ flip).to_le_bytes());
        }
        _ => {
            let start = out.len();
            out.extend(split(rest, width(data_type))?.iter().rev());
            if let Some(sign) = out.get_mut(start..).and_then(<[u8]>::last_mut) {
                *sign ^= 0x80;
            }
        }
    }
    Ok(())
}

fn unsigned<const N: usize>(rest: &mut &[u8]) -> Result<u128, String> {
    let bytes = split(rest, N)?;
    Ok(bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u128::from(*byte)))
}

fn signed<const N: usize>(rest: &mut &[u8]) -> Result<i128, String> {
    Ok(unsigned::<N>(rest)? as i128 - (1_i128 << (8 * N - 1)))
}

fn text(rest: &mut &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    loop {
        match first(rest)? {
            0 => match first(rest)? {
                END => return Ok(out),
                ESCAPED => out.push(0),
                _ => return Err("a text has an unknown escape".into()),
            },
            byte => out.push(byte),
        }
    }
}

fn first(rest: &mut &[u8]) -> Result<u8, String> {
    let (byte, tail) = rest.split_first().ok_or("it ends too early")?;
    *rest = tail;
    Ok(*byte)
}

fn split<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (head, tail) = rest.split_at_checked(len).ok_or("it ends too early")?;
    *rest = tail;
    Ok(head)
}
