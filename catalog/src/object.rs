//! Catalog objects as data: relations, sinks and schemas with their columns, keys, options and definition environment.
//!
//! Invariant: an object's OIDs (relation, row type, array type, index, constraint) come from the one counter and are never
//! reused; attribute numbers of a relation are never reused either.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow_schema::{Field, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::types::SqlType;

/// Object identifier, as Postgres clients see it. User objects start at 16384.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Oid(pub u32);

/// First OID of user objects; everything below is static.
pub const FIRST_USER_OID: u32 = 16384;

/// A schema (namespace).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Identifier.
    pub oid: Oid,
    /// Name.
    pub name: String,
}

/// Anything that has columns or consumes them: source, table, view, materialized view, sink, errors relation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// Identifier.
    pub oid: Oid,
    /// OID of the row type.
    pub row_type_oid: Oid,
    /// OID of the array type over the row type.
    pub array_type_oid: Oid,
    /// Schema it lives in.
    pub schema: Oid,
    /// Name within the schema.
    pub name: String,
    /// What it is, with what only that kind has.
    pub kind: RelationKind,
    /// Columns in attribute order; for a sink those of its input.
    pub columns: Vec<Column>,
    /// Primary key.
    pub primary_key: Option<Key>,
    /// CHECK constraints.
    pub checks: Vec<CheckConstraint>,
    /// Canonical SQL that re-creates it, secrets redacted by the printer when shown.
    pub definition: String,
    /// What the definition was resolved against.
    pub environment: Environment,
    /// Relations it reads, sorted.
    pub depends_on: Vec<Oid>,
    /// When created, milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

/// Session state a definition depends on; a later session's settings never change an existing object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Environment {
    /// TimeZone setting at creation.
    pub time_zone: String,
    /// search_path at creation.
    pub search_path: Vec<String>,
}

/// Kinds of relations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RelationKind {
    /// A stream to read from.
    Source(ConnectorSpec),
    /// A table of our own.
    Table,
    /// A table that an outside system keeps: it is read and written there.
    External(ConnectorSpec),
    /// History in files of an outside file system: rows are added and read, never changed.
    Archive(ArchiveSpec),
    /// A named query.
    View {
        /// Canonical text of the query.
        query: String,
    },
    /// A maintained query.
    MaterializedView {
        /// Canonical text of the query.
        query: String,
        /// `WITH` options.
        options: BTreeMap<String, String>,
    },
    /// A continuous query that leaves the system.
    Sink(SinkSpec),
    /// `<source>_errors`: dropped with its source, filled by the engine.
    Errors {
        /// The source.
        source: Oid,
    },
}

/// What a source needs to be opened. Serialised with the object, so every field is data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorSpec {
    /// `kafka`, `datagen`, ...
    pub connector: String,
    /// Validated `WITH` options by name.
    pub options: BTreeMap<String, String>,
    /// `FORMAT`, upper case; `PLAIN` when the connector carries columns itself.
    pub format: String,
    /// `ENCODE`, upper case; `NATIVE` when the connector carries columns itself.
    pub encode: String,
    /// `ENCODE x (...)` options.
    pub encode_options: BTreeMap<String, String>,
    /// Where reading starts: split -> next offset, resolved once at CREATE. A split that is not here starts at its earliest.
    pub start: BTreeMap<String, u64>,
    /// `WATERMARK FOR column AS expr`: column name and canonical expression text.
    pub watermark: Option<(String, String)>,
}

/// What an archive needs to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSpec {
    /// `file`, ...
    pub connector: String,
    /// Validated `WITH` options by name.
    pub options: BTreeMap<String, String>,
    /// Validated options of `ENCODE PARQUET (...)`.
    pub encode_options: BTreeMap<String, String>,
    /// Names of the columns that make folders, outermost first.
    pub partition_by: Vec<String>,
    /// What fills it; absent for an archive that statements insert into.
    #[serde(default)]
    pub feed: Option<Feed>,
}

/// What fills an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// The relation that FROM names.
    pub from: Oid,
    /// Canonical text of the query that gives the rows.
    pub query: String,
}

/// What a sink needs to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSpec {
    /// `blackhole`, `print`, `kafka`, ...
    pub connector: String,
    /// Validated `WITH` options by name.
    pub options: BTreeMap<String, String>,
    /// Canonical text of the query that feeds it.
    pub query: String,
    /// `at_least_once` or `exactly_once`, stored explicitly.
    pub delivery: String,
    /// How rows become messages; absent for a connector that takes rows as they are.
    #[serde(default)]
    pub format: Option<SinkFormat>,
    /// The table that `CREATE SINK ... INTO` fills.
    #[serde(default)]
    pub into: Option<Oid>,
}

/// `FORMAT ... ENCODE ... KEY ENCODE ...` of a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkFormat {
    /// `PLAIN` or `UPSERT`.
    pub row: String,
    /// `JSON`.
    pub encode: String,
    /// `JSON`, `TEXT` or `BYTES`.
    pub key_encode: String,
    /// Positions of the columns of the message key, in key order; empty without one.
    pub key: Vec<usize>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Attribute number, from 1, never reused.
    pub attnum: i16,
    /// Type.
    pub ty: SqlType,
    /// NOT NULL, declared or by primary key.
    pub not_null: bool,
    /// DEFAULT expression, canonical text.
    pub default: Option<String>,
    /// Generated-column expression, canonical text.
    pub generated: Option<String>,
    /// Where the value comes from.
    pub role: ColumnRole,
}

