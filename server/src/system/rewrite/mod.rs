//! Makes clients' catalog queries run: Postgres constructs that only such queries use become what the planner has.
//!
//! Invariant: a statement that names no system object comes out unchanged; one that does keeps its column names, their
//! order and its rows.

mod detect;
mod expressions;
mod reg;
mod scope;
mod subqueries;

use std::ops::ControlFlow;

use thalweg_catalog::Catalog;
use thalweg_sql::Statement;
use thalweg_sql::ast::{
    self, Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, TableFactor,
    TableFunctionArgs, VisitMut, VisitorMut,
};

use super::{fingerprint, shape};

/// Rewrites a statement in place when it names pg_catalog or information_schema objects or uses reg* types; true when it did.
pub fn rewrite(statement: &mut Statement, catalog: &Catalog, search_path: &[String]) -> bool {
    match statement {
        Statement::Query(query) => rewrite_query(query, catalog, search_path),
        Statement::Explain(explain) => rewrite(&mut explain.statement, catalog, search_path),
        _ => false,
    }
}

/// [`rewrite`] for a query.
pub fn rewrite_query(query: &mut Query, catalog: &Catalog, search_path: &[String]) -> bool {
    if !detect::names_system_objects(query, catalog, search_path) {
        return false;
    }
    fingerprint::replace(query);
    let mut rewriter = Rewriter { subqueries: 0 };
    let _ = query.visit(&mut rewriter);
    name_outputs(query);
    true
}

struct Rewriter {
    /// Scalar subqueries turned into joins so far; numbers their aliases.
    subqueries: usize,
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        scope::resolve_system_columns(select);
        scope::drop_empty_subqueries(select);
        scope::unnest_in_place(select);
        subqueries::predicates_as_values(select);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        subqueries::join_scalar_subqueries(select, &mut self.subqueries);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        expressions::before(expr);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        expressions::after(expr);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        table_function(factor);
        ControlFlow::Continue(())
    }
}

/// `pg_catalog.f(...)` in FROM loses its schema, and a function that is one of our relations becomes that relation.
fn table_function(factor: &mut TableFactor) {
    match factor {
        TableFactor::Table {
            name,
            args: args @ Some(_),
            ..
        } => {
            strip_schema(name);
            if args
                .as_ref()
                .is_some_and(|TableFunctionArgs { args, .. }| args.is_empty())
                && qualify_function_relation(name)
            {
                *args = None;
            }
        }
        TableFactor::Function { name, .. } => strip_schema(name),
        _ => {}
    }
}

fn qualify_function_relation(name: &mut ObjectName) -> bool {
    let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else {
        return false;
    };
    let relation = match ident.value.to_ascii_lowercase().as_str() {
        "pg_show_all_settings" => "pg_settings".to_owned(),
        "pg_timezone_abbrevs" => "pg_timezone_abbrevs".to_owned(),
        other => other.to_owned(),
    };
    if shape::table("pg_catalog", &relation).is_none() {
        return false;
    }
    name.0 = [Ident::new("pg_catalog"), Ident::new(relation)]
        .map(ObjectNamePart::Identifier)
        .to_vec();
    true
}

/// Removes a leading `pg_catalog.` or `information_schema.` from a function or type name.
pub(crate) fn strip_schema(name: &mut ObjectName) {
    if let [ObjectNamePart::Identifier(schema), _] = name.0.as_slice()
        && is_system_schema(&schema.value)
    {
        name.0.remove(0);
    }
}

/// True for the schemas whose functions and types need no qualifier here.
pub(crate) fn is_system_schema(name: &str) -> bool {
    name.eq_ignore_ascii_case("pg_catalog") || name.eq_ignore_ascii_case("information_schema")
}

/// Last part of a name, folded.
pub(crate) fn last_name(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(ObjectNamePart::as_ident).map(folded)
}

/// An identifier as names are compared.
pub(crate) fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

/// Name of a function call.
pub(crate) fn function_name(function: &ast::Function) -> Option<String> {
    last_name(&function.name)
}

/// Keeps the column names of items that were rewritten, and prints reg* and vector columns as Postgres does.
fn name_outputs(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return;
    };
    // Grouped or ordered items must stay what GROUP BY and ORDER BY name; clients that print these columns do neither.
    let plain = matches!(&select.group_by, ast::GroupByExpr::Expressions(list, _) if list.is_empty())
        && select.distinct.is_none();
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else {
            continue;
        };
        let column = match &*expr {
            Expr::Identifier(ident) => Some(ident.clone()),
            Expr::CompoundIdentifier(parts) => parts.last().cloned(),
            _ => None,
        };
        let printed = column
            .as_ref()
            .filter(|_| plain)
            .and_then(|ident| expressions::printer(&folded(ident)));
        if let Some(function) = printed {
            *expr = expressions::call(function, vec![expr.clone()]);
            if let (SelectItem::UnnamedExpr(expr), Some(ident)) = (&*item, column) {
                *item = SelectItem::ExprWithAlias {
                    expr: expr.clone(),
                    alias: ident,
                };
            }
        } else if let SelectItem::UnnamedExpr(expr) = item
            && let Some(name) = expressions::hidden_name(expr)
        {
            *item = SelectItem::ExprWithAlias {
                expr: expr.clone(),
                alias: Ident::with_quote('"', name),
            };
        }
    }
}
