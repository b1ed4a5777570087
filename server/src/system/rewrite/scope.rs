//! What the FROM clause of one SELECT holds, and the rewrites that need to know it.
//!
//! Invariant: a relation counts as empty only when it is a system relation that never has rows here.

use std::ops::ControlFlow;

use thalweg_sql::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, JoinOperator,
    ObjectNamePart, Query, Select, SelectItem, SetExpr, TableFactor, TableWithJoins, Value, Visit,
    Visitor, visit_expressions_mut,
};

use super::super::pg_catalog;
use super::super::shape::{self, SystemTable};
use super::{folded, function_name, is_system_schema};

/// A system relation in FROM with the name its columns are qualified by.
pub(super) struct InScope {
    pub(super) qualifier: String,
    pub(super) table: &'static SystemTable,
}

/// The system relation a table factor names.
pub(super) fn system_table(factor: &TableFactor) -> Option<InScope> {
    let TableFactor::Table {
        name,
        alias,
        args: None,
        ..
    } = factor
    else {
        return None;
    };
    let parts: Vec<String> = name
        .0
        .iter()
        .filter_map(ObjectNamePart::as_ident)
        .map(folded)
        .collect();
    let table = match parts.as_slice() {
        [name] => shape::table("pg_catalog", name)?,
        [schema, name] if is_system_schema(schema) => shape::table(schema, name)?,
        _ => return None,
    };
    let qualifier = alias
        .as_ref()
        .map_or_else(|| table.name.clone(), |alias| folded(&alias.name));
    Some(InScope { qualifier, table })
}

/// The table factors of a FROM clause, nested joins opened.
pub(super) fn factors<'a>(from: &'a [TableWithJoins], all: &mut Vec<&'a TableFactor>) {
    for item in from {
        push_factor(&item.relation, all);
        for join in &item.joins {
            push_factor(&join.relation, all);
        }
    }
}

fn push_factor<'a>(factor: &'a TableFactor, all: &mut Vec<&'a TableFactor>) {
    match factor {
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => factors(std::slice::from_ref(table_with_joins), all),
        factor => all.push(factor),
    }
}

/// `tableoid` becomes the relation's OID, and the row-version columns NULL: they are not columns of the relations here.
pub(super) fn resolve_system_columns(select: &mut Select) {
    let mut found = Vec::new();
    factors(&select.from, &mut found);
    let scope: Vec<InScope> = found.into_iter().filter_map(system_table).collect();
    if scope.is_empty() {
        return;
    }
    let replacement = |expr: &Expr| -> Option<Expr> {
        let (qualifier, column) = match expr {
            Expr::Identifier(column) if column.quote_style.is_none() => (None, folded(column)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., qualifier, column] => (Some(folded(qualifier)), folded(column)),
                _ => return None,
            },
            _ => return None,
        };
        if !["tableoid", "xmin", "xmax", "cmin", "cmax", "ctid"].contains(&column.as_str()) {
            return None;
        }
        let table = match qualifier {
            Some(qualifier) => {
                scope
                    .iter()
                    .find(|entry| entry.qualifier == qualifier)?
                    .table
            }
            None => scope.first()?.table,
        };
        if table.position(&column).is_some() {
            return None;
        }
        Some(match column.as_str() {
            "tableoid" => oid(table.oid),
            "ctid" => Expr::Nested(Box::new(super::expressions::cast(
                Expr::Value(Value::Null.into()),
                thalweg_sql::ast::DataType::Text,
            ))),
            _ => oid(0),
        })
    };
    let mut named = Vec::new();
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) = item
            && let (Some(new), Some(name)) = (replacement(expr), last_ident(expr))
        {
            named.push((expr.clone(), new.clone()));
            *item = SelectItem::ExprWithAlias {
                expr: new,
                alias: name,
            };
        }
    }
    let _ = visit_expressions_mut(select, |expr| {
        if let Some(new) = replacement(expr) {
            *expr = new;
        }
        ControlFlow::<()>::Continue(())
    });
}

