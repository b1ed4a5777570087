//! Reads runs: opens lazily, and scans whole, by bucket, or for given keys.
//!
//! Invariant: bytes are decoded only after their checksum matched, and behind a panic guard; a run that is missing, has another
//! length or other bytes than the manifest says is an error that names its file.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array};
use arrow::buffer::Buffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, MetadataVersion, root_as_footer};
use arrow::record_batch::RecordBatch;

use super::{IndexEntry, RUN_KEY, RunInfo, RunShape, place_of, read_index, run_path};
use crate::codec::{Multiplicity, WeightedBatch};
use crate::error::StateError;
use crate::io::{Disk, DiskFile};

/// Largest footer that is read.
const TAIL_BYTES_MAX: u64 = 1 << 30;

/// An open run.
#[derive(Debug)]
pub struct Run {
    name: String,
    file: Box<dyn DiskFile>,
    shape: RunShape,
    schema: SchemaRef,
    version: MetadataVersion,
    index: Vec<(IndexEntry, Block)>,
}

/// Rows of a run in its order, a batch at a time.
#[derive(Debug)]
pub struct RunRows<'a> {
    run: &'a Run,
    batches: Range<usize>,
    bucket: Option<u8>,
}

impl Run {
    /// Opens a run; its batches are read when they are asked for.
    ///
    /// # Errors
    /// `Corrupt`, naming the file, when it is missing or not what the manifest says.
    pub fn open(
        disk: &dyn Disk,
        folder: &Path,
        info: &RunInfo,
        shape: &RunShape,
    ) -> Result<Self, StateError> {
        let path = run_path(folder, info.number);
        let name = format!("run {}", path.display());
        let file = disk.open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StateError::corrupt(&name, "its file is missing"),
            _ => StateError::file(format!("open {name}"))(error),
        })?;
        let bytes = file
            .bytes()
            .map_err(StateError::file(format!("read {name}")))?;
        if bytes != info.bytes {
            let reason = format!("it has {bytes} bytes where {} were written", info.bytes);
            return Err(StateError::corrupt(&name, reason));
        }
        let length = info.bytes.saturating_sub(info.tail);
        if length > TAIL_BYTES_MAX {
            return Err(StateError::corrupt(&name, "its footer is too long"));
        }
        let tail = checked(file.as_ref(), &name, info.tail, length, info.tail_crc)?;
        let footer = catch_unwind(AssertUnwindSafe(|| footer(&tail)))
            .unwrap_or_else(|_| Err("its footer cannot be decoded".into()))
            .map_err(|reason| StateError::corrupt(&name, reason))?;
        Ok(Self {
            name,
            file,
            shape: shape.clone(),
            schema: footer.schema,
            version: footer.version,
            index: footer.index,
        })
    }

    /// All rows.
    pub fn scan(&self) -> RunRows<'_> {
        RunRows {
            run: self,
            batches: 0..self.index.len(),
            bucket: None,
        }
    }

    /// The rows of one bucket.
    pub fn scan_bucket(&self, bucket: u8) -> RunRows<'_> {
        let first = self
            .index
            .partition_point(|(entry, _)| entry.last.bucket < bucket);
        let end = self
            .index
            .partition_point(|(entry, _)| entry.first.bucket <= bucket);
        RunRows {
            run: self,
            batches: first..end.max(first),
            bucket: Some(bucket),
        }
    }

    /// The rows under some keys. `keys` holds the key columns of a row each in encoded form, as [`RunShape`] encodes them.
    ///
    /// # Errors
    /// As for a scan.
    pub fn probe(&self, keys: &[&[u8]]) -> Result<Vec<WeightedBatch>, StateError> {
        let mut wanted: Vec<(u8, &[u8])> = keys
            .iter()
            .map(|key| (crate::hash::bucket(key), *key))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = Vec::new();
        for (at, (entry, _)) in self.index.iter().enumerate() {
            // A key is the beginning of its rows' bytes, so it is not above any of them.
            let end = wanted.partition_point(|(bucket, key)| {
                (*bucket, *key) <= (entry.last.bucket, entry.last.key.as_slice())
            });
            // No key begins another, so those below the first row are a beginning of the list.
            let first = &entry.first;
            let start = wanted.partition_point(|(bucket, key)| {
                let before = (*bucket, *key) < (first.bucket, first.key.as_slice());
                before && !(*bucket == first.bucket && first.key.starts_with(key))
            });
            if start >= end {
                continue;
            }
            let rows = self.batch(at)?;
            let encoded = self.shape.keys(&rows.batch)?;
            let hit: BooleanArray = (0..encoded.rows())
                .map(|row| {
                    let prefix = encoded.prefix(row);
                    Some(
                        wanted
                            .binary_search(&(crate::hash::bucket(prefix), prefix))
                            .is_ok(),
                    )
                })
                .collect();
            if hit.true_count() > 0 {
                found.push(filtered(&rows, &hit)?);
            }
        }
        Ok(found)
    }

    fn batch(&self, at: usize) -> Result<WeightedBatch, StateError> {
        let (entry, block) = self.index.get(at).ok_or_else(|| {
            StateError::corrupt(&self.name, "it has fewer batches than its index")
        })?;
        let bytes = u64::from(entry.bytes);
        let content = checked(
            self.file.as_ref(),
            &self.name,
            entry.offset,
            bytes,
            entry.crc,
        )?;
        let decoder = FileDecoder::new(Arc::clone(&self.schema), self.version);
        let decode = AssertUnwindSafe(|| {
            let batch = decoder
                .read_record_batch(block, &Buffer::from_vec(content))
                .map_err(|error| error.to_string())?
                .ok_or("a batch is missing")?;
            if batch.num_rows() != entry.rows as usize {
                return Err("a batch has another number of rows than its index".to_owned());
            }
            self.shape.of_file(&batch)
        });
        catch_unwind(decode)
            .unwrap_or_else(|_| Err("a batch cannot be decoded".into()))
            .map_err(|reason| StateError::corrupt(&self.name, reason))
    }
}

