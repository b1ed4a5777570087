//! Runs: immutable files that hold what changed in a state table, sorted.
//!
//! Invariant: a run's rows are sorted by (bucket, key, the other columns), each row once with a weight other than zero. Every byte
//! that is decoded was covered by a checksum that matched: each batch by one in the footer, the footer by the one in the
//! manifest. A run is a plain Arrow IPC file, whose last column is the weight.

mod read;
mod sort;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::codec::{Cursor, Multiplicity, WeightedBatch};
use crate::error::StateError;
use crate::hash::bucket;
use crate::key::{KeyCodec, Keys};

pub use read::{Run, RunRows};
pub(crate) use sort::sorted;
pub(crate) use write::{Picked, RowPicker, RunWriter, overflow};

/// Rows of a batch in a run; a reader holds one batch at a time.
pub(crate) const BATCH_ROWS: usize = 8192;

/// A batch ends when it has about this many bytes, however few rows that is.
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// Bytes of a key that the index keeps; longer ones are rounded.
const INDEX_KEY_BYTES: usize = 128;

const RUN_FORMAT: u8 = 1;
const RUN_KEY: &str = "thalweg.run";
const WEIGHT: &str = "_weight";

/// What a state table's rows look like, and which columns are its key.
#[derive(Debug, Clone)]
pub struct RunShape {
    schema: SchemaRef,
    /// Key columns first, then the others.
    order: Vec<usize>,
    codec: KeyCodec,
    file_schema: SchemaRef,
}

impl RunShape {
    /// A shape; without key columns the whole row is the key.
    ///
    /// # Errors
    /// `Unsupported` for a column that cannot be stored.
    pub fn new(schema: SchemaRef, key: &[usize]) -> Result<Self, StateError> {
        let all = 0..schema.fields().len();
        let mut order: Vec<usize> = key.iter().copied().filter(|at| all.contains(at)).collect();
        let prefix = if order.is_empty() {
            all.len()
        } else {
            order.len()
        };
        order.extend(all.filter(|at| !key.contains(at)));
        let types = order
            .iter()
            .filter_map(|at| schema.fields().get(*at))
            .map(|field| field.data_type().clone())
            .collect();
        let mut fields: Vec<FieldRef> = schema.fields().iter().map(file_field).collect();
        fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
        Ok(Self {
            order,
            codec: KeyCodec::new(types, prefix)?,
            file_schema: Arc::new(Schema::new(fields)),
            schema,
        })
    }

    /// A shape whose rows are in the order of `key` alone, in one bucket: what is read from the beginning to the end only.
    ///
    /// # Errors
    /// `Unsupported` for a column that cannot be stored.
    pub fn in_order(schema: SchemaRef, key: &[usize]) -> Result<Self, StateError> {
        let shape = Self::new(schema, key)?;
        let types = shape.codec.types().to_vec();
        Ok(Self {
            codec: KeyCodec::new(types, 0)?,
            ..shape
        })
    }

    /// The rows' schema.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(crate) fn keys(&self, batch: &RecordBatch) -> Result<Keys, StateError> {
        let mut keys = Keys::default();
        self.keys_into(batch, &mut keys)?;
        Ok(keys)
    }

    /// The same in the place of what `keys` holds.
    pub(crate) fn keys_into(&self, batch: &RecordBatch, keys: &mut Keys) -> Result<(), StateError> {
        let columns = self.order.iter().filter_map(|at| batch.columns().get(*at));
        let columns: Vec<ArrayRef> = columns.map(Arc::clone).collect();
        self.codec.encode_into(&columns, batch.num_rows(), keys)
    }

    /// A batch in the form of the file.
    fn to_file(&self, batch: &RecordBatch, weights: Vec<i64>) -> Result<RecordBatch, StateError> {
        let mut columns = batch
            .columns()
            .iter()
            .zip(self.file_schema.fields())
            .map(|(column, field)| converted(column, field.data_type()))
            .collect::<Result<Vec<_>, _>>()?;
        columns.push(Arc::new(Int64Array::from(weights)));
        Ok(RecordBatch::try_new(
            Arc::clone(&self.file_schema),
            columns,
        )?)
    }

    /// A batch of a file in the form of the table.
    fn of_file(&self, batch: &RecordBatch) -> Result<WeightedBatch, String> {
        let (weights, columns) = batch.columns().split_last().ok_or("it has no columns")?;
        let weights = weights
            .as_any()
            .downcast_ref::<Int64Array>()
            .filter(|weights| weights.nulls().is_none())
            .ok_or("its rows have no weights")?;
        if columns.len() != self.schema.fields().len() {
            return Err("it has another number of columns than its table".into());
        }
        let columns = columns
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| converted(column, field.data_type()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.schema(), columns, &options)
            .map_err(|error| error.to_string())?;
        let weights = if weights.values().iter().all(|weight| *weight == 1) {
            Multiplicity::Constant(1)
        } else {
            Multiplicity::Each(weights.values().to_vec())
        };
        Ok(WeightedBatch {
            batch: rows,
            weights,
        })
    }
}

