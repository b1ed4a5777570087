//! Names of catalog objects to OIDs and back: what `::regclass` and its kin read and print.
//!
//! Invariant: a name printed here reads back as the same OID under the same search path.

use thalweg_catalog::{Relation, SqlType};

use super::SystemFacts;
use super::pg_catalog::class_type_oid;
use super::shape;
use super::value::Cell;

/// A name as Postgres quotes it: as is when it reads back unchanged, else in double quotes.
pub(crate) fn quote_ident(name: &str) -> String {
    let plain_start = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '$');
    if plain_start && plain && !is_reserved(name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

fn is_reserved(name: &str) -> bool {
    RESERVED.binary_search(&name).is_ok()
}

/// Postgres' reserved key words, sorted.
pub(crate) const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

/// Splits `a."B c".d` into its folded parts; `None` when the text is no name.
pub(crate) fn split_name(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut chars = text.trim().chars().peekable();
    loop {
        let mut part = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next()? {
                    '"' if chars.peek() == Some(&'"') => {
                        chars.next();
                        part.push('"');
                    }
                    '"' => break,
                    c => part.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || matches!(c, '_' | '$')) {
                part.extend(c.to_lowercase());
            }
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match chars.next() {
            None => return Some(parts),
            Some('.') => {}
            Some(_) => return None,
        }
    }
}

/// A relation or index by OID.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    /// Its OID.
    pub(crate) oid: u32,
    /// Its schema.
    pub(crate) schema: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
}

impl SystemFacts {
    /// A relation of ours, an index of ours or a system relation, by OID.
    pub(crate) fn class(&self, oid: u32) -> Option<Named<'_>> {
        self.classes().find(|class| class.oid == oid)
    }

    /// Everything that has a row in pg_class.
    pub(crate) fn classes(&self) -> impl Iterator<Item = Named<'_>> {
        let own = self.shown().flat_map(|(relation, _)| {
            let schema = self.schema_name(relation.schema);
            let index = relation.primary_key.as_ref();
            let index = index.map(|key| Named {
                oid: key.index_oid.0,
                schema,
                name: &key.name,
            });
            [
                Some(Named {
                    oid: relation.oid.0,
                    schema,
                    name: &relation.name,
                }),
                index,
            ]
            .into_iter()
            .flatten()
        });
        own.chain(shape::tables().map(|table| Named {
            oid: table.oid,
            schema: &table.schema,
            name: &table.name,
        }))
    }

    /// The relation whose primary-key index has this OID.
    pub(crate) fn index_owner(&self, index: u32) -> Option<&Relation> {
        self.catalog.relations().find(|relation| {
            relation
                .primary_key
                .as_ref()
                .is_some_and(|key| key.index_oid.0 == index)
        })
    }

    /// Schemas in which an unqualified name is looked up, in order.
    pub(crate) fn lookup_path(&self) -> Vec<&str> {
        let mut path: Vec<&str> = Vec::new();
        if !self
            .session
            .search_path
            .iter()
            .any(|schema| schema == "pg_catalog")
        {
            path.push("pg_catalog");
        }
        path.extend(
            self.session
                .search_path
                .iter()
                .map(String::as_str)
                .filter(|name| self.catalog.schema(name).is_some()),
        );
        path
    }

    /// What `'text'::regclass` stands for.
    pub(crate) fn class_oid(&self, text: &str) -> Option<u32> {
        if let Ok(oid) = text.trim().parse() {
            return Some(oid);
        }
        let parts = split_name(text)?;
        let named = |schema: &str, name: &str| {
            self.classes()
                .find(|class| class.schema == schema && class.name == name)
                .map(|class| class.oid)
        };
        match parts.as_slice() {
            [name] => self
                .lookup_path()
                .into_iter()
                .find_map(|schema| named(schema, name)),
            [schema, name] => named(schema, name),
            [database, schema, name] if database == self.database() => named(schema, name),
            _ => None,
        }
    }

    /// True when the unqualified name finds this relation first.
    pub(crate) fn is_visible(&self, class: Named<'_>) -> bool {
        for schema in self.lookup_path() {
            if schema == class.schema {
                return true;
            }
            if self
                .classes()
                .any(|other| other.schema == schema && other.name == class.name)
            {
                return false;
            }
        }
        false
    }

    /// How regclass prints an OID: qualified when the search path does not find it, the number when nothing has it.
    pub(crate) fn class_text(&self, oid: u32) -> String {
        match self.class(oid) {
            Some(class) if self.is_visible(class) => quote_ident(class.name),
            Some(class) => format!("{}.{}", quote_ident(class.schema), quote_ident(class.name)),
            None if oid == 0 => "-".to_owned(),
            None => oid.to_string(),
        }
    }

    /// What `'text'::regtype` stands for.
    pub(crate) fn type_oid(&self, text: &str) -> Option<u32> {
        if let Ok(oid) = text.trim().parse() {
            return Some(oid);
        }
        let bare = text.trim();
        let parts = split_name(bare).unwrap_or_default();
        let (schema, name) = match parts.as_slice() {
            [name] => (None, name.as_str()),
            [schema, name] => (Some(schema.as_str()), name.as_str()),
            _ => (None, ""),
        };
        // The quoted spelling names the catalog's own type ("char"); unquoted char is character(1).
        let spelled = name != "char" || bare.ends_with('"') || schema.is_some();
        if spelled
            && schema.is_none_or(|schema| schema == "pg_catalog")
            && let Some(oid) = class_type_oid(name)
        {
            return Some(oid);
        }
        let bare = bare.strip_prefix("pg_catalog.").unwrap_or(bare);
        if let Some(oid) = self.row_type_oid(bare) {
            return Some(oid);
        }
        let parsed = thalweg_sql::parse_expr(&format!("CAST(NULL AS {bare})")).ok()?;
        let thalweg_sql::ast::Expr::Cast { data_type, .. } = parsed else {
            return None;
        };
        SqlType::from_ast(&data_type).ok().map(|ty| ty.oid())
    }

    fn row_type_oid(&self, text: &str) -> Option<u32> {
        let (text, array) = text
            .strip_suffix("[]")
            .map_or((text, false), |element| (element, true));
        let oid = self.class_oid(text)?;
        let relation = self.relation(oid)?;
        Some(if array {
            relation.array_type_oid.0
        } else {
            relation.row_type_oid.0
        })
    }

    /// How `format_type` prints a type.
    pub(crate) fn type_text(&self, oid: u32, typmod: Option<i32>) -> String {
        for (relation, _) in self.shown() {
            if relation.row_type_oid.0 == oid {
                return self.class_text(relation.oid.0);
            }
            if relation.array_type_oid.0 == oid {
                return format!("{}[]", self.class_text(relation.oid.0));
            }
        }
        super::functions::format_type(oid, typmod)
    }

    /// What `'text'::regproc` stands for: a row of pg_proc.
    pub(crate) fn procedure_oid(text: &str) -> Option<u32> {
        if let Ok(oid) = text.trim().parse() {
            return Some(oid);
        }
        let name = split_name(text)?.pop()?;
        fixed_oid("pg_proc", "proname", &name)
    }

    /// How regproc prints an OID.
    pub(crate) fn procedure_text(oid: u32) -> String {
        fixed_name("pg_proc", "proname", oid).unwrap_or_else(|| {
            if oid == 0 {
                "-".to_owned()
            } else {
                oid.to_string()
            }
        })
    }

    /// What `'text'::regnamespace` stands for.
    pub(crate) fn namespace_oid(&self, text: &str) -> Option<u32> {
        if let Ok(oid) = text.trim().parse() {
            return Some(oid);
        }
        let name = split_name(text)?.pop()?;
        self.catalog.schema(&name).map(|schema| schema.oid.0)
    }

    /// How regnamespace prints an OID.
    pub(crate) fn namespace_text(&self, oid: u32) -> String {
        self.catalog
            .schemas()
            .find(|schema| schema.oid.0 == oid)
            .map_or_else(|| oid.to_string(), |schema| quote_ident(&schema.name))
    }
}

