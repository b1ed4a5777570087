//! SUBSCRIBE: its data, its grammar and its printing.
//!
//! Invariant: options are interpreted here, so that two spellings of one subscription are equal; an option or a clause that is
//! not known is refused, never ignored.

use std::fmt::{self, Display, Formatter};

use sqlparser::ast;
use sqlparser::tokenizer::Token;

use crate::cursor::{Cursor, Parse};
use crate::display::{node, object_name, quote_literal};
use crate::error::Fault;
use crate::statement::Statement;
use crate::suggest::suggest;

/// `SUBSCRIBE [TO] x | (query) [WITH (...)] [AS OF n | AFTER n] [UP TO n]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    /// What is followed.
    pub input: SubscribeInput,
    /// `SNAPSHOT`: the content comes first. `AFTER` turns it off.
    pub snapshot: bool,
    /// `PROGRESS`: rows that say up to where the changes are complete.
    pub progress: bool,
    /// `HEARTBEAT`: a progress row at least this often.
    pub heartbeat: Option<String>,
    /// Where it starts.
    pub start: SubscribeStart,
    /// `UP TO n`: it ends when nothing below this epoch is missing.
    pub up_to: Option<u64>,
}

/// What SUBSCRIBE follows.
#[derive(Debug, Clone, PartialEq)]
pub enum SubscribeInput {
    /// A table, view, materialized view or source.
    Relation(ast::ObjectName),
    /// A query of its own.
    Query(Box<ast::Query>),
}

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeStart {
    /// At the newest epoch.
    Now,
    /// `AS OF n`: with the content of that epoch.
    AsOf(u64),
    /// `AFTER n`: with the changes that follow the progress row of that number.
    After(u64),
}

const OPTIONS: &[&str] = &["snapshot", "progress", "heartbeat"];

/// Options that Materialize or the documentation have and this version has not.
const UNBUILT_OPTIONS: &[&str] = &["within_ts_order"];

/// Parses SUBSCRIBE, up to what cannot belong to it.
pub(crate) fn subscribe(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.expect(&["subscribe"])?;
    if cursor.at(&["to"]) {
        cursor.skip(1);
    }
    let input = input(cursor)?;
    if cursor.at(&["envelope"]) {
        return Err(cursor.unsupported(
            "ENVELOPE",
            Some("Leave it out: changes come as rows with their signed number in _diff."),
        ));
    }
    let mut statement = Subscribe {
        input,
        snapshot: true,
        progress: false,
        heartbeat: None,
        start: SubscribeStart::Now,
        up_to: None,
    };
    let (mut with, mut up_to) = (false, false);
    let mut snapshot = None;
    loop {
        let at = cursor.place();
        if !with && cursor.accept(&["with"]) {
            with = true;
            options(cursor, &mut statement, &mut snapshot)?;
        } else if statement.start == SubscribeStart::Now && cursor.accept(&["as", "of"]) {
            statement.start = SubscribeStart::AsOf(epoch(cursor)?);
        } else if statement.start == SubscribeStart::Now
            && (cursor.accept(&["after"]) || cursor.accept(&["from"]))
        {
            statement.start = SubscribeStart::After(epoch(cursor)?);
            if snapshot == Some(true) {
                return Err(Fault::Rule {
                    sqlstate: "42601",
                    message: "AFTER continues without a snapshot".into(),
                    hint: Some("Leave SNAPSHOT out, or start with AS OF.".into()),
                    at,
                });
            }
        } else if !up_to && cursor.accept(&["up", "to"]) {
            up_to = true;
            statement.up_to = Some(epoch(cursor)?);
        } else {
            break;
        }
    }
    statement.snapshot =
        snapshot.unwrap_or(true) && !matches!(statement.start, SubscribeStart::After(_));
    Ok(Statement::Subscribe(Box::new(statement)))
}

fn input(cursor: &mut Cursor) -> Parse<SubscribeInput> {
    if *cursor.token(0) != Token::LParen {
        return Ok(SubscribeInput::Relation(cursor.object_name()?));
    }
    cursor.expect_token(&Token::LParen)?;
    let query = cursor.query()?;
    if !matches!(
        *query.body,
        ast::SetExpr::Select(_)
            | ast::SetExpr::Query(_)
            | ast::SetExpr::SetOperation { .. }
            | ast::SetExpr::Values(_)
    ) {
        return Err(cursor.unexpected("a query"));
    }
    cursor.expect_token(&Token::RParen)?;
    Ok(SubscribeInput::Query(query))
}

