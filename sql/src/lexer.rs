//! Text to tokens in canonical form, cut into statements.
//!
//! Invariant: after this module an unquoted word is in lower case, every string literal without a type prefix is a
//! `SingleQuotedString` of its value, and no whitespace or comment is left; token places are those of the whole text.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, TokenizerError, Whitespace};

use crate::dialect::ThalwegDialect;
use crate::error::{Place, SqlError};
use crate::limits::STATEMENT_BYTES_MAX;

/// The tokens of one statement and where its text lies.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) tokens: Vec<TokenWithSpan>,
    /// Byte range in the whole text, from the first token to the end of the last.
    pub(crate) bytes: std::ops::Range<usize>,
    /// Character offset of the first token.
    pub(crate) start: usize,
    /// End of the last token.
    pub(crate) end: Location,
}

/// Keywords of other products that sqlparser would act on although Postgres leaves them free for names.
const FREED: &[Keyword] = &[
    Keyword::BEFORE,
    Keyword::CHANGES,
    Keyword::CLUSTER,
    Keyword::CONNECT,
    Keyword::CONNECT_BY_ROOT,
    Keyword::CONVERT,
    Keyword::DIRECTORY,
    Keyword::DISTRIBUTE,
    Keyword::DIV,
    Keyword::FORMAT,
    Keyword::GLOBAL,
    Keyword::JSON_TABLE,
    Keyword::LOCAL,
    Keyword::MATCH,
    Keyword::MATCH_RECOGNIZE,
    Keyword::MEMBER,
    Keyword::MINUS,
    Keyword::OPEN,
    Keyword::OPENJSON,
    Keyword::OUTPUT,
    Keyword::OVERWRITE,
    Keyword::PIVOT,
    Keyword::PREWHERE,
    Keyword::PRIOR,
    Keyword::QUALIFY,
    Keyword::REGEXP,
    Keyword::RLIKE,
    Keyword::SAFE_CAST,
    Keyword::SAMPLE,
    Keyword::SETTINGS,
    Keyword::SORT,
    Keyword::START,
    Keyword::TOP,
    Keyword::TRY_CONVERT,
    Keyword::UNPIVOT,
    Keyword::VIEW,
    Keyword::XMLTABLE,
    Keyword::XOR,
];

/// Cuts a text into statements; empty ones are left out.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece>, SqlError> {
    if text.len() > STATEMENT_BYTES_MAX {
        return Err(SqlError::TooLarge { bytes: text.len() });
    }
    let raw = Tokenizer::new(&ThalwegDialect, text)
        .tokenize_with_location()
        .map_err(|e| lexical(text, e))?;
    let mut walk = Walk::new(text);
    let mut pieces = Vec::new();
    let mut tokens: Vec<TokenWithSpan> = Vec::new();
    let mut newline = false;
    for token in raw {
        match token.token {
            Token::Whitespace(Whitespace::Newline | Whitespace::SingleLineComment { .. }) => {
                newline = true
            }
            Token::Whitespace(_) => {}
            Token::SemiColon => {
                newline = false;
                if !tokens.is_empty() {
                    pieces.push(piece(&mut walk, std::mem::take(&mut tokens)));
                }
            }
            other => {
                check_token(text, &other, token.span.start)?;
                let canonical = canonical(other);
                if let Some(last) = tokens.last_mut()
                    && last.span.end == token.span.start
                    && let Some(both) = key_operator(&last.token, &canonical)
                {
                    (last.token, last.span.end) = (both, token.span.end);
                    continue;
                }
                // Literals separated by a newline are one literal, as in the SQL standard.
                if newline
                    && let Token::SingleQuotedString(tail) = &canonical
                    && let Some(TokenWithSpan {
                        token: Token::SingleQuotedString(head),
                        span,
                    }) = tokens.last_mut()
                {
                    head.push_str(tail);
                    span.end = token.span.end;
                } else {
                    tokens.push(TokenWithSpan {
                        token: canonical,
                        span: token.span,
                    });
                }
                newline = false;
            }
        }
    }
    if !tokens.is_empty() {
        pieces.push(piece(&mut walk, tokens));
    }
    for piece in &mut pieces {
        free_words(&mut piece.tokens);
    }
    Ok(pieces)
}

fn piece(walk: &mut Walk<'_>, tokens: Vec<TokenWithSpan>) -> Piece {
    let first = tokens.first().map_or(Location::new(1, 1), |t| t.span.start);
    let end = tokens.last().map_or(first, |t| t.span.end);
    let (start_byte, start) = walk.to(first);
    let (end_byte, _) = walk.to(end);
    Piece {
        tokens,
        bytes: start_byte..end_byte,
        start,
        end,
    }
}

