//! Manifests: what an archive holds, commit by commit, as files of JSON.
//!
//! Invariant: the manifests from 1 on, without a gap, are the archive; a file that none of them names is no part of it. Whatever
//! a manifest's bytes are, reading it gives a manifest or an error, and no path in it leads out of the archive's folder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::ArchiveError;
use super::feed::FeedId;
use crate::commit::Marker;

/// Folder of the manifests.
pub(crate) const MANIFESTS: &str = "_manifest";
/// Folder of what is not committed yet.
pub(crate) const STAGING: &str = "_staging";
/// Folder of files that are no part of the archive any more, for readers of older commits.
pub(crate) const REPLACED: &str = "_replaced";
/// File in the folder of a partition that has all of its rows.
pub(crate) const SUCCESS: &str = "_SUCCESS";
/// Version of a manifest that only adds files.
const FORMAT: u32 = 1;
/// Version of a manifest that also takes files away; a reader refuses a newer one.
const FORMAT_MAX: u32 = 2;
/// A longer manifest is not one of ours.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Which commit it is, from 1.
    pub number: u64,
    /// Which writer made it.
    pub generation: u64,
    /// When, by the writer's clock, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Files that are part of the archive from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<DataFile>,
    /// Files that are no part of the archive any more: those that are added have their rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Columns, in the first manifest of a writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// How far the archive's input is committed; absent for what statements insert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<StoredMarker>,
    /// By name of source and split: where reading goes on after what is committed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frontier: BTreeMap<String, BTreeMap<String, u64>>,
    /// What the frontier is of; absent in manifests of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedId>,
}

/// A file of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path below the archive's folder.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// Values of the partition columns, in their order, as text; `None` is NULL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<Option<String>>,
    /// First epoch whose rows are in it.
    pub first_epoch: u64,
    /// Last epoch whose rows are in it.
    pub last_epoch: u64,
    /// What is known of its columns.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnRange>,
    /// When the newest of its rows came, in milliseconds since the Unix epoch; absent in a manifest when it is the manifest's own
    /// time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
}

/// What is known of a column's values in a file. Bounds hold; they need not be values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnRange {
    /// No value is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    /// No value is greater.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
    /// Number of NULLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nulls: Option<u64>,
}

/// Columns of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// In order, partition columns included.
    pub columns: Vec<ShapeColumn>,
    /// Names of the columns that make folders, outermost first.
    pub partition_by: Vec<String>,
}

/// A column of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShapeColumn {
    /// Name.
    pub name: String,
    /// Type, as SQL writes it.
    #[serde(rename = "type")]
    pub ty: String,
}

/// A [`Marker`] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredMarker {
    /// Whose deliveries it counts.
    pub writer: String,
    /// Last epoch of the checkpoint.
    pub epoch: u64,
    /// Part within it.
    pub part: u32,
    /// Whether it is the last part.
    pub last: bool,
}

impl StoredMarker {
    pub(crate) fn new(writer: &str, marker: Marker) -> Self {
        Self {
            writer: writer.to_owned(),
            epoch: marker.epoch,
            part: marker.part,
            last: marker.last,
        }
    }
}

impl From<&StoredMarker> for Marker {
    fn from(marker: &StoredMarker) -> Self {
        Self {
            epoch: marker.epoch,
            part: marker.part,
            last: marker.last,
        }
    }
}

impl Manifest {
    /// A commit without files.
    pub(crate) fn new(number: u64, generation: u64, at_ms: i64) -> Self {
        Self {
            format: FORMAT,
            number,
            generation,
            at_ms,
            add: Vec::new(),
            remove: Vec::new(),
            shape: None,
            marker: None,
            frontier: BTreeMap::new(),
            feed: None,
        }
    }

    /// Takes files away.
    pub(crate) fn replaces(&mut self, paths: Vec<String>) {
        if !paths.is_empty() {
            self.format = FORMAT_MAX;
            self.remove = paths;
        }
    }

    /// Its text.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ArchiveError> {
        serde_json::to_vec(self).map_err(|error| ArchiveError::Internal(error.to_string()))
    }

    /// Reads the text of manifest `number`.
    pub(crate) fn decode(path: &str, number: u64, bytes: &[u8]) -> Result<Self, ArchiveError> {
        let damaged = |detail: String| ArchiveError::Damaged {
            path: path.to_owned(),
            detail,
        };
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if manifest.format > FORMAT_MAX {
            return Err(ArchiveError::Newer {
                path: path.to_owned(),
                format: manifest.format,
            });
        }
        if manifest.number != number {
            return Err(damaged(format!(
                "It says that it is number {}.",
                manifest.number
            )));
        }
        let added = manifest.add.iter().map(|file| &file.path);
        if let Some(path) = added
            .chain(&manifest.remove)
            .find(|path| !is_data_path(path))
        {
            return Err(damaged(format!(
                "It names a file outside of the archive: {path:?}."
            )));
        }
        Ok(manifest)
    }
}

/// Path of a manifest.
pub(crate) fn manifest_path(number: u64) -> String {
    format!("{MANIFESTS}/{number:020}.json")
}

