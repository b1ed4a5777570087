//! Backups: a copy of a data dir while it is in use, and a data dir made from one.
//!
//! Invariant: the list of a backup's files is written after all of them are on disk, so a folder without one is no backup; a data
//! dir that is being restored says so until all of it is on disk, and does not open. Every byte that is restored is checked against
//! the list. A backup holds what one transaction of the data file saw, with every run that it names.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, TableHandle, Value};
use serde::{Deserialize, Serialize};

use crate::error::StateError;
use crate::folder::{DATABASE_FILE, FORMAT, FORMAT_FILE, RUNS_FOLDER, database, format_text};
use crate::io::{Disk, DiskFile, folder_of, read_all};
use crate::point::{CrashPoints, Point};
use crate::run::{run_number, run_path};

/// The list of a backup's files.
pub(crate) const LIST_FILE: &str = "BACKUP";
/// In a data dir while it is being restored.
pub(crate) const RESTORING_FILE: &str = "RESTORING";
const LIST_BYTES_MAX: u64 = 64 << 20;
const COPY_BYTES: usize = 1 << 20;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Format of the data dir it was made of.
    pub format: u32,
    /// Version of the program that made it.
    pub version: String,
    /// Number of the newest checkpoint in it; 0 when there had been none.
    pub checkpoint: u64,
    /// When it was made, milliseconds since the Unix epoch.
    pub taken_at_ms: i64,
    /// Its files.
    pub files: Vec<BackupFile>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its name, below the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of its bytes.
    pub crc32c: u32,
}

impl Backup {
    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Copies the tables of a data file into another, from one view of them.
pub struct Copying<'a> {
    from: &'a ReadTransaction,
    to: &'a redb::WriteTransaction,
    copied: RefCell<BTreeSet<String>>,
}

impl std::fmt::Debug for Copying<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Copying").field(&self.copied).finish()
    }
}

impl Copying<'_> {
    /// Copies one table; nothing when it is not there.
    ///
    /// # Errors
    /// What the databases report.
    pub fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<(), StateError> {
        self.copied.borrow_mut().insert(table.name().to_owned());
        let from = match self.from.open_table(table) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            opened => opened.map_err(redb::Error::from)?,
        };
        let mut to = self.to.open_table(table).map_err(redb::Error::from)?;
        for item in from.iter().map_err(redb::Error::from)? {
            let (key, value) = item.map_err(redb::Error::from)?;
            to.insert(key.value(), value.value())
                .map_err(redb::Error::from)?;
        }
        Ok(())
    }

    /// Refuses what would be left out.
    fn check_all(&self) -> Result<(), StateError> {
        let copied = self.copied.borrow();
        for table in self.from.list_tables().map_err(redb::Error::from)? {
            if !copied.contains(table.name()) {
                return Err(StateError::corrupt(
                    "the data file",
                    format!("it has a table {} that nobody copies", table.name()),
                ));
            }
        }
        Ok(())
    }
}

/// Where a backup is made.
pub(crate) struct Target<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) points: &'a CrashPoints,
    pub(crate) folder: &'a Path,
}

