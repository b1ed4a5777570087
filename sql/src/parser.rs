//! Text to statements: limits, splitting, dispatch on the leading words, and errors placed in the text.
//!
//! Invariant: a CREATE that prints to anything but an equal statement is refused here, so what the catalog stores as
//! canonical text is what the user wrote.

use sqlparser::ast;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use crate::cursor::{Cursor, Parse};
use crate::error::{Fault, Picture, SqlError};
use crate::lexer::{self, Piece};
use crate::limits::{self, Excess};
use crate::statement::{ObjectKind, Pause, Statement};
use crate::{copy, create, portal, query, session, show, subscribe, unsupported};

/// One statement of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The statement.
    pub statement: Statement,
    /// Its own slice of the text, without surrounding space, comments and semicolon.
    pub text: String,
    /// Zero-based character offset of that slice in the text.
    pub start: usize,
}

/// Parses all statements of a text; space and comments alone give none.
///
/// # Errors
/// The first thing in the text that is not a statement of ours; then none of the text should run.
pub fn parse(text: &str) -> Result<Vec<Parsed>, SqlError> {
    let mut parsed = Vec::new();
    for piece in checked(text)? {
        let Piece {
            tokens,
            bytes,
            start,
            end,
        } = piece;
        let place = Context { text, end };
        let statement = statement(tokens.clone()).map_err(|fault| place.error(fault, &tokens))?;
        if stored(&statement) && !survives_printing(&statement) {
            let at = tokens.first().map(|t| t.span.start);
            return Err(place.error(
                Fault::unsupported("storing a definition written this way", None, at),
                &tokens,
            ));
        }
        parsed.push(Parsed {
            statement,
            text: text.get(bytes).unwrap_or_default().to_string(),
            start,
        });
    }
    Ok(parsed)
}

/// Parses one query, as for stored canonical text.
///
/// # Errors
/// When the text is not exactly one query.
pub fn parse_query(text: &str) -> Result<Box<ast::Query>, SqlError> {
    single(text, |cursor| match query::query_or_dml(cursor)? {
        Statement::Query(query) => Ok(query),
        _ => Err(Fault::Unexpected {
            at: Some(Location::new(1, 1)),
            expected: "a query".into(),
            hint: None,
        }),
    })
}

/// Parses one expression, as for stored canonical text.
///
/// # Errors
/// When the text is not exactly one expression.
pub fn parse_expr(text: &str) -> Result<ast::Expr, SqlError> {
    single(text, Cursor::expr)
}

fn single<T>(text: &str, rule: impl FnOnce(&mut Cursor) -> Parse<T>) -> Result<T, SqlError> {
    let mut pieces = checked(text)?;
    let second = pieces
        .get(1)
        .and_then(|piece| piece.tokens.first())
        .map(|token| token.span.start);
    let piece = if pieces.is_empty() {
        Piece {
            tokens: Vec::new(),
            bytes: 0..0,
            start: 0,
            end: Location::new(1, 1),
        }
    } else {
        pieces.swap_remove(0)
    };
    let place = Context {
        text,
        end: piece.end,
    };
    let mut cursor = Cursor::part(piece.tokens.clone(), second);
    let outcome = rule(&mut cursor).and_then(|value| {
        cursor.expect_end()?;
        if second.is_some() {
            Err(cursor.unexpected("end of text"))
        } else {
            Ok(value)
        }
    });
    outcome.map_err(|fault| place.error(fault, &piece.tokens))
}

/// Tokens of the statements, each within the limits.
fn checked(text: &str) -> Result<Vec<Piece>, SqlError> {
    let pieces = lexer::pieces(text)?;
    for piece in &pieces {
        limits::check(&piece.tokens).map_err(|excess| match excess {
            Excess::Deep(at) => SqlError::TooDeep {
                place: Some(lexer::place(text, at)),
            },
            Excess::Long(at) => SqlError::TooLong {
                place: lexer::place(text, at),
            },
        })?;
    }
    Ok(pieces)
}