/// Number in the path of a manifest; `None` for other files.
pub(crate) fn manifest_number(path: &str) -> Option<u64> {
    let name = path.strip_prefix(MANIFESTS)?.strip_prefix('/')?;
    let digits = name.strip_suffix(".json")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// Folder of what a writer has not committed.
pub(crate) fn staging_folder(generation: u64) -> String {
    format!("{STAGING}/{generation:06}")
}

/// Generation in a path below the staging folder.
pub(crate) fn staged_generation(path: &str) -> Option<u64> {
    let rest = path.strip_prefix(STAGING)?.strip_prefix('/')?;
    rest.split('/').next()?.parse().ok()
}

/// Path of a manifest that is not committed yet.
pub(crate) fn staged_manifest(generation: u64, number: u64) -> String {
    format!("{}/{number:020}.json", staging_folder(generation))
}

/// Path of a data file that is not committed yet: the last part of its name, which is unique in its generation.
pub(crate) fn staged_data(generation: u64, path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    format!("{}/{name}", staging_folder(generation))
}

/// Path of a data file that is no part of the archive any more.
pub(crate) fn replaced(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    format!("{REPLACED}/{name}")
}

/// Generation of the writer that made a data file.
pub(crate) fn data_generation(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?;
    name.strip_prefix("part-")?.split('-').next()?.parse().ok()
}

/// As [`data_generation`], only for a name exactly as our writers give them: others may keep files in the same folders.
pub(crate) fn own_data_generation(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?.strip_prefix("part-")?;
    let mut parts = name.strip_suffix(".parquet")?.split('-');
    let mut number = |digits: usize| {
        let part = parts.next()?;
        let plain = part.len() >= digits && part.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| part.parse::<u64>().ok()).flatten()
    };
    let (generation, _, _) = (number(6)?, number(12)?, number(6)?);
    (parts.next().is_none() && is_data_path(path)).then_some(generation)
}

/// True for a path that data of an archive can have: below its folder, in no folder of ours.
pub(crate) fn is_data_path(path: &str) -> bool {
    let inside = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0', ':']);
    path.split('/').all(inside) && !path.starts_with('_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        assert_eq!(manifest_number(&manifest_path(7)), Some(7));
        for other in [
            "_manifest/7.json",
            "_manifest/0000000000000000000x.json",
            "_manifest/00000000000000000007.json.tmp",
            "_staging/00000000000000000007.json",
        ] {
            assert_eq!(manifest_number(other), None, "{other}");
        }
        let staged = staged_manifest(3, 8);
        assert_eq!(staged_generation(&staged), Some(3));
        assert_eq!(
            staged_data(3, "dt=2026-01-01/part-1.parquet"),
            "_staging/000003/part-1.parquet"
        );
    }

    #[test]
    fn files_of_others_are_none_of_ours() {
        for (path, expected) in [
            ("a=1/part-000003-000000000012-000007.parquet", Some(3)),
            ("part-1000003-000000000012-1000007.parquet", Some(1_000_003)),
            (
                "a=1/part-00000-5d2f0c1e-0a6b-4c53-9a3c-c000.snappy.parquet",
                None,
            ),
            ("a=1/part-000003-000000000012-000007.parquet.tmp", None),
            ("a=1/part-000003-000000000012-000007-1.parquet", None),
            ("a=1/part-000003-12-000007.parquet", None),
            ("a=1/data.parquet", None),
            (
                "_staging/000003/part-000003-000000000012-000007.parquet",
                None,
            ),
            ("_replaced/part-000003-000000000012-000007.parquet", None),
        ] {
            assert_eq!(own_data_generation(path), expected, "{path}");
        }
    }

    #[test]
    fn a_manifest_that_lies_is_refused() {
        let mut manifest = Manifest::new(4, 1, 0);
        manifest.add.push(DataFile {
            path: "a/b.parquet".into(),
            rows: 1,
            bytes: 2,
            partition: vec![None],
            first_epoch: 1,
            last_epoch: 1,
            columns: BTreeMap::new(),
            since_ms: None,
        });
        let bytes = manifest.encode().expect("text");
        assert_eq!(Manifest::decode("m", 4, &bytes), Ok(manifest.clone()));
        assert!(Manifest::decode("m", 5, &bytes).is_err());
        for path in ["../x", "/etc/passwd", "a//b", "a/../b", "_staging/1/x", ""] {
            manifest.add[0].path = path.into();
            let bytes = manifest.encode().expect("text");
            let error = Manifest::decode("m", 4, &bytes).expect_err(path);
            assert_eq!(error.sqlstate(), "XX001", "{path}");
        }
        let newer = br#"{"format": 3, "number": 4, "generation": 1, "at_ms": 0}"#;
        let error = Manifest::decode("m", 4, newer).expect_err("newer");
        assert_eq!(error.sqlstate(), "0A000");
        for broken in [&b"{"[..], b"null", b"\xff", b"[]", br#"{"format":1}"#] {
            assert!(Manifest::decode("m", 4, broken).is_err());
        }
    }
}
