//! The extended query protocol: Parse, Bind, Describe, Execute, Close.
//!
//! Invariant: what Execute sends has the types that Describe told; a statement whose result type has changed since fails
//! with 0A000 instead of sending other rows than were announced.

use bytes::Bytes;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete,
    PortalSuspended, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse};
use thalweg_catalog::SqlType;
use thalweg_planner::OutputColumn;
use thalweg_sql::{SessionStatement, Statement};

use super::connection::{Connection, Failure, contained_call};
use super::decode::{ParameterContext, parameter};
use super::describe::{row_description, visible};
use super::encode::{Format, Zone};
use super::error::{report, violation};
use super::frames::encode;
use super::prepared::{Portal, PortalState, Prepared};
use super::rows::{Rows, Sent};
use super::wire::Interrupts;
use crate::frontend::{Outcome, Parsed, Report, TransactionStatus};

const UNKNOWN_OID: u32 = 705;

impl Connection<'_> {
    pub(super) fn parse(&mut self, message: Parse) -> Result<(), Failure> {
        let name = message.name.unwrap_or_default();
        if name.is_empty() {
            self.statements.remove("");
        }
        self.statements
            .admit(&name, message.query.len(), &self.limits)?;
        let declared = message
            .type_oids
            .iter()
            .map(|&oid| declared_type(oid))
            .collect::<Result<Vec<_>, _>>()?;
        let mut parsed = contained_call(|| self.backend.parse(&message.query))?;
        if parsed.len() > 1 {
            return Err(report(
                "42601",
                "cannot insert multiple commands into a prepared statement",
            )
            .into());
        }
        let prepared = match parsed.pop() {
            None => Prepared {
                parsed: None,
                parameters: named(&declared),
                columns: None,
            },
            Some(parsed) => {
                self.check_block(&parsed)?;
                if let Some(columns) = self.executed_columns(&parsed.statement) {
                    let prepared = Prepared {
                        parsed: Some(parsed),
                        ..columns?
                    };
                    self.statements.insert(name, prepared);
                    encode(&mut self.output.buffer, &ParseComplete::new());
                    return Ok(());
                }
                let description = contained_call(|| self.backend.describe(&parsed, &declared))
                    .map_err(|mut report| {
                        report.position = report.position.map(|position| position + parsed.start);
                        report
                    })?;
                let parameters = described(description.parameters, &declared);
                Prepared {
                    parsed: Some(parsed),
                    parameters,
                    columns: description.columns,
                }
            }
        };
        self.statements.insert(name, prepared);
        encode(&mut self.output.buffer, &ParseComplete::new());
        Ok(())
    }

    /// In a failed block only statements that end it get through; telling at Parse saves the client a round trip.
    pub(super) fn check_block(&self, parsed: &Parsed) -> Result<(), Report> {
        let ends = matches!(
            &parsed.statement,
            Statement::Session(
                SessionStatement::Commit
                    | SessionStatement::Rollback
                    | SessionStatement::RollbackTo(_)
            )
        );
        if self.backend.transaction_status() == TransactionStatus::Failed && !ends {
            let message =
                "current transaction is aborted, commands ignored until end of transaction block";
            return Err(report("25P02", message));
        }
        Ok(())
    }

    pub(super) fn bind(&mut self, message: Bind) -> Result<(), Failure> {
        let statement_name = message.statement_name.as_deref().unwrap_or_default();
        let Some(prepared) = self.statements.get(statement_name).cloned() else {
            return Err(no_statement(statement_name).into());
        };
        if let Some(parsed) = &prepared.parsed {
            self.check_block(parsed)?;
        }
        let name = message.portal_name.clone().unwrap_or_default();
        if name.is_empty() {
            self.portals.remove("");
        }
        let bytes = message.parameters.iter().flatten().map(Bytes::len).sum();
        self.portals.admit(&name, bytes, &self.limits)?;
        let zone = Zone::named(self.backend.setting("TimeZone").as_deref().unwrap_or("UTC"));
        let parameters = bound_parameters(&message, &prepared, statement_name, &zone)?;
        let columns = prepared.columns.as_ref().map(Vec::len);
        let formats = result_formats(&message.result_column_format_codes, columns)?;
        self.portals.insert(
            name,
            Portal {
                prepared,
                parameters,
                formats,
                state: PortalState::Bound,
                bytes,
            },
        );
        encode(&mut self.output.buffer, &BindComplete::new());
        Ok(())
    }

    pub(super) fn describe(&mut self, message: &Describe) -> Result<(), Failure> {
        let name = message.name.as_deref().unwrap_or_default();
        let (prepared, formats) = if message.target_type == TARGET_TYPE_BYTE_STATEMENT {
            let prepared = self
                .statements
                .get(name)
                .ok_or_else(|| no_statement(name))?;
            let types = prepared
                .parameters
                .iter()
                .map(|ty| visible(ty).oid())
                .collect();
            encode(&mut self.output.buffer, &ParameterDescription::new(types));
            let formats = vec![Format::Text; prepared.columns.as_ref().map_or(0, Vec::len)];
            (prepared, formats)
        } else {
            let Some(portal) = self.portals.get(name) else {
                // SQL's cursors are portals as well.
                let columns = self.backend.cursor_columns(name);
                let columns = columns.ok_or_else(|| no_portal(name))?;
                let formats = vec![Format::Text; columns.len()];
                encode(
                    &mut self.output.buffer,
                    &row_description(&columns, &formats),
                );
                return Ok(());
            };
            (&portal.prepared, portal.formats.clone())
        };
        match &prepared.columns {
            Some(columns) => encode(&mut self.output.buffer, &row_description(columns, &formats)),
            None => encode(&mut self.output.buffer, &NoData::new()),
        }
        Ok(())
    }

    pub(super) async fn execute(&mut self, message: &Execute) -> Result<(), Failure> {
        let name = message.name.clone().unwrap_or_default();
        let mut portal = self.portals.take(&name).ok_or_else(|| no_portal(&name))?;
        // As in Postgres, no positive number means no limit.
        let limit = u64::try_from(message.max_rows)
            .ok()
            .filter(|&limit| limit > 0);
        let prepared = portal.prepared.clone();
        let Some(parsed) = &prepared.parsed else {
            encode(&mut self.output.buffer, &EmptyQueryResponse::new());
            self.portals.insert(name, portal);
            return Ok(());
        };
        self.execute_portal(&name, &mut portal, parsed, limit)
            .await?;
        // A portal that failed is gone; one that went well stays until Close, Sync or the end of its block.
        self.portals.insert(name, portal);
        Ok(())
    }

    async fn execute_portal(
        &mut self,
        name: &str,
        portal: &mut Portal,
        parsed: &Parsed,
        limit: Option<u64>,
    ) -> Result<(), Failure> {
        let (_running, interrupts) = self.interruptible(&parsed.statement);
        let mut rows = match std::mem::replace(&mut portal.state, PortalState::CommandDone) {
            PortalState::Suspended(rows) => rows,
            PortalState::RowsDone => {
                portal.state = PortalState::RowsDone;
                encode(
                    &mut self.output.buffer,
                    &CommandComplete::new("SELECT 0".to_owned()),
                );
                return Ok(());
            }
            PortalState::CommandDone => {
                return Err(report("55000", format!("portal \"{name}\" cannot be run")).into());
            }
            PortalState::Bound => {
                let parameters = std::mem::take(&mut portal.parameters);
                // What is followed by more than a Sync stands or falls with it.
                if changes(&parsed.statement) && !self.input.sync_is_next() {
                    self.backend.begin_implicit();
                }
                let types = &portal.prepared.parameters;
                let outcome = self
                    .run_bound(parsed, types, parameters, &interrupts)
                    .await?;
                self.put_notices();
                let outcome = match outcome {
                    Outcome::CopyOut {
                        columns,
                        stream,
                        options,
                    } => Outcome::Command {
                        tag: self
                            .copy_out(&columns, stream, &options, &interrupts)
                            .await?,
                    },
                    Outcome::CopyIn(copy) => Outcome::Command {
                        tag: self.copy_in(&copy, &interrupts).await?,
                    },
                    other => other,
                };
                match self.opened(portal, outcome)? {
                    Some(rows) => rows,
                    None => return Ok(()),
                }
            }
        };
        let sent = self.send_rows(&mut rows, limit, &interrupts).await?;
        self.put_notices();
        match sent {
            Sent::Suspended => {
                portal.state = PortalState::Suspended(rows);
                encode(&mut self.output.buffer, &PortalSuspended::new());
            }
            Sent::All { tag } => {
                portal.state = PortalState::RowsDone;
                encode(&mut self.output.buffer, &CommandComplete::new(tag));
            }
        }
        Ok(())
    }

    /// Runs a statement; PREPARE and EXECUTE by what this connection has prepared.
    async fn run_bound(
        &mut self,
        parsed: &Parsed,
        types: &[SqlType],
        parameters: Vec<datafusion::common::ScalarValue>,
        interrupts: &Interrupts,
    ) -> Result<Outcome, Failure> {
        match &parsed.statement {
            Statement::Prepare(prepare) => {
                self.prepare_sql(prepare)?;
                Ok(Outcome::Command {
                    tag: "PREPARE".into(),
                })
            }
            Statement::Execute(execute) => {
                let (inner, types, parameters) = self.executed(execute, interrupts).await?;
                self.run(&inner, &types, parameters, interrupts).await
            }
            _ => self.run(parsed, types, parameters, interrupts).await,
        }
    }

    /// The rows of an outcome, or `None` when its end has been told already.
    fn opened(&mut self, portal: &Portal, outcome: Outcome) -> Result<Option<Box<Rows>>, Report> {
        match outcome {
            Outcome::Empty => encode(&mut self.output.buffer, &EmptyQueryResponse::new()),
            Outcome::Command { tag } => encode(&mut self.output.buffer, &CommandComplete::new(tag)),
            Outcome::CopyOut { .. } | Outcome::CopyIn(_) => {}
            Outcome::Rows {
                columns,
                stream,
                tag,
            } => {
                if !same_types(portal.prepared.columns.as_deref(), &columns) {
                    return Err(report("0A000", "cached plan must not change result type"));
                }
                return Ok(Some(Box::new(Rows::new(
                    &columns,
                    portal.formats.clone(),
                    stream,
                    tag,
                ))));
            }
        }
        Ok(None)
    }

    /// Closing what does not exist is no error.
    pub(super) fn close(&mut self, message: &Close) {
        let name = message.name.as_deref().unwrap_or_default();
        if message.target_type == TARGET_TYPE_BYTE_STATEMENT {
            self.statements.remove(name);
        } else {
            self.portals.remove(name);
        }
        encode(&mut self.output.buffer, &CloseComplete::new());
    }
}

