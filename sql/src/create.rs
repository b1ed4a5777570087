//! The grammar of CREATE SOURCE, TABLE, ARCHIVE, VIEW, MATERIALIZED VIEW, SINK and SCHEMA.
//!
//! Invariant: a primary key or check written on a column and one written on the table give the same value.

use sqlparser::ast::{Expr, Ident};
use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::cursor::{Cursor, IS_PRECEDENCE, Parse};
use crate::error::Fault;
use crate::statement::{
    Check, ColumnDef, CreateArchive, CreateSink, CreateSource, CreateTable, CreateView, Encode,
    Partition, PrimaryKey, SinkInput, Statement, TableElements, Watermark,
};
use crate::words::is_reserved;

/// What may follow CREATE and is built; the rest is in `unsupported`.
const KINDS: &[&str] = &[
    "source",
    "table",
    "archive",
    "view",
    "materialized",
    "sink",
    "schema",
];

/// Parses from the word CREATE on.
pub(crate) fn create(tokens: Vec<TokenWithSpan>) -> Parse<Statement> {
    let mut cursor = Cursor::new(tokens);
    cursor.expect(&["create"])?;
    let or_replace = cursor.accept(&["or", "replace"]);
    if or_replace && !cursor.at(&["view"]) {
        return Err(cursor.unexpected_of(&["view"]));
    }
    match cursor.word(0) {
        Some("source") => source(&mut cursor),
        Some("table") => table(&mut cursor),
        Some("archive") => archive(&mut cursor),
        Some("view") => view(cursor, or_replace),
        Some("materialized") => {
            if cursor.word(1) == Some("view") {
                view(cursor, false)
            } else {
                cursor.skip(1);
                Err(cursor.unexpected_of(&["view"]))
            }
        }
        Some("sink") => sink(cursor),
        Some("schema") => schema(&mut cursor),
        _ => Err(cursor.unexpected_of(&[KINDS, crate::unsupported::CREATE_KINDS].concat())),
    }
}

fn source(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.skip(1);
    let if_not_exists = cursor.if_not_exists()?;
    let name = cursor.object_name()?;
    let elements = elements(cursor)?.unwrap_or_default();
    let include = cursor.include()?;
    let with = cursor.with_options()?;
    let format = cursor.format()?;
    cursor.expect_end()?;
    Ok(Statement::CreateSource(Box::new(CreateSource {
        name,
        if_not_exists,
        elements,
        include,
        with,
        format,
    })))
}

fn table(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.skip(1);
    let if_not_exists = cursor.if_not_exists()?;
    let name = cursor.object_name()?;
    let elements = elements(cursor)?.unwrap_or_default();
    let include = cursor.include()?;
    let with = cursor.with_options()?;
    let format = cursor.format()?;
    let query = if cursor.accept(&["as"]) {
        Some(cursor.query()?)
    } else {
        None
    };
    if query.is_some() && (!with.is_empty() || format.is_some() || !include.is_empty()) {
        return Err(cursor.unsupported(
            "CREATE TABLE AS with a connector",
            Some("Use CREATE SINK ... INTO a table."),
        ));
    }
    cursor.expect_end()?;
    Ok(Statement::CreateTable(Box::new(CreateTable {
        name,
        if_not_exists,
        elements,
        include,
        with,
        format,
        query,
    })))
}

fn archive(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.skip(1);
    let if_not_exists = cursor.if_not_exists()?;
    let name = cursor.object_name()?;
    let elements = elements(cursor)?;
    let from = match elements {
        None if cursor.accept(&["from"]) => Some(cursor.object_name()?),
        None => return Err(cursor.unexpected("columns in parentheses or FROM")),
        Some(_) => None,
    };
    let partition_by = if cursor.accept(&["partition", "by"]) {
        cursor.parenthesized(partition)?
    } else {
        Vec::new()
    };
    let with = cursor.with_options()?;
    let encode = if cursor.accept(&["encode"]) {
        cursor.expect(&["parquet"])?;
        let options = match cursor.token(0) {
            Token::LParen => cursor.option_list()?,
            _ => Vec::new(),
        };
        Some(Encode {
            encoding: "PARQUET".to_owned(),
            options,
        })
    } else {
        None
    };
    cursor.expect_end()?;
    Ok(Statement::CreateArchive(Box::new(CreateArchive {
        name,
        if_not_exists,
        elements: elements.unwrap_or_default(),
        from,
        partition_by,
        with,
        encode,
    })))
}

