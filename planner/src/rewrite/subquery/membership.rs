//! IN, ANY, ALL and EXISTS in terms of one question: has the subquery a row that fulfils a condition?
//!
//! Invariant: three-valued logic throughout. `x IN (S)` is NULL when nothing in S equals x and something might: x is NULL and S
//! has rows, or S holds a NULL.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue, Spans};
use datafusion::logical_expr::expr::{
    BinaryExpr, Case, Exists, InSubquery, SetComparison, SetQuantifier,
};
use datafusion::logical_expr::{Expr, ExprSchemable, Filter, LogicalPlan, Operator, Subquery, not};

use super::attach::Host;
use super::{has_subquery, simple};

fn constant(value: Option<bool>) -> Expr {
    Expr::Literal(ScalarValue::Boolean(value), None)
}

/// The conditions that a conjunct of WHERE stands for.
pub(super) fn conjuncts(conjunct: Expr, host: &mut Host<'_>) -> Result<Vec<Expr>> {
    match turned(conjunct) {
        Expr::Exists(exists) => Ok(host.exists_condition(exists)?.into_iter().collect()),
        Expr::InSubquery(inside) if !has_subquery(&inside.expr) => top_in(inside, host),
        other => match membership_of(&other) {
            Some(found) => conjuncts(found.clone(), host),
            None => Ok(vec![value(other, host)?]),
        },
    }
}

/// `NOT` moved into EXISTS and IN.
fn turned(expr: Expr) -> Expr {
    match expr {
        Expr::Not(inner) => match turned(*inner) {
            Expr::Exists(mut e) => {
                e.negated = !e.negated;
                Expr::Exists(e)
            }
            Expr::InSubquery(mut e) => {
                e.negated = !e.negated;
                Expr::InSubquery(e)
            }
            other => not(other),
        },
        other => other,
    }
}

/// `EXISTS` in `CASE WHEN EXISTS ... THEN true WHEN ... THEN NULL ELSE false END`, which as a condition is that EXISTS.
fn membership_of(expr: &Expr) -> Option<&Expr> {
    let Expr::Case(case) = expr else { return None };
    let [(first, yes), (_, unknown)] = case.when_then_expr.as_slice() else {
        return None;
    };
    let is = |e: &Expr, value: Option<bool>| match e {
        Expr::Literal(found, _) => match value {
            Some(_) => *found == ScalarValue::Boolean(value),
            None => found.is_null(),
        },
        _ => false,
    };
    let otherwise = case.else_expr.as_deref()?;
    let shape = case.expr.is_none()
        && is(yes, Some(true))
        && is(strip_cast(unknown), None)
        && is(otherwise, Some(false))
        && matches!(**first, Expr::Exists(_));
    shape.then_some(first.as_ref())
}

fn strip_cast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => strip_cast(&cast.expr),
        other => other,
    }
}

fn top_in(inside: InSubquery, host: &mut Host<'_>) -> Result<Vec<Expr>> {
    let member = Member::new(&inside, host)?;
    if !inside.negated {
        if simple::predicate(&Expr::InSubquery(inside.clone()), host) {
            return Ok(vec![Expr::InSubquery(inside)]);
        }
        return Ok(host
            .exists_condition(member.equal()?)?
            .into_iter()
            .collect());
    }
    let none_equal = Exists {
        negated: true,
        ..member.equal()?
    };
    let mut out: Vec<Expr> = host.exists_condition(none_equal)?.into_iter().collect();
    if member.nullable() {
        out.push(not(member.unknown(host)?));
    }
    Ok(out)
}

/// An expression with its subqueries replaced by columns that the host computes.
pub(super) fn value(expr: Expr, host: &mut Host<'_>) -> Result<Expr> {
    let done = expr.transform_up(|e| {
        Ok(match e {
            Expr::Exists(exists) => Transformed::yes(host.exists_value(exists)?),
            Expr::InSubquery(inside) => Transformed::yes(in_value(inside, host)?),
            Expr::SetComparison(set) => Transformed::yes(set_value(set, host)?),
            Expr::ScalarSubquery(subquery) => Transformed::yes(host.scalar(subquery)?),
            other => Transformed::no(other),
        })
    })?;
    Ok(done.data)
}

