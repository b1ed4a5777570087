//! pg_class, pg_attribute and pg_attrdef.
//!
//! Invariant: attribute numbers are the catalog's, so they never shift when a column is dropped.

use std::collections::HashMap;
use std::sync::LazyLock;

use thalweg_catalog::{Column, Key, Relation, SqlType};

use super::super::shape::{self, SystemTable};
use super::{Cell, OWNER_OID, Rows, SystemFacts, derived_oid};

const HEAP: u32 = 2;
const BTREE: u32 = 403;
const DEFAULT_COLLATION: u32 = 100;
const C_COLLATION: u32 = 950;

/// What pg_class says about one relation; everything else is the same for all of ours.
struct Class<'a> {
    oid: u32,
    name: &'a str,
    namespace: u32,
    row_type: u32,
    kind: char,
    columns: usize,
    checks: usize,
    indexed: bool,
}

pub(super) fn pg_class(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, kind) in facts.shown() {
        push_class(
            rows,
            &Class {
                oid: relation.oid.0,
                name: &relation.name,
                namespace: relation.schema.0,
                row_type: relation.row_type_oid.0,
                kind,
                columns: relation.columns.len(),
                checks: relation.checks.len(),
                indexed: relation.primary_key.is_some(),
            },
        );
        if let Some(key) = &relation.primary_key {
            push_class(
                rows,
                &Class {
                    oid: key.index_oid.0,
                    name: &key.name,
                    namespace: relation.schema.0,
                    row_type: 0,
                    kind: 'i',
                    columns: key.columns.len(),
                    checks: 0,
                    indexed: false,
                },
            );
        }
    }
    for table in shape::tables() {
        push_class(
            rows,
            &Class {
                oid: table.oid,
                name: &table.name,
                namespace: facts.schema_oid(&table.schema),
                row_type: 0,
                kind: table.kind,
                columns: table.columns.len(),
                checks: 0,
                indexed: false,
            },
        );
    }
}

fn push_class(rows: &mut Rows, class: &Class<'_>) {
    let access_method = match class.kind {
        'r' | 'm' => HEAP,
        'i' => BTREE,
        _ => 0,
    };
    rows.push([
        ("oid", class.oid.into()),
        ("relname", class.name.into()),
        ("relnamespace", class.namespace.into()),
        ("reltype", class.row_type.into()),
        ("relowner", OWNER_OID.into()),
        ("relam", access_method.into()),
        (
            "relfilenode",
            if class.kind == 'v' { 0 } else { class.oid }.into(),
        ),
        ("reltuples", (-1).into()),
        ("relhasindex", class.indexed.into()),
        ("relpersistence", "p".into()),
        ("relkind", class.kind.to_string().into()),
        ("relnatts", class.columns.into()),
        ("relchecks", class.checks.into()),
        ("relhasrules", matches!(class.kind, 'v' | 'm').into()),
        ("relispopulated", true.into()),
        (
            "relreplident",
            if matches!(class.kind, 'r' | 'm') {
                "d"
            } else {
                "n"
            }
            .into(),
        ),
        ("relispartition", false.into()),
    ]);
}

/// One attribute, ours or a system relation's.
struct Attribute<'a> {
    relation: u32,
    name: &'a str,
    number: i16,
    type_oid: u32,
    typmod: i32,
    not_null: bool,
    has_default: bool,
    generated: bool,
    collation: u32,
}

pub(super) fn pg_attribute(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        for column in &relation.columns {
            push_attribute(rows, &attribute(relation.oid.0, column, column.attnum));
        }
        if let Some(key) = &relation.primary_key {
            index_attributes(relation, key, rows);
        }
    }
    for table in shape::tables() {
        system_attributes(table, rows);
    }
}

fn attribute(relation: u32, column: &Column, number: i16) -> Attribute<'_> {
    Attribute {
        relation,
        name: &column.name,
        number,
        type_oid: column.ty.oid(),
        typmod: column.ty.typmod(),
        not_null: column.not_null,
        has_default: column.default.is_some() || column.generated.is_some(),
        generated: column.generated.is_some(),
        collation: collation(&column.ty),
    }
}

fn index_attributes(relation: &Relation, key: &Key, rows: &mut Rows) {
    for (position, attnum) in key.columns.iter().enumerate() {
        let column = relation
            .columns
            .iter()
            .find(|column| column.attnum == *attnum);
        if let (Some(column), Ok(number)) = (column, i16::try_from(position + 1)) {
            let attribute = attribute(key.index_oid.0, column, number);
            push_attribute(
                rows,
                &Attribute {
                    not_null: false,
                    has_default: false,
                    generated: false,
                    ..attribute
                },
            );
        }
    }
}

