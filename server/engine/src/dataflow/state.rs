//! The state of a dataflow as tables of rows: what has changed in them, and the way back.
//!
//! Invariant: the rows of the state tables determine the state. What is taken is everything, or what changed since it was taken
//! before; sums of what was taken, from everything on, are the tables' content at the last time.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use thalweg_connectors::Delta;

use super::{Dataflow, Operator, StepContext};
use crate::checkpoint::StateChanges;
use crate::chunk::{Chunk, concat};
use crate::compute_errors::ComputeErrors;
use crate::error::EngineError;

/// Rows that are taken back in at once when groups are on disk.
const RESTORED_AT_ONCE: usize = 262_144;

/// What a row that will be taken back in needs at least; there may be no memory for all of them.
const EXPECTED_ROW_BYTES: usize = 64;

/// Rows of a state table that are about to be taken back in.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    table: usize,
    rows: usize,
    deltas: Vec<Delta>,
}

/// An operator that remembers something.
pub(super) trait Remembers {
    /// Its state tables; rows are told apart by all of their columns, and how often one is there is its weight.
    fn state_tables(&self) -> Vec<SchemaRef>;

    /// False when it does not know what has changed.
    fn is_tracking(&self) -> bool;

    /// Everything when `whole`, else what has changed since the last time, by state table.
    fn take_changes(&mut self, whole: bool) -> Result<TakenState, EngineError>;

    /// About so many rows of a state table will be taken back in.
    fn expect(&mut self, _table: usize, _rows: usize) {}

    /// Takes rows of a state table back in. Tables come in their order.
    fn restore(
        &mut self,
        cx: &StepContext<'_>,
        table: usize,
        rows: &Delta,
    ) -> Result<(), EngineError>;

    /// Everything is back.
    fn restored(&mut self, cx: &StepContext<'_>) -> Result<(), EngineError>;
}

/// What was taken of an operator's state tables.
pub(super) struct TakenState {
    /// Rows by table.
    pub(super) tables: Vec<Vec<Delta>>,
    /// More rows of these tables, on disk; only of all of the state.
    pub(super) spilled: Option<Arc<dyn SpilledRows>>,
}

/// Rows of an operator's state tables that are on disk.
pub(crate) trait SpilledRows: Debug + Send + Sync {
    /// Calls `take` with the rows of one of the tables, some at a time.
    fn each(
        &self,
        table: usize,
        take: &mut dyn FnMut(Delta) -> Result<(), EngineError>,
    ) -> Result<(), EngineError>;
}

/// Such rows of some of a dataflow's state tables.
#[derive(Debug, Clone)]
pub(crate) struct SpilledTables {
    /// The first of the tables.
    first: usize,
    tables: usize,
    rows: Arc<dyn SpilledRows>,
}

impl SpilledTables {
    /// Calls `take` with the rows of one of the dataflow's state tables, some at a time.
    pub(crate) fn each(
        &self,
        table: usize,
        take: &mut dyn FnMut(Delta) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        match table.checked_sub(self.first) {
            Some(own) if own < self.tables => self.rows.each(own, take),
            _ => Ok(()),
        }
    }
}

type Visit<'a> = dyn FnMut(&mut dyn Remembers) -> Result<(), EngineError> + 'a;

impl Operator {
    /// Operators with state, inputs first.
    fn each(&mut self, visit: &mut Visit<'_>) -> Result<(), EngineError> {
        match self {
            Operator::Scan { .. } => Ok(()),
            Operator::Lookup(lookup) => {
                lookup.input_mut().each(visit)?;
                match lookup.remembers() {
                    true => visit(lookup.as_mut()),
                    false => Ok(()),
                }
            }
            Operator::Filter { input, .. }
            | Operator::Project { input, .. }
            | Operator::Unnest { input, .. } => input.each(visit),
            Operator::Union { inputs, .. } => {
                inputs.iter_mut().try_for_each(|input| input.each(visit))
            }
            Operator::Aggregate(aggregate) => {
                aggregate.input_mut().each(visit)?;
                visit(aggregate.as_mut())
            }
            Operator::Join(join) => {
                for input in join.inputs_mut() {
                    input.each(visit)?;
                }
                visit(join.as_mut())
            }
        }
    }
}

impl Dataflow {
    /// The state tables of all operators.
    pub(crate) fn state_tables(&mut self) -> Result<Vec<SchemaRef>, EngineError> {
        let mut tables = Vec::new();
        self.root.each(&mut |operator| {
            tables.extend(operator.state_tables());
            Ok(())
        })?;
        Ok(tables)
    }

