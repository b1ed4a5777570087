//! Groups with aggregates; without aggregates, distinct rows.
//!
//! Invariant: a group is in the output exactly while it has rows, with the results over those rows. The one group of an
//! aggregation without keys is in the output from the first step on, rows or not.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use thalweg_connectors::{Delta, Weights};
use thalweg_planner::stream::StreamAggregate;
use thalweg_state::SpillFolder;

mod saved;
mod spilled;

use self::saved::Unsaved;
use super::accumulate::{Arguments, Call, Memory};
use super::compile::Compiler;
use super::keys::{EncodedKeys, KeyCodec, KeyTable, key_hash};
use super::linear::batch_of;
use super::on_disk::OnDisk;
use super::parallel::each_shard;
use super::signs::constant;
use super::{Operator, StateFigures, StepContext};
use crate::chunk::RowCodec;
use crate::error::EngineError;

/// An aggregation.
#[derive(Debug)]
pub(super) struct Aggregate {
    input: Operator,
    group: Vec<Arc<dyn PhysicalExpr>>,
    calls: Arc<[Call]>,
    layout: Arc<Layout>,
    shards: Vec<GroupTable>,
    /// What is saved is known, so that changes to it are followed.
    tracking: bool,
}

/// What all shards share.
#[derive(Debug)]
struct Layout {
    keys: KeyCodec,
    /// Compares results; `None` without aggregates.
    results: Option<RowCodec>,
    output: SchemaRef,
    /// Without keys there is one group, always.
    global: bool,
}

/// The rows of one delta, evaluated.
struct Evaluated {
    keys: EncodedKeys,
    arguments: Vec<Arguments>,
    weights: Weights,
    /// Rows of each shard.
    rows: Vec<Vec<u32>>,
}

impl Aggregate {
    pub(super) fn new(
        compiler: &Compiler,
        input: Operator,
        schema: &DFSchema,
        group: &[Expr],
        aggregates: &[StreamAggregate],
        output: SchemaRef,
    ) -> Result<Self, EngineError> {
        let group = group
            .iter()
            .map(|expr| compiler.expr(expr, schema))
            .collect::<Result<Vec<_>, _>>()?;
        let calls = aggregates
            .iter()
            .map(|aggregate| Call::new(compiler, schema, aggregate))
            .collect::<Result<Arc<[Call]>, _>>()?;
        let flow = super::compile::flow_schema(schema);
        let types = group
            .iter()
            .map(|expr| expr.data_type(&flow))
            .collect::<Result<Vec<DataType>, _>>()?;
        let keys = KeyCodec::new(&types)?;
        let fields = output.fields().iter().skip(group.len()).cloned();
        let result_schema = Arc::new(datafusion::arrow::datatypes::Schema::new(
            fields.collect::<Vec<_>>(),
        ));
        let layout = Arc::new(Layout {
            results: if calls.is_empty() {
                None
            } else {
                Some(RowCodec::new(result_schema)?)
            },
            output,
            global: group.is_empty(),
            keys,
        });
        let shards = (0..compiler.shards)
            .map(|_| GroupTable::new(&layout, &calls, compiler.folder()))
            .collect();
        Ok(Self {
            input,
            group,
            calls,
            layout,
            shards,
            tracking: false,
        })
    }

    pub(super) fn step(&mut self, cx: &StepContext<'_>) -> Result<Vec<Delta>, EngineError> {
        let changes = self.input.step(cx)?;
        let shards = self.shards.len();
        let inputs = changes
            .iter()
            .map(|delta| self.evaluate(cx, delta, shards))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = changes.iter().map(Delta::num_rows).sum();
        let (layout, tracking) = (self.layout.as_ref(), self.tracking);
        let out = each_shard(&mut self.shards, rows, |index, shard| {
            shard.tracking = tracking;
            // The group without keys lives in the first shard.
            let always = layout.global && index == 0;
            if always || inputs.iter().any(|input| !input.rows[index].is_empty()) {
                shard.step(cx, layout, &inputs, index)
            } else {
                Ok(Vec::new())
            }
        })?;
        self.bound_unsaved();
        Ok(out.into_iter().flatten().collect())
    }

    fn evaluate(
        &self,
        cx: &StepContext<'_>,
        delta: &Delta,
        shards: usize,
    ) -> Result<Evaluated, EngineError> {
        let columns = self
            .group
            .iter()
            .map(|expr| cx.evaluate(expr, delta))
            .collect::<Result<Vec<_>, _>>()?;
        let keys = self.layout.keys.encode(&columns)?;
        let arguments = self
            .calls
            .iter()
            .map(|call| call.evaluate(cx, delta))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = if self.layout.global {
            let mut rows = vec![Vec::new(); shards];
            rows[0] = (0..delta.num_rows() as u32).collect();
            rows
        } else {
            by_shard(&keys, 0..delta.num_rows() as u32, shards)
        };
        Ok(Evaluated {
            keys,
            arguments,
            weights: delta.weights.clone(),
            rows,
        })
    }

