//! FULL JOIN with USING or NATURAL: the merged key is the first side's value, or the other's where that is NULL.
//!
//! Invariant: after normalising, a chain with such a join has ON conditions only, and every unqualified use of a merged
//! name is the merged expression; DataFusion would read the first side's column alone.

use thalweg_sql::ast::{
    self, Expr, JoinConstraint, JoinOperator, SelectItem, SetExpr, TableFactor,
};

use super::node::Node;
use super::normalize::{Normalizer, parsed};
use super::normalize_from::relation_alias;
use crate::error::PlanError;
use crate::names::{fold, last_part, quoted};

type Result<T> = std::result::Result<T, PlanError>;

/// What one SELECT sees of its merged joins.
#[derive(Debug, Default, Clone)]
pub(crate) struct Merged {
    /// Merged names with what they stand for.
    pub(crate) keys: Vec<(String, Expr)>,
    /// What `*` stands for.
    pub(crate) all: Vec<(String, Expr)>,
}

impl Merged {
    /// What an unqualified name stands for, if it is merged.
    pub(crate) fn find(&self, name: &str) -> Option<&Expr> {
        self.keys.iter().find(|(n, _)| n == name).map(|(_, e)| e)
    }
}

/// A column name with what it stands for.
type Named = (String, Expr);

fn named<'n>(columns: &'n [Named], name: &str) -> Option<&'n Expr> {
    columns.iter().find(|(n, _)| n == name).map(|(_, e)| e)
}

fn constraint(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c)
        | JoinOperator::FullOuter(c) => Some(c),
        _ => None,
    }
}

fn merges(table: &ast::TableWithJoins) -> bool {
    table.joins.iter().any(|join| {
        matches!(
            join.join_operator,
            JoinOperator::FullOuter(JoinConstraint::Using(_) | JoinConstraint::Natural)
        )
    })
}

impl Normalizer<'_> {
    /// Rewrites the FULL joins of a FROM clause, whose factors are normalised already.
    pub(crate) fn merged_joins(&mut self, from: &mut [ast::TableWithJoins]) -> Result<Merged> {
        let mut merged = Merged::default();
        if !from.iter().any(merges) {
            return Ok(merged);
        }
        for table in from {
            let visible = self.chain(table, &mut merged.keys)?;
            merged.all.extend(visible);
        }
        Ok(merged)
    }

    /// One FROM item; gives its columns in the order of `*`.
    fn chain(&self, table: &mut ast::TableWithJoins, keys: &mut Vec<Named>) -> Result<Vec<Named>> {
        let merging = merges(table);
        let mut visible = self.columns_of(&table.relation)?;
        for join in &mut table.joins {
            let right = self.columns_of(&join.relation)?;
            let full = matches!(join.join_operator, JoinOperator::FullOuter(_));
            let from_right = matches!(
                join.join_operator,
                JoinOperator::Right(_) | JoinOperator::RightOuter(_)
            );
            let shared = match constraint(&mut join.join_operator) {
                Some(JoinConstraint::Using(columns)) => columns.iter().map(last_part).collect(),
                Some(JoinConstraint::Natural) => visible
                    .iter()
                    .filter(|(name, _)| named(&right, name).is_some())
                    .map(|(name, _)| name.clone())
                    .collect(),
                _ => Vec::new(),
            };
            let mut condition: Option<Expr> = None;
            let mut front = Vec::with_capacity(shared.len());
            for name in &shared {
                let missing = |side: &str| {
                    let message = format!(
                        "column \"{name}\" specified in USING clause does not exist in {side} table"
                    );
                    PlanError::new("42703", message)
                };
                let a = named(&visible, name)
                    .ok_or_else(|| missing("left"))?
                    .clone();
                let b = named(&right, name).ok_or_else(|| missing("right"))?.clone();
                condition = Some(both(condition, equal(a.clone(), b.clone())));
                let value = match (full, from_right) {
                    (true, _) => self
                        .nodes
                        .wrap(Node::Function("coalesce".to_owned()), vec![a, b]),
                    (false, true) => b,
                    (false, false) => a,
                };
                front.push((name.clone(), value));
            }
            let rest = visible.into_iter().chain(right);
            visible = front
                .iter()
                .cloned()
                .chain(rest.filter(|(name, _)| !shared.contains(name)))
                .collect();
            if merging {
                if let (Some(slot), Some(condition)) =
                    (constraint(&mut join.join_operator), condition)
                {
                    *slot = JoinConstraint::On(condition);
                }
                keys.retain(|(name, _)| !shared.contains(name));
                keys.extend(front);
            }
        }
        Ok(visible)
    }

    fn columns_of(&self, factor: &TableFactor) -> Result<Vec<Named>> {
        let unsupported = || PlanError::unsupported("FULL JOIN ... USING with this kind of table");
        let qualifier = relation_alias(factor).ok_or_else(unsupported)?;
        let mut query = parsed("SELECT * FROM x")?;
        if let SetExpr::Select(select) = query.body.as_mut()
            && let Some(table) = select.from.first_mut()
        {
            table.relation = factor.clone();
        }
        let query = self.standalone(*query.body);
        let columns = self.trial.columns(&query).ok_or_else(unsupported)?;
        let column = |name: String| {
            let parts = vec![quoted(&qualifier), quoted(&name)];
            (name, Expr::CompoundIdentifier(parts))
        };
        Ok(columns.into_iter().map(|(name, _)| column(name)).collect())
    }

    /// Brings merged columns into scope and writes `*` out with them.
    pub(crate) fn written_out_with(&mut self, merged: Merged, items: &mut Vec<SelectItem>) {
        if let Some(scope) = self.merged.last_mut() {
            *scope = merged.clone();
        }
        if merged.keys.is_empty() {
            return;
        }
        let mut out = Vec::with_capacity(items.len());
        for item in std::mem::take(items) {
            if !matches!(item, SelectItem::Wildcard(_)) {
                out.push(item);
                continue;
            }
            out.extend(
                merged
                    .all
                    .iter()
                    .map(|(name, expr)| SelectItem::ExprWithAlias {
                        expr: expr.clone(),
                        alias: quoted(name),
                    }),
            );
        }
        *items = out;
    }

    /// What an unqualified column name stands for.
    pub(crate) fn merged_column(&self, ident: &ast::Ident) -> Option<Expr> {
        self.merged.last()?.find(&fold(ident)).cloned()
    }
}

fn equal(left: Expr, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op: ast::BinaryOperator::Eq,
        right: Box::new(right),
    }
}

fn both(before: Option<Expr>, test: Expr) -> Expr {
    match before {
        Some(before) => Expr::BinaryOp {
            left: Box::new(before),
            op: ast::BinaryOperator::And,
            right: Box::new(test),
        },
        None => test,
    }
}
