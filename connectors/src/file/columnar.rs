//! A Parquet file: how many rows it has, the declared columns of them from any row on, and what is wrong with it.
//!
//! Invariant: which rows are read and which are dead depends on the file alone, never on where reading began or how it was cut;
//! whatever the file holds, the outcome is rows or a sentence.

use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parking_lot::Mutex;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use thalweg_catalog::{Column, SqlType};

use super::content::{Content, copy};
use super::place::Found;
use super::records::{assemble, schema_of};
use super::unreadable;
use crate::error::ConnectorError;
use crate::format::{Fault, FaultReason, convert, excerpt};

/// Rows decoded at a time.
const BATCH_ROWS: usize = 1_024;
/// Characters of the reader's own words that a message repeats.
const REASON_CHARS_MAX: usize = 200;
/// First and last bytes of a file.
const MAGIC: &[u8; 4] = b"PAR1";
/// The offset behind a file that cannot be read: beyond any file's rows, and sums of such offsets are no danger.
pub(super) const GIVEN_UP: u64 = 1 << 48;

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Rows(u64),
    /// Its end is not written yet.
    Unfinished,
    /// It never will be, and why.
    Unreadable(String),
}

impl Extent {
    /// Looks at a file's footer.
    ///
    /// # Errors
    /// 58030 when the file cannot be opened or read at all, and what its store reports.
    pub(super) fn of(file: &Found) -> Result<Self, ConnectorError> {
        let disk = Disk::open(file).map_err(|error| unreadable(&file.name, &error))?;
        match load(&disk) {
            Ok((_, ends)) => Ok(Self::Rows(ends.last().copied().unwrap_or(0))),
            Err(Trouble::Io(error)) => Err(unreadable(&file.name, &error)),
            Err(Trouble::Unfinished) => Ok(Self::Unfinished),
            Err(Trouble::Content(reason)) => Ok(Self::Unreadable(reason)),
        }
    }

    /// The offset behind the last row that can be had now.
    pub(super) fn end(&self) -> u64 {
        match self {
            Self::Rows(rows) => *rows,
            Self::Unfinished => 0,
            Self::Unreadable(_) => GIVEN_UP,
        }
    }
}

/// Why a file gives no rows.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The disk's answer, which may be another one later.
    Io(std::io::Error),
    Unfinished,
    /// What the file holds, in words.
    Content(String),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ParquetError> for Trouble {
    fn from(error: ParquetError) -> Self {
        let reason = match error {
            ParquetError::External(error) => match error.downcast::<std::io::Error>() {
                Ok(error) if error.kind() != ErrorKind::UnexpectedEof => {
                    return Self::Io(*error);
                }
                Ok(error) => error.to_string(),
                Err(error) => error.to_string(),
            },
            ParquetError::General(reason)
            | ParquetError::NYI(reason)
            | ParquetError::EOF(reason)
            | ParquetError::ArrowError(reason) => reason,
            other => other.to_string(),
        };
        Self::Content(excerpt(&reason, REASON_CHARS_MAX))
    }
}

/// A file that remembers what the disk said, because the reader turns every error into a text.
#[derive(Debug)]
struct Disk {
    file: Content,
    failure: Arc<Mutex<Option<std::io::Error>>>,
}

impl Disk {
    fn open(file: &Found) -> std::io::Result<Self> {
        Ok(Self {
            file: file.open()?,
            failure: Arc::default(),
        })
    }

    fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            failure: Arc::clone(&self.failure),
        })
    }

    fn at(&self, start: u64) -> std::io::Result<Self> {
        let mut disk = self.try_clone()?;
        disk.noted(|file| file.seek(SeekFrom::Start(start)))?;
        Ok(disk)
    }

    fn noted<T>(
        &mut self,
        work: impl FnOnce(&mut Content) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        work(&mut self.file).inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                *self.failure.lock() = Some(copy(error));
            }
        })
    }

    /// Runs code that reads foreign bytes; a panic in there is a property of the bytes, unless the disk is to blame.
    fn guarded<T>(&self, read: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
        let read = catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err(Trouble::Content("its bytes cannot be decoded".into())));
        match (read, self.failure.lock().take()) {
            (Err(_), Some(failure)) => Err(Trouble::Io(failure)),
            (read, _) => read,
        }
    }
}

impl Read for Disk {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.noted(|file| file.read(buffer))
    }
}

impl Length for Disk {
    fn len(&self) -> u64 {
        self.file.length().unwrap_or(0)
    }
}

