//! A disk that fails when a test says so, and is sound again afterwards.
//!
//! Invariant: a step that fails has done nothing; the steps before and after it are those of the disk beneath.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

/// A disk over another one, of which the steps on some files fail for a while; clones share it.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    disk: Arc<dyn Disk>,
    /// Files with this extension.
    extension: &'static str,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    steps: u64,
    /// First step that fails, how many do, and with what.
    fault: Option<(u64, u64, io::ErrorKind)>,
    failed: u64,
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    script: Option<Arc<Mutex<Script>>>,
}

impl FaultyDisk {
    /// Fails nowhere yet.
    pub fn new(disk: Arc<dyn Disk>, extension: &'static str) -> Self {
        Self {
            disk,
            extension,
            script: Arc::default(),
        }
    }

    /// Has `times` steps fail, after `after` more that do not. A new fault takes the place of an earlier one.
    pub fn fail(&self, after: u64, times: u64, kind: io::ErrorKind) {
        let mut script = lock(&self.script);
        script.failed = 0;
        script.fault = Some((script.steps + after, times, kind));
    }

    /// No step fails any more.
    pub fn mend(&self) {
        lock(&self.script).fault = None;
    }

    /// Steps that have failed since the last fault was set.
    pub fn failed(&self) -> u64 {
        lock(&self.script).failed
    }

    fn of(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let fails = path.extension().is_some_and(|kind| kind == self.extension);
        let script = fails.then(|| Arc::clone(&self.script));
        Box::new(FaultyFile { file, script })
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyFile {
    fn step(&self) -> io::Result<()> {
        let Some(script) = &self.script else {
            return Ok(());
        };
        let mut script = lock(script);
        let step = script.steps;
        script.steps += 1;
        match script.fault {
            Some((first, times, kind)) if step >= first && step - first < times => {
                script.failed += 1;
                Err(io::Error::new(kind, "the disk fails for a while"))
            }
            _ => Ok(()),
        }
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.of(path, self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.of(path, self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.create_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_folder(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        self.disk.list(folder)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        self.disk.free_bytes(folder)
    }
}

impl DiskFile for FaultyFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.step()?;
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step()?;
        self.file.write_at(offset, data)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.step()?;
        self.file.set_bytes(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.step()?;
        self.file.sync()
    }
}
