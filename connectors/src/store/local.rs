//! Archives on a disk of this machine.
//!
//! Invariant: every file lies below the folder, by its path and after all links are resolved when the folder was opened. A name
//! that was acknowledged is on disk: files are synced when closed, folders when a name in them changes.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Entry, Moved, Store, StoreError, StoreFault, StoreFile};
use crate::error::ConnectorError;

/// Folders below the archive's folder are no deeper than partitions make them.
const DEPTH_MAX: usize = 64;

/// A folder on a local disk.
#[derive(Debug, Clone)]
pub(crate) struct LocalStore {
    root: PathBuf,
    shown: String,
}

impl LocalStore {
    /// The folder that option `path` names, below `file_root`. Touches nothing.
    pub(crate) fn new(file_root: &Path, text: &str) -> Result<Self, ConnectorError> {
        let refused = |reason: &str| {
            ConnectorError::option_hint(
                format!("option \"path\" {reason}"),
                "Write a folder below file_root, as './lake/daily'.",
            )
        };
        if text.contains(['\0', '\\']) {
            return Err(refused("must not contain a NUL or a backslash"));
        }
        if text.contains("://") {
            return Err(refused("must be a local path for connector 'file'"));
        }
        let path = Path::new(text);
        let inside = match path.is_absolute() {
            true => path
                .strip_prefix(file_root)
                .map_err(|_| refused("must lie below file_root"))?,
            false => path,
        };
        let mut root = file_root.to_path_buf();
        let mut parts = 0_usize;
        for component in inside.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(part) => {
                    root.push(part);
                    parts += 1;
                }
                _ => return Err(refused("must not leave file_root")),
            }
        }
        if parts == 0 {
            return Err(refused("must name a folder of its own"));
        }
        let store = Self {
            root,
            shown: text.to_owned(),
        };
        store.stays_below(file_root)?;
        Ok(store)
    }

    /// Links on the way must not lead out of `file_root`; what is not there yet cannot.
    fn stays_below(&self, file_root: &Path) -> Result<(), ConnectorError> {
        let Ok(real_root) = file_root.canonicalize() else {
            return Ok(());
        };
        let mut known = self.root.as_path();
        let real = loop {
            match known.canonicalize() {
                Ok(real) => break real,
                Err(_) => match known.parent() {
                    Some(parent) => known = parent,
                    None => return Ok(()),
                },
            }
        };
        if real.starts_with(&real_root) {
            return Ok(());
        }
        Err(ConnectorError::option_hint(
            "option \"path\" leads out of file_root through a link",
            "Write a folder below file_root, as './lake/daily'.",
        ))
    }

    fn full(&self, path: &str) -> PathBuf {
        let mut full = self.root.clone();
        for part in path.split('/') {
            if !matches!(part, "" | "." | "..") {
                full.push(part);
            }
        }
        full
    }

    fn error(&self, action: &'static str, path: &str, error: &std::io::Error) -> StoreError {
        let fault = match error.kind() {
            ErrorKind::NotFound => StoreFault::Missing,
            ErrorKind::AlreadyExists => StoreFault::Exists,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreFault::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreFault::Full,
            _ => StoreFault::Other,
        };
        StoreError::new(action, self.shown_path(path), fault, error.to_string())
    }

    fn shown_path(&self, path: &str) -> String {
        match path {
            "" => self.shown.clone(),
            _ => format!("{}/{path}", self.shown.trim_end_matches('/')),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        path: &str,
        run: impl FnOnce(&Self) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || run(&store)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.error(action, path, &error)),
            Err(error) => Err(self.error(action, path, &std::io::Error::other(error))),
        }
    }

    /// Makes the folders of a file, each of them durable in its parent.
    fn make_parents(&self, file: &Path) -> std::io::Result<()> {
        let Some(folder) = file.parent() else {
            return Ok(());
        };
        if folder.is_dir() {
            return Ok(());
        }
        self.make_parents(folder)?;
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        sync_parent(folder)
    }
}

