//! Canonical printing: one text for each statement, which parses back to an equal statement.
//!
//! Invariant: names are quoted exactly when they have to be, string literals always double their quotes, and options
//! and clauses come in the grammar's order.

use std::fmt::{self, Display, Formatter};
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, TableFactor, TableVersion, Value, ValueWithSpan,
    VisitMut, VisitorMut,
};

use crate::statement::{
    ColumnDef, CreateArchive, CreateSink, CreateSource, CreateTable, CreateView, Drop, Format,
    IncludeColumn, IncludeKind, ObjectKind, OptionValue, Pause, SessionStatement, ShowObjects,
    SinkInput, Statement, TableElements, WithOption,
};
use crate::words::needs_quotes;

/// A name as it has to be written: in double quotes when it is not a plain lower-case word or is reserved.
pub fn quote_ident(name: &str) -> String {
    if needs_quotes(name) {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_string()
    }
}

/// A string literal of this value.
pub fn quote_literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Prints one of sqlparser's nodes, around its fault of not doubling quotes that look doubled or escaped already.
pub(crate) fn node<N: Clone + Display + VisitMut>(node: &N) -> String {
    struct Doubled;
    impl VisitorMut for Doubled {
        type Break = ();
        fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
            if let Value::SingleQuotedString(text) = &mut value.value
                && text.contains('\'')
            {
                // Printed as it is: every quote it sees is followed by its twin.
                *text = text.replace('\'', "''");
            }
            ControlFlow::Continue(())
        }

        // sqlparser reads the alias behind FOR SYSTEM_TIME and prints it before.
        fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table {
                alias,
                version: Some(TableVersion::ForSystemTimeAsOf(expr)),
                ..
            } = factor
                && let Some(alias) = alias.take()
            {
                let alias = alias.to_string();
                let short = if alias.starts_with("AS ") { "" } else { "AS " };
                *expr = Expr::Identifier(Ident::new(format!("{expr} {short}{alias}")));
            }
            ControlFlow::Continue(())
        }
    }
    let mut copy = node.clone();
    let _ = copy.visit(&mut Doubled);
    copy.to_string()
}

fn ident(ident: &Ident) -> String {
    quote_ident(&ident.value)
}

/// A possibly qualified name.
pub(crate) fn object_name(name: &ObjectName) -> String {
    let parts: Vec<String> = name
        .0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(part) => ident(part),
            other => other.to_string(),
        })
        .collect();
    parts.join(".")
}

fn idents(names: &[Ident]) -> String {
    names.iter().map(ident).collect::<Vec<_>>().join(", ")
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Query(query) => f.write_str(&node(query.as_ref())),
            Statement::Insert(insert) => f.write_str(&node(insert.as_ref())),
            Statement::Update(update) => f.write_str(&node(update.as_ref())),
            Statement::Delete(delete) => f.write_str(&node(delete.as_ref())),
            Statement::CreateSource(source) => source.fmt(f),
            Statement::CreateTable(table) => table.fmt(f),
            Statement::CreateArchive(archive) => archive.fmt(f),
            Statement::CreateView(view) => create_view(f, view, false),
            Statement::CreateMaterializedView(view) => create_view(f, view, true),
            Statement::CreateSink(sink) => sink.fmt(f),
            Statement::CreateSchema {
                name,
                if_not_exists,
            } => {
                write!(
                    f,
                    "CREATE SCHEMA {}{}",
                    when(*if_not_exists, IF_NOT_EXISTS),
                    ident(name)
                )
            }
            Statement::Drop(drop) => drop.fmt(f),
            Statement::ShowObjects(show) => show.fmt(f),
            Statement::Describe(name) => write!(f, "DESCRIBE {}", object_name(name)),
            Statement::Explain(explain) => {
                f.write_str("EXPLAIN ")?;
                f.write_str(when(explain.stream, "STREAM "))?;
                f.write_str(when(explain.analyze, "ANALYZE "))?;
                f.write_str(when(explain.verbose, "VERBOSE "))?;
                explain.statement.fmt(f)
            }
            Statement::Flush => f.write_str("FLUSH"),
            Statement::WaitFor(name) => write!(f, "WAIT FOR {}", object_name(name)),
            Statement::Pause(pause) => pause.fmt(f),
            Statement::VacuumArchive(name) => write!(f, "VACUUM ARCHIVE {}", object_name(name)),
            Statement::Backup(folder) => write!(f, "BACKUP TO {}", quote_literal(folder)),
            Statement::Truncate(tables) => crate::portal::print_truncate(f, tables),
            Statement::Subscribe(subscribe) => subscribe.fmt(f),
            Statement::Copy(copy) => copy.fmt(f),
            Statement::Declare(declare) => declare.fmt(f),
            Statement::Fetch(fetch) => fetch.fmt(f),
            Statement::Prepare(prepare) => prepare.fmt(f),
            Statement::Execute(execute) => execute.fmt(f),
            Statement::Session(session) => session.fmt(f),
            Statement::Unsupported { name, .. } => f.write_str(name),
        }
    }
}