impl ChunkReader for Disk {
    type T = BufReader<Disk>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(self.at(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = Vec::new();
        self.at(start)?
            .take(length as u64)
            .read_to_end(&mut bytes)?;
        match bytes.len() == length {
            true => Ok(bytes.into()),
            false => Err(ParquetError::EOF("it is too short".into())),
        }
    }
}

/// A file's footer, and where each of its row groups ends.
fn load(disk: &Disk) -> Result<(ArrowReaderMetadata, Vec<u64>), Trouble> {
    check_ends(disk.file.try_clone()?)?;
    disk.guarded(|| {
        let options = ArrowReaderOptions::new();
        let metadata = ArrowReaderMetadata::load(disk, options.clone())?;
        let metadata = with_micros(metadata, options)?;
        let mut end = 0_u64;
        let groups = metadata.metadata().row_groups().iter();
        let ends = groups.map(|group| {
            let rows = u64::try_from(group.num_rows()).ok()?;
            end = end.checked_add(rows).filter(|end| *end < GIVEN_UP)?;
            Some(end)
        });
        let ends = ends.collect::<Option<Vec<_>>>();
        let ends = ends.ok_or_else(|| Trouble::Content("its row counts make no sense".into()))?;
        Ok((metadata, ends))
    })
}

/// The marks at both ends: a file begins with one when it is created and ends with one when it is complete.
fn check_ends(mut file: Content) -> Result<(), Trouble> {
    let length = file.length()?;
    let mut first = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut first)?;
    if first == b"PARE" {
        return Err(Trouble::Content("it is encrypted".into()));
    }
    if !MAGIC.starts_with(&first) {
        return Err(Trouble::Content("it is not a Parquet file".into()));
    }
    let mut last = Vec::new();
    if length >= 2 * MAGIC.len() as u64 {
        file.seek(SeekFrom::End(-(MAGIC.len() as i64)))?;
        file.take(MAGIC.len() as u64).read_to_end(&mut last)?;
    }
    match last == MAGIC {
        true => Ok(()),
        false => Err(Trouble::Unfinished),
    }
}

/// Reads the old 96-bit timestamps as microseconds: as nanoseconds most of their range would wrap around.
fn with_micros(
    metadata: ArrowReaderMetadata,
    options: ArrowReaderOptions,
) -> Result<ArrowReaderMetadata, Trouble> {
    let leaves = metadata.parquet_schema().columns().iter();
    let mut leaves = leaves.map(|leaf| leaf.physical_type());
    if !leaves.clone().any(|leaf| leaf == PhysicalType::INT96) {
        return Ok(metadata);
    }
    let fields = metadata.schema().fields().iter();
    let fields: Vec<FieldRef> = fields.map(|field| micros(field, &mut leaves)).collect();
    let schema = Schema::new_with_metadata(fields, metadata.schema().metadata().clone());
    let options = options.with_schema(Arc::new(schema));
    Ok(ArrowReaderMetadata::try_new(
        Arc::clone(metadata.metadata()),
        options,
    )?)
}

/// A field with the leaves below it taken from `leaves`, in the file's order.
fn micros(field: &FieldRef, leaves: &mut impl Iterator<Item = PhysicalType>) -> FieldRef {
    let ty = match field.data_type() {
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| micros(field, leaves)).collect())
        }
        DataType::List(item) => DataType::List(micros(item, leaves)),
        DataType::LargeList(item) => DataType::LargeList(micros(item, leaves)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(micros(item, leaves), *size),
        DataType::Map(entries, sorted) => DataType::Map(micros(entries, leaves), *sorted),
        leaf => match leaves.next() {
            Some(PhysicalType::INT96) => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => leaf.clone(),
        },
    };
    Arc::new(field.as_ref().clone().with_data_type(ty))
}

/// What reading on gives.
pub(super) enum Next {
    /// Rows from the current one on.
    Rows(RecordBatch),
    /// Rows from the current one to this one cannot be read.
    Lost {
        until: u64,
        reason: String,
    },
    End,
}

/// An open file, at a row.
pub(super) struct Table {
    disk: Disk,
    metadata: ArrowReaderMetadata,
    ends: Vec<u64>,
    mask: ProjectionMask,
    /// For each declared column, where a batch has it.
    places: Vec<Option<usize>>,
    at: u64,
    batches: Option<ParquetRecordBatchReader>,
    /// Decoded and not taken.
    ready: Option<RecordBatch>,
    /// The row group in which reading failed, and is done row by row to find the first row that cannot be read.
    careful: Option<usize>,
}

