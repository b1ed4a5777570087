//! Which subqueries DataFusion turns into joins itself, and rightly.
//!
//! Invariant: a subquery counts as simple only when its outer columns are named in filters under nothing but projections, aliases
//! and inner joins, and DataFusion's own rule leaves no trace of it.

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    EmptyRelation, Expr, Filter, JoinType, LogicalPlan, Projection, Subquery, check_subquery_expr,
};
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::{OptimizerContext, OptimizerRule};

use super::attach::Host;
use super::{has_subquery, inspect, plan_of};

/// For EXISTS and IN as a condition.
pub(super) fn predicate(expr: &Expr, host: &Host<'_>) -> bool {
    let Some(plan) = plan_of(expr) else {
        return false;
    };
    if !host.has_outer_columns(plan) || !pullable(plan) {
        return false;
    }
    let attempt = || -> Result<bool> {
        let filter = Filter::try_new(expr.clone(), empty(host).into())?;
        let rule = DecorrelatePredicateSubquery::new();
        let done = rule.rewrite(LogicalPlan::Filter(filter), &OptimizerContext::new())?;
        Ok(clean(&done.data))
    };
    attempt().unwrap_or(false)
}

/// For a correlated subquery as a value.
pub(super) fn scalar(subquery: &Subquery, host: &Host<'_>) -> bool {
    let plan = subquery.subquery.as_ref();
    if !host.has_outer_columns(plan) || !aggregate_over_pullable(plan) {
        return false;
    }
    let attempt = || -> Result<bool> {
        let expr = Expr::ScalarSubquery(subquery.clone());
        let projection =
            LogicalPlan::Projection(Projection::try_new(vec![expr.clone()], empty(host).into())?);
        check_subquery_expr(&projection, plan, &expr)?;
        let rule = ScalarSubqueryToJoin::new();
        let done = rule.rewrite(projection, &OptimizerContext::new())?;
        Ok(clean(&done.data))
    };
    attempt().unwrap_or(false)
}

fn empty(host: &Host<'_>) -> LogicalPlan {
    LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: host.schema().clone().into(),
    })
}

/// No subquery and no outer column is left, and every column that a node names is there: the rule sometimes leaves the join
/// condition naming what an alias inside the subquery has renamed.
fn clean(plan: &LogicalPlan) -> bool {
    let mut clean = true;
    let walked = plan.apply(|node| {
        clean &= !inspect::names_outer(node);
        let columns = merge_schema(&node.inputs());
        let scan = node.inputs().is_empty();
        node.apply_expressions(|expr| {
            clean &= !has_subquery(expr);
            clean &= scan || expr.column_refs().iter().all(|c| columns.has_column(c));
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && clean
}

fn pullable(plan: &LogicalPlan) -> bool {
    if !inspect::correlated(plan) {
        return true;
    }
    match plan {
        LogicalPlan::Filter(filter) => pullable(&filter.input),
        LogicalPlan::Projection(p) => !inspect::names_outer(plan) && pullable(&p.input),
        LogicalPlan::SubqueryAlias(alias) => pullable(&alias.input),
        LogicalPlan::Join(join) => {
            join.join_type == JoinType::Inner
                && !inspect::names_outer(plan)
                && pullable(&join.left)
                && pullable(&join.right)
        }
        _ => false,
    }
}

fn aggregate_over_pullable(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(p) => {
            !inspect::names_outer(plan) && aggregate_over_pullable(&p.input)
        }
        LogicalPlan::SubqueryAlias(alias) => aggregate_over_pullable(&alias.input),
        LogicalPlan::Aggregate(aggregate) => {
            aggregate.group_expr.is_empty()
                && !inspect::names_outer(plan)
                && pullable(&aggregate.input)
        }
        _ => false,
    }
}