/// Where a column's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnRole {
    /// The payload, an INSERT, or a query.
    Data,
    /// `INCLUDE KEY`.
    Key,
    /// `INCLUDE PARTITION`.
    Partition,
    /// `INCLUDE OFFSET`.
    Offset,
    /// `INCLUDE TIMESTAMP`.
    Timestamp,
    /// `INCLUDE HEADER 'name'`.
    Header(String),
    /// `INCLUDE HEADERS`.
    Headers,
    /// `INCLUDE PAYLOAD`.
    Payload,
}

/// A primary key with the OIDs of its index and constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Constraint and index name, for example `orders_pkey`.
    pub name: String,
    /// Index OID.
    pub index_oid: Oid,
    /// Constraint OID.
    pub constraint_oid: Oid,
    /// Attribute numbers in key order.
    pub columns: Vec<i16>,
}

/// A CHECK constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckConstraint {
    /// Name, given or derived.
    pub name: String,
    /// Constraint OID.
    pub oid: Oid,
    /// Canonical text of the condition.
    pub expr: String,
    /// `DEAD_LETTER`, `FAIL` or `IGNORE`; tables always `FAIL`.
    pub on_violation: String,
}

impl Schema {
    /// True for the schemas every database has, which cannot be dropped.
    pub fn is_system(&self) -> bool {
        self.oid.0 < FIRST_USER_OID
    }
}

impl Relation {
    /// The column of this exact name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The column with this attribute number.
    pub fn attribute(&self, attnum: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }

    /// Position of the column with this attribute number.
    pub fn position(&self, attnum: i16) -> Option<usize> {
        self.columns
            .iter()
            .position(|column| column.attnum == attnum)
    }

    /// Positions of the primary key's columns in key order; empty without one.
    pub fn key_positions(&self) -> Vec<usize> {
        self.primary_key.as_ref().map_or_else(Vec::new, |key| {
            key.columns
                .iter()
                .filter_map(|attnum| self.position(*attnum))
                .collect()
        })
    }

    /// The Arrow schema of its columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(arrow_schema::Schema::new(
            self.columns.iter().map(Column::field).collect::<Vec<_>>(),
        ))
    }

    /// `pg_class.relkind`; `None` for sinks, which hold no rows and are not in `pg_class`.
    pub fn relkind(&self) -> Option<char> {
        match self.kind {
            RelationKind::Source(_)
            | RelationKind::Table
            | RelationKind::External(_)
            | RelationKind::Archive(_)
            | RelationKind::Errors { .. } => Some('r'),
            RelationKind::View { .. } => Some('v'),
            RelationKind::MaterializedView { .. } => Some('m'),
            RelationKind::Sink(_) => None,
        }
    }

    /// The kind in messages and in `DROP <kind>`, lower case. An errors relation reads like a table.
    pub fn kind_word(&self) -> &'static str {
        match self.kind {
            RelationKind::Source(_) => "source",
            RelationKind::Table | RelationKind::External(_) | RelationKind::Errors { .. } => {
                "table"
            }
            RelationKind::Archive(_) => "archive",
            RelationKind::View { .. } => "view",
            RelationKind::MaterializedView { .. } => "materialized view",
            RelationKind::Sink(_) => "sink",
        }
    }

    /// True when queries can read it.
    pub fn is_readable(&self) -> bool {
        !matches!(self.kind, RelationKind::Sink(_))
    }

    /// True when INSERT, UPDATE, DELETE and TRUNCATE can change it.
    pub fn is_writable(&self) -> bool {
        matches!(self.kind, RelationKind::Table)
    }

    /// True when something runs for it that can stand still.
    pub fn can_pause(&self) -> bool {
        match &self.kind {
            RelationKind::Source(_)
            | RelationKind::MaterializedView { .. }
            | RelationKind::Sink(_) => true,
            RelationKind::Archive(spec) => spec.feed.is_some(),
            _ => false,
        }
    }

    /// Text of the query that feeds it: of a view, a materialized view, a sink or an archive.
    pub fn query(&self) -> Option<&str> {
        match &self.kind {
            RelationKind::View { query } | RelationKind::MaterializedView { query, .. } => {
                Some(query)
            }
            RelationKind::Sink(spec) => Some(&spec.query),
            RelationKind::Archive(spec) => spec.feed.as_ref().map(|feed| feed.query.as_str()),
            _ => None,
        }
    }

    /// Every OID the relation occupies.
    pub fn oids(&self) -> Vec<Oid> {
        let mut oids = vec![self.oid, self.row_type_oid, self.array_type_oid];
        if let Some(key) = &self.primary_key {
            oids.extend([key.index_oid, key.constraint_oid]);
        }
        oids.extend(self.checks.iter().map(|check| check.oid));
        oids
    }
}

impl Column {
    /// A plain column: nullable, without default, filled from the payload, an INSERT or a query.
    pub fn data(name: impl Into<String>, attnum: i16, ty: SqlType) -> Column {
        Column {
            name: name.into(),
            attnum,
            ty,
            not_null: false,
            default: None,
            generated: None,
            role: ColumnRole::Data,
        }
    }

    /// The column as an Arrow field.
    pub fn field(&self) -> Field {
        self.ty.field(&self.name, !self.not_null)
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
