//! Runs that somebody needs one by one: what is staged for outside systems waits in the runs of its checkpoint.
//!
//! Invariant: a run that is held keeps its file and its number, and so does every run after it, until it is let go.

use super::Runs;
use crate::codec::WeightedBatch;
use crate::compact;
use crate::error::StateError;
use crate::manifest::StatePart;
use crate::run::RunShape;

impl Runs {
    /// Reads some of a table's runs together: their net rows, in order.
    ///
    /// # Errors
    /// `Corrupt` when a run is not there any more, as for opening it, and what `take` reports.
    pub fn read_runs<E: From<StateError>>(
        &self,
        table: impl Into<StatePart>,
        numbers: &[u64],
        shape: &RunShape,
        mut take: impl FnMut(WeightedBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = table.into();
        let known = self.table(table)?.runs;
        let mut runs = Vec::new();
        for number in numbers {
            let Some(info) = known.iter().find(|run| run.number == *number) else {
                let name = format!("run {number} of table {table}");
                return Err(StateError::corrupt(name, "the manifest does not name it").into());
            };
            runs.push(self.inner.open_run(info, shape)?);
        }
        if let [run] = runs.as_slice() {
            return run.scan().try_for_each(|rows| take(rows?));
        }
        compact::merge(&runs, shape, || Ok(()), |picked| take(picked.into()))
    }

    /// Keeps merges away from a run of a table and all that come after it, as long as somebody needs them apart.
    pub fn hold(&self, table: impl Into<StatePart>, from: Option<u64>) {
        let table = table.into();
        let mut state = self.inner.state();
        match from {
            Some(number) => state.held.insert(table, number),
            None => state.held.remove(&table),
        };
    }
}