fn converted(
    column: &ArrayRef,
    data_type: &DataType,
) -> Result<ArrayRef, arrow::error::ArrowError> {
    if column.data_type() == data_type {
        Ok(Arc::clone(column))
    } else {
        cast(column, data_type)
    }
}

/// Views pay in memory only: in files text and bytes stand one after the other.
fn file_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(file_field(item)),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(file_field).collect::<Fields>())
        }
        other => other.clone(),
    };
    let field = field.as_ref().clone().with_data_type(data_type);
    Arc::new(field.with_nullable(true))
}

/// A run as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    /// Its number, which makes the name of its file.
    pub number: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Where the footer begins.
    pub(crate) tail: u64,
    /// Checksum of the file from there on.
    pub(crate) tail_crc: u32,
    /// Rows.
    pub rows: u64,
    /// Sum of their weights.
    pub net: i64,
    /// How many merges it is away from a checkpoint.
    pub level: u8,
    /// First and last bucket in it.
    pub buckets: (u8, u8),
}

/// Where a run's file is.
pub(crate) fn run_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.run"))
}

/// The number of the run that a file name stands for.
pub(crate) fn run_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".run")?;
    if digits.len() != 16 {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// What the footer says about one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IndexEntry {
    offset: u64,
    bytes: u32,
    crc: u32,
    rows: u32,
    first: Place,
    last: Place,
}

/// A place in the order of a run: at most the first row's for a beginning, at least the last row's for an end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    bucket: u8,
    key: Vec<u8>,
}

impl Place {
    fn at_most(bucket: u8, key: &[u8]) -> Self {
        let end = key.len().min(INDEX_KEY_BYTES);
        let key = key.get(..end).unwrap_or_default().to_vec();
        Self { bucket, key }
    }

    fn at_least(bucket: u8, key: &[u8]) -> Self {
        let mut place = Self::at_most(bucket, key);
        if key.len() > INDEX_KEY_BYTES {
            // The next larger bytes of that length; there are some, because keys begin with a small byte.
            while place.key.last() == Some(&u8::MAX) {
                place.key.pop();
            }
            if let Some(last) = place.key.last_mut() {
                *last += 1;
            }
        }
        place
    }
}

/// The index in the footer.
fn index_text(entries: &[IndexEntry]) -> String {
    let mut bytes = vec![RUN_FORMAT, crate::hash::HASH_VERSION];
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for entry in entries {
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.bytes.to_le_bytes());
        bytes.extend_from_slice(&entry.crc.to_le_bytes());
        bytes.extend_from_slice(&entry.rows.to_le_bytes());
        for place in [&entry.first, &entry.last] {
            bytes.push(place.bucket);
            bytes.push(place.key.len() as u8);
            bytes.extend_from_slice(&place.key);
        }
    }
    // Arrow keeps texts, not bytes.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| {
        DIGITS
            .get(usize::from(half))
            .map_or('0', |d| char::from(*d))
    };
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn read_index(text: &str) -> Result<Vec<IndexEntry>, String> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .ok_or("its index has other than digits")
    };
    let bytes = text
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Ok((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => Err("its index ends too early"),
        })
        .collect::<Result<Vec<u8>, _>>()?;
    let mut cursor = Cursor::new(&bytes);
    if (cursor.u8()?, cursor.u8()?) != (RUN_FORMAT, crate::hash::HASH_VERSION) {
        return Err("it has an unknown format".into());
    }
    let count = cursor.u32()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let (offset, bytes) = (cursor.u64()?, cursor.u32()?);
        let (crc, rows) = (cursor.u32()?, cursor.u32()?);
        let mut place = || -> Result<Place, String> {
            let bucket = cursor.u8()?;
            let length = usize::from(cursor.u8()?);
            let key = cursor.take(length)?.to_vec();
            Ok(Place { bucket, key })
        };
        let (first, last) = (place()?, place()?);
        entries.push(IndexEntry {
            offset,
            bytes,
            crc,
            rows,
            first,
            last,
        });
    }
    cursor.end()?;
    Ok(entries)
}

/// Where a row belongs: its bucket and its bytes.
pub(crate) fn place_of(keys: &Keys, row: usize) -> (u8, &[u8]) {
    (bucket(keys.prefix(row)), keys.row(row))
}

#[cfg(test)]
mod tests;
