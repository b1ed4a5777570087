//! The data dir: its format version, the database file and the folder of runs.
//!
//! Invariant: when a data dir is open, the names of everything in it that was acknowledged are durable. A dir of a later format
//! is not touched; one from before formats were numbered is taken over.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::Database;

use crate::backup::{LIST_FILE, RESTORING_FILE};
use crate::data_file::{Health, Home};
use crate::error::StateError;
use crate::io::{DatabaseFile, Disk, DiskFile, folder_of, read_all};
use crate::point::{CrashPoints, Point};

/// The format this version writes, and the newest it reads.
pub const FORMAT: u32 = 1;

pub(crate) const FORMAT_FILE: &str = "FORMAT";
const FORMAT_BYTES_MAX: u64 = 1024;
pub(crate) const DATABASE_FILE: &str = "thalweg.redb";
pub(crate) const RUNS_FOLDER: &str = "runs";
const SPILL_FOLDER: &str = "spill";
/// Pages of the database that stay in memory: beside the log it holds catalog and manifest, which are small.
const DATABASE_CACHE_BYTES: usize = 64 << 20;

/// An open data dir.
#[derive(Clone)]
pub struct DataDir {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) points: CrashPoints,
    path: PathBuf,
    database: Arc<Database>,
    /// What has failed on the database's file.
    health: Arc<Health>,
}

impl std::fmt::Debug for DataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDir").field("path", &self.path).finish()
    }
}

impl DataDir {
    /// Opens a data dir, making what is missing.
    ///
    /// # Errors
    /// `NewerFormat`, `Corrupt` for a format file that cannot be read, `NotWhole` for a backup or a restore that did not end, and
    /// whatever the disk or the database report.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, points: CrashPoints) -> Result<Self, StateError> {
        let label = path.display();
        let runs = path.join(RUNS_FOLDER);
        disk.create_folder(path)
            .map_err(StateError::file(format!("create {label}")))?;
        check_whole(disk.as_ref(), path)?;
        take_format(disk.as_ref(), path, &points)?;
        disk.create_folder(&runs)
            .map_err(StateError::file(format!("create {}", runs.display())))?;
        let file = path.join(DATABASE_FILE);
        if disk
            .open(&file)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            create_database(disk.as_ref(), path, &points)?;
        }
        let storage = disk
            .open(&file)
            .map_err(StateError::file(format!("open {}", file.display())))?;
        let health = Arc::new(Health::default());
        let database = database(storage, Arc::clone(&health))?;
        // Names that a start made which ended before this step are not durable yet, and what follows relies on them.
        disk.sync_folder(path)
            .map_err(StateError::file(format!("sync {label}")))?;
        match disk.sync_folder(&folder_of(path)) {
            // Whoever may not read the folder above has not made this one in it either.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(StateError::file(format!("sync the folder of {label}"))(
                    error,
                ));
            }
            _ => {}
        }
        Ok(Self {
            disk,
            points,
            path: path.into(),
            database: Arc::new(database),
            health,
        })
    }

    /// The database in it.
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// Where the database is, to open it again.
    pub(crate) fn home(&self) -> Home {
        Home {
            disk: Arc::clone(&self.disk),
            path: self.path.join(DATABASE_FILE),
            health: Arc::clone(&self.health),
        }
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.path.join(RUNS_FOLDER)
    }

    /// Where what does not fit into memory goes.
    pub(crate) fn spill(&self) -> PathBuf {
        self.path.join(SPILL_FOLDER)
    }
}

/// Refuses what only looks like a data dir.
fn check_whole(disk: &dyn Disk, path: &Path) -> Result<(), StateError> {
    for name in [LIST_FILE, RESTORING_FILE] {
        match disk.open_to_read(&path.join(name)) {
            Ok(_) => {
                return Err(StateError::NotWhole {
                    folder: path.display().to_string(),
                    is_backup: name == LIST_FILE,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StateError::file(format!("open {name}"))(error)),
        }
    }
    Ok(())
}

/// What the format file says.
pub(crate) fn format_text(format: u32) -> String {
    format!("thalweg data format {format}\n")
}

/// Checks the format of a dir, or makes it the present one.
fn take_format(disk: &dyn Disk, path: &Path, points: &CrashPoints) -> Result<(), StateError> {
    let file = path.join(FORMAT_FILE);
    match read_all(disk, &file, FORMAT_BYTES_MAX) {
        Ok(content) => {
            let corrupt = || {
                StateError::corrupt(
                    format!("the format file {}", file.display()),
                    "it names no format",
                )
            };
            let text = String::from_utf8(content).map_err(|_| corrupt())?;
            let number = text.trim_end().strip_prefix("thalweg data format ");
            let found: u32 = number.and_then(|n| n.parse().ok()).ok_or_else(corrupt)?;
            if found > FORMAT {
                return Err(StateError::NewerFormat {
                    found,
                    known: FORMAT,
                });
            }
            Ok(())
        }
        // A dir without one is new, or from before there were runs: all of its content is in the logs, which are read as ever.
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_format(disk, &file, points)
            .map_err(StateError::file(format!("write {}", file.display()))),
        Err(error) => Err(StateError::file(format!("read {}", file.display()))(error)),
    }
}

fn write_format(disk: &dyn Disk, file: &Path, points: &CrashPoints) -> io::Result<()> {
    let fresh = file.with_extension("new");
    let content = disk.create(&fresh)?;
    points.hit(Point::FormatWrite)?;
    content.write_at(0, format_text(FORMAT).as_bytes())?;
    content.sync()?;
    points.hit(Point::FormatRename)?;
    disk.rename(&fresh, file)?;
    points.hit(Point::FormatFolder)?;
    disk.sync_folder(&folder_of(file))
}

/// The database in a file, which is made when the file is empty.
pub(crate) fn database(
    file: Box<dyn DiskFile>,
    health: Arc<Health>,
) -> Result<Database, StateError> {
    let mut builder = Database::builder();
    builder.set_cache_size(DATABASE_CACHE_BYTES);
    let database = builder.create_with_backend(DatabaseFile { file, health });
    Ok(database.map_err(redb::Error::from)?)
}

/// Makes an empty database under another name, so that a file with the right name is always a whole one.
fn create_database(disk: &dyn Disk, path: &Path, points: &CrashPoints) -> Result<(), StateError> {
    let (file, fresh) = (
        path.join(DATABASE_FILE),
        path.join(format!("{DATABASE_FILE}.new")),
    );
    let failed = || StateError::file(format!("create {}", file.display()));
    let storage = disk.create(&fresh).map_err(failed())?;
    points.hit(Point::DatabaseCreate).map_err(failed())?;
    drop(database(storage, Arc::default())?);
    let moved = || -> io::Result<()> {
        disk.open(&fresh)?.sync()?;
        points.hit(Point::DatabaseRename)?;
        disk.rename(&fresh, &file)?;
        points.hit(Point::DatabaseFolder)?;
        disk.sync_folder(path)
    };
    moved().map_err(failed())
}
