//! The contract between a sink connector and the engine.
//!
//! Invariant: `write` may be called again with an epoch that was already written after a crash; a sink that cannot detect
//! this says so by being `at_least_once`.

use async_trait::async_trait;

use crate::delta::{Delta, EpochInfo};
use crate::error::ConnectorError;

/// An open sink. Calls come in epoch order from one task; a worker never waits for them.
#[async_trait]
pub trait Sink: Send {
    /// Delivers the net changes of one epoch.
    async fn write(&mut self, epoch: EpochInfo, changes: &[Delta]) -> Result<(), ConnectorError>;

    /// Rows delivered since it was opened, deletions included.
    fn rows_written(&self) -> u64;
}