const IF_NOT_EXISTS: &str = "IF NOT EXISTS ";

fn when(condition: bool, text: &'static str) -> &'static str {
    if condition { text } else { "" }
}

impl Display for CreateSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CREATE SOURCE {}{}",
            when(self.if_not_exists, IF_NOT_EXISTS),
            object_name(&self.name)
        )?;
        elements(f, &self.elements)?;
        include(f, &self.include)?;
        with(f, &self.with)?;
        format_clause(f, self.format.as_ref())
    }
}

impl Display for CreateTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CREATE TABLE {}{}",
            when(self.if_not_exists, IF_NOT_EXISTS),
            object_name(&self.name)
        )?;
        elements(f, &self.elements)?;
        include(f, &self.include)?;
        with(f, &self.with)?;
        format_clause(f, self.format.as_ref())?;
        match &self.query {
            Some(query) => write!(f, " AS {}", node(query.as_ref())),
            None => Ok(()),
        }
    }
}

impl Display for CreateArchive {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CREATE ARCHIVE {}{}",
            when(self.if_not_exists, IF_NOT_EXISTS),
            object_name(&self.name)
        )?;
        match &self.from {
            Some(from) => write!(f, " FROM {}", object_name(from))?,
            None if self.elements == TableElements::default() => f.write_str(" ()")?,
            None => elements(f, &self.elements)?,
        }
        if !self.partition_by.is_empty() {
            let parts: Vec<String> = self
                .partition_by
                .iter()
                .map(|part| match &part.name {
                    Some(name) => format!("{} AS {}", node(&part.expr), ident(name)),
                    None => node(&part.expr),
                })
                .collect();
            write!(f, " PARTITION BY ({})", parts.join(", "))?;
        }
        with(f, &self.with)?;
        if let Some(encode) = &self.encode {
            write!(f, " ENCODE {}", encode.encoding)?;
            if !encode.options.is_empty() {
                write!(f, " ({})", options(&encode.options))?;
            }
        }
        Ok(())
    }
}

fn create_view(f: &mut Formatter<'_>, view: &CreateView, materialized: bool) -> fmt::Result {
    write!(
        f,
        "CREATE {}{}VIEW {}{}",
        when(view.or_replace, "OR REPLACE "),
        when(materialized, "MATERIALIZED "),
        when(view.if_not_exists, IF_NOT_EXISTS),
        object_name(&view.name)
    )?;
    if !view.columns.is_empty() {
        write!(f, " ({})", idents(&view.columns))?;
    }
    with(f, &view.with)?;
    write!(
        f,
        " AS {}{}",
        node(view.query.as_ref()),
        when(view.emit_on_window_close, " EMIT ON WINDOW CLOSE")
    )
}

impl Display for CreateSink {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CREATE SINK {}{}",
            when(self.if_not_exists, IF_NOT_EXISTS),
            object_name(&self.name)
        )?;
        if let Some(into) = &self.into {
            write!(f, " INTO {}", object_name(into))?;
        }
        match &self.input {
            SinkInput::Relation(name) => write!(f, " FROM {}", object_name(name))?,
            SinkInput::Query(query) => write!(f, " AS {}", node(query.as_ref()))?,
        }
        with(f, &self.with)?;
        format_clause(f, self.format.as_ref())
    }
}

