//! Checkpoints of the manifests: what an archive holds at one commit, in one file, so that nobody has to read all commits before it.
//!
//! Invariant: a checkpoint is the sum of the manifests up to its number, and is written only when every exchange of files among
//! them is done. The manifests stay, and one that cannot be read costs time, never rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::ArchiveError;
use super::feed::FeedId;
use super::layout::internal;
use super::manifest::{
    DataFile, MANIFEST_BYTES_MAX, MANIFESTS, REPLACED, Shape, StoredMarker, is_data_path,
    staging_folder,
};
use super::recover::write_whole;
use super::snapshot::Snapshot;
use crate::store::{Entry, Moved, Store, StoreFault};

/// Version of this layout; another one is passed over.
const FORMAT: u32 = 1;
/// Commits after which another checkpoint is due.
pub(crate) const CHECKPOINT_COMMITS: u64 = 64;
/// Checkpoints that stay: a reader may be about to read the one before the newest.
const KEPT: usize = 2;
/// End of the name of a checkpoint.
const SUFFIX: &str = ".checkpoint.json";

/// An archive at one commit, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) format: u32,
    /// The newest commit in it.
    pub(crate) number: u64,
    /// Its writer.
    pub(crate) generation: u64,
    pub(crate) files: Vec<DataFile>,
    /// Rows in the files: what was cut or changed does not go unnoticed.
    pub(crate) rows: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<Shape>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reached: Vec<StoredReached>,
    /// When files were replaced, by where they are now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) replaced: BTreeMap<String, i64>,
}

/// How far one who fills the archive has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredReached {
    pub(crate) marker: StoredMarker,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) frontier: BTreeMap<String, BTreeMap<String, u64>>,
    /// The commit that says so.
    #[serde(default)]
    pub(crate) number: u64,
    /// What the frontier is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) feed: Option<FeedId>,
}

impl Checkpoint {
    /// One with these files and nothing else.
    pub(crate) fn new(number: u64, generation: u64, files: Vec<DataFile>) -> Self {
        Self {
            format: FORMAT,
            number,
            generation,
            rows: files.iter().map(|file| file.rows).sum(),
            files,
            shape: None,
            reached: Vec::new(),
            replaced: BTreeMap::new(),
        }
    }

    /// Reads the text of checkpoint `number`; what is wrong with it, when it cannot be used.
    fn decode(number: u64, bytes: &[u8]) -> Result<Self, String> {
        let checkpoint: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let rows: u64 = checkpoint.files.iter().map(|file| file.rows).sum();
        if checkpoint.format != FORMAT {
            return Err(format!("it has format {}", checkpoint.format));
        }
        if (checkpoint.number, checkpoint.rows) != (number, rows) {
            return Err("it is not what was written".into());
        }
        let inside = |file: &DataFile| is_data_path(&file.path) && file.since_ms.is_some();
        let aside = |path: &String| {
            let name = path
                .strip_prefix(REPLACED)
                .and_then(|path| path.strip_prefix('/'));
            name.is_some_and(is_data_path)
        };
        if !checkpoint.files.iter().all(inside) || !checkpoint.replaced.keys().all(aside) {
            return Err("it names a file outside of the archive".into());
        }
        Ok(checkpoint)
    }
}

/// Path of a checkpoint.
fn checkpoint_path(number: u64) -> String {
    format!("{MANIFESTS}/{number:020}{SUFFIX}")
}

