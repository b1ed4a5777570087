//! VACUUM ARCHIVE: small files of a partition become large ones, in one commit that holds the same rows as before.
//!
//! Invariant: the rows of the archive are the same at every moment, for readers of any commit. Who lists folders may miss rows while
//! files change places, and never finds one twice: a file goes before those that hold its rows come in.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::new_null_array;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::error::ArchiveError;
use super::layout::{Key, internal};
use super::manifest::{DataFile, REPLACED, STAGING, replaced};
use super::recover::place;
use super::snapshot::Snapshot;
use super::table::ArchiveTable;
use super::writer::{Progress, blocking};
use crate::store::{Moved, Store, StoreFault};

/// What a VACUUM has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vacuumed {
    /// Files that are no part of the archive any more.
    pub replaced: usize,
    /// Files that have their rows.
    pub written: usize,
}

/// Files whose rows go into one.
type Bin = Vec<Arc<DataFile>>;

/// Which files become one: neighbours by epoch in a partition that are smaller than half of the target, as many as fit into it.
fn bins(files: &[Arc<DataFile>], target: u64) -> Vec<Bin> {
    let mut partitions: BTreeMap<&[Option<String>], Bin> = BTreeMap::new();
    for file in files.iter().filter(|file| file.bytes < target / 2) {
        let small = partitions.entry(&file.partition).or_default();
        small.push(Arc::clone(file));
    }
    let mut all = Vec::new();
    for (_, mut small) in partitions {
        small.sort_by(|a, b| (a.first_epoch, &a.path).cmp(&(b.first_epoch, &b.path)));
        let (mut bin, mut bytes): (Bin, u64) = (Vec::new(), 0);
        for file in small {
            if !bin.is_empty() && bytes.saturating_add(file.bytes) > target {
                all.push(std::mem::take(&mut bin));
                bytes = 0;
            }
            bytes = bytes.saturating_add(file.bytes);
            bin.push(file);
        }
        all.push(bin);
    }
    all.retain(|bin| bin.len() > 1);
    all
}

impl ArchiveTable {
    /// Makes large files of small ones, and removes those that were replaced so long ago that nobody reads them.
    ///
    /// # Errors
    /// 55000 when nobody of this server writes the archive now, and what the store reports. The archive's rows are the same
    /// after any of them.
    pub async fn vacuum(&self) -> Result<Vacuumed, ArchiveError> {
        let _alone = self.vacuums().lock().await;
        let mut writer = self.second_writer().await?;
        let snapshot = self.snapshot().await?;
        let mut done = Vacuumed::default();
        let mut gone: Vec<String> = Vec::new();
        for bin in bins(snapshot.files(), self.target_bytes()) {
            let key = Key(bin
                .first()
                .map(|file| file.partition.clone())
                .unwrap_or_default());
            for file in &bin {
                let bytes = self.read(file, 0..file.bytes).await?;
                let (schema, path) = (self.layout().file_schema(), file.path.clone());
                for rows in blocking(move || rows_of(&path, bytes, &schema)).await? {
                    writer
                        .write(&key, rows, (file.first_epoch, file.last_epoch))
                        .await?;
                }
                gone.push(file.path.clone());
            }
            writer.cut(&key).await?;
            done.written += 1;
            done.replaced += bin.len();
        }
        if !gone.is_empty() {
            let now_ms = self.now_us() / 1000;
            let manifest = writer.replace(gone, Progress::default(), now_ms).await;
            self.follow(manifest.map_err(|failure| failure.error)?);
        }
        self.forget_replaced().await?;
        Ok(done)
    }

    /// Removes files that were replaced longer ago than readers of old commits take.
    async fn forget_replaced(&self) -> Result<(), ArchiveError> {
        let snapshot = self.snapshot().await?;
        let grace_ms = i64::try_from(self.reader_grace().as_millis()).unwrap_or(i64::MAX);
        let due_ms = (self.now_us() / 1000).saturating_sub(grace_ms);
        for entry in self.store().list(REPLACED).await? {
            let since = snapshot.replaced_at(&entry.path);
            if since.is_some_and(|since_ms| since_ms <= due_ms) {
                self.store().delete(&entry.path).await?;
            }
        }
        Ok(())
    }
}

/// The rows of a file, in the columns that files have now.
fn rows_of(path: &str, bytes: Bytes, schema: &SchemaRef) -> Result<Vec<RecordBatch>, ArchiveError> {
    let damaged = |error: String| ArchiveError::Damaged {
        path: path.to_owned(),
        detail: error,
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| damaged(error.to_string()))?;
    let mut all = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        let columns =
            schema
                .fields()
                .iter()
                .map(|field| match batch.column_by_name(field.name()) {
                    Some(column) => cast(column, field.data_type()),
                    None => Ok(new_null_array(field.data_type(), batch.num_rows())),
                });
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(internal)?;
        all.push(RecordBatch::try_new(Arc::clone(schema), columns).map_err(internal)?);
    }
    Ok(all)
}

/// Takes replaced files away, then puts those in their places that have their rows. What was done before stays done.
pub(crate) async fn exchange(
    store: &dyn Store,
    generation: u64,
    gone: &[String],
    new: &[DataFile],
) -> Result<(), ArchiveError> {
    for path in gone {
        match store.rename(path, &replaced(path)).await {
            Ok(Moved::Done) => {}
            // Names are never used again: it is there already.
            Ok(Moved::Taken) => store.delete(path).await?,
            Err(error) if error.fault == StoreFault::Missing => {}
            Err(error) => return Err(error.into()),
        }
    }
    place(store, generation, new).await
}

/// Finishes exchanges that a crash cut off.
pub(crate) async fn finish_exchanges(
    store: &dyn Store,
    snapshot: &Snapshot,
) -> Result<(), ArchiveError> {
    let staged = store.list(STAGING).await?;
    let staged: HashSet<String> = staged.into_iter().map(|entry| entry.path).collect();
    for due in snapshot.unfinished(&staged) {
        exchange(store, due.generation, &due.gone, &due.new).await?;
    }
    Ok(())
}
