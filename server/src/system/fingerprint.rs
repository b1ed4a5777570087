//! Client queries that no rewrite makes run, answered by a relation of ours.
//!
//! Invariant: a replacement gives the columns of the query it replaces, in order and under their names.

use thalweg_sql::ast::{Query, SetExpr, TableFactor};

/// Name of the relation behind asyncpg's type introspection.
pub(crate) const TYPE_TREE: &str = "thalweg_type_tree";

/// Replaces the parts of a query that are known to be stubborn.
///
/// asyncpg asks for a type and everything it is made of with a recursive CTE named `typeinfo_tree` over correlated recursive
/// CTEs. [`TYPE_TREE`] holds that closure for every type (`root`), so the CTE becomes a selection of it.
pub(crate) fn replace(query: &mut Query) {
    let is_tree = query.with.as_ref().is_some_and(|with| {
        with.recursive
            && with
                .cte_tables
                .iter()
                .any(|cte| cte.alias.name.value.eq_ignore_ascii_case("typeinfo_tree"))
    });
    if !is_tree {
        return;
    }
    let text = format!(
        "SELECT * FROM (SELECT oid, ns, name, kind, basetype, elemtype, elemdelim, range_subtype, attrtypoids, attrnames, \
         depth FROM pg_catalog.{TYPE_TREE} WHERE root = ANY ($1::oid[])) AS typeinfo_tree"
    );
    let Ok(mut tree) = thalweg_sql::parse_query(&text) else {
        return;
    };
    let SetExpr::Select(source) = tree.body.as_mut() else {
        return;
    };
    let Some(source) = source.from.pop() else {
        return;
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return;
    };
    let names_tree = matches!(
        select.from.as_slice(),
        [item] if item.joins.is_empty()
            && matches!(&item.relation, TableFactor::Table { name, .. } if name.to_string().eq_ignore_ascii_case("typeinfo_tree"))
    );
    if names_tree {
        select.from = vec![source];
        query.with = None;
    }
}
