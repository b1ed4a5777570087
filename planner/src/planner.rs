//! The planner: one immutable object that turns statements into plans.
//!
//! Invariant: planning reads only its arguments; the same statement against the same catalog gives the same plan.

use std::sync::Arc;

use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, InvariantLevel, LogicalPlan};
use datafusion::optimizer::{Analyzer, Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use thalweg_catalog::{Column, SqlType};
use thalweg_sql::{Report, ast};

use crate::bind::binder::Parameters;
use crate::bind::provider::Session;
use crate::context::{DmlPlan, Functions, PlanContext, QueryPlan, ViewPlan};
use crate::error::PlanError;
use crate::registry::Registry;
use crate::rewrite;

/// Plans statements; share one behind an `Arc`.
#[derive(Debug)]
pub struct Planner {
    pub(crate) registry: Arc<Registry>,
    extra: Functions,
}

/// The DataFusion options every plan of ours is made and run under.
pub(crate) fn options() -> ConfigOptions {
    let mut options = ConfigOptions::new();
    options.sql_parser.collect_spans = true;
    options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
    options.execution.time_zone = Some("UTC".to_owned());
    // Field metadata differs between logical and physical aggregates of ours without consequence.
    options.execution.skip_physical_aggregate_schema_check = true;
    // Filters and joins may not be moved so that an error appears which the query as written does not have.
    options.optimizer.filter_null_join_keys = false;
    // Sorting the parts before they are merged leaves columns that a filter makes constant out of the parts' order and not out of
    // the merge's, and the plan is refused (oracle seed 7793).
    options.optimizer.repartition_sorts = false;
    options
}

/// DataFusion's rules that must not run on our plans.
///
/// `single_distinct_aggregation_to_group_by` turns `sum(a), count(DISTINCT b)` into two aggregations and calls our sum on its own
/// result, whose type it was not resolved for. `eliminate_outer_join` takes `NOT (x OR a.c IS NOT NULL)` for proof that `a` is
/// not the NULL side of the join, and loses the rows of the other side (oracle seed 422, against SQLite).
const RULES_OFF: [&str; 2] = [
    "single_distinct_aggregation_to_group_by",
    "eliminate_outer_join",
];

/// DataFusion's physical rules that must not run on our plans.
///
/// `FilterPushdown` moves a condition on the NULL side of an outer join below the join, and to the other side, when the join
/// carries a projection (oracle seed 525, against SQLite). Filters are pushed down in the logical plan already.
const PHYSICAL_RULES_OFF: [&str; 2] = ["FilterPushdown", "FilterPushdown(Post)"];

fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.retain(|rule| !PHYSICAL_RULES_OFF.contains(&rule.name()));
    rules
}

fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    rules.retain(|rule| !RULES_OFF.contains(&rule.name()));
    for rule in &mut rules {
        if rule.name() == "simplify_expressions" {
            *rule = Arc::new(rewrite::simplify::Simplify::default());
        }
    }
    rules
}

impl Planner {
    /// A planner with the server's functions added.
    pub fn new(extra: Functions) -> Planner {
        Planner {
            registry: Arc::new(Registry::new(&extra)),
            extra,
        }
    }

    /// Plans a query.
    ///
    /// # Errors
    /// Whatever is wrong with the query, with its SQLSTATE and, where it has one, its position.
    pub fn query(&self, cx: &PlanContext<'_>, query: &ast::Query) -> Result<QueryPlan, PlanError> {
        let (plan, parameters) = self.inferred(cx, false, |session| session.query(query))?;
        let plan = self.finish(cx, plan)?;
        Ok(QueryPlan {
            output: crate::output::columns(&plan),
            reads: crate::output::reads(&plan),
            uses_now: rewrite::now::occurs(&plan),
            parameters,
            plan,
        })
    }

    /// Plans the query of a view, materialized view or sink.
    ///
    /// # Errors
    /// As [`Planner::query`]; also 42701 for repeated column names, 0A000 for volatile functions and recursion.
    pub fn view(
        &self,
        cx: &PlanContext<'_>,
        query: &ast::Query,
        columns: &[ast::Ident],
    ) -> Result<ViewPlan, PlanError> {
        crate::view::plan(self, cx, query, columns)
    }

