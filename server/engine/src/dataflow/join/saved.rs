//! The inputs of a join as state tables: their rows, by weight.
//!
//! Invariant: what follows from the rows, such as how many partners each has, is not saved but found again.

use datafusion::arrow::datatypes::SchemaRef;
use thalweg_connectors::Delta;

use super::{Change, Join, LEFT, RIGHT, Side};
use crate::chunk::compact_views;
use crate::dataflow::signs::{is_added, taken};
use crate::dataflow::state::{Remembers, TakenState};
use crate::dataflow::{Operator, StepContext};
use crate::error::EngineError;

/// When more rows than these, and than there are, have changed since the last time, all rows are saved instead.
const UNSAVED_ROWS_MIN: usize = 65_536;

/// What has changed in the inputs since they were saved.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    sides: [Vec<Delta>; 2],
    rows: usize,
    pub(super) bytes: usize,
}

impl Join {
    pub(in crate::dataflow) fn inputs_mut(&mut self) -> &mut [Operator; 2] {
        &mut self.inputs
    }

    /// Notes a change that the state takes in.
    pub(super) fn note(&mut self, side: Side, changes: &[Change]) -> Result<(), EngineError> {
        let Some(unsaved) = &mut self.unsaved else {
            return Ok(());
        };
        for change in changes {
            let mut rows: Vec<u32> = change.rows.iter().flatten().copied().collect();
            let kept = match rows.len() == change.delta.num_rows() {
                true => Some(change.delta.clone()),
                false => {
                    rows.sort_unstable();
                    taken(&change.delta, &rows)?
                }
            };
            if let Some(Delta { batch, weights }) = kept {
                unsaved.rows += batch.num_rows();
                let batch = compact_views(batch)?;
                unsaved.bytes += batch.get_array_memory_size();
                unsaved.sides[side].push(Delta { batch, weights });
            }
        }
        let held: usize = self.shards.iter().flatten().map(|side| side.rows()).sum();
        if unsaved.rows > UNSAVED_ROWS_MIN.max(held) {
            self.unsaved = None;
        }
        Ok(())
    }
}

fn in_memory(tables: Vec<Vec<Delta>>) -> TakenState {
    TakenState {
        tables,
        spilled: None,
    }
}

impl Remembers for Join {
    fn state_tables(&self) -> Vec<SchemaRef> {
        self.spec.inputs.to_vec()
    }

    fn is_tracking(&self) -> bool {
        self.unsaved.is_some()
    }

    fn take_changes(&mut self, whole: bool) -> Result<TakenState, EngineError> {
        let unsaved = self.unsaved.replace(Unsaved::default()).unwrap_or_default();
        if !whole {
            return Ok(in_memory(unsaved.sides.into()));
        }
        if let Some(rows) = self.snapshot()? {
            return Ok(TakenState {
                tables: vec![Vec::new(), Vec::new()],
                spilled: Some(rows),
            });
        }
        let mut tables = vec![Vec::new(), Vec::new()];
        for shard in &self.shards {
            for (side, table) in [LEFT, RIGHT].into_iter().zip(&mut tables) {
                table.extend(shard[side].content(&self.spec.inputs[side])?);
            }
        }
        Ok(in_memory(tables))
    }

    fn restore(
        &mut self,
        cx: &StepContext<'_>,
        table: usize,
        rows: &Delta,
    ) -> Result<(), EngineError> {
        debug_assert!(is_added(rows), "saved rows are there");
        let side = if table == LEFT { LEFT } else { RIGHT };
        // Rows without partners are put out, and not kept: there are none among the saved ones.
        let changes = self.evaluate(cx, side, vec![rows.clone()], &mut Vec::new())?;
        self.take_in(side, &changes, true)?;
        Ok(())
    }

    fn restored(&mut self, _cx: &StepContext<'_>) -> Result<(), EngineError> {
        self.unsaved = Some(Unsaved::default());
        Ok(())
    }
}
