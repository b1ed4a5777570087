//! What an archive needs from time to time: partitions that get no more rows are closed, rows that are old enough go, and so does
//! what dead writers left behind.
//!
//! Invariant: only who writes the archive does any of this, and never takes over for it. The rows of the archive stay the same but
//! for those that retention names. A partition with a marker has all of its rows: the marker goes before rows come.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex as Lock;
use tokio::sync::Mutex;

use super::checkpoint::{self, CHECKPOINT_COMMITS};
use super::error::ArchiveError;
use super::layout::{Key, Layout};
use super::manifest::{
    DataFile, MANIFESTS, Manifest, REPLACED, SUCCESS, own_data_generation, replaced,
};
use super::snapshot::Snapshot;
use super::table::ArchiveTable;
use super::writer::{CommitFailure, Progress, Writer};
use crate::store::{Moved, StoreFault};

/// Partitions that are marked in one round.
const MARKS_MAX: usize = 64;
/// Markers removed at the same time.
const UNMARKS: usize = 32;

/// When partitions close and rows go, and what is known of it.
#[derive(Debug)]
pub(super) struct Care {
    close_grace: Duration,
    retention: Option<Duration>,
    /// Whether a partition's folder has a marker, for those that were looked at. Locked while rows are committed.
    marks: Mutex<HashMap<Key, bool>>,
    /// Partitions with rows that are not committed.
    pending: Lock<HashSet<Key>>,
    /// The generation whose predecessors' files were looked for.
    swept: AtomicU64,
    /// Files that were replaced before this are gone.
    forgotten_ms: AtomicI64,
    /// The newest checkpoint of the manifests; `u64::MAX` while that is not known.
    checkpointed: AtomicU64,
}

impl Care {
    pub(super) fn new(close_grace: Duration, retention: Option<Duration>) -> Self {
        Self {
            close_grace,
            retention,
            marks: Mutex::default(),
            pending: Lock::default(),
            swept: AtomicU64::new(0),
            forgotten_ms: AtomicI64::new(i64::MIN),
            checkpointed: AtomicU64::new(u64::MAX),
        }
    }

    /// How long a partition gets no rows before it counts as closed.
    pub(super) fn close_grace(&self) -> Duration {
        self.close_grace
    }