fn partition(cursor: &mut Cursor) -> Parse<Partition> {
    let expr = without_parentheses(cursor.expr()?);
    let name = if cursor.accept(&["as"]) {
        Some(cursor.ident()?)
    } else {
        None
    };
    Ok(Partition { expr, name })
}

fn schema(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.skip(1);
    let if_not_exists = cursor.if_not_exists()?;
    let name = cursor.ident()?;
    if cursor.at(&["authorization"]) {
        return Err(cursor.unsupported("CREATE SCHEMA ... AUTHORIZATION", None));
    }
    cursor.expect_end()?;
    Ok(Statement::CreateSchema {
        name,
        if_not_exists,
    })
}

/// `VIEW ...` or `MATERIALIZED VIEW ...`.
fn view(mut cursor: Cursor, or_replace: bool) -> Parse<Statement> {
    let materialized = cursor.accept(&["materialized"]);
    cursor.skip(1);
    let if_not_exists = cursor.if_not_exists()?;
    let name = cursor.object_name()?;
    let columns = if *cursor.token(0) == Token::LParen {
        cursor.parenthesized(Cursor::ident)?
    } else {
        Vec::new()
    };
    let with = cursor.with_options()?;
    cursor.expect(&["as"])?;
    let (mut head, mut tail) = cursor.cut(emit_start);
    let query = head.query()?;
    head.expect_end()?;
    let emit_on_window_close = emit(&mut tail)?;
    tail.expect_end()?;
    if emit_on_window_close && !materialized {
        return Err(tail.unsupported(
            "EMIT ON WINDOW CLOSE on a view",
            Some("Use CREATE MATERIALIZED VIEW."),
        ));
    }
    let view = Box::new(CreateView {
        name,
        or_replace,
        if_not_exists,
        columns,
        with,
        query,
        emit_on_window_close,
    });
    Ok(if materialized {
        Statement::CreateMaterializedView(view)
    } else {
        Statement::CreateView(view)
    })
}

/// `EMIT ON WINDOW CLOSE | FINAL | CHANGES`, or nothing.
fn emit(cursor: &mut Cursor) -> Parse<bool> {
    if !cursor.accept(&["emit"]) {
        return Ok(false);
    }
    match cursor.expect_one(&["on", "final", "changes"])? {
        "on" => cursor.expect(&["window", "close"]).map(|()| true),
        "final" => Ok(true),
        _ => Ok(false),
    }
}

/// EMIT ends a query only as one of its whole clauses; elsewhere it may be a name.
fn emit_start(cursor: &Cursor) -> bool {
    cursor.at(&["emit", "on", "window"])
        || (matches!(cursor.word(1), Some("final" | "changes"))
            && cursor.at(&["emit"])
            && *cursor.token(2) == Token::EOF)
}

fn sink(mut cursor: Cursor) -> Parse<Statement> {
    cursor.skip(1);
    let if_not_exists = cursor.if_not_exists()?;
    let name = cursor.object_name()?;
    let into = if cursor.accept(&["into"]) {
        Some(cursor.object_name()?)
    } else {
        None
    };
    let (input, mut tail) = if cursor.accept(&["from"]) {
        (SinkInput::Relation(cursor.object_name()?), cursor)
    } else if cursor.accept(&["as"]) {
        let (mut head, tail) = cursor.cut(sink_tail_start);
        let query = head.query()?;
        head.expect_end()?;
        (SinkInput::Query(query), tail)
    } else {
        return Err(cursor.unexpected_of(&["from", "as", "into"]));
    };
    let with = tail.with_options()?;
    let format = tail.format()?;
    if tail.at(&["emit"]) {
        return Err(tail.unsupported(
            "EMIT in CREATE SINK",
            Some("Create a materialized view and sink from it."),
        ));
    }
    tail.expect_end()?;
    Ok(Statement::CreateSink(Box::new(CreateSink {
        name,
        if_not_exists,
        into,
        input,
        with,
        format,
    })))
}

/// sqlparser would take `WITH (` after FROM for table hints; a query itself has WITH only before a name.
fn sink_tail_start(cursor: &Cursor) -> bool {
    let format = cursor.at(&["format"])
        && cursor.word(1).is_some_and(|row| !is_reserved(row))
        && cursor.word(2) == Some("encode");
    let with = cursor.at(&["with"]) && *cursor.token(1) == Token::LParen;
    format || with || emit_start(cursor)
}

