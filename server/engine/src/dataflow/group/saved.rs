//! Groups as rows of state tables: one table for the groups, and one for each function that remembers values.
//!
//! Invariant: a group has one row, which is taken back as it was saved when the group first changes and is written again, as it is
//! by then, when changes are taken. Values count by weight, so their changes are just added up.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use thalweg_connectors::{Delta, Weights};

use super::{Aggregate, GroupTable, Layout, by_shard};
use crate::dataflow::accumulate::Memory;
use crate::dataflow::linear::batch_of;
use crate::dataflow::state::{Remembers, TakenState};
use crate::dataflow::values::{SlotValues, ValueSets};
use crate::dataflow::{Operator, StepContext};
use crate::error::EngineError;

/// Rows of a batch of saved state.
const BATCH_ROWS: usize = 65_536;

/// What has changed in a table of groups since it was saved.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    /// Slots whose group has changed; a slot keeps its mark when it goes to another group.
    dirty: Vec<bool>,
    slots: Vec<u32>,
    /// Changed groups as they were saved, on their way out, and those that were let go of since, as they became.
    before: Vec<Delta>,
    /// Changes of values that are not told by slot any more, by function that remembers values.
    values: Vec<Vec<Delta>>,
    /// Bytes of these rows.
    bytes: usize,
}

/// Where more than this, and than the groups themselves, has changed since the last time, all groups are saved instead.
const UNSAVED_BYTES_MIN: usize = 64 << 20;

impl Unsaved {
    pub(super) fn grow(&mut self, slots: usize) {
        self.dirty.resize(slots, false);
    }

    pub(super) fn is_marked(&self, slot: u32) -> bool {
        self.dirty.get(slot as usize).is_some_and(|dirty| *dirty)
    }

    pub(super) fn add_before(&mut self, rows: Delta) {
        self.bytes += rows.batch.get_array_memory_size();
        self.before.push(rows);
    }

    /// Goes on with other slots, none of which has changed.
    pub(super) fn renew(&mut self, slots: usize) {
        self.slots.clear();
        self.dirty = vec![false; slots];
    }
}

impl GroupTable {
    /// Keeps touched groups as they were saved, when that has not been done before.
    pub(super) fn keep_saved(
        &mut self,
        layout: &Layout,
        touched: &[u32],
    ) -> Result<(), EngineError> {
        if !self.tracking {
            return Ok(());
        }
        let dirty = &mut self.unsaved.dirty;
        let fresh = touched.iter().copied();
        let fresh: Vec<u32> = fresh
            .filter(|slot| !std::mem::replace(&mut dirty[*slot as usize], true))
            .collect();
        let saved = self.present(layout, &fresh);
        if let Some(rows) = self.group_rows(layout, &saved, Weights::Constant(-1))? {
            self.unsaved.add_before(rows);
        }
        self.unsaved.slots.extend(fresh);
        Ok(())
    }

    /// Keeps all changes in a form that does not need the slots any more.
    pub(super) fn settle(&mut self, layout: &Layout) -> Result<(), EngineError> {
        if !self.tracking {
            return Ok(());
        }
        self.keep_changes(layout, None)?;
        let changed = self.present(layout, &self.unsaved.slots);
        if let Some(rows) = self.group_rows(layout, &changed, Weights::Ones)? {
            self.unsaved.add_before(rows);
        }
        self.unsaved.renew(self.rows.len());
        Ok(())
    }

    /// Bytes of what has changed since it was saved.
    pub(super) fn unsaved_bytes(&self) -> usize {
        let unsaved = &self.unsaved;
        let sets = self.memories.iter().filter_map(Memory::values);
        let values: usize = sets.map(ValueSets::unsaved_bytes).sum();
        unsaved.bytes + unsaved.dirty.capacity() + unsaved.slots.capacity() * 4 + values
    }

    /// Moves the changes of the values of some slots, or of all, to where they do not need the slots any more.
    pub(super) fn keep_changes(
        &mut self,
        layout: &Layout,
        slots: Option<&[u32]>,
    ) -> Result<(), EngineError> {
        if !self.tracking || slots.is_some_and(<[u32]>::is_empty) {
            return Ok(());
        }
        let sets = self.memories.iter_mut().filter_map(Memory::values_mut);
        let taken = sets.map(|sets| sets.take_changes(slots));
        let taken = taken.collect::<Result<Vec<_>, _>>()?;
        self.unsaved.values.resize_with(taken.len(), Vec::new);
        for (at, taken) in taken.into_iter().enumerate() {
            if let Some(rows) = self.value_rows(layout, taken)? {
                self.unsaved.bytes += rows.batch.get_array_memory_size();
                self.unsaved.values[at].push(rows);
            }
        }
        Ok(())
    }

