//! What does not fit into memory: sorted files of keys with values, for as long as this process needs them.
//!
//! Invariant: of a key the newest file that has it tells the value, or that there is none. Bytes that are handed out were covered by
//! a checksum that matched. No file outlives its last owner, and what a crash leaves is removed at the next start: so nothing here
//! is synced, and nothing durable may depend on it.

mod file;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::StateError;
use crate::io::Disk;

use self::file::{Cursor, SpillFile, SpillWriter, file_number};

/// Files of similar size are merged when there are this many.
const MERGE_MIN: usize = 4;

/// How much larger than all newer files together an older one is that a merge leaves alone.
const SIZE_STEP: u64 = 2;

/// Where such files are.
#[derive(Debug)]
pub struct SpillFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    next: AtomicU64,
    made: AtomicBool,
}

impl SpillFolder {
    /// Takes a folder over, which need not be there yet, and removes what an earlier process left in it.
    ///
    /// # Errors
    /// When a file that was left cannot be removed.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, StateError> {
        // Without a folder there is nothing to remove; it is made when it is needed.
        for (name, _) in disk.list(&path).unwrap_or_default() {
            if file_number(&name).is_some() {
                disk.remove(&path.join(&name))
                    .map_err(StateError::file(format!("remove {name}")))?;
            }
        }
        Ok(Self {
            disk,
            path,
            next: AtomicU64::new(0),
            made: AtomicBool::new(false),
        })
    }

    fn create(self: &Arc<Self>) -> Result<SpillWriter, StateError> {
        if !self.made.load(Ordering::SeqCst) {
            self.disk
                .create_folder(&self.path)
                .map_err(StateError::file(format!("create {}", self.path.display())))?;
            self.made.store(true, Ordering::SeqCst);
        }
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        SpillWriter::create(Arc::clone(self), number)
    }
}

/// Takes a key and its value, or that it has none.
pub type Put<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<(), StateError> + 'a;

/// One table of keys and values on disk; a clone stays as it is while the other changes.
#[derive(Debug, Clone)]
pub struct Spilled {
    folder: Arc<SpillFolder>,
    /// Oldest first.
    files: Vec<Arc<SpillFile>>,
}

impl Spilled {
    /// A table without entries.
    pub fn new(folder: Arc<SpillFolder>) -> Self {
        Self {
            folder,
            files: Vec::new(),
        }
    }

    /// True when nothing was ever put in, or all of it was forgotten.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes()).sum()
    }

    /// Bytes in memory that tell where keys are.
    pub fn memory_bytes(&self) -> usize {
        self.files.iter().map(|file| file.index_bytes()).sum()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.files.clear();
    }

    /// Puts entries in: `fill` hands them over in the order of their keys, each key once; without a value its key is taken out.
    ///
    /// # Errors
    /// What the disk reports; the table is as it was then.
    pub fn put(
        &mut self,
        fill: impl FnOnce(&mut Put<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let mut writer = self.folder.create()?;
        fill(&mut |key, value| writer.add(key, value))?;
        let mut files = self.files.clone();
        files.extend(writer.finish()?);
        self.files = merged(&self.folder, files)?;
        Ok(())
    }

    /// Calls `take` with those of the keys that are in, in no order, and their values. The keys are sorted, each there once.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are not those written, what the disk reports, and what `take` does.
    pub fn find<E: From<StateError>>(
        &self,
        keys: &[&[u8]],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut wanted: Vec<&[u8]> = keys.to_vec();
        for file in self.files.iter().rev() {
            if wanted.is_empty() {
                break;
            }
            let mut found = vec![false; wanted.len()];
            file.find(&wanted, |at, value| {
                if let (Some(found), Some(key)) = (found.get_mut(at), wanted.get(at)) {
                    *found = true;
                    if let Some(value) = value {
                        take(key, value)?;
                    }
                }
                Ok::<(), E>(())
            })?;
            let mut found = found.into_iter();
            wanted.retain(|_| found.next() != Some(true));
        }
        Ok(())
    }

    /// Calls `take` with every key that is in, and its value, in the order of the keys.
    ///
    /// # Errors
    /// As for [`Spilled::find`].
    pub fn each<E: From<StateError>>(
        &self,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        newest(&self.files, |key, value| match value {
            Some(value) => take(key, value),
            None => Ok(()),
        })
    }
}

/// Merges the newest files while they are of similar size.
fn merged(
    folder: &Arc<SpillFolder>,
    mut files: Vec<Arc<SpillFile>>,
) -> Result<Vec<Arc<SpillFile>>, StateError> {
    let (mut first, mut bytes) = (files.len(), 0_u64);
    for (at, file) in files.iter().enumerate().rev() {
        if at + 1 < files.len() && file.bytes() > bytes.saturating_mul(SIZE_STEP) {
            break;
        }
        (first, bytes) = (at, bytes.saturating_add(file.bytes()));
    }
    if files.len() - first < MERGE_MIN {
        return Ok(files);
    }
    let similar = files.split_off(first);
    let mut writer = folder.create()?;
    // What was taken out need not be remembered when there is nothing older that could have it.
    let whole = files.is_empty();
    newest(&similar, |key, value| match value {
        None if whole => Ok(()),
        value => writer.add(key, value),
    })?;
    files.extend(writer.finish()?);
    Ok(files)
}

/// Every key of some files, the oldest first, with what the newest of them says about it, in the order of the keys.
fn newest<E: From<StateError>>(
    files: &[Arc<SpillFile>],
    mut take: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursors = Vec::with_capacity(files.len());
    for file in files {
        cursors.extend(Cursor::open(file)?);
    }
    let mut key = Vec::new();
    loop {
        let mut least: Option<&Cursor<'_>> = None;
        for cursor in &cursors {
            // Of equal keys the last one, which is the newest.
            if least.is_none_or(|least| cursor.key() <= least.key()) {
                least = Some(cursor);
            }
        }
        let Some(least) = least else { return Ok(()) };
        key.clear();
        key.extend_from_slice(least.key());
        take(&key, least.value())?;
        let mut at = 0;
        while let Some(cursor) = cursors.get_mut(at) {
            if cursor.key() == key.as_slice() && !cursor.advance()? {
                cursors.remove(at);
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
