//! Kafka messages to rows and dead letters.
//!
//! Invariant: every message with a payload becomes one row or one dead letter; a bad one leaves no trace in the rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Builder, Int64Builder, StringViewBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use base64::Engine;
use thalweg_catalog::{Column, ColumnRole, SqlType};

use super::ffi::Record;
use crate::error::ConnectorError;
use crate::format::{ColumnBuilder, Fault, JsonDecoder, JsonOptions};
use crate::source::{ColumnsRead, DeadLetter, RowPlace};

/// Bytes of payload and key kept with a dead letter; a larger record can be read again by its offset.
const DEAD_LETTER_BYTES_MAX: usize = 1 << 20;

/// Builds batches in a source's column order.
#[derive(Debug)]
pub(super) struct RowBuilder {
    schema: SchemaRef,
    json: JsonDecoder,
    parts: Vec<Part>,
    /// For every column of the source, where its array comes from.
    order: Vec<Origin>,
    /// Per appended row, whether it is good.
    keep: Vec<bool>,
    /// Where the good rows came from.
    places: Vec<RowPlace>,
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    Json(usize),
    Part(usize),
    /// A generated column: the engine computes it, so here it is NULL.
    Absent,
}

/// An INCLUDE column being built.
#[derive(Debug)]
enum Part {
    Key(ColumnBuilder),
    Payload(ColumnBuilder),
    Header { name: String, values: ColumnBuilder },
    Headers(StringViewBuilder),
    Partition(Int32Builder),
    Offset(Int64Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl RowBuilder {
    /// A builder for these columns.
    ///
    /// # Errors
    /// 42804 for a column that cannot hold what it is declared to hold.
    pub(super) fn new(columns: &[Column], options: JsonOptions) -> Result<Self, ConnectorError> {
        let in_payload =
            |column: &&Column| column.role == ColumnRole::Data && column.generated.is_none();
        let json = JsonDecoder::new(columns.iter().filter(in_payload), options)?;
        let (mut parts, mut order, mut json_columns) = (Vec::new(), Vec::new(), 0);
        for column in columns {
            if column.generated.is_some() {
                order.push(Origin::Absent);
            } else if let Some(part) = Part::new(column, options)? {
                order.push(Origin::Part(parts.len()));
                parts.push(part);
            } else {
                order.push(Origin::Json(json_columns));
                json_columns += 1;
            }
        }
        let field = |column: &Column| {
            column
                .ty
                .field(&column.name, !column.not_null || column.generated.is_some())
        };
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        Ok(Self {
            schema,
            json,
            parts,
            order,
            keep: Vec::new(),
            places: Vec::new(),
        })
    }

    /// What is read of the rows from here on.
    pub(super) fn read_only(&mut self, columns: &ColumnsRead) {
        self.json.read_only(columns);
    }

    /// Appends a record with its payload; the dead letter when it cannot become a row.
    pub(super) fn append(
        &mut self,
        topic: &str,
        record: &Record<'_>,
        payload: &[u8],
        now_us: i64,
    ) -> Option<DeadLetter> {
        let mut outcome = self.json.decode(payload);
        for part in &mut self.parts {
            outcome = outcome.and(part.append(record));
        }
        self.keep.push(outcome.is_ok());
        match outcome {
            Ok(()) => {
                self.places.push(RowPlace {
                    partition: record.partition(),
                    offset: record.offset(),
                });
                None
            }
            Err(fault) => Some(dead_letter(topic, record, fault, now_us)),
        }
    }

    /// The good rows so far and where they came from; the builder starts over.
    pub(super) fn finish(&mut self) -> Result<(RecordBatch, Vec<RowPlace>), ConnectorError> {
        let places = std::mem::take(&mut self.places);
        let keep = std::mem::take(&mut self.keep);
        let rows = keep.len();
        let json = self.json.finish();
        let parts: Vec<ArrayRef> = self.parts.iter_mut().map(Part::finish).collect();
        let columns = self
            .order
            .iter()
            .zip(self.schema.fields())
            .map(|(origin, field)| match origin {
                Origin::Json(index) => json.get(*index).cloned(),
                Origin::Part(index) => parts.get(*index).cloned(),
                Origin::Absent => Some(arrow::array::new_null_array(field.data_type(), rows)),
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| ConnectorError::Internal("a column has no values".into()))?;
        self.good_rows(columns, keep)
            .map(|rows| (rows, places))
            .map_err(|error| ConnectorError::Internal(format!("decoded batch: {error}")))
    }

    fn good_rows(
        &self,
        columns: Vec<ArrayRef>,
        keep: Vec<bool>,
    ) -> Result<RecordBatch, arrow::error::ArrowError> {
        let options = RecordBatchOptions::new().with_row_count(Some(keep.len()));
        if keep.iter().all(|good| *good) {
            return RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options);
        }
        // Bad rows hold NULLs in NOT NULL columns, so the promise is made only after they are gone.
        let nullable = self
            .schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true));
        let nullable = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        let all = RecordBatch::try_new_with_options(nullable, columns, &options)?;
        let good = filter_record_batch(&all, &BooleanArray::from(keep))?;
        let options = RecordBatchOptions::new().with_row_count(Some(good.num_rows()));
        RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            good.columns().to_vec(),
            &options,
        )
    }
}

