//! Where Postgres' NOT binds more loosely than the parser's.
//!
//! Invariant: an expression in parentheses is left as it is.

use thalweg_sql::ast::{BinaryOperator, Expr, UnaryOperator};

/// `NOT EXISTS (...) IS NULL` negates the whole test; the parser takes `NOT EXISTS` for one construct.
pub(super) fn not_outermost(mut expr: Expr) -> Expr {
    let Some(operand) = first_operand(&mut expr) else {
        return expr;
    };
    if let Expr::Exists { negated, .. } = operand
        && std::mem::take(negated)
    {
        return Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr: Box::new(expr),
        };
    }
    expr
}

/// The operand of a test, or the left side of an operator, that binds more tightly than NOT.
fn first_operand(expr: &mut Expr) -> Option<&mut Expr> {
    match expr {
        Expr::IsNull(e)
        | Expr::IsNotNull(e)
        | Expr::IsTrue(e)
        | Expr::IsNotTrue(e)
        | Expr::IsFalse(e)
        | Expr::IsNotFalse(e)
        | Expr::IsUnknown(e)
        | Expr::IsNotUnknown(e)
        | Expr::IsDistinctFrom(e, _)
        | Expr::IsNotDistinctFrom(e, _) => Some(e),
        Expr::BinaryOp { left, op, .. }
            if !matches!(op, BinaryOperator::And | BinaryOperator::Or) =>
        {
            Some(left)
        }
        _ => None,
    }
}
