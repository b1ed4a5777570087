//! An archive as statements see it: what it holds, and rows that are added to it.
//!
//! Invariant: of the rows of one call either all become visible at once or none, and an error says which, or that nobody knows.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parking_lot::RwLock;
use thalweg_catalog::{Relation, RelationKind};
use tokio::sync::Mutex;

use super::decide::Head;
use super::encode::Encoding;
use super::error::ArchiveError;
use super::feed::FeedId;
use super::layout::Layout;
use super::manifest::{DataFile, Manifest, data_generation, manifest_path, replaced, staged_data};
use super::memory::{Held, WriterMemory};
use super::recover::take_over;
use super::snapshot::Snapshot;
use super::upkeep::Care;
use super::writer::{CommitFailure, Lineage, Progress, Writer};
use crate::context::{Clock, ConnectorContext};
use crate::error::ConnectorError;
use crate::options::Options;
use crate::store::{HdfsStore, LocalStore, Store, StoreError, StoreFault, azure_store, s3_store};

/// Size at which a file is finished unless `rollover.size` says otherwise.
const FILE_BYTES: u64 = 128 << 20;
/// Size of the files that VACUUM makes unless `compaction.target.size` says otherwise.
const TARGET_BYTES: u64 = 512 << 20;
/// How long readers find files that were replaced unless `reader.grace` says otherwise.
const READER_GRACE: Duration = Duration::from_secs(3600);
/// How long a partition gets no rows before it is closed unless `partition.close.grace` says otherwise.
const CLOSE_GRACE: Duration = Duration::from_secs(15 * 60);
/// Age at which rows are committed unless `rollover.interval` says otherwise.
const ROLLOVER: Duration = Duration::from_secs(5 * 60);

/// An archive, with the folder it is in.
#[derive(Debug)]
pub struct ArchiveTable {
    store: Arc<dyn Store>,
    layout: Arc<Layout>,
    encoding: Encoding,
    file_bytes: u64,
    rollover: Duration,
    /// What its deliveries are known by in the manifests.
    name: String,
    attach: bool,
    clock: Arc<dyn Clock>,
    newest: RwLock<Option<Arc<Snapshot>>>,
    writer: Mutex<Slot>,
    /// What the newest writer of this server goes on with.
    lineage: RwLock<Option<Arc<Lineage>>>,
    fed: bool,
    feed: Option<FeedId>,
    target_bytes: u64,
    reader_grace: Duration,
    /// Shared with all other archives.
    writer_memory: Arc<WriterMemory>,
    /// Bytes that its own writers hold.
    held: Arc<AtomicUsize>,
    /// Two at a time would both replace the same files.
    vacuums: Mutex<()>,
    care: Care,
}

/// What an archive is made of.
pub(super) struct Parts {
    pub(super) store: Arc<dyn Store>,
    pub(super) layout: Layout,
    pub(super) encoding: Encoding,
    pub(super) file_bytes: u64,
    pub(super) rollover: Duration,
    pub(super) writer: String,
    /// A source or view fills it, and statements do not.
    pub(super) fed: bool,
    /// What that is; without it a place is taken to be one of the same feed.
    pub(super) feed: Option<FeedId>,
    /// Size of the files that VACUUM makes.
    pub(super) target_bytes: u64,
    /// How long readers find files that were replaced.
    pub(super) reader_grace: Duration,
    /// How long a partition gets no rows before it is closed.
    pub(super) close_grace: Duration,
    /// After which time rows go.
    pub(super) retention: Option<Duration>,
    pub(super) attach: bool,
    pub(super) writer_memory: Arc<WriterMemory>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Who writes.
enum Slot {
    /// Nobody of this process: yet, or since the writer of this generation failed.
    Vacant(Option<u64>),
    /// We do.
    Ours(Box<Writer>),
    /// Another process has taken over, for good.
    Lost,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Slot::Vacant(_) => "Vacant",
            Slot::Ours(_) => "Ours",
            Slot::Lost => "Lost",
        })
    }
}

