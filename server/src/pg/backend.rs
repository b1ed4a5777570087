//! What the protocol needs from the session behind it, as a trait.
//!
//! Invariant: the wire knows statements only through this trait, so that its tests can put a scripted session behind the
//! same loop: rows that trickle, queries that stay silent, streams that never end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use thalweg_catalog::SqlType;
use thalweg_planner::OutputColumn;

use crate::frontend::{
    CopyIn, Description, Notice, Outcome, Parsed, Report, Server, Session, SessionOptions,
    TransactionStatus,
};

/// Who connects, as the startup packet says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// Role.
    pub user: String,
    /// Database; the role's name when none was given.
    pub database: String,
    /// Settings in the order of precedence: `options` first, then the packet's own parameters.
    pub settings: Vec<(String, String)>,
}

/// Opens sessions.
pub trait Backends: Send + Sync + 'static {
    /// Opens the session of one connection.
    ///
    /// # Errors
    /// Any report; the client sees it as FATAL.
    fn open(&self, client: Client) -> Result<Box<dyn Backend>, Report>;
}

/// One connection's session.
#[async_trait]
pub trait Backend: Send {
    /// Process id that the client sees and cancels by.
    fn process_id(&self) -> i32;
    /// Settings the client is told of at start.
    fn reported_settings(&self) -> Vec<(String, String)>;
    /// Value of a setting.
    fn setting(&self, name: &str) -> Option<String>;
    /// `statement_timeout`; `None` is off.
    fn statement_timeout(&self) -> Option<Duration>;
    /// Splits and parses a text.
    ///
    /// # Errors
    /// 42601 or a limit of the parser.
    fn parse(&self, text: &str) -> Result<Vec<Parsed>, Report>;
    /// Parameter and result types.
    ///
    /// # Errors
    /// Whatever planning raises.
    fn describe(
        &self,
        parsed: &Parsed,
        declared: &[Option<SqlType>],
    ) -> Result<Description, Report>;
    /// Runs one statement. Dropping the future or the outcome's stream cancels it.
    ///
    /// # Errors
    /// Whatever running it raises.
    async fn execute(
        &mut self,
        parsed: &Parsed,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report>;
    /// As `execute`, with the types that the parameters were described with.
    ///
    /// # Errors
    /// Whatever running it raises.
    async fn execute_described(
        &mut self,
        parsed: &Parsed,
        types: &[SqlType],
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        let _ = types;
        self.execute(parsed, parameters).await
    }
    /// Inserts the rows of a COPY FROM; returns their number.
    ///
    /// # Errors
    /// What the INSERT raises; then nothing was inserted.
    async fn copy_rows(&mut self, copy: &CopyIn, batches: Vec<RecordBatch>) -> Result<u64, Report> {
        let _ = (copy, batches);
        Err(super::error::report(
            "0A000",
            "COPY FROM is not supported here",
        ))
    }
    /// The first of refused rows that is to blame.
    async fn refused_row(&mut self, copy: &CopyIn, batches: Vec<RecordBatch>) -> Option<usize> {
        let _ = (copy, batches);
        None
    }
    /// Opens a block for the statements up to the next Sync, or of one text.
    fn begin_implicit(&mut self) {}
    /// Commits that block, or rolls it back when it has failed.
    ///
    /// # Errors
    /// What the commit raises.
    async fn end_implicit(&mut self) -> Result<(), Report> {
        Ok(())
    }
    /// Result columns of a cursor that SQL declared.
    fn cursor_columns(&self, name: &str) -> Option<Vec<OutputColumn>> {
        let _ = name;
        None
    }
    /// Messages since the last call.
    fn take_notices(&mut self) -> Vec<Notice>;
    /// Reported settings that changed since the last call.
    fn take_changed_settings(&mut self) -> Vec<(String, String)>;
    /// State of the transaction block.
    fn transaction_status(&self) -> TransactionStatus;
    /// Marks the block as failed.
    fn fail_transaction(&mut self);
}

/// The sessions of a server.
#[derive(Debug)]
pub(super) struct ServerBackends(pub(super) Arc<Server>);

impl Backends for ServerBackends {
    fn open(&self, client: Client) -> Result<Box<dyn Backend>, Report> {
        let options = SessionOptions {
            user: client.user,
            database: client.database,
            settings: client.settings,
        };
        Ok(Box::new(Session::new(Arc::clone(&self.0), options)?))
    }
}

#[async_trait]
impl Backend for Session {
    fn process_id(&self) -> i32 {
        self.pid()
    }

    fn reported_settings(&self) -> Vec<(String, String)> {
        Session::reported_settings(self)
    }

    fn setting(&self, name: &str) -> Option<String> {
        Session::setting(self, name)
    }

    fn statement_timeout(&self) -> Option<Duration> {
        match self.setting_ms("statement_timeout") {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }

    fn parse(&self, text: &str) -> Result<Vec<Parsed>, Report> {
        Session::parse(self, text)
    }

    fn describe(
        &self,
        parsed: &Parsed,
        declared: &[Option<SqlType>],
    ) -> Result<Description, Report> {
        Session::describe(self, parsed, declared)
    }

    async fn execute(
        &mut self,
        parsed: &Parsed,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        Session::execute(self, parsed, parameters).await
    }

    async fn execute_described(
        &mut self,
        parsed: &Parsed,
        types: &[SqlType],
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        Session::execute_described(self, parsed, types, parameters).await
    }

    async fn copy_rows(&mut self, copy: &CopyIn, batches: Vec<RecordBatch>) -> Result<u64, Report> {
        Session::copy_rows(self, copy, batches).await
    }

    async fn refused_row(&mut self, copy: &CopyIn, batches: Vec<RecordBatch>) -> Option<usize> {
        Session::refused_row(self, copy, batches).await
    }

    fn begin_implicit(&mut self) {
        Session::begin_implicit(self);
    }

    async fn end_implicit(&mut self) -> Result<(), Report> {
        Session::end_implicit(self).await
    }

    fn cursor_columns(&self, name: &str) -> Option<Vec<OutputColumn>> {
        Session::cursor_columns(self, name)
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        Session::take_notices(self)
    }

    fn take_changed_settings(&mut self) -> Vec<(String, String)> {
        Session::take_changed_settings(self)
    }

    fn transaction_status(&self) -> TransactionStatus {
        Session::transaction_status(self)
    }

    fn fail_transaction(&mut self) {
        Session::fail_transaction(self);
    }
}
