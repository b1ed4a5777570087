//! Rows of a join's input on disk, for want of memory.
//!
//! Invariant: all rows of a key are in memory, or all are on disk; the rows that come back are those that were there, with the
//! weights they had and the partners that they had when they left. Whoever changes the partners of a row has it in memory.

use thalweg_connectors::{Delta, Weights};
use thalweg_state::{Spilled, StateError};

use super::{Additions, Arrangement, CHUNK_ROWS, NONE};
use crate::chunk::{RowCodec, compact_views, hash};
use crate::dataflow::keys::KeyCodec;
use crate::dataflow::on_disk::{bytes, number, part};
use crate::dataflow::signs::without_columns;
use crate::error::EngineError;

/// Rows that are put into the form of the files at once, unless one key has more.
const WRITTEN_AT_ONCE: usize = 8_192;

/// Rows as they were written.
#[derive(Debug, Default)]
struct Written {
    keys: Vec<Box<[u8]>>,
    rows: Vec<Box<[u8]>>,
    weights: Vec<i64>,
    matches: Vec<i64>,
}

impl Written {
    /// The rows of one key: of each its weight, the weight of its partners, and its bytes after their number.
    fn read(&mut self, key: &[u8], mut value: &[u8]) -> Result<(), EngineError> {
        while !value.is_empty() {
            self.weights.push(number(&mut value)?);
            self.matches.push(number(&mut value)?);
            let length = u32::from_le_bytes(part(&mut value)?);
            self.rows.push(bytes(&mut value, length as usize)?.into());
            self.keys.push(key.into());
        }
        Ok(())
    }

    fn delta(&self, codec: &RowCodec) -> Result<Delta, EngineError> {
        let batch = match codec.schema.fields().is_empty() {
            true => without_columns(codec.schema.clone(), self.rows.len())?,
            false => codec.decode(self.rows.iter().map(AsRef::as_ref))?,
        };
        Ok(Delta {
            batch,
            weights: Weights::Each(self.weights.clone().into()),
        })
    }
}