fn options(
    cursor: &mut Cursor,
    statement: &mut Subscribe,
    snapshot: &mut Option<bool>,
) -> Parse<()> {
    cursor.expect_token(&Token::LParen)?;
    let mut seen: Vec<String> = Vec::new();
    loop {
        let at = cursor.place();
        let Some(name) = cursor.word(0).map(str::to_string) else {
            return Err(cursor.unexpected("an option name"));
        };
        if UNBUILT_OPTIONS.contains(&name.as_str()) {
            return Err(cursor.unsupported(&format!("the option {}", name.to_uppercase()), None));
        }
        if !OPTIONS.contains(&name.as_str()) || seen.contains(&name) {
            let twice = seen.contains(&name);
            return Err(Fault::Rule {
                sqlstate: if twice { "42601" } else { "22023" },
                message: if twice {
                    format!("option \"{name}\" is given twice")
                } else {
                    format!("option \"{name}\" does not exist for SUBSCRIBE")
                },
                hint: suggest(&name, OPTIONS.iter())
                    .filter(|_| !twice)
                    .map(|near| format!("Perhaps you meant \"{near}\".")),
                at,
            });
        }
        cursor.skip(1);
        match name.as_str() {
            "snapshot" => {
                let wanted = switch(cursor)?;
                if wanted && matches!(statement.start, SubscribeStart::After(_)) {
                    return Err(Fault::Rule {
                        sqlstate: "42601",
                        message: "AFTER continues without a snapshot".into(),
                        hint: Some("Leave SNAPSHOT out, or start with AS OF.".into()),
                        at,
                    });
                }
                *snapshot = Some(wanted);
            }
            "progress" => statement.progress = switch(cursor)?,
            _ => {
                cursor.expect_token(&Token::Eq)?;
                statement.heartbeat = Some(cursor.string()?);
            }
        }
        seen.push(name);
        if !cursor.accept_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)
}

/// `= true | false`; the name alone means true.
fn switch(cursor: &mut Cursor) -> Parse<bool> {
    if !cursor.accept_token(&Token::Eq) {
        return Ok(true);
    }
    Ok(cursor.expect_one(&["true", "false"])? == "true")
}

/// The number of an epoch, as a number or a string.
fn epoch(cursor: &mut Cursor) -> Parse<u64> {
    let text = match cursor.token(0) {
        Token::Number(text, _) | Token::SingleQuotedString(text) => text.parse::<i64>().ok(),
        _ => None,
    };
    let Some(epoch) = text.and_then(|value| u64::try_from(value).ok()) else {
        return Err(cursor.unexpected("the number of an epoch"));
    };
    cursor.skip(1);
    Ok(epoch)
}

impl Display for Subscribe {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.input {
            // TO keeps a relation of that name apart from the noise word.
            SubscribeInput::Relation(name) => write!(f, "SUBSCRIBE TO {}", object_name(name))?,
            SubscribeInput::Query(query) => write!(f, "SUBSCRIBE TO ({})", node(query.as_ref()))?,
        }
        let after = matches!(self.start, SubscribeStart::After(_));
        let mut options = Vec::new();
        if !self.snapshot && !after {
            options.push("SNAPSHOT = false".to_string());
        }
        if self.progress {
            options.push("PROGRESS = true".to_string());
        }
        if let Some(heartbeat) = &self.heartbeat {
            options.push(format!("HEARTBEAT = {}", quote_literal(heartbeat)));
        }
        if !options.is_empty() {
            write!(f, " WITH ({})", options.join(", "))?;
        }
        match self.start {
            SubscribeStart::Now => {}
            SubscribeStart::AsOf(epoch) => write!(f, " AS OF {epoch}")?,
            SubscribeStart::After(epoch) => write!(f, " AFTER {epoch}")?,
        }
        match self.up_to {
            Some(epoch) => write!(f, " UP TO {epoch}"),
            None => Ok(()),
        }
    }
}
