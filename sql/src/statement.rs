//! The statements Thalweg understands, as data: what was written, not what it means.
//!
//! Invariant: every variant prints (see `display`) to text that parses back to an equal value.

use sqlparser::ast;

use crate::copy::Copy;
use crate::portal::{Declare, Execute, Fetch, Prepare};
use crate::subscribe::Subscribe;

/// One parsed statement. Queries and DML keep sqlparser's tree; streaming DDL is ours.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `SELECT`, `VALUES`, `TABLE x`, `WITH ...`.
    Query(Box<ast::Query>),
    /// `INSERT INTO ... [ON CONFLICT ...] [RETURNING ...]`.
    Insert(Box<ast::Insert>),
    /// `UPDATE ... SET ... [RETURNING ...]`.
    Update(Box<ast::Update>),
    /// `DELETE FROM ... [RETURNING ...]`.
    Delete(Box<ast::Delete>),
    /// `CREATE SOURCE`.
    CreateSource(Box<CreateSource>),
    /// `CREATE TABLE`, with or without a connector.
    CreateTable(Box<CreateTable>),
    /// `CREATE ARCHIVE`.
    CreateArchive(Box<CreateArchive>),
    /// `CREATE [OR REPLACE] VIEW`.
    CreateView(Box<CreateView>),
    /// `CREATE MATERIALIZED VIEW`.
    CreateMaterializedView(Box<CreateView>),
    /// `CREATE SINK`.
    CreateSink(Box<CreateSink>),
    /// `CREATE SCHEMA`.
    CreateSchema {
        /// Schema name.
        name: ast::Ident,
        /// `IF NOT EXISTS` was written.
        if_not_exists: bool,
    },
    /// `DROP <kind> [IF EXISTS] a, b [CASCADE | RESTRICT]`.
    Drop(Drop),
    /// `SHOW SOURCES | TABLES | ...` and `SHOW CREATE <kind> x`.
    ShowObjects(ShowObjects),
    /// `DESCRIBE x`.
    Describe(ast::ObjectName),
    /// `EXPLAIN ...`.
    Explain(Box<Explain>),
    /// `FLUSH`: returns when every accepted write is visible in every view.
    Flush,
    /// `WAIT FOR x`.
    WaitFor(ast::ObjectName),
    /// `ALTER MATERIALIZED VIEW | SOURCE | SINK | ARCHIVE x PAUSE | RESUME`.
    Pause(Pause),
    /// `BACKUP TO 'folder'`.
    Backup(String),
    /// `VACUUM ARCHIVE name`.
    VacuumArchive(ast::ObjectName),
    /// `TRUNCATE a, b`.
    Truncate(Vec<ast::ObjectName>),
    /// `SUBSCRIBE ...`.
    Subscribe(Box<Subscribe>),
    /// `COPY ...`.
    Copy(Box<Copy>),
    /// `DECLARE c CURSOR FOR ...`.
    Declare(Box<Declare>),
    /// `FETCH ...` and `MOVE ...`.
    Fetch(Fetch),
    /// `PREPARE ...`.
    Prepare(Box<Prepare>),
    /// `EXECUTE ...`.
    Execute(Box<Execute>),
    /// Settings, transactions, prepared statements and other session state.
    Session(SessionStatement),
    /// A statement the dialect promises but this version has not built: 0A000.
    Unsupported {
        /// Name as in the documentation, for example `CREATE ARCHIVE`.
        name: String,
        /// What to use instead; empty when there is nothing to suggest.
        hint: String,
    },
}

impl Statement {
    /// True for statements that return rows and change no data.
    pub fn only_returns_rows(&self) -> bool {
        matches!(
            self,
            Statement::Query(_)
                | Statement::Subscribe(_)
                | Statement::Fetch(_)
                | Statement::Explain(_)
                | Statement::ShowObjects(_)
                | Statement::Describe(_)
        )
    }
}

