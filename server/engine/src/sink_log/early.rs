//! What the query of a sink gave before it came to an epoch: in runs that wait for the checkpoint that saves it there.
//!
//! Invariant: these runs and what the query changed at their epoch are staged as one entry, by the transaction that saves the job;
//! until then nothing of them is named anywhere, so a query that begins again begins with nothing.

use thalweg_connectors::Delta;
use thalweg_state::NewRun;

use super::SinkLog;
use crate::error::EngineError;
use crate::shared::Shared;

/// Runs of one beginning.
#[derive(Debug, Clone, Default)]
pub(crate) struct EarlyRuns {
    /// The first epoch that has their rows.
    pub(super) epoch: u64,
    pub(super) runs: Vec<NewRun>,
    pub(super) rows: usize,
    /// What the rows took in memory.
    pub(super) bytes: usize,
    /// Where the rows end among those of the sink.
    pub(super) order: i64,
}

impl SinkLog {
    /// Whether rows may be written before their epoch is known. With `resumed` the query goes on where it stood; otherwise what it
    /// gave before would have to be compared with them.
    pub(crate) fn takes_early(&self, resumed: bool) -> bool {
        let state = self.state.lock();
        let blank = state.saved.through == 0 && state.record.entries.is_empty();
        state.early.is_none() && (resumed || blank)
    }

    /// Writes some of them.
    pub(crate) fn write_early(
        &self,
        shared: &Shared,
        changes: &[Delta],
        early: &mut EarlyRuns,
    ) -> Result<(), EngineError> {
        if early.runs.is_empty() {
            early.order = self.state.lock().record.order;
        }
        let bytes = |delta: &Delta| delta.batch.get_array_memory_size();
        early.bytes += changes.iter().map(bytes).sum::<usize>();
        early.rows += changes.iter().map(Delta::num_rows).sum::<usize>();
        let changes = self.to_run(changes, &mut early.order)?;
        let runs = shared.checkpoints.runs.write(&self.shape, &changes)?;
        early.runs.extend(runs);
        Ok(())
    }

    /// Has the next checkpoint stage them; said before the epoch is known to anybody.
    pub(crate) fn hold_early(&self, epoch: u64, early: EarlyRuns) {
        if !early.runs.is_empty() {
            self.state.lock().early = Some(EarlyRuns { epoch, ..early });
        }
    }

    /// Gives them up: the query has gone back to where it was before.
    pub(crate) fn void_early(&self) {
        let gone = self.state.lock().early.take();
        drop(gone);
    }

    /// Those that belong to an entry through an epoch.
    pub(super) fn early_through(&self, through: u64) -> EarlyRuns {
        let state = self.state.lock();
        let early = state.early.as_ref().filter(|early| early.epoch <= through);
        early.cloned().unwrap_or_default()
    }
}
