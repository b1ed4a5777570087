//! Keeps a view by the changes of its inputs: the streaming plan as a tree of operators that remember what they need.
//!
//! Invariant: after a step the tree's state is a function of its inputs' content alone, however that content came about; what a
//! step returns is the net change of the view. A step that fails leaves the tree unusable, and whoever owns it drops it.

mod accumulate;
mod arrangement;
mod compile;
mod group;
mod join;
mod keys;
#[cfg(test)]
mod laws;
mod linear;
mod lookup;
#[cfg(test)]
mod lookup_laws;
mod on_disk;
mod parallel;
mod signs;
mod state;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use thalweg_catalog::Oid;
use thalweg_connectors::Delta;
use thalweg_planner::{ErrorSink, Planner};
use thalweg_state::SpillFolder;

use crate::batch::conform;
use crate::chunk::{Chunk, RowCodec};
use crate::compute_errors::{ComputeErrors, muted};
use crate::consolidate::{Term, consolidate};
use crate::error::EngineError;

pub(crate) use lookup::{KeyedRows, OutsideTables};
pub(crate) use state::SpilledTables;

/// An operator that has less than this part of a view's room keeps it.
const ROOM_PARTS: usize = 16;

/// A view's operators with their state.
#[derive(Debug)]
pub(crate) struct Dataflow {
    root: Operator,
    output: SchemaRef,
    room: Option<Room>,
    waiting: state::Waiting,
}

/// What operators may remember in memory, and where the rest goes.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    pub(crate) folder: Arc<SpillFolder>,
    /// Bytes for all operators of one view; changes with what others have.
    pub(crate) most: Arc<AtomicUsize>,
}

/// What one step reads and where it reports.
pub(crate) struct StepContext<'a> {
    pub(crate) changes: &'a BTreeMap<Oid, Vec<Delta>>,
    pub(crate) errors: &'a ComputeErrors,
    /// Compute errors stop the view instead of giving NULL.
    pub(crate) strict: bool,
}

impl StepContext<'_> {
    /// Evaluates an expression over rows of one sign; errors of rows on their way out are not recorded.
    fn evaluate(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        delta: &Delta,
    ) -> Result<ArrayRef, DataFusionError> {
        muted(!signs::is_added(delta), || {
            expr.evaluate(&delta.batch)?.into_array(delta.num_rows())
        })
    }

    /// What becomes of an aggregate that could not be computed.
    fn failed(&self, error: DataFusionError) -> Result<(), DataFusionError> {
        if self.strict {
            return Err(error);
        }
        self.errors.compute_error(&Planner::classify(&error), 1);
        Ok(())
    }
}

#[derive(Debug)]
enum Operator {
    Scan {
        oid: Oid,
        projection: Option<Vec<usize>>,
        schema: SchemaRef,
    },
    Filter {
        input: Box<Operator>,
        predicate: Arc<dyn PhysicalExpr>,
    },
    Project {
        input: Box<Operator>,
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    },
    Union {
        inputs: Vec<Operator>,
        schema: SchemaRef,
    },
    Unnest {
        input: Box<Operator>,
        spread: linear::Spread,
    },
    Aggregate(Box<group::Aggregate>),
    Join(Box<join::Join>),
    Lookup(Box<lookup::Lookup>),
}

impl Operator {
    /// The change of the output.
    fn step(&mut self, cx: &StepContext<'_>) -> Result<Vec<Delta>, EngineError> {
        match self {
            Operator::Scan {
                oid,
                projection,
                schema,
            } => {
                let mut out = Vec::new();
                for delta in cx.changes.get(oid).into_iter().flatten() {
                    let batch = match projection {
                        Some(columns) => delta.batch.project(columns)?,
                        None => delta.batch.clone(),
                    };
                    let weights = delta.weights.clone();
                    out.extend(signs::by_sign(&Delta { batch, weights })?);
                }
                linear::renamed(schema, out)
            }
            Operator::Filter { input, predicate } => {
                let rows = input.step(cx)?;
                linear::filter(cx, predicate, rows)
            }
            Operator::Project {
                input,
                exprs,
                schema,
            } => {
                let rows = input.step(cx)?;
                linear::project(cx, exprs, schema, rows)
            }
            Operator::Union { inputs, schema } => {
                let mut out = Vec::new();
                for input in inputs {
                    out.extend(input.step(cx)?);
                }
                linear::renamed(schema, out)
            }
            Operator::Unnest { input, spread } => spread.step(input.step(cx)?),
            Operator::Aggregate(aggregate) => aggregate.step(cx),
            Operator::Join(join) => join.step(cx),
            Operator::Lookup(lookup) => lookup.step(cx),
        }
    }

