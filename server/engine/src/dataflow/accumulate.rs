//! What one aggregate function remembers of each group: constant state for counts, exact totals and truth values, the counted
//! values themselves for everything else.
//!
//! Invariant: memory depends on the net rows of a group alone, so taking a row away undoes adding it exactly.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Int64Array,
    new_empty_array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Int64Type, i256};
use datafusion::arrow::row::Rows;
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use thalweg_connectors::{Delta, Weights};
use thalweg_planner::ExactTotal;
use thalweg_planner::stream::{AggregateMemory, StreamAggregate};

use super::StepContext;
use super::compile::Compiler;
use super::on_disk::{number, part};
use super::values::{ValueCodec, ValueSets};
use crate::error::EngineError;

/// How sums are saved: as they are, whatever digits they have.
const NARROW: DataType = DataType::Decimal128(38, 0);
const WIDE: DataType = DataType::FixedSizeBinary(32);

/// One aggregate function: how its arguments are computed and how they are remembered.
#[derive(Debug)]
pub(super) struct Call {
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Count,
    Narrow(ExactTotal),
    Wide(ExactTotal),
    Truth { every: bool },
    Values(Arc<ValueCodec>),
}

/// The arguments of one call for the rows of one delta.
pub(super) struct Arguments {
    /// Rows that count; `None` when all do.
    taken: Option<BooleanBuffer>,
    values: Values,
}

enum Values {
    None,
    Exact(ArrayRef),
    Truth(BooleanArray),
    Rows(Rows),
}

impl Call {
    pub(super) fn new(
        compiler: &Compiler,
        input: &DFSchema,
        aggregate: &StreamAggregate,
    ) -> Result<Self, EngineError> {
        let Expr::AggregateFunction(call) = &aggregate.call else {
            return Err(EngineError::internal("an aggregate is not a call"));
        };
        let compile = |expr: &Expr| compiler.expr(expr, input);
        let arguments = call.params.args.iter().map(compile);
        let mut arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let filter = call.params.filter.as_deref().map(compile).transpose()?;
        let kind = match &aggregate.memory {
            AggregateMemory::Count => Kind::Count,
            AggregateMemory::Every => Kind::Truth { every: true },
            AggregateMemory::Some => Kind::Truth { every: false },
            AggregateMemory::Total(total) => {
                let schema = super::compile::flow_schema(input);
                let argument = arguments
                    .first()
                    .map(|a| a.data_type(&schema))
                    .transpose()?;
                match argument {
                    Some(DataType::Decimal128(..)) => Kind::Wide(total.clone()),
                    _ => Kind::Narrow(total.clone()),
                }
            }
            AggregateMemory::Smallest | AggregateMemory::Largest | AggregateMemory::Values => {
                let schema = super::compile::flow_schema(input);
                let codec = ValueCodec::new(call, &arguments, &schema)?;
                let codec = codec.for_memory(&aggregate.memory);
                if codec.is_ordered() {
                    let order = call.params.order_by.iter().map(|sort| compile(&sort.expr));
                    let mut order = order.collect::<Result<Vec<_>, _>>()?;
                    order.append(&mut arguments);
                    arguments = order;
                }
                Kind::Values(Arc::new(codec.with_order(call, &arguments, &schema)?))
            }
        };
        Ok(Self {
            arguments,
            filter,
            kind,
        })
    }

    pub(super) fn evaluate(
        &self,
        cx: &StepContext<'_>,
        delta: &Delta,
    ) -> Result<Arguments, EngineError> {
        let taken = match &self.filter {
            Some(filter) => {
                let mask = cx.evaluate(filter, delta)?;
                let mask = mask.as_boolean();
                Some(match mask.nulls() {
                    Some(nulls) => mask.values() & nulls.inner(),
                    None => mask.values().clone(),
                })
            }
            None => None,
        };
        let arguments = self
            .arguments
            .iter()
            .map(|expr| cx.evaluate(expr, delta))
            .collect::<Result<Vec<_>, _>>()?;
        let skips_null = match &self.kind {
            Kind::Values(codec) => codec.skips_null(),
            _ => true,
        };
        let taken = match arguments.last().and_then(|values| values.logical_nulls()) {
            Some(nulls) if skips_null && nulls.null_count() > 0 => Some(match taken {
                Some(taken) => &taken & nulls.inner(),
                None => nulls.inner().clone(),
            }),
            _ => taken,
        };
        let first = arguments.first();
        let values = match (&self.kind, first) {
            (Kind::Narrow(total) | Kind::Wide(total), Some(values)) => {
                Values::Exact(total.wide(values)?)
            }
            (Kind::Truth { .. }, Some(values)) => Values::Truth(values.as_boolean().clone()),
            (Kind::Values(codec), _) => Values::Rows(codec.encode(&arguments)?),
            _ => Values::None,
        };
        Ok(Arguments { taken, values })
    }

