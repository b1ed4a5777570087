//! Values as Postgres prints them in error details.
//!
//! Invariant: printing never fails; a value that Arrow cannot print is shown as `?`.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// Longest value shown; Postgres cuts at 64 bytes too.
const VALUE_CHARS_MAX: usize = 64;

/// `(1, null, foo)` for one row.
pub(crate) fn row(columns: &[ArrayRef], row: usize) -> String {
    let values: Vec<String> = columns.iter().map(|column| value(column, row)).collect();
    format!("({})", values.join(", "))
}

/// `Key (a, b)=(1, 2)` for one row.
pub(crate) fn key(batch: &RecordBatch, positions: &[usize], at: usize) -> String {
    let schema = batch.schema();
    let names: Vec<&str> = positions
        .iter()
        .filter_map(|index| schema.fields().get(*index))
        .map(|field| field.name().as_str())
        .collect();
    let columns: Vec<ArrayRef> = positions
        .iter()
        .filter_map(|index| batch.columns().get(*index))
        .cloned()
        .collect();
    format!("Key ({})={}", names.join(", "), row(&columns, at))
}

fn value(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "null".into();
    }
    let text = match column.data_type() {
        DataType::Boolean => if column.as_boolean().value(row) {
            "t"
        } else {
            "f"
        }
        .to_string(),
        DataType::Binary => hex(column.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(16) => uuid(column.as_fixed_size_binary().value(row)),
        _ => {
            let options = FormatOptions::new()
                .with_null("null")
                .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
                .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:::z"));
            match ArrayFormatter::try_new(column, &options) {
                Ok(format) => format
                    .value(row)
                    .try_to_string()
                    .unwrap_or_else(|_| "?".into()),
                Err(_) => "?".into(),
            }
        }
    };
    if text.chars().count() > VALUE_CHARS_MAX {
        return text
            .chars()
            .take(VALUE_CHARS_MAX)
            .chain("...".chars())
            .collect();
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes
        .iter()
        .take(VALUE_CHARS_MAX)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("\\x{digits}")
}

fn uuid(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}
