//! Lookup joins of queries: each row of the left side finds its row by the key, as HBase has it then.
//!
//! Invariant: the left side is run once, and only keys that its rows name are asked for. What the rules of a plan made of such a
//! join that is not in one of the forms known here is left to them: it scans the table, and gives the same rows.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, UInt32Array};
use datafusion::arrow::compute::{filter_record_batch, take};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchemaRef, NullEquality, Result as DataFusionResult};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::logical_plan::builder::build_join_schema;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Join, JoinType, LogicalPlan, Operator, TableScan, TableType,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream};
use futures::StreamExt;
use thalweg_connectors::HbaseLookup;

use super::External;
use super::scan::Provider;
use crate::batch::joined;

/// Batches of the left side whose rows are looked up at once.
const AHEAD: usize = 2;

/// Puts lookups in the place of the joins of an optimised plan that are to be lookup joins.
pub(super) fn looked_up(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) => Ok(match lookup(&join)? {
            Some(scan) => Transformed::yes(LogicalPlan::TableScan(scan)),
            None => Transformed::no(LogicalPlan::Join(join)),
        }),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(done.data)
}

/// A condition on rows of the table alone.
#[derive(Debug, Clone)]
struct OfTable {
    condition: Expr,
    schema: DFSchemaRef,
    /// The columns of its schema in the table.
    columns: Vec<usize>,
}

/// The right side of a join, as far as it is understood.
struct Right {
    external: Arc<External>,
    /// Its columns in the table.
    columns: Vec<usize>,
    conditions: Vec<OfTable>,
}

fn right(plan: &LogicalPlan) -> Option<Right> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => right(&alias.input),
        LogicalPlan::Filter(filter) => {
            let mut below = right(&filter.input)?;
            below.conditions.push(OfTable {
                condition: filter.predicate.clone(),
                schema: Arc::clone(filter.input.schema()),
                columns: below.columns.clone(),
            });
            Some(below)
        }
        LogicalPlan::Projection(projection) => {
            let below = right(&projection.input)?;
            let schema = projection.input.schema();
            let column = |expr: &Expr| match expr {
                Expr::Column(column) => {
                    let at = schema.maybe_index_of_column(column)?;
                    below.columns.get(at).copied()
                }
                _ => None,
            };
            let columns = projection.expr.iter().map(column).collect::<Option<_>>()?;
            Some(Right { columns, ..below })
        }
        LogicalPlan::TableScan(scan) if scan.fetch.is_none() => {
            let provider = source_as_provider(&scan.source).ok()?;
            let provider = provider.downcast_ref::<Provider>()?;
            let external = provider.to_look_up()?;
            let all = || (0..external.schema.fields().len()).collect();
            // Filters that a scan is given are applied above it as well.
            Some(Right {
                columns: scan.projection.clone().unwrap_or_else(all),
                external,
                conditions: Vec::new(),
            })
        }
        _ => None,
    }
}

fn lookup(join: &Join) -> DataFusionResult<Option<TableScan>> {
    let known = matches!(join.join_type, JoinType::Inner | JoinType::Left)
        && join.null_equality == NullEquality::NullEqualsNothing
        && !join.null_aware;
    let Some(right) = right(&join.right).filter(|_| known) else {
        return Ok(None);
    };
    let in_table = |expr: &Expr| match expr {
        Expr::Column(column) => {
            let at = join.right.schema().maybe_index_of_column(column)?;
            right.columns.get(at).copied()
        }
        _ => None,
    };
    let mut pairs: Vec<&(Expr, Expr)> = join.on.iter().collect();
    let mut keys = Vec::new();
    for column in &right.external.key {
        let pair = pairs
            .iter()
            .position(|(_, other)| in_table(other) == Some(*column));
        let key = match pair {
            Some(at) => pairs.remove(at).0.clone(),
            None => match constant(&right, *column) {
                Some(key) => key,
                None => return Ok(None),
            },
        };
        keys.push(key);
    }
    let rest = pairs
        .into_iter()
        .map(|(one, other)| one.clone().eq(other.clone()));
    let pair = build_join_schema(join.left.schema(), join.right.schema(), &JoinType::Left)?;
    let table = LookupTable {
        left: join.left.as_ref().clone(),
        outer: join.join_type == JoinType::Left,
        keys,
        condition: conjunction(rest.chain(join.filter.clone())),
        pair: Arc::new(pair),
        schema: Arc::clone(join.schema.inner()),
        columns: right.columns,
        conditions: right.conditions,
        external: right.external,
    };
    Ok(Some(TableScan {
        table_name: table.external.name.clone().into(),
        source: provider_as_source(Arc::new(table)),
        projection: None,
        projected_schema: Arc::clone(&join.schema),
        filters: Vec::new(),
        fetch: None,
        statistics_requests: Default::default(),
    }))
}

