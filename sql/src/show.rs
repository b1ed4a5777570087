//! The grammar of DROP, SHOW, DESCRIBE, EXPLAIN, FLUSH and WAIT FOR.
//!
//! Invariant: EXPLAIN never holds another EXPLAIN.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::cursor::{Cursor, Parse};
use crate::error::Fault;
use crate::statement::{Drop, Explain, ObjectKind, ShowObjects, Statement};

impl ObjectKind {
    /// Every kind a statement can name.
    pub const ALL: [ObjectKind; 8] = [
        ObjectKind::Source,
        ObjectKind::Table,
        ObjectKind::Archive,
        ObjectKind::View,
        ObjectKind::MaterializedView,
        ObjectKind::Sink,
        ObjectKind::Schema,
        ObjectKind::Index,
    ];

    /// The words of the kind in SQL, upper case.
    pub fn keyword(self) -> &'static str {
        match self {
            ObjectKind::Source => "SOURCE",
            ObjectKind::Table => "TABLE",
            ObjectKind::Archive => "ARCHIVE",
            ObjectKind::View => "VIEW",
            ObjectKind::MaterializedView => "MATERIALIZED VIEW",
            ObjectKind::Sink => "SINK",
            ObjectKind::Schema => "SCHEMA",
            ObjectKind::Index => "INDEX",
        }
    }

    /// The words of SHOW for this kind, upper case.
    pub fn plural(self) -> &'static str {
        match self {
            ObjectKind::Source => "SOURCES",
            ObjectKind::Table => "TABLES",
            ObjectKind::Archive => "ARCHIVES",
            ObjectKind::View => "VIEWS",
            ObjectKind::MaterializedView => "MATERIALIZED VIEWS",
            ObjectKind::Sink => "SINKS",
            ObjectKind::Schema => "SCHEMAS",
            ObjectKind::Index => "INDEXES",
        }
    }

    /// The first word in lower case, singular or plural.
    fn of_word(word: &str) -> Option<ObjectKind> {
        Some(match word {
            "source" | "sources" => ObjectKind::Source,
            "table" | "tables" => ObjectKind::Table,
            "archive" | "archives" => ObjectKind::Archive,
            "view" | "views" => ObjectKind::View,
            "materialized" => ObjectKind::MaterializedView,
            "sink" | "sinks" => ObjectKind::Sink,
            "schema" | "schemas" => ObjectKind::Schema,
            "index" | "indexes" => ObjectKind::Index,
            _ => return None,
        })
    }
}

const KINDS: &[&str] = &[
    "source",
    "table",
    "archive",
    "view",
    "materialized",
    "sink",
    "schema",
    "index",
];

fn kind(cursor: &mut Cursor) -> Parse<ObjectKind> {
    let word = match cursor.expect_one(KINDS) {
        Ok(word) => word,
        Err(_) => {
            return Err(cursor.unexpected_of(&[KINDS, crate::unsupported::DROP_KINDS].concat()));
        }
    };
    if word == "materialized" {
        cursor.expect(&["view"])?;
    }
    ObjectKind::of_word(word).ok_or_else(|| cursor.unexpected_of(KINDS))
}

/// `DROP kind [IF EXISTS] a, b [CASCADE | RESTRICT]`.
pub(crate) fn drop(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.skip(1);
    let kind = kind(cursor)?;
    let if_exists = if cursor.at(&["if"]) {
        cursor.expect(&["if", "exists"])?;
        true
    } else {
        false
    };
    let names = cursor.list(Cursor::object_name)?;
    let cascade = cursor.accept(&["cascade"]);
    if !cascade {
        cursor.accept(&["restrict"]);
    }
    Ok(Statement::Drop(Drop {
        kind,
        if_exists,
        names,
        cascade,
    }))
}

