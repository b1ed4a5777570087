//! Writes runs: streams sorted rows into a file.
//!
//! Invariant: a writer holds one batch and the index, however long the run gets; a file that was not finished has no footer.

use std::io;
use std::path::Path;

use arrow::compute::interleave_record_batch;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::{BATCH_BYTES, BATCH_ROWS, IndexEntry, Place, RUN_KEY, RunInfo, RunShape, index_text};
use crate::codec::{Multiplicity, WeightedBatch};
use crate::error::StateError;
use crate::io::{Disk, DiskFile};
use crate::point::{CrashPoints, Point};
use crate::run::run_path;

/// Bytes gathered before they go to the file.
const BUFFER_BYTES: usize = 256 << 10;

/// Collects picked rows of several batches and hands them on in batches of bounded size.
pub(crate) struct RowPicker {
    batches: Vec<RecordBatch>,
    picked: Vec<(usize, usize)>,
    weights: Vec<i64>,
    bytes: usize,
    first: Option<Place>,
    last: Option<(u8, Vec<u8>)>,
}

impl RowPicker {
    pub(crate) fn new() -> Self {
        Self {
            batches: Vec::new(),
            picked: Vec::new(),
            weights: Vec::new(),
            bytes: 0,
            first: None,
            last: None,
        }
    }

    /// Makes a batch one that rows can be picked from; gives its number.
    pub(crate) fn add(&mut self, batch: RecordBatch) -> usize {
        self.batches.push(batch);
        self.batches.len() - 1
    }

    /// Takes a row; rows come in the order of the run.
    pub(crate) fn pick(&mut self, batch: usize, row: usize, weight: i64, place: (u8, &[u8])) {
        let (bucket, key) = place;
        self.first
            .get_or_insert_with(|| Place::at_most(bucket, key));
        match &mut self.last {
            Some((last, bytes)) => {
                *last = bucket;
                bytes.clear();
                bytes.extend_from_slice(key);
            }
            None => self.last = Some((bucket, key.to_vec())),
        }
        self.picked.push((batch, row));
        self.weights.push(weight);
        // What a row takes is about what its key takes: the key is all of the row.
        self.bytes += key.len();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.picked.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// Batches that are held.
    pub(crate) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// What was picked. The batches stay.
    pub(crate) fn take(&mut self, shape: &RunShape) -> Result<Option<Picked>, StateError> {
        let (Some(first), Some((bucket, key))) = (self.first.take(), self.last.take()) else {
            return Ok(None);
        };
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let rows = if shape.schema.fields().is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(self.picked.len()));
            RecordBatch::try_new_with_options(shape.schema(), Vec::new(), &options)?
        } else {
            interleave_record_batch(&batches, &self.picked)?
        };
        self.picked.clear();
        self.bytes = 0;
        Ok(Some(Picked {
            rows,
            weights: std::mem::take(&mut self.weights),
            first,
            last: Place::at_least(bucket, &key),
        }))
    }

    /// Lets go of batches that no row will be picked from any more; nothing may be waiting.
    pub(crate) fn forget_batches(&mut self) {
        self.batches.clear();
    }
}

/// Rows in the order of a run, with what the index says about them.
pub(crate) struct Picked {
    pub(crate) rows: RecordBatch,
    pub(crate) weights: Vec<i64>,
    first: Place,
    last: Place,
}

impl From<Picked> for WeightedBatch {
    fn from(picked: Picked) -> Self {
        let weights = if picked.weights.iter().all(|weight| *weight == 1) {
            Multiplicity::Constant(1)
        } else {
            Multiplicity::Each(picked.weights)
        };
        WeightedBatch {
            batch: picked.rows,
            weights,
        }
    }
}

pub(crate) fn overflow() -> StateError {
    StateError::Unsupported("counts of a row that leave the range of bigint".into())
}

/// A run being written.
pub(crate) struct RunWriter<'a> {
    shape: &'a RunShape,
    points: &'a CrashPoints,
    number: u64,
    name: String,
    arrow: FileWriter<Summed>,
    index: Vec<IndexEntry>,
    rows: u64,
    net: i64,
    finished: bool,
}

