//! Archives on object stores: S3, what speaks its protocol, and Azure.
//!
//! Invariant: an object is whole or not there. A name that several writers want is given by a put on the condition that nothing has
//! it, and whoever made the put tells its own object from another's by a mark that nobody else has; so a put whose answer was lost is
//! looked up, and one that may still arrive is reported as unknown.

mod azure;
mod client;
mod error;
mod file;
mod put;
mod s3;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;

use std::fmt::{self, Debug, Formatter};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::{Entry, Moved, Store, StoreError, StoreFault, StoreFile};
pub(crate) use azure::azure_store;
use error::told;
use file::ObjectFile;
pub(crate) use s3::s3_store;
#[cfg(test)]
pub(super) use scripted::scripted;

/// Bytes of a part of a large object; S3 takes no smaller ones.
const PART_BYTES: usize = 5 << 20;
/// Bytes that files which get no more of them wait with until they are closed, all files together.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Bytes that are asked for in one request.
const PIECE_BYTES: u64 = 16 << 20;
/// Pieces of one read that are asked for at the same time.
const PIECES: usize = 4;

/// Marks that were given in this process.
static MARKS: AtomicU64 = AtomicU64::new(0);

/// What an [`ObjectFolder`] is made of.
pub(super) struct Parts {
    pub(super) client: Arc<dyn ObjectStore>,
    /// The same, with time for requests that the store works on for long.
    pub(super) patient: Arc<dyn ObjectStore>,
    /// Key of the folder, without a slash at its ends.
    pub(super) root: String,
    /// What the folder is called in messages.
    pub(super) shown: String,
    /// Names this process.
    pub(super) process: Uuid,
    /// What a user can do who is refused.
    pub(super) refused: &'static str,
    pub(super) part_bytes: usize,
    pub(super) waiting_bytes_max: usize,
}

/// A prefix of the keys of a bucket or container.
#[derive(Clone)]
pub(crate) struct ObjectFolder {
    parts: Arc<Parts>,
    /// Bytes that files wait with.
    waiting: Arc<AtomicUsize>,
    /// The store refuses puts whose condition does not hold.
    proven: Arc<OnceCell<()>>,
}

impl Debug for ObjectFolder {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "ObjectFolder({})", self.parts.shown)
    }
}

impl ObjectFolder {
    pub(super) fn of(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            waiting: Arc::default(),
            proven: Arc::default(),
        }
    }

    /// The key of a path below the folder.
    fn key(&self, action: &'static str, path: &str) -> Result<Path, StoreError> {
        let key = match path {
            "" => self.parts.root.clone(),
            _ => format!("{}/{path}", self.parts.root),
        };
        Path::parse(key).map_err(|error| {
            StoreError::new(
                action,
                self.shown_path(path),
                StoreFault::Other,
                error.to_string(),
            )
        })
    }

    fn shown_path(&self, path: &str) -> String {
        match path {
            "" => self.parts.shown.clone(),
            _ => format!("{}/{path}", self.parts.shown),
        }
    }

    fn error(&self, action: &'static str, path: &str, error: &Error) -> StoreError {
        let told = told(error);
        let hint = match told.fault {
            StoreFault::Denied => Some(self.parts.refused),
            _ => told.hint,
        };
        StoreError::new(action, self.shown_path(path), told.fault, told.detail).with_hint(hint)
    }

    /// A mark that no object has.
    fn mark(&self) -> String {
        let number = MARKS.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.parts.process.simple())
    }

    /// Length of an object; `None` when there is none.
    async fn find(&self, action: &'static str, path: &str) -> Result<Option<u64>, StoreError> {
        let key = self.key(action, path)?;
        match self.parts.client.head(&key).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(action, path, &error)),
        }
    }

    /// A piece of an object, and the length of all of it.
    async fn piece(
        &self,
        key: &Path,
        path: &str,
        range: Range<u64>,
    ) -> Result<(Bytes, u64), StoreError> {
        let failed = |error: &Error| self.error("read", path, error);
        let options = GetOptions::new().with_range(Some(range.clone()));
        let found = self.parts.client.get_opts(key, options).await;
        let found = found.map_err(|error| failed(&error))?;
        let (length, got) = (found.meta.size, found.range.clone());
        if got != range {
            return Err(self.short(path, length));
        }
        let bytes = found.bytes().await.map_err(|error| failed(&error))?;
        match bytes.len() as u64 == range.end - range.start {
            true => Ok((bytes, length)),
            false => Err(self.short(path, length)),
        }
    }

    fn short(&self, path: &str, length: u64) -> StoreError {
        let detail = format!("It has {length} bytes.");
        StoreError::new("read", self.shown_path(path), StoreFault::Other, detail)
    }

    /// Copies an object where nothing is. Only one writer has the name of a data file, so what comes to be there between the look
    /// and the copy is the same file.
    async fn copy(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        if self.find("look at", to).await?.is_some() {
            return Ok(Moved::Taken);
        }
        let (source, target) = (self.key("rename", from)?, self.key("rename", to)?);
        let Err(error) = self.parts.patient.copy(&source, &target).await else {
            return Ok(Moved::Done);
        };
        let error = self.error("rename", from, &error);
        let lost = matches!(error.fault, StoreFault::Unreachable | StoreFault::Other);
        // Its answer may be all that was lost.
        match lost && self.find("look at", to).await?.is_some() {
            true => Ok(Moved::Done),
            false => Err(error),
        }
    }
}

