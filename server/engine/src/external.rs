//! Tables that an outside system keeps: read there when a query runs, written there by statements.
//!
//! Invariant: nothing of their rows is kept here. A query that reads one sees it as it is then, whatever epoch the rest of the
//! query is of; a statement that fails may have written some of its rows, and says that it failed.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Result as DataFusionResult, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{
    BinaryExpr, Expr, Like, LogicalPlan, Operator, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use thalweg_catalog::{ConnectorSpec, Oid, Relation, Report};
use thalweg_connectors::{
    Comparison, Condition, ConnectorContext, HbaseCommitter, HbaseScan, HbaseSink, HbaseTable,
    MessageSink,
};
use thalweg_planner::{Conflict, DmlPlan};
use tokio::runtime::Handle;

use crate::batch::{conform, joined, with_relations};
use crate::committing::Open;
use crate::error::EngineError;
use crate::shared::Shared;

/// A declared table, with its connection.
#[derive(Debug)]
pub(crate) struct External {
    name: String,
    schema: SchemaRef,
    /// Columns of its key.
    pub(crate) key: Vec<usize>,
    pub(crate) table: Arc<HbaseTable>,
    /// Where connections live.
    pub(crate) wires: Handle,
}

impl External {
    /// Contacts nobody.
    pub(crate) fn open(
        shared: &Shared,
        relation: &Relation,
        spec: &ConnectorSpec,
    ) -> Result<Arc<Self>, EngineError> {
        let context = shared.connector_context();
        let key = relation.key_positions();
        let table = HbaseTable::new(&relation.columns, &key, &spec.options, &context);
        let table = table.map_err(|error| error.report())?;
        Ok(Arc::new(Self {
            name: relation.name.clone(),
            schema: table.schema(),
            key,
            table: Arc::new(table),
            wires: shared.wires.clone(),
        }))
    }

    /// The table for a query.
    pub(crate) fn provider(self: &Arc<Self>) -> Arc<dyn TableProvider> {
        Arc::new(Provider(Arc::clone(self)))
    }

    /// What a sink into the table writes to.
    pub(crate) fn sink(&self) -> Box<dyn MessageSink> {
        Box::new(HbaseSink::new(Arc::clone(&self.table)))
    }

    /// Opens writers that commit what checkpoints stage for a sink into the table.
    pub(crate) fn committer(&self, sink: Oid, context: ConnectorContext) -> Open {
        let table = Arc::clone(&self.table);
        Box::new(move || {
            let table = Arc::clone(&table);
            Ok(Box::new(HbaseCommitter::new(table, sink.0, &context)))
        })
    }

    /// 0A000 for what such tables do not take.
    pub(crate) fn refuses(&self, what: &str) -> Report {
        Report {
            sqlstate: "0A000",
            message: format!("{what} on HBase table \"{}\" are not supported", self.name),
            detail: None,
            hint: Some("INSERT overwrites the row of a key that exists; UPDATE and DELETE take any condition.".into()),
            position: None,
        }
    }

    /// Writes what a statement computed; returns how many rows it was.
    pub(crate) async fn write(
        &self,
        plan: &DmlPlan,
        rows: &[RecordBatch],
    ) -> Result<u64, EngineError> {
        let (returning, conflict) = match plan {
            DmlPlan::Insert {
                returning,
                conflict,
                ..
            } => (returning, !matches!(conflict, Conflict::Error)),
            DmlPlan::Update { returning, .. } | DmlPlan::Delete { returning, .. } => {
                (returning, false)
            }
        };
        if conflict {
            return Err(self.refuses("ON CONFLICT clauses").into());
        }
        if returning.is_some() {
            return Err(self.refuses("RETURNING clauses").into());
        }
        let columns = self.schema.fields().len();
        let part = |start: usize| -> Result<RecordBatch, EngineError> {
            let wanted: Vec<usize> = (start..start + columns).collect();
            let parts: Result<Vec<RecordBatch>, EngineError> = rows
                .iter()
                .map(|batch| self.table_rows(&batch.project(&wanted)?))
                .collect();
            Ok(concat_batches(&self.schema, &parts?)?)
        };
        let table = Arc::clone(&self.table);
        let written = match plan {
            DmlPlan::Insert { .. } => {
                let new = part(0)?;
                self.wires.spawn(async move { table.update(&new).await })
            }
            DmlPlan::Update { .. } => {
                let (old, new) = (part(0)?, part(columns)?);
                let replaced = async move { table.replace(&old, &new).await };
                self.wires.spawn(replaced)
            }
            DmlPlan::Delete { .. } => {
                let old = part(0)?;
                self.wires.spawn(async move { table.delete(&old).await })
            }
        };
        let written = joined(written.await)?.map_err(|error| error.report())?;
        match written.first_refused() {
            Some(refused) => {
                let error = thalweg_connectors::ConnectorError::Hbase(refused.error.clone());
                Err(error.report().into())
            }
            None => Ok(rows.iter().map(|batch| batch.num_rows() as u64).sum()),
        }
    }