impl<'a> RunWriter<'a> {
    /// Begins the run with this number.
    pub(crate) fn create(
        disk: &dyn Disk,
        folder: &Path,
        number: u64,
        shape: &'a RunShape,
        points: &'a CrashPoints,
    ) -> Result<Self, StateError> {
        let path = run_path(folder, number);
        let name = format!("run {}", path.display());
        points
            .hit(Point::RunCreate)
            .map_err(StateError::file(format!("create {name}")))?;
        let file = disk
            .create(&path)
            .map_err(StateError::file(format!("create {name}")))?;
        let options =
            IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let summed = Summed {
            file,
            buffer: Vec::new(),
            written: 0,
            crc: 0,
        };
        let arrow = FileWriter::try_new_with_options(summed, &shape.file_schema, options)
            .map_err(|error| failed(&name, error))?;
        Ok(Self {
            shape,
            points,
            number,
            name,
            arrow,
            index: Vec::new(),
            rows: 0,
            net: 0,
            finished: false,
        })
    }

    pub(crate) fn write(&mut self, picked: Option<Picked>) -> Result<(), StateError> {
        let Some(Picked {
            rows: batch,
            weights,
            first,
            last,
        }) = picked
        else {
            return Ok(());
        };
        self.points
            .hit(Point::RunWrite)
            .map_err(StateError::file(format!("write {}", self.name)))?;
        for weight in &weights {
            self.net = self.net.checked_add(*weight).ok_or_else(overflow)?;
        }
        self.rows += batch.num_rows() as u64;
        let rows = batch.num_rows() as u32;
        let batch = self.shape.to_file(&batch, weights)?;
        let offset = self.arrow.get_mut().start_sum();
        self.arrow
            .write(&batch)
            .map_err(|error| failed(&self.name, error))?;
        let (end, crc) = self.arrow.get_ref().sum();
        self.index.push(IndexEntry {
            offset,
            bytes: u32::try_from(end - offset).map_err(|_| StateError::TooLarge(usize::MAX))?,
            crc,
            rows,
            first,
            last,
        });
        Ok(())
    }

    /// Writes the footer and makes the content durable; the name is not yet. `None` when there were no rows.
    pub(crate) fn finish(mut self, level: u8) -> Result<Option<RunInfo>, StateError> {
        self.finished = true;
        let (Some(first), Some(last)) = (self.index.first(), self.index.last()) else {
            return Ok(None);
        };
        let buckets = (first.first.bucket, last.last.bucket);
        self.points
            .hit(Point::RunFinish)
            .map_err(StateError::file(format!("write {}", self.name)))?;
        let tail = self.arrow.get_mut().start_sum();
        self.arrow.write_metadata(RUN_KEY, index_text(&self.index));
        self.arrow
            .finish()
            .map_err(|error| failed(&self.name, error))?;
        let (bytes, tail_crc) = self.arrow.get_ref().sum();
        let sync = || -> io::Result<()> {
            self.points.hit(Point::RunSync)?;
            self.arrow.get_ref().file.sync()
        };
        sync().map_err(StateError::file(format!("sync {}", self.name)))?;
        Ok(Some(RunInfo {
            number: self.number,
            bytes,
            tail,
            tail_crc,
            rows: self.rows,
            net: self.net,
            level,
            buckets,
        }))
    }
}

/// Arrow wraps what the disk reports; it is given back as what it is.
fn failed(name: &str, error: arrow::error::ArrowError) -> StateError {
    match error {
        arrow::error::ArrowError::IoError(_, error) => {
            StateError::file(format!("write {name}"))(error)
        }
        error => error.into(),
    }
}

/// A file written from its beginning on, with a running checksum.
struct Summed {
    file: Box<dyn DiskFile>,
    buffer: Vec<u8>,
    /// Bytes in the file; the buffer follows them.
    written: u64,
    crc: u32,
}

impl Summed {
    fn at(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Begins a checksum; gives the place it begins at.
    fn start_sum(&mut self) -> u64 {
        self.crc = 0;
        self.at()
    }

    /// Where the file ends, and the checksum up to there.
    fn sum(&self) -> (u64, u32) {
        (self.at(), self.crc)
    }
}

impl io::Write for Summed {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.crc = crc32c::crc32c_append(self.crc, data);
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_at(self.written, &self.buffer)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}