    /// False when some operator does not know what has changed since its state was taken or read back.
    pub(crate) fn is_tracking(&mut self) -> Result<bool, EngineError> {
        let mut tracking = true;
        self.root.each(&mut |operator| {
            tracking &= operator.is_tracking();
            Ok(())
        })?;
        Ok(tracking)
    }

    /// What has changed in the state tables since this was called before; all of it the first time.
    pub(crate) fn take_changes(&mut self) -> Result<StateChanges, EngineError> {
        let whole = !self.is_tracking()?;
        let (mut tables, mut spilled) = (Vec::new(), Vec::new());
        self.root.each(&mut |operator| {
            let taken = operator.take_changes(whole)?;
            let first = tables.len();
            tables.extend(taken.tables);
            spilled.extend(taken.spilled.map(|rows| SpilledTables {
                first,
                tables: tables.len() - first,
                rows,
            }));
            Ok(())
        })?;
        Ok(StateChanges {
            whole,
            tables,
            spilled,
        })
    }

    /// About so many rows of one of the state tables will be taken back in.
    pub(crate) fn expect(&mut self, table: usize, rows: usize) -> Result<(), EngineError> {
        let rows = rows.min(self.most() / EXPECTED_ROW_BYTES);
        self.at_table(table, &mut |operator, own| {
            operator.expect(own, rows);
            Ok(())
        })
    }

    /// Takes rows of one of the state tables back in. Tables come in their order.
    pub(crate) fn restore(&mut self, table: usize, rows: &Delta) -> Result<(), EngineError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if !rows.weights.all_positive() {
            return Err(EngineError::internal(
                "saved state has rows less than not at all",
            ));
        }
        if self.root.state().spilled == 0 {
            self.put_back(table, rows)?;
            self.make_room(self.most());
            return Ok(());
        }
        // What belongs to these rows is on disk, anywhere: one pass over it is for as many of them as can be.
        if self.waiting.table != table {
            self.put_back_waiting()?;
        }
        self.waiting.table = table;
        self.waiting.rows += rows.num_rows();
        self.waiting.deltas.push(rows.clone());
        if self.waiting.rows >= RESTORED_AT_ONCE {
            self.put_back_waiting()?;
        }
        Ok(())
    }

    fn put_back_waiting(&mut self) -> Result<(), EngineError> {
        let waiting = std::mem::take(&mut self.waiting);
        let chunks = waiting.deltas.into_iter().map(Chunk::new);
        let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
        let Some(schema) = chunks.first().map(|chunk| chunk.delta.batch.schema()) else {
            return Ok(());
        };
        let rows = concat(&schema, &chunks.iter().collect::<Vec<_>>())?;
        drop(chunks);
        self.put_back(waiting.table, &rows)?;
        self.make_room(self.most());
        Ok(())
    }

    fn put_back(&mut self, table: usize, rows: &Delta) -> Result<(), EngineError> {
        quietly(|cx| self.at_table(table, &mut |operator, own| operator.restore(cx, own, rows)))
    }

    /// Calls `visit` with the operator that a state table is of, and the table's number there.
    fn at_table(
        &mut self,
        table: usize,
        visit: &mut dyn FnMut(&mut dyn Remembers, usize) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut first = 0;
        self.root.each(&mut |operator| {
            let tables = operator.state_tables().len();
            if (first..first + tables).contains(&table) {
                visit(operator, table - first)?;
            }
            first += tables;
            Ok(())
        })
    }

    /// Everything is back.
    pub(crate) fn restored(&mut self) -> Result<(), EngineError> {
        self.put_back_waiting()?;
        quietly(|cx| self.root.each(&mut |operator| operator.restored(cx)))
    }
}

/// What is computed again has been reported before.
pub(super) fn quietly<T>(
    run: impl FnOnce(&StepContext<'_>) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let (changes, errors) = (BTreeMap::new(), ComputeErrors::default());
    run(&StepContext {
        changes: &changes,
        errors: &errors,
        strict: false,
    })
}
