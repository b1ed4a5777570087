//! One file of spilled entries: blocks of entries in the order of their keys, and where each block is, in memory.
//!
//! Invariant: a block is decoded after its checksum matched. The file goes with its last owner.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SpillFolder;
use crate::error::StateError;
use crate::hash::hash;
use crate::io::DiskFile;

/// A block ends when it has this many bytes. One is read for each key that is looked for far from the others.
const BLOCK_BYTES: usize = 16 << 10;

/// Bytes gathered before they go to the file.
const BUFFER_BYTES: usize = 1 << 20;

/// In the place of a value's length: there is no value.
const NO_VALUE: u32 = u32::MAX;

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.spill"))
}

/// The number of the file that has this name.
pub(super) fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".spill")?;
    u64::from_str_radix(digits, 16).ok()
}

#[derive(Debug)]
struct Block {
    offset: u64,
    bytes: u32,
    crc: u32,
    first: Box<[u8]>,
}

/// A finished file.
#[derive(Debug)]
pub(super) struct SpillFile {
    folder: Arc<SpillFolder>,
    number: u64,
    file: Box<dyn DiskFile>,
    bytes: u64,
    blocks: Vec<Block>,
    filter: Filter,
    index_bytes: usize,
}

/// Tells for most keys that a file does not have that it does not.
#[derive(Debug)]
struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// About one key in a hundred that is not there is taken for one that is.
    const BITS_PER_KEY: usize = 10;
    const PROBES: u64 = 6;

    fn of(hashes: &[u64]) -> Self {
        let words = (hashes.len() * Self::BITS_PER_KEY).div_ceil(64).max(1);
        let mut filter = Self {
            words: vec![0; words],
        };
        for hash in hashes {
            for probe in 0..Self::PROBES {
                let (word, bit) = filter.place(*hash, probe);
                if let Some(word) = filter.words.get_mut(word) {
                    *word |= bit;
                }
            }
        }
        filter
    }

    fn place(&self, hash: u64, probe: u64) -> (usize, u64) {
        let turned = hash.wrapping_add(probe.wrapping_mul(hash.rotate_left(32) | 1));
        let bits = self.words.len() as u128 * 64;
        let bit = ((u128::from(turned) * bits) >> 64) as u64;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn may_have(&self, hash: u64) -> bool {
        (0..Self::PROBES).all(|probe| {
            let (word, bit) = self.place(hash, probe);
            self.words.get(word).is_some_and(|word| word & bit != 0)
        })
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        remove(&self.folder, self.number);
    }
}

fn remove(folder: &SpillFolder, number: u64) {
    // What cannot be removed now is removed by the next start.
    let _stays = folder.disk.remove(&path_of(&folder.path, number));
}

impl SpillFile {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn index_bytes(&self) -> usize {
        self.index_bytes + self.filter.words.len() * size_of::<u64>()
    }

    fn name(&self) -> String {
        path_of(&self.folder.path, self.number)
            .display()
            .to_string()
    }

    fn read(&self, block: &Block) -> Result<Vec<u8>, StateError> {
        let mut bytes = vec![0; block.bytes as usize];
        self.file
            .read_at(block.offset, &mut bytes)
            .map_err(StateError::file(format!("read {}", self.name())))?;
        if crc32c::crc32c(&bytes) != block.crc {
            return Err(StateError::corrupt(
                self.name(),
                format!(
                    "the checksum of the block at {} does not match",
                    block.offset
                ),
            ));
        }
        Ok(bytes)
    }

    /// Calls `take` with the places, in the list, of keys that the file has, and what it says about them.
    pub(super) fn find<E: From<StateError>>(
        &self,
        keys: &[&[u8]],
        mut take: impl FnMut(usize, Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let known = |(_, key): &(usize, &[u8])| self.filter.may_have(hash(key));
        let wanted = keys.iter().copied().enumerate().filter(known);
        let mut wanted = wanted.peekable();
        while let Some((_, key)) = wanted.peek() {
            let after = self
                .blocks
                .partition_point(|block| block.first.as_ref() <= *key);
            let Some(block) = after.checked_sub(1).and_then(|at| self.blocks.get(at)) else {
                wanted.next();
                continue;
            };
            let end = self.blocks.get(after).map(|next| next.first.as_ref());
            let bytes = self.read(block)?;
            let mut rest = bytes.as_slice();
            let mut entry = self.next(&mut rest)?;
            while let Some((at, key)) = wanted.next_if(|(_, key)| end.is_none_or(|end| *key < end))
            {
                while entry.is_some_and(|(held, _)| held < key) {
                    entry = self.next(&mut rest)?;
                }
                if let Some((_, value)) = entry.filter(|(held, _)| *held == key) {
                    take(at, value)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the next entry off a block; `None` at its end.
    fn next<'a>(&self, rest: &mut &'a [u8]) -> Result<Option<Entry<'a>>, StateError> {
        if rest.is_empty() {
            return Ok(None);
        }
        let entry = split_entry(rest);
        entry
            .map(Some)
            .ok_or_else(|| StateError::corrupt(self.name(), "an entry is longer than its block"))
    }
}

type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

fn split_entry<'a>(rest: &mut &'a [u8]) -> Option<Entry<'a>> {
    let (key_bytes, after) = rest.split_first_chunk::<4>()?;
    let (value_bytes, after) = after.split_first_chunk::<4>()?;
    let (key, after) = after.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
    let (value, after) = match u32::from_le_bytes(*value_bytes) {
        NO_VALUE => (None, after),
        bytes => {
            let (value, after) = after.split_at_checked(bytes as usize)?;
            (Some(value), after)
        }
    };
    *rest = after;
    Some((key, value))
}

/// A file being written. What is not finished goes when this does.
pub(super) struct SpillWriter {
    folder: Arc<SpillFolder>,
    number: u64,
    file: Option<Box<dyn DiskFile>>,
    /// Bytes in the file; the buffer follows them.
    written: u64,
    buffer: Vec<u8>,
    block: Vec<u8>,
    first: Option<Box<[u8]>>,
    blocks: Vec<Block>,
    hashes: Vec<u64>,
    index_bytes: usize,
}

impl Drop for SpillWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            remove(&self.folder, self.number);
        }
    }
}

