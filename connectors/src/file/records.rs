//! Records of a file: where each begins and ends, and the rows they become.
//!
//! Invariant: the end of a record depends on the bytes before it alone, so reading on from an offset gives what reading from the
//! start would.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use thalweg_catalog::Column;

use super::csv::{self, Header};
use super::{Format, unreadable};
use crate::error::ConnectorError;
use crate::format::{Fault, JsonDecoder, JsonOptions};

/// A longer record is a dead letter.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// What is next in a file.
pub(super) enum Next {
    /// A record without its line end, and where the next begins.
    Record(Vec<u8>, u64),
    /// A record that is too long or never ends, its beginning, and where the next begins.
    Broken(Vec<u8>, u64),
    /// Nothing that is complete.
    End,
}

/// A file being read from an offset on.
pub(super) struct Records {
    lines: BufReader<File>,
    pub(super) at: u64,
    /// Where the file ends for us; a record that reaches it is complete without a line end.
    end: Option<u64>,
    quotes: bool,
}

impl Records {
    pub(super) fn open(
        name: &str,
        path: &Path,
        at: u64,
        end: Option<u64>,
        format: Format,
    ) -> Result<Self, ConnectorError> {
        let open = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(at))?;
            Ok(file)
        };
        let file = open().map_err(|error| unreadable(name, &error))?;
        Ok(Self {
            lines: BufReader::with_capacity(1 << 18, file),
            at,
            end,
            quotes: matches!(format, Format::Csv { .. }),
        })
    }

    /// Takes the next record. After `End` the file has to be opened again at `at`.
    pub(super) fn next(&mut self) -> std::io::Result<Next> {
        let mut record = Vec::new();
        loop {
            let left = self.end.map_or(u64::MAX, |end| {
                end.saturating_sub(self.at + record.len() as u64)
            });
            let room = (RECORD_BYTES_MAX + 1).saturating_sub(record.len() as u64);
            let mut part = (&mut self.lines).take(left.min(room));
            let taken = part.read_until(b'\n', &mut record)?;
            let whole = record.ends_with(b"\n");
            if record.len() as u64 > RECORD_BYTES_MAX {
                return self.skip(record, whole);
            }
            let inside = self.quotes && quotes(&record) % 2 == 1;
            if whole && !inside {
                break;
            }
            if taken == 0 || !whole {
                // The bytes end here; only a file whose end is known can end without a line end.
                if self.end.is_none() || record.is_empty() {
                    return Ok(Next::End);
                }
                if inside {
                    let next = self.at + record.len() as u64;
                    self.at = next;
                    return Ok(Next::Broken(record, next));
                }
                break;
            }
        }
        self.at += record.len() as u64;
        for end in [b'\n', b'\r'] {
            if record.last() == Some(&end) {
                record.pop();
            }
        }
        Ok(Next::Record(record, self.at))
    }

    /// Passes over the rest of a record that is too long, up to the end of its line.
    fn skip(&mut self, record: Vec<u8>, mut whole: bool) -> std::io::Result<Next> {
        let mut next = self.at + record.len() as u64;
        while !whole {
            let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(next));
            let mut rest = Vec::new();
            let mut part = (&mut self.lines).take(left.min(RECORD_BYTES_MAX));
            let taken = part.read_until(b'\n', &mut rest)?;
            if taken == 0 && self.end.is_none() {
                return Ok(Next::End);
            }
            next += taken as u64;
            whole = taken == 0 || rest.ends_with(b"\n");
        }
        self.at = next;
        Ok(Next::Broken(record, next))
    }
}

fn quotes(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'"').count()
}

/// Where the last complete record of a growing file ends.
pub(super) fn last_record_end(path: &Path, format: Format) -> Result<u64, ConnectorError> {
    let name = path.display().to_string();
    let mut records = Records::open(&name, path, 0, None, format)?;
    loop {
        match records.next().map_err(|error| unreadable(&name, &error))? {
            Next::End => return Ok(records.at),
            Next::Record(..) | Next::Broken(..) => {}
        }
    }
}