impl Table {
    /// Opens a file at a row.
    pub(super) fn open(file: &Found, columns: &[&Column], at: u64) -> Result<Self, Trouble> {
        let disk = Disk::open(file)?;
        let (metadata, ends) = load(&disk)?;
        let mut table = Self {
            mask: ProjectionMask::all(),
            places: Vec::new(),
            disk,
            metadata,
            ends,
            at,
            batches: None,
            ready: None,
            careful: None,
        };
        table.project(columns)?;
        Ok(table)
    }

    pub(super) fn rows(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Chooses the columns that are declared, and refuses a file that has one of them in a type it can never be read from.
    fn project(&mut self, columns: &[&Column]) -> Result<(), Trouble> {
        let fields = self.metadata.schema().fields();
        let names = fields.iter().map(|field| field.name().as_str());
        let mut roots = Vec::new();
        for column in columns {
            let found = convert::named(names.clone(), &column.name);
            let field = found.and_then(|index| fields.get(index));
            if let Some(field) = field {
                let from = convert::natural(field);
                if !convert::convertible(&from, &column.ty) {
                    let (name, to) = (&column.name, &column.ty);
                    return Err(Trouble::Content(format!(
                        "column \"{name}\" of type {} cannot be read as {to}",
                        shown(&from, field)
                    )));
                }
            }
            roots.push(found);
        }
        let mut wanted: Vec<usize> = roots.iter().flatten().copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let place = |root: usize| wanted.binary_search(&root).ok();
        self.places = roots.iter().map(|root| root.and_then(place)).collect();
        self.mask = ProjectionMask::roots(self.metadata.parquet_schema(), wanted);
        self.check_compression()
    }

    fn check_compression(&self) -> Result<(), Trouble> {
        for group in self.metadata.metadata().row_groups() {
            for (leaf, column) in group.columns().iter().enumerate() {
                let codec = match column.compression() {
                    Compression::GZIP(_) => "gzip",
                    Compression::BROTLI(_) => "brotli",
                    Compression::LZO => "lzo",
                    _ => continue,
                };
                if self.mask.leaf_included(leaf) {
                    return Err(Trouble::Content(format!(
                        "compression {codec} is not supported; zstd, snappy, lz4 and none are"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The columns of a batch that are declared, with their fields; `None` for one that the file does not have.
    pub(super) fn declared<'b>(
        &self,
        batch: &'b RecordBatch,
    ) -> Vec<Option<(&'b Field, &'b ArrayRef)>> {
        let schema = batch.schema_ref();
        let part = |place: &Option<usize>| {
            let place = (*place)?;
            Some((
                schema.fields().get(place)?.as_ref(),
                batch.columns().get(place)?,
            ))
        };
        self.places.iter().map(part).collect()
    }

    /// The next rows, at most `rows_max` of them.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn next(&mut self, rows_max: usize) -> Result<Next, std::io::Error> {
        if self.at >= self.rows() {
            return Ok(Next::End);
        }
        let batch = match self.ready.take() {
            Some(batch) => batch,
            None => match self.decoded() {
                Ok(batch) => batch,
                Err(Trouble::Io(error)) => return Err(error),
                Err(Trouble::Unfinished) => return Ok(Next::End),
                Err(Trouble::Content(reason)) => return self.lose(reason),
            },
        };
        let count = batch.num_rows().min(rows_max.max(1));
        if count < batch.num_rows() {
            self.ready = Some(batch.slice(count, batch.num_rows() - count));
        }
        self.at += count as u64;
        Ok(Next::Rows(batch.slice(0, count)))
    }

    /// The row group of the current row, and where the group begins and ends.
    fn group(&self) -> (usize, u64, u64) {
        let group = self.ends.partition_point(|end| *end <= self.at);
        let begin = group
            .checked_sub(1)
            .and_then(|before| self.ends.get(before));
        let end = self.ends.get(group).copied().unwrap_or(self.at);
        (group, begin.copied().unwrap_or(0), end)
    }

    fn decoded(&mut self) -> Result<RecordBatch, Trouble> {
        let disk = self.disk.try_clone()?;
        disk.guarded(|| self.decode())
    }

    fn decode(&mut self) -> Result<RecordBatch, Trouble> {
        let (group, begin, end) = self.group();
        if self.batches.is_none() {
            let rows = match self.careful {
                Some(careful) if careful == group => 1,
                _ => BATCH_ROWS,
            };
            let disk = self.disk.try_clone()?;
            let metadata = self.metadata.clone();
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(disk, metadata)
                .with_row_groups(vec![group])
                .with_projection(self.mask.clone())
                .with_batch_size(rows)
                .with_offset(usize::try_from(self.at - begin).unwrap_or(usize::MAX));
            self.batches = Some(builder.build()?);
        }
        let next = self.batches.as_mut().and_then(Iterator::next);
        match next {
            Some(Ok(batch)) if batch.num_rows() > 0 && self.at + batch.num_rows() as u64 <= end => {
                if self.at + batch.num_rows() as u64 == end {
                    self.batches = None;
                }
                Ok(batch)
            }
            Some(Err(error)) => Err(Trouble::from(ParquetError::from(error))),
            _ => Err(Trouble::Content(
                "a row group has other rows than the footer says".into(),
            )),
        }
    }

    /// Passes over what cannot be read of a row group, once the first such row is known.
    fn lose(&mut self, reason: String) -> Result<Next, std::io::Error> {
        self.batches = None;
        let (group, _, end) = self.group();
        if self.careful != Some(group) {
            self.careful = Some(group);
            return self.next(1);
        }
        self.at = end;
        Ok(Next::Lost { until: end, reason })
    }
}

/// A type by its SQL name, or by Arrow's when SQL has none.
fn shown(from: &SqlType, field: &Field) -> String {
    match from {
        SqlType::Unknown => field.data_type().to_string(),
        known => known.to_string(),
    }
}

/// A row that cannot be taken: why, and what it holds.
pub(super) struct BadRow {
    pub(super) fault: Fault,
    pub(super) payload: Option<Vec<u8>>,
}

/// Collects rows in the source's column order.
#[derive(Debug)]
pub(super) struct TableRows {
    schema: SchemaRef,
    columns: Vec<Column>,
    batches: Vec<RecordBatch>,
}

impl TableRows {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self {
            schema: schema_of(columns),
            columns: columns.to_vec(),
            batches: Vec::new(),
        }
    }

    /// Columns that a file gives.
    pub(super) fn given(&self) -> Vec<&Column> {
        let given = self.columns.iter();
        given.filter(|column| column.generated.is_none()).collect()
    }

    /// Takes a batch's good rows over; gives its bad ones, by row.
    ///
    /// # Errors
    /// In words, when no row of the batch can be read.
    pub(super) fn append(
        &mut self,
        rows: usize,
        parts: &[Option<(&Field, &ArrayRef)>],
    ) -> Result<BTreeMap<usize, BadRow>, String> {
        let mut faults: BTreeMap<usize, Fault> = BTreeMap::new();
        let mut given = Vec::with_capacity(parts.len());
        for (column, part) in self.given().into_iter().zip(parts) {
            let values = match part {
                Some((field, array)) => {
                    let mut note = |row: usize, fault: Fault| {
                        faults.entry(row).or_insert(fault);
                    };
                    convert::convert(&column.name, array, field, &column.ty, &mut note)?
                }
                None => new_null_array(&column.ty.arrow(), rows),
            };
            if column.not_null && values.null_count() > 0 {
                for row in (0..rows).filter(|row| values.is_null(*row)) {
                    faults.entry(row).or_insert_with(|| Fault {
                        reason: FaultReason::Constraint,
                        message: format!(
                            "null value in column \"{}\" violates not-null constraint",
                            column.name
                        ),
                    });
                }
            }
            given.push(values);
        }
        let keep: Vec<bool> = (0..rows).map(|row| !faults.contains_key(&row)).collect();
        let batch = assemble(&self.schema, &self.columns, given, &keep);
        self.batches.push(batch.map_err(|error| error.to_string())?);
        let names: Vec<String> = self.given().iter().map(|c| c.name.clone()).collect();
        let bad = faults.into_iter().map(|(row, fault)| {
            let payload = payload(&names, parts, row);
            (row, BadRow { fault, payload })
        });
        Ok(bad.collect())
    }

    /// The good rows so far; the collection starts over.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ConnectorError> {
        let batches = std::mem::take(&mut self.batches);
        concat_batches(&self.schema, &batches)
            .map_err(|error| ConnectorError::Internal(format!("decoded batch: {error}")))
    }
}

/// A row's declared columns as a JSON object; columns that have no form there are left out.
fn payload(names: &[String], parts: &[Option<(&Field, &ArrayRef)>], row: usize) -> Option<Vec<u8>> {
    let mut object = String::from("{");
    for (name, part) in names.iter().zip(parts) {
        let Some(value) = part.and_then(|(field, array)| convert::natural_row(array, field, row))
        else {
            continue;
        };
        if object.len() > 1 {
            object.push(',');
        }
        object.push_str(&serde_json::to_string(name).ok()?);
        object.push(':');
        object.push_str(&value);
    }
    object.push('}');
    Some(object.into_bytes())
}