/// True for statements that a transaction can take back.
fn changes(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Truncate(_)
            | Statement::Execute(_)
            | Statement::CreateTable(_)
            | Statement::CreateArchive(_)
            | Statement::CreateView(_)
            | Statement::CreateSchema { .. }
            | Statement::Drop(_)
    )
}

pub(super) fn no_statement(name: &str) -> Report {
    match name {
        "" => report("26000", "unnamed prepared statement does not exist"),
        name => report(
            "26000",
            format!("prepared statement \"{name}\" does not exist"),
        ),
    }
}

fn no_portal(name: &str) -> Report {
    report("34000", format!("portal \"{name}\" does not exist"))
}

/// Type a client fixed for a parameter; `None` leaves it to inference.
fn declared_type(oid: u32) -> Result<Option<SqlType>, Report> {
    if matches!(oid, 0 | UNKNOWN_OID) {
        return Ok(None);
    }
    let ty = SqlType::parse_oid(oid);
    ty.map(Some)
        .ok_or_else(|| report("42704", format!("type with OID {oid} does not exist")))
}

fn named(declared: &[Option<SqlType>]) -> Vec<SqlType> {
    declared
        .iter()
        .map(|ty| ty.clone().unwrap_or(SqlType::Text))
        .collect()
}

/// A client may declare more parameters than the text uses, and binds as many as it declared.
pub(super) fn described(mut inferred: Vec<SqlType>, declared: &[Option<SqlType>]) -> Vec<SqlType> {
    if inferred.len() < declared.len() {
        inferred.extend(named(&declared[inferred.len()..]));
    }
    inferred
}

