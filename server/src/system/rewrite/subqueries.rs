//! Correlated scalar subqueries as outer joins, and EXISTS and IN where they are values.
//!
//! Invariant: only a plain lookup is joined (one item, no aggregate, no LIMIT, system relations alone), which in a catalog
//! finds at most one row, so the outer rows neither multiply nor vanish.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use thalweg_sql::ast::{
    BinaryOperator, Expr, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, Query, Select,
    SelectItem, SetExpr, TableFactor, TableWithJoins, Value, visit_expressions_mut,
};

use super::expressions::{aggregate_rows, call, single_item};
use super::folded;
use super::scope::{InScope, factors, has_aggregate, system_table};

/// Turns the correlated lookups of a SELECT into LEFT JOINs.
pub(super) fn join_scalar_subqueries(select: &mut Select, counter: &mut usize) {
    // A joined relation would show up in `*`.
    let shows_all = select
        .projection
        .iter()
        .any(|item| matches!(item, SelectItem::Wildcard(_)));
    if select.from.is_empty() || shows_all {
        return;
    }
    for item in &mut select.from {
        join_conditions(item, counter);
    }
    let mut joins = Vec::new();
    if let Some(condition) = &mut select.selection {
        take_lookups(condition, counter, &mut joins);
    }
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    if !grouped && !has_aggregate(select) {
        for item in &mut select.projection {
            let named = match item {
                SelectItem::UnnamedExpr(Expr::Subquery(query)) => subquery_name(query),
                _ => None,
            };
            let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item
            else {
                continue;
            };
            take_lookups(expr, counter, &mut joins);
            if let (Some(alias), SelectItem::UnnamedExpr(expr)) = (named, &*item) {
                *item = SelectItem::ExprWithAlias {
                    expr: expr.clone(),
                    alias,
                };
            }
        }
    }
    if !joins.is_empty() {
        let mut from = chained(std::mem::take(&mut select.from));
        if let Some(first) = from.first_mut() {
            first.joins.extend(joins);
        }
        select.from = from;
    }
}

/// Replaces the lookups in an expression by the values they find, and collects their joins.
fn take_lookups(expr: &mut Expr, counter: &mut usize, joins: &mut Vec<Join>) {
    let _ = visit_expressions_mut(expr, |part| {
        if let Expr::Subquery(query) = part
            && let Some(lookup) = lookup(query, *counter)
        {
            *counter += 1;
            *part = Expr::Nested(Box::new(lookup.value));
            joins.push(lookup.join);
        }
        ControlFlow::<()>::Continue(())
    });
}

/// Lookups in a join condition are joined just before it.
fn join_conditions(item: &mut TableWithJoins, counter: &mut usize) {
    let mut joins = Vec::with_capacity(item.joins.len());
    for mut join in std::mem::take(&mut item.joins) {
        if let JoinOperator::Join(JoinConstraint::On(condition))
        | JoinOperator::Inner(JoinConstraint::On(condition))
        | JoinOperator::Left(JoinConstraint::On(condition))
        | JoinOperator::LeftOuter(JoinConstraint::On(condition)) = &mut join.join_operator
        {
            take_lookups(condition, counter, &mut joins);
        }
        joins.push(join);
    }
    item.joins = joins;
}

/// EXISTS and IN as items: a count and an array, since only WHERE takes them as they are.
pub(super) fn predicates_as_values(select: &mut Select) {
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            continue;
        };
        let _ = visit_expressions_mut(expr, |part| {
            let value = match part {
                Expr::Exists { subquery, negated } => counted(subquery, *negated),
                Expr::InSubquery {
                    expr,
                    subquery,
                    negated: false,
                } => listed(expr, subquery),
                _ => None,
            };
            if let Some(value) = value {
                *part = Expr::Nested(Box::new(value));
            }
            ControlFlow::<()>::Continue(())
        });
    }
}

fn counted(subquery: &Query, negated: bool) -> Option<Expr> {
    let mut query = subquery.clone();
    let SetExpr::Select(select) = query.body.as_mut() else {
        return None;
    };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    if grouped || query.limit_clause.is_some() || has_aggregate(select) {
        return None;
    }
    let count = thalweg_sql::parse_expr("count(*)").ok()?;
    select.projection = vec![SelectItem::UnnamedExpr(count)];
    let zero = || Expr::Value(Value::Number("0".to_owned(), false).into());
    Some(Expr::BinaryOp {
        left: Box::new(call(
            "coalesce",
            vec![Expr::Subquery(Box::new(query)), zero()],
        )),
        op: if negated {
            BinaryOperator::Eq
        } else {
            BinaryOperator::Gt
        },
        right: Box::new(zero()),
    })
}

fn listed(value: &Expr, subquery: &Query) -> Option<Expr> {
    let mut query = subquery.clone();
    aggregate_rows(&mut query).then(|| Expr::AnyOp {
        left: Box::new(value.clone()),
        compare_op: BinaryOperator::Eq,
        right: Box::new(call(
            "thalweg_array_or_empty",
            vec![Expr::Subquery(Box::new(query))],
        )),
        is_some: false,
    })
}

/// The name Postgres gives an unnamed scalar subquery: its item's.
fn subquery_name(query: &Query) -> Option<Ident> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    match select.projection.as_slice() {
        [SelectItem::ExprWithAlias { alias, .. }] => Some(alias.clone()),
        [SelectItem::UnnamedExpr(Expr::Identifier(ident))] => Some(ident.clone()),
        [SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts))] => parts.last().cloned(),
        [SelectItem::UnnamedExpr(Expr::Function(function))] => {
            super::function_name(function).map(|name| Ident::with_quote('"', name))
        }
        _ => Some(Ident::with_quote('"', "?column?")),
    }
}