impl Part {
    /// The builder of an INCLUDE column; `None` for a column of the payload.
    fn new(column: &Column, options: JsonOptions) -> Result<Option<Self>, ConnectorError> {
        let bytes = || ColumnBuilder::new(&column.name, &column.ty, options);
        let part = match (&column.role, &column.ty) {
            (ColumnRole::Data, _) => return Ok(None),
            (ColumnRole::Key, SqlType::Bytea | SqlType::Text) => Part::Key(bytes()?),
            (ColumnRole::Payload, SqlType::Bytea | SqlType::Text) => Part::Payload(bytes()?),
            (ColumnRole::Header(name), SqlType::Bytea | SqlType::Text) => Part::Header {
                name: name.clone(),
                values: bytes()?,
            },
            (ColumnRole::Headers, SqlType::Jsonb) => Part::Headers(StringViewBuilder::new()),
            (ColumnRole::Partition, SqlType::Int4) => Part::Partition(Int32Builder::new()),
            (ColumnRole::Offset, SqlType::Int8) => Part::Offset(Int64Builder::new()),
            (ColumnRole::Timestamp, SqlType::Timestamptz) => Part::Timestamp(
                TimestampMicrosecondBuilder::new().with_data_type(column.ty.arrow()),
            ),
            _ => {
                return Err(ConnectorError::ColumnType {
                    message: format!(
                        "column \"{}\" of type {} cannot hold a part of a message",
                        column.name, column.ty
                    ),
                });
            }
        };
        Ok(Some(part))
    }

    fn append(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        match self {
            Part::Key(values) => values.append_bytes(record.key()).map(drop),
            Part::Payload(values) => values.append_bytes(record.payload()).map(drop),
            Part::Header { name, values } => {
                let headers = record.headers().unwrap_or_default();
                let header = headers.iter().find(|(header, _)| header == name);
                values
                    .append_bytes(header.and_then(|(_, value)| *value))
                    .map(drop)
            }
            Part::Headers(values) => {
                values.append_option(headers_json(record));
                Ok(())
            }
            Part::Partition(values) => {
                values.append_value(record.partition());
                Ok(())
            }
            Part::Offset(values) => {
                values.append_value(record.offset());
                Ok(())
            }
            Part::Timestamp(values) => {
                values.append_option(timestamp_us(record));
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Part::Key(values) | Part::Payload(values) | Part::Header { values, .. } => {
                values.finish()
            }
            Part::Headers(values) => Arc::new(values.finish()),
            Part::Partition(values) => Arc::new(values.finish()),
            Part::Offset(values) => Arc::new(values.finish()),
            Part::Timestamp(values) => Arc::new(values.finish()),
        }
    }
}

fn timestamp_us(record: &Record<'_>) -> Option<i64> {
    record.timestamp_ms().and_then(|ms| ms.checked_mul(1000))
}

fn dead_letter(topic: &str, record: &Record<'_>, fault: Fault, now_us: i64) -> DeadLetter {
    let kept = |bytes: &[u8]| bytes.get(..DEAD_LETTER_BYTES_MAX).unwrap_or(bytes).to_vec();
    DeadLetter {
        reason: fault.reason.as_str().to_owned(),
        message: fault.message,
        topic: topic.to_owned(),
        partition: record.partition(),
        offset: record.offset(),
        key: record.key().map(kept),
        payload: record.payload().map(kept),
        headers: headers_json(record),
        at_us: timestamp_us(record).unwrap_or(now_us),
    }
}

/// Headers as a canonical JSON object: text where the value is text, base64 where it is not, null where there is none. Of
/// several headers with one name the last is kept.
fn headers_json(record: &Record<'_>) -> Option<String> {
    let headers = record.headers()?;
    let object: BTreeMap<&str, Option<String>> = headers
        .iter()
        .map(|(name, value)| (name.as_ref(), value.map(header_text)))
        .collect();
    serde_json::to_string(&object).ok()
}

fn header_text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => text.to_owned(),
        _ => base64::engine::general_purpose::STANDARD.encode(value),
    }
}
