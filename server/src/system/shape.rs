//! What columns every system relation has, and the rows of those that are the same in every database.
//!
//! Invariant: the data files are Postgres 15's own answer (see generate.py), so a tool that selects any standard column of
//! any standard relation finds it; a relation of ours in schema `sys` has a fixed OID below the first user OID.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use thalweg_catalog::SqlType;

use super::value::Cell;

/// One column of a system relation.
#[derive(Debug, Clone)]
pub struct SystemColumn {
    /// Name.
    pub name: String,
    /// Name of the Postgres type, as in pg_type.
    pub type_name: String,
    /// The type values are held in.
    pub ty: SqlType,
    /// NOT NULL.
    pub not_null: bool,
}

/// One system relation.
#[derive(Debug, Clone)]
pub struct SystemTable {
    /// `pg_catalog`, `information_schema` or `sys`.
    pub schema: String,
    /// Name.
    pub name: String,
    /// OID in pg_class.
    pub oid: u32,
    /// `r` or `v`.
    pub kind: char,
    /// Columns in attribute order.
    pub columns: Vec<SystemColumn>,
    /// The columns as Arrow fields.
    pub arrow: SchemaRef,
}

impl SystemTable {
    /// Position of a column.
    pub fn position(&self, column: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|candidate| candidate.name == column)
    }
}

/// Kind of a relation that stands for a table function, or for a part of a client's query; no catalog lists it.
const FUNCTION: char = 'F';

const FUNCTIONS_TEXT: &str = "\
pg_catalog.pg_get_keywords 15001 F 0 word:text! catcode:char! barelabel:bool! catdesc:text! baredesc:text!
pg_catalog.thalweg_type_tree 15002 F 0 root:oid! oid:oid! ns:name! name:name! kind:char! basetype:oid elemtype:oid elemdelim:char range_subtype:oid attrtypoids:_oid attrnames:_text depth:int4!
";

const SCHEMA_TEXT: &str = include_str!("pg15_schema.txt");
const ROWS_TEXT: &str = include_str!("pg15_rows.txt");

static TABLES: LazyLock<BTreeMap<(String, String), SystemTable>> = LazyLock::new(|| {
    SCHEMA_TEXT
        .lines()
        .chain(super::sys::SCHEMA.lines())
        .chain(FUNCTIONS_TEXT.lines())
        .filter_map(parse_table)
        .map(|table| ((table.schema.clone(), table.name.clone()), table))
        .collect()
});

static ROWS: LazyLock<HashMap<&'static str, Vec<Vec<Cell>>>> = LazyLock::new(parse_rows);

/// Every system relation, by schema and name, but for those that stand for a table function.
pub fn tables() -> impl Iterator<Item = &'static SystemTable> {
    TABLES.values().filter(|table| table.kind != FUNCTION)
}

/// A system relation by name.
pub fn table(schema: &str, name: &str) -> Option<&'static SystemTable> {
    TABLES.get(&(schema.to_owned(), name.to_owned()))
}

/// The rows of pg_catalog relations that are the same in every database; empty for all others.
pub(crate) fn fixed_rows(name: &str) -> &'static [Vec<Cell>] {
    ROWS.get(name).map_or(&[], Vec::as_slice)
}

fn parse_table(line: &str) -> Option<SystemTable> {
    if line.starts_with('#') {
        return None;
    }
    let mut words = line.split_ascii_whitespace();
    let (schema, name) = words.next()?.split_once('.')?;
    let oid = words.next()?.parse().ok()?;
    let kind = words.next()?.chars().next()?;
    let _row_type = words.next()?;
    let columns: Vec<SystemColumn> = words.filter_map(parse_column).collect();
    let fields: Vec<_> = columns
        .iter()
        .map(|column| column.ty.field(&column.name, true))
        .collect();
    Some(SystemTable {
        schema: schema.to_owned(),
        name: name.to_owned(),
        oid,
        kind,
        columns,
        arrow: Arc::new(Schema::new(fields)),
    })
}

fn parse_column(text: &str) -> Option<SystemColumn> {
    let (name, ty) = text.split_once(':')?;
    let not_null = ty.ends_with('!');
    let type_name = ty.trim_end_matches('!');
    Some(SystemColumn {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        ty: held(type_name),
        not_null,
    })
}

