//! Where the files of a source are: below one folder of this machine, or in a store that is asked over the network.
//!
//! Invariant: on this machine nothing outside of `file_root` is listed or opened, through links neither. No call to a store takes
//! longer than `CALL_WAIT`, and a store that does not answer is told apart from one that has no such file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Runtime;

use super::content::Content;
use super::unreadable;
use crate::error::ConnectorError;
use crate::options::Options;
use crate::store::{HdfsStore, Store, StoreError, StoreFault};

/// A store that takes longer counts as one that does not answer.
const CALL_WAIT: Duration = Duration::from_secs(10);
/// Options that only a store on HDFS takes, besides the properties of Hadoop.
const HDFS_OPTIONS: &[&str] = &["user"];
const HADOOP_PREFIX: &str = "hadoop.";

/// A folder with files of a source somewhere below it.
#[derive(Debug)]
pub(super) enum Place {
    /// On this machine.
    Disk(PathBuf),
    /// Elsewhere; names of files begin with this text.
    Store(Arc<Remote>, String),
}

/// What lies in a folder.
pub(super) struct Child {
    pub(super) name: String,
    /// `None` for a folder.
    pub(super) file: Option<Location>,
}

/// Where a file is.
#[derive(Debug, Clone)]
pub(super) enum Location {
    Disk(PathBuf),
    Store {
        remote: Arc<Remote>,
        path: String,
        /// As it was listed.
        bytes: u64,
        modified_ms: Option<u64>,
    },
}

/// A file that was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) location: Location,
}

/// The scheme of a path, and what is behind it.
pub(super) fn scheme(text: &str) -> Option<(&str, &str)> {
    text.split_once("://")
}

/// The store of a path with a scheme, and the parts of the path behind the folder that the store begins at.
pub(super) fn in_store(
    options: Options<'_>,
    text: &str,
) -> Result<(Place, Vec<String>), ConnectorError> {
    let (scheme, rest) = scheme(text).unwrap_or_default();
    let refused = |reason: &str| {
        ConnectorError::option_hint(
            format!("option \"path\" {reason}"),
            "Write a path as 'hdfs://namenode:8020/data/*.json'.",
        )
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if text.contains('\0') || text.contains('\\') {
        return Err(refused("must not contain a NUL or a backslash"));
    }
    if parts.is_empty() || text.ends_with('/') {
        return Err(refused("must name files"));
    }
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(refused("must not hold '.' or '..'"));
    }
    // What comes before the first wildcard is a folder, and the last part never is.
    let wild = parts.iter().position(|part| part.contains(['*', '?']));
    let fixed = wild.unwrap_or(parts.len()).min(parts.len() - 1);
    let (folder, pattern) = parts.split_at(fixed);
    let folder: String = folder.iter().map(|part| format!("/{part}")).collect();
    let remote = Remote::new(|| match scheme {
        "hdfs" | "viewfs" => {
            let folder = format!("{scheme}://{host}{folder}");
            let store = HdfsStore::folder(options, &folder)?;
            // Earlier than its caller, so that the next call is made by a client that may be answered.
            Ok(Arc::new(store.answering_within(CALL_WAIT / 10 * 9)))
        }
        _ => Err(ConnectorError::Unsupported {
            what: format!("a path with the scheme {scheme}:// in a file source"),
            hint: "Use a path below file_root, or one that begins with hdfs://.".into(),
        }),
    })?;
    let pattern = pattern.iter().map(|part| (*part).to_owned()).collect();
    Ok((Place::Store(Arc::new(remote), folder), pattern))
}

/// A path on this machine takes no options of a store.
pub(super) fn refuse_store_options(options: Options<'_>) -> Result<(), ConnectorError> {
    let of_a_store =
        |name: &&String| HDFS_OPTIONS.contains(&name.as_str()) || name.starts_with(HADOOP_PREFIX);
    match options.0.keys().find(of_a_store) {
        None => Ok(()),
        Some(name) => Err(ConnectorError::option_hint(
            format!("option \"{name}\" needs files on HDFS"),
            "Write a path as 'hdfs://namenode:8020/data/*.json', or leave the option out.",
        )),
    }
}

impl Place {
    /// True when nobody has to be asked.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Place::Disk(_))
    }

    /// The name of a file by its path below the place.
    pub(super) fn name_of(&self, path: String) -> String {
        match self {
            Place::Disk(_) => path,
            Place::Store(_, folder) => format!("{folder}/{path}"),
        }
    }

    /// Whether what others write there is left out while it has this name.
    pub(super) fn hides(&self, name: &str, pattern: &str) -> bool {
        // Hadoop's own readers pass over both: what jobs have not committed begins with an underscore.
        let marks: &[char] = match self {
            Place::Disk(_) => &['.'],
            Place::Store(..) => &['.', '_'],
        };
        name.starts_with(marks) && !pattern.starts_with(marks)
    }

    /// What lies in a folder below the place; nothing when it is not there.
    pub(super) fn children(&self, folder: &str) -> Result<Vec<Child>, ConnectorError> {
        match self {
            Place::Disk(root) => on_disk(root, folder),
            Place::Store(remote, _) => {
                let children = remote.wait(folder, remote.store.children(folder))?;
                let children = children.into_iter().map(|child| {
                    let path = below(folder, &child.name);
                    let file = child.bytes.map(|bytes| Location::Store {
                        remote: Arc::clone(remote),
                        path,
                        bytes,
                        modified_ms: child.modified_ms,
                    });
                    Child {
                        name: child.name,
                        file,
                    }
                });
                Ok(children.collect())
            }
        }
    }
}