fn elements(f: &mut Formatter<'_>, elements: &TableElements) -> fmt::Result {
    let mut items: Vec<String> = elements.columns.iter().map(column).collect();
    if let Some(watermark) = &elements.watermark {
        items.push(format!(
            "WATERMARK FOR {} AS {}",
            ident(&watermark.column),
            node(&watermark.expr)
        ));
    }
    if let Some(key) = &elements.primary_key {
        items.push(format!(
            "{}PRIMARY KEY ({})",
            constraint(key.name.as_ref()),
            idents(&key.columns)
        ));
    }
    for check in &elements.checks {
        let mut item = format!(
            "{}CHECK ({})",
            constraint(check.name.as_ref()),
            node(&check.expr)
        );
        if let Some(action) = &check.on_violation {
            item.push_str(" ON VIOLATION ");
            item.push_str(action);
        }
        items.push(item);
    }
    if items.is_empty() {
        Ok(())
    } else {
        write!(f, " ({})", items.join(", "))
    }
}

fn constraint(name: Option<&Ident>) -> String {
    name.map(|name| format!("CONSTRAINT {} ", ident(name)))
        .unwrap_or_default()
}

fn column(column: &ColumnDef) -> String {
    let mut text = ident(&column.name);
    if let Some(data_type) = &column.data_type {
        text.push(' ');
        text.push_str(&node(data_type));
    }
    if let Some(expr) = &column.generated {
        // Without a type only the short form parses; `GENERATED` would be taken for the type.
        let form = if column.data_type.is_some() {
            "GENERATED ALWAYS AS"
        } else {
            "AS"
        };
        text.push_str(&format!(" {form} ({})", node(expr)));
        text.push_str(when(column.data_type.is_some(), " STORED"));
    }
    if let Some(expr) = &column.default {
        text.push_str(" DEFAULT ");
        text.push_str(&closed(expr));
    }
    text.push_str(when(column.not_null, " NOT NULL"));
    if !column.options.is_empty() {
        text.push_str(&format!(" OPTIONS ({})", options(&column.options)));
    }
    text
}

/// An expression where only Postgres' b_expr is allowed.
fn closed(expr: &Expr) -> String {
    match expr {
        Expr::Value(_) | Expr::Function(_) | Expr::TypedString(_) => node(expr),
        _ => format!("({})", node(expr)),
    }
}

fn include(f: &mut Formatter<'_>, columns: &[IncludeColumn]) -> fmt::Result {
    for column in columns {
        f.write_str(" INCLUDE ")?;
        match &column.kind {
            IncludeKind::Key => f.write_str("KEY")?,
            IncludeKind::Partition => f.write_str("PARTITION")?,
            IncludeKind::Offset => f.write_str("OFFSET")?,
            IncludeKind::Timestamp => f.write_str("TIMESTAMP")?,
            IncludeKind::Header(name) => write!(f, "HEADER {}", quote_literal(name))?,
            IncludeKind::Headers => f.write_str("HEADERS")?,
            IncludeKind::Payload => f.write_str("PAYLOAD")?,
        }
        if let Some(alias) = &column.alias {
            write!(f, " AS {}", ident(alias))?;
        }
    }
    Ok(())
}

fn with(f: &mut Formatter<'_>, list: &[WithOption]) -> fmt::Result {
    if list.is_empty() {
        Ok(())
    } else {
        write!(f, " WITH ({})", options(list))
    }
}

fn options(list: &[WithOption]) -> String {
    list.iter()
        .map(|o| format!("{} = {}", option_name(&o.name), o.value))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Dotted plain words go bare, even reserved ones; any other name is a string literal.
fn option_name(name: &str) -> String {
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    if name.split('.').all(plain) {
        name.to_string()
    } else {
        quote_literal(name)
    }
}

impl Display for OptionValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            OptionValue::String(text) => f.write_str(&quote_literal(text)),
            OptionValue::Number(text) => f.write_str(text),
            OptionValue::Bool(value) => value.fmt(f),
            OptionValue::Ident(name) => f.write_str(&quote_ident(name)),
            OptionValue::Secret(name) => write!(f, "SECRET {}", quote_ident(name)),
        }
    }
}

fn format_clause(f: &mut Formatter<'_>, format: Option<&Format>) -> fmt::Result {
    let Some(format) = format else { return Ok(()) };
    write!(f, " FORMAT {} ENCODE {}", format.row, format.encode)?;
    if !format.options.is_empty() {
        write!(f, " ({})", options(&format.options))?;
    }
    match &format.key_encode {
        Some(encode) => write!(f, " KEY ENCODE {encode}"),
        None => Ok(()),
    }
}

