//! JSON records to columns without a source around them, for benchmarks and fuzzers.
//!
//! Invariant: rows and faults are those of a source with the same columns.

use arrow::array::ArrayRef;
use thalweg_catalog::Column;

use super::{JsonDecoder, JsonOptions};
use crate::error::ConnectorError;
use crate::source::ColumnsRead;

/// Decodes JSON objects into columns.
#[derive(Debug)]
pub struct JsonRows {
    decoder: JsonDecoder,
}

impl JsonRows {
    /// A decoder with the default options.
    ///
    /// # Errors
    /// 42804 for a column of a type JSON has no form for.
    pub fn new(columns: &[Column]) -> Result<Self, ConnectorError> {
        let decoder = JsonDecoder::new(columns.iter(), JsonOptions::default())?;
        Ok(Self { decoder })
    }

    /// Says which columns will be read; the others are checked and come out as NULL.
    pub fn read_only(&mut self, columns: &ColumnsRead) {
        self.decoder.read_only(columns);
    }

    /// Appends a record's row.
    ///
    /// # Errors
    /// What is wrong with the record, in words; its row is there all the same, and to be left out.
    pub fn append(&mut self, record: &[u8]) -> Result<(), String> {
        self.decoder.decode(record).map_err(|fault| fault.message)
    }

    /// The columns so far; the decoder starts over.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        self.decoder.finish()
    }
}
