//! The loop of one open session: takes messages in order and answers them.
//!
//! Invariant: after an error in an extended-protocol message everything up to the next Sync is skipped, and every Query and
//! every Sync is answered by exactly one ReadyForQuery.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use futures::FutureExt;
use futures::future::poll_immediate;
use pgwire::messages::PgWireFrontendMessage as Message;
use pgwire::messages::response::{ReadyForQuery, TransactionStatus as Status};
use pgwire::messages::startup::ParameterStatus;
use thalweg_catalog::SqlType;
use thalweg_sql::{CopySubject, SessionStatement, Statement};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::cancel::{Running, RunningStatement};
use super::error::{Severity, put_error_at, put_notice, report, violation};
use super::frames::{Frame, encode};
use super::limits::PgLimits;
use super::prepared::{Portals, PreparedStatements};
use super::wire::{End, Gone, Input, Interrupt, Interrupts, Output, flush};
use crate::frontend::{Outcome, Parsed, Report, TransactionStatus};

/// Why a message was not carried out.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client is told and the session goes on.
    Report(Report),
    /// The connection ends.
    End(End),
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Failure::Report(report)
    }
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        Failure::End(end)
    }
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Self {
        Failure::End(End::Gone)
    }
}

impl From<Interrupt> for Failure {
    fn from(interrupt: Interrupt) -> Self {
        match interrupt.into_report() {
            Ok(report) => Failure::Report(report),
            Err(end) => Failure::End(end),
        }
    }
}

/// One open session.
pub(super) struct Connection<'a> {
    pub(super) backend: Box<dyn Backend>,
    pub(super) input: &'a mut Input,
    pub(super) output: &'a mut Output,
    pub(super) limits: PgLimits,
    pub(super) statements: PreparedStatements,
    pub(super) portals: Portals,
    /// Where the error that is about to be told happened.
    pub(super) context: Option<String>,
    running: Arc<Running>,
    stop: CancellationToken,
    skip_to_sync: bool,
}

