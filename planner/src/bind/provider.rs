//! Names for DataFusion's planner: relations through the catalog, functions through the registry.
//!
//! Invariant: a name resolves the same way however it is met: system schemas first, then the search path, then 42P01.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::common::{DataFusionError, Result, TableReference};
use datafusion::config::ConfigOptions;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, TableType, WindowUDF,
};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use thalweg_catalog::{Oid, Relation, RelationKind, SqlType};
use thalweg_sql::ast;

use super::binder::{Binder, Parameters};
use super::full_join::Merged;
use super::node::{Nodes, PACK};
use super::normalize::{Normalizer, Trial};
use crate::context::{PlanContext, RelationScan};
use crate::error::{PlanError, raise};
use crate::functions::native::Native;
use crate::registry::Registry;

thread_local! {
    /// How many views deep this thread is planning.
    static VIEW_DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// One statement's planning: the AST pre-pass, then DataFusion's planner with our names and types.
pub(crate) struct Session<'a> {
    pub(crate) cx: &'a PlanContext<'a>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) parameters: Arc<Parameters>,
    pub(crate) binder: Arc<Binder>,
    pub(crate) continuous: bool,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
    pack: Arc<ScalarUDF>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        cx: &'a PlanContext<'a>,
        registry: &Arc<Registry>,
        parameters: Arc<Parameters>,
        continuous: bool,
    ) -> Session<'a> {
        let nodes = Arc::new(Nodes::default());
        let binder = Arc::new(Binder {
            nodes: Arc::clone(&nodes),
            registry: Arc::clone(registry),
            parameters: Arc::clone(&parameters),
            time_zone: cx.time_zone.to_owned(),
            user: cx.user.to_owned(),
            system: cx.system.functions(),
        });
        let pack = Native::new(PACK, vec![SqlType::Unknown], SqlType::Text, |_| {
            Err(raise("XX000", "an operand list was executed"))
        });
        Session {
            cx,
            registry: Arc::clone(registry),
            planners: vec![Arc::clone(&binder) as Arc<dyn ExprPlanner>],
            nodes,
            parameters,
            binder,
            continuous,
            options: crate::planner::options(),
            pack: Arc::new(ScalarUDF::from(pack)),
        }
    }

    pub(crate) fn normalizer(&'a self) -> Normalizer<'a> {
        Normalizer {
            nodes: &self.nodes,
            registry: &self.registry,
            trial: self,
            ctes: Vec::new(),
            place: Default::default(),
            merged: vec![Merged::default()],
            qualified: Vec::new(),
            limit_parameters: Vec::new(),
            continuous: self.continuous,
            depth: 0,
        }
    }

    /// Plans a query as written.
    pub(crate) fn query(&self, query: &ast::Query) -> std::result::Result<LogicalPlan, PlanError> {
        let mut query = query.clone();
        let mut normalizer = self.normalizer();
        normalizer.query(&mut query)?;
        for n in normalizer.limit_parameters {
            self.parameters.note(n, Some(SqlType::Int8));
        }
        self.plan(query).map_err(|e| self.located(&e))
    }

    /// Plans a query that is normalised already.
    pub(crate) fn plan(&self, query: ast::Query) -> Result<LogicalPlan> {
        self.sql_to_rel()
            .sql_statement_to_plan(ast::Statement::Query(Box::new(query)))
    }

    pub(crate) fn sql_to_rel(&self) -> SqlToRel<'_, Self> {
        let options = ParserOptions::new().with_collect_spans(true);
        SqlToRel::new_with_options(self, options)
    }

    /// The report of a planning error, with a position when it names something that stands once in the text.
    pub(crate) fn located(&self, error: &DataFusionError) -> PlanError {
        let mut report = crate::error::classify(error);
        if report.position.is_none() {
            let start = error_span(error).and_then(|span| offset(self.cx.text, span.0, span.1));
            let name = report.message.split('"').nth(1).map(str::to_owned);
            report.position = match (start, name) {
                (Some(at), Some(name)) if stands_at(self.cx.text, at, &name) => Some(at + 1),
                (_, Some(name)) if matches!(report.sqlstate, "42703" | "42P01" | "42702") => {
                    only_place(self.cx.text, &name)
                }
                _ => None,
            };
        }
        PlanError::from(report)
    }

    /// The table behind a name that [`crate::lookup::MARK`] stands before.
    fn looked_up(&self, name: &TableReference) -> Result<Arc<dyn TableSource>> {
        let source = self.relation(name)?;
        match source.downcast_ref::<RelationScan>() {
            Some(scan) if scan.outside.is_some() => Ok(Arc::new(RelationScan {
                as_of_now: true,
                ..scan.clone()
            })),
            _ => Err(PlanError::hint(
                "0A000",
                format!(
                    "FOR SYSTEM_TIME AS OF PROCTIME() of \"{}\" is not supported: it is no table with connector hbase",
                    name.table()
                ),
                "Join it without FOR SYSTEM_TIME AS OF: its changes then reach the rows that are joined already.",
            )
            .into()),
        }
    }

    /// What `HYBRID(archive, source)` stands for.
    fn hybrid(&self, archive: &str, source: &str) -> Result<Arc<dyn TableSource>> {
        let resolve = |packed: &str| {
            let name = crate::hybrid::unpacked(packed);
            let found = self.cx.catalog.resolve(self.cx.search_path, &name);
            found.map_err(|error| DataFusionError::External(Box::new(error.report())))
        };
        let (query, columns) =
            crate::hybrid::halves(resolve(archive)?, resolve(source)?, self.continuous)?;
        let cx = PlanContext {
            parameter_types: &[],
            text: "",
            ..*self.cx
        };
        Ok(self.inlined(&cx, &query, &columns)?)
    }

    /// One half of a hybrid.
    fn half(&self, oid: &str, after: &str) -> Result<Arc<dyn TableSource>> {
        let known = |text: &str| {
            let oid = Oid(text.parse().ok()?);
            self.cx.catalog.relation(oid)
        };
        let Some(relation) = known(oid) else {
            return Err(raise("XX000", "a half of a hybrid is not in the catalog"));
        };
        Ok(Arc::new(RelationScan {
            after: known(after).map(|archive| archive.oid),
            ..RelationScan::of(relation)
        }))
    }

    fn relation(&self, name: &TableReference) -> Result<Arc<dyn TableSource>> {
        match (name.catalog(), name.schema()) {
            (Some(crate::hybrid::MARK), Some(archive)) => {
                return self.hybrid(archive, name.table());
            }
            (Some(crate::hybrid::HALF), Some(oid)) => return self.half(oid, name.table()),
            (Some(crate::lookup::MARK), Some(schema)) => {
                return self.looked_up(&TableReference::partial(schema, name.table()));
            }
            (None, Some(crate::lookup::MARK)) => {
                return self.looked_up(&TableReference::bare(name.table()));
            }
            _ => {}
        }
        let system = |schema: &str, table: &str| {
            self.cx
                .system
                .relation(schema, table)
                .map(provider_as_source)
        };
        let table = name.table();
        if let Some(schema) = name.schema() {
            if let Some(source) = system(schema, table) {
                return Ok(source);
            }
            if let Some(relation) = self.cx.catalog.find(schema, table) {
                return self.source(relation);
            }
        } else {
            let listed = self.cx.search_path.iter().any(|s| s == "pg_catalog");
            let first = (!listed).then_some("pg_catalog");
            for schema in first
                .into_iter()
                .chain(self.cx.search_path.iter().map(String::as_str))
            {
                if let Some(source) = system(schema, table) {
                    return Ok(source);
                }
                if let Some(relation) = self.cx.catalog.find(schema, table) {
                    return self.source(relation);
                }
            }
        }
        let parts = [name.catalog(), name.schema(), Some(table)];
        let parts = parts
            .into_iter()
            .flatten()
            .map(|p| ast::ObjectNamePart::Identifier(crate::names::quoted(p)))
            .collect();
        match self
            .cx
            .catalog
            .resolve(self.cx.search_path, &ast::ObjectName(parts))
        {
            Ok(relation) => self.source(relation),
            Err(error) => Err(DataFusionError::External(Box::new(error.report()))),
        }
    }

    fn source(&self, relation: &Relation) -> Result<Arc<dyn TableSource>> {
        match &relation.kind {
            RelationKind::View { query } => self.expand(relation, query),
            RelationKind::Sink(_) => Err(raise(
                "42809",
                format!("cannot read from sink \"{}\"", relation.name),
            )),
            _ => Ok(Arc::new(RelationScan::of(relation))),
        }
    }

    /// Plans a view's stored text in the environment it was created in.
    fn expand(&self, relation: &Relation, text: &str) -> Result<Arc<dyn TableSource>> {
        let depth = VIEW_DEPTH.get();
        if depth >= crate::limits::VIEW_DEPTH_MAX {
            return Err(raise("54001", "views are nested too deeply"));
        }
        let query = thalweg_sql::parse_query(text)
            .map_err(|e| DataFusionError::External(Box::new(e.report())))?;
        let cx = PlanContext {
            search_path: &relation.environment.search_path,
            time_zone: &relation.environment.time_zone,
            parameter_types: &[],
            text,
            ..*self.cx
        };
        VIEW_DEPTH.set(depth + 1);
        let columns: Vec<(String, SqlType)> = relation
            .columns
            .iter()
            .map(|c| (c.name.clone(), c.ty.clone()))
            .collect();
        let planned = self.inlined(&cx, &query, &columns);
        VIEW_DEPTH.set(depth);
        planned.map_err(|error| {
            let mut report = error.report();
            report.position = None;
            DataFusionError::External(Box::new(report))
        })
    }

    /// A query that stands in the place of a relation with these columns.
    fn inlined(
        &self,
        cx: &PlanContext<'_>,
        query: &ast::Query,
        columns: &[(String, SqlType)],
    ) -> std::result::Result<Arc<dyn TableSource>, PlanError> {
        let parameters = Arc::new(Parameters::default());
        let session = Session::new(cx, &self.registry, parameters, self.continuous);
        let plan = crate::output::shaped(session.query(query)?, columns)?;
        Ok(Arc::new(ViewSource {
            schema: Arc::new(plan.schema().as_arrow().clone()),
            plan,
        }))
    }
}

