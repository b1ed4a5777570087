//! What a plan says about the query around it.
//!
//! Invariant: reads plans, never changes them; subqueries left in a plan's expressions name only columns of the plan itself.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::logical_plan::FetchType;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::error::PlanError;
use crate::functions::now::is_now;

/// Whether the expressions of one node name columns of an outer query.
pub(super) fn names_outer(node: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = node.apply_expressions(|expr| {
        found |= expr.contains_outer();
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found
}

/// Whether a plan names columns of an outer query. Subqueries left in its expressions name only columns of the plan itself.
pub(super) fn correlated(plan: &LogicalPlan) -> bool {
    plan.exists(|node| Ok(names_outer(node))).unwrap_or(true)
}

/// The outer columns a plan names, once each.
pub(super) fn outer_columns(plan: &LogicalPlan) -> Vec<Expr> {
    let mut out: Vec<Expr> = Vec::new();
    let walked = plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::OuterReferenceColumn(_, column) = e
                    && position(&out, column).is_none()
                {
                    out.push(e.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    out
}

pub(super) fn position(outer: &[Expr], column: &Column) -> Option<usize> {
    outer
        .iter()
        .position(|e| matches!(e, Expr::OuterReferenceColumn(_, c) if c == column))
}

/// Whether a subquery has a row, and one only, whatever its input.
pub(super) fn exactly_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(p) => exactly_one_row(&p.input),
        LogicalPlan::SubqueryAlias(a) => exactly_one_row(&a.input),
        LogicalPlan::Aggregate(a) => a.group_expr.is_empty(),
        _ => false,
    }
}

/// Whether a subquery cannot have more than one row.
pub(super) fn at_most_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(p) => at_most_one_row(&p.input),
        LogicalPlan::SubqueryAlias(a) => at_most_one_row(&a.input),
        LogicalPlan::Filter(f) => at_most_one_row(&f.input),
        LogicalPlan::Sort(s) => at_most_one_row(&s.input),
        LogicalPlan::Aggregate(a) => a.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Values(values) => values.values.len() <= 1,
        LogicalPlan::Limit(limit) => {
            matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(n))) if n <= 1)
                || at_most_one_row(&limit.input)
        }
        _ => false,
    }
}

/// The outer plan is evaluated twice, for its rows and for its keys: both must agree.
pub(super) fn must_repeat(plan: &LogicalPlan) -> Result<()> {
    let mut volatile = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                volatile |= e.is_volatile_node()
                    && !matches!(e, Expr::ScalarFunction(call) if is_now(call));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if volatile {
        return Err(PlanError::hint(
            "0A000",
            "this correlated subquery over a query with a volatile function is not supported",
            "Store the volatile values in a table first.",
        )
        .into());
    }
    Ok(())
}
