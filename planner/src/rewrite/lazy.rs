//! AND and OR whose right side can fail: it is not evaluated for rows that the left side decides.
//!
//! Invariant: the rewritten condition has the same value for every row on which the original does not raise.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::{BinaryExpr, Case};
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};

use thalweg_catalog::SqlType;

use crate::functions::cast::cast_function;
use crate::functions::native::native_of;

/// Guards the fallible operands of every AND and OR.
pub(crate) fn apply(plan: LogicalPlan) -> Result<LogicalPlan> {
    super::expressions(plan, &|expr| match &expr {
        Expr::BinaryExpr(BinaryExpr {
            op: op @ (Operator::And | Operator::Or),
            right,
            ..
        }) if fallible(right) => {
            let op = *op;
            let mut operands = Vec::new();
            flatten(&expr, op, &mut operands);
            Ok(Transformed::yes(guarded(operands, op)))
        }
        _ => Ok(Transformed::no(expr)),
    })
}

/// Whether some row can make the expression raise.
pub(crate) fn fallible(expr: &Expr) -> bool {
    // The walk itself cannot fail; if it could, guarding too much would be right.
    expr.exists(|e| {
        Ok(match e {
            Expr::ScalarFunction(call) => native_of(call).is_none_or(|n| n.fallible),
            _ => false,
        })
    })
    .unwrap_or(true)
}

fn flatten(expr: &Expr, op: Operator, out: &mut Vec<Expr>) {
    match expr {
        Expr::BinaryExpr(b) if b.op == op => {
            flatten(&b.left, op, out);
            flatten(&b.right, op, out);
        }
        other => out.push(other.clone()),
    }
}

fn join(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// `A AND B` with fallible B becomes `A AND CASE WHEN A IS NOT FALSE THEN B END`. Only infallible operands guard, so that a
/// chain of n grows to n squared at most.
fn guarded(operands: Vec<Expr>, op: Operator) -> Expr {
    let mut guard: Option<Expr> = None;
    let mut out: Option<Expr> = None;
    for operand in operands {
        let already = is_guarded(&operand);
        let next = match &guard {
            Some(guard) if fallible(&operand) && !already => {
                let open = Box::new(guard.clone());
                let undecided = if op == Operator::And {
                    Expr::IsNotFalse(open)
                } else {
                    Expr::IsNotTrue(open)
                };
                conditional(vec![(Box::new(undecided), Box::new(operand))], None)
            }
            _ => {
                if !fallible(&operand) {
                    guard = Some(match guard {
                        Some(before) => join(before, op, operand.clone()),
                        None => operand.clone(),
                    });
                }
                operand
            }
        };
        out = Some(match out {
            Some(before) => join(before, op, next),
            None => next,
        });
    }
    out.unwrap_or_else(|| Expr::Literal(ScalarValue::Boolean(Some(op == Operator::And)), None))
}

/// A boolean CASE that stays a CASE: DataFusion's simplifier turns a CASE of booleans into ANDs and ORs, which evaluate
/// what the CASE protects. Branches that cannot fail need no protection.
pub(crate) fn conditional(
    whens: Vec<(Box<Expr>, Box<Expr>)>,
    otherwise: Option<Box<Expr>>,
) -> Expr {
    let safe = !whens
        .iter()
        .map(|(_, then)| then)
        .chain(&otherwise)
        .any(|e| fallible(e));
    if safe {
        return Expr::Case(Case::new(None, whens, otherwise));
    }
    let number = |e: Box<Expr>| {
        Box::new(cast_function(&SqlType::Bool, &SqlType::Int4, "", false).call(vec![*e]))
    };
    let whens = whens
        .into_iter()
        .map(|(when, then)| (when, number(then)))
        .collect();
    let case = Expr::Case(Case::new(None, whens, otherwise.map(number)));
    join(case, Operator::Eq, one())
}

fn one() -> Expr {
    Expr::Literal(ScalarValue::Int32(Some(1)), None)
}

/// True for what [`guarded`] has already made of an operand.
fn is_guarded(operand: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = operand
    else {
        return false;
    };
    let Expr::Case(case) = left.as_ref() else {
        return false;
    };
    **right == one()
        && case.else_expr.is_none()
        && matches!(case.when_then_expr.as_slice(), [(when, _)] if matches!(**when, Expr::IsNotFalse(_) | Expr::IsNotTrue(_)))
}
