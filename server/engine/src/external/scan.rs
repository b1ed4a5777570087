//! Scans of tables that an outside system keeps, with what a query wants of them first.
//!
//! Invariant: what a plan says above a scan only saves rows: filters are applied again unless the row keys say the same, and an
//! order is promised only when rows come in it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DataFusionResult;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Expr, FetchType, LogicalPlan, Projection, SkipType, SortExpr, TableProviderFilterPushDown,
    TableScan, TableType,
};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use thalweg_connectors::{Comparison, Condition, HbaseScan, KeyOrder};

use super::External;
use super::condition::{Known, known};
use super::lookup::{LookupTable, looked_up};
use crate::batch::with_relations;
use crate::error::EngineError;
use crate::shared::Shared;

/// The table for a query.
pub(super) fn provider(external: &Arc<External>) -> Arc<dyn TableProvider> {
    Arc::new(Provider {
        external: Arc::clone(external),
        wish: None,
        as_of_now: false,
    })
}

/// A table that rows of a join are looked up in; other tables stay as they are.
pub(crate) fn as_of_now(table: Arc<dyn TableProvider>) -> Arc<dyn TableProvider> {
    match table.downcast_ref::<Provider>() {
        Some(provider) => Arc::new(Provider {
            external: Arc::clone(&provider.external),
            wish: None,
            as_of_now: true,
        }),
        None => table,
    }
}

/// The first rows of a table that are enough for a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    /// By their keys, or any.
    order: Option<KeyOrder>,
    rows: usize,
    /// No row is left out above the scan.
    all: bool,
}

#[derive(Debug)]
pub(super) struct Provider {
    external: Arc<External>,
    wish: Option<Wish>,
    /// Joined as it is when a row comes.
    as_of_now: bool,
}

/// How a scan is read.
struct Asked {
    scan: HbaseScan,
    /// Columns of the table that have one value in all rows that come.
    constant: Vec<usize>,
    /// Every filter is fulfilled by all rows that come.
    exact: bool,
}

impl Provider {
    /// The table, when its rows are looked up.
    pub(super) fn to_look_up(&self) -> Option<Arc<External>> {
        self.as_of_now.then(|| Arc::clone(&self.external))
    }