    /// Types of the values that are remembered one by one.
    pub(super) fn value_types(&self) -> Option<&[DataType]> {
        match &self.kind {
            Kind::Values(codec) => Some(codec.types()),
            _ => None,
        }
    }

    /// Empty memory.
    pub(super) fn memory(&self) -> Memory {
        match &self.kind {
            Kind::Count => Memory::Count(Vec::new()),
            Kind::Narrow(total) => Memory::Narrow {
                total: total.clone(),
                sums: Vec::new(),
                counts: Vec::new(),
            },
            Kind::Wide(total) => Memory::Wide {
                total: total.clone(),
                sums: Vec::new(),
                counts: Vec::new(),
            },
            Kind::Truth { every } => Memory::Truth {
                every: *every,
                yes: Vec::new(),
                no: Vec::new(),
            },
            Kind::Values(codec) => Memory::Values(ValueSets::new(Arc::clone(codec))),
        }
    }
}

/// What a call remembers, by slot of the group.
#[derive(Debug)]
pub(super) enum Memory {
    Count(Vec<i64>),
    Narrow {
        total: ExactTotal,
        sums: Vec<i128>,
        counts: Vec<i64>,
    },
    /// Decimals have up to 38 digits, so a few of them may leave 128 bits on the way to a sum that does not.
    Wide {
        total: ExactTotal,
        sums: Vec<i256>,
        counts: Vec<i64>,
    },
    Truth {
        every: bool,
        yes: Vec<i64>,
        no: Vec<i64>,
    },
    Values(ValueSets),
}

/// Calls `apply(slot, row, weight)` for the rows that count.
fn each(
    taken: Option<&BooleanBuffer>,
    rows: &[u32],
    slots: &[u32],
    weights: &Weights,
    mut apply: impl FnMut(usize, usize, i64),
) {
    for (row, slot) in rows.iter().zip(slots) {
        let row = *row as usize;
        if taken.is_none_or(|taken| taken.value(row)) {
            apply(*slot as usize, row, weights.at(row));
        }
    }
}

impl Memory {
    /// Makes room for slots below `slots`.
    pub(super) fn grow(&mut self, slots: usize) {
        match self {
            Memory::Count(counts) => counts.resize(slots, 0),
            Memory::Narrow { sums, counts, .. } => {
                sums.resize(slots, 0);
                counts.resize(slots, 0);
            }
            Memory::Wide { sums, counts, .. } => {
                sums.resize(slots, i256::ZERO);
                counts.resize(slots, 0);
            }
            Memory::Truth { yes, no, .. } => {
                yes.resize(slots, 0);
                no.resize(slots, 0);
            }
            Memory::Values(sets) => sets.grow(slots),
        }
    }

    /// Adds the arguments of `rows`, each to its slot.
    pub(super) fn update(
        &mut self,
        arguments: &Arguments,
        rows: &[u32],
        slots: &[u32],
        weights: &Weights,
    ) {
        let taken = arguments.taken.as_ref();
        match (self, &arguments.values) {
            (Memory::Count(counts), _) => each(taken, rows, slots, weights, |slot, _, weight| {
                counts[slot] += weight;
            }),
            (Memory::Narrow { sums, counts, .. }, Values::Exact(values)) => {
                let values = values.as_primitive::<Decimal128Type>().values();
                each(taken, rows, slots, weights, |slot, row, weight| {
                    sums[slot] += values[row] * i128::from(weight);
                    counts[slot] += weight;
                });
            }
            (Memory::Wide { sums, counts, .. }, Values::Exact(values)) => {
                let values = values.as_primitive::<Decimal128Type>().values();
                each(taken, rows, slots, weights, |slot, row, weight| {
                    let term =
                        i256::from_i128(values[row]).wrapping_mul(i256::from_i128(weight.into()));
                    sums[slot] = sums[slot].wrapping_add(term);
                    counts[slot] += weight;
                });
            }
            (Memory::Truth { yes, no, .. }, Values::Truth(values)) => {
                each(taken, rows, slots, weights, |slot, row, weight| {
                    let side = if values.value(row) {
                        &mut *yes
                    } else {
                        &mut *no
                    };
                    side[slot] += weight;
                });
            }
            (Memory::Values(sets), Values::Rows(values)) => {
                each(taken, rows, slots, weights, |slot, row, weight| {
                    sets.add(slot, values.row(row).data(), weight);
                });
            }
            _ => debug_assert!(false, "arguments are of the call they were computed for"),
        }
    }

