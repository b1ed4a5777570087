//! The grammar of settings, transactions and the other statements that touch only the session.
//!
//! Invariant: a setting's name is in lower case and its values are text without quotes.

use sqlparser::ast::{DataType, Expr};
use sqlparser::tokenizer::Token;

use crate::cursor::{Cursor, Parse};
use crate::statement::{SessionStatement, Statement};

/// Parses a session statement by its first word; `None` when it is not one.
pub(crate) fn session(cursor: &mut Cursor) -> Parse<Option<Statement>> {
    let Some(first) = cursor.word(0).map(str::to_string) else {
        return Ok(None);
    };
    let statement = match first.as_str() {
        "set" => set(cursor)?,
        "reset" => reset(cursor)?,
        "show" => show(cursor)?,
        "begin" => {
            cursor.skip(1);
            skip_transaction_word(cursor);
            SessionStatement::Begin {
                read_only: transaction_modes(cursor)?,
            }
        }
        "start" => {
            cursor.skip(1);
            cursor.expect(&["transaction"])?;
            SessionStatement::Begin {
                read_only: transaction_modes(cursor)?,
            }
        }
        "commit" | "end" => {
            end_of_transaction(cursor)?;
            SessionStatement::Commit
        }
        "rollback" | "abort" => rollback(cursor)?,
        "savepoint" => {
            cursor.skip(1);
            SessionStatement::Savepoint(cursor.plain_name()?)
        }
        "release" => {
            cursor.skip(1);
            skip_noise(cursor, "savepoint");
            SessionStatement::Release(cursor.plain_name()?)
        }
        "discard" => {
            cursor.skip(1);
            let what = cursor.expect_one(&["all", "plans", "sequences", "temp", "temporary"])?;
            SessionStatement::Discard(if what == "temporary" {
                "TEMP".into()
            } else {
                what.to_uppercase()
            })
        }
        "deallocate" => {
            cursor.skip(1);
            skip_noise(cursor, "prepare");
            SessionStatement::Deallocate(name_or_all(cursor)?)
        }
        "close" => {
            cursor.skip(1);
            SessionStatement::Close(name_or_all(cursor)?)
        }
        "listen" => {
            cursor.skip(1);
            SessionStatement::Listen(cursor.plain_name()?)
        }
        "unlisten" => {
            cursor.skip(1);
            let all = cursor.accept_token(&Token::Mul);
            SessionStatement::Unlisten(if all {
                "*".into()
            } else {
                cursor.plain_name()?
            })
        }
        _ => return Ok(None),
    };
    Ok(Some(Statement::Session(statement)))
}

/// Skips a noise word unless it is itself the name that has to follow.
fn skip_noise(cursor: &mut Cursor, noise: &str) {
    if cursor.at(&[noise]) && matches!(cursor.token(1), Token::Word(_)) {
        cursor.skip(1);
    }
}

fn name_or_all(cursor: &mut Cursor) -> Parse<Option<String>> {
    if cursor.accept(&["all"]) {
        Ok(None)
    } else {
        Ok(Some(cursor.plain_name()?))
    }
}

// --- settings

fn set(cursor: &mut Cursor) -> Parse<SessionStatement> {
    cursor.skip(1);
    if cursor.accept(&["session", "characteristics"]) {
        cursor.expect(&["as", "transaction"])?;
        transaction_modes(cursor)?;
        return Ok(SessionStatement::SetTransaction);
    }
    let local = cursor.accept(&["local"]);
    if !local
        && cursor.at(&["session"])
        && matches!(cursor.token(1), Token::Word(_))
        && cursor.word(1) != Some("to")
    {
        cursor.skip(1);
    }
    if cursor.accept(&["transaction"]) {
        transaction_modes(cursor)?;
        return Ok(SessionStatement::SetTransaction);
    }
    if cursor.accept(&["time", "zone"]) {
        return Ok(SessionStatement::Set {
            name: "timezone".into(),
            values: time_zone(cursor)?,
            local,
        });
    }
    // SET NAMES 'x' and SET SCHEMA 'x' take no equals sign.
    for (word, name) in [("names", "client_encoding"), ("schema", "search_path")] {
        if cursor.at(&[word])
            && !matches!(cursor.token(1), Token::Eq)
            && cursor.word(1) != Some("to")
        {
            cursor.skip(1);
            let values = if cursor.at_end() {
                None
            } else {
                values(cursor)?
            };
            return Ok(SessionStatement::Set {
                name: name.into(),
                values,
                local,
            });
        }
    }
    let name = setting_name(cursor)?;
    if !cursor.accept_token(&Token::Eq) && !cursor.accept(&["to"]) {
        return Err(cursor.unexpected("TO or \"=\""));
    }
    Ok(SessionStatement::Set {
        name,
        values: values(cursor)?,
        local,
    })
}

fn setting_name(cursor: &mut Cursor) -> Parse<String> {
    let mut name = cursor.plain_name()?.to_lowercase();
    while cursor.accept_token(&Token::Period) {
        name.push('.');
        name.push_str(&cursor.plain_name()?.to_lowercase());
    }
    Ok(name)
}