    pub(super) fn state(&self) -> StateFigures {
        let own = self.shards.iter().map(|shard| shard.state(&self.layout));
        own.fold(self.input.state(), StateFigures::plus)
    }
}

/// Rows by the shard of their key.
pub(super) fn by_shard(
    keys: &EncodedKeys,
    rows: impl Iterator<Item = u32>,
    shards: usize,
) -> Vec<Vec<u32>> {
    let mut out = vec![Vec::new(); shards];
    if let [all] = out.as_mut_slice() {
        all.extend(rows);
        return out;
    }
    for row in rows {
        // The table of a shard uses the low bits.
        let hash = key_hash(keys.bytes(row as usize)) >> 32;
        out[hash as usize % shards].push(row);
    }
    out
}

/// The groups of one shard.
#[derive(Debug)]
struct GroupTable {
    table: KeyTable,
    /// Net rows of each group.
    rows: Vec<i64>,
    memories: Vec<Memory>,
    touched: Vec<bool>,
    /// Whether the group without keys has been put out.
    started: bool,
    tracking: bool,
    /// What has changed since it was saved.
    unsaved: Unsaved,
    /// Groups that memory has no room for; `None` when there is nowhere to put them.
    disk: Option<OnDisk>,
}

impl GroupTable {
    fn new(layout: &Layout, calls: &[Call], folder: Option<&Arc<SpillFolder>>) -> Self {
        let mut table = Self {
            table: KeyTable::new(&layout.keys),
            rows: Vec::new(),
            memories: calls.iter().map(Call::memory).collect(),
            touched: Vec::new(),
            started: false,
            tracking: false,
            unsaved: Unsaved::default(),
            // The one group of an aggregation without keys stays.
            disk: folder.filter(|_| !layout.global).map(OnDisk::new),
        };
        if layout.global {
            table.table.insert(&[]);
            table.grow();
        }
        table
    }

    fn grow(&mut self) {
        let slots = self.table.slots();
        if self.rows.len() < slots {
            self.rows.resize(slots, 0);
            self.touched.resize(slots, false);
            self.unsaved.grow(slots);
            if let Some(disk) = &mut self.disk {
                disk.grow(slots);
            }
            self.memories
                .iter_mut()
                .for_each(|memory| memory.grow(slots));
        }
    }

    fn step(
        &mut self,
        cx: &StepContext<'_>,
        layout: &Layout,
        inputs: &[Evaluated],
        shard: usize,
    ) -> Result<Vec<Delta>, EngineError> {
        let keys = inputs.iter().flat_map(|input| {
            let rows = input.rows[shard].iter();
            rows.map(|row| input.keys.bytes(*row as usize))
        });
        self.fetch(layout, keys)?;
        let slots = inputs
            .iter()
            .map(|input| self.slots_of(&input.keys, &input.rows[shard]))
            .collect::<Result<Vec<_>, _>>()?;
        self.grow();
        let touched = self.touch(layout, &slots);
        self.keep_saved(layout, &touched)?;
        let before: Vec<u32> = self.present(layout, &touched);
        let old = self.results(cx, &before, false)?;
        for (input, slots) in inputs.iter().zip(&slots) {
            let rows = &input.rows[shard];
            for (row, slot) in rows.iter().zip(slots) {
                self.rows[*slot as usize] += input.weights.at(*row as usize);
            }
            for (memory, arguments) in self.memories.iter_mut().zip(&input.arguments) {
                memory.update(arguments, rows, slots, &input.weights);
            }
        }
        if touched.iter().any(|slot| self.rows[*slot as usize] < 0) {
            return Err(EngineError::internal(
                "more rows were taken from a group than it had",
            ));
        }
        self.started = true;
        let after: Vec<u32> = self.present(layout, &touched);
        for memory in &mut self.memories {
            memory.refresh(cx, &after)?;
        }
        let new = self.results(cx, &after, true)?;
        let out = self.changes(
            layout,
            &touched,
            Rows::new(layout, before, old)?,
            Rows::new(layout, after, new)?,
        )?;
        self.forget(layout, &touched)?;
        Ok(out)
    }

    /// Slots of the step, each once.
    fn touch(&mut self, layout: &Layout, slots: &[Vec<u32>]) -> Vec<u32> {
        let mut touched = Vec::new();
        if layout.global {
            touched.push(0);
            return touched;
        }
        for slot in slots.iter().flatten() {
            if !std::mem::replace(&mut self.touched[*slot as usize], true) {
                touched.push(*slot);
            }
        }
        for slot in &touched {
            self.touched[*slot as usize] = false;
        }
        if let Some(disk) = &mut self.disk {
            disk.touch(&touched);
        }
        touched
    }

