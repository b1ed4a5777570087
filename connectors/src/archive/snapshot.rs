//! What an archive holds at one commit, read from its manifests.
//!
//! Invariant: a snapshot is the sum of the manifests from 1 to its head, of which some take files away: of those after the newest
//! checkpoint, each read once, and of the checkpoint. A number that is missing in between is an error, never a smaller answer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, UInt64Array};
use arrow::datatypes::DataType;
use futures::{StreamExt, TryStreamExt};

use super::checkpoint::{self, Checkpoint, StoredReached};
use super::decide::Head;
use super::error::ArchiveError;
use super::feed::FeedId;
use super::layout::typed;
use super::manifest::{
    DataFile, MANIFEST_BYTES_MAX, MANIFESTS, Manifest, Shape, StoredMarker, manifest_number,
    manifest_path, replaced, staged_data,
};
use crate::commit::Marker;
use crate::source::Offsets;
use crate::store::{Store, StoreFault};

/// Manifests read at the same time.
const READS: usize = 16;

/// An archive at one commit.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    head: Head,
    files: Vec<Arc<DataFile>>,
    shape: Option<Arc<Shape>>,
    reached: BTreeMap<String, Arc<Reached>>,
    /// When files were replaced, in milliseconds since the Unix epoch, by where they are now.
    replaced: BTreeMap<String, i64>,
    exchanges: Vec<Arc<Exchange>>,
}

/// Files that took the place of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) generation: u64,
    pub(crate) gone: Vec<String>,
    pub(crate) new: Vec<DataFile>,
}

/// How far the input of one who fills an archive is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The newest delivery.
    pub marker: Marker,
    /// By name of source: where reading goes on after all that is committed. Empty when this is not known.
    pub frontier: BTreeMap<String, Offsets>,
    /// The commit that says so; 0 when an older release has written that down.
    pub number: u64,
    /// What the frontier is of; `None` when an older release has written that down.
    pub feed: Option<FeedId>,
}

/// What is known of one column in each file of a snapshot, or of a choice of them.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// No value is less; NULL where this is not known.
    pub min: ArrayRef,
    /// No value is greater; NULL where this is not known.
    pub max: ArrayRef,
    /// Number of NULLs; NULL where this is not known.
    pub nulls: UInt64Array,
}

impl Snapshot {
    /// Reads the newest checkpoint and every manifest after it. A folder without any gives the snapshot before the first commit.
    pub(crate) async fn load(store: &dyn Store) -> Result<Self, ArchiveError> {
        let listed = store.list(MANIFESTS).await?;
        let mut snapshot = checkpoint::load(store, &listed).await?;
        let first = snapshot.head.number + 1;
        let numbers = listed
            .iter()
            .filter_map(|entry| manifest_number(&entry.path).map(|number| (number, entry.bytes)))
            .filter(|(number, _)| *number >= first);
        let mut due = Vec::new();
        for (expected, (number, bytes)) in (first..).zip(numbers) {
            if number != expected {
                return Err(ArchiveError::Gap {
                    archive: store.describe(),
                    number: expected,
                });
            }
            due.push(read_manifest(store, number, bytes));
        }
        let manifests: Vec<Manifest> = futures::stream::iter(due)
            .buffered(READS)
            .try_collect()
            .await?;
        for manifest in manifests {
            snapshot.apply(manifest);
        }
        Ok(snapshot)
    }

    /// The snapshot at the newest commit, when that is newer than this.
    pub(crate) async fn newer(&self, store: &dyn Store) -> Result<Option<Self>, ArchiveError> {
        let mut newer: Option<Self> = None;
        loop {
            let next = newer.as_ref().unwrap_or(self).head.number + 1;
            let Some(bytes) = store.length(&manifest_path(next)).await? else {
                return Ok(newer);
            };
            let manifest = read_manifest(store, next, bytes).await?;
            newer.get_or_insert_with(|| self.clone()).apply(manifest);
        }
    }

    pub(crate) fn apply(&mut self, manifest: Manifest) {
        self.head = Head {
            number: manifest.number,
            generation: manifest.generation,
        };
        if !manifest.remove.is_empty() {
            let gone: HashSet<&String> = manifest.remove.iter().collect();
            self.files.retain(|file| !gone.contains(&file.path));
            for path in &manifest.remove {
                self.replaced.insert(replaced(path), manifest.at_ms);
            }
            self.exchanges.push(Arc::new(Exchange {
                generation: manifest.generation,
                gone: manifest.remove,
                new: manifest.add.clone(),
            }));
        }
        let at_ms = manifest.at_ms;
        self.files.extend(manifest.add.into_iter().map(|mut file| {
            file.since_ms.get_or_insert(at_ms);
            Arc::new(file)
        }));
        if let Some(shape) = manifest.shape {
            self.shape = Some(Arc::new(shape));
        }
        if let Some(stored) = manifest.marker {
            let reached = Reached {
                marker: Marker::from(&stored),
                frontier: manifest.frontier,
                number: manifest.number,
                feed: manifest.feed,
            };
            self.reached.insert(stored.writer, Arc::new(reached));
        }
    }