    /// Groups as rows of their state table.
    pub(super) fn group_rows(
        &self,
        layout: &Layout,
        slots: &[u32],
        weights: Weights,
    ) -> Result<Option<Delta>, EngineError> {
        if slots.is_empty() {
            return Ok(None);
        }
        let mut columns = layout.keys.decode(&self.table, slots)?;
        let rows = slots.iter().map(|slot| self.rows[*slot as usize]);
        columns.push(Arc::new(Int64Array::from_iter_values(rows)));
        for memory in &self.memories {
            columns.extend(memory.state_columns(slots)?);
        }
        let batch = batch_of(&group_schema(layout, &self.memories), columns, slots.len())?;
        Ok(Some(Delta { batch, weights }))
    }

    pub(super) fn value_rows(
        &self,
        layout: &Layout,
        taken: SlotValues,
    ) -> Result<Option<Delta>, EngineError> {
        if taken.slots.is_empty() {
            return Ok(None);
        }
        let mut columns = layout.keys.decode(&self.table, &taken.slots)?;
        columns.extend(taken.values);
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        let batch = batch_of(&state_schema(types), columns, taken.slots.len())?;
        Ok(Some(Delta {
            batch,
            weights: Weights::Each(taken.weights.into()),
        }))
    }

    pub(super) fn slots_in_use(&self, layout: &Layout) -> Vec<u32> {
        let all: Vec<u32> = (0..self.table.slots() as u32).collect();
        self.present(layout, &all)
    }

    /// All of the state, or what has changed in it since it was taken before: groups, then values by function.
    fn take(&mut self, layout: &Layout, whole: bool) -> Result<Vec<Vec<Delta>>, EngineError> {
        let (mut groups, mut values, changed) = match whole {
            true => (Vec::new(), Vec::new(), self.slots_in_use(layout)),
            false => {
                self.keep_changes(layout, None)?;
                let unsaved = &mut self.unsaved;
                let changed = std::mem::take(&mut unsaved.slots);
                (
                    std::mem::take(&mut unsaved.before),
                    std::mem::take(&mut unsaved.values),
                    self.present(layout, &changed),
                )
            }
        };
        for slots in changed.chunks(BATCH_ROWS) {
            groups.extend(self.group_rows(layout, slots, Weights::Ones)?);
        }
        let sets = self.memories.iter().filter_map(Memory::values);
        values.resize_with(sets.clone().count(), Vec::new);
        for (sets, rows) in sets.zip(&mut values).filter(|_| whole) {
            for slots in changed.chunks(BATCH_ROWS) {
                rows.extend(self.value_rows(layout, sets.all(slots)?)?);
            }
        }
        self.track();
        let mut tables = vec![groups];
        tables.append(&mut values);
        Ok(tables)
    }

    /// Follows changes from here on.
    pub(super) fn track(&mut self) {
        self.tracking = true;
        self.unsaved = Unsaved::default();
        self.unsaved.grow(self.rows.len());
        let sets = self.memories.iter_mut().filter_map(Memory::values_mut);
        sets.for_each(ValueSets::track);
    }

    /// Forgets what has changed: next time everything is saved.
    fn lose_track(&mut self) {
        self.tracking = false;
        self.unsaved = Unsaved::default();
        self.unsaved.grow(self.rows.len());
        let sets = self.memories.iter_mut().filter_map(Memory::values_mut);
        sets.for_each(ValueSets::lose_track);
    }

    fn reserve(&mut self, groups: usize) {
        self.table.reserve(groups);
        self.rows.reserve(groups);
        self.touched.reserve(groups);
    }

    fn restore_groups(&mut self, keys: &[&[u8]], columns: &[ArrayRef]) -> Result<(), EngineError> {
        let slots: Vec<u32> = keys.iter().map(|key| self.table.insert(key)).collect();
        self.grow();
        self.started = true;
        let Some((rows, mut columns)) = columns.split_first() else {
            return Err(EngineError::internal("a saved group has no rows"));
        };
        for (slot, rows) in slots.iter().zip(rows.as_primitive::<Int64Type>().values()) {
            self.rows[*slot as usize] = *rows;
        }
        for memory in &mut self.memories {
            let (own, rest) = columns
                .split_at_checked(memory.state_types().len())
                .ok_or_else(|| EngineError::internal("a saved group has other columns"))?;
            memory.restore(&slots, own)?;
            columns = rest;
        }
        Ok(())
    }

    fn restore_values(
        &mut self,
        layout: &Layout,
        function: usize,
        keys: &[&[u8]],
        values: &[ArrayRef],
        weights: &[i64],
    ) -> Result<(), EngineError> {
        self.fetch(layout, keys.iter().copied())?;
        let slot = |key: &&[u8]| {
            let slot = self.table.find(key);
            slot.ok_or_else(|| EngineError::internal("a saved value has no group"))
        };
        let slots = keys.iter().map(slot).collect::<Result<Vec<u32>, _>>()?;
        let mut sets = self.memories.iter_mut().filter_map(Memory::values_mut);
        if let Some(sets) = sets.nth(function) {
            sets.restore(&slots, values, |row| weights[row])?;
        }
        Ok(())
    }