    /// Plans until every parameter's type is known: a later use may tell the type of an earlier one.
    pub(crate) fn inferred<T>(
        &self,
        cx: &PlanContext<'_>,
        continuous: bool,
        plan: impl Fn(&Session<'_>) -> Result<T, PlanError>,
    ) -> Result<(T, Vec<SqlType>), PlanError> {
        let first = Arc::new(Parameters::new(cx.parameter_types));
        let session = Session::new(cx, &self.registry, Arc::clone(&first), continuous);
        let planned = plan(&session)?;
        let known = first.all();
        if known.is_empty() {
            return Ok((planned, Vec::new()));
        }
        if continuous {
            return Err(PlanError::new("42P02", "there is no parameter $1"));
        }
        let settled: Vec<SqlType> = known
            .into_iter()
            .map(|t| t.unwrap_or(SqlType::Text))
            .collect();
        let second = Arc::new(Parameters::new(
            &settled.iter().cloned().map(Some).collect::<Vec<_>>(),
        ));
        let session = Session::new(cx, &self.registry, second, continuous);
        Ok((plan(&session)?, settled))
    }

    /// Coercion left to DataFusion, then our passes, the same for batch and views.
    pub(crate) fn finish(
        &self,
        cx: &PlanContext<'_>,
        plan: LogicalPlan,
    ) -> Result<LogicalPlan, PlanError> {
        let plan = crate::output::canonical(plan)?;
        let mut plan = plan;
        for rule in Analyzer::new().rules {
            plan = rule.analyze(plan, &options())?;
        }
        let plan = crate::lookup::settle(plan)?;
        let plan = rewrite::subquery::apply(plan)?;
        plan.check_invariants(InvariantLevel::Executable)?;
        let plan = rewrite::lazy::apply(plan)?;
        match cx.now_us {
            Some(now_us) => Ok(rewrite::now::bind(plan, now_us)?),
            None => Ok(plan),
        }
    }

    /// Plans a DEFAULT, generated column or CHECK expression over a relation's columns, as type `ty`.
    ///
    /// # Errors
    /// As for any expression; 42804 when it cannot be assigned to `ty`.
    pub fn column_expr(
        &self,
        cx: &PlanContext<'_>,
        columns: &[Column],
        expr: &ast::Expr,
        ty: &SqlType,
    ) -> Result<Expr, PlanError> {
        crate::dml::column_expr(self, cx, columns, expr, ty)
    }

    /// As [`Planner::column_expr`], for an expression that the catalog keeps as text: the one in `cx.text`.
    ///
    /// # Errors
    /// As [`Planner::column_expr`], and the parser's.
    pub fn stored_expr(
        &self,
        cx: &PlanContext<'_>,
        columns: &[Column],
        ty: &SqlType,
    ) -> Result<Expr, PlanError> {
        let expr = thalweg_sql::parse_expr(cx.text).map_err(|error| error.report())?;
        self.column_expr(cx, columns, &expr, ty)
    }

    /// Plans INSERT.
    ///
    /// # Errors
    /// As [`Planner::query`]; 42809 when the target is not a table, 42804, 42601, 42P10.
    pub fn insert(
        &self,
        cx: &PlanContext<'_>,
        insert: &ast::Insert,
    ) -> Result<crate::DmlPlan, PlanError> {
        crate::dml::insert::plan(self, cx, insert)
    }

    /// Plans UPDATE.
    ///
    /// # Errors
    /// As [`Planner::insert`].
    pub fn update(
        &self,
        cx: &PlanContext<'_>,
        update: &ast::Update,
    ) -> Result<crate::DmlPlan, PlanError> {
        crate::dml::change::update(self, cx, update)
    }

    /// Plans DELETE.
    ///
    /// # Errors
    /// As [`Planner::insert`].
    pub fn delete(
        &self,
        cx: &PlanContext<'_>,
        delete: &ast::Delete,
    ) -> Result<crate::DmlPlan, PlanError> {
        crate::dml::change::delete(self, cx, delete)
    }

    /// EXPLAIN of a query.
    pub fn explain(&self, plan: &LogicalPlan, verbose: bool) -> String {
        crate::explain::batch(plan, verbose)
    }

    /// How a view's plan is kept up to date.
    pub fn stream(&self, plan: &LogicalPlan) -> crate::StreamPlan {
        crate::lower::lower(plan)
    }

    /// EXPLAIN STREAM of a view.
    pub fn explain_stream(&self, view: &ViewPlan) -> String {
        crate::explain::stream(&view.stream)
    }

    /// The plan with only the rewrites without which DataFusion cannot execute it: what views are checked against.
    ///
    /// # Errors
    /// When a rewrite fails.
    pub fn oracle_plan(&self, plan: &LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
        rewrite::oracle::apply(plan.clone())
    }

    /// Replaces `now()` and its kin by the moment `at_us`, microseconds since the Unix epoch.
    ///
    /// # Errors
    /// When the stored time zone is not known any more.
    pub fn bind_now(&self, plan: LogicalPlan, at_us: i64) -> Result<LogicalPlan, DataFusionError> {
        rewrite::now::bind(plan, at_us)
    }

    /// Replaces `$1`, `$2`, ... by values, converted to the types the plan gave them.
    ///
    /// # Errors
    /// 08P01 when there are too few, 22P02 and the like when one does not convert.
    pub fn bind_parameters(
        &self,
        plan: LogicalPlan,
        values: &[ScalarValue],
    ) -> Result<LogicalPlan, PlanError> {
        Ok(rewrite::parameters::bind(plan, values)?)
    }

    /// Puts parameter values into everything a data statement reads and computes: its input, ON CONFLICT and RETURNING.
    ///
    /// # Errors
    /// As [`Planner::bind_parameters`].
    pub fn bind_dml_parameters(
        &self,
        mut plan: DmlPlan,
        values: &[ScalarValue],
    ) -> Result<DmlPlan, PlanError> {
        rewrite::parameters::bind_dml(&mut plan, values)?;
        Ok(plan)
    }

    /// Gives the guards of a view's plan a place to report to.
    ///
    /// # Errors
    /// Only when the plan is malformed.
    pub fn bind_error_sink(
        &self,
        plan: LogicalPlan,
        sink: &Arc<dyn crate::ErrorSink>,
    ) -> Result<LogicalPlan, DataFusionError> {
        rewrite::guard::bind(plan, sink)
    }

    /// A DataFusion session that executes our plans, optimiser included.
    pub fn session_state(&self) -> SessionState {
        let config = SessionConfig::from(options());
        let mut builder = SessionStateBuilder::new()
            .with_default_features()
            .with_optimizer_rules(optimizer_rules())
            .with_physical_optimizer_rules(physical_rules())
            .with_config(config);
        if let Some(functions) = builder.scalar_functions() {
            functions.extend(self.extra.scalar.iter().cloned());
        }
        builder.build()
    }

    /// The client's view of any error of a plan, at plan time or at run time.
    pub fn classify(error: &DataFusionError) -> Report {
        crate::error::classify(error)
    }
}
