//! Runs batch plans: swaps relation leaves for snapshots, plans and executes them on threads with large stacks.
//!
//! Invariant: a run reads only the providers it was given and the time it was given; it ends with its result, an error, or when
//! its receiver is dropped, and its memory is counted against its own pool.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::temporal_conversions::timestamp_us_to_datetime;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream};
use futures::StreamExt;
use parking_lot::Mutex;
use thalweg_catalog::Oid;
use thalweg_planner::{Planner, RelationScan};
use tokio::runtime::{Handle, Runtime};
use tokio::task::AbortHandle;

use crate::config::{EngineConfig, STACK_BYTES};
use crate::error::EngineError;

/// Batches a result may be ahead of its reader.
const RESULT_QUEUE: usize = 2;

/// The runtime that plans and runs queries and recomputations, apart from the one that serves the wires.
#[derive(Debug)]
pub(crate) struct BatchRuntime {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
}

impl BatchRuntime {
    pub(crate) fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.query_threads.max(1))
            .max_blocking_threads(config.jobs_max.max(1) + config.query_threads)
            .thread_stack_size(STACK_BYTES)
            .thread_name("thalweg-batch")
            .enable_time()
            .build()
            .map_err(EngineError::internal)?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends every query and recomputation; waits at most `wait` for those that are in the middle of a batch.
    pub(crate) fn stop(&self, wait: Duration) {
        let Some(runtime) = self.runtime.lock().take() else {
            return;
        };
        // The caller may be on a thread of another runtime, where waiting for this one is not allowed.
        let stopping = std::thread::Builder::new()
            .name("thalweg-batch-stop".into())
            .spawn(move || runtime.shutdown_timeout(wait));
        match stopping {
            Ok(thread) => drop(thread.join()),
            Err(error) => tracing::warn!(%error, "queries are not waited for"),
        }
    }
}

impl Drop for BatchRuntime {
    fn drop(&mut self) {
        // The last handle may be dropped inside a task of another runtime, where waiting is not allowed.
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

/// What a run is allowed.
#[derive(Debug, Clone)]
pub(crate) struct RunLimits {
    /// What `now()` reads, microseconds since the Unix epoch.
    pub(crate) now_us: i64,
    /// Where its memory comes from.
    pub(crate) memory: Arc<dyn MemoryPool>,
}

/// Replaces every relation leaf by what `provide` gives for it, in subqueries too.
pub(crate) fn with_relations(
    plan: LogicalPlan,
    provide: &mut dyn FnMut(Oid) -> DataFusionResult<Arc<dyn TableProvider>>,
) -> DataFusionResult<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::TableScan(mut scan) => match scan
            .source
            .downcast_ref::<RelationScan>()
            .map(|leaf| (leaf.oid, leaf.as_of_now))
        {
            Some((oid, as_of_now)) => {
                let table = match (provide(oid)?, as_of_now) {
                    (table, true) => crate::external::as_of_now(table),
                    (table, false) => table,
                };
                scan.source = provider_as_source(table);
                Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
            }
            None => Ok(Transformed::no(LogicalPlan::TableScan(scan))),
        },
        other => Ok(Transformed::no(other)),
    })
    .map(|transformed| transformed.data)
}

/// A session state in which `now()` is fixed.
pub(crate) fn session_at(planner: &Planner, now_us: i64) -> SessionState {
    let mut state = planner.session_state();
    let now = timestamp_us_to_datetime(now_us).map(|naive| naive.and_utc());
    state.execution_props_mut().query_execution_start_time = now;
    state
}

/// Plans for execution.
pub(crate) async fn physical(
    planner: &Planner,
    plan: &LogicalPlan,
    limits: RunLimits,
) -> DataFusionResult<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)> {
    let state = session_at(planner, limits.now_us);
    let plan = crate::external::wished(state.optimize(plan)?)?;
    let planner = state.query_planner();
    let physical = planner.create_physical_plan(&plan, &state).await?;
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(limits.memory);
    let task = TaskContext::from(&state).with_runtime(runtime.build_arc()?);
    Ok((physical, Arc::new(task)))
}

