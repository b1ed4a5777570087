//! The sink that counts its rows and drops them.
//!
//! Invariant: the count is the sum of absolute weights, so an update counts as two.

use async_trait::async_trait;

use crate::delta::{Delta, EpochInfo};
use crate::error::ConnectorError;
use crate::sink::Sink;

/// Counts and drops.
#[derive(Debug, Default)]
pub struct BlackholeSink {
    rows: u64,
}

/// Rows a set of changes stands for, deletions included.
pub(crate) fn row_count(changes: &[Delta]) -> u64 {
    changes
        .iter()
        .flat_map(|delta| (0..delta.num_rows()).map(|row| delta.weights.at(row).unsigned_abs()))
        .fold(0, u64::saturating_add)
}

#[async_trait]
impl Sink for BlackholeSink {
    async fn write(&mut self, _epoch: EpochInfo, changes: &[Delta]) -> Result<(), ConnectorError> {
        self.rows = self.rows.saturating_add(row_count(changes));
        Ok(())
    }

    fn rows_written(&self) -> u64 {
        self.rows
    }
}