fn system_attributes(table: &'static SystemTable, rows: &mut Rows) {
    for (position, column) in table.columns.iter().enumerate() {
        let Ok(number) = i16::try_from(position + 1) else {
            return;
        };
        push_attribute(
            rows,
            &Attribute {
                relation: table.oid,
                name: &column.name,
                number,
                type_oid: type_oid_by_name(&column.type_name).unwrap_or_else(|| column.ty.oid()),
                typmod: -1,
                not_null: column.not_null,
                has_default: false,
                generated: false,
                collation: collation(&column.ty),
            },
        );
    }
}

fn push_attribute(rows: &mut Rows, attribute: &Attribute<'_>) {
    let layout = layout(attribute.type_oid);
    rows.push([
        ("attrelid", attribute.relation.into()),
        ("attname", attribute.name.into()),
        ("atttypid", attribute.type_oid.into()),
        ("attstattarget", (-1).into()),
        ("attlen", layout.length.into()),
        ("attnum", attribute.number.into()),
        ("attndims", i32::from(layout.is_array).into()),
        ("attcacheoff", (-1).into()),
        ("atttypmod", attribute.typmod.into()),
        ("attbyval", layout.by_value.into()),
        ("attalign", layout.align.into()),
        ("attstorage", layout.storage.into()),
        ("attnotnull", attribute.not_null.into()),
        ("atthasdef", attribute.has_default.into()),
        ("attidentity", "".into()),
        (
            "attgenerated",
            if attribute.generated { "s" } else { "" }.into(),
        ),
        ("attisdropped", false.into()),
        ("attislocal", true.into()),
        ("attcollation", attribute.collation.into()),
    ]);
}

/// Storage facts of a type, as pg_attribute repeats them from pg_type.
#[derive(Clone, Copy)]
struct Layout {
    length: i16,
    by_value: bool,
    align: &'static str,
    storage: &'static str,
    is_array: bool,
}

static LAYOUTS: LazyLock<HashMap<i64, Layout>> = LazyLock::new(|| {
    let Some(table) = shape::table("pg_catalog", "pg_type") else {
        return HashMap::new();
    };
    let at = |row: &[Cell], name: &str| {
        table
            .position(name)
            .and_then(|position| row.get(position))
            .cloned()
    };
    let letter = |cell: Option<Cell>| match cell {
        Some(Cell::Text(text)) => match text.as_str() {
            "c" => "c",
            "s" => "s",
            "d" => "d",
            "p" => "p",
            "m" => "m",
            "e" => "e",
            "x" => "x",
            _ => "i",
        },
        _ => "i",
    };
    shape::fixed_rows("pg_type")
        .iter()
        .filter_map(|row| {
            let Some(Cell::Int(oid)) = at(row, "oid") else {
                return None;
            };
            let Some(Cell::Int(length)) = at(row, "typlen") else {
                return None;
            };
            let layout = Layout {
                length: i16::try_from(length).unwrap_or(-1),
                by_value: at(row, "typbyval") == Some(Cell::Bool(true)),
                align: letter(at(row, "typalign")),
                storage: letter(at(row, "typstorage")),
                is_array: at(row, "typcategory") == Some(Cell::from("A")),
            };
            Some((oid, layout))
        })
        .collect()
});

fn layout(type_oid: u32) -> Layout {
    let of_row_type = Layout {
        length: -1,
        by_value: false,
        align: "d",
        storage: "x",
        is_array: false,
    };
    LAYOUTS
        .get(&i64::from(type_oid))
        .copied()
        .unwrap_or(of_row_type)
}

/// OID of a type by its name in pg_type.
pub(crate) fn type_oid_by_name(name: &str) -> Option<u32> {
    let table = shape::table("pg_catalog", "pg_type")?;
    let position = table.position("typname")?;
    let row = shape::fixed_rows("pg_type")
        .iter()
        .find(|row| matches!(row.get(position), Some(Cell::Text(text)) if text == name))?;
    match row.first() {
        Some(Cell::Int(oid)) => u32::try_from(*oid).ok(),
        _ => None,
    }
}

fn collation(ty: &SqlType) -> u32 {
    match ty {
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => DEFAULT_COLLATION,
        SqlType::Name => C_COLLATION,
        SqlType::Array(element) => collation(element),
        _ => 0,
    }
}

pub(super) fn pg_attrdef(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        for column in &relation.columns {
            if let Some(expression) = column.generated.as_ref().or(column.default.as_ref()) {
                rows.push([
                    ("oid", derived_oid(relation.oid.0, column.attnum).into()),
                    ("adrelid", relation.oid.into()),
                    ("adnum", column.attnum.into()),
                    ("adbin", expression.into()),
                ]);
            }
        }
    }
}