    /// Results of some slots. Those of values are what they were at the last `refresh`; an error of another kind is reported only
    /// when `report` says so, for the result before a change has been reported before.
    pub(super) fn results(
        &self,
        cx: &StepContext<'_>,
        slots: &[u32],
        report: bool,
    ) -> Result<ArrayRef, EngineError> {
        let at = |slot: &u32| *slot as usize;
        let mut failed = |error| {
            if report { cx.failed(error) } else { Ok(()) }
        };
        Ok(match self {
            Memory::Count(counts) => Arc::new(Int64Array::from_iter_values(
                slots.iter().map(|slot| counts[at(slot)]),
            )),
            Memory::Narrow {
                total,
                sums,
                counts,
            } => {
                let totals = slots
                    .iter()
                    .map(|slot| (Some(sums[at(slot)]), counts[at(slot)]));
                total.results(totals, &mut failed)?
            }
            Memory::Wide {
                total,
                sums,
                counts,
            } => {
                let totals = slots
                    .iter()
                    .map(|slot| (sums[at(slot)].to_i128(), counts[at(slot)]));
                total.results(totals, &mut failed)?
            }
            Memory::Truth { every, yes, no } => {
                let result = |slot: &u32| match (yes[at(slot)] > 0, no[at(slot)] > 0) {
                    (false, false) => None,
                    (yes, no) => Some(if *every { !no } else { yes }),
                };
                Arc::new(slots.iter().map(result).collect::<BooleanArray>())
            }
            Memory::Values(sets) if slots.is_empty() => new_empty_array(sets.result_type()),
            Memory::Values(sets) => sets.results(slots)?,
        })
    }

    /// Computes the results of slots whose values have changed.
    pub(super) fn refresh(
        &mut self,
        cx: &StepContext<'_>,
        slots: &[u32],
    ) -> Result<(), EngineError> {
        match self {
            Memory::Values(sets) => sets.refresh(cx, slots),
            _ => Ok(()),
        }
    }

    /// Columns of a saved group, beside its key; the values of a group are saved apart.
    pub(super) fn state_types(&self) -> Vec<DataType> {
        match self {
            Memory::Count(_) => vec![DataType::Int64],
            Memory::Narrow { .. } => vec![NARROW, DataType::Int64],
            Memory::Wide { .. } => vec![WIDE, DataType::Int64],
            Memory::Truth { .. } => vec![DataType::Int64; 2],
            Memory::Values(_) => Vec::new(),
        }
    }