/// The first record of a CSV file as its header.
pub(super) fn header(
    name: &str,
    path: &Path,
    delimiter: u8,
    end: Option<u64>,
    columns: &[&Column],
) -> Result<Option<Header>, ConnectorError> {
    let format = Format::Csv {
        header: true,
        delimiter,
    };
    let mut records = Records::open(name, path, 0, end, format)?;
    match records.next().map_err(|error| unreadable(name, &error))? {
        Next::Record(record, _) => Header::by_name(&record, delimiter, columns)
            .map(Some)
            .map_err(|fault| ConnectorError::File {
                path: name.to_owned(),
                detail: format!("The header cannot be read: {}.", fault.message),
            }),
        Next::Broken(..) => Err(ConnectorError::File {
            path: name.to_owned(),
            detail: "The header has no end.".into(),
        }),
        Next::End => Ok(None),
    }
}

/// Builds batches in the source's column order.
#[derive(Debug)]
pub(super) struct RowBuilder {
    schema: SchemaRef,
    json: JsonDecoder,
    columns: Vec<Column>,
    keep: Vec<bool>,
}

impl RowBuilder {
    pub(super) fn new(columns: &[Column], options: JsonOptions) -> Result<Self, ConnectorError> {
        let json = JsonDecoder::new(in_payload(columns), options)?;
        let field = |column: &Column| {
            let nullable = !column.not_null || column.generated.is_some();
            column.ty.field(&column.name, nullable)
        };
        Ok(Self {
            schema: Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())),
            json,
            columns: columns.to_vec(),
            keep: Vec::new(),
        })
    }

    /// Columns that a line gives.
    pub(super) fn given(&self) -> Vec<&Column> {
        in_payload(&self.columns).collect()
    }

    /// Appends a record; what is wrong when it cannot become a row.
    pub(super) fn append(
        &mut self,
        record: &[u8],
        format: Format,
        header: Option<&Header>,
    ) -> Result<(), Fault> {
        let outcome = match (format, header) {
            (Format::Csv { delimiter, .. }, Some(header)) => {
                csv::to_json(record, delimiter, header, &self.given())
            }
            _ => Ok(record.to_vec()),
        };
        let outcome = match outcome {
            Ok(json) => self.json.decode(&json),
            Err(fault) => {
                self.json.append_null_row();
                Err(fault)
            }
        };
        self.keep.push(outcome.is_ok());
        outcome
    }

    /// The good rows so far; the builder starts over.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ConnectorError> {
        let keep = std::mem::take(&mut self.keep);
        let mut given = self.json.finish().into_iter();
        let columns = self.columns.iter().map(|column| {
            let absent = || arrow::array::new_null_array(&column.ty.arrow(), keep.len());
            match column.generated {
                Some(_) => Some(absent()),
                None => given.next(),
            }
        });
        let columns = columns.collect::<Option<Vec<_>>>();
        let columns =
            columns.ok_or_else(|| ConnectorError::Internal("a column has no values".into()))?;
        // Bad rows hold NULLs in NOT NULL columns, so the promise is made only after they are gone.
        let nullable = self.schema.fields().iter();
        let nullable = nullable.map(|field| field.as_ref().clone().with_nullable(true));
        let nullable = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        let good = || {
            let options = RecordBatchOptions::new().with_row_count(Some(keep.len()));
            let all = RecordBatch::try_new_with_options(nullable, columns, &options)?;
            let good = filter_record_batch(&all, &BooleanArray::from(keep.clone()))?;
            let options = RecordBatchOptions::new().with_row_count(Some(good.num_rows()));
            let columns = good.columns().to_vec();
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
        };
        good().map_err(|error: arrow::error::ArrowError| {
            ConnectorError::Internal(format!("decoded batch: {error}"))
        })
    }
}

fn in_payload(columns: &[Column]) -> impl Iterator<Item = &Column> + Clone {
    columns.iter().filter(|column| column.generated.is_none())
}
