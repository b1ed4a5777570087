//! Batches that clients put: parameters of prepared statements, and rows to ingest.
//!
//! Invariant: a value becomes one of exactly the type that the statement or table wants, or the call fails and says which it was;
//! an ingest takes effect as a whole or not at all.

use std::sync::Arc;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::CommandStatementIngest;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::sql::{TableExistsOption, TableNotExistOption};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::ScalarValue;
use futures::{StreamExt as _, TryStreamExt as _};
use thalweg_catalog::SqlType;
use thalweg_sql::{CopyOptions, Report, ast, quote_ident};

use crate::frontend::{CopyIn, Session};

/// Bytes of the batches of one call.
const PUT_BYTES_MAX: usize = 1 << 30;

/// Everything a client puts: its schema, and its batches.
pub(super) async fn batches(
    data: PeekableFlightDataStream,
) -> Result<(Option<SchemaRef>, Vec<RecordBatch>), Report> {
    let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
    let mut stream = FlightRecordBatchStream::new_from_flight_data(data);
    let (mut batches, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|error| Report::new("22P03", error.to_string()))?;
        bytes += batch.get_array_memory_size();
        if bytes > PUT_BYTES_MAX {
            let mut large = Report::new("53200", "the rows that were put take too much memory");
            large.hint = Some("Send them in several calls.".into());
            return Err(large);
        }
        batches.push(batch);
    }
    Ok((stream.schema().cloned(), batches))
}

/// Rows of parameters, each value of its parameter's type.
pub(super) fn parameters(
    batches: &[RecordBatch],
    types: &[SqlType],
) -> Result<Vec<Vec<ScalarValue>>, Report> {
    let mut rows = Vec::new();
    for batch in batches {
        if batch.num_columns() != types.len() {
            return Err(Report::new(
                "08P01",
                format!(
                    "{} parameters were bound, but the statement has {}",
                    batch.num_columns(),
                    types.len()
                ),
            ));
        }
        let columns = batch
            .columns()
            .iter()
            .zip(types)
            .enumerate()
            .map(|(index, (column, ty))| converted(column, ty, &format!("${}", index + 1)))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let values = columns
                .iter()
                .map(|column| ScalarValue::try_from_array(column, row))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| Report::new("XX000", error.to_string()))?;
            rows.push(values);
        }
    }
    Ok(rows)
}

/// A column in the layout of a type; a value that does not fit is an error, never NULL.
fn converted(column: &ArrayRef, ty: &SqlType, name: &str) -> Result<ArrayRef, Report> {
    let wanted = match ty {
        SqlType::Unknown => SqlType::Text.arrow(),
        ty => ty.arrow(),
    };
    if *column.data_type() == wanted {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, &wanted, &options).map_err(|error| {
        let mut report = Report::new(
            "22023",
            format!(
                "column \"{name}\" of type {} cannot be taken as {ty}",
                column.data_type()
            ),
        );
        report.detail = Some(error.to_string());
        report
    })
}

/// Schema that tells a client which parameters a statement has.
pub(super) fn parameter_schema(types: &[SqlType]) -> SchemaRef {
    let columns: Vec<_> = types
        .iter()
        .enumerate()
        .map(|(index, ty)| thalweg_planner::OutputColumn {
            name: format!("${}", index + 1),
            ty: match ty {
                SqlType::Unknown => SqlType::Text,
                ty => ty.clone(),
            },
            origin: None,
        })
        .collect();
    super::encode::schema(&columns)
}

/// CommandStatementIngest; returns the number of rows.
pub(super) async fn ingest(
    session: &mut Session,
    command: &CommandStatementIngest,
    data: PeekableFlightDataStream,
) -> Result<i64, Report> {
    let unbuilt = |what: &str| Report::new("0A000", format!("{what} is not supported"));
    if command.temporary {
        return Err(unbuilt("ingest into a temporary table"));
    }
    if command.transaction_id.is_some() {
        return Err(unbuilt("ingest in a transaction of the client"));
    }
    let (schema, batches) = batches(data).await?;
    let schema = schema.unwrap_or_else(|| Arc::new(Schema::empty()));
    session.begin_implicit();
    let ingested = ingest_into(session, command, &schema, &batches).await;
    if ingested.is_err() {
        session.fail_transaction();
    }
    let ended = session.end_implicit().await;
    let rows = ingested?;
    ended?;
    Ok(i64::try_from(rows).unwrap_or(i64::MAX))
}

async fn ingest_into(
    session: &mut Session,
    command: &CommandStatementIngest,
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> Result<u64, Report> {
    let names = [command.catalog.as_ref(), command.schema.as_ref()];
    let parts: Vec<ast::Ident> = names
        .into_iter()
        .flatten()
        .filter(|name| !name.is_empty())
        .chain([&command.table])
        .map(|name| ast::Ident::with_quote('"', name))
        .collect();
    let table = ast::ObjectName::from(parts);
    let columns: Vec<ast::Ident> = schema
        .fields()
        .iter()
        .map(|field| ast::Ident::with_quote('"', field.name()))
        .collect();
    let target = |session: &Session| session.copy_target(&table, &columns, CopyOptions::default());
    let options = command.table_definition_options.unwrap_or_default();
    let existing = target(session);
    let missing = matches!(&existing, Err(report) if report.sqlstate == "42P01");
    let replaced = options.if_exists == TableExistsOption::Replace as i32;
    let target = if missing {
        if options.if_not_exist != TableNotExistOption::Create as i32 {
            return existing.map(|_| 0);
        }
        create(session, &table, schema).await?;
        target(session)?
    } else if replaced {
        run(session, &format!("DROP TABLE {table}")).await?;
        create(session, &table, schema).await?;
        target(session)?
    } else if options.if_exists == TableExistsOption::Fail as i32 {
        let message = format!("relation \"{}\" already exists", command.table);
        return Err(Report::new("42P07", message));
    } else {
        existing?
    };
    let rows = batches
        .iter()
        .map(|batch| as_target(batch, &target))
        .collect::<Result<Vec<_>, _>>()?;
    session.copy_rows(&target, rows).await
}

async fn create(
    session: &mut Session,
    table: &ast::ObjectName,
    schema: &SchemaRef,
) -> Result<(), Report> {
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            let ty = match SqlType::from_field(field) {
                SqlType::Unknown => SqlType::Text,
                ty => ty,
            };
            format!("{} {ty}", quote_ident(field.name()))
        })
        .collect();
    run(
        session,
        &format!("CREATE TABLE {table} ({})", columns.join(", ")),
    )
    .await
}

async fn run(session: &mut Session, text: &str) -> Result<(), Report> {
    for parsed in session.parse(text)? {
        session.execute(&parsed, Vec::new()).await?;
    }
    Ok(())
}

fn as_target(batch: &RecordBatch, target: &CopyIn) -> Result<RecordBatch, Report> {
    let columns = batch
        .columns()
        .iter()
        .zip(&target.columns)
        .map(|(column, wanted)| converted(column, &wanted.ty, &wanted.name))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = crate::frontend::rows::schema(&target.columns);
    RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|error| Report::new("22023", error.to_string()))
}
