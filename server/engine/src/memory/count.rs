//! Adds up what data takes in memory.
//!
//! Invariant: of a buffer that is shared, by versions, slices or projections, the bytes are counted once, and all of them: who holds
//! a part of it holds all of it.

use std::collections::HashSet;

use datafusion::arrow::array::{Array, ArrayData, ArrayRef};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::record_batch::RecordBatch;
use std::sync::Arc;
use thalweg_connectors::{Delta, Weights};

use crate::chunk::Chunk;

/// What an allocation of its own costs beside its bytes.
const ALLOCATION: usize = 16;

/// Bytes that a value takes which has been allocated for itself.
pub(crate) fn heap_bytes(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else {
        bytes.next_multiple_of(8) + ALLOCATION
    }
}

/// What has been counted, and what it came to.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    seen: HashSet<usize>,
    bytes: usize,
}

impl Counted {
    /// The bytes counted since this was called before.
    pub(crate) fn take(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }

    pub(crate) fn delta(&mut self, delta: &Delta) {
        self.batch(&delta.batch);
        if let Weights::Each(weights) = &delta.weights {
            self.buffer(weights.inner());
        }
    }

    pub(crate) fn chunk(&mut self, chunk: &Arc<Chunk>) {
        if self.seen.insert(Arc::as_ptr(chunk) as usize) {
            self.delta(&chunk.delta);
            self.bytes += chunk.hash_bytes();
        }
    }

    pub(crate) fn batch(&mut self, batch: &RecordBatch) {
        batch.columns().iter().for_each(|column| self.array(column));
    }

    fn array(&mut self, array: &ArrayRef) {
        if self.seen.insert(Arc::as_ptr(array) as *const () as usize) {
            self.data(&array.to_data());
        }
    }

    fn data(&mut self, data: &ArrayData) {
        data.buffers().iter().for_each(|buffer| self.buffer(buffer));
        if let Some(nulls) = data.nulls() {
            self.buffer(nulls.buffer());
        }
        data.child_data().iter().for_each(|child| self.data(child));
    }

    fn buffer(&mut self, buffer: &Buffer) {
        if self.seen.insert(buffer.data_ptr().as_ptr() as usize) {
            self.bytes += buffer.capacity();
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn what_is_shared_is_counted_once() {
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("t", DataType::Utf8View, true),
        ]);
        let texts =
            StringViewArray::from_iter_values((0..1_000).map(|n| format!("text number {n:020}")));
        let numbers: Int64Array = (0..1_000).map(Some).collect();
        let batch =
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(numbers), Arc::new(texts)])
                .expect("two columns");
        let mut counted = Counted::default();
        counted.batch(&batch);
        let all = counted.take();
        assert!(all >= 1_000 * (8 + 16 + 32), "{all}");
        counted.batch(&batch.slice(10, 20));
        counted.batch(&batch.project(&[1]).expect("one column"));
        assert_eq!(counted.take(), 0);
        let delta = Delta {
            batch,
            weights: Weights::Each(vec![2; 1_000].into()),
        };
        let chunk = Arc::new(Chunk::new(delta.clone()).expect("a chunk"));
        counted.delta(&delta);
        assert!((8_000..9_000).contains(&counted.take()));
        counted.chunk(&chunk);
        assert_eq!(counted.take(), 0);
    }
}
