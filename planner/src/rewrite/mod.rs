//! Passes over analysed plans, one per file.
//!
//! Invariant: a pass never changes a plan's output names or types.

pub(crate) mod guard;
pub(crate) mod incremental;
pub(crate) mod lazy;
pub(crate) mod now;
pub(crate) mod oracle;
pub(crate) mod parameters;
pub(crate) mod simplify;
pub(crate) mod subquery;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Rewrites every expression of a plan, subqueries included, keeping the names of output columns.
pub(crate) fn expressions(
    plan: LogicalPlan,
    rewrite: &dyn Fn(Expr) -> Result<Transformed<Expr>>,
) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        let changed = node.map_expressions(|expr| {
            let saved = names.save(&expr);
            let out = expr.transform_up(rewrite)?;
            Ok(if out.transformed {
                out.update_data(|e| saved.restore(e))
            } else {
                out
            })
        })?;
        if changed.transformed {
            changed.map_data(LogicalPlan::recompute_schema)
        } else {
            Ok(changed)
        }
    })?;
    Ok(done.data)
}
