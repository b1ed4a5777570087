//! DataFusion's expression simplifier, kept from merging lists of one subject.
//!
//! It takes `x IN ()` for false and `x NOT IN ()` for true, which for a NULL x they are not: `x NOT IN (1) OR x NOT IN (2)`
//! becomes true, and `NOT (x IN (1) AND x IN (2))` too (oracle seed 1314, against SQLite). Conditions in which it could merge
//! lists are simplified part by part.
//!
//! Invariant: a rewritten expression has the value of the original for every row, NULL included.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DFSchemaRef, Result};
use datafusion::logical_expr::expr::{BinaryExpr, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::simplify_expressions::{ExprSimplifier, SimplifyExpressions};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Stands in for DataFusion's rule of the same name.
#[derive(Debug, Default)]
pub(crate) struct Simplify {
    stock: SimplifyExpressions,
}

impl OptimizerRule for Simplify {
    fn name(&self) -> &str {
        "simplify_expressions"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.stock.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        if !has_mergeable(&plan) {
            return self.stock.rewrite(plan, config)?.transform_data(aligned);
        }
        let context = SimplifyContext::builder()
            .with_schema(schema_of(&plan)?)
            .with_config_options(config.options())
            .with_query_execution_start_time(config.query_execution_start_time())
            .build();
        let simplifier = ExprSimplifier::new(context).with_canonicalize(false);
        let preserver = NamePreserver::new(&plan);
        let mut names = Vec::new();
        let hidden = plan.map_expressions(|expr| {
            names.push(preserver.save(&expr));
            expr.transform_down(|e| hide(e, &simplifier))
        })?;
        let simplified = self.stock.rewrite(hidden.data, config)?;
        let mut names = names.into_iter();
        simplified
            .transform_data(|plan| {
                plan.map_expressions(|expr| {
                    let shown = expr.transform_up(|e| Ok(show(e)))?;
                    Ok(match names.next() {
                        Some(name) => shown.update_data(|e| name.restore(e)),
                        None => shown,
                    })
                })
            })?
            .transform_data(aligned)
    }
}

/// Comparisons in a condition with their constant on the right, and the constant bare. `PushDownFilter` takes two equalities of a
/// column for a contradiction when they do not look the same: `x = 1 AND 1 = x` (oracle seed 3034, against SQLite).
fn aligned(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if !matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::Join(_)) {
        return Ok(Transformed::no(plan));
    }
    plan.map_expressions(|expr| expr.transform_up(|e| Ok(aligned_comparison(e))))
}

fn aligned_comparison(mut expr: Expr) -> Transformed<Expr> {
    let Expr::BinaryExpr(comparison) = &mut expr else {
        return Transformed::no(expr);
    };
    let mut changed = false;
    if let Some(swapped) = mirrored(comparison.op)
        && matches!(*comparison.left, Expr::Literal(..))
        && !matches!(*comparison.right, Expr::Literal(..))
    {
        std::mem::swap(&mut comparison.left, &mut comparison.right);
        comparison.op = swapped;
        changed = true;
    }
    if mirrored(comparison.op).is_some()
        && let Expr::Literal(_, metadata) = comparison.right.as_mut()
    {
        changed |= metadata.take().is_some();
    }
    Transformed::new(expr, changed, TreeNodeRecursion::Continue)
}

/// The comparison that says the same with its sides exchanged.
fn mirrored(op: Operator) -> Option<Operator> {
    Some(match op {
        Operator::Eq | Operator::NotEq => op,
        Operator::Lt => Operator::Gt,
        Operator::LtEq => Operator::GtEq,
        Operator::Gt => Operator::Lt,
        Operator::GtEq => Operator::LtEq,
        _ => return None,
    })
}

