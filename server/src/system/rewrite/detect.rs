//! Whether a query is about the catalog at all.
//!
//! Invariant: looks only; a query over user relations with ordinary functions and types is never about the catalog.

use std::ops::ControlFlow;

use thalweg_catalog::Catalog;
use thalweg_sql::ast::{
    self, BinaryOperator, DataType, Expr, Ident, ObjectName, ObjectNamePart, Query, Visit, Visitor,
};

use super::super::{functions, shape};
use super::{folded, is_system_schema, last_name};

/// True when a query names a system relation, a `pg_catalog.` function or type, a catalog function, or a reg* type.
pub(super) fn names_system_objects(
    query: &Query,
    catalog: &Catalog,
    search_path: &[String],
) -> bool {
    query
        .visit(&mut Detector {
            catalog,
            search_path,
        })
        .is_break()
}

struct Detector<'a> {
    catalog: &'a Catalog,
    search_path: &'a [String],
}

fn found(yes: bool) -> ControlFlow<()> {
    if yes {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

fn is_qualified_by_system_schema(name: &ObjectName) -> bool {
    name.0.len() > 1
        && name
            .0
            .iter()
            .rev()
            .nth(1)
            .and_then(ObjectNamePart::as_ident)
            .is_some_and(|part| is_system_schema(&part.value))
}

impl Visitor for Detector<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if is_qualified_by_system_schema(relation) {
            return found(true);
        }
        let unqualified = relation.0.len() == 1;
        let is_system =
            last_name(relation).is_some_and(|name| shape::table("pg_catalog", &name).is_some());
        // A user relation hides a system relation only when pg_catalog comes after its schema in the search path.
        let hidden = || {
            let before = self
                .search_path
                .iter()
                .take_while(|schema| *schema != "pg_catalog");
            let listed = self.search_path.iter().any(|schema| schema == "pg_catalog");
            listed
                && last_name(relation).is_some_and(|name| {
                    before
                        .into_iter()
                        .any(|schema| self.catalog.find(schema, &name).is_some())
                })
        };
        found(unqualified && is_system && !hidden())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        found(match expr {
            Expr::Function(function) => is_catalog_function(function),
            Expr::Cast { data_type, .. } => is_catalog_type(data_type),
            Expr::TypedString(typed) => is_catalog_type(&typed.data_type),
            Expr::BinaryOp {
                op: BinaryOperator::PGCustomBinaryOperator(_),
                ..
            } => true,
            Expr::Collate { collation, .. } => is_qualified_by_system_schema(collation),
            Expr::Identifier(ident) => is_session_word(ident),
            _ => false,
        })
    }
}

/// Words that are values without parentheses in Postgres.
pub(super) fn is_session_word(ident: &Ident) -> bool {
    ident.quote_style.is_none()
        && [
            "current_schema",
            "current_catalog",
            "current_role",
            "current_user",
            "session_user",
            "user",
        ]
        .contains(&folded(ident).as_str())
}

fn is_catalog_function(function: &ast::Function) -> bool {
    is_qualified_by_system_schema(&function.name)
        || last_name(&function.name).is_some_and(|name| {
            functions::is_function(&name)
                || ["_pg_expandarray", "generate_subscripts"].contains(&name.as_str())
        })
}

fn is_catalog_type(data_type: &DataType) -> bool {
    match data_type {
        DataType::Regclass => true,
        DataType::Custom(name, _) => {
            is_qualified_by_system_schema(name)
                || last_name(name).is_some_and(|name| name.starts_with("reg"))
        }
        DataType::Array(
            ast::ArrayElemTypeDef::SquareBracket(element, _)
            | ast::ArrayElemTypeDef::AngleBracket(element)
            | ast::ArrayElemTypeDef::Parenthesis(element),
        ) => is_catalog_type(element),
        _ => false,
    }
}
