//! Continuous queries: the same plan as ad hoc, guarded, and its streaming plan.
//!
//! Invariant: a view's column names are unique, its functions are not volatile, and `now()` in it stays symbolic.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Volatility};
use thalweg_sql::ast;

use crate::context::{PlanContext, ViewPlan};
use crate::error::PlanError;
use crate::names::fold;
use crate::planner::Planner;
use crate::rewrite;

pub(crate) fn plan(
    planner: &Planner,
    cx: &PlanContext<'_>,
    query: &ast::Query,
    columns: &[ast::Ident],
) -> Result<ViewPlan, PlanError> {
    let cx = PlanContext {
        now_us: None,
        ..*cx
    };
    let (plan, _) = planner.inferred(&cx, true, |session| session.query(query))?;
    let plan = planner.finish(&cx, plan)?;
    if let Some(name) = volatile(&plan) {
        return Err(PlanError::hint(
            "0A000",
            format!("function {name}() is not supported in a continuous query"),
            "Its result changes from call to call; compute it when the row is written, or in an ad hoc query.",
        ));
    }
    let plan = named(plan, columns)?;
    let output = crate::output::columns(&plan);
    let guarded = rewrite::guard::apply(plan.clone())?;
    Ok(ViewPlan {
        stream: crate::lower::lower(&guarded),
        output,
        reads: crate::output::reads(&plan),
        lookups: crate::lookup::tables(&plan),
        hybrids: crate::hybrid::Hybrids::of(&plan),
        uses_now: rewrite::now::occurs(&plan),
        plan: guarded,
        unguarded: plan,
    })
}

/// Gives the columns the names of the view's column list and refuses repeats.
fn named(plan: LogicalPlan, columns: &[ast::Ident]) -> Result<LogicalPlan, PlanError> {
    let current = crate::output::columns(&plan);
    if columns.len() > current.len() {
        return Err(PlanError::new(
            "42601",
            "CREATE VIEW specifies more column names than columns",
        ));
    }
    let names: Vec<String> = current
        .iter()
        .enumerate()
        .map(|(i, column)| columns.get(i).map_or_else(|| column.name.clone(), fold))
        .collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            return Err(PlanError::new(
                "42701",
                format!("column \"{name}\" specified more than once"),
            ));
        }
    }
    let same = plan
        .schema()
        .fields()
        .iter()
        .zip(&names)
        .all(|(f, n)| f.name() == n);
    if same {
        return Ok(plan);
    }
    let exprs: Vec<Expr> = plan
        .schema()
        .columns()
        .into_iter()
        .zip(&names)
        .map(|(column, name)| {
            if column.name == *name {
                Expr::Column(column)
            } else {
                Expr::Column(column).alias(name)
            }
        })
        .collect();
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// The first volatile function other than `now()`.
fn volatile(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::ScalarFunction(call) = e
                    && call.func.signature().volatility == Volatility::Volatile
                    && !crate::functions::now::is_now(call)
                {
                    found.get_or_insert_with(|| call.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    debug_assert!(walked.is_ok());
    found
}