/// The value that a condition on the table gives a column of its key.
fn constant(right: &Right, column: usize) -> Option<Expr> {
    let ty = right.external.schema.fields().get(column)?.data_type();
    right.conditions.iter().find_map(|one| {
        let is_column = |expr: &Expr| match expr {
            Expr::Column(found) => {
                let at = one.schema.maybe_index_of_column(found);
                at.and_then(|at| one.columns.get(at)) == Some(&column)
            }
            _ => false,
        };
        let parts = split_conjunction(&one.condition);
        parts.into_iter().find_map(|part| match part {
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Eq,
                right,
            }) => {
                let literal = match (is_column(left), is_column(right)) {
                    (true, false) => right,
                    (false, true) => left,
                    _ => return None,
                };
                match literal.as_ref() {
                    Expr::Literal(value, _) if value.data_type() == *ty => {
                        Some(literal.as_ref().clone())
                    }
                    _ => None,
                }
            }
            _ => None,
        })
    })
}

/// A lookup join as a table.
#[derive(Debug)]
pub(super) struct LookupTable {
    pub(super) left: LogicalPlan,
    pub(super) external: Arc<External>,
    outer: bool,
    /// Over the left side, in the order of the table's key.
    keys: Vec<Expr>,
    /// Over the pair.
    condition: Option<Expr>,
    conditions: Vec<OfTable>,
    /// Columns of the left side, then those of the right side.
    pair: DFSchemaRef,
    schema: SchemaRef,
    /// Columns of the right side in the table.
    columns: Vec<usize>,
}

#[async_trait]
impl TableProvider for LookupTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let planner = state.query_planner();
        let left = planner.create_physical_plan(&self.left, state).await?;
        let mut wanted = self.columns.clone();
        wanted.extend(
            self.conditions
                .iter()
                .flat_map(|one| one.columns.iter().copied()),
        );
        // A row that has no wanted column is known by its key.
        if wanted.is_empty() {
            wanted.extend(self.external.key.first());
        }
        wanted.sort_unstable();
        wanted.dedup();
        let places = |columns: &[usize]| -> Vec<usize> {
            let place = |column| wanted.iter().position(|one| one == column);
            columns.iter().filter_map(place).collect()
        };
        let lookup = self.external.table.lookup(&wanted);
        let lookup = lookup.map_err(|error| failed(error.report()))?;
        let of_table = |one: &OfTable| {
            let condition = state.create_physical_expr(one.condition.clone(), &one.schema)?;
            let schema = Arc::clone(one.schema.inner());
            Ok::<_, DataFusionError>((condition, schema, places(&one.columns)))
        };
        let expression =
            |expr: &Expr, schema: &DFSchemaRef| state.create_physical_expr(expr.clone(), schema);
        let keys = self
            .keys
            .iter()
            .map(|key| expression(key, self.left.schema()));
        let condition = self.condition.as_ref();
        let condition = condition.map(|condition| expression(condition, &self.pair));
        let spec = Spec {
            external: Arc::clone(&self.external),
            lookup: Arc::new(lookup),
            outer: self.outer,
            keys: keys.collect::<DataFusionResult<_>>()?,
            conditions: self
                .conditions
                .iter()
                .map(of_table)
                .collect::<DataFusionResult<_>>()?,
            condition: condition.transpose()?,
            pair: Arc::clone(self.pair.inner()),
            places: places(&self.columns),
            schema: Arc::clone(&self.schema),
        };
        let rows: Arc<dyn PartitionStream> = Arc::new(Rows {
            left,
            spec: Arc::new(spec),
        });
        let schema = Arc::clone(&self.schema);
        let exec = StreamingTableExec::try_new(schema, vec![rows], None, None, false, limit)?;
        Ok(Arc::new(exec))
    }
}

fn failed(report: thalweg_catalog::Report) -> DataFusionError {
    DataFusionError::External(Box::new(report))
}