impl SpillWriter {
    pub(super) fn create(folder: Arc<SpillFolder>, number: u64) -> Result<Self, StateError> {
        let path = path_of(&folder.path, number);
        let file = folder
            .disk
            .create(&path)
            .map_err(StateError::file(format!("create {}", path.display())))?;
        Ok(Self {
            folder,
            number,
            file: Some(file),
            written: 0,
            buffer: Vec::new(),
            block: Vec::new(),
            first: None,
            blocks: Vec::new(),
            hashes: Vec::new(),
            index_bytes: 0,
        })
    }

    pub(super) fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StateError> {
        let length = |bytes: usize| {
            let fits = u32::try_from(bytes).ok().filter(|bytes| *bytes != NO_VALUE);
            fits.ok_or(StateError::TooLarge(bytes))
        };
        let key_bytes = length(key.len())?;
        let value_bytes = value.map_or(Ok(NO_VALUE), |value| length(value.len()))?;
        let bytes = 8 + key.len() + value.map_or(0, <[u8]>::len);
        if !self.block.is_empty() && self.block.len().saturating_add(bytes) > BLOCK_BYTES {
            self.end_block()?;
        }
        self.first.get_or_insert_with(|| key.into());
        self.hashes.push(hash(key));
        self.block.extend_from_slice(&key_bytes.to_le_bytes());
        self.block.extend_from_slice(&value_bytes.to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), StateError> {
        let Some(first) = self.first.take() else {
            return Ok(());
        };
        let bytes = u32::try_from(self.block.len());
        self.index_bytes += size_of::<Block>() + first.len();
        self.blocks.push(Block {
            offset: self.written + self.buffer.len() as u64,
            bytes: bytes.map_err(|_| StateError::TooLarge(self.block.len()))?,
            crc: crc32c::crc32c(&self.block),
            first,
        });
        self.buffer.append(&mut self.block);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StateError> {
        if let Some(file) = &self.file {
            file.write_at(self.written, &self.buffer).map_err(|error| {
                let path = path_of(&self.folder.path, self.number);
                StateError::file(format!("write {}", path.display()))(error)
            })?;
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The file; `None` when nothing was added.
    pub(super) fn finish(mut self) -> Result<Option<Arc<SpillFile>>, StateError> {
        self.end_block()?;
        self.flush()?;
        if self.blocks.is_empty() {
            return Ok(None);
        }
        let file = self.file.take().map(|file| SpillFile {
            folder: Arc::clone(&self.folder),
            number: self.number,
            file,
            bytes: self.written,
            blocks: std::mem::take(&mut self.blocks),
            filter: Filter::of(&self.hashes),
            index_bytes: self.index_bytes,
        });
        Ok(file.map(Arc::new))
    }
}

/// Reads a file from its beginning on; it always stands at an entry.
pub(super) struct Cursor<'a> {
    file: &'a SpillFile,
    block: usize,
    bytes: Vec<u8>,
    /// Of the entry: where its key begins and ends, and where its value ends if it has one.
    key: (usize, usize),
    value_end: Option<usize>,
    next: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn open(file: &'a SpillFile) -> Result<Option<Self>, StateError> {
        let mut cursor = Self {
            file,
            block: 0,
            bytes: Vec::new(),
            key: (0, 0),
            value_end: None,
            next: 0,
        };
        Ok(cursor.advance()?.then_some(cursor))
    }

    pub(super) fn key(&self) -> &[u8] {
        self.bytes.get(self.key.0..self.key.1).unwrap_or_default()
    }

    pub(super) fn value(&self) -> Option<&[u8]> {
        self.bytes.get(self.key.1..self.value_end?)
    }

    /// Goes to the next entry; false at the end.
    pub(super) fn advance(&mut self) -> Result<bool, StateError> {
        if self.next >= self.bytes.len() {
            let Some(block) = self.file.blocks.get(self.block) else {
                return Ok(false);
            };
            self.bytes = self.file.read(block)?;
            self.block += 1;
            self.next = 0;
        }
        let mut rest = self.bytes.get(self.next..).unwrap_or_default();
        let Some((key, value)) = self.file.next(&mut rest)? else {
            return Ok(false);
        };
        let start = self.next + 8;
        let end = start + key.len();
        self.key = (start, end);
        self.value_end = value.map(|value| end + value.len());
        self.next = self.bytes.len() - rest.len();
        Ok(true)
    }
}