impl ArchiveTable {
    /// The archive that a relation declares, and what fills it. Contacts nobody.
    ///
    /// # Errors
    /// 22023 for an option that cannot work, 0A000 for a column type that cannot be kept or a store this build does not have.
    pub fn new(
        relation: &Relation,
        feed: Option<FeedId>,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        let RelationKind::Archive(spec) = &relation.kind else {
            return Err(ConnectorError::Internal(format!(
                "relation \"{}\" is not an archive",
                relation.name
            )));
        };
        let partition: Vec<usize> = spec
            .partition_by
            .iter()
            .filter_map(|name| {
                relation
                    .columns
                    .iter()
                    .position(|column| column.name == *name)
            })
            .collect();
        let layout = Layout::new(&relation.columns, &partition)?;
        let options = Options(&spec.options);
        let encoding = Encoding::new(
            layout.file_schema(),
            Options(&spec.encode_options),
            options.text("sort_by"),
        )?;
        let path = options.required("path")?;
        let store: Arc<dyn Store> = match spec.connector.as_str() {
            "file" => Arc::new(LocalStore::new(&context.file_root, path)?),
            "hdfs" => Arc::new(HdfsStore::new(options)?),
            "s3" => Arc::new(s3_store(options, context)?),
            "azure" => Arc::new(azure_store(options, context)?),
            other => {
                return Err(ConnectorError::Unsupported {
                    what: format!("an archive with connector \"{other}\""),
                    hint: "Use connector = 'file', 'hdfs', 's3' or 'azure'.".into(),
                });
            }
        };
        Ok(Self::of(Parts {
            store: context.stepped(store),
            layout,
            encoding,
            file_bytes: options.u64("rollover.size")?.unwrap_or(FILE_BYTES),
            rollover: options.duration("rollover.interval")?.unwrap_or(ROLLOVER),
            writer: format!("{}/{}", context.installation, relation.oid.0),
            fed: spec.feed.is_some(),
            feed,
            target_bytes: options
                .u64("compaction.target.size")?
                .unwrap_or(TARGET_BYTES),
            reader_grace: options.duration("reader.grace")?.unwrap_or(READER_GRACE),
            close_grace: options
                .duration("partition.close.grace")?
                .unwrap_or(CLOSE_GRACE),
            retention: options.duration("retention")?,
            attach: options.bool("attach")?.unwrap_or(false),
            writer_memory: Arc::clone(&context.writer_memory),
            clock: Arc::clone(&context.clock),
        }))
    }

    pub(super) fn of(parts: Parts) -> Self {
        Self {
            store: parts.store,
            layout: Arc::new(parts.layout),
            encoding: parts.encoding,
            file_bytes: parts.file_bytes,
            rollover: parts.rollover,
            name: parts.writer,
            attach: parts.attach,
            clock: parts.clock,
            newest: RwLock::default(),
            writer: Mutex::new(Slot::Vacant(None)),
            lineage: RwLock::default(),
            fed: parts.fed,
            feed: parts.feed,
            target_bytes: parts.target_bytes,
            reader_grace: parts.reader_grace,
            writer_memory: parts.writer_memory,
            held: Arc::default(),
            vacuums: Mutex::default(),
            care: Care::new(parts.close_grace, parts.retention),
        }
    }

    /// Its columns.
    pub fn schema(&self) -> SchemaRef {
        self.layout.schema()
    }

    /// Where its columns are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where its files are.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Asks whether a new archive can be in the folder; leaves nothing behind.
    ///
    /// # Errors
    /// 42710 when it holds rows already and the archive does not attach to them, 42P16 when their columns do not fit, and what
    /// the store reports.
    pub(super) async fn check(&self) -> Result<(), ArchiveError> {
        let there = Snapshot::load(self.store.as_ref()).await?;
        if !there.files().is_empty() {
            let archive = self.store.describe();
            if !self.attach {
                return Err(ArchiveError::Occupied { archive });
            }
            if let Some(shape) = there.shape() {
                let fits = self.layout.fits(shape);
                fits.map_err(|detail| ArchiveError::Misfit { archive, detail })?;
            }
        }
        Ok(())
    }

    /// Takes the folder for a new archive, at CREATE.
    ///
    /// # Errors
    /// 42710 when it holds rows already and the archive does not attach to them, 42P16 when their columns do not fit, and what
    /// the store reports.
    pub async fn claim(&self) -> Result<(), ArchiveError> {
        self.check().await?;
        let mut slot = self.writer.lock().await;
        *slot = Slot::Ours(Box::new(self.open().await?.0));
        Ok(())
    }

