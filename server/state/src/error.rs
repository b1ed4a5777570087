//! What can go wrong with durable state, with the SQLSTATE a client sees.
//!
//! Invariant: content that does not match its checksum is `Corrupt` and names its record; it is never decoded or skipped.

use std::io;

use thiserror::Error;

use crate::manifest::StatePart;

/// A failed access to durable state.
#[derive(Debug, Error)]
pub enum StateError {
    /// The database refused or failed.
    #[error("could not access the data file: {0}")]
    Storage(#[from] redb::Error),
    /// A file or folder could not be read or written.
    #[error("could not {what}: {error}")]
    File {
        /// What was tried, with the name of the file.
        what: String,
        /// The system's answer.
        error: io::Error,
    },
    /// A record does not say what was written.
    #[error("{record} is corrupt: {reason}")]
    Corrupt {
        /// Which record, for example `DML log entry 7/0 of table 16384`.
        record: String,
        /// What does not fit.
        reason: String,
    },
    /// The data dir was written by a later version.
    #[error(
        "the data dir has format {found}, and this version of thalweg reads formats up to {known}"
    )]
    NewerFormat {
        /// Format of the data dir.
        found: u32,
        /// Newest format that can be read.
        known: u32,
    },
    /// A backup, or what a restore has left that did not end, was opened as a data dir.
    #[error("{folder} {}", match .is_backup { true => "is a backup", false => "is being restored, or was until the restore was ended" })]
    NotWhole {
        /// The folder.
        folder: String,
        /// A backup, not a data dir.
        is_backup: bool,
    },
    /// A folder that is to be written has something in it.
    #[error("{0} is not empty")]
    Taken(String),
    /// A folder holds no backup that can be restored.
    #[error("{folder} holds no whole backup: {reason}")]
    NoBackup {
        /// The folder.
        folder: String,
        /// What is missing or does not fit.
        reason: String,
    },
    /// A batch could not be turned into bytes.
    #[error("could not encode a batch: {0}")]
    Encode(#[from] arrow::error::ArrowError),
    /// A record is larger than the database takes.
    #[error("a change of {0} bytes is too large for one record")]
    TooLarge(usize),
    /// Nothing stored has this type.
    #[error("values of type {0} cannot be stored")]
    Unsupported(String),
    /// A save does not go on where the last one ended: taking it would lose or double rows.
    #[error(
        "a save of table {table} goes on from epoch {since}, and the manifest ends at epoch {through}"
    )]
    Discontinuous {
        /// The table.
        table: StatePart,
        /// Where the save begins.
        since: u64,
        /// Where the manifest ends.
        through: u64,
    },
    /// Work was given up because the store closes.
    #[error("the work was given up")]
    Cancelled,
    /// The store was closed.
    #[error("the data file is closed")]
    Closed,
}

/// What the user can do about a failure of storage with this SQLSTATE.
pub fn hint(sqlstate: &str) -> Option<&'static str> {
    match sqlstate {
        "XX001" => {
            Some("Put the data dir back from a copy, or drop what is damaged and create it again.")
        }
        "53100" => {
            Some("Free space on the disk of the data dir; the server goes on by itself then.")
        }
        _ => None,
    }
}

impl StateError {
    /// SQLSTATE of the error.
    pub fn sqlstate(&self) -> &'static str {
        let full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        match self {
            StateError::Storage(redb::Error::Io(error)) if full(error) => "53100",
            StateError::File { error, .. } if full(error) => "53100",
            StateError::Storage(_) | StateError::File { .. } => "58030",
            StateError::Corrupt { .. } => "XX001",
            StateError::NewerFormat { .. }
            | StateError::NotWhole { .. }
            | StateError::Taken(_)
            | StateError::NoBackup { .. } => "55000",
            StateError::Encode(_) | StateError::Discontinuous { .. } => "XX000",
            StateError::TooLarge(_) => "54000",
            StateError::Unsupported(_) => "0A000",
            StateError::Cancelled | StateError::Closed => "57P01",
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StateError::NewerFormat { .. } => Some(
                "Start the version of thalweg that wrote it or a later one, or use another --data-dir.",
            ),
            StateError::NotWhole {
                is_backup: true, ..
            } => Some("Make a data dir of it with thalweg restore."),
            StateError::NotWhole {
                is_backup: false, ..
            } => Some("Restore into it again: thalweg restore goes on from what is there."),
            StateError::Taken(_) => Some("Name a folder that does not exist or is empty."),
            StateError::NoBackup { .. } => Some("Restore another backup."),
            _ => hint(self.sqlstate()),
        }
    }

    pub(crate) fn corrupt(record: impl Into<String>, reason: impl Into<String>) -> Self {
        StateError::Corrupt {
            record: record.into(),
            reason: reason.into(),
        }
    }

    /// For a failed step on a file.
    pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(io::Error) -> StateError {
        let what = what.into();
        move |error| StateError::File { what, error }
    }
}
