//! Rows of information_schema: the same objects as pg_catalog, in the SQL standard's shape.
//!
//! Invariant: a relation is in `tables` exactly when its columns are in `columns`. Materialized views are listed, which
//! Postgres does not do: tools that only read information_schema would otherwise not see what this server is for.

use thalweg_catalog::{Relation, SqlType};

use super::pg_catalog::{class_type_oid, view_query};
use super::rows::Rows;
use super::shape::{self, SystemTable};
use super::value::Cell;
use super::{OWNER, RelationKind, SystemFacts};

const PRIVILEGES: [&str; 4] = ["INSERT", "SELECT", "UPDATE", "DELETE"];

/// Fills one relation of information_schema; those about things we do not have stay empty.
pub(crate) fn fill(facts: &SystemFacts, rows: &mut Rows) {
    match rows.table().name.as_str() {
        "tables" => tables(facts, rows),
        "columns" => columns(facts, rows),
        "views" => views(facts, rows),
        "schemata" => schemata(facts, rows),
        "table_constraints" => table_constraints(facts, rows),
        "key_column_usage" | "constraint_column_usage" => key_columns(facts, rows),
        "constraint_table_usage" => constraint_tables(facts, rows),
        "check_constraints" => check_constraints(facts, rows),
        "view_table_usage" => view_tables(facts, rows),
        "table_privileges" | "role_table_grants" => privileges(facts, rows),
        "information_schema_catalog_name" => rows.push([("catalog_name", facts.database().into())]),
        "enabled_roles" => {
            for name in roles(facts) {
                rows.push([("role_name", name.into())]);
            }
        }
        "character_sets" => rows.push([
            ("character_set_name", "UTF8".into()),
            ("character_repertoire", "UCS".into()),
            ("form_of_use", "UTF8".into()),
            ("default_collate_catalog", facts.database().into()),
            ("default_collate_schema", "pg_catalog".into()),
            ("default_collate_name", "default".into()),
        ]),
        _ => {}
    }
}

fn roles(facts: &SystemFacts) -> Vec<&str> {
    let mut roles = vec![OWNER];
    if facts.session.user != OWNER && !facts.session.user.is_empty() {
        roles.push(&facts.session.user);
    }
    roles
}

fn yes_no(value: bool) -> Cell {
    if value { "YES" } else { "NO" }.into()
}

fn tables(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        let (kind, insertable) = match relation.kind {
            RelationKind::View { .. } => ("VIEW", false),
            RelationKind::MaterializedView { .. } => ("MATERIALIZED VIEW", false),
            RelationKind::Table | RelationKind::External(_) | RelationKind::Archive(_) => {
                ("BASE TABLE", true)
            }
            _ => ("BASE TABLE", false),
        };
        push_table(
            facts,
            rows,
            facts.schema_name(relation.schema),
            &relation.name,
            kind,
            insertable,
        );
    }
    for table in shape::tables() {
        let kind = if table.kind == 'v' {
            "VIEW"
        } else {
            "BASE TABLE"
        };
        push_table(facts, rows, &table.schema, &table.name, kind, false);
    }
}

fn push_table(
    facts: &SystemFacts,
    rows: &mut Rows,
    schema: &str,
    name: &str,
    kind: &str,
    insertable: bool,
) {
    rows.push([
        ("table_catalog", facts.database().into()),
        ("table_schema", schema.into()),
        ("table_name", name.into()),
        ("table_type", kind.into()),
        ("is_insertable_into", yes_no(insertable)),
        ("is_typed", yes_no(false)),
    ]);
}

fn schemata(facts: &SystemFacts, rows: &mut Rows) {
    for schema in facts.catalog.schemas() {
        rows.push([
            ("catalog_name", facts.database().into()),
            ("schema_name", (&schema.name).into()),
            ("schema_owner", OWNER.into()),
        ]);
    }
}

fn views(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        let Some(query) = view_query(relation) else {
            continue;
        };
        rows.push([
            ("table_catalog", facts.database().into()),
            ("table_schema", facts.schema_name(relation.schema).into()),
            ("table_name", (&relation.name).into()),
            ("view_definition", query.into()),
            ("check_option", "NONE".into()),
            ("is_updatable", yes_no(false)),
            ("is_insertable_into", yes_no(false)),
            ("is_trigger_updatable", yes_no(false)),
            ("is_trigger_deletable", yes_no(false)),
            ("is_trigger_insertable_into", yes_no(false)),
        ]);
    }
}