/// `?|` or `?&`, which come in two pieces.
fn key_operator(first: &Token, second: &Token) -> Option<Token> {
    match (first, second) {
        (Token::Question, Token::Pipe) => Some(Token::QuestionPipe),
        (Token::Question, Token::Ampersand) => Some(Token::QuestionAnd),
        _ => None,
    }
}

fn canonical(token: Token) -> Token {
    match token {
        // An operator of jsonb; parameters are `$1`.
        Token::Placeholder(mark) if mark == "?" => Token::Question,
        Token::Word(mut word) => {
            if word.quote_style.is_none() {
                word.value.make_ascii_lowercase();
                if FREED.contains(&word.keyword) {
                    word.keyword = Keyword::NoKeyword;
                }
            }
            Token::Word(word)
        }
        Token::EscapedStringLiteral(s)
        | Token::UnicodeStringLiteral(s)
        | Token::NationalStringLiteral(s) => Token::SingleQuotedString(s),
        Token::DollarQuotedString(s) => Token::SingleQuotedString(s.value),
        other => other,
    }
}

/// `AT` opens a table version in sqlparser unless it is `AT TIME ZONE`; for us it is a name.
fn free_words(tokens: &mut [TokenWithSpan]) {
    for i in 0..tokens.len() {
        let before_time = matches!(tokens.get(i + 1).map(|t| &t.token), Some(Token::Word(w)) if w.keyword == Keyword::TIME);
        if let Some(TokenWithSpan {
            token: Token::Word(word),
            ..
        }) = tokens.get_mut(i)
            && word.keyword == Keyword::AT
            && !before_time
        {
            word.keyword = Keyword::NoKeyword;
        }
    }
}

/// Refuses what Postgres' lexer refuses and sqlparser's does not.
fn check_token(text: &str, token: &Token, at: Location) -> Result<(), SqlError> {
    let (sqlstate, message) = match token {
        Token::Word(word) if word.quote_style.is_some() && word.value.is_empty() => (
            "42601",
            "zero-length delimited identifier at or near \"\"\"\"".to_string(),
        ),
        // sqlparser prints such names wrongly, and a name that does not survive printing would corrupt a definition.
        Token::Word(word) if word.value.contains("\"\"") || word.value.contains("\\\"") => (
            "42602",
            "name contains a double quote after another double quote or a backslash".to_string(),
        ),
        Token::Char(c) => (
            "42601",
            format!("syntax error at or near \"{}\"", c.escape_debug()),
        ),
        _ => return Ok(()),
    };
    let picture = crate::error::Picture::of(text, Some(at), at, None);
    Err(SqlError::Syntax {
        sqlstate,
        message,
        detail: picture.excerpt,
        hint: None,
        place: picture.place,
    })
}

/// Turns the tokenizer's complaint into Postgres' words.
fn lexical(text: &str, error: TokenizerError) -> SqlError {
    let rest: String = {
        let mut walk = Walk::new(text);
        let (byte, _) = walk.to(error.location);
        text.get(byte..).unwrap_or("").chars().take(20).collect()
    };
    let what = error.message.to_lowercase();
    let message = if what.contains("multi-line comment") {
        "unterminated /* comment".to_string()
    } else if what.contains("dollar-quoted") {
        "unterminated dollar-quoted string".to_string()
    } else if what.contains("unterminated") {
        "unterminated quoted string".to_string()
    } else if what.contains("close delimiter") {
        "unterminated quoted identifier".to_string()
    } else {
        "syntax error".to_string()
    };
    let message = if rest.is_empty() {
        format!("{message} at end of input")
    } else {
        format!("{message} at or near \"{rest}\"")
    };
    let picture = crate::error::Picture::of(text, Some(error.location), error.location, None);
    SqlError::Syntax {
        sqlstate: "42601",
        message,
        detail: picture.excerpt,
        hint: None,
        place: picture.place,
    }
}

/// A place from a location, for errors found on the token stream.
pub(crate) fn place(text: &str, at: Location) -> Place {
    crate::error::Picture::of(text, Some(at), at, None).place
}

/// Walks forward through a text, so that placing all statements costs one pass.
pub(crate) struct Walk<'t> {
    rest: std::str::Chars<'t>,
    length: usize,
    characters: usize,
    line: u64,
    column: u64,
}

impl<'t> Walk<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Walk {
            rest: text.chars(),
            length: text.len(),
            characters: 0,
            line: 1,
            column: 1,
        }
    }

    /// Byte and character offset of a location at or after the last one asked for.
    pub(crate) fn to(&mut self, at: Location) -> (usize, usize) {
        while (self.line, self.column) < (at.line, at.column) {
            match self.rest.next() {
                Some('\n') => {
                    self.line += 1;
                    self.column = 1;
                }
                Some(_) => self.column += 1,
                None => break,
            }
            self.characters += 1;
        }
        (self.length - self.rest.as_str().len(), self.characters)
    }
}
