//! DECLARE, FETCH and MOVE; PREPARE and EXECUTE; TRUNCATE: their data, grammar and printing.
//!
//! Invariant: a direction that a forward cursor does not have is refused here, so a FETCH that parses only goes forward.

use std::fmt::{self, Display, Formatter};

use sqlparser::ast;
use sqlparser::tokenizer::Token;

use crate::cursor::{Cursor, Parse};
use crate::display::{node, object_name, quote_ident, quote_literal};
use crate::parser;
use crate::query;
use crate::statement::Statement;
use crate::subscribe;

/// `DECLARE name CURSOR [WITH | WITHOUT HOLD] FOR query | SUBSCRIBE ...`.
#[derive(Debug, Clone, PartialEq)]
pub struct Declare {
    /// Name of the cursor.
    pub name: String,
    /// `WITH HOLD`: it outlives its transaction block.
    pub hold: bool,
    /// A query or SUBSCRIBE.
    pub statement: Statement,
}

/// `FETCH | MOVE [count] FROM name [WITH (timeout = '1s')]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Name of the cursor.
    pub name: String,
    /// Most rows; `None` is ALL.
    pub count: Option<u64>,
    /// `timeout`, for a cursor over SUBSCRIBE.
    pub timeout: Option<String>,
    /// `MOVE`: rows are passed over.
    pub passing: bool,
}

/// `PREPARE name [(types)] AS statement`.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepare {
    /// Name of the statement.
    pub name: String,
    /// Types of the first parameters.
    pub types: Vec<ast::DataType>,
    /// The statement.
    pub statement: Statement,
    /// Its text, for the places in its errors.
    pub text: String,
}

/// `EXECUTE name [(arguments)]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Execute {
    /// Name of the statement.
    pub name: String,
    /// Values of its parameters.
    pub arguments: Vec<ast::Expr>,
}

/// `DECLARE ...`.
pub(crate) fn declare(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.expect(&["declare"])?;
    let name = cursor.plain_name()?;
    loop {
        if cursor.at(&["scroll"]) {
            return Err(cursor.unsupported("SCROLL", Some("Cursors go forward only.")));
        }
        if cursor.at(&["binary"]) {
            return Err(cursor.unsupported(
                "a BINARY cursor",
                Some("Ask for binary results in the Bind message of FETCH."),
            ));
        }
        if cursor.at(&["subscription"]) {
            return Err(cursor.unsupported(
                "SUBSCRIPTION CURSOR",
                Some("Use DECLARE ... CURSOR FOR SUBSCRIBE."),
            ));
        }
        let noise = cursor.accept(&["no", "scroll"])
            || cursor.accept(&["insensitive"])
            || cursor.accept(&["asensitive"]);
        if !noise {
            break;
        }
    }
    cursor.expect(&["cursor"])?;
    let hold = cursor.accept(&["with", "hold"]);
    if !hold {
        cursor.accept(&["without", "hold"]);
    }
    cursor.expect(&["for"])?;
    let statement = if cursor.at(&["subscribe"]) {
        subscribe::subscribe(cursor)?
    } else {
        let at = cursor.place();
        match query::query_or_dml(cursor)? {
            query @ Statement::Query(_) => query,
            _ => {
                return Err(crate::error::Fault::Unexpected {
                    at,
                    expected: "a query or SUBSCRIBE".into(),
                    hint: None,
                });
            }
        }
    };
    Ok(Statement::Declare(Box::new(Declare {
        name,
        hold,
        statement,
    })))
}

/// `FETCH ...` and `MOVE ...`.
pub(crate) fn fetch(cursor: &mut Cursor) -> Parse<Statement> {
    let passing = cursor.expect_one(&["fetch", "move"])? == "move";
    for word in ["prior", "first", "last", "absolute", "relative", "backward"] {
        if cursor.at(&[word]) && !matches!(cursor.token(1), Token::EOF) {
            return Err(cursor.unsupported(
                &format!("FETCH {}", word.to_uppercase()),
                Some("Cursors go forward only."),
            ));
        }
    }
    let count = count(cursor)?;
    if !cursor.accept(&["from"]) {
        cursor.accept(&["in"]);
    }
    let name = cursor.plain_name()?;
    let mut timeout = None;
    if cursor.accept(&["with"]) {
        cursor.expect_token(&Token::LParen)?;
        cursor.expect(&["timeout"])?;
        cursor.expect_token(&Token::Eq)?;
        timeout = Some(cursor.string()?);
        cursor.expect_token(&Token::RParen)?;
    }
    Ok(Statement::Fetch(Fetch {
        name,
        count,
        timeout,
        passing,
    }))
}

