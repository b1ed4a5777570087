//! Rows to committed files: encodes into staged files per partition, and commits them together.
//!
//! Invariant: what is written becomes visible with the rename of one manifest, all of it or nothing. A writer whose number is
//! taken, or that failed once, commits nothing more.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::StreamExt;

use super::decide::{Head, Verdict};
use super::encode::{Encoder, Encoding};
use super::error::ArchiveError;
use super::layout::{Key, Layout, internal};
use super::manifest::{DataFile, Manifest, StoredMarker, staged_data, staged_manifest};
use super::recover::{place, seal};
use crate::store::{Store, StoreFile};

/// Files written at the same time; the one that waited longest is finished before another is opened.
const OPEN_MAX: usize = 64;
/// Files closed at the same time.
const CLOSES: usize = 64;

/// Writes one archive, after a take-over.
pub(crate) struct Writer {
    store: Arc<dyn Store>,
    layout: Arc<Layout>,
    encoding: Encoding,
    file_bytes: u64,
    head: Head,
    /// Number of the next file of this writer.
    next_file: u64,
    /// Counts batches, to find the file that waited longest.
    turn: u64,
    open: BTreeMap<Key, Open>,
    done: Vec<Done>,
    /// A file has reached its size since the last commit.
    full: bool,
}

struct Open {
    path: String,
    encoder: Encoder,
    file: Box<dyn StoreFile>,
    bytes: u64,
    first_epoch: u64,
    last_epoch: u64,
    turn: u64,
}

struct Done {
    data: DataFile,
    file: Box<dyn StoreFile>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Writer")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// Why a commit did not end well.
#[derive(Debug)]
pub(crate) struct CommitFailure {
    pub(crate) error: ArchiveError,
    /// Something that a later writer may finish was on its way out.
    pub(crate) begun: bool,
}

/// What a commit says beside its files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub(crate) marker: Option<StoredMarker>,
    pub(crate) frontier: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Writer {
    /// A writer whose fence is the head.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        layout: Arc<Layout>,
        encoding: Encoding,
        file_bytes: u64,
        head: Head,
    ) -> Self {
        Self {
            store,
            layout,
            encoding,
            file_bytes,
            head,
            next_file: 0,
            turn: 0,
            open: BTreeMap::new(),
            done: Vec::new(),
            full: false,
        }
    }

    /// Its newest commit.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Writes rows of the archive's columns, that are of this epoch.
    pub(crate) async fn push(
        &mut self,
        batch: RecordBatch,
        epoch: u64,
    ) -> Result<(), ArchiveError> {
        let layout = Arc::clone(&self.layout);
        let parts = blocking(move || layout.split(&batch)).await?;
        for (key, rows) in parts.into_iter().filter(|(_, rows)| rows.num_rows() > 0) {
            self.turn += 1;
            let mut open = match self.open.remove(&key) {
                Some(open) => open,
                None => self.begin(&key, epoch).await?,
            };
            open.turn = self.turn;
            open.first_epoch = open.first_epoch.min(epoch);
            open.last_epoch = open.last_epoch.max(epoch);
            let mut encoder = open.encoder;
            let (encoder, ready) = blocking(move || {
                let ready = encoder.push(rows)?;
                Ok((encoder, ready))
            })
            .await?;
            open.encoder = encoder;
            open.bytes += write(&mut open.file, ready).await?;
            if open.bytes + open.encoder.pending_bytes() as u64 >= self.file_bytes {
                self.full = true;
                self.finish(key, open).await?;
            } else {
                self.open.insert(key, open);
            }
        }
        Ok(())
    }

    async fn begin(&mut self, key: &Key, epoch: u64) -> Result<Open, ArchiveError> {
        while self.open.len() >= OPEN_MAX {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.turn);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            if let Some(open) = self.open.remove(&oldest) {
                self.finish(oldest, open).await?;
            }
        }
        let path = format!(
            "{}part-{:06}-{epoch:012}-{:06}.parquet",
            self.layout.folder(key)?,
            self.head.generation,
            self.next_file
        );
        self.next_file += 1;
        let staged = staged_data(self.head.generation, &path);
        Ok(Open {
            file: self.store.create(&staged).await?,
            path,
            encoder: Encoder::new(&self.encoding)?,
            bytes: 0,
            first_epoch: epoch,
            last_epoch: epoch,
            turn: self.turn,
        })
    }

    /// Writes the end of a file; it is closed with all others when they are committed.
    async fn finish(&mut self, key: Key, open: Open) -> Result<(), ArchiveError> {
        let Open {
            path,
            encoder,
            mut file,
            bytes,
            first_epoch,
            last_epoch,
            turn: _,
        } = open;
        let encoded = blocking(move || encoder.finish()).await?;
        let bytes = bytes + write(&mut file, encoded.tail).await?;
        self.done.push(Done {
            data: DataFile {
                path,
                rows: encoded.rows,
                bytes,
                partition: key.0,
                first_epoch,
                last_epoch,
                columns: encoded.columns,
            },
            file,
        });
        Ok(())
    }

    /// True when a file has reached its size since the last commit.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Commits what was written, and tells its manifest.
    pub(crate) async fn commit(
        &mut self,
        progress: Progress,
        at_ms: i64,
    ) -> Result<Manifest, CommitFailure> {
        let before = |error| CommitFailure {
            error,
            begun: false,
        };
        let begun = |error| CommitFailure { error, begun: true };
        while let Some((key, open)) = self.open.pop_first() {
            self.finish(key, open).await.map_err(before)?;
        }
        let mut manifest = Manifest::new(self.head.number + 1, self.head.generation, at_ms);
        let (data, files): (Vec<_>, Vec<_>) = std::mem::take(&mut self.done)
            .into_iter()
            .map(|done| (done.data, done.file))
            .unzip();
        manifest.add = data;
        manifest.marker = progress.marker;
        manifest.frontier = progress.frontier;
        let text = manifest.encode().map_err(before)?;
        let staged = staged_manifest(self.head.generation, manifest.number);
        let mut own = self
            .store
            .create(&staged)
            .await
            .map_err(|error| before(error.into()))?;
        own.write(Bytes::from(text.clone()))
            .await
            .map_err(|error| begun(error.into()))?;
        // A close is slow where the store confirms it, and many take no longer than one.
        let closes = files.into_iter().chain([own]);
        let closes: Vec<_> = closes
            .map(|mut file| async move { file.close().await })
            .collect();
        let mut closes = futures::stream::iter(closes).buffer_unordered(CLOSES);
        while let Some(closed) = closes.next().await {
            closed.map_err(|error| begun(error.into()))?;
        }
        place(self.store.as_ref(), self.head.generation, &manifest.add)
            .await
            .map_err(begun)?;
        let sealed = seal(self.store.as_ref(), &staged, manifest.number, &text).await;
        match sealed.map_err(begun)? {
            Verdict::Committed => {
                self.head.number = manifest.number;
                self.full = false;
                Ok(manifest)
            }
            Verdict::Fenced => Err(begun(ArchiveError::Fenced {
                archive: self.store.describe(),
            })),
        }
    }
}

async fn write(file: &mut Box<dyn StoreFile>, bytes: Bytes) -> Result<u64, ArchiveError> {
    let length = bytes.len() as u64;
    if length > 0 {
        file.write(bytes).await?;
    }
    Ok(length)
}

/// Encoding takes time that threads of connections do not have.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(run).await.map_err(internal)?
}
