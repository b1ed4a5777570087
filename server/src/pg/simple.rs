//! The simple query protocol: one text, any number of statements.
//!
//! Invariant: a statement's rows are sent before the next statement starts; several statements are one transaction unless
//! they say otherwise themselves, so an error stops the rest of the text and takes back what came before it.

use pgwire::messages::response::{CommandComplete, EmptyQueryResponse};

use thalweg_sql::Statement;

use super::connection::{Connection, Failure, contained, contained_call};
use super::describe::row_description;
use super::encode::Format;
use super::frames::encode;
use super::rows::{Rows, Sent};
use super::wire::End;
use crate::frontend::{Outcome, Parsed, Report};

impl Connection<'_> {
    pub(super) async fn simple_query(&mut self, text: &str) -> Result<(), End> {
        // As in Postgres, a simple query replaces the unnamed statement and portal.
        self.statements.remove("");
        self.portals.remove("");
        match self.simple_statements(text).await {
            Ok(()) => {}
            Err(Failure::Report(report)) => {
                self.put_failure(&report);
                // Nothing but a block of BEGIN outlives the text; this one has failed, and leaves nothing.
                if let Err(report) = self.end_block().await {
                    self.put_failure(&report);
                }
            }
            Err(Failure::End(end)) => return Err(end),
        }
        self.ready().await
    }

    async fn end_block(&mut self) -> Result<(), Report> {
        contained(self.backend.end_implicit()).await.flatten()
    }

    async fn simple_statements(&mut self, text: &str) -> Result<(), Failure> {
        let statements = contained_call(|| self.backend.parse(text))?;
        if statements.is_empty() {
            encode(&mut self.output.buffer, &EmptyQueryResponse::new());
        }
        for (index, parsed) in statements.iter().enumerate() {
            if statements.len() > 1 {
                // After a COMMIT in the text another block begins.
                self.backend.begin_implicit();
            }
            let tag = self.simple_statement(parsed).await;
            let tag = tag.map_err(|failure| in_whole_text(failure, parsed))?;
            if index + 1 == statements.len() {
                // That the last statement is complete tells the client that all of them are durable.
                self.end_block().await?;
            }
            self.put_notices();
            match tag {
                Some(tag) => encode(&mut self.output.buffer, &CommandComplete::new(tag)),
                None => encode(&mut self.output.buffer, &EmptyQueryResponse::new()),
            }
        }
        Ok(())
    }

    /// Runs a statement and sends its rows; its tag, or `None` when it is empty.
    async fn simple_statement(&mut self, parsed: &Parsed) -> Result<Option<String>, Failure> {
        let (_running, interrupts) = self.interruptible(&parsed.statement);
        let outcome = match &parsed.statement {
            Statement::Prepare(prepare) => {
                self.check_block(parsed)?;
                self.prepare_sql(prepare)?;
                Outcome::Command {
                    tag: "PREPARE".into(),
                }
            }
            Statement::Execute(execute) => {
                self.check_block(parsed)?;
                let (inner, types, parameters) = self.executed(execute, &interrupts).await?;
                self.run(&inner, &types, parameters, &interrupts).await?
            }
            _ => self.run(parsed, &[], Vec::new(), &interrupts).await?,
        };
        self.put_notices();
        let tag = match outcome {
            Outcome::CopyOut {
                columns,
                stream,
                options,
            } => {
                self.copy_out(&columns, stream, &options, &interrupts)
                    .await?
            }
            Outcome::CopyIn(copy) => self.copy_in(&copy, &interrupts).await?,
            Outcome::Empty => return Ok(None),
            Outcome::Command { tag } => tag,
            Outcome::Rows {
                columns,
                stream,
                tag,
            } => {
                let formats = vec![Format::Text; columns.len()];
                encode(
                    &mut self.output.buffer,
                    &row_description(&columns, &formats),
                );
                let mut rows = Rows::new(&columns, formats, stream, tag);
                match self.send_rows(&mut rows, None, &interrupts).await? {
                    Sent::All { tag } => tag,
                    Sent::Suspended => return Err(End::Gone.into()),
                }
            }
        };
        Ok(Some(tag))
    }
}

/// Positions count from the start of the text the client sent, not of the statement in it.
fn in_whole_text(failure: Failure, parsed: &Parsed) -> Failure {
    match failure {
        Failure::Report(mut report) => {
            report.position = report.position.map(|position| position + parsed.start);
            Failure::Report(report)
        }
        end => end,
    }
}