/// `ALTER <kind> x PAUSE | RESUME`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pause {
    /// What it is said to be: a materialized view, a source, a sink or an archive.
    pub kind: ObjectKind,
    /// Possibly schema-qualified name.
    pub name: ast::ObjectName,
    /// `PAUSE` was written, not `RESUME`.
    pub paused: bool,
}

/// `CREATE SOURCE [IF NOT EXISTS] name (columns) INCLUDE ... WITH (...) FORMAT ... ENCODE ...`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSource {
    /// Possibly schema-qualified name.
    pub name: ast::ObjectName,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// Columns and table-level elements.
    pub elements: TableElements,
    /// `INCLUDE ...` columns in the order written.
    pub include: Vec<IncludeColumn>,
    /// `WITH (...)`.
    pub with: Vec<WithOption>,
    /// `FORMAT ... ENCODE ...`; absent for connectors that carry columns themselves.
    pub format: Option<Format>,
}

/// `CREATE TABLE [IF NOT EXISTS] name (columns) [WITH (...)] [FORMAT ... ENCODE ...]` or `CREATE TABLE name AS query`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    /// Possibly schema-qualified name.
    pub name: ast::ObjectName,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// Columns and table-level elements.
    pub elements: TableElements,
    /// `INCLUDE ...` columns; only with a connector.
    pub include: Vec<IncludeColumn>,
    /// `WITH (...)`; empty for a table of our own.
    pub with: Vec<WithOption>,
    /// `FORMAT ... ENCODE ...`; only with a connector.
    pub format: Option<Format>,
    /// `AS query`.
    pub query: Option<Box<ast::Query>>,
}

/// `CREATE ARCHIVE [IF NOT EXISTS] name (columns) | FROM relation [PARTITION BY (...)] [WITH (...)] [ENCODE PARQUET (...)]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateArchive {
    /// Possibly schema-qualified name.
    pub name: ast::ObjectName,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// Columns of an archive that is filled with INSERT.
    pub elements: TableElements,
    /// The source or view that fills it.
    pub from: Option<ast::ObjectName>,
    /// What makes folders, outermost first.
    pub partition_by: Vec<Partition>,
    /// `WITH (...)`.
    pub with: Vec<WithOption>,
    /// `ENCODE PARQUET (...)`.
    pub encode: Option<Encode>,
}

/// `expr AS name` or a column in `PARTITION BY (...)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// What the folder is named by.
    pub expr: ast::Expr,
    /// Name of the column that this makes; absent for a column of the archive.
    pub name: Option<ast::Ident>,
}

/// `ENCODE encoding (options)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Encode {
    /// `PARQUET`, upper case.
    pub encoding: String,
    /// Options in parentheses.
    pub options: Vec<WithOption>,
}

/// Columns, watermark and constraints between the parentheses of CREATE SOURCE / TABLE.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TableElements {
    /// Columns in the order written.
    pub columns: Vec<ColumnDef>,
    /// `WATERMARK FOR column AS expr`.
    pub watermark: Option<Watermark>,
    /// Table-level `PRIMARY KEY (a, b)`; column-level `PRIMARY KEY` is folded in here by the parser.
    pub primary_key: Option<PrimaryKey>,
    /// `[CONSTRAINT name] CHECK (expr) [ON VIOLATION ...]`.
    pub checks: Vec<Check>,
}

/// One column definition.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDef {
    /// Column name.
    pub name: ast::Ident,
    /// Declared type; absent only for `c AS expr`.
    pub data_type: Option<ast::DataType>,
    /// `NOT NULL` was written (a primary key implies it without this flag).
    pub not_null: bool,
    /// `DEFAULT expr`.
    pub default: Option<ast::Expr>,
    /// `AS expr` or `GENERATED ALWAYS AS (expr) STORED`.
    pub generated: Option<ast::Expr>,
    /// `OPTIONS (column = 'f:q')`.
    pub options: Vec<WithOption>,
}

/// `WATERMARK FOR column AS expr`.
#[derive(Debug, Clone, PartialEq)]
pub struct Watermark {
    /// The event-time column.
    pub column: ast::Ident,
    /// The bound, for example `ts - INTERVAL '10' SECOND`.
    pub expr: ast::Expr,
}

