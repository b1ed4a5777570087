//! What can go wrong in the engine, with the words a client sees.
//!
//! Invariant: an object that is late or failing is named in the error, together with the way to read around it.

use thalweg_catalog::{Oid, Report};
use thalweg_state::StateError;
use thiserror::Error;

const EVENTUAL: &str = "SET consistency = 'eventual' reads the latest content of each object.";

/// A failed engine call.
#[derive(Debug, Clone, Error)]
pub enum EngineError {
    /// Durable state could not be read or written.
    #[error("{message}")]
    Storage {
        /// SQLSTATE.
        sqlstate: &'static str,
        /// What happened.
        message: String,
    },
    /// Planning, running or checking a statement failed; already in the client's words.
    #[error("{}", .0.message)]
    Statement(Box<Report>),
    /// No common epoch was reached in time.
    #[error("{object} has not reached the requested epoch in time")]
    Lagging {
        /// Kind and name of the slowest object.
        object: String,
        /// How far it is, and what was asked for.
        detail: String,
    },
    /// An object that the statement reads is in state ERROR.
    #[error("{object} is in state ERROR")]
    Failed {
        /// Kind and name of the object.
        object: String,
        /// Why it failed.
        reason: String,
    },
    /// The statement waits for something that stands still.
    #[error("{object} is paused")]
    Paused {
        /// Kind and name of the object.
        object: String,
        /// What has it go on.
        resume: String,
    },
    /// Deletions outnumber insertions for some row of the object.
    #[error("{object} holds a row with a negative count")]
    InvalidAccumulation {
        /// Name of the object.
        object: String,
    },
    /// The object is not known to the engine; it was dropped meanwhile.
    #[error("relation with OID {} does not exist", .0.0)]
    Unknown(Oid),
    /// The engine is stopping.
    #[error("the server is shutting down")]
    Stopping,
}

impl EngineError {
    pub(crate) fn statement(
        sqlstate: &'static str,
        message: impl Into<String>,
        detail: Option<String>,
    ) -> Self {
        let message = message.into();
        EngineError::Statement(Box::new(Report {
            sqlstate,
            message,
            detail,
            hint: None,
            position: None,
        }))
    }

    /// Another session changed what a transaction block relied on.
    pub(crate) fn concurrent_update() -> Self {
        let mut report = Self::statement(
            "40001",
            "could not serialize access due to concurrent update",
            None,
        )
        .report();
        report.hint = Some("Run the transaction again.".into());
        report.into()
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Self::statement("XX000", message.to_string(), None)
    }

    /// The error in the words and fields of the wire protocol.
    pub fn report(&self) -> Report {
        let plain = |sqlstate, detail, hint| Report {
            sqlstate,
            message: self.to_string(),
            detail,
            hint,
            position: None,
        };
        match self {
            EngineError::Storage { sqlstate, .. } => {
                plain(sqlstate, None, thalweg_state::hint(sqlstate).map(Into::into))
            }
            EngineError::Statement(report) => report.as_ref().clone(),
            EngineError::Lagging { detail, .. } => plain("55000", Some(detail.clone()), Some(EVENTUAL.into())),
            EngineError::Failed { reason, .. } => plain("55000", Some(reason.clone()), Some(EVENTUAL.into())),
            EngineError::Paused { resume, .. } => plain("55000", None, Some(format!("{resume} has it go on."))),
            EngineError::InvalidAccumulation { .. } => plain(
                "XX001",
                Some("More deletions than insertions of a row arrived; the content cannot be trusted.".into()),
                Some("Drop and create the object again to rebuild it from its inputs.".into()),
            ),
            EngineError::Unknown(_) => plain("42P01", None, None),
            EngineError::Stopping => plain("57P01", None, None),
        }
    }
}

impl From<StateError> for EngineError {
    fn from(error: StateError) -> Self {
        EngineError::Storage {
            sqlstate: error.sqlstate(),
            message: error.to_string(),
        }
    }
}

impl From<Report> for EngineError {
    fn from(report: Report) -> Self {
        EngineError::Statement(Box::new(report))
    }
}

impl From<datafusion::error::DataFusionError> for EngineError {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        if let datafusion::error::DataFusionError::External(inner) = error.find_root()
            && let Some(report) = inner.downcast_ref::<Report>()
        {
            return report.clone().into();
        }
        thalweg_planner::Planner::classify(&error).into()
    }
}

impl From<datafusion::arrow::error::ArrowError> for EngineError {
    fn from(error: datafusion::arrow::error::ArrowError) -> Self {
        datafusion::error::DataFusionError::from(error).into()
    }
}