/// Runs a plan to its end on the calling thread, which must have a large stack and may block.
pub(crate) fn collect_blocking(
    runtime: &BatchRuntime,
    planner: &Planner,
    plan: &LogicalPlan,
    limits: RunLimits,
) -> Result<Vec<RecordBatch>, EngineError> {
    runtime.handle.block_on(async {
        let (physical, task) = physical(planner, plan, limits).await?;
        Ok(datafusion::physical_plan::collect(physical, task).await?)
    })
}

/// Runs a plan to its end on the batch runtime.
pub(crate) async fn collect(
    runtime: &BatchRuntime,
    planner: Arc<Planner>,
    plan: LogicalPlan,
    limits: RunLimits,
) -> Result<Vec<RecordBatch>, EngineError> {
    let run = async move {
        let (physical, task) = physical(&planner, &plan, limits).await?;
        datafusion::physical_plan::collect(physical, task).await
    };
    let task = runtime.handle.spawn(run);
    let _abort = AbortOnDrop(task.abort_handle());
    Ok(joined(task.await)??)
}

/// Starts a plan on the batch runtime; dropping the stream stops it.
pub(crate) async fn stream(
    runtime: &BatchRuntime,
    planner: Arc<Planner>,
    plan: LogicalPlan,
    limits: RunLimits,
) -> Result<SendableRecordBatchStream, EngineError> {
    let (rows, mut queue) = tokio::sync::mpsc::channel(RESULT_QUEUE);
    let (started, start) = tokio::sync::oneshot::channel();
    let run = async move {
        let opened = async {
            let (physical, task) = physical(&planner, &plan, limits).await?;
            execute_stream(physical, task)
        };
        let mut stream = match opened.await {
            Ok(stream) => {
                let _ = started.send(Ok(stream.schema()));
                stream
            }
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        while let Some(batch) = stream.next().await {
            let failed = batch.is_err();
            if rows.send(batch).await.is_err() || failed {
                return;
            }
        }
    };
    let task = runtime.handle.spawn(run);
    let abort = AbortOnDrop(task.abort_handle());
    let schema: SchemaRef = match start.await {
        Ok(opened) => opened?,
        Err(_) => {
            joined(task.await)?;
            return Err(EngineError::Stopping);
        }
    };
    let mut task = Some(task);
    let batches = futures::stream::poll_fn(move |cx| {
        let _held = &abort;
        match queue.poll_recv(cx) {
            std::task::Poll::Ready(None) => match task.as_mut() {
                // The queue also closes when the run panicked; that must not look like the end of the result.
                Some(handle) => match std::future::Future::poll(std::pin::Pin::new(handle), cx) {
                    std::task::Poll::Ready(ended) => {
                        task = None;
                        let failed = ended.err().filter(|error| error.is_panic());
                        std::task::Poll::Ready(failed.map(|_| Err(panic_error())))
                    }
                    std::task::Poll::Pending => std::task::Poll::Pending,
                },
                None => std::task::Poll::Ready(None),
            },
            other => other,
        }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The result of a task; a task that did not run because the runtime has stopped says so.
pub(crate) fn joined<T>(ended: Result<T, tokio::task::JoinError>) -> Result<T, EngineError> {
    ended.map_err(|error| {
        if error.is_panic() {
            panicked()
        } else {
            EngineError::Stopping
        }
    })
}

fn panic_error() -> DataFusionError {
    DataFusionError::Internal("the statement stopped at a broken invariant".into())
}

fn panicked() -> EngineError {
    EngineError::internal("the statement stopped at a broken invariant")
}

/// The batch with the fields of `schema`; columns of another Arrow type are cast.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, EngineError> {
    if batch.num_columns() != schema.fields().len() {
        return Err(EngineError::internal(format!(
            "a result has {} columns where {} were planned",
            batch.num_columns(),
            schema.fields().len()
        )));
    }
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                datafusion::arrow::compute::cast(column, field.data_type())
            }
        });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}
