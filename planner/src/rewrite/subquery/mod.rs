//! Subqueries in expressions become joins, wherever they stand and however they refer to the outer query.
//!
//! DataFusion turns IN and EXISTS into joins only in a WHERE condition and only for the simplest correlations, gives `IN` no
//! NULL outside of it, and its null-aware anti join keeps rows that it should not. What it does right it still does; the rest
//! is unnested here by the general method of Neumann and Kemper, "Unnesting Arbitrary Queries" (BTW 2015): the subquery is
//! evaluated once for every distinct combination of the outer values that it names, and joined back on them.
//!
//! Invariant: the rewritten plan has the column names of the original and, for every input, its rows; a subquery used as a value
//! with more than one row is 21000.

mod attach;
mod inspect;
mod membership;
mod push;
mod simple;

use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, NullEquality, Result};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, Expr, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Projection, Window,
};

use self::attach::{Host, Place};

/// Numbers the columns that one rewriting adds.
#[derive(Debug, Default)]
pub(crate) struct Names(AtomicUsize);

impl Names {
    /// A column name that no user can write without quotes and that occurs once in the plan.
    fn fresh(&self, what: &str) -> String {
        format!(
            "__thalweg_{what}_{}",
            self.0.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// Unnests what DataFusion cannot run, or runs wrongly.
pub(crate) fn apply(plan: LogicalPlan) -> Result<LogicalPlan> {
    let names = Names::default();
    plan.transform_up_with_subqueries(|node| rewrite(node, &names))
        .map(|done| done.data)
}

fn rewrite(node: LogicalPlan, names: &Names) -> Result<Transformed<LogicalPlan>> {
    let done = match node {
        LogicalPlan::Filter(filter) if has_subquery(&filter.predicate) => condition(filter, names)?,
        LogicalPlan::Projection(projection) if projection.expr.iter().any(has_subquery) => {
            projected(projection, names)?
        }
        LogicalPlan::Aggregate(aggregate)
            if aggregate
                .group_expr
                .iter()
                .chain(&aggregate.aggr_expr)
                .any(has_subquery) =>
        {
            aggregated(aggregate, names)?
        }
        LogicalPlan::Window(window) if window.window_expr.iter().any(has_subquery) => {
            windowed(window, names)?
        }
        LogicalPlan::Sort(sort) if sort.expr.iter().any(|s| has_subquery(&s.expr)) => {
            sorted(sort, names)?
        }
        LogicalPlan::Join(join)
            if lateral(&join.right).is_some() || join.filter.as_ref().is_some_and(has_subquery) =>
        {
            joined(join, names)?
        }
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(done))
}

/// True for an expression with a subquery at any depth.
pub(crate) fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|e| Ok(plan_of(e).is_some())).unwrap_or(true)
}

/// WHERE, HAVING and QUALIFY.
fn condition(filter: Filter, names: &Names) -> Result<LogicalPlan> {
    let mut host = Host::new(filter.input, names, Place::Condition);
    let mut kept = Vec::new();
    for conjunct in split_conjunction_owned(filter.predicate) {
        if has_subquery(&conjunct) {
            kept.extend(membership::conjuncts(conjunct, &mut host)?);
        } else {
            kept.push(conjunct);
        }
    }
    let columns = host.columns.clone();
    let input = host.into_plan();
    let Some(predicate) = conjunction(kept) else {
        return only(input, columns);
    };
    let filtered = LogicalPlan::Filter(Filter::try_new(predicate, input.into())?);
    only(filtered, columns)
}

/// `plan` with these columns alone.
fn only(plan: LogicalPlan, columns: Vec<Column>) -> Result<LogicalPlan> {
    if plan.schema().fields().len() == columns.len() {
        return Ok(plan);
    }
    let columns: Vec<Expr> = columns.into_iter().map(Expr::Column).collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

fn projected(projection: Projection, names: &Names) -> Result<LogicalPlan> {
    let preserver = NamePreserver::new_for_projection();
    let mut host = Host::new(projection.input, names, Place::Projection);
    let exprs = values(projection.expr, &preserver, &mut host)?;
    Ok(LogicalPlan::Projection(Projection::try_new(
        exprs,
        host.into_plan().into(),
    )?))
}

fn aggregated(aggregate: Aggregate, names: &Names) -> Result<LogicalPlan> {
    let preserver = NamePreserver::new_for_projection();
    let mut host = Host::new(aggregate.input, names, Place::Beneath);
    let group = values(aggregate.group_expr, &preserver, &mut host)?;
    let aggregates = values(aggregate.aggr_expr, &preserver, &mut host)?;
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(
        host.into_plan().into(),
        group,
        aggregates,
    )?))
}

