//! The second judge: DataFusion in batch over the tables' rows, on the analysed plan with only the five rewrites it cannot run
//! without.
//!
//! Invariant: it reads the base tables and nothing else of ours; views inside a query are expanded to their own queries, so an
//! error in a lower view cannot hide in an upper one.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::collect;
use thalweg_catalog::{Catalog, Oid};
use thalweg_planner::{Functions, PlanContext, Planner, RelationScan, SystemRelations};

struct NoSystem;

impl SystemRelations for NoSystem {
    fn relation(&self, _schema: &str, _name: &str) -> Option<Arc<dyn TableProvider>> {
        None
    }
}

/// Rows of relations by OID, as the batch judge reads them.
pub(crate) type Tables = HashMap<Oid, Arc<MemTable>>;

pub(crate) struct Batch {
    planner: Planner,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            planner: Planner::new(Functions::default()),
        }
    }

    /// Runs a query over `tables`.
    pub(crate) async fn run(
        &self,
        catalog: &Catalog,
        sql: &str,
        tables: &Tables,
    ) -> Result<Vec<RecordBatch>, String> {
        let query = thalweg_sql::parse_query(sql).map_err(|error| error.to_string())?;
        let path = ["public".to_owned()];
        let context = PlanContext {
            catalog,
            search_path: &path,
            time_zone: "UTC",
            now_us: Some(0),
            system: &NoSystem,
            user: "oracle",
            parameter_types: &[],
            text: sql,
        };
        let planned = self
            .planner
            .query(&context, &query)
            .map_err(|error| error.report().to_string())?;
        let plan = self
            .planner
            .oracle_plan(&planned.plan)
            .map_err(|error| error.to_string())?;
        let plan = read_from(plan, tables)?;
        let state = self.planner.session_state();
        let physical = state
            .query_planner()
            .create_physical_plan(&plan, &state)
            .await
            .map_err(|error| format!("batch plan: {error}"))?;
        let task = SessionContext::new_with_state(state).task_ctx();
        collect(physical, task)
            .await
            .map_err(|error| format!("batch run: {error}"))
    }
}

/// Rows as a relation of the catalog's schema, for queries that read it.
pub(crate) fn table(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Arc<MemTable>, String> {
    let batches: Vec<RecordBatch> = batches
        .iter()
        .map(|batch| {
            let columns = batch
                .columns()
                .iter()
                .zip(schema.fields())
                .map(|(column, field)| cast(column, field.data_type()))
                .collect::<Result<Vec<_>, _>>()?;
            RecordBatch::try_new(Arc::clone(schema), columns)
        })
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    MemTable::try_new(Arc::clone(schema), vec![batches])
        .map(Arc::new)
        .map_err(|error| error.to_string())
}

/// Points every scan of a user relation at the given rows.
fn read_from(plan: LogicalPlan, tables: &Tables) -> Result<LogicalPlan, String> {
    plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::TableScan(mut scan) = node else {
            return Ok(Transformed::no(node));
        };
        let any: &dyn std::any::Any = scan.source.as_ref();
        let Some(oid) = any
            .downcast_ref::<RelationScan>()
            .map(|relation| relation.oid)
        else {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        let table = tables.get(&oid).ok_or_else(|| {
            datafusion::error::DataFusionError::Plan(format!(
                "the oracle has no rows of relation {}",
                oid.0
            ))
        })?;
        scan.source = provider_as_source(Arc::clone(table) as Arc<dyn TableProvider>);
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })
    .map(|transformed| transformed.data)
    .map_err(|error| error.to_string())
}