    /// Says which partitions have rows that are not committed.
    pub(super) fn gathers(&self, partitions: impl IntoIterator<Item = Key>) {
        *self.pending.lock() = partitions.into_iter().collect();
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// When rows were last added to each partition.
fn partitions(files: &[Arc<DataFile>]) -> BTreeMap<&[Option<String>], i64> {
    let mut newest: BTreeMap<&[Option<String>], i64> = BTreeMap::new();
    for file in files {
        let since = file.since_ms.unwrap_or(i64::MAX);
        let known = newest.entry(&file.partition).or_insert(since);
        *known = since.max(*known);
    }
    newest
}

/// True for a partition to which nothing was added for `grace_ms`, and whose days, if folders are days, are over for as long.
fn is_closed(layout: &Layout, key: &[Option<String>], added_ms: i64, due_ms: i64) -> bool {
    let over = layout.days_end_ms(key).is_none_or(|end| end <= due_ms);
    !key.is_empty() && over && added_ms <= due_ms
}

/// Files whose rows are older than retention allows: by the days of their folders, and without days by when they came.
fn expired(layout: &Layout, files: &[Arc<DataFile>], due_ms: i64) -> Vec<String> {
    let old = |file: &&Arc<DataFile>| {
        let since = || file.since_ms.unwrap_or(i64::MAX);
        layout.days_end_ms(&file.partition).unwrap_or_else(since) <= due_ms
    };
    let files = files.iter().filter(old);
    files.map(|file| file.path.clone()).collect()
}

impl ArchiveTable {
    /// Closes partitions, lets old rows go, and removes what dead writers left; nothing when nobody of this server writes.
    ///
    /// # Errors
    /// What the store reports; the archive is whole after any of them.
    pub async fn upkeep(&self) -> Result<(), ArchiveError> {
        let Some(writer) = self.writer_beside().await else {
            return Ok(());
        };
        let _alone = self.vacuums().lock().await;
        let snapshot = self.snapshot().await?;
        if snapshot.head().generation != writer.generation() {
            return Ok(());
        }
        self.expire(writer).await?;
        let closed = self.closed(self.snapshot().await?.as_ref());
        if let Some(writer) = self.writer_beside().await
            && !closed.is_empty()
        {
            self.compact(writer, &|key| closed.contains(key)).await?;
        }
        self.mark(&closed).await?;
        self.sweep().await?;
        self.forget_replaced().await?;
        self.save_checkpoint().await
    }

    /// Lets rows go that are older than retention allows.
    pub(super) async fn expire(&self, mut writer: Writer) -> Result<(), ArchiveError> {
        let Some(retention) = self.care().retention else {
            return Ok(());
        };
        let now_ms = self.now_us() / 1000;
        let due_ms = now_ms.saturating_sub(ms(retention));
        let before = self.snapshot().await?;
        let gone = expired(self.layout(), before.files(), due_ms);
        if gone.is_empty() {
            return Ok(());
        }
        let files = gone.len();
        let paths: HashSet<String> = gone.iter().cloned().collect();
        let manifest = writer.replace(gone, Progress::default(), now_ms).await;
        self.follow(manifest.map_err(|failure| failure.error)?);
        tracing::info!(archive = %self.store().describe(), files, "rows went by retention");
        // A folder without rows says nothing of rows.
        let kept = before.files().iter();
        let kept = kept.filter(|file| !paths.contains(&file.path));
        let kept: HashSet<&[Option<String>]> = kept.map(|file| file.partition.as_slice()).collect();
        let all = before
            .files()
            .iter()
            .map(|file| Key(file.partition.clone()));
        let gone = |key: &Key| !key.0.is_empty() && !kept.contains(key.0.as_slice());
        let mut empty: Vec<Key> = all.filter(gone).collect();
        empty.sort_unstable();
        empty.dedup();
        let mut marks = self.care().marks.lock().await;
        for key in empty {
            marks.insert(key.clone(), false);
            self.store().delete(&self.marker(&key)?).await?;
        }
        Ok(())
    }

    /// The partitions of a snapshot that get no more rows.
    fn closed(&self, snapshot: &Snapshot) -> HashSet<Key> {
        let due_ms = (self.now_us() / 1000).saturating_sub(ms(self.care().close_grace));
        let pending = self.care().pending.lock();
        partitions(snapshot.files())
            .into_iter()
            .filter(|(key, added)| is_closed(self.layout(), key, *added, due_ms))
            .map(|(key, _)| Key(key.to_vec()))
            .filter(|key| !pending.contains(key))
            .collect()
    }

    fn marker(&self, key: &Key) -> Result<String, ArchiveError> {
        Ok(format!("{}{SUCCESS}", self.layout().folder(key)?))
    }

    /// Puts markers into the folders of partitions that are still closed.
    async fn mark(&self, closed: &HashSet<Key>) -> Result<(), ArchiveError> {
        let mut due: Vec<&Key> = {
            let marks = self.care().marks.lock().await;
            let unmarked = |key: &&Key| marks.get(*key) != Some(&true);
            closed.iter().filter(unmarked).collect()
        };
        due.sort_unstable();
        for key in due.into_iter().take(MARKS_MAX) {
            // Nobody commits meanwhile.
            let mut marks = self.care().marks.lock().await;
            if !self.closed(self.snapshot().await?.as_ref()).contains(key) {
                continue;
            }
            match self.store().create(&self.marker(key)?).await {
                Ok(mut file) => file.close().await?,
                Err(error) if error.fault == StoreFault::Exists => {}
                Err(error) => return Err(error.into()),
            }
            marks.insert(key.clone(), true);
        }
        Ok(())
    }

    /// Commits what a writer has written; the markers of the partitions that get rows go before.
    pub(super) async fn commit_rows(
        &self,
        writer: &mut Writer,
        progress: Progress,
    ) -> Result<Manifest, CommitFailure> {
        let mut marks = self.care().marks.lock().await;
        let before = |error| CommitFailure { error, begun: None };
        let partitions = writer.partitions().filter(|key| !key.0.is_empty());
        let due: Vec<Key> = partitions
            .filter(|key| marks.get(key) != Some(&false))
            .cloned()
            .collect();
        let paths: Result<Vec<String>, ArchiveError> =
            due.iter().map(|key| self.marker(key)).collect();
        let paths = paths.map_err(before)?;
        let gone = paths.iter().map(|path| self.store().delete(path));
        let gone: Vec<_> = gone.collect();
        let mut gone = futures::stream::iter(gone).buffer_unordered(UNMARKS);
        while let Some(removed) = gone.next().await {
            removed.map_err(|error| before(error.into()))?;
        }
        marks.extend(due.into_iter().map(|key| (key, false)));
        writer.commit(progress, self.now_us() / 1000).await
    }

    /// Removes files that writers before this one placed and never committed, and moves those aside that were replaced.
    pub(super) async fn sweep(&self) -> Result<(), ArchiveError> {
        let Some(generation) = self.whole_head().await.map(|head| head.generation) else {
            return Ok(());
        };
        if self.care().swept.load(Ordering::SeqCst) >= generation {
            return Ok(());
        }
        let listed = self.store().list("").await?;
        // After the listing: whatever was committed by then is in it.
        let snapshot = self.snapshot().await?;
        let live: HashSet<&str> = snapshot
            .files()
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        for entry in &listed {
            let path = entry.path.as_str();
            let Some(made_by) = own_data_generation(path) else {
                continue;
            };
            if live.contains(path) || !self.layout().is_path_of_rows(path) {
                continue;
            }
            let aside = replaced(path);
            if snapshot.replaced_at(&aside).is_some() {
                match self.store().rename(path, &aside).await {
                    Ok(Moved::Done) => {}
                    Ok(Moved::Taken) => self.store().delete(path).await?,
                    Err(error) if error.fault == StoreFault::Missing => {}
                    Err(error) => return Err(error.into()),
                }
            } else if made_by < generation {
                // Earlier writers are shut out: what they have not committed they never will.
                self.store().delete(path).await?;
            }
        }
        self.care().swept.store(generation, Ordering::SeqCst);
        Ok(())
    }

    /// Removes files that were replaced longer ago than readers of old commits take.
    pub(super) async fn forget_replaced(&self) -> Result<(), ArchiveError> {
        let due_ms = (self.now_us() / 1000).saturating_sub(ms(self.reader_grace()));
        let forgotten_ms = self.care().forgotten_ms.load(Ordering::SeqCst);
        let snapshot = self.snapshot().await?;
        if forgotten_ms != i64::MIN && !snapshot.replaced_between(forgotten_ms, due_ms) {
            return Ok(());
        }
        let listed = self.store().list(REPLACED).await?;
        // After the listing: what was moved aside by then is known, or so old that a checkpoint has left it out.
        let snapshot = self.snapshot().await?;
        for entry in listed {
            let since = snapshot.replaced_at(&entry.path);
            if since.is_none_or(|since_ms| since_ms <= due_ms) {
                self.store().delete(&entry.path).await?;
            }
        }
        self.care().forgotten_ms.store(due_ms, Ordering::SeqCst);
        Ok(())
    }

    /// Writes a checkpoint of the manifests when enough commits have been made since the last one.
    async fn save_checkpoint(&self) -> Result<(), ArchiveError> {
        let known = &self.care().checkpointed;
        if known.load(Ordering::SeqCst) == u64::MAX {
            let listed = self.store().list(MANIFESTS).await?;
            let newest = checkpoint::newest(&listed).unwrap_or(0);
            known.store(newest, Ordering::SeqCst);
        }
        let head = self.snapshot().await?.head();
        if head.number.saturating_sub(known.load(Ordering::SeqCst)) < CHECKPOINT_COMMITS {
            return Ok(());
        }
        let Some(whole) = self.whole_head().await else {
            return Ok(());
        };
        // Every exchange up to the head of a whole line is done.
        let snapshot = self.snapshot().await?;
        if snapshot.head() != whole {
            return Ok(());
        }
        let since_ms = (self.now_us() / 1000).saturating_sub(ms(self.reader_grace()));
        checkpoint::write(self.store().as_ref(), &snapshot, since_ms).await?;
        known.store(whole.number, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use thalweg_catalog::{Column, SqlType};

    use super::*;

    const DAY: i64 = 86_400_000;

    fn file(partition: &[Option<&str>], since_ms: i64) -> Arc<DataFile> {
        let partition = partition.iter().map(|value| value.map(str::to_owned));
        Arc::new(DataFile {
            path: format!("{since_ms}.parquet"),
            rows: 1,
            bytes: 1,
            partition: partition.collect(),
            first_epoch: 1,
            last_epoch: 1,
            columns: BTreeMap::new(),
            since_ms: Some(since_ms),
        })
    }

    /// Partitioned by region and day.
    fn layout() -> Layout {
        let columns = [
            Column::data("id", 1, SqlType::Int8),
            Column::data("region", 2, SqlType::Text),
            Column::data("dt", 3, SqlType::Date),
        ];
        Layout::new(&columns, &[1, 2]).expect("a layout")
    }

    #[test]
    fn a_partition_closes_when_its_day_is_over_and_nothing_comes() {
        let layout = layout();
        let third = [Some("eu".to_owned()), Some("1970-01-03".to_owned())];
        for (added_ms, due_ms, expected) in [
            (DAY, 3 * DAY, true),
            (3 * DAY, 3 * DAY, true),
            (3 * DAY + 1, 3 * DAY, false),
            (DAY, 3 * DAY - 1, false),
        ] {
            assert_eq!(is_closed(&layout, &third, added_ms, due_ms), expected);
        }
        // Without a day only what comes counts; without partitions nothing ever ends.
        assert!(is_closed(&layout, &[Some("eu".to_owned()), None], 5, 5));
        assert!(!is_closed(&layout, &[], 5, i64::MAX));
    }

    #[test]
    fn rows_go_by_their_day_and_without_one_by_their_age() {
        let layout = layout();
        let files = [
            file(&[Some("eu"), Some("1970-01-03")], 900 * DAY),
            file(&[Some("us"), Some("1970-01-04")], 901 * DAY),
            file(&[Some("eu"), None], 5 * DAY),
            file(&[None, None], 2 * DAY),
        ];
        let names = |due_ms| expired(&layout, &files, due_ms);
        assert_eq!(names(2 * DAY - 1), Vec::<String>::new());
        assert_eq!(names(2 * DAY), [files[3].path.clone()]);
        assert_eq!(
            names(3 * DAY),
            [&files[0], &files[3]].map(|file| file.path.clone())
        );
        assert_eq!(names(10 * DAY).len(), 4);
    }
}
