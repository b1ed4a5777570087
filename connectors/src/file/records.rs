//! Records of a file: where each begins and ends, and the rows they become.
//!
//! Invariant: the end of a record depends on the bytes before it alone, so reading on from an offset gives what reading from the
//! start would.

use std::borrow::Cow;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use thalweg_catalog::Column;

use super::content::Content;
use super::csv::{self, Header};
use super::place::Found;
use super::{Format, unreadable};
use crate::error::ConnectorError;
use crate::format::{Fault, JsonDecoder, JsonOptions, line_feed};
use crate::source::ColumnsRead;

/// A longer record, its line end included, is a dead letter.
const RECORD_BYTES_MAX: usize = 16 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 1 << 18;

/// What is next in a file.
pub(super) enum Next<'f> {
    /// A record without its line end.
    Record(&'f [u8]),
    /// A record that is too long or never ends: its beginning.
    Broken(Vec<u8>),
    /// Nothing that is complete.
    End,
}

/// A file being read from an offset on.
pub(super) struct Records {
    file: Content,
    /// What has been read and not taken is `buffer[from..filled]`.
    buffer: Vec<u8>,
    from: usize,
    filled: usize,
    /// Where the next record begins in the file.
    pub(super) at: u64,
    /// Where the file ends for us; a record that reaches it is complete without a line end.
    end: Option<u64>,
    quotes: bool,
}

impl Records {
    pub(super) fn open(
        found: &Found,
        at: u64,
        end: Option<u64>,
        format: Format,
    ) -> Result<Self, ConnectorError> {
        let open = || {
            let mut file = found.open()?;
            file.seek(SeekFrom::Start(at))?;
            Ok(file)
        };
        let file = open().map_err(|error| unreadable(&found.name, &error))?;
        Ok(Self {
            file,
            buffer: Vec::new(),
            from: 0,
            filled: 0,
            at,
            end,
            quotes: matches!(format, Format::Csv { .. }),
        })
    }

    /// Takes the next record; `at` is behind it then. After `End` the file has to be opened again at `at`.
    pub(super) fn next(&mut self) -> std::io::Result<Next<'_>> {
        // Bytes of the record that were looked at, and whether they leave a quote open.
        let (mut seen, mut inside) = (0, false);
        loop {
            let read = self.buffer.get(self.from..self.filled).unwrap_or_default();
            while let Some(feed) = line_feed(read, seen) {
                inside ^= self.quotes && quotes(read.get(seen..feed).unwrap_or_default()) % 2 == 1;
                seen = feed + 1;
                if !inside {
                    return Ok(self.take(seen));
                }
            }
            inside ^= self.quotes && quotes(read.get(seen..).unwrap_or_default()) % 2 == 1;
            seen = read.len();
            if seen > RECORD_BYTES_MAX {
                return self.skip();
            }
            if self.fill()? {
                continue;
            }
            // The bytes end here; only a file whose end is known can end without a line end.
            return Ok(match self.end {
                None => Next::End,
                Some(_) if seen == 0 => Next::End,
                Some(_) if inside => Next::Broken(self.take_whole(seen).to_vec()),
                Some(_) => self.take(seen),
            });
        }
    }

    /// Reads more behind what is there; false when there is no more.
    fn fill(&mut self) -> std::io::Result<bool> {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.filled, 0);
            self.filled -= self.from;
            self.from = 0;
        }
        let left = self.end.map_or(u64::MAX, |end| {
            end.saturating_sub(self.at + self.filled as u64)
        });
        let size = READ_BYTES.min(usize::try_from(left).unwrap_or(READ_BYTES));
        if self.buffer.len() < self.filled + size {
            self.buffer.resize(self.filled + size, 0);
        }
        let Some(room) = self.buffer.get_mut(self.filled..self.filled + size) else {
            return Ok(false);
        };
        let count = loop {
            match self.file.read(room) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                answer => break answer?,
            }
        };
        self.filled += count;
        Ok(count > 0)
    }

    /// Takes a record of `length` bytes with its line end.
    fn take(&mut self, length: usize) -> Next<'_> {
        let mut record = self.take_whole(length);
        if record.len() > RECORD_BYTES_MAX {
            return Next::Broken(record.to_vec());
        }
        for end in [b'\n', b'\r'] {
            record = record.strip_suffix(&[end]).unwrap_or(record);
        }
        Next::Record(record)
    }

    fn take_whole(&mut self, length: usize) -> &[u8] {
        let start = self.from;
        self.from += length;
        self.at += length as u64;
        self.buffer.get(start..self.from).unwrap_or_default()
    }

    /// Passes over a record that is too long, up to the end of its line.
    fn skip(&mut self) -> std::io::Result<Next<'_>> {
        let (length, at) = (self.filled - self.from, self.at);
        let record = self.take_whole(length).to_vec();
        loop {
            let read = self.buffer.get(self.from..self.filled).unwrap_or_default();
            if let Some(feed) = line_feed(read, 0) {
                self.take_whole(feed + 1);
                return Ok(Next::Broken(record));
            }
            let length = read.len();
            self.take_whole(length);
            if !self.fill()? {
                if self.end.is_none() {
                    self.at = at;
                    return Ok(Next::End);
                }
                return Ok(Next::Broken(record));
            }
        }
    }
}

