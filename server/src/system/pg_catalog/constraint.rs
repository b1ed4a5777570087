//! pg_index, pg_indexes and pg_constraint.
//!
//! Invariant: a primary key is one constraint row and one index row that name each other.

use thalweg_catalog::{Relation, SqlType};

use super::super::names::quote_ident;
use super::{Cell, Rows, SystemFacts};

/// Default B-tree operator class of a type, by OID in pg_opclass.
fn operator_class(ty: &SqlType) -> u32 {
    match ty {
        SqlType::Bool => 424,
        SqlType::Int2 => 1979,
        SqlType::Int4 => 1978,
        SqlType::Int8 => 3124,
        SqlType::Float4 => 1970,
        SqlType::Float8 => 3123,
        SqlType::Numeric { .. } => 3125,
        SqlType::Char(_) => 426,
        SqlType::Bytea => 428,
        SqlType::Date => 3122,
        SqlType::Time => 3129,
        SqlType::Timestamp => 3128,
        SqlType::Timestamptz => 3127,
        SqlType::Interval => 1984,
        SqlType::Uuid => 2968,
        SqlType::Jsonb => 4033,
        SqlType::Oid | SqlType::Reg(_) => 1981,
        SqlType::Array(_) => 397,
        _ => 3126,
    }
}

pub(super) fn pg_index(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        let Some(key) = &relation.primary_key else {
            continue;
        };
        let zeros: Vec<i32> = vec![0; key.columns.len()];
        let classes: Vec<u32> = key
            .columns
            .iter()
            .filter_map(|attnum| {
                relation
                    .columns
                    .iter()
                    .find(|column| column.attnum == *attnum)
            })
            .map(|column| operator_class(&column.ty))
            .collect();
        rows.push([
            ("indexrelid", key.index_oid.into()),
            ("indrelid", relation.oid.into()),
            ("indnatts", key.columns.len().into()),
            ("indnkeyatts", key.columns.len().into()),
            ("indisunique", true.into()),
            ("indnullsnotdistinct", false.into()),
            ("indisprimary", true.into()),
            ("indisexclusion", false.into()),
            ("indimmediate", true.into()),
            ("indisclustered", false.into()),
            ("indisvalid", true.into()),
            ("indcheckxmin", false.into()),
            ("indisready", true.into()),
            ("indislive", true.into()),
            ("indisreplident", false.into()),
            ("indkey", key.columns.clone().into()),
            ("indcollation", zeros.clone().into()),
            ("indclass", classes.into()),
            ("indoption", zeros.into()),
        ]);
    }
}

pub(super) fn pg_indexes(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        let Some(key) = &relation.primary_key else {
            continue;
        };
        rows.push([
            ("schemaname", facts.schema_name(relation.schema).into()),
            ("tablename", (&relation.name).into()),
            ("indexname", (&key.name).into()),
            ("indexdef", index_definition(facts, relation, None).into()),
        ]);
    }
}

/// What `pg_get_indexdef` prints for a relation's primary-key index: the statement, or the `column`-th key column alone.
pub(crate) fn index_definition(
    facts: &SystemFacts,
    relation: &Relation,
    column: Option<usize>,
) -> Option<String> {
    let key = relation.primary_key.as_ref()?;
    let names: Vec<String> = key_columns(relation, &key.columns);
    if let Some(column) = column {
        return names.get(column).cloned();
    }
    Some(format!(
        "CREATE UNIQUE INDEX {} ON {}.{} USING btree ({})",
        quote_ident(&key.name),
        quote_ident(facts.schema_name(relation.schema)),
        quote_ident(&relation.name),
        names.join(", ")
    ))
}

/// What `pg_get_constraintdef` prints.
pub(crate) fn constraint_definition(facts: &SystemFacts, oid: u32) -> Option<String> {
    for (relation, _) in facts.shown() {
        if let Some(key) = relation
            .primary_key
            .as_ref()
            .filter(|key| key.constraint_oid.0 == oid)
        {
            return Some(format!(
                "PRIMARY KEY ({})",
                key_columns(relation, &key.columns).join(", ")
            ));
        }
        if let Some(check) = relation.checks.iter().find(|check| check.oid.0 == oid) {
            return Some(format!("CHECK ({})", check.expr));
        }
    }
    None
}

fn key_columns(relation: &Relation, attnums: &[i16]) -> Vec<String> {
    attnums
        .iter()
        .filter_map(|attnum| {
            relation
                .columns
                .iter()
                .find(|column| column.attnum == *attnum)
        })
        .map(|column| quote_ident(&column.name))
        .collect()
}

/// Attribute numbers of the columns a CHECK condition mentions.
fn check_columns(relation: &Relation, condition: &str) -> Vec<i16> {
    let Ok(expr) = thalweg_sql::parse_expr(condition) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let _ = thalweg_sql::ast::visit_expressions(&expr, |part| {
        let name = match part {
            thalweg_sql::ast::Expr::Identifier(ident) => Some(ident),
            thalweg_sql::ast::Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        let attnum = name
            .and_then(|name| {
                relation
                    .columns
                    .iter()
                    .find(|column| column.name.eq_ignore_ascii_case(&name.value))
            })
            .map(|column| column.attnum);
        if let Some(attnum) = attnum.filter(|attnum| !found.contains(attnum)) {
            found.push(attnum);
        }
        std::ops::ControlFlow::<()>::Continue(())
    });
    found.sort_unstable();
    found
}

pub(super) fn pg_constraint(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        if let Some(key) = &relation.primary_key {
            let columns = key.columns.clone().into();
            push(
                rows,
                relation,
                key.constraint_oid.into(),
                &key.name,
                "p",
                key.index_oid.into(),
                columns,
                Cell::Null,
            );
        }
        for check in &relation.checks {
            let columns = check_columns(relation, &check.expr).into();
            push(
                rows,
                relation,
                check.oid.into(),
                &check.name,
                "c",
                Cell::Int(0),
                columns,
                (&check.expr).into(),
            );
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one argument per column that differs"
)]
fn push(
    rows: &mut Rows,
    relation: &Relation,
    oid: Cell,
    name: &str,
    kind: &str,
    index: Cell,
    columns: Cell,
    condition: Cell,
) {
    rows.push([
        ("oid", oid),
        ("conname", name.into()),
        ("connamespace", relation.schema.into()),
        ("contype", kind.into()),
        ("convalidated", true.into()),
        ("conrelid", relation.oid.into()),
        ("conindid", index),
        ("confupdtype", " ".into()),
        ("confdeltype", " ".into()),
        ("confmatchtype", " ".into()),
        ("conislocal", true.into()),
        ("connoinherit", (kind == "p").into()),
        ("conkey", columns),
        ("conbin", condition),
    ]);
}
