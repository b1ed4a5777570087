//! Results and errors as Flight carries them.
//!
//! Invariant: text leaves as Utf8, never as a view type, so that every Flight client can read it; the announced schema is
//! the schema of every batch.

use std::sync::Arc;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use thalweg_planner::{OutputColumn, Planner};
use thalweg_sql::Report;
use tonic::{Code, Status};

/// Flight schema of result columns.
pub(super) fn schema(columns: &[OutputColumn]) -> SchemaRef {
    let stored = crate::frontend::rows::schema(columns);
    let fields: Vec<Field> = stored
        .fields()
        .iter()
        .map(|field| portable_field(field))
        .collect();
    Arc::new(Schema::new(fields))
}

fn portable_field(field: &Field) -> Field {
    field.clone().with_data_type(portable(field.data_type()))
}

/// The type without view layouts, at any depth.
fn portable(ty: &DataType) -> DataType {
    match ty {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(Arc::new(portable_field(item))),
        DataType::LargeList(item) => DataType::LargeList(Arc::new(portable_field(item))),
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|field| portable_field(field))
                .collect::<Fields>(),
        ),
        other => other.clone(),
    }
}

fn convert(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, FlightError> {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast(column, field.data_type())
            }
        })
        .collect::<Result<_, _>>()?;
    let options = datafusion::arrow::record_batch::RecordBatchOptions::new()
        .with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// Encodes a result as it is pulled; the schema goes out before the first batch exists.
pub(super) fn stream(
    schema: SchemaRef,
    rows: SendableRecordBatchStream,
) -> impl Stream<Item = Result<arrow_flight::FlightData, Status>> + Send + 'static {
    let wanted = Arc::clone(&schema);
    let batches = rows.map(move |batch| match batch {
        Ok(batch) => convert(&batch, &wanted),
        Err(error) => Err(FlightError::Tonic(Box::new(status(&Planner::classify(
            &error,
        ))))),
    });
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .build(batches)
        .map_err(|error| match error {
            FlightError::Tonic(status) => *status,
            other => Status::internal(other.to_string()),
        })
}

/// A report as a gRPC status: the class of the SQLSTATE picks the code, the text keeps detail and hint.
pub(super) fn status(report: &Report) -> Status {
    let code = match report.sqlstate {
        "42P01" | "3D000" | "3F000" | "42704" => Code::NotFound,
        "42P07" | "42710" | "23505" => Code::AlreadyExists,
        "57014" => Code::Cancelled,
        "53200" | "53300" | "54000" | "54001" => Code::ResourceExhausted,
        "55000" => Code::Unavailable,
        "0A000" => Code::Unimplemented,
        "40001" => Code::Aborted,
        state if state.starts_with("XX") => Code::Internal,
        state if state.starts_with("28") => Code::Unauthenticated,
        _ => Code::InvalidArgument,
    };
    let mut text = format!("{} (SQLSTATE {})", report.message, report.sqlstate);
    for (label, line) in [("DETAIL", &report.detail), ("HINT", &report.hint)] {
        if let Some(line) = line {
            text.push_str(&format!("\n{label}: {line}"));
        }
    }
    let mut status = Status::new(code, text);
    if let Ok(value) = report.sqlstate.parse() {
        status.metadata_mut().insert("x-sqlstate", value);
    }
    status
}
