//! Comparison of rows, `(a, b) = (c, d)`, and rows IN a subquery, written out column by column.
//!
//! Invariant: a NULL in a column leaves the comparison open exactly where Postgres does.

use thalweg_sql::ast::{
    self, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, SetExpr,
    TableFactor,
};

use super::node::Node;
use super::normalize::{Normalizer, parsed};
use crate::error::PlanError;
use crate::names::{last_part, quoted};

type Result<T> = std::result::Result<T, PlanError>;

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

/// `before op next`, or `next` alone.
pub(crate) fn join(op: BinaryOperator, before: Option<Expr>, next: Expr) -> Expr {
    match before {
        Some(before) => binary(before, op, next),
        None => next,
    }
}

/// `ROW(a, b)` as the list of its columns, where it is compared and not stored.
pub(crate) fn columns(expr: Expr) -> Expr {
    match expr {
        Expr::Function(function) if last_part(&function.name) == "row" => match function.args {
            FunctionArguments::List(list) if list.args.iter().all(is_plain) => Expr::Tuple(
                list.args
                    .into_iter()
                    .filter_map(|arg| match arg {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
                        _ => None,
                    })
                    .collect(),
            ),
            args => Expr::Function(ast::Function { args, ..function }),
        },
        other => other,
    }
}

fn is_plain(arg: &FunctionArg) -> bool {
    matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)))
}

/// True for the operators that compare rows.
pub(crate) fn compares(op: &BinaryOperator) -> bool {
    use BinaryOperator as Op;
    matches!(
        op,
        Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq
    )
}

/// Two rows, normalised already, compared.
pub(crate) fn compare(op: &BinaryOperator, left: &Expr, right: &Expr) -> Result<Expr> {
    let (Expr::Tuple(left), Expr::Tuple(right)) = (left, right) else {
        return Err(PlanError::new("42883", "a row is compared with a value"));
    };
    if left.len() != right.len() {
        return Err(PlanError::new(
            "42601",
            "unequal number of entries in row expressions",
        ));
    }
    let pairs = left.iter().cloned().zip(right.iter().cloned());
    let strict = match op {
        BinaryOperator::Eq | BinaryOperator::NotEq => {
            let word = if *op == BinaryOperator::Eq {
                BinaryOperator::And
            } else {
                BinaryOperator::Or
            };
            let mut out = None;
            for (a, b) in pairs {
                out = Some(join(word.clone(), out, binary(a, op.clone(), b)));
            }
            return out
                .ok_or_else(|| PlanError::new("0A000", "cannot compare rows of zero length"));
        }
        BinaryOperator::Lt | BinaryOperator::LtEq => BinaryOperator::Lt,
        BinaryOperator::Gt | BinaryOperator::GtEq => BinaryOperator::Gt,
        other => {
            return Err(PlanError::unsupported(format!("{other} between rows")));
        }
    };
    // The first columns that differ decide; only the last pair may be equal.
    let mut out: Option<Expr> = None;
    for (a, b) in pairs.rev() {
        out = Some(match out {
            None => binary(a, op.clone(), b),
            Some(rest) => {
                let less = binary(a.clone(), strict.clone(), b.clone());
                let tied = binary(
                    binary(a, BinaryOperator::Eq, b),
                    BinaryOperator::And,
                    Expr::Nested(Box::new(rest)),
                );
                Expr::Nested(Box::new(binary(less, BinaryOperator::Or, tied)))
            }
        });
    }
    out.ok_or_else(|| PlanError::new("0A000", "cannot compare rows of zero length"))
}

/// `NULL`, or `NULL::type`.
pub(crate) fn is_null(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => value.value == ast::Value::Null,
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_null(expr),
        _ => false,
    }
}

