//! Small result sets made in memory: SHOW, EXPLAIN, DESCRIBE and RETURNING.
//!
//! Invariant: the batch has one column per output column, of that column's Arrow type.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringViewArray};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;
use thalweg_catalog::SqlType;
use thalweg_planner::OutputColumn;

use super::{Outcome, RowTag};

/// Output columns of type text.
pub(super) fn text_columns(names: &[&str]) -> Vec<OutputColumn> {
    names
        .iter()
        .map(|name| OutputColumn {
            name: (*name).to_owned(),
            ty: SqlType::Text,
            origin: None,
        })
        .collect()
}

/// Arrow schema of output columns.
pub(crate) fn schema(columns: &[OutputColumn]) -> SchemaRef {
    Arc::new(Schema::new(
        columns
            .iter()
            .map(|column| column.ty.field(&column.name, true))
            .collect::<Vec<_>>(),
    ))
}

/// A finished stream over batches that are already there.
pub(super) fn stream(
    columns: &[OutputColumn],
    batches: Vec<RecordBatch>,
) -> SendableRecordBatchStream {
    let schema = batches
        .first()
        .map_or_else(|| schema(columns), RecordBatch::schema);
    Box::pin(RecordBatchStreamAdapter::new(
        schema,
        stream::iter(batches.into_iter().map(Ok)),
    ))
}

/// A result of text columns.
pub(super) fn text(names: &[&str], rows: Vec<Vec<Option<String>>>, tag: &str) -> Outcome {
    let columns = text_columns(names);
    let schema = schema(&columns);
    let arrays: Vec<ArrayRef> = (0..names.len())
        .map(|i| {
            let values = rows
                .iter()
                .map(|row| row.get(i).and_then(|value| value.as_deref()));
            Arc::new(values.collect::<StringViewArray>()) as ArrayRef
        })
        .collect();
    let batches = RecordBatch::try_new(schema, arrays).into_iter().collect();
    Outcome::Rows {
        stream: stream(&columns, batches),
        columns,
        tag: RowTag::Fixed(tag.to_owned()),
    }
}
