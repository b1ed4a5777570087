//! One input of a join: its rows in columns, found by key.
//!
//! Invariant: the rows of a key are a chain of row numbers, newest first, each with a positive weight. A removed row is out of its
//! chain at once; its place in the columns is reclaimed when more places are empty than not. A key that is looked for has been read
//! back before, with all of its rows, when these were on disk.

mod spilled;

pub(super) use self::spilled::SavedRows;

use std::sync::Arc;

use datafusion::arrow::compute::{concat_batches, interleave_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;

use thalweg_connectors::{Delta, Weights};
use thalweg_state::SpillFolder;

use super::keys::{KeyCodec, KeyTable};
use super::on_disk::OnDisk;
use super::signs::{take_rows, without_columns};
use crate::chunk::RowCodec;
use crate::error::EngineError;

/// Ends a chain.
pub(super) const NONE: u32 = u32::MAX;

/// Chunks of this many rows are not merged any more.
const CHUNK_ROWS: usize = 65_536;

/// So few empty places are not worth a rewrite.
const EMPTY_MIN: usize = 1_024;

/// The rows of one input.
#[derive(Debug)]
pub(super) struct Arrangement {
    table: KeyTable,
    /// First row of each key, by slot.
    heads: Vec<u32>,
    chunks: Vec<RecordBatch>,
    /// Row number of each chunk's first row.
    starts: Vec<u32>,
    next: Vec<u32>,
    weights: Vec<i64>,
    hashes: Vec<u64>,
    /// Net weight of a row's partners, by row; empty unless somebody asks for it.
    matches: Vec<i64>,
    live: usize,
    /// Somebody asks for that.
    keeps_matches: bool,
    /// Rows that memory has no room for; `None` when there is nowhere to put them.
    disk: Option<OnDisk>,
}

/// Rows to be added: a batch with one key, weight and hash for each row.
pub(super) struct Additions<'a> {
    pub(super) batch: RecordBatch,
    pub(super) keys: Vec<&'a [u8]>,
    pub(super) weights: Vec<i64>,
    pub(super) hashes: Vec<u64>,
    pub(super) matches: Option<Vec<i64>>,
}

/// One row to be removed.
pub(super) struct Removal<'a> {
    pub(super) key: &'a [u8],
    pub(super) hash: u64,
    pub(super) row: &'a [u8],
    /// How often, positive.
    pub(super) count: i64,
}

impl Arrangement {
    /// With `keeps_matches` it knows the weight of each row's partners.
    pub(super) fn new(
        codec: &KeyCodec,
        keeps_matches: bool,
        folder: Option<&Arc<SpillFolder>>,
    ) -> Self {
        Self {
            table: KeyTable::new(codec),
            heads: Vec::new(),
            chunks: Vec::new(),
            starts: Vec::new(),
            next: Vec::new(),
            weights: Vec::new(),
            hashes: Vec::new(),
            matches: Vec::new(),
            live: 0,
            keeps_matches,
            disk: folder.map(OnDisk::new),
        }
    }

    /// Rows in memory and on disk.
    pub(super) fn rows(&self) -> usize {
        self.live + self.disk.as_ref().map_or(0, |disk| disk.entries)
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.rows_bytes() + self.disk.as_ref().map_or(0, OnDisk::bytes)
    }

    /// Bytes of the rows that are in memory.
    pub(super) fn rows_bytes(&self) -> usize {
        let chunks: usize = self
            .chunks
            .iter()
            .map(RecordBatch::get_array_memory_size)
            .sum();
        let words = self.weights.capacity() + self.hashes.capacity() + self.matches.capacity();
        let numbers = self.heads.capacity() + self.next.capacity() + self.starts.capacity();
        self.table.bytes() + chunks + words * 8 + numbers * 4
    }

    /// The newest row of a key; the others follow by `next`.
    pub(super) fn first(&self, key: &[u8]) -> u32 {
        match self.table.find(key) {
            Some(slot) => self.heads[slot as usize],
            None => NONE,
        }
    }