fn fixed_row(
    table: &str,
    column: &str,
    matches: impl Fn(&Cell) -> bool,
) -> Option<&'static Vec<Cell>> {
    let position = shape::table("pg_catalog", table)?.position(column)?;
    shape::fixed_rows(table)
        .iter()
        .find(|row| row.get(position).is_some_and(&matches))
}

/// OID of a fixed row of pg_catalog by its name column.
pub(crate) fn fixed_oid(table: &str, column: &str, name: &str) -> Option<u32> {
    let row = fixed_row(
        table,
        column,
        |cell| matches!(cell, Cell::Text(text) if text == name),
    )?;
    match row.first() {
        Some(Cell::Int(oid)) => u32::try_from(*oid).ok(),
        _ => None,
    }
}

/// Name of a fixed row of pg_catalog by its OID.
pub(crate) fn fixed_name(table: &str, column: &str, oid: u32) -> Option<String> {
    let row = fixed_row(table, "oid", |cell| *cell == Cell::from(oid))?;
    match row.get(shape::table("pg_catalog", table)?.position(column)?) {
        Some(Cell::Text(name)) => Some(name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_and_quote_as_in_postgres() {
        assert_eq!(
            split_name("Shop.\"My \"\"Item\"\"\""),
            Some(vec!["shop".to_owned(), "My \"Item\"".to_owned()])
        );
        assert_eq!(split_name("a b"), None);
        assert_eq!(split_name(""), None);
        assert_eq!(quote_ident("orders"), "orders");
        assert_eq!(quote_ident("Orders"), "\"Orders\"");
        assert_eq!(quote_ident("user"), "\"user\"");
        assert!(RESERVED.is_sorted());
    }
}
