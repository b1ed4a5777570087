//! A version of a relation's content: chunks, merged as they age, and the rows a reader sees.
//!
//! Invariant: a version never changes. Appending makes a new one that shares the old chunks; similar-sized chunks are merged,
//! so that a version of n rows has about log n chunks that may hold deletions.

use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use thalweg_connectors::Delta;

use crate::chunk::{Chunk, RowCodec, concat};
use crate::consolidate::{Term, consolidate, expand};
use crate::memory::Counted;

/// Chunks without deletions stop merging at this size: a longer list costs a reader nothing.
const APPEND_CHUNK_ROWS: usize = 65_536;

/// So few deletions are not worth a rewrite of everything.
const REMOVALS_MIN: usize = 1_024;

/// No merge makes a chunk larger than this: a column of bytes ends at 2 GiB.
const CHUNK_BYTES_MAX: usize = 512 << 20;

/// The rows of a version as a reader gets them, or `None` when some row has a negative count.
type ReadRows = Option<Arc<Vec<RecordBatch>>>;

/// The content of a relation at some epoch.
#[derive(Debug)]
pub(crate) struct Version {
    codec: Arc<RowCodec>,
    chunks: Arc<[Arc<Chunk>]>,
    /// Rows that were left when all chunks were last netted together.
    netted: usize,
    read: Mutex<Option<ReadRows>>,
}

impl Version {
    pub(crate) fn empty(codec: Arc<RowCodec>) -> Self {
        Self {
            codec,
            chunks: Arc::new([]),
            netted: 0,
            read: Mutex::new(None),
        }
    }

    /// This content with changes added.
    pub(crate) fn with(&self, deltas: &[Delta]) -> Result<Self, ArrowError> {
        let mut chunks = self.chunks.to_vec();
        for delta in deltas.iter().filter(|delta| delta.num_rows() > 0) {
            chunks.push(Arc::new(Chunk::new(delta.clone())?));
            merge_tail(&self.codec, &mut chunks)?;
        }
        let mut netted = self.netted;
        if is_wasteful(&chunks, netted) {
            chunks = net(&self.codec, &chunks)?;
            netted = rows_of(&chunks);
        }
        Ok(Self {
            codec: Arc::clone(&self.codec),
            chunks: chunks.into(),
            netted,
            read: Mutex::new(None),
        })
    }

    /// Rows a reader sees; computed once per version. `None` when deletions outnumber insertions of some row.
    pub(crate) fn rows(&self) -> Result<ReadRows, ArrowError> {
        if let Some(read) = self.read.lock().as_ref() {
            return Ok(read.clone());
        }
        let net = consolidate(&self.codec, &self.terms(1))?;
        let read = expand(&net)?.map(Arc::new);
        *self.read.lock() = Some(read.clone());
        Ok(read)
    }

    /// Drops the cached rows; readers that hold them keep them.
    pub(crate) fn forget_rows(&self) {
        *self.read.lock() = None;
    }

    /// What must be added to `self` to get `newer`.
    pub(crate) fn diff_to(&self, newer: &Version) -> Result<Vec<Delta>, ArrowError> {
        // Chunks in both cancel as a whole; only what was added, merged or replaced is compared by row.
        let shared = |chunk: &Arc<Chunk>, other: &Version| {
            other.chunks.iter().any(|held| Arc::ptr_eq(held, chunk))
        };
        let added = newer
            .chunks
            .iter()
            .filter(|chunk| !shared(chunk, self))
            .map(|chunk| Term { chunk, sign: 1 });
        let gone = self
            .chunks
            .iter()
            .filter(|chunk| !shared(chunk, newer))
            .map(|chunk| Term { chunk, sign: -1 });
        consolidate(&self.codec, &added.chain(gone).collect::<Vec<_>>())
    }

    /// What must be added to get exactly `rows`.
    pub(crate) fn diff_to_rows(&self, rows: Vec<RecordBatch>) -> Result<Vec<Delta>, ArrowError> {
        self.diff_to_content(rows.into_iter().map(Delta::insert).collect())
    }

    /// What must be added to get exactly the rows that `content` makes from nothing.
    pub(crate) fn diff_to_content(&self, content: Vec<Delta>) -> Result<Vec<Delta>, ArrowError> {
        let new = content
            .into_iter()
            .map(Chunk::new)
            .collect::<Result<Vec<_>, _>>()?;
        let mut terms: Vec<Term<'_>> = new.iter().map(|chunk| Term { chunk, sign: 1 }).collect();
        terms.extend(self.terms(-1));
        consolidate(&self.codec, &terms)
    }

