//! Expressions that match one value against a pattern or against many values.
//!
//! Invariant: as in `normalize_expr`: children are normalised before their parent.

use thalweg_sql::ast::{self, BinaryOperator, Expr};

use super::node::Node;
use super::normalize::Normalizer;
use crate::error::PlanError;

type Result<T> = std::result::Result<T, PlanError>;

impl Normalizer<'_> {
    pub(super) fn like(
        &mut self,
        negated: bool,
        insensitive: bool,
        similar: bool,
        expr: Expr,
        pattern: Expr,
        escape: Option<ast::ValueWithSpan>,
    ) -> Result<Expr> {
        let escape = escape.map(|v| v.value.into_string().unwrap_or_default());
        if escape.as_ref().is_some_and(|e| e.chars().count() > 1) {
            return Err(PlanError::hint(
                "22025",
                "invalid escape string",
                "Escape string must be empty or one character.",
            ));
        }
        self.wrap(
            Node::Like {
                negated,
                insensitive,
                escape,
                similar,
            },
            vec![expr, pattern],
        )
    }

    /// `x op ANY (...)` and `x op ALL (...)`, over a subquery or an array.
    pub(super) fn quantified(
        &mut self,
        left: Expr,
        op: BinaryOperator,
        right: Expr,
        is_some: Option<bool>,
    ) -> Result<Expr> {
        let right = match right {
            Expr::Nested(inner) => *inner,
            other => other,
        };
        let mut query = match right {
            Expr::Subquery(query) => query,
            other => {
                return self.wrap(
                    Node::Quantified {
                        op: op.to_string(),
                        all: is_some.is_none(),
                    },
                    vec![left, other],
                );
            }
        };
        self.query(&mut query)?;
        let left = Box::new(self.child(left)?);
        let right = Box::new(Expr::Subquery(query));
        Ok(match is_some {
            Some(is_some) => Expr::AnyOp {
                left,
                compare_op: op,
                right,
                is_some,
            },
            None => Expr::AllOp {
                left,
                compare_op: op,
                right,
            },
        })
    }
}