impl Target<'_> {
    /// Makes the folder, which must hold nothing but what a backup that did not end has left.
    pub(crate) fn prepare(&self) -> Result<(), StateError> {
        let label = self.folder.display();
        make_folder(self.disk, self.folder)?;
        let found = list(self.disk, self.folder)?;
        let of_backups = |name: &str| matches!(name, DATABASE_FILE_COPY | LIST_FILE_NEW);
        if found.iter().any(|(name, _)| !of_backups(name)) {
            return Err(StateError::Taken(label.to_string()));
        }
        let runs = self.folder.join(RUNS_FOLDER);
        make_folder(self.disk, &runs)?;
        for (name, _) in list(self.disk, &runs)? {
            // Runs come after the data file, so beside none they are somebody else's.
            if found.is_empty() || run_number(&name).is_none() {
                return Err(StateError::Taken(runs.display().to_string()));
            }
            let stale = runs.join(name);
            self.disk.remove(&stale).map_err(failed("remove", &stale))?;
        }
        Ok(())
    }

    /// Copies the data file as `from` sees it; `others` copies the tables that are not of this crate.
    pub(crate) fn copy_database(
        &self,
        from: &ReadTransaction,
        copy: impl FnOnce(&Copying<'_>) -> Result<(), StateError>,
    ) -> Result<BackupFile, StateError> {
        self.hit(Point::BackupDatabase)?;
        let path = self.folder.join(DATABASE_FILE_COPY);
        let file = self.disk.create(&path).map_err(failed("create", &path))?;
        let database = database(file, Arc::default())?;
        let to = database.begin_write().map_err(redb::Error::from)?;
        let copying = Copying {
            from,
            to: &to,
            copied: RefCell::default(),
        };
        copy(&copying)?;
        copying.check_all()?;
        to.commit().map_err(redb::Error::from)?;
        drop(database);
        let file = self.disk.open(&path).map_err(failed("open", &path))?;
        sync(self.disk, self.folder)?;
        let (bytes, crc32c) =
            read_through(file.as_ref(), |_, _| Ok(())).map_err(failed("read", &path))?;
        Ok(BackupFile {
            name: DATABASE_FILE_COPY.to_owned(),
            bytes,
            crc32c,
        })
    }

    /// Copies one run.
    pub(crate) fn copy_run(&self, runs: &Path, number: u64) -> Result<BackupFile, StateError> {
        self.hit(Point::BackupRun)?;
        let from = run_path(runs, number);
        let to = run_path(&self.folder.join(RUNS_FOLDER), number);
        let (bytes, crc32c) = copy_file(self.disk, &from, &to)?;
        Ok(BackupFile {
            name: below(self.folder, &to),
            bytes,
            crc32c,
        })
    }

    /// Makes all that was copied durable, and then a backup.
    pub(crate) fn finish(&self, backup: &Backup) -> Result<(), StateError> {
        sync(self.disk, &self.folder.join(RUNS_FOLDER))?;
        sync(self.disk, self.folder)?;
        let (fresh, path) = (self.folder.join(LIST_FILE_NEW), self.folder.join(LIST_FILE));
        let text = serde_json::to_vec_pretty(backup).map_err(|error| {
            StateError::file(format!("write {}", path.display()))(io::Error::other(error))
        })?;
        self.hit(Point::BackupList)?;
        let written = || -> io::Result<()> {
            let file = self.disk.create(&fresh)?;
            file.write_at(0, &text)?;
            file.sync()?;
            self.disk.rename(&fresh, &path)
        };
        written().map_err(failed("write", &path))?;
        sync(self.disk, self.folder)?;
        sync(self.disk, &folder_of(self.folder))
    }

    fn hit(&self, point: Point) -> Result<(), StateError> {
        self.points
            .hit(point)
            .map_err(StateError::file(format!("pass {}", point.name())))
    }
}

/// The data file has another name in a backup, so that nobody takes one for a data dir.
const DATABASE_FILE_COPY: &str = "data.redb";
const LIST_FILE_NEW: &str = "BACKUP.new";

/// Makes a data dir of a backup. What is restored is checked first, as it is copied; the dir opens only when all of it is there.
///
/// # Errors
/// `NoBackup` when the folder is none, or not a whole one; `Taken` when the data dir holds anything but what a restore that did not
/// end has left; `NewerFormat`; what the disk reports.
pub fn restore(
    disk: &dyn Disk,
    points: &CrashPoints,
    from: &Path,
    data_dir: &Path,
) -> Result<Backup, StateError> {
    let hit = |point: Point| {
        let passed = points.hit(point);
        passed.map_err(StateError::file(format!("pass {}", point.name())))
    };
    let backup = read_list(disk, from)?;
    make_folder(disk, data_dir)?;
    let marker = data_dir.join(RESTORING_FILE);
    let runs = data_dir.join(RUNS_FOLDER);
    make_folder(disk, &runs)?;
    let found = list(disk, data_dir)?;
    let begun = found.iter().any(|(name, _)| name == RESTORING_FILE);
    let is_empty = found.is_empty() && list(disk, &runs)?.is_empty();
    if !(begun || is_empty) {
        return Err(StateError::Taken(data_dir.display().to_string()));
    }
    hit(Point::RestoreBegin)?;
    disk.create(&marker)
        .and_then(|file| file.sync())
        .map_err(failed("write", &marker))?;
    sync(disk, data_dir)?;
    for file in &backup.files {
        hit(Point::RestoreFile)?;
        let to = match file.name.as_str() {
            DATABASE_FILE_COPY => data_dir.join(DATABASE_FILE),
            name => data_dir.join(name),
        };
        let (bytes, crc32c) = copy_file(disk, &from.join(&file.name), &to)?;
        if (bytes, crc32c) != (file.bytes, file.crc32c) {
            return Err(StateError::NoBackup {
                folder: from.display().to_string(),
                reason: format!("{} is not what was written", file.name),
            });
        }
    }
    let format = data_dir.join(FORMAT_FILE);
    disk.create(&format)
        .and_then(|file| {
            file.write_at(0, format_text(backup.format).as_bytes())?;
            file.sync()
        })
        .map_err(failed("write", &format))?;
    sync(disk, &runs)?;
    sync(disk, data_dir)?;
    hit(Point::RestoreEnd)?;
    disk.remove(&marker).map_err(failed("remove", &marker))?;
    sync(disk, data_dir)?;
    Ok(backup)
}