/// `[CONSTRAINT name] PRIMARY KEY (a, b)`.
#[derive(Debug, Clone, PartialEq)]
pub struct PrimaryKey {
    /// Constraint name when one was given.
    pub name: Option<ast::Ident>,
    /// Key columns in key order.
    pub columns: Vec<ast::Ident>,
}

/// `[CONSTRAINT name] CHECK (expr) [ON VIOLATION DEAD_LETTER | FAIL | IGNORE]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Constraint name when one was given.
    pub name: Option<ast::Ident>,
    /// The condition; a row breaks it only when it is false.
    pub expr: ast::Expr,
    /// `ON VIOLATION word`, upper case, as written.
    pub on_violation: Option<String>,
}

/// `INCLUDE KEY | PARTITION | OFFSET | TIMESTAMP | HEADER 'h' | HEADERS | PAYLOAD [AS name]`.
#[derive(Debug, Clone, PartialEq)]
pub struct IncludeColumn {
    /// Which part of the record.
    pub kind: IncludeKind,
    /// `AS name`; the default is the kind's lower-case word with a leading underscore.
    pub alias: Option<ast::Ident>,
}

/// Parts of a source record that `INCLUDE` can expose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncludeKind {
    /// Message key, bytea.
    Key,
    /// Partition number (int) or file path (text).
    Partition,
    /// Offset within the split, bigint.
    Offset,
    /// Broker timestamp, timestamptz.
    Timestamp,
    /// One header's value by name, bytea.
    Header(String),
    /// All headers, jsonb.
    Headers,
    /// The raw payload, bytea.
    Payload,
}

/// `name = value` inside `WITH (...)`, `ENCODE x (...)` and `OPTIONS (...)`.
#[derive(Debug, Clone, PartialEq)]
pub struct WithOption {
    /// Lower-cased dotted name, for example `properties.bootstrap.server`.
    pub name: String,
    /// The value, uninterpreted.
    pub value: OptionValue,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionValue {
    /// `'text'`.
    String(String),
    /// A number as written.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
    /// A bare word, for example `connection = k`.
    Ident(String),
    /// `SECRET name`.
    Secret(String),
}

/// `FORMAT row ENCODE encoding (options) [KEY ENCODE encoding]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    /// `PLAIN`, `UPSERT`, `DEBEZIUM`, ... upper case.
    pub row: String,
    /// `JSON`, `AVRO`, ... upper case.
    pub encode: String,
    /// Options in parentheses after ENCODE.
    pub options: Vec<WithOption>,
    /// `KEY ENCODE x`, upper case.
    pub key_encode: Option<String>,
}

/// `CREATE [OR REPLACE] [MATERIALIZED] VIEW name [(columns)] [WITH (...)] AS query [EMIT ...]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateView {
    /// Possibly schema-qualified name.
    pub name: ast::ObjectName,
    /// `OR REPLACE` was written.
    pub or_replace: bool,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// Column names that replace the query's.
    pub columns: Vec<ast::Ident>,
    /// `WITH (...)`.
    pub with: Vec<WithOption>,
    /// The defining query.
    pub query: Box<ast::Query>,
    /// `EMIT ON WINDOW CLOSE` (or `EMIT FINAL`) was written. `EMIT CHANGES` is the default and leaves this false.
    pub emit_on_window_close: bool,
}

/// `CREATE SINK name [INTO table] FROM relation | AS query WITH (...) [FORMAT ...]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSink {
    /// Possibly schema-qualified name.
    pub name: ast::ObjectName,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// `INTO table`.
    pub into: Option<ast::ObjectName>,
    /// What feeds it.
    pub input: SinkInput,
    /// `WITH (...)`.
    pub with: Vec<WithOption>,
    /// `FORMAT ... ENCODE ...`.
    pub format: Option<Format>,
}

/// What feeds a sink.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkInput {
    /// `FROM relation`.
    Relation(ast::ObjectName),
    /// `AS query`.
    Query(Box<ast::Query>),
}