impl Cursor {
    /// Splits the remaining tokens before the first top-level token at which `starts` holds.
    fn cut(mut self, starts: fn(&Cursor) -> bool) -> (Cursor, Cursor) {
        let mut head = Vec::new();
        let mut depth = 0_usize;
        while !self.at_end() {
            if depth == 0 && !head.is_empty() && starts(&self) {
                break;
            }
            match self.token(0) {
                Token::LParen | Token::LBracket => depth += 1,
                Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
                _ => {}
            }
            head.push(self.parser().next_token());
        }
        let boundary = self.place();
        (Cursor::part(head, boundary), self)
    }
}

/// `(column, WATERMARK ..., PRIMARY KEY ..., CHECK ...)` when it is there.
fn elements(cursor: &mut Cursor) -> Parse<Option<TableElements>> {
    if !cursor.accept_token(&Token::LParen) {
        return Ok(None);
    }
    let mut elements = TableElements::default();
    if cursor.accept_token(&Token::RParen) {
        return Ok(Some(elements));
    }
    loop {
        element(cursor, &mut elements)?;
        if !cursor.accept_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)?;
    Ok(Some(elements))
}

fn element(cursor: &mut Cursor, elements: &mut TableElements) -> Parse<()> {
    let paren = *cursor.token(1) == Token::LParen;
    match (cursor.word(0), cursor.word(1)) {
        (Some("watermark"), Some("for")) => watermark(cursor, elements),
        (Some("primary"), Some("key")) => table_key(cursor, None, elements),
        (Some("check"), _) if paren => check(cursor, None, elements),
        (Some("constraint"), _) => {
            cursor.skip(1);
            let name = Some(cursor.ident()?);
            match cursor.word(0) {
                Some("primary") => table_key(cursor, name, elements),
                Some("check") => check(cursor, name, elements),
                _ => Err(refused_constraint(cursor)
                    .unwrap_or_else(|| cursor.unexpected_of(&["primary", "check"]))),
            }
        }
        (Some("unique"), _) if paren => Err(cursor.unsupported("UNIQUE", Some(KEY_HINT))),
        (Some("foreign"), Some("key")) => Err(cursor.unsupported("FOREIGN KEY", None)),
        (Some("like"), Some(_)) => Err(cursor.unsupported("LIKE in a table definition", None)),
        _ => column(cursor, elements),
    }
}

const KEY_HINT: &str = "Declare the columns as PRIMARY KEY.";

/// Constraints of Postgres that we know and do not enforce: taking them silently would promise what does not hold.
fn refused_constraint(cursor: &Cursor) -> Option<Fault> {
    Some(match cursor.word(0)? {
        "unique" => cursor.unsupported("UNIQUE", Some(KEY_HINT)),
        "references" | "foreign" => cursor.unsupported("FOREIGN KEY", None),
        "exclude" => cursor.unsupported("EXCLUDE", None),
        "collate" => cursor.unsupported("COLLATE", None),
        _ => return None,
    })
}

fn watermark(cursor: &mut Cursor, elements: &mut TableElements) -> Parse<()> {
    let at = cursor.place();
    cursor.skip(2);
    let column = cursor.ident()?;
    cursor.expect(&["as"])?;
    let expr = cursor.expr()?;
    if elements.watermark.is_some() {
        return Err(Fault::Rule {
            sqlstate: "42601",
            message: "only one watermark is allowed".into(),
            hint: None,
            at,
        });
    }
    elements.watermark = Some(Watermark { column, expr });
    Ok(())
}

fn table_key(cursor: &mut Cursor, name: Option<Ident>, elements: &mut TableElements) -> Parse<()> {
    let at = cursor.place();
    cursor.expect(&["primary", "key"])?;
    let columns = cursor.parenthesized(Cursor::ident)?;
    set_key(elements, PrimaryKey { name, columns }, at)
}

fn set_key(
    elements: &mut TableElements,
    key: PrimaryKey,
    at: Option<sqlparser::tokenizer::Location>,
) -> Parse<()> {
    if elements.primary_key.is_some() {
        let message = "multiple primary keys are not allowed".to_string();
        let hint = Some("Write PRIMARY KEY (a, b) for a key of several columns.".to_string());
        return Err(Fault::Rule {
            sqlstate: "42P16",
            message,
            hint,
            at,
        });
    }
    elements.primary_key = Some(key);
    Ok(())
}