    /// Those of the slots whose group is in the output.
    fn present(&self, layout: &Layout, slots: &[u32]) -> Vec<u32> {
        let present = |slot: &u32| {
            if layout.global {
                self.started
            } else {
                self.rows[*slot as usize] > 0
            }
        };
        slots.iter().copied().filter(present).collect()
    }

    fn results(
        &self,
        cx: &StepContext<'_>,
        slots: &[u32],
        report: bool,
    ) -> Result<Vec<ArrayRef>, EngineError> {
        self.memories
            .iter()
            .map(|memory| memory.results(cx, slots, report))
            .collect()
    }

    /// Rows that are out and rows that are in; a group with the same results as before is neither.
    fn changes(
        &self,
        layout: &Layout,
        touched: &[u32],
        old: Rows,
        new: Rows,
    ) -> Result<Vec<Delta>, EngineError> {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        // Both are in the order of `touched`.
        let (mut before, mut after) = (0, 0);
        for slot in touched {
            let was = old.slots.get(before) == Some(slot);
            let is = new.slots.get(after) == Some(slot);
            if !(was && is && old.equal(before, &new, after)) {
                gone.extend(was.then_some(before as u32));
                come.extend(is.then_some(after as u32));
            }
            before += usize::from(was);
            after += usize::from(is);
        }
        let mut out = Vec::with_capacity(2);
        for (rows, kept, weight) in [(old, gone, -1), (new, come, 1)] {
            if kept.is_empty() {
                continue;
            }
            let slots: Vec<u32> = kept.iter().map(|row| rows.slots[*row as usize]).collect();
            let mut columns = layout.keys.decode(&self.table, &slots)?;
            let kept_rows = UInt32Array::from(kept);
            for column in &rows.results {
                columns.push(take(column, &kept_rows, None)?);
            }
            out.push(Delta {
                batch: batch_of(&layout.output, columns, slots.len())?,
                weights: constant(weight),
            });
        }
        Ok(out)
    }

    /// Lets go of groups without rows.
    fn forget(&mut self, layout: &Layout, touched: &[u32]) -> Result<(), EngineError> {
        if layout.global {
            return Ok(());
        }
        let gone = touched.iter().copied();
        let gone: Vec<u32> = gone.filter(|slot| self.rows[*slot as usize] == 0).collect();
        self.keep_changes(layout, Some(&gone))?;
        for slot in gone {
            self.memories
                .iter_mut()
                .for_each(|memory| memory.clear(slot));
            if let Some(disk) = &mut self.disk {
                let mut bytes = [0; 16];
                disk.forget(slot, self.table.key(&layout.keys, slot, &mut bytes));
            }
            self.table.remove(slot);
        }
        if let Some(disk) = &mut self.disk {
            disk.tidy();
        }
        Ok(())
    }

    fn state(&self, layout: &Layout) -> StateFigures {
        let groups = if layout.global { 0 } else { self.table.len() };
        let values: usize = self.memories.iter().map(Memory::entries).sum();
        let disk = self.disk.as_ref();
        StateFigures {
            entries: groups + values + disk.map_or(0, |disk| disk.entries),
            bytes: self.table_bytes() + self.unsaved_bytes() + disk.map_or(0, OnDisk::bytes),
            spilled: disk.map_or(0, |disk| disk.files.disk_bytes()),
        }
    }

    /// Bytes of the groups that are in memory.
    fn table_bytes(&self) -> usize {
        let memories: usize = self.memories.iter().map(Memory::bytes).sum();
        let rows = self.rows.capacity() * size_of::<i64>() + self.touched.capacity();
        self.table.bytes() + memories + rows
    }
}

/// Results of some groups.
struct Rows {
    slots: Vec<u32>,
    results: Vec<ArrayRef>,
    encoded: Option<datafusion::arrow::row::Rows>,
}

impl Rows {
    fn new(layout: &Layout, slots: Vec<u32>, results: Vec<ArrayRef>) -> Result<Self, EngineError> {
        let encoded = match &layout.results {
            Some(codec) => {
                let batch = batch_of(&codec.schema, results.clone(), slots.len())?;
                Some(codec.encode(batch.columns())?)
            }
            None => None,
        };
        Ok(Self {
            slots,
            results,
            encoded,
        })
    }

    fn equal(&self, row: usize, other: &Rows, other_row: usize) -> bool {
        match (&self.encoded, &other.encoded) {
            (Some(own), Some(others)) => own.row(row).data() == others.row(other_row).data(),
            _ => true,
        }
    }
}