    /// What a checkpoint holds.
    pub(crate) fn of(checkpoint: Checkpoint) -> Self {
        let reached = checkpoint.reached.into_iter().map(|stored| {
            let reached = Reached {
                marker: Marker::from(&stored.marker),
                frontier: stored.frontier,
                number: stored.number,
                feed: stored.feed,
            };
            (stored.marker.writer, Arc::new(reached))
        });
        Self {
            head: Head {
                number: checkpoint.number,
                generation: checkpoint.generation,
            },
            files: checkpoint.files.into_iter().map(Arc::new).collect(),
            shape: checkpoint.shape.map(Arc::new),
            reached: reached.collect(),
            replaced: checkpoint.replaced,
            exchanges: Vec::new(),
        }
    }

    /// A checkpoint of it, without its exchanges and without files that were replaced before `since_ms`.
    pub(crate) fn checkpoint(&self, since_ms: i64) -> Checkpoint {
        let files = self.files.iter().map(|file| DataFile::clone(file));
        let reached = self.reached.iter().map(|(writer, reached)| StoredReached {
            marker: StoredMarker::new(writer, reached.marker),
            frontier: reached.frontier.clone(),
            number: reached.number,
            feed: reached.feed.clone(),
        });
        let recent = |(_, at_ms): &(&String, &i64)| **at_ms >= since_ms;
        let replaced = self.replaced.iter().filter(recent);
        Checkpoint {
            shape: self.shape.as_deref().cloned(),
            reached: reached.collect(),
            replaced: replaced.map(|(path, at)| (path.clone(), *at)).collect(),
            ..Checkpoint::new(self.head.number, self.head.generation, files.collect())
        }
    }

    /// Its newest commit.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The files that are the archive.
    pub fn files(&self) -> &[Arc<DataFile>] {
        &self.files
    }

    /// How far what this writer was given is committed; `None` before its first commit.
    pub(crate) fn reached(&self, writer: &str) -> Option<&Arc<Reached>> {
        self.reached.get(writer)
    }

    /// The one who filled the archive last before this writer, and how far what it was given is committed.
    pub(crate) fn filled_before(&self, writer: &str) -> Option<(&str, &Arc<Reached>)> {
        let others = self.reached.iter().filter(|(other, _)| *other != writer);
        let newest = others.max_by_key(|(_, reached)| (reached.number, reached.marker));
        newest.map(|(other, reached)| (other.as_str(), reached))
    }

    /// When the file was replaced that is at this place now, in milliseconds since the Unix epoch.
    pub(crate) fn replaced_at(&self, path: &str) -> Option<i64> {
        self.replaced.get(path).copied()
    }

    /// True when files were replaced after the first of these moments and not after the second.
    pub(crate) fn replaced_between(&self, after_ms: i64, through_ms: i64) -> bool {
        let within = |at_ms: &i64| (after_ms.saturating_add(1)..=through_ms).contains(at_ms);
        self.replaced.values().any(within)
    }

    /// Exchanges of which a file that is part of the archive is still among the `staged` ones.
    pub(crate) fn unfinished(&self, staged: &HashSet<String>) -> Vec<Arc<Exchange>> {
        let live: HashSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let due = |exchange: &&Arc<Exchange>| {
            exchange.new.iter().any(|file| {
                live.contains(file.path.as_str())
                    && staged.contains(&staged_data(exchange.generation, &file.path))
            })
        };
        self.exchanges.iter().filter(due).cloned().collect()
    }

    pub(crate) fn shape(&self) -> Option<&Shape> {
        self.shape.as_deref()
    }

    /// What is known of a column in each file.
    pub fn bounds(files: &[Arc<DataFile>], column: &str, ty: &DataType) -> Bounds {
        let range = |file: &Arc<DataFile>| file.columns.get(column).cloned();
        let ranges: Vec<_> = files.iter().map(range).collect();
        let text = |pick: fn(&super::manifest::ColumnRange) -> Option<&String>| -> ArrayRef {
            let texts: StringArray = ranges
                .iter()
                .map(|range| range.as_ref().and_then(pick))
                .collect();
            typed(&(Arc::new(texts) as ArrayRef), ty)
        };
        Bounds {
            min: text(|range| range.min.as_ref()),
            max: text(|range| range.max.as_ref()),
            nulls: ranges
                .iter()
                .map(|range| range.as_ref().and_then(|range| range.nulls))
                .collect(),
        }
    }
}

async fn read_manifest(
    store: &dyn Store,
    number: u64,
    bytes: u64,
) -> Result<Manifest, ArchiveError> {
    let path = manifest_path(number);
    if bytes > MANIFEST_BYTES_MAX {
        return Err(ArchiveError::Damaged {
            path,
            detail: format!("It is {bytes} bytes long."),
        });
    }
    match store.read(&path, 0..bytes).await {
        Ok(text) => Manifest::decode(&path, number, &text),
        Err(error) if error.fault == StoreFault::Missing => Err(ArchiveError::Gap {
            archive: store.describe(),
            number,
        }),
        Err(error) => Err(error.into()),
    }
}