/// A FROM list as one chain of joins, so that a join at its end sees all of it.
fn chained(from: Vec<TableWithJoins>) -> Vec<TableWithJoins> {
    let mut items = from.into_iter();
    let Some(mut first) = items.next() else {
        return Vec::new();
    };
    for item in items {
        first.joins.push(Join {
            relation: item.relation,
            global: false,
            join_operator: JoinOperator::CrossJoin(JoinConstraint::None),
        });
        first.joins.extend(item.joins);
    }
    vec![first]
}

struct Lookup {
    value: Expr,
    join: Join,
}

fn lookup(query: &Query, number: usize) -> Option<Lookup> {
    let plain = query.with.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.order_by.is_none();
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty())
        && select.having.is_none()
        && select.distinct.is_none();
    if !plain || !ungrouped || select.from.is_empty() || has_aggregate(select) {
        return None;
    }
    let mut select = select.as_ref().clone();
    let mut found = Vec::new();
    factors(&select.from, &mut found);
    let scope: Vec<InScope> = found
        .iter()
        .map(|factor| system_table(factor))
        .collect::<Option<_>>()?;
    let mut names = Renamed {
        prefix: format!("thalweg_{number}_"),
        scope: &scope,
        columns: BTreeSet::new(),
    };
    if !names.qualify(&mut select) {
        return None;
    }
    for item in &mut select.from {
        names.rename(&mut item.relation);
        for join in &mut item.joins {
            names.rename(&mut join.relation);
        }
    }
    let value = single_item(&select)?;
    let condition = select
        .selection
        .take()
        .unwrap_or_else(|| Expr::Value(Value::Boolean(true).into()));
    let mut from = chained(select.from);
    let tables = from.pop()?;
    let relation = if tables.joins.is_empty() {
        tables.relation
    } else {
        TableFactor::NestedJoin {
            table_with_joins: Box::new(tables),
            alias: None,
        }
    };
    let join_operator = JoinOperator::LeftOuter(JoinConstraint::On(condition));
    Some(Lookup {
        value,
        join: Join {
            relation,
            global: false,
            join_operator,
        },
    })
}

/// New names for the relations and columns of a subquery, so that they cannot be taken for those of the outer query.
struct Renamed<'a> {
    prefix: String,
    scope: &'a [InScope],
    /// Qualifier and column of what the subquery uses.
    columns: BTreeSet<(String, String)>,
}

impl Renamed<'_> {
    fn new_name(&mut self, qualifier: &str, column: &str) -> Expr {
        self.columns
            .insert((qualifier.to_owned(), column.to_owned()));
        let part = |name: &str| Ident::with_quote('"', format!("{}{name}", self.prefix));
        Expr::CompoundIdentifier(vec![part(qualifier), part(column)])
    }

    /// Renames every column of the subquery's own relations; false when nothing is left that refers to the outer query, which
    /// makes it a constant and none of our business.
    fn qualify(&mut self, select: &mut Select) -> bool {
        let mut correlated = false;
        let scope = self.scope;
        let _ = visit_expressions_mut(select, |expr| {
            let own = match &*expr {
                Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                    [first, ..] if first.value.starts_with(&self.prefix) => {
                        return ControlFlow::<()>::Continue(());
                    }
                    [.., qualifier, column] => {
                        let qualifier = folded(qualifier);
                        let own = scope.iter().any(|entry| entry.qualifier == qualifier);
                        Some(own.then(|| (qualifier, folded(column))))
                    }
                    _ => None,
                },
                Expr::Identifier(ident) => {
                    let column = folded(ident);
                    let owner = scope
                        .iter()
                        .find(|entry| entry.table.position(&column).is_some());
                    Some(owner.map(|entry| (entry.qualifier.clone(), column)))
                }
                _ => None,
            };
            match own {
                Some(Some((qualifier, column))) => *expr = self.new_name(&qualifier, &column),
                Some(None) => correlated = true,
                None => {}
            }
            ControlFlow::Continue(())
        });
        correlated
    }

    /// Puts a selection of the renamed columns in the place of a relation.
    fn rename(&self, factor: &mut TableFactor) {
        if let TableFactor::NestedJoin {
            table_with_joins, ..
        } = factor
        {
            self.rename(&mut table_with_joins.relation);
            for join in &mut table_with_joins.joins {
                self.rename(&mut join.relation);
            }
            return;
        }
        let Some(entry) = system_table(factor) else {
            return;
        };
        let columns: Vec<String> = self
            .columns
            .iter()
            .filter(|(qualifier, _)| *qualifier == entry.qualifier)
            .map(|(_, column)| format!("\"{column}\" AS \"{}{column}\"", self.prefix))
            .collect();
        // A relation that is only joined for its rows still needs a column.
        let columns = if columns.is_empty() {
            "1 AS one".to_owned()
        } else {
            columns.join(", ")
        };
        let text = format!(
            "SELECT * FROM (SELECT {columns} FROM {}.\"{}\") AS \"{}{}\"",
            entry.table.schema, entry.table.name, self.prefix, entry.qualifier
        );
        let Ok(mut parsed) = thalweg_sql::parse_query(&text) else {
            return;
        };
        if let SetExpr::Select(select) = parsed.body.as_mut()
            && let Some(source) = select.from.pop()
        {
            *factor = source.relation;
        }
    }
}