/// Number in the path of a checkpoint; `None` for other files.
fn checkpoint_number(path: &str) -> Option<u64> {
    let name = path.strip_prefix(MANIFESTS)?.strip_prefix('/')?;
    let digits = name.strip_suffix(SUFFIX)?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// The newest of the checkpoints among the files of the manifests' folder.
pub(crate) fn newest(listed: &[Entry]) -> Option<u64> {
    let numbers = listed
        .iter()
        .filter_map(|entry| checkpoint_number(&entry.path));
    numbers.max()
}

/// The archive at its newest checkpoint that can be read; without one it is as before the first commit.
pub(crate) async fn load(store: &dyn Store, listed: &[Entry]) -> Result<Snapshot, ArchiveError> {
    let mut found: Vec<(u64, u64)> = listed
        .iter()
        .filter_map(|entry| Some((checkpoint_number(&entry.path)?, entry.bytes)))
        .filter(|(_, bytes)| *bytes <= MANIFEST_BYTES_MAX)
        .collect();
    found.sort_unstable();
    for (number, bytes) in found.into_iter().rev() {
        let text = match store.read(&checkpoint_path(number), 0..bytes).await {
            Ok(text) => text,
            // An older one that was taken away meanwhile.
            Err(error) if error.fault == StoreFault::Missing => continue,
            Err(error) => return Err(error.into()),
        };
        match Checkpoint::decode(number, &text) {
            Ok(checkpoint) => return Ok(Snapshot::of(checkpoint)),
            Err(reason) => tracing::warn!(
                archive = %store.describe(),
                number,
                reason,
                "checkpoint of manifests is passed over"
            ),
        }
    }
    Ok(Snapshot::default())
}

/// Writes a checkpoint of a snapshot all of whose exchanges are done, and removes old ones. Files that were replaced before
/// `since_ms` are left out.
pub(crate) async fn write(
    store: &dyn Store,
    snapshot: &Snapshot,
    since_ms: i64,
) -> Result<(), ArchiveError> {
    let checkpoint = snapshot.checkpoint(since_ms);
    let number = checkpoint.number;
    let text = serde_json::to_vec(&checkpoint).map_err(internal)?;
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Ok(());
    }
    let name = format!("checkpoint-{number:020}.json");
    let staged = format!("{}/{name}", staging_folder(checkpoint.generation));
    // What an attempt before may have left.
    store.delete(&staged).await?;
    write_whole(store, &staged, &text).await?;
    if store.rename(&staged, &checkpoint_path(number)).await? == Moved::Taken {
        store.delete(&staged).await?;
    }
    let listed = store.list(MANIFESTS).await?;
    let mut numbers: Vec<u64> = listed
        .iter()
        .filter_map(|entry| checkpoint_number(&entry.path))
        .collect();
    numbers.sort_unstable();
    for old in numbers.iter().rev().skip(KEPT) {
        store.delete(&checkpoint_path(*old)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::manifest::manifest_number;

    #[test]
    fn a_checkpoint_is_no_manifest_and_one_that_lies_is_passed_over() {
        let path = checkpoint_path(64);
        assert_eq!(
            (checkpoint_number(&path), manifest_number(&path)),
            (Some(64), None)
        );
        assert_eq!(
            checkpoint_number("_manifest/00000000000000000064.json"),
            None
        );
        let file = DataFile {
            path: "dt=1/part-000001-000000000001-000000.parquet".into(),
            rows: 3,
            bytes: 9,
            partition: vec![Some("1".into())],
            first_epoch: 1,
            last_epoch: 1,
            columns: BTreeMap::new(),
            since_ms: Some(5),
        };
        let good = Checkpoint::new(64, 1, vec![file]);
        let text = |checkpoint: &Checkpoint| serde_json::to_vec(checkpoint).expect("text");
        assert_eq!(Checkpoint::decode(64, &text(&good)), Ok(good.clone()));
        assert!(Checkpoint::decode(63, &text(&good)).is_err());
        let mut changed = [good.clone(), good.clone(), good.clone(), good.clone(), good];
        changed[0].rows = 4;
        changed[1].format = 2;
        changed[2].files[0].path = "../x".into();
        changed[3].files[0].since_ms = None;
        changed[4].replaced = BTreeMap::from([("a.parquet".into(), 1)]);
        for bad in changed {
            assert!(Checkpoint::decode(64, &text(&bad)).is_err(), "{bad:?}");
        }
        let cut = text(&Checkpoint::new(64, 1, Vec::new()));
        assert!(Checkpoint::decode(64, &cut[..cut.len() - 1]).is_err());
    }
}
