//! Rows to committed files: encodes into staged files per partition, and commits them together.
//!
//! Invariant: what is written becomes visible with one manifest that gets its number, all of it or nothing. A writer whose number is
//! taken, or that failed once, commits nothing more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Mutex;

use super::decide::{Head, Verdict};
use super::encode::{Encoder, Encoding};
use super::error::ArchiveError;
use super::feed::FeedId;
use super::layout::{Key, Layout, internal};
use super::manifest::{DataFile, Manifest, StoredMarker, staged_data, staged_manifest};
use super::memory::Held;
use super::recover::{place, seal};
use super::vacuum::exchange;
use crate::store::{Store, StoreFile};

/// Files written at the same time; the one that waited longest is finished before another is opened.
const OPEN_MAX: usize = 64;
/// Files that wait to be closed, at most, but for those that a commit ends: each keeps a descriptor or a pipeline of blocks.
const UNCLOSED_MAX: usize = 32;
/// Files closed at the same time.
const CLOSES: usize = 64;
/// Files that wait for a commit, at which it is due.
const FILES_DUE: usize = 400;

/// What the writers of one generation share: of two that commit at the same time one comes first.
#[derive(Debug)]
pub(crate) struct Lineage {
    generation: u64,
    /// The newest commit; `None` while one is made, and for good when it did not end well.
    head: Mutex<Option<Head>>,
    /// A number was taken by another writer.
    fenced: AtomicBool,
    /// Number of the next file.
    next_file: AtomicU64,
}

impl Lineage {
    /// After the fence of a take-over.
    pub(crate) fn new(head: Head) -> Arc<Self> {
        Arc::new(Self {
            generation: head.generation,
            head: Mutex::new(Some(head)),
            fenced: AtomicBool::new(false),
            next_file: AtomicU64::new(0),
        })
    }

    /// Which writer it is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The newest commit, after which no other is being made; `None` once a commit did not end well, and nothing can be committed
    /// any more.
    pub(crate) async fn head(&self) -> Option<Head> {
        *self.head.lock().await
    }

    /// True until a commit does not end well.
    pub(crate) async fn is_whole(&self) -> bool {
        self.head().await.is_some()
    }
}

/// Writes one archive, after a take-over.
pub(crate) struct Writer {
    store: Arc<dyn Store>,
    layout: Arc<Layout>,
    encoding: Encoding,
    file_bytes: u64,
    lineage: Arc<Lineage>,
    /// Counts batches, to find the file that waited longest.
    turn: u64,
    open: BTreeMap<Key, Open>,
    done: Vec<DataFile>,
    /// Files of those that were not closed yet.
    unclosed: Vec<Box<dyn StoreFile>>,
    /// When rows last came to each partition since the last commit, in microseconds since the Unix epoch.
    touched: BTreeMap<Key, i64>,
    /// A file has reached its size since the last commit.
    full: bool,
    held: Held,
}

/// Rows by partition.
type Parts = BTreeMap<Key, Vec<RecordBatch>>;

struct Open {
    path: String,
    encoder: Encoder,
    file: Box<dyn StoreFile>,
    bytes: u64,
    first_epoch: u64,
    last_epoch: u64,
    turn: u64,
    /// Bytes of memory that flushing its row group lets go of.
    group_bytes: usize,
}

impl Open {
    /// Bytes of memory that closing it lets go of.
    fn held_bytes(&self) -> usize {
        self.group_bytes + self.file.held_bytes()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Writer")
            .field("lineage", &self.lineage)
            .finish_non_exhaustive()
    }
}

/// Why a commit did not end well.
#[derive(Debug)]
pub(crate) struct CommitFailure {
    pub(crate) error: ArchiveError,
    /// The number of the commit that a later writer may finish, when it was on its way out.
    pub(crate) begun: Option<u64>,
}

/// What a commit says beside its files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub(crate) marker: Option<StoredMarker>,
    pub(crate) frontier: BTreeMap<String, BTreeMap<String, u64>>,
    /// What the frontier is of.
    pub(crate) feed: Option<FeedId>,
}

