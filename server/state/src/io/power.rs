//! A disk in memory that knows what a power loss may take away.
//!
//! Invariant: an image holds everything that was synced, and of the rest any part: of unsynced writes any subset, torn at
//! sectors; of names made, changed or removed since their folder was synced any subset or beginning. A seed makes the choice.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, folder_of};

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// A sync that a disk claims to have done and has not, as if the code had left it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkippedSync {
    /// The content of runs.
    RunContent,
    /// The names in any folder.
    Names,
    /// The content of all other files.
    OtherContent,
}

/// A disk in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct PowerDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Renaming>,
    files: Vec<Content>,
    operations: u64,
    /// The operation before which the power goes.
    cut: Option<u64>,
    /// Bytes that can be written; `None` for no end.
    free: Option<u64>,
    skipped: Option<SkippedSync>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

/// A change of names whose folder has not been synced since.
#[derive(Debug, Clone)]
struct Renaming {
    gone: Option<PathBuf>,
    there: Option<(PathBuf, Node)>,
}

#[derive(Debug, Default)]
struct Content {
    is_run: bool,
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
}

/// A small generator of choices; good enough to pick subsets, and the same everywhere for one seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

impl PowerDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The power goes before the operation with this number, counted from now: it and everything later fails.
    pub fn cut_after(&self, operations: u64) {
        let mut state = self.state();
        state.cut = Some(state.operations + operations);
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Whether the power is gone.
    pub fn is_cut(&self) -> bool {
        let state = self.state();
        state.cut.is_some_and(|cut| state.operations >= cut)
    }

    /// Lets at most this many bytes be written from now on.
    pub fn limit_free(&self, bytes: Option<u64>) {
        self.state().free = bytes;
    }

    /// Makes the disk, and its images, leave a sync out: a test that checks recovery must notice.
    pub fn skip_sync(&self, skipped: SkippedSync) {
        self.state().skipped = Some(skipped);
    }

    /// A disk as it may be found when the power is back.
    pub fn image(&self, seed: u64) -> PowerDisk {
        let mut dice = Dice(seed);
        let state = self.state();
        let mut names = state.durable.clone();
        // Either a beginning of what was done, as a journal keeps it, or any part of it.
        let beginning = dice.below(2) == 0;
        let kept = dice.below(state.pending.len() as u64 + 1) as usize;
        for (index, renaming) in state.pending.iter().enumerate() {
            let applies = match beginning {
                true => index < kept,
                false => dice.below(2) == 0,
            };
            if applies {
                renaming.apply(&mut names);
            }
        }
        let files = state
            .files
            .iter()
            .map(|content| {
                let durable = content.after_loss(&mut dice);
                Content {
                    is_run: content.is_run,
                    now: durable.clone(),
                    durable,
                    pending: Vec::new(),
                }
            })
            .collect();
        PowerDisk {
            state: Arc::new(Mutex::new(State {
                durable: names.clone(),
                names,
                files,
                skipped: state.skipped,
                ..State::default()
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.cut.is_some_and(|cut| state.operations >= cut) {
            return Err(io::Error::other("the power is gone"));
        }
        state.operations += 1;
        Ok(state)
    }
}

impl State {
    fn rename(&mut self, renaming: Renaming) {
        renaming.apply(&mut self.names);
        self.pending.push(renaming);
    }
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((path, node)) = &self.there {
            names.insert(path.clone(), *node);
        }
    }

    fn is_in(&self, folder: &Path) -> bool {
        let there = self.there.as_ref().map(|(path, _)| path);
        there
            .or(self.gone.as_ref())
            .is_some_and(|path| folder_of(path) == folder)
    }
}

impl Content {
    fn change(&mut self, change: Change) {
        apply(&mut self.now, &change, |_| true);
        self.pending.push(change);
    }

    fn after_loss(&self, dice: &mut Dice) -> Vec<u8> {
        let mut content = self.durable.clone();
        // Now and then everything or nothing has arrived; mostly some of it.
        let mode = dice.below(4);
        for change in &self.pending {
            match (mode, dice.below(3)) {
                (0, _) | (2.., 0) => {}
                (1, _) | (2.., 1) => apply(&mut content, change, |_| true),
                _ => apply(&mut content, change, |_| dice.below(2) == 0),
            }
        }
        content
    }
}

/// Applies the sectors of a change that `arrives` lets through.
fn apply(content: &mut Vec<u8>, change: &Change, mut arrives: impl FnMut(u64) -> bool) {
    match change {
        Change::Length(bytes) => {
            if arrives(0) {
                content.resize(*bytes as usize, 0);
            }
        }
        Change::Write { offset, data } => {
            let mut done = 0_u64;
            while done < data.len() as u64 {
                let at = offset + done;
                let end = ((at / SECTOR + 1) * SECTOR - offset).min(data.len() as u64);
                if arrives(at / SECTOR) {
                    let (from, to) = (at as usize, (offset + end) as usize);
                    if content.len() < to {
                        content.resize(to, 0);
                    }
                    if let (Some(target), Some(part)) = (
                        content.get_mut(from..to),
                        data.get(done as usize..end as usize),
                    ) {
                        target.copy_from_slice(part);
                    }
                }
                done = end;
            }
        }
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no {}", path.display()))
}

impl Disk for PowerDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.change()?;
        let file = state.files.len();
        state.files.push(Content {
            is_run: path.extension().is_some_and(|end| end == "run"),
            ..Content::default()
        });
        state.rename(Renaming {
            gone: None,
            there: Some((path.into(), Node::File(file))),
        });
        Ok(Box::new(PowerFile {
            disk: self.clone(),
            file,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        match self.state().names.get(path) {
            Some(Node::File(file)) => Ok(Box::new(PowerFile {
                disk: self.clone(),
                file: *file,
            })),
            _ => Err(not_found(path)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        let node = *state.names.get(from).ok_or_else(|| not_found(from))?;
        if folder_of(from) != folder_of(to) {
            return Err(io::Error::from(io::ErrorKind::CrossesDevices));
        }
        state.rename(Renaming {
            gone: Some(from.into()),
            there: Some((to.into(), node)),
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        if !state.names.contains_key(path) {
            return Err(not_found(path));
        }
        state.rename(Renaming {
            gone: Some(path.into()),
            there: None,
        });
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        if state.names.contains_key(path) {
            return Ok(());
        }
        // Its name is durable when this returns, as the trait says.
        state.names.insert(path.into(), Node::Folder);
        state.durable.insert(path.into(), Node::Folder);
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut guard = self.change()?;
        let state = &mut *guard;
        if state.skipped == Some(SkippedSync::Names) {
            return Ok(());
        }
        let durable = &mut state.durable;
        state.pending.retain(|renaming| {
            let inside = renaming.is_in(path);
            if inside {
                renaming.apply(durable);
            }
            !inside
        });
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        let files = state.names.iter().filter_map(|(path, node)| match node {
            Node::File(file) if folder_of(path) == folder => {
                let name = path.file_name()?.to_str()?.to_owned();
                Some((name, state.files.get(*file)?.now.len() as u64))
            }
            _ => None,
        });
        Ok(files.collect())
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(self.state().free.unwrap_or(u64::MAX))
    }
}

/// A file of a disk in memory.
#[derive(Debug)]
struct PowerFile {
    disk: PowerDisk,
    file: usize,
}

impl PowerFile {
    fn content<T>(&self, with: impl FnOnce(&Content) -> io::Result<T>) -> io::Result<T> {
        let state = self.disk.state();
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        with(state.files.get(self.file).ok_or_else(gone)?)
    }

    fn change(&self, grows: u64, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        let mut state = self.disk.change()?;
        if let Some(free) = &mut state.free {
            *free = free
                .checked_sub(grows)
                .ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
        }
        if let Some(content) = state.files.get_mut(self.file) {
            change(content);
        }
        Ok(())
    }
}

impl DiskFile for PowerFile {
    fn bytes(&self) -> io::Result<u64> {
        self.content(|content| Ok(content.now.len() as u64))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.content(|content| {
            let start = offset as usize;
            let part = content.now.get(start..start.saturating_add(out.len()));
            out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let grows = (offset + data.len() as u64).saturating_sub(self.bytes()?);
        self.change(grows, |content| {
            content.change(Change::Write {
                offset,
                data: data.to_vec(),
            });
        })
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.change(0, |content| content.change(Change::Length(bytes)))
    }

    fn sync(&self) -> io::Result<()> {
        let skipped = self.disk.state().skipped;
        self.change(0, |content| {
            let left_out = match content.is_run {
                true => SkippedSync::RunContent,
                false => SkippedSync::OtherContent,
            };
            if skipped == Some(left_out) {
                return;
            }
            for change in std::mem::take(&mut content.pending) {
                apply(&mut content.durable, &change, |_| true);
            }
        })
    }
}