impl Trial for Session<'_> {
    fn columns(&self, query: &ast::Query) -> Option<Vec<(String, SqlType)>> {
        let plan = self.plan(query.clone()).ok()?;
        let names = plan.schema().fields().iter().map(|f| f.name().clone());
        Some(names.zip(crate::output::branch_types(&plan)).collect())
    }
}

/// A view as DataFusion inlines it.
struct ViewSource {
    schema: SchemaRef,
    plan: LogicalPlan,
}

impl TableSource for ViewSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

impl ContextProvider for Session<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        self.relation(&name)
    }

    fn get_table_function_source(
        &self,
        name: &str,
        _args: Vec<Expr>,
    ) -> Result<Arc<dyn TableSource>> {
        Err(self.registry.unknown_function(name, None).into())
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(
            name, schema,
        ))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        // Only operand lists come as plain scalar calls; everything else is a node.
        (name == PACK).then(|| Arc::clone(&self.pack))
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.registry.aggregate(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.registry.window(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.registry.scalar_names()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.registry.aggregate_names()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.registry.window_names()
    }
}

/// Line and column of the expression an error is about.
fn error_span(error: &DataFusionError) -> Option<(u64, u64)> {
    match error {
        DataFusionError::Context(_, inner) => error_span(inner),
        DataFusionError::Diagnostic(diagnostic, inner) => diagnostic
            .span
            .map(|s| (s.start.line, s.start.column))
            .or_else(|| error_span(inner)),
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            datafusion::common::SchemaError::FieldNotFound { field, .. } => {
                field.spans.first().map(|s| (s.start.line, s.start.column))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Character offset, from 0, of a line and column, both from 1.
fn offset(text: &str, line: u64, column: u64) -> Option<usize> {
    let mut at = 0;
    for (i, content) in text.split('\n').enumerate() {
        if u64::try_from(i + 1).ok()? == line {
            return Some(at + usize::try_from(column).ok()?.checked_sub(1)?);
        }
        at += content.chars().count() + 1;
    }
    None
}

fn stands_at(text: &str, at: usize, name: &str) -> bool {
    let here: String = text
        .chars()
        .skip(at)
        .take(name.chars().count() + 130)
        .collect();
    let here = here.to_lowercase();
    let last = name.rsplit('.').next().unwrap_or(name).to_lowercase();
    here.split(|c: char| c.is_whitespace() || matches!(c, ',' | ')' | ';'))
        .next()
        .is_some_and(|word| word.contains(&last))
}

/// Where a name stands, when it stands in exactly one place.
fn only_place(text: &str, name: &str) -> Option<usize> {
    let last = name.rsplit('.').next().unwrap_or(name).to_lowercase();
    let lower = text.to_lowercase();
    if last.is_empty() || lower.len() != text.len() {
        return None;
    }
    let boundary = |c: Option<char>| c.is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
    let mut found = lower.match_indices(&last).filter(|(at, word)| {
        boundary(lower[..*at].chars().next_back())
            && boundary(lower[at + word.len()..].chars().next())
    });
    let first = found.next()?;
    found
        .next()
        .is_none()
        .then(|| lower[..first.0].chars().count() + 1)
}

/// A relation's schema as the planner scans it.
pub(crate) fn scan_schema(columns: &[thalweg_catalog::Column]) -> Schema {
    Schema::new(
        columns
            .iter()
            .map(|c| c.ty.field(&c.name, !c.not_null))
            .collect::<Vec<_>>(),
    )
}
