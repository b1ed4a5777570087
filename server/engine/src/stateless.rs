//! Steps views without state: runs the view's own plan over the rows that were added and over those that were taken away.
//!
//! Invariant: for a plan of filters, projections, unions and unnests, view(added) - view(removed) is the change of the view,
//! because each row passes through on its own. So a step and a recomputation give the same content.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt;
use parking_lot::Mutex;
use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Weights};
use thalweg_planner::stream::Change;
use thalweg_planner::{Planner, StreamNode};

use crate::batch::{BatchRuntime, conform, session_at, with_relations};
use crate::compute_errors::ComputeErrors;
use crate::error::EngineError;
use crate::shared::Stored;

/// True when no operator keeps anything or recomputes. A removed row is computed again to take its result back, so results that
/// may differ each time are kept this way only while nothing is removed.
pub(crate) fn is_stateless(node: &StreamNode) -> bool {
    let properties = node.properties();
    let repeatable = properties.deterministic || properties.change == Change::AppendOnly;
    repeatable && !node.is_recompute() && node.inputs().into_iter().all(is_stateless)
}

/// A stateless view, planned once.
#[derive(Debug)]
pub(crate) struct Stateless {
    physical: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
    slots: BTreeMap<Oid, Arc<Slot>>,
    output: SchemaRef,
}

/// The rows one input has for the current run.
#[derive(Debug)]
struct Slot {
    schema: SchemaRef,
    rows: Mutex<Vec<RecordBatch>>,
}

/// Lets a scan read its slot anew at every run.
#[derive(Debug)]
struct SlotStream(Arc<Slot>);

impl PartitionStream for SlotStream {
    fn schema(&self) -> &SchemaRef {
        &self.0.schema
    }

    fn execute(&self, _task: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows: Vec<_> = self.0.rows.lock().iter().cloned().map(Ok).collect();
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.0.schema),
            futures::stream::iter(rows),
        ))
    }
}

impl Stateless {
    pub(crate) fn new(
        runtime: &BatchRuntime,
        planner: &Planner,
        plan: &LogicalPlan,
        inputs: &[Arc<Stored>],
        output: SchemaRef,
    ) -> Result<Self, EngineError> {
        let slots: BTreeMap<Oid, Arc<Slot>> = inputs
            .iter()
            .map(|input| {
                (
                    input.oid,
                    Arc::new(Slot {
                        schema: input.schema(),
                        rows: Mutex::default(),
                    }),
                )
            })
            .collect();
        let plan = with_relations(plan.clone(), &mut |oid| {
            let slot = slots.get(&oid).ok_or_else(|| {
                datafusion::error::DataFusionError::Internal(format!(
                    "a view reads OID {} without saying so",
                    oid.0
                ))
            })?;
            let partition: Arc<dyn PartitionStream> = Arc::new(SlotStream(Arc::clone(slot)));
            Ok(Arc::new(StreamingTable::try_new(
                Arc::clone(&slot.schema),
                vec![partition],
            )?) as Arc<dyn TableProvider>)
        })?;
        // One partition: exchanges keep state between runs, and a step is too small to share out.
        let mut state = session_at(planner, 0);
        let options = state.config_mut().options_mut();
        options.execution.target_partitions = 1;
        options.optimizer.enable_round_robin_repartition = false;
        let physical = runtime
            .handle()
            .block_on(state.create_physical_plan(&plan))?;
        Ok(Self {
            physical,
            task: state.task_ctx(),
            slots,
            output,
        })
    }

    /// The view's change for its inputs' changes.
    pub(crate) fn step(
        &self,
        runtime: &BatchRuntime,
        changes: &BTreeMap<Oid, Vec<Delta>>,
        errors: &ComputeErrors,
    ) -> Result<Vec<Delta>, EngineError> {
        let mut out = Vec::new();
        for sign in [1_i64, -1] {
            errors.mute(sign < 0);
            let mut any = false;
            for (oid, slot) in &self.slots {
                let rows = changes
                    .get(oid)
                    .map_or(Ok(Vec::new()), |deltas| rows_of_sign(deltas, sign))?;
                any |= !rows.is_empty();
                *slot.rows.lock() = rows;
            }
            if !any {
                continue;
            }
            for batch in self.run(runtime)? {
                let batch = conform(&batch, &self.output)?;
                if batch.num_rows() > 0 {
                    let weights = if sign > 0 {
                        Weights::Ones
                    } else {
                        Weights::Constant(-1)
                    };
                    out.push(Delta { batch, weights });
                }
            }
        }
        errors.mute(false);
        self.slots
            .values()
            .for_each(|slot| slot.rows.lock().clear());
        Ok(out)
    }

    fn run(&self, runtime: &BatchRuntime) -> Result<Vec<RecordBatch>, EngineError> {
        let plan = reset_plan_states(Arc::clone(&self.physical))?;
        runtime.handle().block_on(async {
            let mut out = Vec::new();
            for partition in 0..plan.output_partitioning().partition_count() {
                let mut stream = plan.execute(partition, Arc::clone(&self.task))?;
                while let Some(batch) = stream.next().await {
                    out.push(batch?);
                }
            }
            Ok(out)
        })
    }
}

/// Rows whose weight has this sign, each as often as the weight says.
fn rows_of_sign(deltas: &[Delta], sign: i64) -> Result<Vec<RecordBatch>, EngineError> {
    let mut out = Vec::new();
    for delta in deltas {
        let all = (0..delta.num_rows()).all(|row| delta.weights.at(row) == sign);
        if all {
            if delta.num_rows() > 0 {
                out.push(delta.batch.clone());
            }
            continue;
        }
        let rows = (0..delta.num_rows()).flat_map(|row| {
            std::iter::repeat_n(row as u32, (delta.weights.at(row) * sign).max(0) as usize)
        });
        let rows = UInt32Array::from_iter_values(rows);
        if !rows.is_empty() {
            out.push(take_record_batch(&delta.batch, &rows)?);
        }
    }
    Ok(out)
}