impl Writer {
    /// A writer of this generation.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        layout: Arc<Layout>,
        encoding: Encoding,
        file_bytes: u64,
        lineage: Arc<Lineage>,
        held: Held,
    ) -> Self {
        Self {
            store,
            layout,
            encoding,
            file_bytes,
            lineage,
            turn: 0,
            open: BTreeMap::new(),
            done: Vec::new(),
            unclosed: Vec::new(),
            touched: BTreeMap::new(),
            full: false,
            held,
        }
    }

    /// What it shares with others of its generation.
    pub(crate) fn lineage(&self) -> Arc<Lineage> {
        Arc::clone(&self.lineage)
    }

    /// Which writer it is.
    pub(crate) fn generation(&self) -> u64 {
        self.lineage.generation
    }

    /// Writes rows of the archive's columns, that are of this epoch and come now, partition by partition. Tells for each row that
    /// no partition can hold why it was left out.
    pub(crate) async fn push(
        &mut self,
        batches: Vec<RecordBatch>,
        epoch: u64,
        now_us: i64,
    ) -> Result<Vec<ArchiveError>, ArchiveError> {
        let layout = Arc::clone(&self.layout);
        let (parts, refused) = blocking(move || by_partition(&layout, &batches)).await?;
        let batches = parts.values().flatten();
        let passing = batches.map(RecordBatch::get_array_memory_size).sum();
        self.held.passing(passing);
        // Files that are open get their rows before others take their places.
        let is_open = |(key, _): &(Key, _)| self.open.contains_key(key);
        let (open, other): (Vec<_>, Vec<_>) = parts.into_iter().partition(is_open);
        for (key, batches) in open.into_iter().chain(other) {
            for rows in batches {
                self.write(&key, rows, (epoch, epoch)).await?;
            }
            self.touched.insert(key, now_us);
        }
        self.held.passing(0);
        Ok(refused)
    }

    /// The partitions that rows came to since the last commit.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = &Key> {
        self.touched.keys()
    }

    /// When rows came last to the partition that has waited longest for more; `None` when nothing waits for a commit.
    pub(crate) fn idle_since_us(&self) -> Option<i64> {
        self.touched.values().min().copied()
    }

    /// Writes rows of one partition, in the columns of files, that are of these epochs.
    pub(crate) async fn write(
        &mut self,
        key: &Key,
        rows: RecordBatch,
        (first_epoch, last_epoch): (u64, u64),
    ) -> Result<(), ArchiveError> {
        self.turn += 1;
        let mut open = match self.open.remove(key) {
            Some(open) => open,
            None => self.begin(key, first_epoch).await?,
        };
        open.turn = self.turn;
        open.first_epoch = open.first_epoch.min(first_epoch);
        open.last_epoch = open.last_epoch.max(last_epoch);
        let mut encoder = open.encoder;
        let (encoder, ready) = blocking(move || {
            let ready = encoder.push(rows)?;
            Ok((encoder, ready))
        })
        .await?;
        open.encoder = encoder;
        open.group_bytes = open.encoder.held_bytes();
        open.bytes += append(&mut open.file, ready).await?;
        if open.bytes + open.encoder.pending_bytes() as u64 >= self.file_bytes {
            self.full = true;
            self.finish(key.clone(), open).await?;
        } else {
            self.open.insert(key.clone(), open);
        }
        self.make_room().await
    }

    /// Counts what files hold. While that is too much, the one that holds most ends its row group, or is closed when it waits with
    /// bytes for its store.
    pub(crate) async fn make_room(&mut self) -> Result<(), ArchiveError> {
        loop {
            self.count();
            if !self.held.is_over() {
                return Ok(());
            }
            // What VACUUM writes is one file for those that it replaces.
            let may_close = self.file_bytes < u64::MAX;
            let weight = |open: &Open| match may_close {
                true => open.held_bytes(),
                false => open.group_bytes,
            };
            let largest = self.open.iter().max_by_key(|(_, open)| weight(open));
            let Some(key) = largest
                .filter(|(_, open)| weight(open) > 0)
                .map(|(key, _)| key.clone())
            else {
                return Ok(());
            };
            let Some(open) = self.open.remove(&key) else {
                return Ok(());
            };
            if open.group_bytes > 0 {
                self.open.insert(key, flushed(open).await?);
            } else {
                self.end(key, open).await?;
                close(std::mem::take(&mut self.unclosed)).await?;
            }
        }
    }

    fn count(&mut self) {
        let open = self.open.values().map(Open::held_bytes);
        let unclosed = self.unclosed.iter().map(|file| file.held_bytes());
        self.held.by_files(open.chain(unclosed).sum());
    }

    /// Rows that are read to be written again are in memory with this many bytes.
    pub(crate) fn passes(&mut self, bytes: usize) {
        self.held.passing(bytes);
    }

    /// Ends the file of a partition, so that what comes next for it goes into another. Its rows came at `since_ms`.
    pub(crate) async fn cut(
        &mut self,
        key: &Key,
        since_ms: Option<i64>,
    ) -> Result<(), ArchiveError> {
        if let Some(open) = self.open.remove(key) {
            self.finish(key.clone(), open).await?;
            if let Some(done) = self.done.last_mut() {
                done.since_ms = since_ms;
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
            self.generation(),
            self.lineage.next_file.fetch_add(1, Ordering::SeqCst)
        );
        let staged = staged_data(self.generation(), &path);
        Ok(Open {
            file: self.store.create(&staged).await?,
            path,
            encoder: Encoder::new(&self.encoding)?,
            bytes: 0,
            first_epoch: epoch,
            last_epoch: epoch,
            turn: self.turn,
            group_bytes: 0,
        })
    }

    /// Writes the end of a file, and closes it with others when so many wait for that.
    async fn finish(&mut self, key: Key, open: Open) -> Result<(), ArchiveError> {
        self.end(key, open).await?;
        if self.unclosed.len() >= UNCLOSED_MAX {
            close(std::mem::take(&mut self.unclosed)).await?;
        }
        Ok(())
    }

    /// Writes the end of a file.
    async fn end(&mut self, key: Key, open: Open) -> Result<(), ArchiveError> {
        let Open {
            path,
            encoder,
            mut file,
            bytes,
            first_epoch,
            last_epoch,
            turn: _,
            group_bytes: _,
        } = open;
        let encoded = blocking(move || encoder.finish()).await?;
        let bytes = bytes + append(&mut file, encoded.tail).await?;
        file.end().await?;
        self.unclosed.push(file);
        self.done.push(DataFile {
            path,
            rows: encoded.rows,
            bytes,
            partition: key.0,
            first_epoch,
            last_epoch,
            columns: encoded.columns,
            since_ms: None,
        });
        Ok(())
    }

    /// True when a file has reached its size since the last commit, or many files wait for the next.
    pub(crate) fn is_full(&self) -> bool {
        self.full || self.done.len() >= FILES_DUE
    }

    /// Commits what was written, and tells its manifest.
    pub(crate) async fn commit(
        &mut self,
        progress: Progress,
        at_ms: i64,
    ) -> Result<Manifest, CommitFailure> {
        self.replace(Vec::new(), progress, at_ms).await
    }

    /// Commits what was written in the place of these files, and tells its manifest.
    pub(crate) async fn replace(
        &mut self,
        gone: Vec<String>,
        progress: Progress,
        at_ms: i64,
    ) -> Result<Manifest, CommitFailure> {
        let before = |error| CommitFailure { error, begun: None };
        while let Some((key, open)) = self.open.pop_first() {
            self.end(key, open).await.map_err(before)?;
        }
        let lineage = Arc::clone(&self.lineage);
        let mut head = lineage.head.lock().await;
        let last = head.take().ok_or_else(|| before(self.broken()))?;
        let number = last.number + 1;
        let begun = |error| CommitFailure {
            error,
            begun: Some(number),
        };
        let mut manifest = Manifest::new(number, last.generation, at_ms);
        manifest.add = std::mem::take(&mut self.done);
        let files = std::mem::take(&mut self.unclosed);
        manifest.marker = progress.marker;
        manifest.frontier = progress.frontier;
        manifest.feed = progress.feed;
        manifest.replaces(gone);
        let text = manifest.encode().map_err(before)?;
        let staged = staged_manifest(last.generation, number);
        let own = self.store.create(&staged).await;
        let own = own.map_err(|error| before(error.into()))?;
        settle(own, &text, files).await.map_err(begun)?;
        let shared = Arc::clone(&self.store);
        let store = shared.as_ref();
        if manifest.remove.is_empty() {
            let placed = place(store, last.generation, &manifest.add).await;
            placed.map_err(begun)?;
        }
        let sealed = seal(store, &staged, number, &text).await;
        if sealed.map_err(begun)? == Verdict::Fenced {
            lineage.fenced.store(true, Ordering::SeqCst);
            return Err(begun(self.broken()));
        }
        self.full = false;
        self.touched.clear();
        self.count();
        if !manifest.remove.is_empty() {
            let moved = exchange(store, last.generation, &manifest.remove, &manifest.add).await;
            if let Err(error) = moved {
                // It is committed, and our readers find the files; the next take-over finishes it.
                let detail = error.detail();
                tracing::warn!(%error, detail, "files of an archive change places later");
                return Ok(manifest);
            }
        }
        *head = Some(Head { number, ..last });
        Ok(manifest)
    }

    fn broken(&self) -> ArchiveError {
        let archive = self.store.describe();
        match self.lineage.fenced.load(Ordering::SeqCst) {
            true => ArchiveError::Fenced { archive },
            false => ArchiveError::Interrupted { archive },
        }
    }
}