/// `NEXT`, `ALL`, `n`, `FORWARD`, `FORWARD ALL`, `FORWARD n` or nothing.
fn count(cursor: &mut Cursor) -> Parse<Option<u64>> {
    let named =
        |cursor: &Cursor| matches!(cursor.token(1), Token::EOF) || cursor.word(1) == Some("with");
    if cursor.at(&["next"]) && !named(cursor) {
        cursor.skip(1);
        return Ok(Some(1));
    }
    if cursor.at(&["forward"]) && !named(cursor) {
        cursor.skip(1);
    }
    if cursor.accept(&["all"]) {
        return Ok(None);
    }
    if *cursor.token(0) == Token::Minus {
        return Err(cursor.unsupported("FETCH backward", Some("Cursors go forward only.")));
    }
    let Token::Number(text, _) = cursor.token(0) else {
        return Ok(Some(1));
    };
    match text.parse::<u64>() {
        Ok(count) => {
            cursor.skip(1);
            Ok(Some(count))
        }
        Err(_) => Err(cursor.unexpected("a number of rows")),
    }
}

/// `PREPARE ...`.
pub(crate) fn prepare(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.expect(&["prepare"])?;
    if cursor.at(&["transaction"]) && matches!(cursor.token(1), Token::SingleQuotedString(_)) {
        return Err(cursor.unsupported("two-phase commit", None));
    }
    let name = cursor.plain_name()?;
    let types = if *cursor.token(0) == Token::LParen {
        cursor.parenthesized(Cursor::data_type)?
    } else {
        Vec::new()
    };
    cursor.expect(&["as"])?;
    let at = cursor.place();
    let mut tokens = Vec::new();
    while !cursor.at_end() {
        tokens.push(cursor.parser().next_token());
    }
    let statement = parser::statement(tokens)?;
    if !matches!(
        statement,
        Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_)
    ) {
        return Err(crate::error::Fault::Unexpected {
            at,
            expected: "SELECT, INSERT, UPDATE, DELETE or VALUES".into(),
            hint: None,
        });
    }
    Ok(Statement::Prepare(Box::new(Prepare {
        name,
        types,
        text: statement.to_string(),
        statement,
    })))
}

/// `EXECUTE ...`.
pub(crate) fn execute(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.expect(&["execute"])?;
    let name = cursor.plain_name()?;
    let arguments = if *cursor.token(0) == Token::LParen {
        cursor.parenthesized(Cursor::expr)?
    } else {
        Vec::new()
    };
    Ok(Statement::Execute(Box::new(Execute { name, arguments })))
}

/// `TRUNCATE [TABLE] [ONLY] a, b [RESTART | CONTINUE IDENTITY] [CASCADE | RESTRICT]`. There are neither sequences nor foreign
/// keys, so the last two say nothing.
pub(crate) fn truncate(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.expect(&["truncate"])?;
    cursor.accept(&["table"]);
    let tables = cursor.list(|cursor| {
        cursor.accept(&["only"]);
        cursor.object_name()
    })?;
    if !cursor.accept(&["restart", "identity"]) {
        cursor.accept(&["continue", "identity"]);
    }
    if !cursor.accept(&["cascade"]) {
        cursor.accept(&["restrict"]);
    }
    Ok(Statement::Truncate(tables))
}

impl Display for Declare {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let hold = if self.hold { " WITH HOLD" } else { "" };
        write!(
            f,
            "DECLARE {} CURSOR{hold} FOR {}",
            quote_ident(&self.name),
            self.statement
        )
    }
}

impl Display for Fetch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.passing { "MOVE " } else { "FETCH " })?;
        match self.count {
            Some(count) => write!(f, "{count}")?,
            None => f.write_str("ALL")?,
        }
        write!(f, " FROM {}", quote_ident(&self.name))?;
        match &self.timeout {
            Some(timeout) => write!(f, " WITH (timeout = {})", quote_literal(timeout)),
            None => Ok(()),
        }
    }
}

impl Display for Prepare {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "PREPARE {}", quote_ident(&self.name))?;
        if !self.types.is_empty() {
            let types: Vec<String> = self.types.iter().map(node).collect();
            write!(f, " ({})", types.join(", "))?;
        }
        write!(f, " AS {}", self.statement)
    }
}

impl Display for Execute {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "EXECUTE {}", quote_ident(&self.name))?;
        if self.arguments.is_empty() {
            return Ok(());
        }
        let arguments: Vec<String> = self.arguments.iter().map(node).collect();
        write!(f, " ({})", arguments.join(", "))
    }
}

/// Prints TRUNCATE.
pub(crate) fn print_truncate(f: &mut Formatter<'_>, tables: &[ast::ObjectName]) -> fmt::Result {
    let names: Vec<String> = tables.iter().map(object_name).collect();
    write!(f, "TRUNCATE TABLE {}", names.join(", "))
}
