//! What can go wrong with an archive.
//!
//! Invariant: whoever gets an error knows whether rows were committed, or is told that this is not known.

use crate::store::StoreError;

/// An error of an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The store reports it; nothing was committed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store failed during a commit, and could not be asked what became of it.
    #[error("could not tell whether a commit to archive \"{archive}\" took place")]
    Unknown {
        /// Its folder.
        archive: String,
        /// What failed.
        detail: String,
    },
    /// Another writer has taken over.
    #[error("archive \"{archive}\" has another writer")]
    Fenced {
        /// Its folder.
        archive: String,
    },
    /// Another commit of this server did not end well, or nobody writes at the moment.
    #[error("archive \"{archive}\" has to be taken over again")]
    Interrupted {
        /// Its folder.
        archive: String,
    },
    /// A manifest is missing.
    #[error("manifest {number} of archive \"{archive}\" is missing")]
    Gap {
        /// Its folder.
        archive: String,
        /// The number.
        number: u64,
    },
    /// A manifest or file is not what it should be.
    #[error("file \"{path}\" of an archive is damaged")]
    Damaged {
        /// The file.
        path: String,
        /// In which way.
        detail: String,
    },
    /// A manifest of a later release.
    #[error("manifest \"{path}\" has format {format}, which this release does not know")]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        format: u32,
    },
    /// There is an archive already.
    #[error("folder \"{archive}\" holds an archive")]
    Occupied {
        /// Its folder.
        archive: String,
    },
    /// The archive that is there has other columns.
    #[error("the columns do not fit the archive in \"{archive}\"")]
    Misfit {
        /// Its folder.
        archive: String,
        /// What differs.
        detail: String,
    },
    /// A source cannot go on where the archive ends.
    #[error("it is not known where source \"{source_name}\" goes on after archive \"{archive}\"")]
    NoPlace {
        /// Its folder.
        archive: String,
        /// What FROM names.
        source_name: String,
        /// Why.
        detail: String,
    },
    /// What fills an archive is not what its newest commit is of.
    #[error("archive \"{archive}\" was filled last by something else")]
    OtherFeed {
        /// Its folder.
        archive: String,
        /// By what, as far as that is known.
        detail: String,
    },
    /// A value that cannot name a folder.
    #[error("value of partition column \"{column}\" is too long for the name of a folder")]
    PartitionTooLong {
        /// The column.
        column: String,
        /// Length of the name, in bytes.
        bytes: usize,
        /// The longest that every store takes, in bytes.
        bytes_max: usize,
    },
    /// A value that has no text which reads back.
    #[error("value \"{value}\" of partition column \"{column}\" cannot name a folder")]
    PartitionValue {
        /// The column.
        column: String,
        /// The value.
        value: String,
    },
    /// A column whose type Parquet or a folder's name cannot hold.
    #[error("column \"{column}\" of type {ty} cannot be {role} of an archive")]
    ColumnType {
        /// The column.
        column: String,
        /// Its type.
        ty: String,
        /// What it was to be.
        role: &'static str,
    },
    /// A broken promise inside this crate, or of the Parquet library.
    #[error("{0}")]
    Internal(String),
}

impl ArchiveError {
    /// SQLSTATE of this error.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            ArchiveError::Store(error) => error.sqlstate(),
            ArchiveError::Unknown { .. } => "08007",
            ArchiveError::Fenced { .. }
            | ArchiveError::Interrupted { .. }
            | ArchiveError::NoPlace { .. }
            | ArchiveError::OtherFeed { .. } => "55000",
            ArchiveError::Gap { .. } | ArchiveError::Damaged { .. } => "XX001",
            ArchiveError::Newer { .. } | ArchiveError::ColumnType { .. } => "0A000",
            ArchiveError::Occupied { .. } => "42710",
            ArchiveError::Misfit { .. } => "42P16",
            ArchiveError::PartitionTooLong { .. } => "22001",
            ArchiveError::PartitionValue { .. } => "22023",
            ArchiveError::Internal(_) => "XX000",
        }
    }

    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            ArchiveError::Store(error) => Some(error.detail.clone()),
            ArchiveError::Unknown { detail, .. }
            | ArchiveError::Damaged { detail, .. }
            | ArchiveError::Misfit { detail, .. }
            | ArchiveError::NoPlace { detail, .. }
            | ArchiveError::OtherFeed { detail, .. } => Some(detail.clone()),
            ArchiveError::PartitionTooLong { bytes, bytes_max, .. } => Some(format!(
                "The name would have {bytes} bytes, and {bytes_max} are allowed."
            )),
            ArchiveError::Fenced { .. } => {
                Some("It committed after this server did, so this server writes no more.".into())
            }
            ArchiveError::Interrupted { .. } => {
                Some("Its writer is about to begin, or a commit did not end well; nothing was committed.".into())
            }
            ArchiveError::Gap { .. } => {
                Some("Without it nobody can tell which files are part of the archive.".into())
            }
            _ => None,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            ArchiveError::Store(error) => error.hint()?,
            ArchiveError::Unknown { .. } => {
                "Look whether the rows are there before you insert them again."
            }
            ArchiveError::Fenced { .. } => {
                "Let one server write to a folder. To take over from the other one, restart this server, or write ALTER ARCHIVE ... RESUME where a source or view fills the archive."
            }
            ArchiveError::Interrupted { .. } => {
                "Try again: the next writer finds out what is there."
            }
            ArchiveError::Gap { .. } | ArchiveError::Damaged { .. } => {
                "Restore the file from a copy of the folder."
            }
            ArchiveError::Newer { .. } => "Use the release that wrote it, or a later one.",
            ArchiveError::Occupied { .. } => {
                "Add attach = 'true' to go on with it, or name another folder."
            }
            ArchiveError::NoPlace { .. } => {
                "Name a new folder, which gets all rows that the source still has."
            }
            ArchiveError::OtherFeed { .. } => {
                "How far that is in it says nothing of what fills it now. Stop the other one, and create the archive in a new folder, which gets all rows that the source still has."
            }
            ArchiveError::PartitionTooLong { .. } => {
                "Partition by an expression with few and short values, such as ts::date."
            }
            ArchiveError::ColumnType { .. } => "Store it as text: (column)::text.",
            ArchiveError::PartitionValue { .. }
            | ArchiveError::Misfit { .. }
            | ArchiveError::Internal(_) => return None,
        };
        Some(hint.to_owned())
    }
}