/// `DEFAULT` gives `None`.
fn values(cursor: &mut Cursor) -> Parse<Option<Vec<String>>> {
    if cursor.accept(&["default"]) {
        return Ok(None);
    }
    cursor.list(value).map(Some)
}

fn value(cursor: &mut Cursor) -> Parse<String> {
    let negative = cursor.accept_token(&Token::Minus);
    if !negative {
        cursor.accept_token(&Token::Plus);
    }
    let text = match cursor.token(0) {
        Token::Number(text, _) if negative => format!("-{text}"),
        Token::Number(text, _) | Token::SingleQuotedString(text) => text.clone(),
        Token::Word(word) if !negative => word.value.clone(),
        _ => return Err(cursor.unexpected("a value")),
    };
    cursor.skip(1);
    Ok(text)
}

/// A zone name, an offset in hours, `INTERVAL '+01:00' HOUR TO MINUTE`, LOCAL or DEFAULT.
fn time_zone(cursor: &mut Cursor) -> Parse<Option<Vec<String>>> {
    if cursor.accept(&["local"]) {
        return Ok(None);
    }
    if cursor.at(&["interval"]) {
        let at = cursor.place();
        let wrong = || crate::error::Fault::Unexpected {
            at,
            expected: "an interval literal".into(),
            hint: None,
        };
        return match cursor.expr()? {
            Expr::Interval(interval) => match *interval.value {
                Expr::Value(value) => Ok(Some(vec![value.value.into_string().ok_or_else(wrong)?])),
                _ => Err(wrong()),
            },
            Expr::TypedString(typed) if matches!(typed.data_type, DataType::Interval { .. }) => {
                Ok(Some(vec![
                    typed.value.value.into_string().ok_or_else(wrong)?,
                ]))
            }
            _ => Err(wrong()),
        };
    }
    values(cursor)
}

fn reset(cursor: &mut Cursor) -> Parse<SessionStatement> {
    cursor.skip(1);
    if cursor.accept(&["all"]) {
        return Ok(SessionStatement::Reset(None));
    }
    Ok(SessionStatement::Reset(Some(shown_name(cursor)?)))
}

fn show(cursor: &mut Cursor) -> Parse<SessionStatement> {
    cursor.skip(1);
    if cursor.accept(&["all"]) {
        return Ok(SessionStatement::Show(None));
    }
    Ok(SessionStatement::Show(Some(shown_name(cursor)?)))
}

/// A setting, or one of the names of several words that Postgres has for some.
fn shown_name(cursor: &mut Cursor) -> Parse<String> {
    if cursor.accept(&["transaction", "isolation", "level"]) {
        Ok("transaction_isolation".into())
    } else if cursor.accept(&["time", "zone"]) {
        Ok("timezone".into())
    } else if cursor.accept(&["session", "authorization"]) {
        Ok("session_authorization".into())
    } else {
        setting_name(cursor)
    }
}

// --- transactions

fn skip_transaction_word(cursor: &mut Cursor) {
    if !cursor.accept(&["transaction"]) {
        cursor.accept(&["work"]);
    }
}

/// Consumes the modes; true when READ ONLY is among them.
fn transaction_modes(cursor: &mut Cursor) -> Parse<bool> {
    let mut read_only = false;
    while !cursor.at_end() {
        match cursor.expect_one(&["read", "isolation", "not", "deferrable"])? {
            "read" => read_only = cursor.expect_one(&["only", "write"])? == "only",
            "isolation" => {
                cursor.expect(&["level"])?;
                match cursor.expect_one(&["serializable", "repeatable", "read"])? {
                    "repeatable" => cursor.expect(&["read"])?,
                    "read" => {
                        cursor.expect_one(&["committed", "uncommitted"])?;
                    }
                    _ => {}
                }
            }
            "not" => cursor.expect(&["deferrable"])?,
            _ => {}
        }
        if cursor.accept_token(&Token::Comma) && cursor.at_end() {
            return Err(cursor.unexpected("a transaction mode"));
        }
    }
    Ok(read_only)
}

fn end_of_transaction(cursor: &mut Cursor) -> Parse<()> {
    cursor.skip(1);
    if cursor.at(&["prepared"]) {
        return Err(cursor.unsupported("two-phase commit", None));
    }
    skip_transaction_word(cursor);
    if cursor.accept(&["and"]) {
        if !cursor.accept(&["no"]) {
            return Err(
                cursor.unsupported("AND CHAIN", Some("Begin the next transaction with BEGIN."))
            );
        }
        cursor.expect(&["chain"])?;
    }
    Ok(())
}

fn rollback(cursor: &mut Cursor) -> Parse<SessionStatement> {
    end_of_transaction(cursor)?;
    if cursor.accept(&["to"]) {
        skip_noise(cursor, "savepoint");
        return Ok(SessionStatement::RollbackTo(cursor.plain_name()?));
    }
    Ok(SessionStatement::Rollback)
}
