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
use futures::StreamExt;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::error::ArchiveError;
use super::layout::{Key, internal};
use super::manifest::{DataFile, STAGING, replaced};
use super::recover::{MOVES, place};
use super::snapshot::Snapshot;
use super::table::ArchiveTable;
use super::writer::{Progress, Writer, blocking};
use crate::store::{Moved, Store, StoreFault};

/// Rows that are written again at once.
const BATCH_ROWS: usize = 65_536;

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

/// Which files become one: neighbours by epoch in a partition that are smaller than half of the target, as many as fit into it. An
/// eighth of it stays free: where most values differ, a place in the dictionary of a large file takes more bits than in small ones.
fn bins(files: &[Arc<DataFile>], target: u64) -> Vec<Bin> {
    let room = target - target / 8;
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
            if !bin.is_empty() && bytes.saturating_add(file.bytes) > room {
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
    /// Makes large files of small ones, lets rows go by retention, and removes files that nobody reads any more.
    ///
    /// # Errors
    /// 55000 when nobody of this server writes the archive now, and what the store reports. The archive is whole after any of
    /// them.
    pub async fn vacuum(&self) -> Result<Vacuumed, ArchiveError> {
        let _alone = self.vacuums().lock().await;
        self.expire(self.second_writer().await?).await?;
        let done = self.compact(self.second_writer().await?, &|_| true).await?;
        self.sweep().await?;
        self.forget_replaced().await?;
        Ok(done)
    }

    /// Makes large files of small ones in the partitions that are `wanted`.
    pub(super) async fn compact(
        &self,
        mut writer: Writer,
        wanted: &(dyn Fn(&Key) -> bool + Sync),
    ) -> Result<Vacuumed, ArchiveError> {
        let snapshot = self.snapshot().await?;
        let mut done = Vacuumed::default();
        let mut gone: Vec<String> = Vec::new();
        for bin in bins(snapshot.files(), self.target_bytes()) {
            let key = Key(bin
                .first()
                .map(|file| file.partition.clone())
                .unwrap_or_default());
            if !wanted(&key) {
                continue;
            }
            for file in &bin {
                self.copy(file, &key, &mut writer).await?;
                gone.push(file.path.clone());
            }
            let since_ms = bin.iter().filter_map(|file| file.since_ms).max();
            writer.cut(&key, since_ms).await?;
            done.written += 1;
            done.replaced += bin.len();
        }
        if !gone.is_empty() {
            let now_ms = self.now_us() / 1000;
            let manifest = writer.replace(gone, Progress::default(), now_ms).await;
            self.follow(manifest.map_err(|failure| failure.error)?);
        }
        Ok(done)
    }

    /// Writes the rows of a file again, a batch at a time.
    async fn copy(
        &self,
        file: &DataFile,
        key: &Key,
        writer: &mut Writer,
    ) -> Result<(), ArchiveError> {
        writer.passes(usize::try_from(file.bytes).unwrap_or(usize::MAX));
        let bytes = self.read(file, 0..file.bytes).await?;
        let (schema, path) = (self.layout().file_schema(), file.path.clone());
        let mut reader = reader_of(&path, bytes)?;
        loop {
            let (schema, path) = (Arc::clone(&schema), path.clone());
            let next = blocking(move || {
                let rows = reader.next().map(|batch| {
                    let batch = batch.map_err(|error| damaged(&path, error))?;
                    in_columns(&batch, &schema)
                });
                Ok((reader, rows.transpose()?))
            });
            let (back, rows) = next.await?;
            reader = back;
            let Some(rows) = rows else {
                writer.passes(0);
                return Ok(());
            };
            writer
                .write(key, rows, (file.first_epoch, file.last_epoch))
                .await?;
        }
    }
}

fn damaged(path: &str, error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Damaged {
        path: path.to_owned(),
        detail: error.to_string(),
    }
}

fn reader_of(path: &str, bytes: Bytes) -> Result<ParquetRecordBatchReader, ArchiveError> {
    ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
        .map_err(|error| damaged(path, error))
}

/// The rows in the columns that files have now.
fn in_columns(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArchiveError> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        });
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(internal)?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(internal)
}

/// Takes replaced files away, then puts those in their places that have their rows. What was done before stays done.
pub(crate) async fn exchange(
    store: &dyn Store,
    generation: u64,
    gone: &[String],
    new: &[DataFile],
) -> Result<(), ArchiveError> {
    let moves = gone.iter().map(|path| async move {
        match store.rename(path, &replaced(path)).await {
            Ok(Moved::Done) => Ok(()),
            // Names are never used again: it is there already.
            Ok(Moved::Taken) => store.delete(path).await,
            Err(error) if error.fault == StoreFault::Missing => Ok(()),
            Err(error) => Err(error),
        }
    });
    let moves: Vec<_> = moves.collect();
    // Nobody commits meanwhile.
    let mut moves = futures::stream::iter(moves).buffer_unordered(MOVES);
    while let Some(moved) = moves.next().await {
        moved?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(partition: &str, first_epoch: u64, bytes: u64) -> Arc<DataFile> {
        Arc::new(DataFile {
            path: format!("p={partition}/{first_epoch}.parquet"),
            rows: 1,
            bytes,
            partition: vec![Some(partition.to_owned())],
            first_epoch,
            last_epoch: first_epoch,
            columns: BTreeMap::new(),
            since_ms: None,
        })
    }

    #[test]
    fn neighbours_fill_files_up_to_the_target() {
        // (sizes by epoch, the sizes that go together), for a target of 112, of which 98 are filled.
        let cases: [(&[u64], &[&[u64]]); 7] = [
            (&[], &[]),
            (&[10], &[]),
            (&[10, 20], &[&[10, 20]]),
            // Half of the target is large enough.
            (&[56, 99, 200], &[]),
            (&[10, 56, 20], &[&[10, 20]]),
            (&[40, 40, 18, 40, 40], &[&[40, 40, 18], &[40, 40]]),
            // What is alone in its file stays as it is.
            (&[49, 49, 49], &[&[49, 49]]),
        ];
        for (sizes, expected) in cases {
            let files = (0..)
                .zip(sizes)
                .map(|(epoch, bytes)| file("a", epoch, *bytes));
            let mut files: Vec<_> = files.collect();
            files.reverse();
            // Another partition's files are never among them.
            files.push(file("b", 0, 10));
            let found: Vec<Vec<u64>> = bins(&files, 112)
                .iter()
                .map(|bin| bin.iter().map(|file| file.bytes).collect())
                .collect();
            assert_eq!(found, expected, "{sizes:?}");
        }
    }
}