    /// Moves to disk what can, of operators that have more than `least` bytes in memory.
    fn shed(&mut self, least: usize) -> Result<(), EngineError> {
        match self {
            Operator::Scan { .. } => Ok(()),
            Operator::Filter { input, .. }
            | Operator::Project { input, .. }
            | Operator::Unnest { input, .. } => input.shed(least),
            Operator::Union { inputs, .. } => {
                inputs.iter_mut().try_for_each(|input| input.shed(least))
            }
            Operator::Aggregate(aggregate) => {
                aggregate.input_mut().shed(least)?;
                aggregate.shed(least)
            }
            Operator::Join(join) => {
                let mut inputs = join.inputs_mut().iter_mut();
                inputs.try_for_each(|input| input.shed(least))?;
                join.shed(least)
            }
            Operator::Lookup(lookup) => lookup.input_mut().shed(least),
        }
    }

    fn state(&self) -> StateFigures {
        let below = |inputs: &[&Operator]| {
            inputs.iter().fold(StateFigures::default(), |sum, input| {
                sum.plus(input.state())
            })
        };
        match self {
            Operator::Scan { .. } => StateFigures::default(),
            Operator::Filter { input, .. }
            | Operator::Project { input, .. }
            | Operator::Unnest { input, .. } => input.state(),
            Operator::Union { inputs, .. } => below(&inputs.iter().collect::<Vec<_>>()),
            Operator::Aggregate(aggregate) => aggregate.state(),
            Operator::Join(join) => join.state(),
            Operator::Lookup(lookup) => lookup.state(),
        }
    }
}

/// How much a dataflow remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StateFigures {
    /// Groups, values and rows; an aggregate without groups does not count its one.
    pub(crate) entries: usize,
    /// Bytes in memory, by capacity.
    pub(crate) bytes: usize,
    /// Bytes on disk, for want of memory.
    pub(crate) spilled: u64,
}

impl StateFigures {
    fn plus(self, other: StateFigures) -> StateFigures {
        StateFigures {
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
            spilled: self.spilled + other.spilled,
        }
    }

    fn and_bytes(self, bytes: usize) -> StateFigures {
        StateFigures {
            bytes: self.bytes + bytes,
            ..self
        }
    }
}

impl Dataflow {
    /// The view's net change for its inputs' changes. The first step must be given the inputs' whole content.
    pub(crate) fn step(
        &mut self,
        cx: &StepContext<'_>,
        codec: &RowCodec,
    ) -> Result<Vec<Delta>, EngineError> {
        let mut out = Vec::new();
        for delta in self.root.step(cx)? {
            let batch = conform(&delta.batch, &self.output)?;
            out.push(Delta {
                batch,
                weights: delta.weights,
            });
        }
        self.make_room(self.most());
        Ok(net(codec, out)?)
    }

    /// Bytes that operators may have in memory.
    fn most(&self) -> usize {
        let room = self.room.as_ref();
        room.map_or(usize::MAX, |room| room.most.load(Ordering::SeqCst))
    }

    /// Has what operators remember move to disk when it is more than `most` bytes. What cannot be written stays in memory; then
    /// the sources are held back in the end.
    pub(crate) fn make_room(&mut self, most: usize) {
        if self.root.state().bytes <= most {
            return;
        }
        // Those that have little stay: others would have them read and written with every step.
        if let Err(error) = self.root.shed(most / ROOM_PARTS) {
            tracing::warn!(%error, "state stays in memory that has no room for it");
        }
    }

    /// What is remembered now.
    pub(crate) fn state(&self) -> StateFigures {
        self.root.state()
    }
}

/// Cancels what was added and taken away again.
fn net(
    codec: &RowCodec,
    deltas: Vec<Delta>,
) -> Result<Vec<Delta>, datafusion::arrow::error::ArrowError> {
    if deltas.iter().all(signs::is_added) {
        return Ok(deltas);
    }
    let chunks = deltas
        .into_iter()
        .map(Chunk::new)
        .collect::<Result<Vec<_>, _>>()?;
    let terms: Vec<Term<'_>> = chunks.iter().map(|chunk| Term { chunk, sign: 1 }).collect();
    consolidate(codec, &terms)
}