/// Parses the tokens of one statement.
pub(crate) fn statement(tokens: Vec<TokenWithSpan>) -> Parse<Statement> {
    let mut cursor = Cursor::new(tokens);
    if *cursor.token(0) == Token::LParen
        || cursor
            .word(0)
            .is_some_and(|w| query::FIRST_WORDS.contains(&w))
    {
        let statement = query::query_or_dml(&mut cursor)?;
        cursor.expect_end()?;
        return Ok(statement);
    }
    if let Some(pause) = pause(&mut cursor)? {
        return Ok(pause);
    }
    if cursor.at(&["vacuum", "archive"]) {
        cursor.skip(2);
        let name = cursor.object_name()?;
        cursor.expect_end()?;
        return Ok(Statement::VacuumArchive(name));
    }
    if let Some(unsupported) = unsupported::recognise(&cursor) {
        return Ok(unsupported);
    }
    let Some(first) = cursor.word(0).map(str::to_string) else {
        return Err(cursor.unexpected("a statement"));
    };
    match first.as_str() {
        "create" => return create::create(all_tokens(cursor)),
        "explain" => return show::explain(cursor),
        _ => {}
    }
    let statement = rest(&mut cursor, &first)?;
    cursor.expect_end()?;
    Ok(statement)
}

/// What can be told to stand still.
const PAUSABLE: [ObjectKind; 4] = [
    ObjectKind::MaterializedView,
    ObjectKind::Source,
    ObjectKind::Sink,
    ObjectKind::Archive,
];

/// `ALTER <kind> name PAUSE | RESUME`; every other ALTER is left to the table of what is not built.
fn pause(cursor: &mut Cursor) -> Parse<Option<Statement>> {
    if !cursor.at(&["alter"]) {
        return Ok(None);
    }
    let found = PAUSABLE.into_iter().find_map(|kind| {
        let words = kind.keyword().split(' ').map(str::to_ascii_lowercase);
        let words: Vec<String> = words.collect();
        let here = |(at, word): (usize, &String)| cursor.word(at + 1) == Some(word.as_str());
        let all = words.iter().enumerate().all(here);
        all.then_some((kind, 1 + words.len()))
    });
    let Some((kind, skipped)) = found else {
        return Ok(None);
    };
    // A name has up to three parts with dots between them.
    let last = [1, 3, 5].into_iter().map(|parts| skipped + parts);
    let word = last.into_iter().find_map(|at| {
        let ends = *cursor.token(at + 1) == Token::EOF;
        let word = cursor.word(at).filter(|_| ends)?;
        ["pause", "resume"].into_iter().find(|known| *known == word)
    });
    let Some(word) = word else {
        return Ok(None);
    };
    cursor.skip(skipped);
    let name = cursor.object_name()?;
    cursor.expect(&[word])?;
    cursor.expect_end()?;
    Ok(Some(Statement::Pause(Pause {
        kind,
        name,
        paused: word == "pause",
    })))
}

fn all_tokens(mut cursor: Cursor) -> Vec<TokenWithSpan> {
    let mut tokens = Vec::new();
    while !cursor.at_end() {
        tokens.push(cursor.parser().next_token());
    }
    tokens
}

fn rest(cursor: &mut Cursor, first: &str) -> Parse<Statement> {
    match first {
        "drop" => show::drop(cursor),
        "describe" | "desc" => {
            cursor.skip(1);
            Ok(Statement::Describe(cursor.object_name()?))
        }
        "flush" => {
            cursor.skip(1);
            Ok(Statement::Flush)
        }
        "wait" => {
            cursor.expect(&["wait", "for"])?;
            Ok(Statement::WaitFor(cursor.object_name()?))
        }
        "backup" => {
            cursor.expect(&["backup", "to"])?;
            Ok(Statement::Backup(cursor.string()?))
        }
        "subscribe" => subscribe::subscribe(cursor),
        "copy" => copy::copy(cursor),
        "declare" => portal::declare(cursor),
        "fetch" | "move" => portal::fetch(cursor),
        "prepare" => portal::prepare(cursor),
        "execute" => portal::execute(cursor),
        "truncate" => portal::truncate(cursor),
        "alter" => {
            cursor.skip(1);
            Err(cursor.unexpected_of(unsupported::alter_kinds()))
        }
        _ => {
            if first == "show"
                && let Some(show) = show::show_objects(cursor)?
            {
                return Ok(show);
            }
            match session::session(cursor)? {
                Some(statement) => Ok(statement),
                None => Err(unknown(cursor)),
            }
        }
    }
}

