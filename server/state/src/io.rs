//! The one module through which durable files go.
//!
//! Invariant: what a caller has synced, the file itself and the folder it is in, is there after a power loss; nothing else is
//! promised. Whoever keeps durable state takes a [`Disk`], so that a test can put [`PowerDisk`] in its place.

mod faulty;
mod power;

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data_file::Health;

pub use faulty::FaultyDisk;
pub use power::{PowerDisk, SkippedSync};

/// A place for durable files.
pub trait Disk: Send + Sync + Debug {
    /// Makes an empty file, in the place of one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing; `NotFound` when there is none.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading only, so that it may be where nobody can write; `NotFound` when there is none.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    /// Gives a file another name in the same folder, in the place of what has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; whoever has it open can go on reading.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder with all above it, and their names durable; no error when it is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes the names of a folder's files durable, as they are now.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Names and lengths of a folder's files, in no order.
    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>>;

    /// Bytes that can still be written below a folder.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Its length.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `out` from `offset` on; `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`; the file grows when it ends before.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Cuts the file, or lengthens it with zeros.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;

    /// Makes the content durable, not the name.
    fn sync(&self) -> io::Result<()>;
}

/// The folder a path is in.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// All of a file.
pub(crate) fn read_all(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open_to_read(path)?;
    let mut content = vec![0; file.bytes()?.min(bytes_max) as usize];
    file.read_at(0, &mut content)?;
    Ok(content)
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

#[derive(Debug)]
struct SystemFile(File);

impl Disk for SystemDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Ok(Box::new(SystemFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(SystemFile(file)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SystemFile(File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let above = folder_of(path);
        if above != path {
            self.create_folder(&above)?;
        }
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_folder(&above),
        }
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            // A name that is no text is none of ours.
            if let (true, Ok(name)) = (about.is_file(), entry.file_name().into_string()) {
                files.push((name, about.len()));
            }
        }
        Ok(files)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let about = rustix::fs::statvfs(folder)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }
}

impl DiskFile for SystemFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A file as the database's storage. After its first failure it takes and gives nothing any more, so that a database that was given
/// up never writes again.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) health: Arc<Health>,
}

impl DatabaseFile {
    fn step<T>(&self, step: impl FnOnce(&dyn DiskFile) -> io::Result<T>) -> io::Result<T> {
        if self.health.has_failed() {
            return Err(io::Error::other("the file has failed before"));
        }
        step(self.file.as_ref()).inspect_err(|error| self.health.fail(error))
    }
}

impl redb::StorageBackend for DatabaseFile {
    fn len(&self) -> io::Result<u64> {
        self.step(|file| file.bytes())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.step(|file| file.read_at(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step(|file| file.set_bytes(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(|file| file.sync().inspect_err(|_| self.health.lose_sync()))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step(|file| file.write_at(offset, data))
    }
}

#[cfg(test)]
mod tests;
