//! The one place where statements take effect; the Postgres wire, Flight SQL and the command line all call it.
//!
//! Invariant: a statement either returns an [`Outcome`] or a [`Report`] with an SQLSTATE; what it promises in the outcome
//! (durable DDL, acknowledged rows) has already happened when the outcome is returned.

mod archive;
mod backup;
mod check;
pub(crate) mod copy;
mod cursor;
mod ddl;
mod define;
mod explain;
mod external;
mod facts;
mod pause;
mod query;
pub(crate) mod rows;
mod server;
mod session;
mod settings;
mod show;
mod sink;
mod subscribe;
mod transaction;

use datafusion::execution::SendableRecordBatchStream;
use thalweg_catalog::SqlType;
use thalweg_planner::OutputColumn;

pub use copy::CopyIn;
pub use server::{ConnectionInfo, Server, ServerOptions};
pub use session::{Session, SessionOptions};
pub use settings::REPORTED_SETTINGS;
pub use thalweg_sql::{CopyOptions, Parsed, Report, Statement};

/// What a statement produced.
pub enum Outcome {
    /// Rows, pulled by the wire at the client's pace. Dropping the stream cancels the query.
    Rows {
        /// Result columns; the stream's batches have the same number of columns in the same order.
        columns: Vec<OutputColumn>,
        /// The batches.
        stream: SendableRecordBatchStream,
        /// How the command tag is made when the stream has ended.
        tag: RowTag,
    },
    /// Rows of `COPY ... TO STDOUT`.
    CopyOut {
        /// Result columns.
        columns: Vec<OutputColumn>,
        /// The batches.
        stream: SendableRecordBatchStream,
        /// How they are written.
        options: CopyOptions,
    },
    /// `COPY ... FROM STDIN`: the wire reads the rows and hands them to [`Session::copy_rows`].
    CopyIn(Box<CopyIn>),
    /// No rows; the tag is complete, for example `CREATE TABLE`.
    Command {
        /// Command tag.
        tag: String,
    },
    /// An empty statement.
    Empty,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Rows { columns, tag, .. } => f
                .debug_struct("Rows")
                .field("columns", columns)
                .field("tag", tag)
                .finish_non_exhaustive(),
            Outcome::CopyOut { columns, .. } => f
                .debug_struct("CopyOut")
                .field("columns", columns)
                .finish_non_exhaustive(),
            Outcome::CopyIn(copy) => f.debug_tuple("CopyIn").field(copy).finish(),
            Outcome::Command { tag } => f.debug_struct("Command").field("tag", tag).finish(),
            Outcome::Empty => f.write_str("Empty"),
        }
    }
}

/// How the command tag of a result with rows is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowTag {
    /// `SELECT n`, n being the rows sent.
    Select,
    /// A word and the rows sent: `FETCH n`, `SUBSCRIBE n`, `COPY n`.
    Counted(&'static str),
    /// A tag that is known before the rows are sent: `INSERT 0 3` with RETURNING, `SHOW`, `EXPLAIN`.
    Fixed(String),
}

impl RowTag {
    /// The finished tag after `rows` rows were sent.
    pub fn finish(&self, rows: u64) -> String {
        match self {
            RowTag::Select => format!("SELECT {rows}"),
            RowTag::Counted(word) => format!("{word} {rows}"),
            RowTag::Fixed(tag) => tag.clone(),
        }
    }
}

/// What a statement takes and gives, without running it.
#[derive(Debug, Clone)]
pub struct Description {
    /// Types of `$1`, `$2`, ... in order.
    pub parameters: Vec<SqlType>,
    /// Result columns; `None` for a statement without rows.
    pub columns: Option<Vec<OutputColumn>>,
}

/// A message beside the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `NOTICE` or `WARNING`.
    pub severity: &'static str,
    /// SQLSTATE; `00000` for a plain notice.
    pub sqlstate: &'static str,
    /// Primary message.
    pub message: String,
    /// Detail.
    pub detail: Option<String>,
    /// Hint.
    pub hint: Option<String>,
}

impl Notice {
    /// A plain notice.
    pub fn notice(message: impl Into<String>) -> Self {
        Self {
            severity: "NOTICE",
            sqlstate: "00000",
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    /// A warning with its SQLSTATE.
    pub fn warning(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: "WARNING",
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }
}

/// State of a session's transaction block, as the ready-for-query byte tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: no block.
    Idle,
    /// `T`: in a block.
    InBlock,
    /// `E`: in a block that failed; only ROLLBACK and COMMIT are accepted.
    Failed,
}
