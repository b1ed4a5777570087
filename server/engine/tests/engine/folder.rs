//! Where a database of the harness is.
//!
//! Invariant: a scratch folder goes with its last owner.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_state::{CrashPoints, DataDir, Disk, StateError, SystemDisk};

/// The data dir of a database.
#[derive(Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Where its next engine fails.
    pub(crate) points: CrashPoints,
    pub(crate) disk: Arc<dyn Disk>,
    _scratch: Option<Arc<tempfile::TempDir>>,
}

impl Folder {
    pub(crate) fn scratch() -> Folder {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let folder = Folder::at(scratch.path());
        Folder {
            _scratch: Some(Arc::new(scratch)),
            ..folder
        }
    }

    /// One that stays.
    pub(crate) fn at(path: &Path) -> Folder {
        Folder {
            path: path.to_path_buf(),
            points: CrashPoints::none(),
            disk: Arc::new(SystemDisk),
            _scratch: None,
        }
    }

    /// The same, whose next engine fails nowhere.
    pub(crate) fn sound(self) -> Folder {
        Folder {
            points: CrashPoints::none(),
            ..self
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.path.join("thalweg.redb")
    }

    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        files_in(&self.path.join("runs"))
    }

    /// The files of state that does not fit into memory.
    pub(crate) fn spilled(&self) -> Vec<PathBuf> {
        files_in(&self.path.join("spill"))
    }

    pub(crate) fn open(&self) -> Result<DataDir, StateError> {
        DataDir::open(Arc::clone(&self.disk), &self.path, self.points.clone())
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("a folder");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}