/// What is done with each batch of the left side.
#[derive(Debug)]
struct Spec {
    external: Arc<External>,
    lookup: Arc<HbaseLookup>,
    outer: bool,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Conditions on found rows, with their columns among those that are found.
    conditions: Vec<(Arc<dyn PhysicalExpr>, SchemaRef, Vec<usize>)>,
    condition: Option<Arc<dyn PhysicalExpr>>,
    pair: SchemaRef,
    /// Columns of the right side among those that are found.
    places: Vec<usize>,
    schema: SchemaRef,
}

#[derive(Debug)]
struct Rows {
    left: Arc<dyn ExecutionPlan>,
    spec: Arc<Spec>,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.spec.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.spec.schema);
        let spec = Arc::clone(&self.spec);
        let found = match execute_stream(Arc::clone(&self.left), context) {
            Ok(left) => left
                .map(move |batch| {
                    let spec = Arc::clone(&spec);
                    async move { spec.joined(batch?).await }
                })
                .buffered(AHEAD)
                .left_stream(),
            Err(error) => futures::stream::iter([Err(error)]).right_stream(),
        };
        Box::pin(RecordBatchStreamAdapter::new(schema, found))
    }
}

impl Spec {
    async fn joined(&self, left: RecordBatch) -> DataFusionResult<RecordBatch> {
        let rows = left.num_rows();
        let keys = self
            .keys
            .iter()
            .map(|key| key.evaluate(&left)?.into_array(rows));
        let keys: Vec<ArrayRef> = keys.collect::<DataFusionResult<_>>()?;
        let lookup = Arc::clone(&self.lookup);
        // Queries run where there are no sockets.
        let asked = self
            .external
            .wires
            .spawn(async move { lookup.rows(&keys).await });
        let asked = joined(asked.await).map_err(|error| failed(error.report()))?;
        let rows = asked.map_err(|error| failed(error.report()))?;
        let present = rows.iter().flatten().map(AsRef::as_ref);
        let found = self.lookup.decode(present);
        let found = found.map_err(|error| failed(error.report()))?;
        let mut next = 0;
        let place = |row: &Option<_>| {
            row.as_ref().map(|_| {
                next += 1;
                next - 1
            })
        };
        let mut places: UInt32Array = rows.iter().map(place).collect();
        for (condition, schema, columns) in &self.conditions {
            let batch = of_columns(
                schema,
                columns
                    .iter()
                    .filter_map(|at| found.columns().get(*at).cloned()),
                found.num_rows(),
            )?;
            let holds = holds(condition, &batch)?;
            let kept = |place: Option<u32>| place.filter(|at| holds.value(*at as usize));
            places = places.iter().map(kept).collect();
        }
        if let Some(condition) = &self.condition {
            let pair = self.pair(&self.pair, &left, &found, &places)?;
            let holds = holds(condition, &pair)?;
            let kept = |(at, place): (usize, Option<u32>)| place.filter(|_| holds.value(at));
            places = places.iter().enumerate().map(kept).collect();
        }
        match self.outer {
            true => self.pair(&self.schema, &left, &found, &places),
            false => {
                let pair = self.pair(&self.pair, &left, &found, &places)?;
                let there: BooleanArray =
                    places.iter().map(|place| Some(place.is_some())).collect();
                let kept = filter_record_batch(&pair, &there)?;
                of_columns(
                    &self.schema,
                    kept.columns().iter().cloned(),
                    kept.num_rows(),
                )
            }
        }
    }

    /// The rows of the left side beside those of the table at their places.
    fn pair(
        &self,
        schema: &SchemaRef,
        left: &RecordBatch,
        found: &RecordBatch,
        places: &UInt32Array,
    ) -> DataFusionResult<RecordBatch> {
        let mut columns = left.columns().to_vec();
        for at in &self.places {
            columns.push(take(found.column(*at).as_ref(), places, None)?);
        }
        of_columns(schema, columns, left.num_rows())
    }
}

fn of_columns(
    schema: &SchemaRef,
    columns: impl IntoIterator<Item = ArrayRef>,
    rows: usize,
) -> DataFusionResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let columns = columns.into_iter().collect();
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// For which rows a condition is true.
fn holds(condition: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> DataFusionResult<BooleanArray> {
    let values = condition.evaluate(batch)?.into_array(batch.num_rows())?;
    let values = values.as_boolean();
    Ok(values
        .iter()
        .map(|value| Some(value == Some(true)))
        .collect())
}
