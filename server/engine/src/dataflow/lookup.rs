//! Joins each row with the row of an outside table that its key names, as that table is when the row comes.
//!
//! Invariant: what a row found is decided once, when it comes; when it goes, exactly that is taken back, whatever the table holds
//! by then, and whether the server was restarted in between. Found rows are remembered only while their rows may still go; when all
//! rows have gone, nothing is remembered.

mod memory;
mod saved;

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, UInt32Array, new_null_array};
use datafusion::arrow::compute::{concat, take};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, FoundRow};

use self::memory::{Memory, NetRow};
use super::linear::batch_of;
use super::signs::{is_added, take_rows, taken, weighted};
use super::{Operator, StateFigures, StepContext};
use crate::error::EngineError;

/// A table that rows are found in by their keys.
pub(crate) trait KeyedRows: Debug + Send + Sync {
    /// The row of each key. Waits as long as it takes; fails when nobody wants the result any more.
    fn find(&self, keys: &[ArrayRef]) -> Result<Vec<FoundRow>, EngineError>;

    /// Columns of found rows.
    fn decode(&self, rows: &[&[u8]]) -> Result<RecordBatch, EngineError>;

    /// Found rows of their columns: the opposite.
    fn encode(&self, columns: &[ArrayRef]) -> Result<Vec<Arc<[u8]>>, EngineError>;
}

/// Where lookups find their tables.
pub(crate) trait OutsideTables: Send + Sync {
    /// Lookups of these columns of a table, at least one.
    fn open(&self, oid: Oid, wanted: &[usize]) -> Result<Arc<dyn KeyedRows>, EngineError>;
}

/// What a lookup is made of.
#[derive(Debug)]
pub(super) struct LookupSpec {
    /// Over the input, in the order of the table's key.
    pub(super) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Over the pair.
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
    /// Rows that find nothing come out as well.
    pub(super) outer: bool,
    pub(super) pair: SchemaRef,
    pub(super) output: SchemaRef,
    /// For each column of the table, its place among those that are found; the others are NULL.
    pub(super) places: Vec<Option<usize>>,
}

/// A lookup join.
#[derive(Debug)]
pub(super) struct Lookup {
    input: Operator,
    spec: LookupSpec,
    table: Arc<dyn KeyedRows>,
    /// `None` when rows are never taken back.
    memory: Option<Memory>,
    /// Of what is remembered.
    state_schema: Option<SchemaRef>,
}

impl Lookup {
    /// With `memory` for an input of this schema, whose rows may go again.
    pub(super) fn new(
        input: Operator,
        spec: LookupSpec,
        table: Arc<dyn KeyedRows>,
        memory: Option<SchemaRef>,
    ) -> Result<Self, EngineError> {
        let found = table.decode(&[])?.schema();
        Ok(Self {
            input,
            spec,
            table,
            state_schema: memory.as_ref().map(|input| saved::schema(input, &found)),
            memory: memory.map(Memory::new).transpose()?,
        })
    }

    /// Rows of all deltas are looked up together: the outside table is asked once a step, however many sources there are.
    pub(super) fn step(&mut self, cx: &StepContext<'_>) -> Result<Vec<Delta>, EngineError> {
        let input = self.input.step(cx)?;
        let (spec, table) = (&self.spec, self.table.as_ref());
        let mut out = Vec::new();
        let Some(memory) = &mut self.memory else {
            if !input.iter().all(is_added) {
                return Err(EngineError::internal(
                    "a row was taken from a lookup whose input only grows",
                ));
            }
            let found = spec.find(cx, table, &input)?;
            for (delta, found) in input.iter().zip(&found) {
                out.extend(spec.joined(table, delta, found)?);
            }
            return Ok(out);
        };
        let net = memory.net(&input)?;
        let (mut come, mut coming) = (Vec::new(), Vec::new());
        for of_delta in net.chunk_by(|one, next| one.delta == next.delta) {
            let Some(delta) = of_delta.first().and_then(|one| input.get(one.delta)) else {
                continue;
            };
            out.extend(gone(spec, table, memory, delta, of_delta)?);
            let changes: Vec<&NetRow> = of_delta.iter().filter(|one| one.weight > 0).collect();
            let rows: Vec<u32> = changes.iter().map(|change| change.row).collect();
            let weights = changes.iter().map(|change| change.weight).collect();
            if let Some(rows) = weighted(take_rows(&delta.batch, &rows)?, weights) {
                come.push(rows);
                coming.push(changes);
            }
        }
        let found = spec.find(cx, table, &come)?;
        for ((rows, changes), found) in come.iter().zip(coming).zip(&found) {
            let turns = changes.iter().zip(found).map(|(change, row)| {
                memory.remember(&change.row_bytes, row.clone(), change.weight)
            });
            let turns = turns.collect();
            memory.note(table, rows, found, turns)?;
            out.extend(spec.joined(table, rows, found)?);
        }
        Ok(out)
    }

    pub(super) fn input_mut(&mut self) -> &mut Operator {
        &mut self.input
    }

    pub(super) fn state(&self) -> StateFigures {
        let own = self.memory.as_ref().map(Memory::figures);
        self.input.state().plus(own.unwrap_or_default())
    }
}