impl Display for Drop {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.names.iter().map(object_name).collect();
        write!(
            f,
            "DROP {} {}{}{}",
            self.kind,
            when(self.if_exists, "IF EXISTS "),
            names.join(", "),
            when(self.cascade, " CASCADE")
        )
    }
}

impl Display for Pause {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (kind, name) = (self.kind, object_name(&self.name));
        let word = if self.paused { "PAUSE" } else { "RESUME" };
        write!(f, "ALTER {kind} {name} {word}")
    }
}

impl Display for ObjectKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

impl Display for ShowObjects {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ShowObjects::List { kind, schema, like } => {
                write!(f, "SHOW {}", kind.plural())?;
                if let Some(schema) = schema {
                    write!(f, " FROM {}", ident(schema))?;
                }
                match like {
                    Some(pattern) => write!(f, " LIKE {}", quote_literal(pattern)),
                    None => Ok(()),
                }
            }
            ShowObjects::Jobs => f.write_str("SHOW JOBS"),
            ShowObjects::Databases => f.write_str("SHOW DATABASES"),
            ShowObjects::Columns(name) => write!(f, "SHOW COLUMNS FROM {}", object_name(name)),
            ShowObjects::Create { kind, name } => {
                write!(f, "SHOW CREATE {kind} {}", object_name(name))
            }
        }
    }
}

/// Words that mean something else behind SET or SHOW.
const NOT_SETTINGS: &[&str] = &[
    "columns",
    "databases",
    "indexes",
    "jobs",
    "local",
    "materialized",
    "schemas",
    "session",
    "sinks",
    "sources",
    "tables",
    "transaction",
    "views",
];

/// A setting's dotted name.
fn setting(name: &str) -> String {
    if NOT_SETTINGS.contains(&name) {
        return format!("\"{name}\"");
    }
    name.split('.')
        .map(quote_ident)
        .collect::<Vec<_>>()
        .join(".")
}

impl Display for SessionStatement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let all = |name: &Option<String>| name.as_deref().map_or("ALL".to_string(), quote_ident);
        match self {
            SessionStatement::Set {
                name,
                values,
                local,
            } => {
                let values = match values {
                    Some(values) => values
                        .iter()
                        .map(|v| quote_literal(v))
                        .collect::<Vec<_>>()
                        .join(", "),
                    None => "DEFAULT".to_string(),
                };
                write!(
                    f,
                    "SET {}{} TO {values}",
                    when(*local, "LOCAL "),
                    setting(name)
                )
            }
            SessionStatement::Reset(name) => {
                write!(f, "RESET {}", name.as_deref().map_or("ALL".into(), setting))
            }
            SessionStatement::Show(name) => {
                write!(f, "SHOW {}", name.as_deref().map_or("ALL".into(), setting))
            }
            SessionStatement::SetTransaction => {
                f.write_str("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            }
            SessionStatement::Begin { read_only } => {
                write!(f, "BEGIN{}", when(*read_only, " READ ONLY"))
            }
            SessionStatement::Commit => f.write_str("COMMIT"),
            SessionStatement::Rollback => f.write_str("ROLLBACK"),
            SessionStatement::Savepoint(name) => write!(f, "SAVEPOINT {}", quote_ident(name)),
            SessionStatement::Release(name) => write!(f, "RELEASE SAVEPOINT {}", quote_ident(name)),
            SessionStatement::RollbackTo(name) => {
                write!(f, "ROLLBACK TO SAVEPOINT {}", quote_ident(name))
            }
            SessionStatement::Discard(what) => write!(f, "DISCARD {what}"),
            SessionStatement::Deallocate(name) => write!(f, "DEALLOCATE {}", all(name)),
            SessionStatement::Close(name) => write!(f, "CLOSE {}", all(name)),
            SessionStatement::Listen(name) => write!(f, "LISTEN {}", quote_ident(name)),
            SessionStatement::Unlisten(name) if name == "*" => f.write_str("UNLISTEN *"),
            SessionStatement::Unlisten(name) => write!(f, "UNLISTEN {}", quote_ident(name)),
        }
    }
}