fn columns(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        for column in &relation.columns {
            let base = matches!(relation.kind, RelationKind::Table);
            push_column(
                facts,
                rows,
                &Described {
                    schema: facts.schema_name(relation.schema),
                    relation: &relation.name,
                    name: &column.name,
                    position: column.attnum,
                    ty: &column.ty,
                    type_oid: column.ty.oid(),
                    nullable: !column.not_null,
                    default: column.default.as_deref(),
                    generated: column.generated.as_deref(),
                    updatable: base && column.generated.is_none(),
                },
            );
        }
    }
    for table in shape::tables() {
        system_columns(facts, table, rows);
    }
}

fn system_columns(facts: &SystemFacts, table: &'static SystemTable, rows: &mut Rows) {
    for (position, column) in table.columns.iter().enumerate() {
        push_column(
            facts,
            rows,
            &Described {
                schema: &table.schema,
                relation: &table.name,
                name: &column.name,
                position: i16::try_from(position + 1).unwrap_or(i16::MAX),
                ty: &column.ty,
                type_oid: class_type_oid(&column.type_name).unwrap_or_else(|| column.ty.oid()),
                nullable: !column.not_null,
                default: None,
                generated: None,
                updatable: false,
            },
        );
    }
}

struct Described<'a> {
    schema: &'a str,
    relation: &'a str,
    name: &'a str,
    position: i16,
    ty: &'a SqlType,
    type_oid: u32,
    nullable: bool,
    default: Option<&'a str>,
    generated: Option<&'a str>,
    updatable: bool,
}

/// Precision, radix and scale of a numeric type.
fn numeric_shape(ty: &SqlType) -> (Cell, Cell, Cell) {
    let integer = |bits: i64| (bits.into(), Cell::Int(2), Cell::Int(0));
    match ty {
        SqlType::Int2 => integer(16),
        SqlType::Int4 => integer(32),
        SqlType::Int8 => integer(64),
        SqlType::Float4 => (Cell::Int(24), Cell::Int(2), Cell::Null),
        SqlType::Float8 => (Cell::Int(53), Cell::Int(2), Cell::Null),
        SqlType::Numeric {
            declared: Some((precision, scale)),
            ..
        } => (
            Cell::Int(i64::from(*precision)),
            Cell::Int(10),
            Cell::Int(i64::from(*scale)),
        ),
        SqlType::Numeric { declared: None, .. } => (Cell::Null, Cell::Int(10), Cell::Null),
        _ => (Cell::Null, Cell::Null, Cell::Null),
    }
}

fn push_column(facts: &SystemFacts, rows: &mut Rows, column: &Described<'_>) {
    let data_type = match column.ty {
        SqlType::Array(_) => "ARRAY".to_owned(),
        SqlType::Struct(_) => "USER-DEFINED".to_owned(),
        // Without length or precision: those have columns of their own.
        _ => facts.type_text(column.type_oid, None),
    };
    let length = match column.ty {
        SqlType::Varchar(Some(length)) | SqlType::Char(length) => Some(*length),
        _ => None,
    };
    let octets = match column.ty {
        SqlType::Text | SqlType::Varchar(None) => Some(1_073_741_824),
        _ => length.map(|length| length.saturating_mul(4)),
    };
    let (precision, radix, scale) = numeric_shape(column.ty);
    let date_precision = match column.ty {
        SqlType::Date => Some(0),
        SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => Some(6),
        _ => None,
    };
    rows.push([
        ("table_catalog", facts.database().into()),
        ("table_schema", column.schema.into()),
        ("table_name", column.relation.into()),
        ("column_name", column.name.into()),
        ("ordinal_position", column.position.into()),
        ("column_default", column.default.into()),
        ("is_nullable", yes_no(column.nullable)),
        ("data_type", data_type.into()),
        ("character_maximum_length", length.into()),
        ("character_octet_length", octets.into()),
        ("numeric_precision", precision),
        ("numeric_precision_radix", radix),
        ("numeric_scale", scale),
        ("datetime_precision", date_precision.into()),
        ("udt_catalog", facts.database().into()),
        ("udt_schema", "pg_catalog".into()),
        (
            "udt_name",
            super::names::fixed_name("pg_type", "typname", column.type_oid).into(),
        ),
        ("dtd_identifier", column.position.to_string().into()),
        ("is_self_referencing", yes_no(false)),
        ("is_identity", yes_no(false)),
        ("identity_cycle", yes_no(false)),
        (
            "is_generated",
            if column.generated.is_some() {
                "ALWAYS"
            } else {
                "NEVER"
            }
            .into(),
        ),
        ("generation_expression", column.generated.into()),
        ("is_updatable", yes_no(column.updatable)),
    ]);
}

