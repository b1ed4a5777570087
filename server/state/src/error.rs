//! What can go wrong with durable state, with the SQLSTATE a client sees.
//!
//! Invariant: content that does not match its checksum is `Corrupt` and names its record; it is never decoded or skipped.

use thiserror::Error;

/// A failed access to durable state.
#[derive(Debug, Error)]
pub enum StateError {
    /// The database refused or failed.
    #[error("could not access the data file: {0}")]
    Storage(#[from] redb::Error),
    /// A record does not say what was written.
    #[error("{record} is corrupt: {reason}")]
    Corrupt {
        /// Which record, for example `DML log entry 7/0 of table 16384`.
        record: String,
        /// What does not fit.
        reason: String,
    },
    /// A batch could not be turned into bytes.
    #[error("could not encode a batch: {0}")]
    Encode(#[from] arrow::error::ArrowError),
    /// A record is larger than the database takes.
    #[error("a change of {0} bytes is too large for one record")]
    TooLarge(usize),
    /// The store was closed.
    #[error("the data file is closed")]
    Closed,
}

impl StateError {
    /// SQLSTATE of the error.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            StateError::Storage(_) => "58030",
            StateError::Corrupt { .. } => "XX001",
            StateError::Encode(_) => "XX000",
            StateError::TooLarge(_) => "54000",
            StateError::Closed => "57P01",
        }
    }

    pub(crate) fn corrupt(record: impl Into<String>, reason: impl Into<String>) -> Self {
        StateError::Corrupt {
            record: record.into(),
            reason: reason.into(),
        }
    }
}