impl Iterator for RunRows<'_> {
    type Item = Result<WeightedBatch, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.run.batch(self.batches.next()?);
        let Some(bucket) = self.bucket else {
            return Some(rows);
        };
        Some(rows.and_then(|rows| {
            let keys = self.run.shape.keys(&rows.batch)?;
            let inside: BooleanArray = (0..keys.rows())
                .map(|row| Some(place_of(&keys, row).0 == bucket))
                .collect();
            filtered(&rows, &inside)
        }))
    }
}

fn filtered(rows: &WeightedBatch, which: &BooleanArray) -> Result<WeightedBatch, StateError> {
    let batch: RecordBatch = filter_record_batch(&rows.batch, which)?;
    let weights = match &rows.weights {
        Multiplicity::Constant(weight) => Multiplicity::Constant(*weight),
        Multiplicity::Each(weights) => {
            let weights = Int64Array::from(weights.clone());
            let kept = arrow::compute::filter(&weights, which)?;
            Multiplicity::Each(
                kept.as_any()
                    .downcast_ref::<Int64Array>()
                    .map(|kept| kept.values().to_vec())
                    .unwrap_or_default(),
            )
        }
    };
    Ok(WeightedBatch { batch, weights })
}

/// Reads a part of a file and compares its checksum.
fn checked(
    file: &dyn DiskFile,
    name: &str,
    offset: u64,
    bytes: u64,
    crc: u32,
) -> Result<Vec<u8>, StateError> {
    let mut content = vec![0; bytes as usize];
    file.read_at(offset, &mut content)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => StateError::corrupt(name, "it ends too early"),
            _ => StateError::file(format!("read {name}"))(error),
        })?;
    if crc32c::crc32c(&content) != crc {
        let reason = format!("the checksum of {bytes} bytes at {offset} does not match");
        return Err(StateError::corrupt(name, reason));
    }
    Ok(content)
}

struct Footer {
    schema: SchemaRef,
    version: MetadataVersion,
    index: Vec<(IndexEntry, Block)>,
}

fn footer(tail: &[u8]) -> Result<Footer, String> {
    let (rest, end) = tail
        .split_last_chunk::<10>()
        .ok_or("its footer is too short")?;
    let length = read_footer_length(*end).map_err(|error| error.to_string())?;
    let start = rest
        .len()
        .checked_sub(length)
        .ok_or("its footer is too short")?;
    let bytes = rest.get(start..).ok_or("its footer is too short")?;
    let footer = root_as_footer(bytes).map_err(|error| error.to_string())?;
    let schema = fb_to_schema(footer.schema().ok_or("its footer has no schema")?);
    let blocks = footer.recordBatches().ok_or("its footer has no batches")?;
    let index = footer
        .custom_metadata()
        .into_iter()
        .flatten()
        .find(|pair| pair.key() == Some(RUN_KEY))
        .and_then(|pair| pair.value().map(read_index))
        .ok_or("its footer has no index")??;
    if blocks.len() != index.len() {
        return Err("its footer has an index of other batches".into());
    }
    let index = index
        .into_iter()
        .zip(blocks.iter())
        .map(|(entry, block)| {
            let bytes = i64::from(block.metaDataLength()) + block.bodyLength();
            let same = u64::try_from(block.offset()) == Ok(entry.offset)
                && bytes == i64::from(entry.bytes)
                && block.metaDataLength() >= 0;
            same.then_some((entry, *block))
                .ok_or("its footer has an index of other batches")
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Footer {
        schema: Arc::new(schema),
        version: footer.version(),
        index,
    })
}