    fn restored(&mut self, cx: &StepContext<'_>, layout: &Layout) -> Result<(), EngineError> {
        let slots = self.slots_in_use(layout);
        for memory in &mut self.memories {
            memory.refresh(cx, &slots)?;
        }
        self.track();
        Ok(())
    }
}

impl Aggregate {
    pub(in crate::dataflow) fn input_mut(&mut self) -> &mut Operator {
        &mut self.input
    }

    /// Saves everything next time, rather than keep more changes than there are groups.
    pub(super) fn bound_unsaved(&mut self) {
        let (mut unsaved, mut all) = (0, 0);
        for shard in &self.shards {
            unsaved += shard.unsaved_bytes();
            let state = shard.state(&self.layout);
            all += state.bytes + usize::try_from(state.spilled).unwrap_or(usize::MAX / 2);
        }
        if unsaved > UNSAVED_BYTES_MIN.max(all) {
            self.tracking = false;
            self.shards.iter_mut().for_each(GroupTable::lose_track);
        }
    }
}

impl Remembers for Aggregate {
    fn state_tables(&self) -> Vec<SchemaRef> {
        let memories: Vec<Memory> = self.calls.iter().map(|call| call.memory()).collect();
        let mut tables = vec![group_schema(&self.layout, &memories)];
        for types in self.calls.iter().filter_map(|call| call.value_types()) {
            let keys = self.layout.keys.types().into_iter();
            tables.push(state_schema(keys.chain(types.iter().cloned()).collect()));
        }
        tables
    }

    fn is_tracking(&self) -> bool {
        self.tracking
    }

    fn take_changes(&mut self, whole: bool) -> Result<TakenState, EngineError> {
        if whole && let Some(spilled) = self.snapshot()? {
            self.shards.iter_mut().for_each(GroupTable::track);
            self.tracking = true;
            let tables = vec![Vec::new(); self.state_tables().len()];
            return Ok(TakenState {
                tables,
                spilled: Some(spilled),
            });
        }
        let mut tables: Vec<Vec<Delta>> = Vec::new();
        for shard in &mut self.shards {
            let taken = shard.take(&self.layout, whole)?;
            tables.resize_with(taken.len(), Vec::new);
            for (table, rows) in tables.iter_mut().zip(taken) {
                table.extend(rows);
            }
        }
        self.tracking = true;
        Ok(TakenState {
            tables,
            spilled: None,
        })
    }

    fn expect(&mut self, table: usize, rows: usize) {
        if table == 0 && !self.layout.global {
            let each = rows.div_ceil(self.shards.len().max(1));
            self.shards.iter_mut().for_each(|shard| shard.reserve(each));
        }
    }

    fn restore(
        &mut self,
        _cx: &StepContext<'_>,
        table: usize,
        rows: &Delta,
    ) -> Result<(), EngineError> {
        let key_columns = self.layout.keys.types().len();
        let (keys, rest) = rows
            .batch
            .columns()
            .split_at_checked(key_columns)
            .ok_or_else(|| EngineError::internal("saved state has other columns"))?;
        let keys = self.layout.keys.encode(keys)?;
        let all = 0..rows.num_rows() as u32;
        let by_shard = match self.layout.global {
            true => vec![all.collect()],
            false => by_shard(&keys, all, self.shards.len()),
        };
        for (shard, taken) in self.shards.iter_mut().zip(by_shard) {
            let keys: Vec<&[u8]> = taken.iter().map(|row| keys.bytes(*row as usize)).collect();
            let weights: Vec<i64> = taken
                .iter()
                .map(|row| rows.weights.at(*row as usize))
                .collect();
            let taken = UInt32Array::from(taken);
            let columns = rest
                .iter()
                .map(|column| datafusion::arrow::compute::take(column, &taken, None))
                .collect::<Result<Vec<_>, _>>()?;
            match table.checked_sub(1) {
                _ if keys.is_empty() => {}
                None => shard.restore_groups(&keys, &columns)?,
                Some(function) => {
                    shard.restore_values(&self.layout, function, &keys, &columns, &weights)?
                }
            }
        }
        Ok(())
    }

    fn restored(&mut self, cx: &StepContext<'_>) -> Result<(), EngineError> {
        for shard in &mut self.shards {
            shard.restored(cx, &self.layout)?;
        }
        self.tracking = true;
        Ok(())
    }
}

fn group_schema(layout: &Layout, memories: &[Memory]) -> SchemaRef {
    let own = memories.iter().flat_map(Memory::state_types);
    let types = layout.keys.types().into_iter();
    state_schema(types.chain([DataType::Int64]).chain(own).collect())
}

fn state_schema(types: Vec<DataType>) -> SchemaRef {
    let fields = types.into_iter().enumerate();
    let fields = fields.map(|(at, ty)| Field::new(format!("c{at}"), ty, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
