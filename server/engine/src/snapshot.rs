//! A relation at one epoch as a table that DataFusion can scan.
//!
//! Invariant: the rows are those of one version, whatever happens to the relation during the scan.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DataFusionResult;
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use thalweg_connectors::Delta;

use crate::consolidate::expand;
use crate::error::EngineError;
use crate::relation::Version;
use crate::shared::Stored;

/// A scan of fewer rows is not worth several threads.
const PARALLEL_ROWS: usize = 200_000;

/// The rows of one version.
#[derive(Debug)]
pub(crate) struct SnapshotTable {
    schema: SchemaRef,
    rows: Arc<Vec<RecordBatch>>,
}

impl SnapshotTable {
    /// # Errors
    /// `InvalidAccumulation` when some row has a negative count.
    pub(crate) fn new(relation: &Stored, version: &Version) -> Result<Arc<Self>, EngineError> {
        match version.rows()? {
            Some(rows) => Ok(Arc::new(Self {
                schema: relation.schema(),
                rows,
            })),
            None => Err(EngineError::InvalidAccumulation {
                object: relation.label(),
            }),
        }
    }

    /// A version with net changes that are not published.
    ///
    /// # Errors
    /// 40001 when a row that the changes remove is not there any more.
    pub(crate) fn with_changes(
        relation: &Stored,
        version: &Version,
        net: &[Delta],
    ) -> Result<Arc<Self>, EngineError> {
        let base = Self::new(relation, version)?;
        if net.iter().all(|delta| delta.weights.all_positive()) {
            // Rows that are only added leave the cached rows as they are.
            let mut rows = base.rows.as_ref().clone();
            rows.extend(expand(net)?.unwrap_or_default());
            return Ok(Arc::new(Self {
                schema: relation.schema(),
                rows: Arc::new(rows),
            }));
        }
        match version.with(net)?.rows()? {
            Some(rows) => Ok(Arc::new(Self {
                schema: relation.schema(),
                rows,
            })),
            None => Err(EngineError::concurrent_update()),
        }
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let total: usize = self.rows.iter().map(RecordBatch::num_rows).sum();
        let wanted = if total < PARALLEL_ROWS {
            1
        } else {
            state.config().target_partitions().max(1)
        };
        let mut partitions: Vec<Vec<RecordBatch>> = vec![Vec::new(); wanted];
        let mut filled = vec![0_usize; wanted];
        for batch in self.rows.iter() {
            // The emptiest partition takes the next batch, so that one large chunk does not unbalance the scan.
            let next = (0..wanted)
                .min_by_key(|index| filled.get(*index).copied())
                .unwrap_or(0);
            if let (Some(partition), Some(rows)) = (partitions.get_mut(next), filled.get_mut(next))
            {
                partition.push(batch.clone());
                *rows += batch.num_rows();
            }
        }
        let source = MemorySourceConfig::try_new(
            &partitions,
            Arc::clone(&self.schema),
            projection.cloned(),
        )?;
        Ok(DataSourceExec::from_data_source(source.with_limit(limit)))
    }
}
