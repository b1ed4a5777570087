//! The change set that flows through the engine: a record batch with a signed weight for each row.
//!
//! Invariant: `Weights::Each` holds exactly one weight per row; a row with weight w stands for |w| insertions (w > 0) or
//! deletions (w < 0) of that row. Update pairs exist only at source and sink edges (DBSP, Z-sets).

use arrow::buffer::ScalarBuffer;
use arrow::record_batch::RecordBatch;

/// Counts up by one; the unit of visibility, durability and replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

/// An epoch with its wall clock, which never goes back; `now()` reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochInfo {
    /// The epoch.
    pub epoch: Epoch,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// Signed multiplicities of a batch's rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Weights {
    /// Every row is inserted once.
    Ones,
    /// Every row has this weight.
    Constant(i64),
    /// One weight per row.
    Each(ScalarBuffer<i64>),
}

impl Weights {
    /// Weight of row `row`; `row` must be below the batch's row count.
    pub fn at(&self, row: usize) -> i64 {
        match self {
            Weights::Ones => 1,
            Weights::Constant(weight) => *weight,
            Weights::Each(weights) => weights.get(row).copied().unwrap_or(0),
        }
    }

    /// True when no row is deleted.
    pub fn all_positive(&self) -> bool {
        match self {
            Weights::Ones => true,
            Weights::Constant(weight) => *weight > 0,
            Weights::Each(weights) => weights.iter().all(|weight| *weight > 0),
        }
    }
}

/// Rows with weights: the only thing that flows.
#[derive(Debug, Clone)]
pub struct Delta {
    /// The rows.
    pub batch: RecordBatch,
    /// Their weights.
    pub weights: Weights,
}

impl Delta {
    /// All rows inserted once.
    pub fn insert(batch: RecordBatch) -> Self {
        Self {
            batch,
            weights: Weights::Ones,
        }
    }

    /// All rows deleted once.
    pub fn delete(batch: RecordBatch) -> Self {
        Self {
            batch,
            weights: Weights::Constant(-1),
        }
    }

    /// Number of distinct entries (not the sum of weights).
    pub fn num_rows(&self) -> usize {
        self.batch.num_rows()
    }
}