fn quotes(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'"').count()
}

/// Where the last complete record of a growing file ends.
pub(super) fn last_record_end(found: &Found, format: Format) -> Result<u64, ConnectorError> {
    let failed = |error: std::io::Error| unreadable(&found.name, &error);
    if !matches!(format, Format::Csv { .. }) {
        return last_line_end(found).map_err(failed);
    }
    let mut records = Records::open(found, 0, None, format)?;
    loop {
        match records.next().map_err(failed)? {
            Next::End => return Ok(records.at),
            Next::Record(_) | Next::Broken(_) => {}
        }
    }
}

/// Where the last line ends, which without quotes is the end of the last record, whatever stands before it.
fn last_line_end(found: &Found) -> std::io::Result<u64> {
    let mut file = found.open()?;
    let mut end = file.length()?;
    let mut bytes = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(READ_BYTES as u64);
        file.seek(SeekFrom::Start(begin))?;
        bytes.clear();
        file.by_ref().take(end - begin).read_to_end(&mut bytes)?;
        if let Some(feed) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + feed as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// The first record of a CSV file as its header.
pub(super) fn header(
    found: &Found,
    delimiter: u8,
    end: Option<u64>,
    columns: &[&Column],
) -> Result<Option<Header>, ConnectorError> {
    let format = Format::Csv {
        header: true,
        delimiter,
    };
    let name = &found.name;
    let mut records = Records::open(found, 0, end, format)?;
    match records.next().map_err(|error| unreadable(name, &error))? {
        Next::Record(record) => Header::by_name(record, delimiter, columns)
            .map(Some)
            .map_err(|fault| ConnectorError::File {
                path: name.to_owned(),
                detail: format!("The header cannot be read: {}.", fault.message),
            }),
        Next::Broken(_) => Err(ConnectorError::File {
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
        Ok(Self {
            schema: schema_of(columns),
            json,
            columns: columns.to_vec(),
            keep: Vec::new(),
        })
    }

    /// What is read of the rows from here on.
    pub(super) fn read_only(&mut self, columns: &ColumnsRead) {
        self.json.read_only(columns);
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
                csv::to_json(record, delimiter, header, &self.given()).map(Cow::Owned)
            }
            _ => Ok(Cow::Borrowed(record)),
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
        assemble(&self.schema, &self.columns, self.json.finish(), &keep)
    }
}

/// The schema of a source's rows.
pub(super) fn schema_of(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| {
        let nullable = !column.not_null || column.generated.is_some();
        column.ty.field(&column.name, nullable)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// The rows to keep, in the source's column order, from the columns that are given.
pub(super) fn assemble(
    schema: &SchemaRef,
    columns: &[Column],
    given: Vec<ArrayRef>,
    keep: &[bool],
) -> Result<RecordBatch, ConnectorError> {
    let mut given = given.into_iter();
    let columns = columns.iter().map(|column| {
        let absent = || arrow::array::new_null_array(&column.ty.arrow(), keep.len());
        match column.generated {
            Some(_) => Some(absent()),
            None => given.next(),
        }
    });
    let columns = columns.collect::<Option<Vec<_>>>();
    let columns =
        columns.ok_or_else(|| ConnectorError::Internal("a column has no values".into()))?;
    if keep.iter().all(|good| *good) {
        let options = RecordBatchOptions::new().with_row_count(Some(keep.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options);
        return rows.map_err(broken);
    }
    // Bad rows hold NULLs in NOT NULL columns, so the promise is made only after they are gone.
    let nullable = schema.fields().iter();
    let nullable = nullable.map(|field| field.as_ref().clone().with_nullable(true));
    let nullable = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let good = || {
        let options = RecordBatchOptions::new().with_row_count(Some(keep.len()));
        let all = RecordBatch::try_new_with_options(nullable, columns, &options)?;
        let good = filter_record_batch(&all, &BooleanArray::from(keep.to_vec()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(good.num_rows()));
        let columns = good.columns().to_vec();
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
    };
    good().map_err(broken)
}

fn broken(error: arrow::error::ArrowError) -> ConnectorError {
    ConnectorError::Internal(format!("decoded batch: {error}"))
}

fn in_payload(columns: &[Column]) -> impl Iterator<Item = &Column> + Clone {
    columns.iter().filter(|column| column.generated.is_none())
}