impl Normalizer<'_> {
    /// `x IN (SELECT ...)` with both sides normalised.
    pub(super) fn in_subquery(
        &mut self,
        subject: Expr,
        subquery: Box<ast::Query>,
        negated: bool,
    ) -> Result<Expr> {
        let Expr::Tuple(items) = subject else {
            let expr = Box::new(self.as_the_column(subject, &subquery));
            return Ok(Expr::InSubquery {
                expr,
                subquery,
                negated,
            });
        };
        let found = row_found(&items, &subquery, |same| same)?;
        let open = row_found(&items, &subquery, |same| Expr::IsNull(Box::new(same)))?;
        let literal = |value| Box::new(Expr::Value(ast::Value::with_empty_span(value)));
        let when = |condition, value| ast::CaseWhen {
            condition,
            result: *literal(value),
        };
        let member = Expr::Case {
            case_token: ast::helpers::attached_token::AttachedToken::empty(),
            end_token: ast::helpers::attached_token::AttachedToken::empty(),
            operand: None,
            conditions: vec![
                when(found, ast::Value::Boolean(true)),
                when(open, ast::Value::Null),
            ],
            else_result: Some(literal(ast::Value::Boolean(false))),
        };
        Ok(if negated {
            self.nodes.wrap(Node::Not, vec![member])
        } else {
            member
        })
    }

    /// `NULL IN (SELECT ...)`: unknown when there are rows, and decided when there are none. DataFusion has no plan for a
    /// constant there.
    pub(super) fn null_in_subquery(&mut self, subquery: ast::Query, negated: bool) -> Result<Expr> {
        let mut query = parsed(
            "SELECT CASE WHEN count(*) > 0 THEN NULL::boolean ELSE false END FROM (SELECT 1) AS found",
        )?;
        if let SetExpr::Select(select) = query.body.as_mut()
            && let Some(TableFactor::Derived { subquery: slot, .. }) =
                select.from.first_mut().map(|f| &mut f.relation)
        {
            *slot = Box::new(subquery);
        }
        self.query(&mut query)?;
        let found = Expr::Subquery(Box::new(query));
        Ok(if negated {
            self.nodes.wrap(Node::Not, vec![found])
        } else {
            found
        })
    }

    /// An untyped literal in the type of the subquery's column.
    fn as_the_column(&self, subject: Expr, subquery: &ast::Query) -> Expr {
        let literal = matches!(&subject, Expr::Value(v) if matches!(v.value, ast::Value::Null | ast::Value::SingleQuotedString(_)));
        if !literal {
            return subject;
        }
        let mut alone = subquery.clone();
        if alone.with.is_none() {
            alone.with = self
                .standalone(SetExpr::Query(Box::new(alone.clone())))
                .with;
        }
        match self.trial.columns(&alone).as_deref() {
            Some([(_, ty)]) => self.nodes.wrap(Node::Coerce(ty.clone()), vec![subject]),
            _ => subject,
        }
    }
}

/// `EXISTS (SELECT 1 FROM (subquery) WHERE test(row = items))`.
fn row_found(items: &[Expr], subquery: &ast::Query, test: impl Fn(Expr) -> Expr) -> Result<Expr> {
    let names: Vec<String> = (0..items.len()).map(|i| format!("thalweg_c{i}")).collect();
    let mut query = parsed(&format!(
        "SELECT 1 FROM (SELECT 1) AS thalweg_row ({})",
        names.join(", ")
    ))?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        if let Some(TableFactor::Derived { subquery: slot, .. }) =
            select.from.first_mut().map(|f| &mut f.relation)
        {
            *slot = Box::new(subquery.clone());
        }
        let mut same = None;
        for (item, name) in items.iter().zip(&names) {
            let column = Expr::CompoundIdentifier(vec![quoted("thalweg_row"), quoted(name)]);
            let equal = binary(column, BinaryOperator::Eq, item.clone());
            same = Some(join(BinaryOperator::And, same, equal));
        }
        select.selection = same.map(|same| test(Expr::Nested(Box::new(same))));
    }
    Ok(Expr::Exists {
        subquery: Box::new(query),
        negated: false,
    })
}