fn in_value(inside: InSubquery, host: &mut Host<'_>) -> Result<Expr> {
    let member = Member::new(&inside, host)?;
    let found = host.exists_value(member.equal()?)?;
    let out = if member.nullable() {
        let unknown = member.unknown(host)?;
        three_valued(found, true, unknown)
    } else {
        found
    };
    Ok(if inside.negated { not(out) } else { out })
}

/// `x op ANY (S)` is true when some comparison is, else NULL when some is; ALL is the dual.
fn set_value(set: SetComparison, host: &mut Host<'_>) -> Result<Expr> {
    let any = set.quantifier == SetQuantifier::Any;
    let member = Member {
        inside: host.outer((*set.expr).clone())?,
        subject: *set.expr,
        nullable: (true, true),
        subquery: set.subquery,
    };
    let compare = binary(member.inside.clone(), set.op, member.column()?);
    let decided = if any {
        compare.clone()
    } else {
        not(compare.clone())
    };
    let decided = host.exists_value(member.rows_where(decided)?)?;
    let undecided = host.exists_value(member.rows_where(compare.is_null())?)?;
    Ok(three_valued(decided, any, undecided))
}

/// `CASE WHEN decided THEN answer WHEN undecided THEN NULL ELSE NOT answer END`.
fn three_valued(decided: Expr, answer: bool, undecided: Expr) -> Expr {
    let whens = vec![
        (Box::new(decided), Box::new(constant(Some(answer)))),
        (Box::new(undecided), Box::new(constant(None))),
    ];
    Expr::Case(Case::new(
        None,
        whens,
        Some(Box::new(constant(Some(!answer)))),
    ))
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// Both sides of a membership test.
struct Member {
    /// The left side as the outer query sees it.
    subject: Expr,
    /// The left side as the subquery sees it.
    inside: Expr,
    /// Whether the left side, and the subquery's column, can be NULL.
    nullable: (bool, bool),
    subquery: Subquery,
}

impl Member {
    fn new(inside: &InSubquery, host: &mut Host<'_>) -> Result<Member> {
        let subject = (*inside.expr).clone();
        let column = inside.subquery.subquery.schema().field(0).is_nullable();
        // A subject over columns of a query further out says nothing about them here.
        let nullable = subject.nullable(host.schema()).unwrap_or(true);
        Ok(Member {
            inside: host.outer(subject.clone())?,
            subject,
            nullable: (nullable, column),
            subquery: inside.subquery.clone(),
        })
    }

    fn nullable(&self) -> bool {
        self.nullable.0 || self.nullable.1
    }

    fn column(&self) -> Result<Expr> {
        Ok(Expr::Column(
            self.subquery.subquery.schema().columns().swap_remove(0),
        ))
    }

    fn rows_where(&self, predicate: Expr) -> Result<Exists> {
        let rows = Filter::try_new(predicate, std::sync::Arc::clone(&self.subquery.subquery))?;
        Ok(self.exists(LogicalPlan::Filter(rows)))
    }

    fn exists(&self, plan: LogicalPlan) -> Exists {
        Exists {
            subquery: Subquery {
                outer_ref_columns: super::inspect::outer_columns(&plan),
                subquery: plan.into(),
                spans: Spans::new(),
            },
            negated: false,
        }
    }

    fn equal(&self) -> Result<Exists> {
        self.rows_where(binary(self.inside.clone(), Operator::Eq, self.column()?))
    }

    /// Whether an answer stays open once no row is equal.
    fn unknown(&self, host: &mut Host<'_>) -> Result<Expr> {
        let mut open = None;
        if self.nullable.1 {
            open = Some(host.exists_value(self.rows_where(self.column()?.is_null())?)?);
        }
        if self.nullable.0 {
            let rows = host.exists_value(self.exists(self.subquery.subquery.as_ref().clone()))?;
            let subject = self.subject.clone().is_null().and(rows);
            open = Some(match open {
                Some(before) => before.or(subject),
                None => subject,
            });
        }
        Ok(open.unwrap_or_else(|| constant(Some(false))))
    }
}
