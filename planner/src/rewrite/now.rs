//! Replaces symbolic `now()` by a moment.
//!
//! Invariant: afterwards the plan does not depend on when it runs.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::functions::now;

/// True when the plan still asks for the time.
pub(crate) fn occurs(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::ScalarFunction(call) = e
                    && now::is_now(call)
                {
                    found = true;
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    debug_assert!(walked.is_ok());
    found
}

/// The plan at one moment.
pub(crate) fn bind(plan: LogicalPlan, now_us: i64) -> Result<LogicalPlan> {
    if !occurs(&plan) {
        return Ok(plan);
    }
    super::expressions(plan, &|expr| {
        if let Expr::ScalarFunction(call) = &expr
            && let Some(literal) = now::bind(call, now_us)?
        {
            return Ok(Transformed::yes(literal));
        }
        Ok(Transformed::no(expr))
    })
}