    /// Rows of `removed` (positive counts) that this content does not hold as often.
    pub(crate) fn missing(&self, removed: &Delta) -> Result<Vec<Delta>, ArrowError> {
        let removed = Chunk::new(removed.clone())?;
        let mut terms = self.terms(1);
        terms.push(Term {
            chunk: &removed,
            sign: -1,
        });
        let net = consolidate(&self.codec, &terms)?;
        Ok(net
            .into_iter()
            .filter(|delta| !delta.weights.all_positive())
            .collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What has been added up, netted only where something was taken away.
    pub(crate) fn changes(&self) -> Result<Vec<Delta>, ArrowError> {
        if self.chunks.iter().all(|chunk| chunk.positive) {
            return Ok(self
                .chunks
                .iter()
                .map(|chunk| chunk.delta.clone())
                .collect());
        }
        self.content()
    }

    /// The content as net changes from nothing.
    pub(crate) fn content(&self) -> Result<Vec<Delta>, ArrowError> {
        consolidate(&self.codec, &self.terms(1))
    }

    pub(crate) fn net_rows(&self) -> i64 {
        self.chunks.iter().map(|chunk| chunk.net()).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    /// Counts what it keeps in memory, the rows made for readers included.
    pub(crate) fn count(&self, counted: &mut Counted) {
        self.chunks.iter().for_each(|chunk| counted.chunk(chunk));
        if let Some(Some(rows)) = self.read.lock().as_ref() {
            rows.iter().for_each(|batch| counted.batch(batch));
        }
    }

    fn terms(&self, sign: i64) -> Vec<Term<'_>> {
        self.chunks
            .iter()
            .map(|chunk| Term {
                chunk: chunk.as_ref(),
                sign,
            })
            .collect()
    }
}

/// True when about half of the rows that came may be gone again and both are still held, and there is twice as much as the last look
/// at all of them has left.
fn is_wasteful(chunks: &[Arc<Chunk>], netted: usize) -> bool {
    let removals = chunks.iter().map(|chunk| chunk.removals);
    let removals = removals.fold(0, usize::saturating_add);
    let rows = rows_of(chunks);
    removals >= REMOVALS_MIN && removals.saturating_mul(3) > rows && rows / 2 >= netted
}

fn rows_of(chunks: &[Arc<Chunk>]) -> usize {
    chunks.iter().map(|chunk| chunk.rows()).sum()
}

/// The same content without rows that cancel out.
fn net(codec: &RowCodec, chunks: &[Arc<Chunk>]) -> Result<Vec<Arc<Chunk>>, ArrowError> {
    let terms: Vec<Term<'_>> = chunks.iter().map(|chunk| Term { chunk, sign: 1 }).collect();
    let net = consolidate(codec, &terms)?.into_iter();
    net.filter(|delta| delta.num_rows() > 0)
        .map(|delta| Chunk::new(delta).map(Arc::new))
        .collect()
}

/// Merges the newest chunks while they are of similar size.
fn merge_tail(codec: &RowCodec, chunks: &mut Vec<Arc<Chunk>>) -> Result<(), ArrowError> {
    while let [.., older, newer] = chunks.as_slice() {
        let append = older.positive && newer.positive;
        if older.rows() > 2 * newer.rows()
            || (append && older.rows() + newer.rows() > APPEND_CHUNK_ROWS)
            || older.bytes.saturating_add(newer.bytes) > CHUNK_BYTES_MAX
        {
            break;
        }
        let merged = if append {
            concat(&codec.schema, &[older, newer])?
        } else {
            let net = consolidate(
                codec,
                &[
                    Term {
                        chunk: older,
                        sign: 1,
                    },
                    Term {
                        chunk: newer,
                        sign: 1,
                    },
                ],
            )?;
            let parts = net
                .into_iter()
                .map(Chunk::new)
                .collect::<Result<Vec<_>, _>>()?;
            concat(&codec.schema, &parts.iter().collect::<Vec<_>>())?
        };
        chunks.truncate(chunks.len() - 2);
        if merged.num_rows() > 0 {
            chunks.push(Arc::new(Chunk::new(merged)?));
        }
    }
    Ok(())
}
