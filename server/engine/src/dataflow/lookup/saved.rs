//! What a lookup join remembers as a state table: rows of its input with the columns that they found.
//!
//! Invariant: columns are saved, never the bytes by which memory tells rows apart, which another version may write in another way.
//! Among equal rows of the input `turn` keeps the order in which they found what they did.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, BooleanArray, Int64Array, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use thalweg_connectors::{Delta, FoundRow};

use super::memory::{Found, Memory};
use super::{KeyedRows, Lookup};
use crate::chunk::compact_views;
use crate::dataflow::StepContext;
use crate::dataflow::linear::batch_of;
use crate::dataflow::signs::{weighted, without_columns};
use crate::dataflow::state::{Remembers, TakenState};
use crate::error::EngineError;

/// When more rows than these, and than there are, have changed since the last time, all rows are saved instead.
const UNSAVED_ROWS_MIN: usize = 65_536;

/// Rows that are written at once.
const ROWS_AT_ONCE: usize = 8_192;

/// What has changed since it was saved.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    changes: Vec<Delta>,
    rows: usize,
    bytes: usize,
}

impl Unsaved {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Columns of the input, those that are found, whether anything was, and the turn.
pub(super) fn schema(input: &SchemaRef, found: &SchemaRef) -> SchemaRef {
    let own = input.fields().iter().zip(0..);
    let own = own.map(|(field, at)| Field::new(format!("i{at}"), field.data_type().clone(), true));
    let found = found.fields().iter().zip(0..);
    let found =
        found.map(|(field, at)| Field::new(format!("f{at}"), field.data_type().clone(), true));
    let last = [
        Field::new("there", DataType::Boolean, false),
        Field::new("turn", DataType::Int64, false),
    ];
    Arc::new(Schema::new(
        own.chain(found).chain(last).collect::<Vec<_>>(),
    ))
}

/// Rows of the state table.
fn saved(
    table: &dyn KeyedRows,
    rows: &Delta,
    found: &[FoundRow],
    turns: Vec<i64>,
) -> Result<Delta, EngineError> {
    let present: Vec<&[u8]> = found.iter().flatten().map(AsRef::as_ref).collect();
    let decoded = table.decode(&present)?;
    let mut next = 0_u32;
    let places: UInt32Array = found
        .iter()
        .map(|row| {
            row.as_ref().map(|_| {
                next += 1;
                next - 1
            })
        })
        .collect();
    let mut columns = rows.batch.columns().to_vec();
    for column in decoded.columns() {
        columns.push(take(column.as_ref(), &places, None)?);
    }
    columns.push(Arc::new(BooleanArray::from_iter(
        found.iter().map(|row| Some(row.is_some())),
    )));
    columns.push(Arc::new(Int64Array::from(turns)));
    let schema = schema(&rows.batch.schema(), &decoded.schema());
    Ok(Delta {
        batch: compact_views(batch_of(&schema, columns, found.len())?)?,
        weights: rows.weights.clone(),
    })
}

impl Memory {
    /// Notes rows that come or go, with what they found.
    pub(super) fn note(
        &mut self,
        table: &dyn KeyedRows,
        rows: &Delta,
        found: &[FoundRow],
        turns: Vec<i64>,
    ) -> Result<(), EngineError> {
        let held = self.entries();
        let Some(unsaved) = &mut self.unsaved else {
            return Ok(());
        };
        unsaved.rows += rows.num_rows();
        if unsaved.rows > UNSAVED_ROWS_MIN.max(held) {
            self.unsaved = None;
            return Ok(());
        }
        let change = saved(table, rows, found, turns)?;
        unsaved.bytes += change.batch.get_array_memory_size();
        unsaved.changes.push(change);
        Ok(())
    }

    /// All of it.
    fn whole(&self, table: &dyn KeyedRows) -> Result<Vec<Delta>, EngineError> {
        let all: Vec<(&[u8], Found)> = self.each().collect();
        let mut out = Vec::new();
        for part in all.chunks(ROWS_AT_ONCE) {
            let batch = match self.codec().schema().fields().is_empty() {
                true => without_columns(self.codec().schema(), part.len())?,
                false => self.codec().decode(part.iter().map(|(bytes, _)| *bytes))?,
            };
            let counts = part.iter().map(|(_, found)| found.count).collect();
            let found: Vec<FoundRow> = part.iter().map(|(_, found)| found.row.clone()).collect();
            let turns = part.iter().map(|(_, found)| found.turn).collect();
            if let Some(rows) = weighted(batch, counts) {
                out.push(saved(table, &rows, &found, turns)?);
            }
        }
        Ok(out)
    }

    /// Takes rows of the state table back.
    fn take_back(&mut self, table: &dyn KeyedRows, rows: &Delta) -> Result<(), EngineError> {
        let damaged = || EngineError::internal("what a lookup join remembers has other columns");
        let columns = rows.batch.columns();
        let own = self.codec().schema().fields().len();
        let (own, rest) = columns.split_at_checked(own).ok_or_else(damaged)?;
        let (found, [there, turns]) = rest.split_last_chunk().ok_or_else(damaged)?;
        let bytes = self.row_bytes(own, rows.num_rows())?;
        let encoded = table.encode(found)?;
        let there = there.as_boolean_opt().ok_or_else(damaged)?;
        let turns = turns.as_primitive_opt::<Int64Type>().ok_or_else(damaged)?;
        for (row, (bytes, found)) in bytes.into_iter().zip(encoded).enumerate() {
            self.coming_back.entry(bytes).or_default().push(Found {
                row: there.value(row).then_some(found),
                count: rows.weights.at(row),
                turn: turns.value(row),
            });
        }
        Ok(())
    }
}

impl Lookup {
    /// False when its rows are never taken back.
    pub(in crate::dataflow) fn remembers(&self) -> bool {
        self.memory.is_some()
    }
}

impl Remembers for Lookup {
    fn state_tables(&self) -> Vec<SchemaRef> {
        self.state_schema.iter().cloned().collect()
    }

    fn is_tracking(&self) -> bool {
        let memory = self.memory.as_ref();
        memory.is_none_or(|memory| memory.unsaved.is_some())
    }

    fn take_changes(&mut self, whole: bool) -> Result<TakenState, EngineError> {
        let Some(memory) = &mut self.memory else {
            return Err(EngineError::internal("a lookup join remembers nothing"));
        };
        let unsaved = memory.unsaved.replace(Unsaved::default());
        let rows = match whole {
            true => memory.whole(self.table.as_ref())?,
            false => unsaved.unwrap_or_default().changes,
        };
        Ok(TakenState {
            tables: vec![rows],
            spilled: None,
        })
    }

    fn restore(
        &mut self,
        _cx: &StepContext<'_>,
        _table: usize,
        rows: &Delta,
    ) -> Result<(), EngineError> {
        match &mut self.memory {
            Some(memory) => memory.take_back(self.table.as_ref(), rows),
            None => Err(EngineError::internal("a lookup join remembers nothing")),
        }
    }

    fn restored(&mut self, _cx: &StepContext<'_>) -> Result<(), EngineError> {
        if let Some(memory) = &mut self.memory {
            for (bytes, mut list) in std::mem::take(&mut memory.coming_back) {
                list.sort_unstable_by_key(|found| found.turn);
                for found in list {
                    memory.remember(&bytes, found.row, found.count);
                }
            }
            memory.unsaved = Some(Unsaved::default());
        }
        Ok(())
    }
}