    /// What the archive holds now.
    ///
    /// # Errors
    /// XX001 when a manifest is missing or damaged, and what the store reports.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>, ArchiveError> {
        let known = self.newest.read().clone();
        let snapshot = match known {
            Some(known) => match known.newer(self.store.as_ref()).await? {
                None => return Ok(known),
                Some(newer) => newer,
            },
            None => {
                let loaded = Snapshot::load(self.store.as_ref()).await?;
                // CREATE ARCHIVE has made the first one.
                if loaded.head().number == 0 {
                    return Err(ArchiveError::Gap {
                        archive: self.store.describe(),
                        number: 1,
                    });
                }
                loaded
            }
        };
        Ok(self.keep(snapshot))
    }

    /// Adds rows of the archive's columns in one commit.
    ///
    /// # Errors
    /// 22001 and 22023 for a value that cannot name a folder, or another [`ArchiveError`]; only after [`ArchiveError::Unknown`] the rows may be there.
    pub async fn insert(&self, rows: &[RecordBatch], epoch: u64) -> Result<(), ArchiveError> {
        if rows.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(());
        }
        let mut slot = self.writer.lock().await;
        let mut writer = self.take(&mut slot).await?;
        let generation = writer.generation();
        *slot = Slot::Vacant(Some(generation));
        // What was staged is swept by the next writer.
        let refused = writer.push(rows.to_vec(), epoch, self.now_us()).await?;
        if let Some(error) = refused.into_iter().next() {
            return Err(error);
        }
        match self.commit_rows(&mut writer, Progress::default()).await {
            Ok(manifest) => {
                self.follow(manifest);
                *slot = Slot::Ours(writer);
                Ok(())
            }
            Err(CommitFailure { error, begun }) => {
                let (next, settled) = match begun {
                    None => (Slot::Vacant(Some(generation)), Err(error)),
                    Some(number) => self.settle(number, generation, error).await,
                };
                *slot = next;
                settled
            }
        }
    }

    /// The writer, which is opened when there is none.
    async fn take(&self, slot: &mut Slot) -> Result<Box<Writer>, ArchiveError> {
        let ours = match &*slot {
            Slot::Ours(writer) => Some((writer.lineage(), writer.generation())),
            Slot::Vacant(_) | Slot::Lost => None,
        };
        if let Some((lineage, generation)) = ours
            && !lineage.is_whole().await
        {
            *slot = Slot::Vacant(Some(generation));
        }
        match std::mem::replace(slot, Slot::Lost) {
            Slot::Ours(writer) => Ok(writer),
            Slot::Lost => Err(self.fenced()),
            Slot::Vacant(last) => {
                *slot = Slot::Vacant(last);
                if let Some(last) = last {
                    let head = Snapshot::load(self.store.as_ref()).await?.head();
                    // Whoever took over while ours failed goes on.
                    if head.generation > last {
                        *slot = Slot::Lost;
                        return Err(self.fenced());
                    }
                }
                Ok(Box::new(self.open().await?.0))
            }
        }
    }

    /// Finds out what became of a commit of ours whose end was not seen.
    async fn settle(
        &self,
        number: u64,
        generation: u64,
        error: ArchiveError,
    ) -> (Slot, Result<(), ArchiveError>) {
        let unknown = |because: &ArchiveError| ArchiveError::Unknown {
            archive: self.store.describe(),
            detail: match because.detail() {
                Some(detail) => format!("{because}: {detail}"),
                None => because.to_string(),
            },
        };
        let head = match Snapshot::load(self.store.as_ref()).await {
            Ok(snapshot) => snapshot.head(),
            Err(_) => return (Slot::Vacant(Some(generation)), Err(unknown(&error))),
        };
        let next = if head.generation > generation {
            Slot::Lost
        } else {
            // Finishes the commit when all of it is there, and takes its number away when not.
            match self.open().await {
                Ok((writer, _)) => Slot::Ours(Box::new(writer)),
                Err(_) => return (Slot::Vacant(None), Err(unknown(&error))),
            }
        };
        let settled = match self.committed_by(number).await {
            Ok(by) if by == generation => Ok(()),
            Ok(_) if matches!(next, Slot::Lost) => Err(self.fenced()),
            Ok(_) => Err(error),
            Err(_) => Err(unknown(&error)),
        };
        (next, settled)
    }

    /// The generation of the writer that made a commit.
    async fn committed_by(&self, number: u64) -> Result<u64, ArchiveError> {
        let path = manifest_path(number);
        let bytes = self.store.length(&path).await?.unwrap_or(0);
        let text = self.store.read(&path, 0..bytes).await?;
        Ok(Manifest::decode(&path, number, &text)?.generation)
    }

    /// A writer that has shut out all others, and what it found.
    async fn open(&self) -> Result<(Writer, Arc<Snapshot>), ArchiveError> {
        self.open_after(None).await
    }

    /// As [`Self::open`] for deliveries, and refused once when another server has taken over from the last writer of this one.
    /// Whoever asks again wants to take over from that server.
    pub(super) async fn open_again(&self) -> Result<(Writer, Arc<Snapshot>), ArchiveError> {
        // From here on the newest generation may be ours without our knowing it.
        let last = self.lineage.write().take();
        self.open_after(last.map(|last| last.generation())).await
    }

    /// Has the next writer take over, whoever writes.
    pub(super) fn give_way(&self) {
        self.lineage.write().take();
    }

    async fn open_after(&self, last: Option<u64>) -> Result<(Writer, Arc<Snapshot>), ArchiveError> {
        let (store, now_us) = (self.store.as_ref(), self.clock.now_us());
        let snapshot = take_over(store, self.layout.shape(), now_us, last).await?;
        let lineage = Lineage::new(snapshot.head());
        *self.lineage.write() = Some(Arc::clone(&lineage));
        let snapshot = self.keep(snapshot);
        Ok((self.writer_of(lineage, self.file_bytes), snapshot))
    }

    fn writer_of(&self, lineage: Arc<Lineage>, file_bytes: u64) -> Writer {
        Writer::new(
            Arc::clone(&self.store),
            Arc::clone(&self.layout),
            self.encoding.clone(),
            file_bytes,
            lineage,
            Held::new(Arc::clone(&self.writer_memory), Arc::clone(&self.held)),
        )
    }

    /// A writer beside the one that adds rows, whose files have no limit; the one that adds rows is opened when there is none.
    pub(super) async fn second_writer(&self) -> Result<Writer, ArchiveError> {
        if !self.fed {
            let mut slot = self.writer.lock().await;
            let first = self.take(&mut slot).await?;
            *slot = Slot::Ours(first);
        }
        let interrupted = || ArchiveError::Interrupted {
            archive: self.store.describe(),
        };
        self.writer_beside().await.ok_or_else(interrupted)
    }

    /// A writer beside the one that adds rows; `None` when nobody of this server writes.
    pub(super) async fn writer_beside(&self) -> Option<Writer> {
        let lineage = self.lineage.read().clone()?;
        let whole = lineage.is_whole().await;
        whole.then(|| self.writer_of(lineage, u64::MAX))
    }

    /// The newest commit of this server's writer, when no other is being made and all ended well.
    pub(super) async fn whole_head(&self) -> Option<Head> {
        let lineage = self.lineage.read().clone()?;
        lineage.head().await
    }

    /// Bytes of a file that is part of the archive at some commit. While files change places it is looked for where it was and
    /// where it will be.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn read(&self, file: &DataFile, range: Range<u64>) -> Result<Bytes, StoreError> {
        let first = self.store.read(&file.path, range.clone()).await;
        if !matches!(&first, Err(error) if error.fault == StoreFault::Missing) {
            return first;
        }
        let staged = data_generation(&file.path);
        let staged = staged.map(|generation| staged_data(generation, &file.path));
        let places = [staged, Some(file.path.clone()), Some(replaced(&file.path))];
        for place in places.into_iter().flatten() {
            match self.store.read(&place, range.clone()).await {
                Err(error) if error.fault == StoreFault::Missing => {}
                found => return found,
            }
        }
        first
    }

    /// Bytes of memory that files being written hold, and rows on their way into them.
    pub fn held_bytes(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub(super) fn care(&self) -> &Care {
        &self.care
    }

    pub(super) fn vacuums(&self) -> &Mutex<()> {
        &self.vacuums
    }

    pub(super) fn target_bytes(&self) -> u64 {
        self.target_bytes
    }

    pub(super) fn reader_grace(&self) -> Duration {
        self.reader_grace
    }

    /// What its deliveries are known by in the manifests.
    pub(super) fn writer_name(&self) -> &str {
        &self.name
    }

    /// What fills it.
    pub(super) fn feed(&self) -> Option<&FeedId> {
        self.feed.as_ref()
    }

    /// True when its own deliveries may begin where another archive ended.
    pub fn is_attached(&self) -> bool {
        self.attach && self.fed
    }

    /// Age at which delivered rows are committed.
    pub(super) fn rollover(&self) -> Duration {
        self.rollover
    }

    /// Microseconds since the Unix epoch.
    pub(super) fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    /// Keeps the newest snapshot for the next reader.
    fn keep(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let mut newest = self.newest.write();
        match newest.as_ref() {
            Some(known) if known.head() >= snapshot.head() => Arc::clone(known),
            _ => Arc::clone(newest.insert(Arc::new(snapshot))),
        }
    }

    /// Adds a commit of ours to the snapshot that is kept.
    pub(super) fn follow(&self, manifest: Manifest) {
        let mut newest = self.newest.write();
        if let Some(known) = newest.as_ref()
            && known.head().number + 1 == manifest.number
        {
            let mut next = Snapshot::clone(known);
            next.apply(manifest);
            *newest = Some(Arc::new(next));
        }
    }

    fn fenced(&self) -> ArchiveError {
        ArchiveError::Fenced {
            archive: self.store.describe(),
        }
    }
}