fn sync_parent(file: &Path) -> std::io::Result<()> {
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn walk(folder: &Path, name: &str, depth: usize, found: &mut Vec<Entry>) -> std::io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name();
        // What is not text is none of ours.
        let Some(part) = file_name.to_str() else {
            continue;
        };
        let path = match name {
            "" => part.to_owned(),
            _ => format!("{name}/{part}"),
        };
        // A link is not followed: it could lead anywhere.
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), &path, depth + 1, found)?;
        } else if kind.is_file() {
            match entry.metadata() {
                Ok(metadata) => found.push(Entry {
                    path,
                    bytes: metadata.len(),
                }),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[async_trait]
impl Store for LocalStore {
    fn describe(&self) -> String {
        self.shown.clone()
    }

    async fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError> {
        let name = folder.trim_matches('/').to_owned();
        self.blocking("list", folder, move |store| {
            let mut found = Vec::new();
            walk(&store.full(&name), &name, 0, &mut found)?;
            found.sort();
            Ok(found)
        })
        .await
    }

    async fn length(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let name = path.to_owned();
        self.blocking("look at", path, move |store| {
            match fs::symlink_metadata(store.full(&name)) {
                Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
                Ok(_) => Ok(None),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn mend(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let name = path.to_owned();
        self.blocking("sync", path, move |store| {
            let full = store.full(&name);
            match OpenOptions::new().append(true).open(&full) {
                Ok(file) => {
                    file.sync_all()?;
                    sync_parent(&full)?;
                    Ok(Some(file.metadata()?.len()))
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let name = path.to_owned();
        self.blocking("read", path, move |store| {
            let mut file = File::open(store.full(&name))?;
            let wanted = range.end.saturating_sub(range.start);
            // The range may come from damaged content: nothing is reserved that the file does not have.
            if range.end > file.metadata()?.len() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            file.seek(SeekFrom::Start(range.start))?;
            let length = usize::try_from(wanted).map_err(std::io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError> {
        let name = path.to_owned();
        let file = self
            .blocking("create", path, move |store| {
                let full = store.full(&name);
                store.make_parents(&full)?;
                OpenOptions::new().write(true).create_new(true).open(full)
            })
            .await?;
        Ok(Box::new(LocalFile {
            store: self.clone(),
            path: path.to_owned(),
            file: Arc::new(Mutex::new(file)),
        }))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        let (source, target) = (from.to_owned(), to.to_owned());
        self.blocking("rename", from, move |store| {
            let (source, target) = (store.full(&source), store.full(&target));
            store.make_parents(&target)?;
            // A link fails where a name is taken, which a rename does not.
            match fs::hard_link(&source, &target) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if !same_file(&source, &target)? {
                        return Ok(Moved::Taken);
                    }
                }
                Err(error) => return Err(error),
            }
            sync_parent(&target)?;
            fs::remove_file(&source)?;
            sync_parent(&source)?;
            Ok(Moved::Done)
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let name = path.to_owned();
        self.blocking("delete", path, move |store| {
            gone(fs::remove_file(store.full(&name)))
        })
        .await
    }

    async fn delete_folder(&self, path: &str) -> Result<(), StoreError> {
        let name = path.to_owned();
        self.blocking("delete", path, move |store| {
            gone(fs::remove_dir_all(store.full(&name)))
        })
        .await
    }
}

fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// True when both names are of one file: a rename that a crash cut in half.
fn same_file(one: &Path, other: &Path) -> std::io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (one, other) = (fs::metadata(one)?, fs::metadata(other)?);
        Ok(one.dev() == other.dev() && one.ino() == other.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = (one, other);
        Ok(false)
    }
}

struct LocalFile {
    store: LocalStore,
    path: String,
    file: Arc<Mutex<File>>,
}

#[async_trait]
impl StoreFile for LocalFile {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let file = Arc::clone(&self.file);
        self.store
            .blocking("write", &self.path, move |_| file.lock().write_all(&bytes))
            .await
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        self.store
            .blocking("close", &self.path, move |store| {
                file.lock().sync_all()?;
                sync_parent(&store.full(&path))
            })
            .await
    }
}
