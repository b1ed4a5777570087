//! What a client is told about an error: the fields of Postgres' ErrorResponse that we fill.
//!
//! Invariant: a report carries text only; nothing in it needs the statement or the catalog to be read.

use std::fmt;

/// An error as a client sees it, whichever crate it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Five-character SQLSTATE.
    pub sqlstate: &'static str,
    /// Primary message: lower case, no full stop.
    pub message: String,
    /// What was found, in sentences.
    pub detail: Option<String>,
    /// What to do about it, in sentences.
    pub hint: Option<String>,
    /// One-based character offset in the statement text.
    pub position: Option<usize>,
}

impl Report {
    /// Makes a report of a code and a message alone.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Report {
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
        }
    }

    /// Adds the detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}