fn check(cursor: &mut Cursor, name: Option<Ident>, elements: &mut TableElements) -> Parse<()> {
    cursor.skip(1);
    cursor.expect_token(&Token::LParen)?;
    let expr = cursor.expr()?;
    cursor.expect_token(&Token::RParen)?;
    let on_violation = if cursor.accept(&["on", "violation"]) {
        Some(
            cursor
                .expect_one(&["dead_letter", "fail", "ignore"])?
                .to_uppercase(),
        )
    } else {
        None
    };
    elements.checks.push(Check {
        name,
        expr,
        on_violation,
    });
    Ok(())
}

fn column(cursor: &mut Cursor, elements: &mut TableElements) -> Parse<()> {
    let name = cursor.ident()?;
    let data_type = if cursor.at(&["as"]) {
        None
    } else {
        Some(cursor.data_type()?)
    };
    let mut column = ColumnDef {
        name,
        data_type,
        not_null: false,
        default: None,
        generated: None,
        options: Vec::new(),
    };
    while column_clause(cursor, &mut column, elements)? {}
    elements.columns.push(column);
    Ok(())
}

/// One clause behind a column's type; false when there is none.
fn column_clause(
    cursor: &mut Cursor,
    column: &mut ColumnDef,
    elements: &mut TableElements,
) -> Parse<bool> {
    let at = cursor.place();
    let mut constraint = None;
    if cursor.accept(&["constraint"]) {
        constraint = Some(cursor.ident()?);
    }
    if cursor.accept(&["not", "null"]) {
        column.not_null = true;
    } else if cursor.accept(&["null"]) {
        // Columns are nullable unless said otherwise.
    } else if cursor.accept(&["primary", "key"]) {
        set_key(
            elements,
            PrimaryKey {
                name: constraint,
                columns: vec![column.name.clone()],
            },
            at,
        )?;
    } else if cursor.at(&["check"]) {
        check(cursor, constraint, elements)?;
    } else if cursor.accept(&["default"]) {
        once(column.default.is_none(), "DEFAULT", at)?;
        column.default = Some(without_parentheses(cursor.closed_expr()?));
    } else if cursor.accept(&["generated"]) {
        cursor.expect(&["always", "as"])?;
        if cursor.at(&["identity"]) {
            return Err(cursor.unsupported("GENERATED ALWAYS AS IDENTITY", None));
        }
        once(column.generated.is_none(), "GENERATED", at)?;
        cursor.expect_token(&Token::LParen)?;
        column.generated = Some(without_parentheses(cursor.expr()?));
        cursor.expect_token(&Token::RParen)?;
        cursor.accept(&["stored"]);
    } else if cursor.accept(&["as"]) {
        once(column.generated.is_none(), "AS", at)?;
        column.generated = Some(without_parentheses(generated(cursor)?));
    } else if cursor.accept(&["options"]) {
        once(column.options.is_empty(), "OPTIONS", at)?;
        column.options = cursor.option_list()?;
    } else if let Some(refused) = refused_constraint(cursor) {
        return Err(refused);
    } else if constraint.is_some() {
        return Err(cursor.unexpected_of(&["primary", "check", "not"]));
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn once(first: bool, clause: &str, at: Option<sqlparser::tokenizer::Location>) -> Parse<()> {
    if first {
        return Ok(());
    }
    Err(Fault::Rule {
        sqlstate: "42601",
        message: format!("{clause} is given twice for a column"),
        hint: None,
        at,
    })
}

/// `AS expr`: `NOT NULL` behind it belongs to the column when the expression can end before it.
fn generated(cursor: &mut Cursor) -> Parse<Expr> {
    let closed = cursor.attempt(|parser| {
        let expr = parser.parse_subexpr(IS_PRECEDENCE).ok()?;
        let ended = match &parser.peek_token_ref().token {
            Token::Comma | Token::RParen => true,
            Token::Word(word) => {
                matches!(
                    word.value.as_str(),
                    "not" | "null" | "primary" | "check" | "default" | "options"
                )
            }
            _ => false,
        };
        ended.then_some(expr)
    });
    match closed {
        Some(expr) => Ok(expr),
        None => cursor.expr(),
    }
}

/// Parentheses around the whole expression are printed where the grammar needs them, so they are not kept.
fn without_parentheses(mut expr: Expr) -> Expr {
    while let Expr::Nested(inner) = expr {
        expr = *inner;
    }
    expr
}
