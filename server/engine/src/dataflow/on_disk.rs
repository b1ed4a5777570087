//! What an operator keeps by key and has no room for in memory: which keys the files have, and what of that still counts.
//!
//! Invariant: a key is in memory or on disk. What the files still have of a key that is in memory, or gone, is never read: such keys
//! are known, and the next time keys move to disk their entries are replaced.

use std::collections::BTreeSet;
use std::sync::Arc;

use thalweg_state::{Put, SpillFolder, Spilled, StateError};

use crate::error::EngineError;
use crate::memory::heap_bytes;

/// The part of a table of keys that is on disk.
#[derive(Debug)]
pub(super) struct OnDisk {
    pub(super) files: Spilled,
    /// Slots of whose key the files have an entry.
    written: Vec<bool>,
    /// Keys that are gone, and of which the files have an entry.
    gone: BTreeSet<Box<[u8]>>,
    gone_bytes: usize,
    /// Slots whose key has been used since keys were last moved to disk.
    recent: Vec<bool>,
    /// What is counted of the keys that are on disk only.
    pub(super) entries: usize,
}

/// Takes a key and its value, in the order of the keys.
pub(super) type Fill<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StateError> + 'a;

impl OnDisk {
    pub(super) fn new(folder: &Arc<SpillFolder>) -> Self {
        Self {
            files: Spilled::new(Arc::clone(folder)),
            written: Vec::new(),
            gone: BTreeSet::new(),
            gone_bytes: 0,
            recent: Vec::new(),
            entries: 0,
        }
    }

    pub(super) fn grow(&mut self, slots: usize) {
        if self.written.len() < slots {
            self.written.resize(slots, false);
            self.recent.resize(slots, false);
        }
    }

    /// Keys that are used stay in memory the next time others move.
    pub(super) fn touch(&mut self, slots: &[u32]) {
        for slot in slots {
            self.recent[*slot as usize] = true;
        }
    }

    /// A key has a slot: the files may have an entry of it from before it was gone.
    pub(super) fn has_slot(&mut self, slot: u32, key: &[u8]) {
        if !self.gone.is_empty() && self.gone.remove(key) {
            self.gone_bytes -= gone_bytes(key);
            self.grow(slot as usize + 1);
            self.written[slot as usize] = true;
        }
    }

    /// The key of a slot is back in memory.
    pub(super) fn is_back(&mut self, slot: u32) {
        self.written[slot as usize] = true;
    }

    /// The key of a slot is gone.
    pub(super) fn forget(&mut self, slot: u32, key: &[u8]) {
        if std::mem::take(&mut self.written[slot as usize]) && self.gone.insert(key.into()) {
            self.gone_bytes += gone_bytes(key);
        }
    }

    /// Those of the keys that may be on disk, sorted, each once.
    pub(super) fn wanted<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
        in_memory: impl Fn(&[u8]) -> bool,
    ) -> Vec<&'a [u8]> {
        let absent = |key: &&[u8]| !in_memory(key) && !self.gone.contains(*key);
        let mut wanted: Vec<&[u8]> = keys.filter(absent).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Divides slots into those that move to disk and those that stay.
    pub(super) fn divide(&self, all: Vec<u32>) -> (Vec<u32>, Vec<u32>) {
        let recent = |slot: &&u32| self.recent[**slot as usize];
        let (kept, moved): (Vec<u32>, Vec<u32>) = all.iter().partition(recent);
        // Most of the table has to go, or it would be full again at once.
        match kept.len() > moved.len() {
            true => (all, Vec::new()),
            false => (moved, kept),
        }
    }

    /// Writes keys, and that others are gone.
    pub(super) fn write(
        &mut self,
        fill: impl FnOnce(&mut Fill<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let gone = &self.gone;
        self.files.put(|put: &mut Put<'_>| {
            let mut gone = gone.iter().peekable();
            fill(&mut |key, value| {
                while let Some(before) = gone.next_if(|gone| gone.as_ref() < key) {
                    put(before, None)?;
                }
                put(key, Some(value))
            })?;
            gone.try_for_each(|gone| put(gone, None))
        })?;
        self.gone.clear();
        self.gone_bytes = 0;
        Ok(())
    }

    /// Keys with so many entries have left memory; those that stay have slots from 0 on, in this order of the slots they had.
    pub(super) fn moved(&mut self, entries: usize, kept: &[u32]) {
        self.entries += entries;
        let written = kept.iter().map(|slot| self.written[*slot as usize]);
        self.written = written.collect();
        self.recent = vec![false; kept.len()];
    }

    /// Lets go of the files once they have only what is in memory, or gone.
    pub(super) fn tidy(&mut self) {
        if self.entries == 0 && !self.files.is_empty() {
            self.files.clear();
            self.gone.clear();
            self.gone_bytes = 0;
            self.written.fill(false);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let flags = self.written.capacity() + self.recent.capacity();
        flags + self.gone_bytes + self.files.memory_bytes()
    }
}

/// A key in a set of keys: itself, two words, and its part of a node of the set.
fn gone_bytes(key: &[u8]) -> usize {
    heap_bytes(key.len()) + 3 * size_of::<usize>()
}

/// The next number of what was written of a key.
pub(super) fn number(value: &mut &[u8]) -> Result<i64, EngineError> {
    part(value).map(i64::from_le_bytes)
}

/// The next bytes of what was written of a key.
pub(super) fn part<const N: usize>(value: &mut &[u8]) -> Result<[u8; N], EngineError> {
    let (bytes, rest) = value.split_first_chunk::<N>().ok_or_else(cut_off)?;
    *value = rest;
    Ok(*bytes)
}

/// The next `count` bytes of what was written of a key.
pub(super) fn bytes<'a>(value: &mut &'a [u8], count: usize) -> Result<&'a [u8], EngineError> {
    let (bytes, rest) = value.split_at_checked(count).ok_or_else(cut_off)?;
    *value = rest;
    Ok(bytes)
}

fn cut_off() -> EngineError {
    EngineError::internal("state on disk ends too early")
}