/// The rows of all batches, by partition, and why rows are in none.
fn by_partition(
    layout: &Layout,
    batches: &[RecordBatch],
) -> Result<(Parts, Vec<ArchiveError>), ArchiveError> {
    let (mut parts, mut refused) = (Parts::new(), Vec::new());
    for batch in batches {
        let split = layout.split(batch)?;
        refused.extend(split.refused);
        for (key, rows) in split
            .parts
            .into_iter()
            .filter(|(_, rows)| rows.num_rows() > 0)
        {
            parts.entry(key).or_default().push(rows);
        }
    }
    Ok((parts, refused))
}

/// Makes all files of a commit whole that are not, its manifest `own` among them.
async fn settle(
    mut own: Box<dyn StoreFile>,
    text: &[u8],
    files: Vec<Box<dyn StoreFile>>,
) -> Result<(), ArchiveError> {
    own.write(Bytes::copy_from_slice(text)).await?;
    close(files.into_iter().chain([own]).collect()).await
}

/// Closes files together: that is slow where the store confirms it, and many take no longer than one.
async fn close(files: Vec<Box<dyn StoreFile>>) -> Result<(), ArchiveError> {
    let closes: Vec<_> = files
        .into_iter()
        .map(|mut file| async move { file.close().await })
        .collect();
    let mut closes = futures::stream::iter(closes).buffer_unordered(CLOSES);
    while let Some(closed) = closes.next().await {
        closed?;
    }
    Ok(())
}

/// The file with its row group ended and written.
async fn flushed(mut open: Open) -> Result<Open, ArchiveError> {
    let mut encoder = open.encoder;
    let (encoder, ready) = blocking(move || {
        let ready = encoder.flush()?;
        Ok((encoder, ready))
    })
    .await?;
    open.encoder = encoder;
    open.group_bytes = open.encoder.held_bytes();
    open.bytes += append(&mut open.file, ready).await?;
    Ok(open)
}

async fn append(file: &mut Box<dyn StoreFile>, bytes: Bytes) -> Result<u64, ArchiveError> {
    let length = bytes.len() as u64;
    if length > 0 {
        file.write(bytes).await?;
    }
    Ok(length)
}

/// Encoding takes time that threads of connections do not have.
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(run).await.map_err(internal)?
}