/// First words that are built, besides those of queries.
const FIRST_WORDS: &[&str] = &[
    "create",
    "drop",
    "show",
    "describe",
    "explain",
    "flush",
    "wait",
    "backup",
    "subscribe",
    "copy",
    "declare",
    "fetch",
    "move",
    "prepare",
    "execute",
    "truncate",
    "set",
    "reset",
    "begin",
    "start",
    "commit",
    "end",
    "rollback",
    "abort",
    "savepoint",
    "release",
    "discard",
    "deallocate",
    "close",
    "listen",
    "unlisten",
    "alter",
];

fn unknown(cursor: &Cursor) -> Fault {
    let words: Vec<&str> = query::FIRST_WORDS
        .iter()
        .chain(FIRST_WORDS)
        .copied()
        .chain(unsupported::first_words())
        .collect();
    match cursor.unexpected_of(&words) {
        Fault::Unexpected { at, hint, .. } => Fault::Unexpected {
            at,
            expected: "a statement".into(),
            hint,
        },
        other => other,
    }
}

/// Statements whose canonical text the catalog keeps.
fn stored(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::CreateSource(_)
            | Statement::CreateTable(_)
            | Statement::CreateArchive(_)
            | Statement::CreateView(_)
            | Statement::CreateMaterializedView(_)
            | Statement::CreateSink(_)
    )
}

fn survives_printing(original: &Statement) -> bool {
    let Ok(pieces) = lexer::pieces(&original.to_string()) else {
        return false;
    };
    let mut pieces = pieces.into_iter();
    match (pieces.next(), pieces.next()) {
        (Some(piece), None) => statement(piece.tokens).is_ok_and(|printed| printed == *original),
        _ => false,
    }
}

/// Turns faults into errors with the words and the picture of the place.
struct Context<'t> {
    text: &'t str,
    end: Location,
}

impl Context<'_> {
    fn error(&self, fault: Fault, tokens: &[TokenWithSpan]) -> SqlError {
        match fault {
            Fault::Deep => SqlError::TooDeep { place: None },
            Fault::Unexpected { at, expected, hint } => {
                let picture = self.picture(at, tokens);
                let message = match &picture.near {
                    Some(near) => format!("syntax error at or near \"{near}\""),
                    None => "syntax error at end of input".to_string(),
                };
                let detail = match expected.as_str() {
                    "" | "more" => picture.excerpt,
                    expected => format!("Expected {expected}.\n{}", picture.excerpt),
                };
                SqlError::Syntax {
                    sqlstate: "42601",
                    message,
                    detail,
                    hint,
                    place: picture.place,
                }
            }
            Fault::Rule {
                sqlstate,
                message,
                hint,
                at,
            } => {
                let picture = self.picture(at, tokens);
                let (detail, place) = (picture.excerpt, picture.place);
                match sqlstate {
                    "0A000" => SqlError::Unsupported {
                        message,
                        detail,
                        hint,
                        place,
                    },
                    _ => SqlError::Syntax {
                        sqlstate,
                        message,
                        detail,
                        hint,
                        place,
                    },
                }
            }
        }
    }

    fn picture(&self, at: Option<Location>, tokens: &[TokenWithSpan]) -> Picture {
        // The token as it was written, not as it was folded.
        let near = at
            .and_then(|at| tokens.iter().find(|token| token.span.start == at))
            .map(|token| {
                let mut walk = lexer::Walk::new(self.text);
                let (from, _) = walk.to(token.span.start);
                let (to, _) = walk.to(token.span.end);
                self.text
                    .get(from..to)
                    .unwrap_or_default()
                    .chars()
                    .take(NEAR_CHARACTERS_MAX)
                    .collect::<String>()
            });
        let at = if near.is_some() { at } else { None };
        Picture::of(self.text, at, self.end, near)
    }
}

/// The most of a token that is quoted in a message: a literal may be a megabyte.
const NEAR_CHARACTERS_MAX: usize = 60;