    pub(super) fn next(&self, row: u32) -> u32 {
        self.next[row as usize]
    }

    pub(super) fn weight(&self, row: u32) -> i64 {
        self.weights[row as usize]
    }

    /// Net weight of the row's partners.
    pub(super) fn matches(&self, row: u32) -> i64 {
        self.matches[row as usize]
    }

    pub(super) fn add_match(&mut self, row: u32, weight: i64) {
        self.matches[row as usize] += weight;
    }

    /// Rows by number.
    pub(super) fn gather(
        &self,
        rows: &[u32],
        schema: &SchemaRef,
    ) -> Result<RecordBatch, ArrowError> {
        match self.chunks.as_slice() {
            _ if schema.fields().is_empty() => without_columns(schema.clone(), rows.len()),
            [] => Ok(RecordBatch::new_empty(schema.clone())),
            [only] => take_rows(only, rows),
            chunks => {
                let places: Vec<(usize, usize)> = rows.iter().map(|row| self.place(*row)).collect();
                interleave_record_batch(&chunks.iter().collect::<Vec<_>>(), &places)
            }
        }
    }

    /// All rows in memory with their weights.
    pub(super) fn content(&self, schema: &SchemaRef) -> Result<Vec<Delta>, ArrowError> {
        let live = (0..self.weights.len() as u32).filter(|row| self.weight(*row) > 0);
        let live: Vec<u32> = live.collect();
        live.chunks(CHUNK_ROWS)
            .map(|rows| {
                let weights = rows.iter().map(|row| self.weight(*row)).collect();
                Ok(Delta {
                    batch: self.gather(rows, schema)?,
                    weights: Weights::Each(weights),
                })
            })
            .collect()
    }

    fn place(&self, row: u32) -> (usize, usize) {
        let chunk = self.starts.partition_point(|start| *start <= row) - 1;
        (chunk, (row - self.starts[chunk]) as usize)
    }

    pub(super) fn add(&mut self, added: Additions<'_>) -> Result<(), EngineError> {
        let first = self.weights.len() as u32;
        let rows = added.batch.num_rows();
        if u32::try_from(self.weights.len() + rows).is_err() {
            return Err(EngineError::statement(
                "54000",
                "one input of a join has too many rows",
                Some("A join keeps at most 4 billion rows of each input.".into()),
            ));
        }
        for (row, key) in (first..).zip(&added.keys) {
            let slot = self.table.insert(key) as usize;
            if self.heads.len() <= slot {
                self.heads.resize(slot + 1, NONE);
            }
            self.next.push(self.heads[slot]);
            self.heads[slot] = row;
            if let Some(disk) = &mut self.disk {
                disk.grow(slot + 1);
                disk.has_slot(slot as u32, key);
                disk.touch(&[slot as u32]);
            }
        }
        self.weights.extend(added.weights);
        self.hashes.extend(added.hashes);
        self.matches.extend(added.matches.into_iter().flatten());
        self.live += rows;
        self.starts.push(first);
        self.chunks.push(added.batch);
        Ok(self.merge()?)
    }

    /// Merges the newest chunks while they are of similar size.
    fn merge(&mut self) -> Result<(), ArrowError> {
        while let [.., older, newer] = self.chunks.as_slice() {
            if older.num_rows() > 2 * newer.num_rows()
                || older.num_rows() + newer.num_rows() > CHUNK_ROWS
            {
                break;
            }
            let merged = if older.num_columns() == 0 {
                without_columns(older.schema(), older.num_rows() + newer.num_rows())?
            } else {
                concat_batches(&older.schema(), [older, newer])?
            };
            self.chunks.truncate(self.chunks.len() - 2);
            self.starts.pop();
            self.chunks.push(merged);
        }
        Ok(())
    }

