//! The simple query protocol: one text, any number of statements.
//!
//! Invariant: a statement's rows are sent before the next statement starts, and an error stops the rest of the text.

use pgwire::messages::response::{CommandComplete, EmptyQueryResponse};

use thalweg_sql::Statement;

use super::connection::{Connection, Failure, contained_call};
use super::describe::row_description;
use super::encode::Format;
use super::frames::encode;
use super::rows::{Rows, Sent};
use super::wire::End;
use crate::frontend::{Outcome, Parsed};

impl Connection<'_> {
    pub(super) async fn simple_query(&mut self, text: &str) -> Result<(), End> {
        // As in Postgres, a simple query replaces the unnamed statement and portal.
        self.statements.remove("");
        self.portals.remove("");
        match self.simple_statements(text).await {
            Ok(()) => {}
            Err(Failure::Report(report)) => self.put_failure(&report),
            Err(Failure::End(end)) => return Err(end),
        }
        self.ready().await
    }

    async fn simple_statements(&mut self, text: &str) -> Result<(), Failure> {
        let statements = contained_call(|| self.backend.parse(text))?;
        if statements.is_empty() {
            encode(&mut self.output.buffer, &EmptyQueryResponse::new());
        }
        for parsed in &statements {
            self.simple_statement(parsed)
                .await
                .map_err(|failure| in_whole_text(failure, parsed))?;
        }
        Ok(())
    }

    async fn simple_statement(&mut self, parsed: &Parsed) -> Result<(), Failure> {
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
            Outcome::Empty => {
                encode(&mut self.output.buffer, &EmptyQueryResponse::new());
                return Ok(());
            }
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
        self.put_notices();
        encode(&mut self.output.buffer, &CommandComplete::new(tag));
        Ok(())
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