    /// What is saved of some slots.
    pub(super) fn state_columns(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, EngineError> {
        let longs = |numbers: &[i64]| -> ArrayRef {
            let numbers = slots.iter().map(|slot| numbers[*slot as usize]);
            Arc::new(Int64Array::from_iter_values(numbers))
        };
        Ok(match self {
            Memory::Count(counts) => vec![longs(counts)],
            Memory::Narrow { sums, counts, .. } => {
                let sums = slots.iter().map(|slot| sums[*slot as usize]);
                let sums = Decimal128Array::from_iter_values(sums).with_data_type(NARROW);
                vec![Arc::new(sums), longs(counts)]
            }
            Memory::Wide { sums, counts, .. } => {
                let sums = slots.iter().map(|slot| sums[*slot as usize].to_be_bytes());
                let sums = FixedSizeBinaryArray::try_from_iter(sums);
                let sums: ArrayRef = match slots {
                    [] => new_empty_array(&WIDE),
                    _ => Arc::new(sums?),
                };
                vec![sums, longs(counts)]
            }
            Memory::Truth { yes, no, .. } => vec![longs(yes), longs(no)],
            Memory::Values(_) => Vec::new(),
        })
    }

    /// Takes back in what was saved, each row into its slot.
    pub(super) fn restore(
        &mut self,
        slots: &[u32],
        columns: &[ArrayRef],
    ) -> Result<(), EngineError> {
        let place = |numbers: &mut [i64], column: &ArrayRef| {
            let saved = column.as_primitive::<Int64Type>().values();
            for (slot, number) in slots.iter().zip(saved) {
                numbers[*slot as usize] = *number;
            }
        };
        match (self, columns) {
            (Memory::Count(counts), [saved]) => place(counts, saved),
            (Memory::Narrow { sums, counts, .. }, [totals, numbers]) => {
                let totals = totals.as_primitive::<Decimal128Type>().values();
                for (slot, total) in slots.iter().zip(totals) {
                    sums[*slot as usize] = *total;
                }
                place(counts, numbers);
            }
            (Memory::Wide { sums, counts, .. }, [totals, numbers]) => {
                let totals = totals.as_fixed_size_binary();
                for (row, slot) in slots.iter().enumerate() {
                    let total = <[u8; 32]>::try_from(totals.value(row));
                    let total = total.map_err(EngineError::internal)?;
                    sums[*slot as usize] = i256::from_be_bytes(total);
                }
                place(counts, numbers);
            }
            (Memory::Truth { yes, no, .. }, [first, second]) => {
                place(yes, first);
                place(no, second);
            }
            (Memory::Values(_), []) => {}
            _ => return Err(EngineError::internal("a saved group has other columns")),
        }
        Ok(())
    }

    /// The values, when the results are computed from them.
    pub(super) fn values(&self) -> Option<&ValueSets> {
        match self {
            Memory::Values(sets) => Some(sets),
            _ => None,
        }
    }

    pub(super) fn values_mut(&mut self) -> Option<&mut ValueSets> {
        match self {
            Memory::Values(sets) => Some(sets),
            _ => None,
        }
    }

    /// Forgets a slot.
    pub(super) fn clear(&mut self, slot: u32) {
        let slot = slot as usize;
        match self {
            Memory::Count(counts) => counts[slot] = 0,
            Memory::Narrow { sums, counts, .. } => {
                sums[slot] = 0;
                counts[slot] = 0;
            }
            Memory::Wide { sums, counts, .. } => {
                sums[slot] = i256::ZERO;
                counts[slot] = 0;
            }
            Memory::Truth { yes, no, .. } => {
                yes[slot] = 0;
                no[slot] = 0;
            }
            Memory::Values(sets) => sets.clear(slot),
        }
    }

    /// Keeps some slots, which are numbered in their order from here on.
    pub(super) fn keep(&mut self, slots: &[u32]) {
        fn keep<T: Copy>(values: &mut Vec<T>, slots: &[u32]) {
            *values = slots.iter().map(|slot| values[*slot as usize]).collect();
        }
        match self {
            Memory::Count(counts) => keep(counts, slots),
            Memory::Narrow { sums, counts, .. } => {
                keep(sums, slots);
                keep(counts, slots);
            }
            Memory::Wide { sums, counts, .. } => {
                keep(sums, slots);
                keep(counts, slots);
            }
            Memory::Truth { yes, no, .. } => {
                keep(yes, slots);
                keep(no, slots);
            }
            Memory::Values(sets) => sets.keep(slots),
        }
    }

    /// What is remembered of a slot as bytes, for [`Memory::read`] of this process.
    pub(super) fn write(&self, slot: usize, out: &mut Vec<u8>) {
        match self {
            Memory::Count(counts) => out.extend_from_slice(&counts[slot].to_le_bytes()),
            Memory::Narrow { sums, counts, .. } => {
                out.extend_from_slice(&sums[slot].to_le_bytes());
                out.extend_from_slice(&counts[slot].to_le_bytes());
            }
            Memory::Wide { sums, counts, .. } => {
                out.extend_from_slice(&sums[slot].to_le_bytes());
                out.extend_from_slice(&counts[slot].to_le_bytes());
            }
            Memory::Truth { yes, no, .. } => {
                out.extend_from_slice(&yes[slot].to_le_bytes());
                out.extend_from_slice(&no[slot].to_le_bytes());
            }
            Memory::Values(sets) => sets.write(slot, out),
        }
    }

    /// Takes over what was written of a slot. Results of values have to be computed again.
    pub(super) fn read(&mut self, slot: usize, group: &mut &[u8]) -> Result<(), EngineError> {
        match self {
            Memory::Count(counts) => counts[slot] = number(group)?,
            Memory::Narrow { sums, counts, .. } => {
                sums[slot] = i128::from_le_bytes(part(group)?);
                counts[slot] = number(group)?;
            }
            Memory::Wide { sums, counts, .. } => {
                sums[slot] = i256::from_le_bytes(part(group)?);
                counts[slot] = number(group)?;
            }
            Memory::Truth { yes, no, .. } => {
                yes[slot] = number(group)?;
                no[slot] = number(group)?;
            }
            Memory::Values(sets) => sets.read(slot, group)?,
        }
        Ok(())
    }

    /// Values of some slots held beside the constant state.
    pub(super) fn entries_of(&self, slots: &[u32]) -> usize {
        match self {
            Memory::Values(sets) => sets.entries_of(slots),
            _ => 0,
        }
    }

    /// Values held beside the constant state.
    pub(super) fn entries(&self) -> usize {
        match self {
            Memory::Values(sets) => sets.entries(),
            _ => 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Memory::Count(counts) => counts.capacity() * 8,
            Memory::Narrow { sums, counts, .. } => sums.capacity() * 16 + counts.capacity() * 8,
            Memory::Wide { sums, counts, .. } => sums.capacity() * 32 + counts.capacity() * 8,
            Memory::Truth { yes, no, .. } => (yes.capacity() + no.capacity()) * 8,
            Memory::Values(sets) => sets.bytes(),
        }
    }
}