impl<'a> Connection<'a> {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        input: &'a mut Input,
        output: &'a mut Output,
        limits: PgLimits,
        running: Arc<Running>,
        stop: CancellationToken,
    ) -> Self {
        let statements = PreparedStatements::default();
        let portals = Portals::default();
        Self {
            backend,
            input,
            output,
            limits,
            statements,
            portals,
            context: None,
            running,
            stop,
            skip_to_sync: false,
        }
    }

    /// Answers messages until the connection ends.
    pub(super) async fn serve(&mut self) -> End {
        if let Err(end) = self.ready().await {
            return end;
        }
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        let frame = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(End::Fatal(super::error::stopping())),
            frame = self.input.frame(&self.limits) => frame?,
        };
        self.answer(frame).await?;
        if self.output.buffer.len() > self.limits.flush_bytes {
            self.flush().await?;
        }
        Ok(())
    }

    async fn answer(&mut self, frame: Frame) -> Result<(), End> {
        let message = match frame {
            Frame::Message(Message::Sync(_)) => {
                self.skip_to_sync = false;
                if let Err(report) = contained(self.backend.end_implicit()).await.flatten() {
                    self.put_failure(&report);
                }
                return self.ready().await;
            }
            Frame::Message(Message::Terminate(_)) => return Err(End::Gone),
            _ if self.skip_to_sync => return Ok(()),
            Frame::Refused {
                tag: b'Q' | b'F',
                report,
            } => {
                self.put_failure(&report);
                return self.ready().await;
            }
            Frame::Refused { report, .. } => return self.fail_until_sync(report).await,
            Frame::Message(message) => message,
        };
        let done = match message {
            Message::Query(query) => {
                // A client that sends no Sync before it has ended the cycle as well.
                if let Err(report) = contained(self.backend.end_implicit()).await.flatten() {
                    self.put_failure(&report);
                }
                return self.simple_query(&query.query).await;
            }
            Message::Parse(parse) => self.parse(parse),
            Message::Bind(bind) => self.bind(bind),
            Message::Describe(describe) => self.describe(&describe),
            Message::Execute(execute) => self.execute(&execute).await,
            Message::Close(close) => {
                self.close(&close);
                Ok(())
            }
            Message::Flush(_) => return self.flush().await,
            // Left over from a COPY that failed on our side; Postgres drops them as well.
            Message::CopyData(_) | Message::CopyDone(_) | Message::CopyFail(_) => return Ok(()),
            _ => return Err(End::Fatal(violation("unexpected message"))),
        };
        match done {
            Ok(()) => Ok(()),
            Err(Failure::End(end)) => Err(end),
            Err(Failure::Report(report)) => self.fail_until_sync(report).await,
        }
    }

    async fn fail_until_sync(&mut self, report: Report) -> Result<(), End> {
        self.put_failure(&report);
        self.skip_to_sync = true;
        // A client that waits for this message before it sends Sync must get it now.
        self.flush().await
    }

    /// Tells the client of an error, which also fails the transaction block.
    pub(super) fn put_failure(&mut self, report: &Report) {
        self.put_notices();
        let context = self.context.take();
        put_error_at(
            &mut self.output.buffer,
            Severity::Error,
            report,
            context.as_deref(),
        );
        self.backend.fail_transaction();
    }

    pub(super) fn put_notices(&mut self) {
        for notice in self.backend.take_notices() {
            put_notice(&mut self.output.buffer, &notice);
        }
    }

    /// Ends a query cycle.
    pub(super) async fn ready(&mut self) -> Result<(), End> {
        self.put_notices();
        for (name, value) in self.backend.take_changed_settings() {
            encode(&mut self.output.buffer, &ParameterStatus::new(name, value));
        }
        let status = match self.backend.transaction_status() {
            TransactionStatus::Idle => {
                // Portals live as long as their transaction, which without a block ends here.
                self.portals.clear();
                Status::Idle
            }
            TransactionStatus::InBlock => Status::Transaction,
            TransactionStatus::Failed => Status::Error,
        };
        encode(&mut self.output.buffer, &ReadyForQuery::new(status));
        self.flush().await
    }

    pub(super) async fn flush(&mut self) -> Result<(), End> {
        flush(self.input, self.output, &self.stop).await
    }

    /// Makes the statement that starts now cancellable.
    pub(super) fn interruptible(&self, statement: &Statement) -> (RunningStatement, Interrupts) {
        let running = self.running.start();
        let interrupts = Interrupts {
            cancel: running.token.clone(),
            stop: self.stop.clone(),
            deadline: self
                .backend
                .statement_timeout()
                .filter(|_| !endless(statement))
                .map(|timeout| Instant::now() + timeout),
            heed_departure: only_reads(statement),
        };
        (running, interrupts)
    }

    /// Runs one statement up to its outcome.
    pub(super) async fn run(
        &mut self,
        parsed: &Parsed,
        types: &[SqlType],
        parameters: Vec<ScalarValue>,
        interrupts: &Interrupts,
    ) -> Result<Outcome, Failure> {
        self.check_owned(&parsed.statement)?;
        let before = self.backend.transaction_status();
        let executed = {
            let mut execution = pin!(contained(
                self.backend.execute_described(parsed, types, parameters)
            ));
            match poll_immediate(execution.as_mut()).await {
                Some(executed) => executed,
                None => {
                    // A statement that waits must not hold back what the ones before it have answered.
                    interrupts.guard(self.input, self.output.flush()).await??;
                    interrupts.guard(self.input, execution).await?
                }
            }
        };
        let outcome = executed??;
        self.drop_owned(&parsed.statement);
        if before != TransactionStatus::Idle
            && self.backend.transaction_status() == TransactionStatus::Idle
        {
            self.portals.clear();
        }
        Ok(outcome)
    }

    /// Statements and portals belong to the wire, so statements about them are checked here.
    fn check_owned(&self, statement: &Statement) -> Result<(), Report> {
        match statement {
            Statement::Session(SessionStatement::Deallocate(Some(name)))
                if self.statements.get(name).is_none() =>
            {
                Err(report(
                    "26000",
                    format!("prepared statement \"{name}\" does not exist"),
                ))
            }
            Statement::Session(SessionStatement::Close(Some(name)))
                if !self.portals.contains(name) && self.backend.cursor_columns(name).is_none() =>
            {
                Err(report("34000", format!("cursor \"{name}\" does not exist")))
            }
            _ => Ok(()),
        }
    }

    fn drop_owned(&mut self, statement: &Statement) {
        let Statement::Session(statement) = statement else {
            return;
        };
        match statement {
            SessionStatement::Deallocate(Some(name)) => self.statements.remove(name),
            SessionStatement::Deallocate(None) => self.statements.clear(),
            SessionStatement::Close(Some(name)) => self.portals.remove(name),
            SessionStatement::Close(None) => self.portals.clear(),
            SessionStatement::Discard(what) if what.eq_ignore_ascii_case("all") => {
                self.statements.clear();
                self.portals.clear();
            }
            _ => {}
        }
    }
}

/// True when nothing is lost by dropping the statement half way.
fn only_reads(statement: &Statement) -> bool {
    match statement {
        Statement::WaitFor(_)
        | Statement::Backup(_)
        | Statement::VacuumArchive(_)
        | Statement::Flush => true,
        Statement::Copy(copy) => match &copy.subject {
            CopySubject::Relation { .. } => true,
            CopySubject::Statement(inner) => only_reads(inner),
            CopySubject::From { .. } => false,
        },
        statement => statement.only_returns_rows(),
    }
}

/// Subscriptions have no end that a timeout could wait for.
fn endless(statement: &Statement) -> bool {
    match statement {
        Statement::Subscribe(_) => true,
        Statement::Copy(copy) => {
            matches!(&copy.subject, CopySubject::Statement(inner) if endless(inner))
        }
        _ => false,
    }
}

fn panicked(_cause: Box<dyn Any + Send>) -> Report {
    // The cause may quote user data; the panic hook has logged it with its place.
    report("XX000", "internal error while running the statement")
}

/// Awaits a future; a panic in it fails only its statement.
pub(super) async fn contained<F: Future>(future: F) -> Result<F::Output, Report> {
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .map_err(panicked)
}

/// Calls a function; a panic in it fails only its statement.
pub(super) fn contained_call<T>(function: impl FnOnce() -> Result<T, Report>) -> Result<T, Report> {
    catch_unwind(AssertUnwindSafe(function)).map_err(panicked)?
}