/// Reads the list of a backup and checks that it names nothing outside of the folder.
fn read_list(disk: &dyn Disk, folder: &Path) -> Result<Backup, StateError> {
    let refused = |reason: String| StateError::NoBackup {
        folder: folder.display().to_string(),
        reason,
    };
    let path = folder.join(LIST_FILE);
    let text = match read_all(disk, &path, LIST_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refused(format!(
                "it has no file {LIST_FILE}, which is written when all others are"
            )));
        }
        read => read.map_err(failed("read", &path))?,
    };
    let backup: Backup = serde_json::from_slice(&text)
        .map_err(|error| refused(format!("its file {LIST_FILE} cannot be read: {error}")))?;
    if backup.format > FORMAT {
        return Err(StateError::NewerFormat {
            found: backup.format,
            known: FORMAT,
        });
    }
    let known = |name: &str| {
        let run = name.strip_prefix(RUNS_FOLDER);
        let run = run.and_then(|name| name.strip_prefix('/'));
        name == DATABASE_FILE_COPY || run.is_some_and(|name| run_number(name).is_some())
    };
    match backup.files.iter().find(|file| !known(&file.name)) {
        Some(file) => Err(refused(format!("it lists {:?}", file.name))),
        None if !backup
            .files
            .iter()
            .any(|file| file.name == DATABASE_FILE_COPY) =>
        {
            Err(refused("it lists no data file".to_owned()))
        }
        None => Ok(backup),
    }
}

/// Copies a file, on disk when this returns; its length and the CRC-32C of what was read.
fn copy_file(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(u64, u32), StateError> {
    let source = disk.open_to_read(from).map_err(failed("open", from))?;
    let target = disk.create(to).map_err(failed("create", to))?;
    let copied = read_through(source.as_ref(), |at, chunk| target.write_at(at, chunk));
    let copied = copied.map_err(failed("copy", from))?;
    target.sync().map_err(failed("sync", to))?;
    Ok(copied)
}

/// Gives a file's bytes, piece by piece, and their length and CRC-32C at the end.
fn read_through(
    file: &dyn DiskFile,
    mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<(u64, u32)> {
    let bytes = file.bytes()?;
    let (mut at, mut crc, mut buffer) = (0, 0, vec![0; COPY_BYTES]);
    while at < bytes {
        let chunk = buffer
            .len()
            .min(usize::try_from(bytes - at).unwrap_or(COPY_BYTES));
        let chunk = buffer.get_mut(..chunk).unwrap_or_default();
        file.read_at(at, chunk)?;
        crc = crc32c::crc32c_append(crc, chunk);
        take(at, chunk)?;
        at += chunk.len() as u64;
    }
    Ok((bytes, crc))
}

fn below(folder: &Path, path: &Path) -> String {
    let name: PathBuf = path.strip_prefix(folder).unwrap_or(path).into();
    name.to_string_lossy().into_owned()
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    StateError::file(format!("{what} {}", path.display()))
}

fn make_folder(disk: &dyn Disk, folder: &Path) -> Result<(), StateError> {
    disk.create_folder(folder).map_err(failed("create", folder))
}

fn list(disk: &dyn Disk, folder: &Path) -> Result<Vec<(String, u64)>, StateError> {
    disk.list(folder).map_err(failed("list", folder))
}

fn sync(disk: &dyn Disk, folder: &Path) -> Result<(), StateError> {
    match disk.sync_folder(folder) {
        // Whoever may not read the folder above has not made this one in it either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(failed("sync", folder)),
    }
}

#[cfg(test)]
mod tests;