fn windowed(window: Window, names: &Names) -> Result<LogicalPlan> {
    let columns = window.schema.columns();
    let preserver = NamePreserver::new_for_projection();
    let mut host = Host::new(window.input, names, Place::Beneath);
    let exprs = values(window.window_expr, &preserver, &mut host)?;
    let done = LogicalPlan::Window(Window::try_new(exprs, host.into_plan().into())?);
    only(done, columns)
}

fn sorted(sort: datafusion::logical_expr::Sort, names: &Names) -> Result<LogicalPlan> {
    let mut host = Host::new(sort.input, names, Place::Beneath);
    let columns = host.columns.clone();
    let mut keys = Vec::with_capacity(sort.expr.len());
    for mut key in sort.expr {
        key.expr = membership::value(key.expr, &mut host)?;
        keys.push(key);
    }
    let plan = LogicalPlanBuilder::from(host.into_plan())
        .sort_with_limit(keys, sort.fetch)?
        .build()?;
    only(plan, columns)
}

fn values(exprs: Vec<Expr>, preserver: &NamePreserver, host: &mut Host<'_>) -> Result<Vec<Expr>> {
    exprs
        .into_iter()
        .map(|expr| {
            if !has_subquery(&expr) {
                return Ok(expr);
            }
            let saved = preserver.save(&expr);
            Ok(saved.restore(membership::value(expr, host)?))
        })
        .collect()
}

/// The plan of a LATERAL side that names columns of the other.
fn lateral(side: &LogicalPlan) -> Option<&LogicalPlan> {
    match side {
        LogicalPlan::SubqueryAlias(alias) => lateral(&alias.input).map(|_| side),
        LogicalPlan::Subquery(subquery) if inspect::correlated(&subquery.subquery) => Some(side),
        _ => None,
    }
}

/// LATERAL, and ON conditions with subqueries.
fn joined(join: Join, names: &Names) -> Result<LogicalPlan> {
    if lateral(&join.right).is_some() {
        return attach::lateral(join, names);
    }
    let columns = join.schema.columns();
    let Join {
        left,
        right,
        on,
        filter,
        join_type,
        null_equality,
        ..
    } = join;
    let Some(filter) = filter else {
        return Err(crate::error::raise("XX000", "a join lost its condition"));
    };
    if join_type == JoinType::Inner {
        let both = LogicalPlanBuilder::from(left.as_ref().clone()).join_on(
            right.as_ref().clone(),
            join_type,
            on.into_iter().map(|(l, r)| equal(l, r, null_equality)),
        )?;
        let both = both.build()?;
        return condition(Filter::try_new(filter, both.into())?, names);
    }
    // The subqueries are evaluated on the side whose columns they name, before the join.
    let mut left_host = Host::new(left, names, Place::Beneath);
    let mut right_host = Host::new(right, names, Place::Beneath);
    let mut kept = Vec::new();
    for conjunct in split_conjunction_owned(filter) {
        if !has_subquery(&conjunct) {
            kept.push(conjunct);
        } else if left_host.has_all(&conjunct) {
            kept.push(membership::value(conjunct, &mut left_host)?);
        } else if right_host.has_all(&conjunct) {
            kept.push(membership::value(conjunct, &mut right_host)?);
        } else {
            return Err(crate::error::PlanError::hint(
                "0A000",
                "a subquery in the ON condition of an outer join that names columns of both sides is not supported",
                "Compute it in a subquery of one side first.",
            )
            .into());
        }
    }
    let (left_keys, right_keys): (Vec<Expr>, Vec<Expr>) = on.into_iter().unzip();
    kept.extend(
        left_keys
            .into_iter()
            .zip(right_keys)
            .map(|(l, r)| equal(l, r, null_equality)),
    );
    let done = LogicalPlanBuilder::from(left_host.into_plan())
        .join_on(right_host.into_plan(), join_type, kept)?
        .build()?;
    only(done, columns)
}

fn equal(left: Expr, right: Expr, nulls: NullEquality) -> Expr {
    match nulls {
        NullEquality::NullEqualsNothing => left.eq(right),
        NullEquality::NullEqualsNull => push::same(left, right),
    }
}

/// A subquery's plan, in whatever expression it stands.
fn plan_of(expr: &Expr) -> Option<&LogicalPlan> {
    match expr {
        Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. })
        | Expr::SetComparison(SetComparison { subquery, .. })
        | Expr::ScalarSubquery(subquery) => Some(&subquery.subquery),
        _ => None,
    }
}
