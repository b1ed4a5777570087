//! Formats: bytes of a record to values of columns.
//!
//! Invariant: decoding a record appends exactly one value to every column or reports one [`Fault`], never both and never less;
//! a record's neighbours cannot tell whether it was good.

mod canonical;
mod column;
pub(crate) mod convert;
mod interval;
mod json;
mod json_out;
mod number;
mod rows;
pub(crate) mod text;
mod time;

pub use canonical::canonical_json;
pub(crate) use column::{ColumnBuilder, Wanted};
pub(crate) use json::{JsonDecoder, JsonOptions, line_feed};
pub(crate) use json_out::{JsonEncoder, json_text, plain_text};
pub use rows::JsonRows;

/// Why a record cannot become a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: FaultReason,
    /// In the words of an error's primary line.
    pub(crate) message: String,
}

/// Reasons as they appear in `<source>_errors.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultReason {
    /// The bytes are not what the format and the columns say.
    Decode,
    /// They are, and break NOT NULL.
    Constraint,
}

impl FaultReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            FaultReason::Decode => "decode",
            FaultReason::Constraint => "constraint",
        }
    }
}

impl Fault {
    pub(crate) fn decode(message: impl Into<String>) -> Self {
        Self {
            reason: FaultReason::Decode,
            message: message.into(),
        }
    }
}

/// The first `chars_max` characters of foreign text on one line, without control characters.
pub(crate) fn excerpt(text: &str, chars_max: usize) -> String {
    let mut chars = text.chars();
    let mut line = String::new();
    for c in chars.by_ref().take(chars_max) {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        if line.len() > chars_max * 4 {
            break;
        }
    }
    if let Some((end, _)) = line.char_indices().nth(chars_max) {
        line.truncate(end);
        line.push_str("...");
    } else if chars.next().is_some() {
        line.push_str("...");
    }
    line
}