/// `SHOW <plural>`, `SHOW CREATE`, `SHOW COLUMNS`; `None` when it is a setting.
pub(crate) fn show_objects(cursor: &mut Cursor) -> Parse<Option<Statement>> {
    let Some(word) = cursor.word(1).map(str::to_string) else {
        return Ok(None);
    };
    let show = match word.as_str() {
        "jobs" => {
            cursor.skip(2);
            ShowObjects::Jobs
        }
        "databases" => {
            cursor.skip(2);
            ShowObjects::Databases
        }
        "columns" => {
            cursor.skip(2);
            if !cursor.accept(&["in"]) {
                cursor.expect(&["from"])?;
            }
            ShowObjects::Columns(cursor.object_name()?)
        }
        "create" => {
            cursor.skip(2);
            let kind = kind(cursor)?;
            ShowObjects::Create {
                kind,
                name: cursor.object_name()?,
            }
        }
        "materialized" => {
            cursor.skip(2);
            cursor.expect(&["views"])?;
            list(cursor, ObjectKind::MaterializedView)?
        }
        plural if plural.ends_with('s') => match ObjectKind::of_word(plural) {
            Some(kind) => {
                cursor.skip(2);
                list(cursor, kind)?
            }
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(Statement::ShowObjects(show)))
}

fn list(cursor: &mut Cursor, kind: ObjectKind) -> Parse<ShowObjects> {
    let schema = if cursor.accept(&["from"]) || cursor.accept(&["in"]) {
        Some(cursor.ident()?)
    } else {
        None
    };
    let like = if cursor.accept(&["like"]) {
        Some(cursor.string()?)
    } else {
        None
    };
    Ok(ShowObjects::List { kind, schema, like })
}

/// `EXPLAIN [STREAM] [ANALYZE] [VERBOSE] [(option, ...)] statement`.
pub(crate) fn explain(mut cursor: Cursor) -> Parse<Statement> {
    cursor.skip(1);
    let (mut stream, mut analyze, mut verbose) = (false, false, false);
    loop {
        if cursor.accept(&["stream"]) {
            stream = true;
        } else if cursor.accept(&["analyze"]) || cursor.accept(&["analyse"]) {
            analyze = true;
        } else if cursor.accept(&["verbose"]) {
            verbose = true;
        } else {
            break;
        }
    }
    if *cursor.token(0) == Token::LParen
        && cursor.word(1).is_some_and(|w| EXPLAIN_OPTIONS.contains(&w))
    {
        explain_options(&mut cursor, &mut stream, &mut analyze, &mut verbose)?;
    }
    let at = cursor.place();
    let mut rest: Vec<TokenWithSpan> = Vec::new();
    while !cursor.at_end() {
        rest.push(cursor.parser().next_token());
    }
    let statement = crate::parser::statement(rest)?;
    let explainable = matches!(
        statement,
        Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::CreateView(_)
            | Statement::CreateMaterializedView(_)
            | Statement::CreateSink(_)
            | Statement::CreateTable(_)
    );
    if !explainable {
        return Err(Fault::Unexpected {
            at,
            expected: "a query, DML or CREATE MATERIALIZED VIEW".into(),
            hint: None,
        });
    }
    Ok(Statement::Explain(Box::new(Explain {
        stream,
        analyze,
        verbose,
        statement: Box::new(statement),
    })))
}

/// Options of Postgres' parenthesised form; those below STREAM change only what Postgres would print beside the plan.
const EXPLAIN_OPTIONS: &[&str] = &[
    "analyze",
    "verbose",
    "format",
    "stream",
    "costs",
    "buffers",
    "timing",
    "summary",
    "settings",
    "wal",
    "memory",
    "generic_plan",
];

fn explain_options(
    cursor: &mut Cursor,
    stream: &mut bool,
    analyze: &mut bool,
    verbose: &mut bool,
) -> Parse<()> {
    cursor.parenthesized(|cursor| {
        let option = cursor.expect_one(EXPLAIN_OPTIONS)?;
        if option == "format" {
            if !cursor.accept(&["text"]) {
                return Err(cursor.unsupported("an EXPLAIN format other than TEXT", None));
            }
            return Ok(());
        }
        let on = if cursor.accept(&["false"]) || cursor.accept(&["off"]) {
            false
        } else {
            let _ = cursor.accept(&["true"]) || cursor.accept(&["on"]);
            true
        };
        match option {
            "analyze" => *analyze = on,
            "verbose" => *verbose = on,
            "stream" => *stream = on,
            _ => {}
        }
        Ok(())
    })?;
    Ok(())
}