/// The path of something in a folder.
pub(super) fn below(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        _ => format!("{folder}/{name}"),
    }
}

fn on_disk(root: &Path, folder: &str) -> Result<Vec<Child>, ConnectorError> {
    let root = root
        .canonicalize()
        .map_err(|error| unreadable("file_root", &error))?;
    let entries = match std::fs::read_dir(root.join(folder)) {
        Ok(entries) => entries,
        // A folder that is not there holds no files; one that may not be read is said.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, &error)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        // What a link leads to must lie below the root as well; a file that went meanwhile is not there.
        let Ok(real) = entry.path().canonicalize() else {
            continue;
        };
        if real.starts_with(&root) {
            let file = (!real.is_dir()).then_some(Location::Disk(real));
            children.push(Child { name, file });
        }
    }
    Ok(children)
}

impl Found {
    /// How long it is, or was when it was listed.
    pub(super) fn length(&self) -> Result<u64, ConnectorError> {
        Ok(self.stamp()?.0)
    }

    /// Length and time of change.
    pub(super) fn stamp(&self) -> Result<(u64, Option<SystemTime>), ConnectorError> {
        match &self.location {
            Location::Disk(path) => {
                let metadata = std::fs::metadata(path);
                let metadata = metadata.map_err(|error| unreadable(&self.name, &error))?;
                Ok((metadata.len(), metadata.modified().ok()))
            }
            Location::Store {
                bytes, modified_ms, ..
            } => {
                let at = |ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms));
                Ok((*bytes, modified_ms.and_then(at)))
            }
        }
    }

    /// Opens it at its beginning.
    pub(super) fn open(&self) -> std::io::Result<Content> {
        match &self.location {
            Location::Disk(path) => Ok(Content::on_disk(std::fs::File::open(path)?)),
            Location::Store {
                remote,
                path,
                bytes,
                ..
            } => Ok(Content::in_store(Arc::clone(remote), path.clone(), *bytes)),
        }
    }
}

/// A store, for threads that wait for its answers.
pub(super) struct Remote {
    pub(super) store: Arc<dyn Store>,
    /// Its own, since those who read a source are plain threads, and clients keep to the runtime that they were made in.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Remote({})", self.store.describe())
    }
}

impl Remote {
    /// The store that is made here, which contacts nobody yet.
    pub(super) fn new(
        make: impl FnOnce() -> Result<Arc<dyn Store>, ConnectorError>,
    ) -> Result<Self, ConnectorError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let builder = builder.worker_threads(1).thread_name("thalweg-files");
        let runtime = builder.enable_all().build();
        let runtime = runtime.map_err(|error| ConnectorError::Internal(error.to_string()))?;
        let made = {
            let _inside = runtime.enter();
            make()
        };
        match made {
            Ok(store) => Ok(Self {
                store,
                runtime: Some(runtime),
            }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Waits for an answer about a path. Not to be called where tasks run.
    pub(super) fn wait<T>(
        &self,
        path: &str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let unreachable = |detail: &str| {
            let shown = below(&self.store.describe(), path);
            StoreError::new("reach", shown, StoreFault::Unreachable, detail)
        };
        let Some(runtime) = &self.runtime else {
            return Err(unreachable("It is closed."));
        };
        let answer = async { tokio::time::timeout(CALL_WAIT, answer).await };
        let late = |_| unreachable("It does not answer in time.");
        runtime.block_on(answer).map_err(late)?
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Waiting for its tasks is not allowed where other tasks run, and nobody needs them any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_path_in_a_store_begins_with_its_fixed_folders() {
        let options = BTreeMap::new();
        for (text, folder, pattern) in [
            ("hdfs://nn:8020/a/b/*.json", "/a/b", "*.json"),
            ("hdfs://ns1/a/b.json", "/a", "b.json"),
            ("hdfs://nn:8020//a/b?/c/*.csv", "/a", "b?/c/*.csv"),
            ("hdfs://nn:8020/**/x.parquet", "", "**/x.parquet"),
        ] {
            // A name service has to be configured.
            let text = text.replace("ns1", "nn:8020");
            let (place, parts) = in_store(Options(&options), &text).expect(&text);
            let Place::Store(_, found) = &place else {
                panic!("{text} is in a store");
            };
            assert_eq!(
                (found.as_str(), parts.join("/").as_str()),
                (folder, pattern)
            );
            let named = format!("{folder}/x");
            assert_eq!(place.name_of("x".into()), named, "{text}");
        }
        for text in [
            "hdfs://nn:8020",
            "hdfs://nn:8020/a/",
            "hdfs://nn:8020/a/../*.json",
            "hdfs:///a/*.json",
            "hdfs://nn:8020/a\\b",
            "s3://bucket/*.json",
        ] {
            assert!(in_store(Options(&options), text).is_err(), "{text}");
        }
    }
}