    fn ask(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Asked {
        let external = &self.external;
        let all = || (0..external.schema.fields().len()).collect();
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let found = filters.iter().map(|one| known(one, &external.schema));
        let found: Vec<Option<Known>> = found.collect();
        // A filter that says more than its condition must be applied before rows are counted.
        let same = found
            .iter()
            .all(|one| one.as_ref().is_some_and(|one| one.same));
        let conditions = found.into_iter().flatten().map(|one| one.condition);
        let conditions: Vec<Condition> = conditions.collect();
        let limit = limit.filter(|_| same);
        let mut scan = external.table.plan(&wanted, &conditions, limit);
        let exact = same && scan.exact().iter().all(|exact| *exact);
        if let Some(wish) = &self.wish {
            if let Some(order) = wish.order {
                scan = scan.in_key_order(order, Some(wish.rows));
            }
            if wish.all && exact {
                scan = scan.at_most(wish.rows);
            }
        }
        let constant = conditions.iter().zip(scan.exact());
        let constant = constant.filter_map(|(condition, exact)| match condition {
            Condition::Compare {
                column,
                comparison: Comparison::Equal,
                ..
            } if *exact => Some(*column),
            _ => None,
        });
        Asked {
            constant: constant.collect(),
            exact,
            scan,
        }
    }

    /// Columns of the key that rows are sorted by, each with whether its values ascend as keys do, but for those that have one
    /// value.
    fn sorted_by<'a>(&'a self, constant: &'a [usize]) -> impl Iterator<Item = (usize, bool)> + 'a {
        let sorted = self.external.table.sorted_columns().into_iter();
        let key = self.external.key.iter().copied();
        let key = key.zip(sorted.map(|order| order == KeyOrder::Ascending));
        key.filter(|(column, _)| !constant.contains(column))
    }
}

/// What a plan asks outside systems for.
pub(crate) fn explain(shared: &Shared, plan: &LogicalPlan) -> Result<Vec<String>, EngineError> {
    let tables = shared.external.read().clone();
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let bound = plan.clone().transform_up_with_subqueries(|node| {
        let leaf = match &node {
            LogicalPlan::TableScan(scan) => scan
                .source
                .downcast_ref::<thalweg_planner::RelationScan>()
                .and_then(|leaf| tables.get(&leaf.oid)),
            _ => None,
        };
        match leaf {
            Some(external) => {
                with_relations(node, &mut |_| Ok(external.provider())).map(Transformed::yes)
            }
            None => Ok(Transformed::no(node)),
        }
    })?;
    let optimized = wished(shared.planner.session_state().optimize(&bound.data)?)?;
    let mut lines = Vec::new();
    describe(&optimized, &mut lines)?;
    Ok(lines)
}

fn describe(plan: &LogicalPlan, lines: &mut Vec<String>) -> DataFusionResult<()> {
    plan.apply_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = node else {
            return Ok(TreeNodeRecursion::Continue);
        };
        let Ok(provider) = source_as_provider(&scan.source) else {
            return Ok(TreeNodeRecursion::Continue);
        };
        if let Some(provider) = provider.downcast_ref::<Provider>() {
            let asked = provider.ask(scan.projection.as_ref(), &scan.filters, scan.fetch);
            let name = &provider.external.name;
            lines.push(format!("HBase {name}: {}", asked.scan.describe()));
        }
        if let Some(table) = provider.downcast_ref::<LookupTable>() {
            describe(&table.left, lines)?;
            let name = &table.external.name;
            lines.push(format!(
                "HBase {name}: the row keys that the left side names"
            ));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// Tells outside tables what an optimised plan wants of them: rows by the keys that others name, or those that come first by
/// `ORDER BY key DESC LIMIT n`, or any by `LIMIT n`.
pub(crate) fn wished(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let done = looked_up(plan)?.transform_down_with_subqueries(|node| {
        let input = match &node {
            LogicalPlan::Sort(sort) => match sort.fetch {
                Some(rows) => sort_columns(&sort.expr, &sort.input)
                    .map(|columns| lowered(&sort.input, &columns, rows, Vec::new())),
                None => None,
            },
            LogicalPlan::Limit(limit) => match (limit.get_skip_type()?, limit.get_fetch_type()?) {
                (SkipType::Literal(skip), FetchType::Literal(Some(rows))) => {
                    let rows = rows.saturating_add(skip);
                    Some(lowered(&limit.input, &[], rows, Vec::new()))
                }
                _ => None,
            },
            _ => None,
        };
        match input.transpose()?.flatten() {
            Some(input) => {
                let expressions = node.expressions();
                node.with_new_exprs(expressions, vec![input])
                    .map(Transformed::yes)
            }
            None => Ok(Transformed::no(node)),
        }
    })?;
    Ok(done.data)
}

/// Positions of the columns that a sort is by, and whether each is ascending; `None` when it is by anything else.
fn sort_columns(sort: &[SortExpr], input: &LogicalPlan) -> Option<Vec<(usize, bool)>> {
    let column = |one: &SortExpr| match &one.expr {
        Expr::Column(column) => {
            let at = input.schema().maybe_index_of_column(column)?;
            Some((at, one.asc))
        }
        _ => None,
    };
    sort.iter().map(column).collect()
}

/// The same plan, whose scan knows how many rows are wanted in which order; `None` when it is of no use to it. `conditions` are
/// applied above.
fn lowered(
    plan: &LogicalPlan,
    sort: &[(usize, bool)],
    rows: usize,
    mut conditions: Vec<Expr>,
) -> DataFusionResult<Option<LogicalPlan>> {
    let input = match plan {
        LogicalPlan::Projection(projection) => {
            let Some(sort) = below(projection, sort) else {
                return Ok(None);
            };
            lowered(&projection.input, &sort, rows, conditions)?
        }
        LogicalPlan::SubqueryAlias(alias) => lowered(&alias.input, sort, rows, conditions)?,
        LogicalPlan::Filter(filter) => {
            conditions.extend(split_conjunction(&filter.predicate).into_iter().cloned());
            lowered(&filter.input, sort, rows, conditions)?
        }
        LogicalPlan::TableScan(scan) => return Ok(at_scan(scan, sort, rows, &conditions)),
        _ => None,
    };
    match input {
        Some(input) => plan
            .with_new_exprs(plan.expressions(), vec![input])
            .map(Some),
        None => Ok(None),
    }
}

/// The sort below a projection.
fn below(projection: &Projection, sort: &[(usize, bool)]) -> Option<Vec<(usize, bool)>> {
    let column = |(at, ascending): &(usize, bool)| {
        let mut expression = projection.expr.get(*at)?;
        while let Expr::Alias(alias) = expression {
            expression = &alias.expr;
        }
        match expression {
            Expr::Column(column) => {
                let at = projection.input.schema().maybe_index_of_column(column)?;
                Some((at, *ascending))
            }
            _ => None,
        }
    };
    sort.iter().map(column).collect()
}

fn at_scan(
    scan: &TableScan,
    sort: &[(usize, bool)],
    rows: usize,
    conditions: &[Expr],
) -> Option<LogicalPlan> {
    let provider = source_as_provider(&scan.source).ok()?;
    let provider = provider.downcast_ref::<Provider>()?;
    let asked = provider.ask(scan.projection.as_ref(), &scan.filters, None);
    let in_table = |at: &usize| match &scan.projection {
        Some(projection) => projection.get(*at).copied(),
        None => Some(*at),
    };
    // Whether rows are wanted in the order of their keys, which is that of each column of the sort, or of none.
    let mut ascending = None;
    let mut key = provider.sorted_by(&asked.constant);
    for (at, asc) in sort {
        let column = in_table(at)?;
        if asked.constant.contains(&column) {
            continue;
        }
        let along = key
            .next()
            .and_then(|(next, ascends)| (next == column).then_some(ascends == *asc))?;
        if *ascending.get_or_insert(along) != along {
            return None;
        }
    }
    let wish = Wish {
        order: ascending.map(|ascending| match ascending {
            true => KeyOrder::Ascending,
            false => KeyOrder::Descending,
        }),
        rows,
        all: asked.exact && conditions.iter().all(|one| scan.filters.contains(one)),
    };
    let provider = Provider {
        external: Arc::clone(&provider.external),
        wish: Some(wish),
        as_of_now: provider.as_of_now,
    };
    Some(LogicalPlan::TableScan(TableScan {
        source: provider_as_source(Arc::new(provider)),
        ..scan.clone()
    }))
}

#[async_trait]
impl TableProvider for Provider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.external.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Whatever is pushed down is applied again: HBase compares bytes, a query values.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let answer = |filter: &&Expr| match known(filter, &self.external.schema) {
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
            Some(wanted) => Arc::new(self.external.schema.project(wanted)?),
            None => Arc::clone(&self.external.schema),
        };
        let asked = self.ask(projection, filters, limit);
        let ordering = self.wish.and_then(|wish| wish.order).and_then(|order| {
            let backwards = order == KeyOrder::Descending;
            let sorted = self.sorted_by(&asked.constant);
            // Columns that are not read end what can be said of the order.
            let sorted = sorted.map_while(|(column, ascends)| {
                let name = self.external.schema.field(column).name();
                Some((name, schema.index_of(name).ok()?, ascends == backwards))
            });
            LexOrdering::new(sorted.map(|(name, at, descending)| PhysicalSortExpr {
                expr: Arc::new(PhysicalColumn::new(name, at)),
                options: SortOptions {
                    descending,
                    nulls_first: descending,
                },
            }))
        });
        // Rows that a filter leaves out above do not count.
        let limit = limit.filter(|_| asked.exact);
        let rows = Rows {
            external: Arc::clone(&self.external),
            schema: Arc::clone(&schema),
            scan: asked.scan,
        };
        let rows: Arc<dyn PartitionStream> = Arc::new(rows);
        let exec = StreamingTableExec::try_new(schema, vec![rows], None, ordering, false, limit)?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{DataFrame, SessionContext, col, lit};
    use thalweg_catalog::{Column, ColumnRole, SqlType};
    use thalweg_connectors::{ConnectorContext, HbaseTable, SystemClock};
    use tokio::runtime::Handle;

    use super::*;

    /// A table of a text key that nobody serves.
    fn table() -> DataFrame {
        keyed(&["k"], &[])
    }

    /// A table of columns `key` and `v`, of text.
    fn keyed(key: &[&str], more: &[(&str, &str)]) -> DataFrame {
        let column = |name: &str, not_null| Column {
            name: name.into(),
            attnum: 1,
            ty: SqlType::Text,
            not_null,
            default: None,
            generated: None,
            role: ColumnRole::Data,
        };
        let options = [("thrift.servers", "h:1"), ("table", "t"), ("family", "d")];
        let options = options.iter().chain(more);
        let options = options.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options: BTreeMap<String, String> = options.collect();
        let context = ConnectorContext::new(Arc::new(SystemClock));
        let mut columns: Vec<Column> = key.iter().map(|name| column(name, true)).collect();
        columns.push(column("v", false));
        let key: Vec<usize> = (0..key.len()).collect();
        let table = HbaseTable::new(&columns, &key, &options, &context);
        let table = Arc::new(table.expect("a table"));
        let external = External {
            name: "t".into(),
            schema: table.schema(),
            key,
            table,
            wires: Handle::current(),
        };
        let session = SessionContext::new();
        session
            .read_table(provider(&Arc::new(external)))
            .expect("a table to read")
    }

    fn asked(query: DataFrame) -> Vec<String> {
        let plan = query.into_optimized_plan().and_then(wished).expect("plans");
        let mut lines = Vec::new();
        describe(&plan, &mut lines).expect("describes");
        lines
    }

    /// Rows are counted in HBase only when no filter above can leave one of them out.
    #[tokio::test]
    async fn a_limit_goes_along_with_patterns_that_are_beginnings_alone() {
        for (pattern, range, limited) in [
            ("p%", "1 ranges of row keys", true),
            (r"user\_1%", "1 ranges of row keys", true),
            ("abc", "1 row keys", true),
            ("p%x", "1 ranges of row keys", false),
            ("a_c", "1 ranges of row keys", false),
            (r"user\_1%x", "1 ranges of row keys", false),
            ("%x", "all rows", false),
        ] {
            let filtered = table()
                .filter(col("k").like(lit(pattern)))
                .expect("filters");
            let limit = if limited { ", at most 3 rows" } else { "" };
            let any = filtered.clone().limit(0, Some(3)).expect("limits");
            assert_eq!(
                asked(any),
                [format!("HBase t: {range}{limit}")],
                "{pattern}"
            );
            let sorted = filtered.sort(vec![col("k").sort(false, false)]);
            let last = sorted.and_then(|sorted| sorted.limit(0, Some(3)));
            // A key that is given needs no order.
            let order = match range.contains("ranges") || range == "all rows" {
                true => ", last key first",
                false => "",
            };
            assert_eq!(
                asked(last.expect("limits")),
                [format!("HBase t: {range}{order}{limit}")],
                "{pattern}"
            );
        }
    }

    /// Rows are read along keys, or against them, where each column of the sort goes so.
    #[tokio::test]
    async fn an_order_is_that_of_keys_or_the_reverse() {
        let first = Some(", in key order");
        let last = Some(", last key first");
        for (descending, sort, expected) in [
            ("b", vec![("a", true), ("b", false)], first),
            ("b", vec![("a", false), ("b", true)], last),
            ("b", vec![("a", true), ("b", true)], None),
            ("b", vec![("a", true)], first),
            ("a", vec![("a", true)], last),
            ("a, b", vec![("a", false), ("b", false)], first),
            ("a, b", vec![("a", true), ("b", true)], last),
            ("a", vec![("b", true)], None),
        ] {
            let by = sort.iter().map(|(name, asc)| col(*name).sort(*asc, !*asc));
            let sorted = keyed(&["a", "b"], &[("key.desc", descending)]).sort(by.collect());
            let some = sorted.and_then(|sorted| sorted.limit(0, Some(3)));
            let some = some.expect("limits");
            let order = expected.map_or(String::new(), |order| format!("{order}, at most 3 rows"));
            let context = format!("{descending}: {sort:?}");
            assert_eq!(
                asked(some.clone()),
                [format!("HBase t: all rows{order}")],
                "{context}"
            );
            // What is said of the order is believed: nothing sorts again.
            let plan = some.into_optimized_plan().and_then(wished).expect("plans");
            let session = SessionContext::new().state();
            let plan = session.create_physical_plan(&plan).await.expect("plans");
            let plan = displayable(plan.as_ref()).indent(false).to_string();
            assert_eq!(
                plan.contains("Sort"),
                expected.is_none(),
                "{context}: {plan}"
            );
        }
    }
}