/// What rows that go had found.
fn gone(
    spec: &LookupSpec,
    table: &dyn KeyedRows,
    memory: &mut Memory,
    delta: &Delta,
    changes: &[NetRow],
) -> Result<Option<Delta>, EngineError> {
    let (mut rows, mut weights) = (Vec::new(), Vec::new());
    let (mut found, mut turns) = (Vec::new(), Vec::new());
    for change in changes.iter().filter(|change| change.weight < 0) {
        for gone in memory.forget(&change.row_bytes, -change.weight)? {
            rows.push(change.row);
            weights.push(-gone.count);
            found.push(gone.row);
            turns.push(gone.turn);
        }
    }
    let Some(gone) = weighted(take_rows(&delta.batch, &rows)?, weights) else {
        return Ok(None);
    };
    memory.note(table, &gone, &found, turns)?;
    spec.joined(table, &gone, &found)
}

impl LookupSpec {
    /// What each row of each delta, which come, finds.
    fn find(
        &self,
        cx: &StepContext<'_>,
        table: &dyn KeyedRows,
        deltas: &[Delta],
    ) -> Result<Vec<Vec<FoundRow>>, EngineError> {
        if deltas.is_empty() {
            return Ok(Vec::new());
        }
        let mut keys = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let parts = deltas.iter().map(|delta| cx.evaluate(key, delta));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            keys.push(concat(&parts)?);
        }
        let found = table.find(&keys)?;
        if found.len() != deltas.iter().map(Delta::num_rows).sum::<usize>() {
            return Err(EngineError::internal("a lookup answered other rows"));
        }
        let mut rest = found.into_iter();
        let each = deltas.iter().map(|delta| {
            let found = rest.by_ref().take(delta.num_rows()).collect();
            self.matching(cx, table, delta, found)
        });
        each.collect()
    }

    /// Of what rows have found, that which the condition of the join takes.
    fn matching(
        &self,
        cx: &StepContext<'_>,
        table: &dyn KeyedRows,
        delta: &Delta,
        mut found: Vec<FoundRow>,
    ) -> Result<Vec<FoundRow>, EngineError> {
        let Some(filter) = &self.filter else {
            return Ok(found);
        };
        let rows: Vec<u32> = (0_u32..)
            .zip(&found)
            .filter(|(_, row)| row.is_some())
            .map(|(at, _)| at)
            .collect();
        let Some(matched) = taken(delta, &rows)? else {
            return Ok(found);
        };
        let present: Vec<FoundRow> = found.iter().filter(|row| row.is_some()).cloned().collect();
        let columns = self.columns(table, &matched, &present)?;
        let pair = Delta {
            batch: batch_of(&self.pair, columns, matched.num_rows())?,
            weights: matched.weights,
        };
        let accepted = cx.evaluate(filter, &pair)?;
        let accepted = accepted.as_boolean();
        for (index, row) in rows.into_iter().enumerate() {
            if !(accepted.is_valid(index) && accepted.value(index))
                && let Some(place) = found.get_mut(row as usize)
            {
                *place = None;
            }
        }
        Ok(found)
    }

    /// The output of rows that found this.
    fn joined(
        &self,
        table: &dyn KeyedRows,
        delta: &Delta,
        found: &[FoundRow],
    ) -> Result<Option<Delta>, EngineError> {
        let rows: Vec<u32> = (0_u32..)
            .zip(found)
            .filter(|(_, row)| self.outer || row.is_some())
            .map(|(at, _)| at)
            .collect();
        let Some(kept) = taken(delta, &rows)? else {
            return Ok(None);
        };
        let found: Vec<FoundRow> = found
            .iter()
            .filter(|row| self.outer || row.is_some())
            .cloned()
            .collect();
        let columns = self.columns(table, &kept, &found)?;
        Ok(Some(Delta {
            batch: batch_of(&self.output, columns, kept.num_rows())?,
            weights: kept.weights,
        }))
    }

    /// Columns of the input, then of the table.
    fn columns(
        &self,
        table: &dyn KeyedRows,
        delta: &Delta,
        found: &[FoundRow],
    ) -> Result<Vec<ArrayRef>, EngineError> {
        let present: Vec<&[u8]> = found.iter().flatten().map(AsRef::as_ref).collect();
        let decoded = table.decode(&present)?;
        let mut next = 0_u32;
        let place = |row: &FoundRow| {
            row.as_ref().map(|_| {
                next += 1;
                next - 1
            })
        };
        let rows: UInt32Array = found.iter().map(place).collect();
        let mut columns = delta.batch.columns().to_vec();
        let width = columns.len();
        for (column, place) in self.places.iter().enumerate() {
            let source = place.and_then(|place| decoded.columns().get(place));
            columns.push(match source {
                Some(values) => take(values.as_ref(), &rows, None)?,
                None => {
                    let field = self.pair.fields().get(width + column);
                    let ty = field.ok_or_else(|| EngineError::internal("a column too many"))?;
                    new_null_array(ty.data_type(), found.len())
                }
            });
        }
        Ok(columns)
    }
}
