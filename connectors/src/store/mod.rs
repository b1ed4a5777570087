//! Where files of archives and sources lie: one trait over local disk and outside file systems.
//!
//! Invariant: paths are relative to the folder that was named and never leave it. A file is whole once its writer has been closed,
//! nothing is ever overwritten, and after an answer of success it survives a crash of the store.

mod error;
mod hadoop;
mod hdfs;
mod local;
mod object;
#[cfg(test)]
pub(crate) mod scripted;
mod steps;

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{StoreError, StoreFault};
pub(crate) use hdfs::HdfsStore;
pub(crate) use local::LocalStore;
pub(crate) use object::{azure_store, s3_store};
pub(crate) use steps::SteppedStore;
pub use steps::{Step, Steps};

/// A file that was listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Path below the archive's folder, parts separated by `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

/// What lies directly in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child {
    /// The last part of its path.
    pub name: String,
    /// Length of a file; `None` for a folder.
    pub bytes: Option<u64>,
    /// When it was changed, in milliseconds since the Unix epoch, where the store says so.
    pub modified_ms: Option<u64>,
}

/// What became of a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// The file has its new name.
    Done,
    /// Another file has that name, and both are as they were.
    Taken,
}

/// A folder of files.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// What the folder is called in messages.
    fn describe(&self) -> String;

    /// Every file below a folder, at any depth, in order of paths; none when the folder is not there.
    async fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError>;

    /// What lies directly in a folder, by name; nothing when the folder is not there. A store that can ask for less than
    /// everything below it does.
    async fn children(&self, folder: &str) -> Result<Vec<Child>, StoreError> {
        Ok(directly_below(folder, self.list(folder).await?))
    }

    /// Length of a file; `None` when there is none.
    async fn length(&self, path: &str) -> Result<Option<u64>, StoreError>;

    /// Makes durable what there is of a file whose writer is gone without having closed it; tells its length, and `None` when
    /// there is none. Until then its bytes may be lost again.
    async fn mend(&self, path: &str) -> Result<Option<u64>, StoreError>;

    /// Bytes of a file. A range that is not all there is an error.
    async fn read(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Begins a new file; folders on the way are made.
    async fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError>;

    /// Renames a file, never over another; folders on the way are made. At `to` the file is whole from the first moment. A store
    /// that copies has it under both names for a moment, and after a crash for longer: then `to` is taken. A file that is gone
    /// from `from` and is not the one at `to` is an error.
    async fn rename(&self, from: &str, to: &str) -> Result<Moved, StoreError>;

    /// Gives a small file a name that others want too, in one step: of all who try, one succeeds. After [`Moved::Done`] the file
    /// is this caller's, whatever bytes the others have.
    async fn publish(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        self.rename(from, to).await
    }

    /// Removes a file; one that is not there is fine.
    async fn delete(&self, path: &str) -> Result<(), StoreError>;

    /// Removes a folder and all in it; one that is not there is fine.
    async fn delete_folder(&self, path: &str) -> Result<(), StoreError>;
}

/// The files and folders directly in a folder, from all the files below it.
fn directly_below(folder: &str, entries: Vec<Entry>) -> Vec<Child> {
    let prefix = match folder {
        "" => String::new(),
        _ => format!("{folder}/"),
    };
    let child = |entry: &Entry| {
        let below = entry.path.strip_prefix(&prefix)?;
        let (name, bytes) = match below.split_once('/') {
            Some((name, _)) => (name, None),
            None => (below, Some(entry.bytes)),
        };
        Some(Child {
            name: name.to_owned(),
            bytes,
            modified_ms: None,
        })
    };
    let mut children: Vec<Child> = entries.iter().filter_map(child).collect();
    children.sort();
    children.dedup();
    children
}

/// A file being written. Dropped without [`StoreFile::close`] it may stay behind in part.
#[async_trait]
pub trait StoreFile: Send + Sync {
    /// Bytes that are held in memory until more come or the file is closed.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Appends bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Says that no more bytes come: memory that they were waited for with can be let go of.
    async fn end(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Makes the file whole and durable.
    async fn close(&mut self) -> Result<(), StoreError>;
}