    /// Takes rows out, by value.
    pub(super) fn remove(
        &mut self,
        removals: &[Removal<'_>],
        codec: &RowCodec,
    ) -> Result<(), EngineError> {
        let mut found: Vec<u32> = Vec::with_capacity(removals.len());
        let mut wanted: Vec<&[u8]> = Vec::with_capacity(removals.len());
        for removal in removals {
            let mut left = removal.count;
            while left > 0 {
                let Some(row) = self.take_one(removal, &mut left) else {
                    return Err(EngineError::internal(
                        "a row was taken from a join's input that it did not have",
                    ));
                };
                found.push(row);
                wanted.push(removal.row);
            }
        }
        // Rows were found by key and hash; equal hashes of different rows would be a wrong answer.
        if codec.schema.fields().is_empty() {
            return self.reclaim(&codec.schema);
        }
        let rows = self.gather(&found, &codec.schema)?;
        let encoded = codec.encode(rows.columns())?;
        if encoded
            .iter()
            .zip(&wanted)
            .any(|(held, wanted)| held.data() != *wanted)
        {
            return Err(EngineError::internal(
                "two rows of a join's input have one hash",
            ));
        }
        self.reclaim(&codec.schema)
    }

    /// Lowers the weight of one row that looks like the removed one.
    fn take_one(&mut self, removal: &Removal<'_>, left: &mut i64) -> Option<u32> {
        let slot = self.table.find(removal.key)?;
        if let Some(disk) = &mut self.disk {
            disk.touch(&[slot]);
        }
        let mut before = NONE;
        let mut row = self.heads[slot as usize];
        while row != NONE && self.hashes[row as usize] != removal.hash {
            before = row;
            row = self.next[row as usize];
        }
        let weight = self.weights.get_mut(row as usize)?;
        let taken = (*weight).min(*left);
        *weight -= taken;
        *left -= taken;
        if *weight == 0 {
            let after = self.next[row as usize];
            self.live -= 1;
            match before {
                NONE if after == NONE => {
                    self.heads[slot as usize] = NONE;
                    if let Some(disk) = &mut self.disk {
                        disk.forget(slot, removal.key);
                    }
                    self.table.remove(slot);
                }
                NONE => self.heads[slot as usize] = after,
                _ => self.next[before as usize] = after,
            }
        }
        Some(row)
    }

    /// Rewrites the columns without empty places when those are the majority.
    fn reclaim(&mut self, schema: &SchemaRef) -> Result<(), EngineError> {
        let total = self.weights.len();
        if self.live == 0 {
            self.chunks.clear();
            self.starts.clear();
            self.next.clear();
            self.weights.clear();
            self.hashes.clear();
            self.matches.clear();
            return Ok(());
        }
        if total - self.live < EMPTY_MIN || total - self.live < self.live {
            return Ok(());
        }
        let kept: Vec<u32> = (0..total as u32)
            .filter(|row| self.weights[*row as usize] > 0)
            .collect();
        let mut number = vec![NONE; total];
        for (new, old) in (0_u32..).zip(&kept) {
            number[*old as usize] = new;
        }
        let renumbered = |row: u32| number.get(row as usize).copied().unwrap_or(NONE);
        self.chunks = kept
            .chunks(CHUNK_ROWS)
            .map(|rows| self.gather(rows, schema))
            .collect::<Result<Vec<_>, _>>()?;
        self.starts = (0..kept.len() as u32).step_by(CHUNK_ROWS).collect();
        self.heads
            .iter_mut()
            .for_each(|head| *head = renumbered(*head));
        let at = |row: &u32| *row as usize;
        self.next = kept
            .iter()
            .map(|row| renumbered(self.next[at(row)]))
            .collect();
        self.weights = kept.iter().map(|row| self.weights[at(row)]).collect();
        self.hashes = kept.iter().map(|row| self.hashes[at(row)]).collect();
        if !self.matches.is_empty() {
            self.matches = kept.iter().map(|row| self.matches[at(row)]).collect();
        }
        Ok(())
    }
}
