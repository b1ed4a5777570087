//! Syntax errors with SQLSTATE, place and a picture of the place.
//!
//! Invariant: line and column are those of the whole text given to `parse`; the position is its one-based character
//! offset, as Postgres counts.

use sqlparser::parser::ParserError;
use sqlparser::tokenizer::Location;

use crate::limits;
use crate::report::Report;

/// Where in the text an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// One-based line.
    pub line: usize,
    /// One-based column, in characters.
    pub column: usize,
    /// One-based character offset from the start of the text.
    pub position: usize,
}

/// Why a text is not a statement of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// The text does not follow the grammar.
    #[error("{message}")]
    Syntax {
        /// Five-character SQLSTATE: 42601, or a narrower one such as 42602.
        sqlstate: &'static str,
        /// In Postgres' words: `syntax error at or near "x"`.
        message: String,
        /// What was expected, and the line with a caret.
        detail: String,
        /// The keyword that was probably meant.
        hint: Option<String>,
        /// Where.
        place: Place,
    },
    /// The text follows the grammar of Postgres or of our documentation, but this version cannot run it.
    #[error("{message}")]
    Unsupported {
        /// Names the construct.
        message: String,
        /// The line with a caret.
        detail: String,
        /// What to use instead.
        hint: Option<String>,
        /// Where.
        place: Place,
    },
    /// The text has too many bytes.
    #[error(
        "statement of {bytes} bytes exceeds the limit of {} bytes",
        limits::STATEMENT_BYTES_MAX
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Parentheses, subqueries, CASE or unary operators are nested too deeply.
    #[error(
        "statement is nested deeper than the limit of {} levels",
        limits::NESTING_MAX
    )]
    TooDeep {
        /// Where the limit was passed, when known.
        place: Option<Place>,
    },
    /// Too many operators are chained in one expression, tables in one join or queries in one UNION.
    #[error(
        "statement chains more than the limit of {} terms or {} queries",
        limits::CHAIN_MAX,
        limits::SET_QUERIES_MAX
    )]
    TooLong {
        /// Where the limit was passed.
        place: Place,
    },
}

impl SqlError {
    /// The five-character code.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            SqlError::Syntax { sqlstate, .. } => sqlstate,
            SqlError::Unsupported { .. } => "0A000",
            SqlError::TooLarge { .. } => "54000",
            SqlError::TooDeep { .. } | SqlError::TooLong { .. } => "54001",
        }
    }

    /// Where the error is; only a text that is too large has no place.
    pub fn place(&self) -> Option<Place> {
        match self {
            SqlError::Syntax { place, .. }
            | SqlError::Unsupported { place, .. }
            | SqlError::TooLong { place } => Some(*place),
            SqlError::TooDeep { place } => *place,
            SqlError::TooLarge { .. } => None,
        }
    }

    /// The error as a client sees it.
    pub fn report(&self) -> Report {
        let (detail, hint) = match self {
            SqlError::Syntax { detail, hint, .. } | SqlError::Unsupported { detail, hint, .. } => {
                (Some(detail.clone()), hint.clone())
            }
            SqlError::TooLarge { .. } => {
                (None, Some("Split the text into several statements.".into()))
            }
            SqlError::TooDeep { .. } => (
                None,
                Some("Give inner queries a name with WITH or CREATE VIEW.".into()),
            ),
            SqlError::TooLong { .. } => (
                None,
                Some("Use an IN list, VALUES or a table instead of a chain.".into()),
            ),
        };
        Report {
            sqlstate: self.sqlstate(),
            message: self.to_string(),
            detail,
            hint,
            position: self.place().map(|p| p.position),
        }
    }
}

/// A failure inside the grammar, before it is placed in the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// A token that does not fit; `at` is `None` at the end of the statement.
    Unexpected {
        at: Option<Location>,
        expected: String,
        hint: Option<String>,
    },
    /// A rule of its own with a message of its own.
    Rule {
        sqlstate: &'static str,
        message: String,
        hint: Option<String>,
        at: Option<Location>,
    },
    /// sqlparser's own guard fired.
    Deep,
}

impl Fault {
    /// A construct that this version does not run.
    pub(crate) fn unsupported(construct: &str, hint: Option<&str>, at: Option<Location>) -> Self {
        Fault::Rule {
            sqlstate: "0A000",
            message: format!("{construct} is not supported yet"),
            hint: hint.map(str::to_string),
            at,
        }
    }
}

impl From<ParserError> for Fault {
    fn from(error: ParserError) -> Self {
        match error {
            ParserError::RecursionLimitExceeded => Fault::Deep,
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
                let (at, message) = split_location(&message);
                Fault::Unexpected {
                    at,
                    expected: expectation(message),
                    hint: None,
                }
            }
        }
    }
}

/// sqlparser writes the place at the end of its message and keeps it nowhere else.
fn split_location(message: &str) -> (Option<Location>, &str) {
    let Some((head, tail)) = message.rsplit_once(" at Line: ") else {
        return (None, message);
    };
    let Some((line, column)) = tail.split_once(", Column: ") else {
        return (None, message);
    };
    match (line.trim().parse(), column.trim().parse()) {
        (Ok(line), Ok(column)) => (Some(Location::new(line, column)), head),
        _ => (None, message),
    }
}

/// Turns `Expected: an expression, found: x` into `an expression`; other messages are kept.
fn expectation(message: &str) -> String {
    let head = message
        .rsplit_once(", found:")
        .map_or(message, |(head, _)| head);
    head.strip_prefix("Expected: ")
        .unwrap_or(head)
        .trim()
        .to_string()
}

/// Places a location in the text and draws it.
pub(crate) struct Picture {
    pub(crate) place: Place,
    pub(crate) near: Option<String>,
    pub(crate) excerpt: String,
}

/// The widest part of a line that is shown.
const EXCERPT_COLUMNS_MAX: usize = 80;

impl Picture {
    /// Finds `at` in `text`; `None` is the end of the last token, at `end`.
    pub(crate) fn of(
        text: &str,
        at: Option<Location>,
        end: Location,
        near: Option<String>,
    ) -> Picture {
        let target = at.unwrap_or(end);
        let (line, column) = (target.line.max(1) as usize, target.column.max(1) as usize);
        let mut before = 0;
        let mut shown = "";
        for (number, content) in text.split('\n').enumerate() {
            if number + 1 == line {
                shown = content;
                break;
            }
            before += content.chars().count() + 1;
        }
        let position = before + column;
        // A long line is cut around the caret, on the left first.
        let skip = column
            .saturating_sub(EXCERPT_COLUMNS_MAX * 3 / 4)
            .saturating_sub(1);
        let visible: String = shown
            .chars()
            .skip(skip)
            .take(EXCERPT_COLUMNS_MAX)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let label = format!("LINE {line}: ");
        let caret = " ".repeat(label.len() + column - 1 - skip);
        Picture {
            place: Place {
                line,
                column,
                position,
            },
            near,
            excerpt: format!("{label}{visible}\n{caret}^"),
        }
    }
}