fn has_mergeable(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply_expressions(|expr| {
        found |= expr.exists(|e| Ok(is_connective(e) && mergeable(e)))?;
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found
}

/// The columns that a node's expressions are over.
fn schema_of(plan: &LogicalPlan) -> Result<DFSchemaRef> {
    Ok(match plan {
        LogicalPlan::TableScan(scan) => Arc::new(DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?),
        other => Arc::new(merge_schema(&other.inputs())),
    })
}

fn is_connective(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Not(_)
            | Expr::BinaryExpr(BinaryExpr {
                op: Operator::And | Operator::Or,
                ..
            })
    )
}

/// What a condition compares, one entry per comparison.
#[derive(Default)]
struct Comparisons<'a> {
    lists: Vec<&'a Expr>,
    equalities: Vec<&'a Expr>,
    only_or: bool,
}

impl<'a> Comparisons<'a> {
    fn collect(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Not(inner) => {
                self.only_or = false;
                self.collect(inner);
            }
            Expr::BinaryExpr(b) if matches!(b.op, Operator::And | Operator::Or) => {
                self.only_or &= b.op == Operator::Or;
                self.collect(&b.left);
                self.collect(&b.right);
            }
            Expr::BinaryExpr(b) if matches!(b.op, Operator::Eq | Operator::NotEq) => {
                self.only_or &= b.op == Operator::Eq;
                self.equalities.extend([&*b.left, &*b.right]);
            }
            Expr::InList(list) => {
                self.only_or &= !list.negated;
                self.lists.push(&list.expr);
            }
            _ => {}
        }
    }
}

/// Whether two lists of one subject could meet: written ones, or those that the simplifier makes of `x = 1 OR x = 2`. Lists that
/// are only joined by OR are united, which is right.
fn mergeable(condition: &Expr) -> bool {
    let mut found = Comparisons {
        only_or: true,
        ..Comparisons::default()
    };
    found.collect(condition);
    if found.only_or {
        return false;
    }
    let times = |all: &[&Expr], subject: &Expr| all.iter().filter(|e| **e == subject).count();
    let in_list = found
        .lists
        .iter()
        .any(|subject| times(&found.lists, subject) + times(&found.equalities, subject) > 1);
    in_list
        || found
            .equalities
            .iter()
            .any(|subject| times(&found.equalities, subject) > 2)
}

/// Puts a condition that must stay as it is where the simplifier does not look, its parts simplified.
fn hide(expr: Expr, simplifier: &ExprSimplifier) -> Result<Transformed<Expr>> {
    if !is_connective(&expr) || !mergeable(&expr) {
        return Ok(Transformed::no(expr));
    }
    let kept = parts(expr, simplifier)?;
    let call = ScalarFunction::new_udf(Arc::new(ScalarUDF::from(Hidden::new(kept))), vec![]);
    Ok(Transformed::new(
        Expr::ScalarFunction(call),
        true,
        TreeNodeRecursion::Jump,
    ))
}

fn parts(expr: Expr, simplifier: &ExprSimplifier) -> Result<Expr> {
    if is_connective(&expr) {
        return Ok(expr
            .map_children(|child| Ok(Transformed::yes(parts(child, simplifier)?)))?
            .data);
    }
    simplifier.simplify(expr)
}

fn show(expr: Expr) -> Transformed<Expr> {
    if let Expr::ScalarFunction(call) = &expr
        && let Some(hidden) = call.func.inner().downcast_ref::<Hidden>()
    {
        return Transformed::yes(hidden.expr.clone());
    }
    Transformed::no(expr)
}

/// A condition that the simplifier sees as a call without arguments.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Hidden {
    expr: Expr,
    signature: Signature,
}

impl Hidden {
    fn new(expr: Expr) -> Hidden {
        Hidden {
            expr,
            signature: Signature::nullary(Volatility::Volatile),
        }
    }
}

impl ScalarUDFImpl for Hidden {
    fn name(&self) -> &str {
        "thalweg_hidden"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(crate::error::raise(
            "XX000",
            "a hidden condition was executed",
        ))
    }
}