/// The type a Postgres catalog type is held in. What no client computes with (node trees, access lists, statistics) is text;
/// int2vector and oidvector are arrays, so that `= ANY` and `unnest` work on them.
fn held(type_name: &str) -> SqlType {
    let array = |element| SqlType::Array(Box::new(element));
    match type_name {
        "bool" => SqlType::Bool,
        "int2" => SqlType::Int2,
        "int4" | "cardinal_number" => SqlType::Int4,
        "int8" => SqlType::Int8,
        "float4" => SqlType::Float4,
        "float8" => SqlType::Float8,
        "oid" | "xid" => SqlType::Oid,
        "name" | "sql_identifier" => SqlType::Name,
        "char" => SqlType::InternalChar,
        "bytea" => SqlType::Bytea,
        "interval" => SqlType::Interval,
        "timestamptz" | "time_stamp" => SqlType::Timestamptz,
        "jsonb" => SqlType::Jsonb,
        "regproc" | "regtype" => SqlType::Reg(type_name.to_owned()),
        "character_data" => SqlType::Varchar(None),
        "yes_or_no" => SqlType::Varchar(Some(3)),
        "int2vector" | "_int2" => array(SqlType::Int2),
        "oidvector" | "_oid" | "_regtype" => array(SqlType::Oid),
        "_text" | "_aclitem" => array(SqlType::Text),
        "_name" => array(SqlType::Name),
        "_char" => array(SqlType::InternalChar),
        "_bool" => array(SqlType::Bool),
        "_float4" => array(SqlType::Float4),
        "_float8" => array(SqlType::Float8),
        _ => SqlType::Text,
    }
}

fn parse_rows() -> HashMap<&'static str, Vec<Vec<Cell>>> {
    let mut all: HashMap<&'static str, Vec<Vec<Cell>>> = HashMap::new();
    let mut current: Option<(&'static SystemTable, &'static str, Vec<usize>)> = None;
    for line in ROWS_TEXT.lines().filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('@') {
            let mut words = header.split_ascii_whitespace();
            current = words.next().and_then(|name| {
                let table = table("pg_catalog", name)?;
                Some((
                    table,
                    name,
                    words.filter_map(|column| table.position(column)).collect(),
                ))
            });
            continue;
        }
        let Some((table, name, positions)) = &current else {
            continue;
        };
        let mut row = vec![Cell::Null; table.columns.len()];
        for (position, text) in positions.iter().zip(line.split('\t')) {
            if let (Some(cell), Some(column)) =
                (row.get_mut(*position), table.columns.get(*position))
            {
                *cell = parse_cell(&column.ty, text);
            }
        }
        all.entry(name).or_default().push(row);
    }
    all
}

fn parse_cell(ty: &SqlType, text: &str) -> Cell {
    if text == "\\N" {
        return Cell::Null;
    }
    match ty {
        SqlType::Bool => Cell::Bool(text == "t"),
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Oid | SqlType::Reg(_) => {
            text.parse().map_or(Cell::Null, Cell::Int)
        }
        SqlType::Float4 | SqlType::Float8 => text.parse().map_or(Cell::Null, Cell::Float),
        SqlType::Array(element) => Cell::List(
            text.trim_matches(['{', '}'])
                .split([' ', ','])
                .filter(|item| !item.is_empty())
                .map(|item| parse_cell(element, item.trim_matches('"')))
                .collect(),
        ),
        _ => Cell::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_files_parse_completely() {
        let lines = SCHEMA_TEXT
            .lines()
            .chain(super::super::sys::SCHEMA.lines())
            .filter(|line| !line.starts_with('#'));
        assert_eq!(
            lines.filter(|line| !line.trim().is_empty()).count(),
            tables().count()
        );
        let class = table("pg_catalog", "pg_class").expect("pg_class");
        assert_eq!(class.columns.len(), 33);
        let types = table("pg_catalog", "pg_type").expect("pg_type");
        let typarray = types.position("typarray").expect("typarray");
        let text = fixed_rows("pg_type")
            .iter()
            .find(|row| row.first() == Some(&Cell::Int(25)))
            .expect("text");
        assert_eq!(text.get(typarray), Some(&Cell::Int(1009)));
    }
}