fn last_ident(expr: &Expr) -> Option<thalweg_sql::ast::Ident> {
    match expr {
        Expr::Identifier(ident) => Some(ident.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().cloned(),
        _ => None,
    }
}

fn oid(value: u32) -> Expr {
    let text = Expr::Value(Value::SingleQuotedString(value.to_string()).into());
    let name = thalweg_sql::ast::ObjectName(vec![ObjectNamePart::Identifier(
        thalweg_sql::ast::Ident::new("oid"),
    )]);
    Expr::Nested(Box::new(super::expressions::cast(
        text,
        thalweg_sql::ast::DataType::Custom(name, vec![]),
    )))
}

/// True when the FROM clause cannot give a row because a system relation without rows is joined in.
pub(super) fn is_empty(from: &[TableWithJoins]) -> bool {
    from.iter().any(|item| {
        let inner = |operator: &JoinOperator| {
            matches!(
                operator,
                JoinOperator::Join(_)
                    | JoinOperator::Inner(_)
                    | JoinOperator::CrossJoin(_)
                    | JoinOperator::Right(_)
                    | JoinOperator::RightOuter(_)
            )
        };
        let outer = item.joins.iter().any(|join| {
            matches!(
                join.join_operator,
                JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
            )
        });
        (!outer && factor_is_empty(&item.relation))
            || item
                .joins
                .iter()
                .any(|join| inner(&join.join_operator) && factor_is_empty(&join.relation))
    })
}

fn factor_is_empty(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => is_empty(std::slice::from_ref(table_with_joins)),
        TableFactor::UNNEST { array_exprs, .. } => array_exprs.iter().all(is_always_null),
        TableFactor::Table { name, args: Some(args), .. } if super::last_name(name).as_deref() == Some("unnest") => {
            args.args.iter().all(|argument| {
                matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) if is_always_null(expr))
            })
        }
        factor => system_table(factor).is_some_and(|entry| {
            entry.table.schema == "pg_catalog" && pg_catalog::never_has_rows(&entry.table.name)
        }),
    }
}

/// Arrays of options and privileges, which no object has here.
fn is_always_null(expr: &Expr) -> bool {
    const ALWAYS_NULL: &[&str] = &[
        "attacl",
        "attfdwoptions",
        "attoptions",
        "confkey",
        "datacl",
        "lanacl",
        "nspacl",
        "proacl",
        "proconfig",
        "relacl",
        "reloptions",
        "spcacl",
        "spcoptions",
        "typacl",
    ];
    last_ident(expr).is_some_and(|ident| ALWAYS_NULL.contains(&folded(&ident).as_str()))
}

/// True for a condition that asks for foreign keys, which nothing has here.
fn wants_foreign_keys(condition: &Expr) -> bool {
    match condition {
        Expr::Nested(inner) => wants_foreign_keys(inner),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => wants_foreign_keys(left) || wants_foreign_keys(right),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        } => {
            last_ident(left).is_some_and(|ident| folded(&ident) == "contype")
                && matches!(right.as_ref(), Expr::Value(value) if value.value == Value::SingleQuotedString("f".to_owned()))
        }
        _ => false,
    }
}

/// Subqueries over relations without rows become what they give: NULL, an empty array, false. Where the SELECT itself has no
/// rows, every subquery of its items does, since none is ever evaluated; this is what makes psql's publication, policy and
/// statistics queries plain ones.
pub(super) fn drop_empty_subqueries(select: &mut Select) {
    let all = is_empty(&select.from) || select.selection.as_ref().is_some_and(wants_foreign_keys);
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            drop_in(expr, all);
        }
    }
    if let Some(condition) = &mut select.selection {
        drop_in(condition, false);
    }
}

