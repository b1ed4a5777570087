//! PREPARE and EXECUTE: SQL's way to the prepared statements that the protocol has as well. They share their names.
//!
//! Invariant: EXECUTE runs the statement as it was prepared, with arguments of exactly the types that were found then.

use datafusion::common::ScalarValue;
use futures::StreamExt as _;
use thalweg_catalog::SqlType;
use thalweg_planner::Planner;
use thalweg_sql::{Execute, Prepare, Statement};

use super::connection::{Connection, Failure, contained, contained_call};
use super::describe::visible;
use super::error::report;
use super::extended::{described, no_statement};
use super::prepared::Prepared;
use super::wire::Interrupts;
use crate::frontend::{Outcome, Parsed, Report};

impl Connection<'_> {
    /// PREPARE.
    pub(super) fn prepare_sql(&mut self, prepare: &Prepare) -> Result<(), Report> {
        self.statements
            .admit(&prepare.name, prepare.text.len(), &self.limits)?;
        let declared = prepare
            .types
            .iter()
            .map(|ty| {
                SqlType::from_ast(ty)
                    .map(Some)
                    .map_err(|error| error.report())
            })
            .collect::<Result<Vec<_>, _>>()?;
        // Places in later errors are those of the statement alone.
        let parsed = contained_call(|| self.backend.parse(&prepare.text))?.pop();
        let Some(parsed) = parsed else {
            return Err(report("42601", "the prepared statement is empty"));
        };
        let description = contained_call(|| self.backend.describe(&parsed, &declared))?;
        let prepared = Prepared {
            parsed: Some(parsed),
            parameters: described(description.parameters, &declared),
            columns: description.columns,
        };
        self.statements.insert(prepare.name.clone(), prepared);
        Ok(())
    }

    /// What EXECUTE runs, with which parameters.
    pub(super) async fn executed(
        &mut self,
        execute: &Execute,
        interrupts: &Interrupts,
    ) -> Result<(Parsed, Vec<SqlType>, Vec<ScalarValue>), Failure> {
        let Some(prepared) = self.statements.get(&execute.name).cloned() else {
            return Err(no_statement(&execute.name).into());
        };
        let Some(parsed) = &prepared.parsed else {
            return Err(report("42601", "the prepared statement is empty").into());
        };
        let (given, wanted) = (execute.arguments.len(), prepared.parameters.len());
        if given != wanted {
            let mut wrong = report(
                "42601",
                format!(
                    "wrong number of parameters for prepared statement \"{}\"",
                    execute.name
                ),
            );
            wrong.detail = Some(format!("Expected {wanted} parameters but got {given}."));
            return Err(wrong.into());
        }
        if wanted == 0 {
            return Ok((parsed.clone(), Vec::new(), Vec::new()));
        }
        let arguments: Vec<String> = execute
            .arguments
            .iter()
            .zip(&prepared.parameters)
            .map(|(argument, ty)| format!("CAST(({argument}) AS {})", visible(ty)))
            .collect();
        let text = format!("SELECT {}", arguments.join(", "));
        let values = self.one_row(&text, interrupts).await?;
        Ok((parsed.clone(), prepared.parameters.clone(), values))
    }

    /// The values of a query's only row.
    async fn one_row(
        &mut self,
        text: &str,
        interrupts: &Interrupts,
    ) -> Result<Vec<ScalarValue>, Failure> {
        let Some(query) = contained_call(|| self.backend.parse(text))?.pop() else {
            return Err(report("42601", "the arguments are empty").into());
        };
        let outcome = interrupts
            .guard(
                self.input,
                contained(self.backend.execute(&query, Vec::new())),
            )
            .await???;
        let Outcome::Rows { mut stream, .. } = outcome else {
            return Err(report("XX000", "arguments without values").into());
        };
        loop {
            let next = interrupts.guard(self.input, stream.next()).await?;
            let batch = match next {
                Some(batch) => batch.map_err(|error| Planner::classify(&error))?,
                None => return Err(report("XX000", "arguments without values").into()),
            };
            if batch.num_rows() == 0 {
                continue;
            }
            let values = batch
                .columns()
                .iter()
                .map(|column| ScalarValue::try_from_array(column, 0))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| Planner::classify(&error))?;
            return Ok(values);
        }
    }

    /// Result columns that a statement about a prepared one has; `None` when it is no such statement.
    pub(super) fn executed_columns(
        &self,
        statement: &Statement,
    ) -> Option<Result<Prepared, Report>> {
        match statement {
            Statement::Execute(execute) => Some(match self.statements.get(&execute.name) {
                Some(prepared) => Ok(Prepared {
                    parsed: None,
                    parameters: Vec::new(),
                    columns: prepared.columns.clone(),
                }),
                None => Err(no_statement(&execute.name)),
            }),
            Statement::Prepare(_) => Some(Ok(Prepared {
                parsed: None,
                parameters: Vec::new(),
                columns: None,
            })),
            _ => None,
        }
    }
}