fn same_types(described: Option<&[OutputColumn]>, columns: &[OutputColumn]) -> bool {
    described.is_some_and(|described| {
        described.len() == columns.len()
            && described
                .iter()
                .zip(columns)
                .all(|(a, b)| visible(&a.ty).oid() == visible(&b.ty).oid())
    })
}

/// Spreads 0, 1 or `count` format codes over `count` values.
fn spread_formats(codes: &[i16], count: usize) -> Result<Option<Vec<Format>>, Report> {
    let formats = codes
        .iter()
        .map(|&code| Format::from_code(code))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(match formats[..] {
        [] => Some(vec![Format::Text; count]),
        [one] => Some(vec![one; count]),
        _ if formats.len() == count => Some(formats),
        _ => None,
    })
}

/// Formats of the result; a statement without rows ignores them, as in Postgres.
fn result_formats(codes: &[i16], columns: Option<usize>) -> Result<Vec<Format>, Report> {
    let Some(count) = columns else {
        return Ok(Vec::new());
    };
    spread_formats(codes, count)?.ok_or_else(|| {
        violation(format!(
            "bind message has {} result formats but query has {count} columns",
            codes.len()
        ))
    })
}

fn bound_parameters(
    message: &Bind,
    prepared: &Prepared,
    statement: &str,
    zone: &Zone,
) -> Result<Vec<datafusion::common::ScalarValue>, Report> {
    let count = message.parameters.len();
    let formats = spread_formats(&message.parameter_format_codes, count)?.ok_or_else(|| {
        let codes = message.parameter_format_codes.len();
        violation(format!(
            "bind message has {codes} parameter formats but {count} parameters"
        ))
    })?;
    if count != prepared.parameters.len() {
        return Err(violation(format!(
            "bind message supplies {count} parameters, but prepared statement \"{statement}\" requires {}",
            prepared.parameters.len()
        )));
    }
    let values = message
        .parameters
        .iter()
        .zip(&prepared.parameters)
        .zip(formats)
        .enumerate();
    values
        .map(|(index, ((value, ty), format))| {
            parameter(
                value.as_deref(),
                visible(ty),
                format,
                &ParameterContext {
                    number: index + 1,
                    zone,
                },
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_codes_are_none_one_or_all() {
        use Format::{Binary, Text};
        assert_eq!(spread_formats(&[], 2), Ok(Some(vec![Text, Text])));
        assert_eq!(
            spread_formats(&[1], 3),
            Ok(Some(vec![Binary, Binary, Binary]))
        );
        assert_eq!(spread_formats(&[1, 0], 2), Ok(Some(vec![Binary, Text])));
        assert_eq!(spread_formats(&[1], 0), Ok(Some(vec![])));
        assert_eq!(spread_formats(&[0, 0], 3), Ok(None));
        assert_eq!(spread_formats(&[0, 1], 1), Ok(None));
        assert_eq!(
            spread_formats(&[2], 1)
                .expect_err("no such format")
                .sqlstate,
            "22023"
        );
        assert_eq!(
            result_formats(&[1, 1], Some(3))
                .expect_err("too few")
                .sqlstate,
            "08P01"
        );
        assert_eq!(result_formats(&[1, 1], None), Ok(vec![]));
    }

    #[test]
    fn unknown_parameter_types_are_inferred_and_foreign_ones_refused() {
        assert_eq!(declared_type(0), Ok(None));
        assert_eq!(declared_type(705), Ok(None));
        assert_eq!(declared_type(23), Ok(Some(SqlType::Int4)));
        assert_eq!(
            declared_type(999_999).expect_err("no such type").sqlstate,
            "42704"
        );
    }
}
