//! One immutable piece of a relation: rows with weights, and the row hashes that later consolidations probe.
//!
//! Invariant: a chunk never changes; its hashes are a function of its rows alone and stay in memory.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use thalweg_connectors::{Delta, Weights};

/// Encodes the rows of one schema as comparable bytes.
#[derive(Debug)]
pub(crate) struct RowCodec {
    pub(crate) schema: SchemaRef,
    converter: RowConverter,
}

impl RowCodec {
    pub(crate) fn new(schema: SchemaRef) -> Result<Self, ArrowError> {
        let fields = schema
            .fields()
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        Ok(Self {
            converter: RowConverter::new(fields)?,
            schema,
        })
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(crate) fn encode(&self, columns: &[ArrayRef]) -> Result<Rows, ArrowError> {
        self.converter.convert_columns(columns)
    }

    /// Rows from bytes that this codec encoded.
    pub(crate) fn decode<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<RecordBatch, ArrowError> {
        let parser = self.converter.parser();
        let parsed: Vec<_> = rows.into_iter().map(|bytes| parser.parse(bytes)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(parsed.len()));
        let columns = self.converter.convert_rows(parsed)?;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

/// Rows with weights as they were added, or the merge of several of those.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) delta: Delta,
    pub(crate) positive: bool,
    pub(crate) bytes: usize,
    /// How often rows are taken away.
    pub(crate) removals: usize,
    hashes: OnceLock<Vec<u64>>,
}

impl Chunk {
    pub(crate) fn new(delta: Delta) -> Result<Self, ArrowError> {
        let batch = compact_views(delta.batch)?;
        let positive = delta.weights.all_positive();
        let bytes = batch.get_array_memory_size();
        let removals = match &delta.weights {
            _ if positive => 0,
            Weights::Each(weights) => weights
                .iter()
                .map(taken_away)
                .fold(0, usize::saturating_add),
            Weights::Constant(weight) => taken_away(weight).saturating_mul(batch.num_rows()),
            Weights::Ones => 0,
        };
        Ok(Self {
            delta: Delta {
                batch,
                weights: delta.weights,
            },
            positive,
            bytes,
            removals,
            hashes: OnceLock::new(),
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.delta.num_rows()
    }

    pub(crate) fn weight(&self, row: usize) -> i64 {
        self.delta.weights.at(row)
    }

    /// Sum of the weights.
    pub(crate) fn net(&self) -> i64 {
        match &self.delta.weights {
            Weights::Ones => self.rows() as i64,
            Weights::Constant(weight) => weight.saturating_mul(self.rows() as i64),
            Weights::Each(weights) => weights.iter().sum(),
        }
    }

    /// What the hashes take, once they have been needed.
    pub(crate) fn hash_bytes(&self) -> usize {
        let hashes = self.hashes.get();
        hashes.map_or(0, |hashes| hashes.capacity() * size_of::<u64>())
    }

    /// Hash of each row.
    pub(crate) fn hashes(&self, codec: &RowCodec) -> Result<&[u64], ArrowError> {
        if let Some(hashes) = self.hashes.get() {
            return Ok(hashes);
        }
        let rows = codec.encode(self.delta.batch.columns())?;
        let hashes = rows.iter().map(|row| hash(row.data())).collect();
        Ok(self.hashes.get_or_init(|| hashes))
    }
}

fn taken_away(weight: &i64) -> usize {
    usize::try_from(weight.saturating_neg()).unwrap_or(0)
}

/// Concatenates chunks of positive rows, keeping their weights.
pub(crate) fn concat(schema: &SchemaRef, chunks: &[&Chunk]) -> Result<Delta, ArrowError> {
    let batch = concat_batches(schema, chunks.iter().map(|chunk| &chunk.delta.batch))?;
    if chunks
        .iter()
        .all(|chunk| matches!(chunk.delta.weights, Weights::Ones))
    {
        return Ok(Delta::insert(batch));
    }
    let weights = chunks
        .iter()
        .flat_map(|chunk| (0..chunk.rows()).map(|row| chunk.weight(row)));
    Ok(Delta {
        batch,
        weights: Weights::Each(weights.collect()),
    })
}

/// A fast hash of encoded rows; in memory only, so it may change between versions.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = K ^ bytes.len() as u64;
    let mut mix = |word: u64| {
        let product = u128::from(state ^ word).wrapping_mul(u128::from(K) << 1 | 1);
        state = (product as u64) ^ ((product >> 64) as u64);
    };
    words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
    let mut tail = [0_u8; 8];
    tail.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    mix(u64::from_le_bytes(tail));
    mix(K);
    state
}

/// Copies view columns that pin much larger buffers than they use, so that one short string does not keep a fetch buffer.
pub(crate) fn compact_views(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    const SLACK: usize = 64 * 1024;
    let mut columns = None;
    for (index, column) in batch.columns().iter().enumerate() {
        let (held, used, compacted): (usize, usize, ArrayRef) = match column.data_type() {
            DataType::Utf8View => {
                let views = column.as_string_view();
                let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
                if held <= SLACK {
                    continue;
                }
                (held, views.total_buffer_bytes_used(), Arc::new(views.gc()))
            }
            DataType::BinaryView => {
                let views = column.as_binary_view();
                let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
                if held <= SLACK {
                    continue;
                }
                (held, views.total_buffer_bytes_used(), Arc::new(views.gc()))
            }
            _ => continue,
        };
        if held > 2 * used + SLACK {
            columns.get_or_insert_with(|| batch.columns().to_vec())[index] = compacted;
        }
    }
    match columns {
        Some(columns) => RecordBatch::try_new(batch.schema(), columns),
        None => Ok(batch),
    }
}