    /// The batch in the table's own fields, or 23502.
    fn table_rows(&self, batch: &RecordBatch) -> Result<RecordBatch, EngineError> {
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            if !field.is_nullable() && column.logical_null_count() > 0 {
                return Err(EngineError::from(Report {
                    sqlstate: "23502",
                    message: format!(
                        "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                        field.name(),
                        self.name
                    ),
                    detail: None,
                    hint: None,
                    position: None,
                }));
            }
        }
        conform(batch, &self.schema)
    }

    fn plan(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> HbaseScan {
        let all = || (0..self.schema.fields().len()).collect();
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let conditions: Vec<Condition> = filters
            .iter()
            .filter_map(|filter| condition(filter, &self.schema))
            .collect();
        // A filter that is no condition must be applied before rows are counted.
        let limit = limit.filter(|_| conditions.len() == filters.len());
        self.table.plan(&wanted, &conditions, limit)
    }
}

/// What a plan asks outside systems for.
pub(crate) fn explain(shared: &Shared, plan: &LogicalPlan) -> Result<Vec<String>, EngineError> {
    let known = shared.external.read().clone();
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let bound = plan.clone().transform_up_with_subqueries(|node| {
        let leaf = match &node {
            LogicalPlan::TableScan(scan) => scan
                .source
                .downcast_ref::<thalweg_planner::RelationScan>()
                .and_then(|leaf| known.get(&leaf.oid)),
            _ => None,
        };
        match leaf {
            Some(external) => {
                with_relations(node, &mut |_| Ok(external.provider())).map(Transformed::yes)
            }
            None => Ok(Transformed::no(node)),
        }
    })?;
    let optimized = shared.planner.session_state().optimize(&bound.data)?;
    let mut lines = Vec::new();
    optimized.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(provider) = provider.downcast_ref::<Provider>()
        {
            let external = &provider.0;
            let asked = external.plan(scan.projection.as_ref(), &scan.filters, scan.fetch);
            lines.push(format!("HBase {}: {}", external.name, asked.describe()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(lines)
}

#[derive(Debug)]
struct Provider(Arc<External>);

#[async_trait]
impl TableProvider for Provider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Whatever is pushed down is applied again: HBase compares bytes, a query values.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let answer = |filter: &&Expr| match condition(filter, &self.0.schema) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(answer).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let schema: SchemaRef = match projection {
            Some(wanted) => Arc::new(self.0.schema.project(wanted)?),
            None => Arc::clone(&self.0.schema),
        };
        let rows = Rows {
            external: Arc::clone(&self.0),
            schema: Arc::clone(&schema),
            scan: self.0.plan(projection, filters, limit),
        };
        let rows: Arc<dyn PartitionStream> = Arc::new(rows);
        let exec = StreamingTableExec::try_new(schema, vec![rows], None, None, false, limit)?;
        Ok(Arc::new(exec))
    }
}

#[derive(Debug)]
struct Rows {
    external: Arc<External>,
    schema: SchemaRef,
    scan: HbaseScan,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        // Queries run where there are no sockets.
        let _wires = self.external.wires.enter();
        let rows = self.external.table.read(&self.scan);
        let batches = futures::stream::unfold(rows, |mut rows| async move {
            let batch = rows.next().await?;
            let batch = batch.map_err(|error| DataFusionError::External(Box::new(error.report())));
            Some((batch, rows))
        });
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            batches,
        ))
    }
}

/// A filter as a condition on one column, if it is one.
fn condition(filter: &Expr, schema: &Schema) -> Option<Condition> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, literal, op) = match (column(left, schema), column(right, schema)) {
                (Some(column), None) => (column, right, *op),
                (None, Some(column)) => (column, left, op.swap()?),
                _ => return None,
            };
            let comparison = match op {
                Operator::Eq => Comparison::Equal,
                Operator::Lt => Comparison::Less,
                Operator::LtEq => Comparison::LessOrEqual,
                Operator::Gt => Comparison::Greater,
                Operator::GtEq => Comparison::GreaterOrEqual,
                _ => return None,
            };
            let value = value(literal, column, schema)?.to_array().ok()?;
            Some(Condition::Compare {
                column,
                comparison,
                value,
            })
        }
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) => {
            let column = column(expr, schema)?;
            let values: Option<Vec<ScalarValue>> = list
                .iter()
                .map(|item| value(item, column, schema))
                .collect();
            let values = ScalarValue::iter_to_array(values?).ok()?;
            Some(Condition::In { column, values })
        }
        Expr::Like(Like {
            negated: false,
            expr,
            pattern,
            escape_char: None,
            case_insensitive: false,
        }) => {
            let column = column(expr, schema)?;
            let pattern = value(pattern, column, schema)?;
            let pattern = pattern.try_as_str().flatten()?;
            let end = pattern.find(['%', '_', '\\'])?;
            let text = pattern.get(..end).filter(|text| !text.is_empty())?;
            Some(Condition::Prefix {
                column,
                text: text.to_owned(),
            })
        }
        _ => None,
    }
}

fn column(expr: &Expr, schema: &Schema) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.index_of(&column.name).ok(),
        _ => None,
    }
}

/// A literal as a value of the column's type, when it is one exactly.
fn value(expr: &Expr, column: usize, schema: &Schema) -> Option<ScalarValue> {
    let Expr::Literal(literal, _) = expr else {
        return None;
    };
    let wanted = schema.fields().get(column)?.data_type();
    let cast = literal.cast_to(wanted).ok()?;
    let back = cast.cast_to(&literal.data_type()).ok()?;
    (back == *literal).then_some(cast)
}