/// The ranges of at most [`PIECE_BYTES`] that make up a range.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range
        .step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX))
        .map(move |start| start..end.min(start.saturating_add(PIECE_BYTES)))
}

#[async_trait]
impl Store for ObjectFolder {
    fn describe(&self) -> String {
        self.parts.shown.clone()
    }

    async fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError> {
        let key = self.key("list", folder)?;
        let listed: Result<Vec<ObjectMeta>, Error> =
            self.parts.client.list(Some(&key)).try_collect().await;
        let listed = match listed.map_err(|error| self.error("list", folder, &error)) {
            Ok(listed) => listed,
            Err(error) if error.fault == StoreFault::Missing => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let prefix = format!("{}/", self.parts.root);
        let mut entries: Vec<Entry> = listed
            .into_iter()
            .filter_map(|meta| {
                let path = meta.location.as_ref().strip_prefix(&prefix)?.to_owned();
                let bytes = meta.size;
                Some(Entry { path, bytes })
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    async fn length(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.find("look at", path).await
    }

    // What was not closed is not there.
    async fn mend(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.find("look at", path).await
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let key = self.key("read", path)?;
        let mut pieces = pieces(range.clone());
        let Some(first) = pieces.next() else {
            // Nobody answers a request for no bytes.
            let length = self.find("read", path).await?;
            let missing = "There is no such object.";
            return match length {
                Some(length) if range.start <= length => Ok(Bytes::new()),
                Some(length) => Err(self.short(path, length)),
                None => Err(StoreError::new(
                    "read",
                    self.shown_path(path),
                    StoreFault::Missing,
                    missing,
                )),
            };
        };
        let (bytes, length) = self.piece(&key, path, first.clone()).await?;
        if first == range {
            return Ok(bytes);
        }
        // The range may come from damaged content: nothing is reserved that the object does not have.
        if range.end > length {
            return Err(self.short(path, length));
        }
        let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
        all.extend_from_slice(&bytes);
        let rest: Vec<_> = pieces.map(|piece| self.piece(&key, path, piece)).collect();
        let mut rest = futures::stream::iter(rest).buffered(PIECES);
        while let Some(piece) = rest.next().await {
            all.extend_from_slice(&piece?.0);
        }
        Ok(all.freeze())
    }

    async fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError> {
        if self.find("create", path).await?.is_some() {
            return Err(self.taken("create", path));
        }
        Ok(Box::new(ObjectFile::new(self.clone(), path)))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        let moved = self.copy(from, to).await?;
        if moved == Moved::Done {
            self.delete(from).await?;
        }
        Ok(moved)
    }

    async fn publish(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        self.prove().await?;
        let key = self.key("read", from)?;
        let failed = |error: &Error| self.error("read", from, error);
        let found = self.parts.patient.get(&key).await;
        let found = found.map_err(|error| failed(&error))?;
        let bytes = found.bytes().await.map_err(|error| failed(&error))?;
        let moved = self.put_new("write", to, bytes.into()).await?;
        if moved == Moved::Done {
            self.delete(from).await?;
        }
        Ok(moved)
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let key = self.key("delete", path)?;
        match self.parts.client.delete(&key).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("delete", path, &error)),
        }
    }

    async fn delete_folder(&self, path: &str) -> Result<(), StoreError> {
        let listed = self.list(path).await?;
        let keys = listed.iter().map(|entry| self.key("delete", &entry.path));
        let keys: Vec<Path> = keys.collect::<Result<_, _>>()?;
        let keys = futures::stream::iter(keys.into_iter().map(Ok)).boxed();
        let mut deleted = self.parts.client.delete_stream(keys);
        while let Some(one) = deleted.next().await {
            match one {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(self.error("delete", path, &error)),
            }
        }
        Ok(())
    }
}
