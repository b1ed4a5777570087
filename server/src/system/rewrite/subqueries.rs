//! Correlated scalar subqueries of the select list as outer joins.
//!
//! Invariant: only a plain lookup is joined (one item, no aggregate, no LIMIT, system relations alone), which in a catalog
//! finds at most one row, so the outer rows neither multiply nor vanish.

use std::collections::HashMap;
use std::ops::ControlFlow;

use thalweg_sql::ast::{
    Expr, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, TableAlias,
    TableFactor, TableWithJoins, Value, visit_expressions_mut,
};

use super::expressions::single_item;
use super::folded;
use super::scope::{InScope, factors, has_aggregate, system_table};

/// Turns the correlated lookups in the select list into LEFT JOINs.
pub(super) fn join_scalar_subqueries(select: &mut Select, counter: &mut usize) {
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    if select.from.is_empty() || grouped || has_aggregate(select) {
        return;
    }
    let mut joins = Vec::new();
    let mut projection = std::mem::take(&mut select.projection);
    for item in &mut projection {
        let named = match item {
            SelectItem::UnnamedExpr(Expr::Subquery(query)) => subquery_name(query),
            _ => None,
        };
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
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
        if let (Some(alias), SelectItem::UnnamedExpr(expr)) = (named, &*item) {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
    select.projection = projection;
    if !joins.is_empty() {
        let mut from = chained(std::mem::take(&mut select.from));
        if let Some(first) = from.first_mut() {
            first.joins.extend(joins);
        }
        select.from = from;
    }
}

/// The name Postgres gives an unnamed scalar subquery: its item's.
fn subquery_name(query: &Query) -> Option<Ident> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
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
    let Some(mut first) = items.next() else { return Vec::new() };
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
    let plain = query.with.is_none() && query.limit_clause.is_none() && query.fetch.is_none() && query.order_by.is_none();
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty())
        && select.having.is_none()
        && select.distinct.is_none();
    if !plain || !ungrouped || select.from.is_empty() || has_aggregate(select) {
        return None;
    }
    let mut select = select.as_ref().clone();
    let mut found = Vec::new();
    factors(&select.from, &mut found);
    let scope: Vec<InScope> = found.iter().map(|factor| system_table(factor)).collect::<Option<_>>()?;
    let renamed: HashMap<String, String> =
        scope.iter().map(|entry| (entry.qualifier.clone(), format!("thalweg_{number}_{}", entry.qualifier))).collect();
    if !qualify(&mut select, &scope, &renamed) {
        return None;
    }
    for item in &mut select.from {
        rename(&mut item.relation, &renamed);
        for join in &mut item.joins {
            rename(&mut join.relation, &renamed);
        }
    }
    let value = single_item(&select)?;
    let condition = select.selection.take().unwrap_or_else(|| Expr::Value(Value::Boolean(true).into()));
    let mut from = chained(select.from);
    let tables = from.pop()?;
    let relation = if tables.joins.is_empty() {
        tables.relation
    } else {
        TableFactor::NestedJoin { table_with_joins: Box::new(tables), alias: None }
    };
    let join_operator = JoinOperator::LeftOuter(JoinConstraint::On(condition));
    Some(Lookup { value, join: Join { relation, global: false, join_operator } })
}

/// Qualifies every column of the subquery's own relations by its new name; false when nothing is left that refers to the
/// outer query, which makes it a constant and none of our business.
fn qualify(select: &mut Select, scope: &[InScope], renamed: &HashMap<String, String>) -> bool {
    let mut correlated = false;
    let _ = visit_expressions_mut(select, |expr| {
        match expr {
            Expr::CompoundIdentifier(parts) => {
                let position = parts.len().saturating_sub(2);
                if let Some(new) = parts.get(position).and_then(|part| renamed.get(&folded(part))) {
                    if let Some(part) = parts.get_mut(position) {
                        *part = Ident::with_quote('"', new.clone());
                    }
                } else if !parts.first().is_some_and(|part| part.value.starts_with("thalweg_")) {
                    correlated = true;
                }
            }
            Expr::Identifier(ident) => {
                let owner = scope.iter().find(|entry| entry.table.position(&folded(ident)).is_some());
                match owner.and_then(|entry| renamed.get(&entry.qualifier)) {
                    Some(new) => {
                        *expr = Expr::CompoundIdentifier(vec![Ident::with_quote('"', new.clone()), ident.clone()]);
                    }
                    None => correlated = true,
                }
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    correlated
}

fn rename(factor: &mut TableFactor, renamed: &HashMap<String, String>) {
    match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => {
            rename(&mut table_with_joins.relation, renamed);
            for join in &mut table_with_joins.joins {
                rename(&mut join.relation, renamed);
            }
        }
        factor => {
            let new = system_table(factor).and_then(|entry| renamed.get(&entry.qualifier).cloned());
            if let (Some(new), TableFactor::Table { alias, .. }) = (new, factor) {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: Ident::with_quote('"', new),
                    columns: vec![],
                    at: None,
                });
            }
        }
    }
}