/// Constraints of a relation: name, kind and the attribute numbers of a key.
fn constraints(relation: &Relation) -> impl Iterator<Item = (&str, &'static str, &[i16])> {
    let key = relation
        .primary_key
        .iter()
        .map(|key| (key.name.as_str(), "PRIMARY KEY", key.columns.as_slice()));
    key.chain(
        relation
            .checks
            .iter()
            .map(|check| (check.name.as_str(), "CHECK", [].as_slice())),
    )
}

fn table_constraints(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        let schema = facts.schema_name(relation.schema);
        for (name, kind, _) in constraints(relation) {
            rows.push([
                ("constraint_catalog", facts.database().into()),
                ("constraint_schema", schema.into()),
                ("constraint_name", name.into()),
                ("table_catalog", facts.database().into()),
                ("table_schema", schema.into()),
                ("table_name", (&relation.name).into()),
                ("constraint_type", kind.into()),
                ("is_deferrable", yes_no(false)),
                ("initially_deferred", yes_no(false)),
                ("enforced", yes_no(true)),
            ]);
        }
    }
}

fn key_columns(facts: &SystemFacts, rows: &mut Rows) {
    let numbered = rows.table().name == "key_column_usage";
    for (relation, _) in facts.shown() {
        let schema = facts.schema_name(relation.schema);
        for (name, _, attnums) in constraints(relation) {
            for (position, attnum) in attnums.iter().enumerate() {
                let Some(column) = relation
                    .columns
                    .iter()
                    .find(|column| column.attnum == *attnum)
                else {
                    continue;
                };
                let common = [
                    ("constraint_catalog", Cell::from(facts.database())),
                    ("constraint_schema", schema.into()),
                    ("constraint_name", name.into()),
                    ("table_catalog", facts.database().into()),
                    ("table_schema", schema.into()),
                    ("table_name", (&relation.name).into()),
                    ("column_name", (&column.name).into()),
                ];
                if numbered {
                    let [a, b, c, d, e, f, g] = common;
                    rows.push([
                        a,
                        b,
                        c,
                        d,
                        e,
                        f,
                        g,
                        ("ordinal_position", (position + 1).into()),
                    ]);
                } else {
                    rows.push(common);
                }
            }
        }
    }
}

fn constraint_tables(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        let schema = facts.schema_name(relation.schema);
        for (name, ..) in constraints(relation) {
            rows.push([
                ("table_catalog", facts.database().into()),
                ("table_schema", schema.into()),
                ("table_name", (&relation.name).into()),
                ("constraint_catalog", facts.database().into()),
                ("constraint_schema", schema.into()),
                ("constraint_name", name.into()),
            ]);
        }
    }
}

fn check_constraints(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        for check in &relation.checks {
            rows.push([
                ("constraint_catalog", facts.database().into()),
                (
                    "constraint_schema",
                    facts.schema_name(relation.schema).into(),
                ),
                ("constraint_name", (&check.name).into()),
                ("check_clause", (&check.expr).into()),
            ]);
        }
    }
}

fn view_tables(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        if view_query(relation).is_none() {
            continue;
        }
        for target in relation
            .depends_on
            .iter()
            .filter_map(|oid| facts.catalog.relation(*oid))
        {
            rows.push([
                ("view_catalog", facts.database().into()),
                ("view_schema", facts.schema_name(relation.schema).into()),
                ("view_name", (&relation.name).into()),
                ("table_catalog", facts.database().into()),
                ("table_schema", facts.schema_name(target.schema).into()),
                ("table_name", (&target.name).into()),
            ]);
        }
    }
}

fn privileges(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        for grantee in roles(facts) {
            for privilege in PRIVILEGES {
                rows.push([
                    ("grantor", OWNER.into()),
                    ("grantee", grantee.into()),
                    ("table_catalog", facts.database().into()),
                    ("table_schema", facts.schema_name(relation.schema).into()),
                    ("table_name", (&relation.name).into()),
                    ("privilege_type", privilege.into()),
                    ("is_grantable", yes_no(true)),
                    ("with_hierarchy", yes_no(privilege == "SELECT")),
                ]);
            }
        }
    }
}