/// `DROP <kind> [IF EXISTS] names [CASCADE | RESTRICT]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Drop {
    /// What kind the statement names; dropping another kind is 42809.
    pub kind: ObjectKind,
    /// `IF EXISTS` was written.
    pub if_exists: bool,
    /// The objects.
    pub names: Vec<ast::ObjectName>,
    /// `CASCADE` was written.
    pub cascade: bool,
}

/// Kinds of objects that statements name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A source.
    Source,
    /// A table.
    Table,
    /// An archive.
    Archive,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A sink.
    Sink,
    /// A schema.
    Schema,
    /// An index.
    Index,
}

/// `SHOW <plural> [FROM | IN schema] [LIKE 'pattern']`, `SHOW CREATE <kind> name`.
#[derive(Debug, Clone, PartialEq)]
pub enum ShowObjects {
    /// `SHOW SOURCES`, `TABLES`, `VIEWS`, `MATERIALIZED VIEWS`, `SINKS`, `SCHEMAS`, `INDEXES`.
    List {
        /// Which kind.
        kind: ObjectKind,
        /// `FROM schema`.
        schema: Option<ast::Ident>,
        /// `LIKE 'pattern'`.
        like: Option<String>,
    },
    /// `SHOW JOBS`.
    Jobs,
    /// `SHOW DATABASES`.
    Databases,
    /// `SHOW COLUMNS FROM x`.
    Columns(ast::ObjectName),
    /// `SHOW CREATE <kind> x`.
    Create {
        /// The kind that was named.
        kind: ObjectKind,
        /// The object.
        name: ast::ObjectName,
    },
}

/// `EXPLAIN [STREAM] [ANALYZE] [VERBOSE] [(FORMAT x, ...)] statement`.
#[derive(Debug, Clone, PartialEq)]
pub struct Explain {
    /// `STREAM`: print the streaming plan of a query or CREATE MATERIALIZED VIEW.
    pub stream: bool,
    /// `ANALYZE`.
    pub analyze: bool,
    /// `VERBOSE`.
    pub verbose: bool,
    /// What is explained: a query, DML, CREATE MATERIALIZED VIEW or CREATE SINK.
    pub statement: Box<Statement>,
}

/// Statements that change or show only the session.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionStatement {
    /// `SET [SESSION | LOCAL] name = values`, also `SET TIME ZONE x`, `SET NAMES x`, `SET SCHEMA x`.
    Set {
        /// Lower-cased setting name (`timezone` for SET TIME ZONE).
        name: String,
        /// Values as text without quotes; `DEFAULT` resets and gives `None`.
        values: Option<Vec<String>>,
        /// `SET LOCAL`.
        local: bool,
    },
    /// `RESET name`; `None` is `RESET ALL`.
    Reset(Option<String>),
    /// `SHOW name`; `None` is `SHOW ALL`. `SHOW TRANSACTION ISOLATION LEVEL` is `transaction_isolation`.
    Show(Option<String>),
    /// `SET TRANSACTION ...`, `SET SESSION CHARACTERISTICS AS TRANSACTION ...`: accepted, no effect.
    SetTransaction,
    /// `BEGIN`, `START TRANSACTION`, with modes ignored except READ ONLY.
    Begin {
        /// `READ ONLY` was written.
        read_only: bool,
    },
    /// `COMMIT`, `END`.
    Commit,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `SAVEPOINT x`.
    Savepoint(String),
    /// `RELEASE [SAVEPOINT] x`.
    Release(String),
    /// `ROLLBACK TO [SAVEPOINT] x`.
    RollbackTo(String),
    /// `DISCARD ALL | PLANS | SEQUENCES | TEMP`.
    Discard(String),
    /// `DEALLOCATE [PREPARE] x | ALL`; `None` is ALL.
    Deallocate(Option<String>),
    /// `CLOSE x | ALL`; `None` is ALL.
    Close(Option<String>),
    /// `LISTEN x`.
    Listen(String),
    /// `UNLISTEN x | *`.
    Unlisten(String),
}