fn drop_in(expr: &mut Expr, all: bool) {
    let _ = thalweg_sql::ast::visit_expressions_mut(expr, |part| {
        let replacement = match part {
            Expr::Subquery(query) if all && is_array(query) => match empty_text_array() {
                Some(empty) => empty,
                None => return ControlFlow::<()>::Continue(()),
            },
            Expr::Subquery(query) if all || has_no_rows(query) => super::expressions::cast(
                Expr::Value(Value::Null.into()),
                thalweg_sql::ast::DataType::Text,
            ),
            Expr::Exists { subquery, negated } if all || has_no_rows(subquery) => {
                Expr::Value(Value::Boolean(*negated).into())
            }
            Expr::Function(function) if function_name(function).as_deref() == Some("array") => {
                match &function.args {
                    FunctionArguments::Subquery(query) if all || has_no_rows(query) => {
                        match empty_text_array() {
                            Some(empty) => empty,
                            None => return ControlFlow::<()>::Continue(()),
                        }
                    }
                    _ => return ControlFlow::Continue(()),
                }
            }
            _ => return ControlFlow::Continue(()),
        };
        *part = Expr::Nested(Box::new(replacement));
        ControlFlow::Continue(())
    });
}

fn empty_text_array() -> Option<Expr> {
    thalweg_sql::parse_expr("CAST(ARRAY[] AS text[])").ok()
}

fn has_no_rows(query: &Query) -> bool {
    query.with.is_none()
        && matches!(query.body.as_ref(), SetExpr::Select(select) if is_empty(&select.from) && !has_aggregate(select))
}

/// True for a subquery whose one item is an array.
fn is_array(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return false;
    };
    match super::expressions::single_item(select) {
        Some(Expr::Function(function)) => function_name(&function).as_deref() == Some("array_agg"),
        _ => false,
    }
}

/// True when the items of a SELECT itself hold an aggregate call, so that it gives a row even over nothing.
pub(super) fn has_aggregate(select: &Select) -> bool {
    select
        .projection
        .iter()
        .any(|item| item.visit(&mut AggregateFinder { depth: 0 }).is_break())
}

/// Looks for aggregate calls outside subqueries.
struct AggregateFinder {
    depth: usize,
}

impl Visitor for AggregateFinder {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        const AGGREGATES: &[&str] = &[
            "count",
            "sum",
            "min",
            "max",
            "avg",
            "array_agg",
            "string_agg",
            "bool_and",
            "bool_or",
            "every",
            "json_agg",
        ];
        match expr {
            Expr::Function(function)
                if self.depth == 0
                    && function.over.is_none()
                    && function_name(function)
                        .is_some_and(|name| AGGREGATES.contains(&name.as_str())) =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// `FROM t CROSS JOIN unnest(t.xs) AS x JOIN ...` -> `FROM (SELECT *, unnest(xs) AS x FROM t) AS t JOIN ...`: the planner
/// knows no lateral unnest among other joins.
pub(super) fn unnest_in_place(select: &mut Select) {
    for item in &mut select.from {
        let Some(base) = system_table(&item.relation) else {
            continue;
        };
        let found = item.joins.iter().enumerate().find_map(|(position, join)| {
            let TableFactor::UNNEST {
                array_exprs,
                alias: Some(alias),
                with_ordinality: false,
                ..
            } = &join.relation
            else {
                return None;
            };
            let [array] = array_exprs.as_slice() else {
                return None;
            };
            let column = folded(&last_ident(array)?);
            let name = alias
                .columns
                .first()
                .map_or_else(|| alias.name.clone(), |column| column.name.clone());
            base.table.position(&column)?;
            Some((position, column, name))
        });
        let Some((position, column, name)) = found else {
            continue;
        };
        let text = format!(
            "SELECT * FROM (SELECT *, unnest({column}) AS {name} FROM {}.{}) AS \"{}\"",
            base.table.schema, base.table.name, base.qualifier
        );
        let Ok(mut parsed) = thalweg_sql::parse_query(&text) else {
            continue;
        };
        let SetExpr::Select(source) = parsed.body.as_mut() else {
            continue;
        };
        if let Some(source) = source.from.pop() {
            item.relation = source.relation;
            item.joins.remove(position);
        }
    }
}