impl Arrangement {
    /// Reads rows back that are on disk, of all keys that are about to be looked for, added or removed.
    pub(in crate::dataflow) fn fetch<'a>(
        &mut self,
        codec: &RowCodec,
        keys: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), EngineError> {
        let Some(disk) = self.disk.as_mut().filter(|disk| !disk.files.is_empty()) else {
            return Ok(());
        };
        // Those that are only looked for are in use as well.
        let here: Vec<u32> = keys
            .clone()
            .filter_map(|key| self.table.find(key))
            .collect();
        disk.touch(&here);
        let wanted = disk.wanted(keys, |key| self.table.find(key).is_some());
        let mut back = Written::default();
        disk.files
            .find(&wanted, |key, value| back.read(key, value))?;
        disk.entries -= back.rows.len();
        if back.rows.is_empty() {
            return Ok(());
        }
        let batch = compact_views(back.delta(codec)?.batch)?;
        self.add(Additions {
            batch,
            keys: back.keys.iter().map(AsRef::as_ref).collect(),
            hashes: back.rows.iter().map(|row| hash(row)).collect(),
            weights: back.weights,
            matches: self.keeps_matches.then_some(back.matches),
        })?;
        for key in &back.keys {
            if let (Some(slot), Some(disk)) = (self.table.find(key), &mut self.disk) {
                disk.is_back(slot);
            }
        }
        Ok(())
    }

    /// Moves keys with their rows to disk, those first that have not been used lately.
    pub(in crate::dataflow) fn shed(
        &mut self,
        keys: &KeyCodec,
        codec: &RowCodec,
    ) -> Result<(), EngineError> {
        let Some(disk) = self.disk.as_ref().filter(|_| self.live > 0) else {
            return Ok(());
        };
        let (moved, kept) = disk.divide(self.slots_in_use());
        let stay: usize = kept.iter().map(|slot| self.chain(*slot).count()).sum();
        self.write(keys, codec, moved)?;
        let mut fresh = Self::new(keys, self.keeps_matches, None);
        let mut rows = Vec::with_capacity(stay);
        for slot in &kept {
            let key = self.key(keys, *slot);
            fresh.table.insert(&key);
            rows.extend(self.chain(*slot).map(|row| (row, key.clone())));
        }
        // In the order in which they came.
        rows.sort_unstable_by_key(|(row, _)| *row);
        for rows in rows.chunks(CHUNK_ROWS) {
            let numbers: Vec<u32> = rows.iter().map(|(row, _)| *row).collect();
            let of = |values: &[i64]| numbers.iter().map(|row| values[*row as usize]).collect();
            let hashes = numbers.iter().map(|row| self.hashes[*row as usize]);
            fresh.add(Additions {
                batch: self.gather(&numbers, &codec.schema)?,
                keys: rows.iter().map(|(_, key)| key.as_slice()).collect(),
                weights: of(&self.weights),
                hashes: hashes.collect(),
                matches: self.keeps_matches.then(|| of(&self.matches)),
            })?;
        }
        let left = self.live - stay;
        fresh.disk = self.disk.take();
        if let Some(disk) = &mut fresh.disk {
            disk.moved(left, &kept);
        }
        *self = fresh;
        Ok(())
    }

    /// Everything as it is now: all of it is on disk then, and in memory too as far as it was. `None` when there is no disk.
    pub(in crate::dataflow) fn snapshot(
        &mut self,
        keys: &KeyCodec,
        codec: &RowCodec,
    ) -> Result<Option<SavedRows>, EngineError> {
        let slots = self.slots_in_use();
        self.write(keys, codec, slots.clone())?;
        Ok(self.disk.as_mut().map(|disk| {
            slots.into_iter().for_each(|slot| disk.is_back(slot));
            SavedRows(disk.files.clone())
        }))
    }

    /// True when some of the rows may be on disk.
    pub(in crate::dataflow) fn is_on_disk(&self) -> bool {
        let disk = self.disk.as_ref();
        disk.is_some_and(|disk| !disk.files.is_empty())
    }

    /// Bytes on disk.
    pub(in crate::dataflow) fn disk_bytes(&self) -> u64 {
        let disk = self.disk.as_ref();
        disk.map_or(0, |disk| disk.files.disk_bytes())
    }

    /// Lets go of files that nothing needs.
    pub(in crate::dataflow) fn tidy(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.tidy();
        }
    }

    fn slots_in_use(&self) -> Vec<u32> {
        let slots = (0_u32..).zip(&self.heads);
        let used = slots.filter(|(_, head)| **head != NONE);
        used.map(|(slot, _)| slot).collect()
    }

    fn key(&self, keys: &KeyCodec, slot: u32) -> Vec<u8> {
        self.table.key(keys, slot, &mut [0; 16]).to_vec()
    }

    /// The rows of a slot's key.
    fn chain(&self, slot: u32) -> impl Iterator<Item = u32> {
        let mut row = self.heads[slot as usize];
        std::iter::from_fn(move || {
            let this = (row != NONE).then_some(row)?;
            row = self.next[this as usize];
            Some(this)
        })
    }

    /// Writes the rows of some keys.
    fn write(
        &mut self,
        keys: &KeyCodec,
        codec: &RowCodec,
        mut slots: Vec<u32>,
    ) -> Result<(), StateError> {
        let Some(mut disk) = self.disk.take() else {
            return Ok(());
        };
        self.table.sort(&mut slots);
        let written = disk.write(|put| {
            let (mut rows, mut ends) = (Vec::new(), Vec::new());
            for (at, slot) in slots.iter().enumerate() {
                rows.extend(self.chain(*slot));
                ends.push((*slot, rows.len()));
                if rows.len() < WRITTEN_AT_ONCE && at + 1 < slots.len() {
                    continue;
                }
                let values = self.values(codec, &rows)?;
                let mut first = 0;
                for (slot, end) in ends.drain(..) {
                    let value = values.get(first..end).unwrap_or_default().concat();
                    put(self.table.key(keys, slot, &mut [0; 16]), &value)?;
                    first = end;
                }
                rows.clear();
            }
            Ok(())
        });
        self.disk = Some(disk);
        written
    }

    /// Rows as they are written.
    fn values(&self, codec: &RowCodec, rows: &[u32]) -> Result<Vec<Vec<u8>>, StateError> {
        let batch = self.gather(rows, &codec.schema)?;
        let encoded = match codec.schema.fields().is_empty() {
            true => None,
            false => Some(codec.encode(batch.columns())?),
        };
        let value = |(at, row): (usize, &u32)| {
            let bytes = encoded.as_ref().map(|rows| rows.row(at));
            let bytes = bytes.as_ref().map_or(&[][..], |row| row.data());
            let matches = self.matches.get(*row as usize).copied().unwrap_or(0);
            let mut value = Vec::with_capacity(bytes.len() + 20);
            value.extend_from_slice(&self.weight(*row).to_le_bytes());
            value.extend_from_slice(&matches.to_le_bytes());
            value.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            value.extend_from_slice(bytes);
            value
        };
        Ok(rows.iter().enumerate().map(value).collect())
    }
}

/// All rows of an input on disk, as they were at one time.
#[derive(Debug)]
pub(in crate::dataflow) struct SavedRows(Spilled);

impl SavedRows {
    /// Calls `take` with the rows, some at a time.
    pub(in crate::dataflow) fn each(
        &self,
        codec: &RowCodec,
        take: &mut dyn FnMut(Delta) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut rows = Written::default();
        self.0.each(|key, value| {
            rows.read(key, value)?;
            match rows.rows.len() >= WRITTEN_AT_ONCE {
                true => take(std::mem::take(&mut rows).delta(codec)?),
                false => Ok(()),
            }
        })?;
        match rows.rows.is_empty() {
            true => Ok(()),
            false => take(rows.delta(codec)?),
        }
    }
}
