//! The sink that writes its rows to the server log.
//!
//! Invariant: one log line per row, bounded in length and free of control characters, so data cannot forge log lines.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;

use crate::blackhole::row_count;
use crate::delta::{Delta, EpochInfo};
use crate::error::ConnectorError;
use crate::sink::Sink;

/// Characters of a row that reach the log.
const LINE_CHARS_MAX: usize = 200;
/// Rows of one epoch that reach the log; the rest is only counted.
const ROWS_PER_EPOCH_MAX: usize = 1000;

/// Logs every row with its weight.
#[derive(Debug)]
pub struct PrintSink {
    name: String,
    rows: u64,
}

impl PrintSink {
    /// A print sink whose lines carry the sink's name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rows: 0,
        }
    }
}

#[async_trait]
impl Sink for PrintSink {
    async fn write(&mut self, epoch: EpochInfo, changes: &[Delta]) -> Result<(), ConnectorError> {
        let lines = changes
            .iter()
            .flat_map(|delta| (0..delta.num_rows()).map(move |row| (delta, row)));
        for (delta, row) in lines.take(ROWS_PER_EPOCH_MAX) {
            let text = row_text(delta, row);
            let weight = delta.weights.at(row);
            tracing::info!(sink = %self.name, epoch = epoch.epoch.0, weight, row = %text, "print");
        }
        let printed = changes.iter().map(Delta::num_rows).sum::<usize>();
        if printed > ROWS_PER_EPOCH_MAX {
            let left_out = printed - ROWS_PER_EPOCH_MAX;
            tracing::info!(sink = %self.name, epoch = epoch.epoch.0, left_out, "print");
        }
        self.rows = self.rows.saturating_add(row_count(changes));
        Ok(())
    }

    fn rows_written(&self) -> u64 {
        self.rows
    }
}

/// A row as `{a: 1, b: NULL}`, escaped and cut.
fn row_text(delta: &Delta, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let schema = delta.batch.schema();
    let mut text = String::from("{");
    for (field, column) in schema.fields().iter().zip(delta.batch.columns()) {
        if text.len() > LINE_CHARS_MAX * 4 {
            break;
        }
        if text.len() > 1 {
            text.push_str(", ");
        }
        text.push_str(field.name());
        text.push_str(": ");
        match ArrayFormatter::try_new(column.as_ref(), &options) {
            Ok(formatter) => text.push_str(&formatter.value(row).to_string()),
            Err(_) => text.push('?'),
        }
    }
    text.push('}');
    crate::format::excerpt(&text, LINE_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::record_batch::RecordBatch;

    use super::*;

    fn delta(text: &str) -> Delta {
        let batch = RecordBatch::try_from_iter([
            (
                "n",
                Arc::new(Int64Array::from(vec![None])) as arrow::array::ArrayRef,
            ),
            (
                "t",
                Arc::new(StringArray::from(vec![text])) as arrow::array::ArrayRef,
            ),
        ])
        .expect("two columns of one row");
        Delta::delete(batch)
    }

    #[test]
    fn a_row_is_one_bounded_line() {
        assert_eq!(row_text(&delta("x"), 0), "{n: NULL, t: x}");
        assert_eq!(row_text(&delta("a\nb"), 0), "{n: NULL, t: a\\nb}");
        assert!(row_text(&delta(&"é".repeat(100_000)), 0).chars().count() <= LINE_CHARS_MAX + 3);
    }

    #[test]
    fn deletions_count_as_rows() {
        assert_eq!(row_count(&[delta("x"), delta("y")]), 2);
    }
}
