//! What the rows of a lookup join's input have found.
//!
//! Invariant: an entry stands for rows that are there; of equal rows the one that came last is the first to go, so what came in
//! between stays in between.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::SchemaRef;
use thalweg_connectors::{Delta, FoundRow};

use super::saved::Unsaved;
use crate::chunk::RowCodec;
use crate::dataflow::StateFigures;
use crate::error::EngineError;
use crate::memory::heap_bytes;

/// What becomes of a row of the input in one step.
#[derive(Debug)]
pub(super) struct NetRow {
    pub(super) row_bytes: Box<[u8]>,
    /// The delta in which it stands, and its position there.
    pub(super) delta: usize,
    pub(super) row: u32,
    pub(super) weight: i64,
}

/// Rows of the input that are equal and found the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) row: FoundRow,
    pub(super) count: i64,
    /// Its place among what equal rows found: the last one is the first to go.
    pub(super) turn: i64,
}

/// What a row found, as often as it came with that.
#[derive(Debug)]
enum Remembered {
    One(FoundRow, i64),
    /// The row came again after the table had changed.
    Several(Vec<(FoundRow, i64)>),
}

/// What the rows that are there have found.
#[derive(Debug)]
pub(super) struct Memory {
    codec: RowCodec,
    rows: HashMap<Box<[u8]>, Remembered>,
    entries: usize,
    row_bytes: usize,
    pub(super) unsaved: Option<Unsaved>,
    /// What was saved, on its way back.
    pub(super) coming_back: HashMap<Box<[u8]>, Vec<Found>>,
}

impl Memory {
    pub(super) fn new(schema: SchemaRef) -> Result<Self, EngineError> {
        Ok(Self {
            codec: RowCodec::new(schema)?,
            rows: HashMap::new(),
            entries: 0,
            row_bytes: 0,
            unsaved: None,
            coming_back: HashMap::new(),
        })
    }

    pub(super) fn codec(&self) -> &RowCodec {
        &self.codec
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Everything that is remembered, in no order but that of turns.
    pub(super) fn each(&self) -> impl Iterator<Item = (&[u8], Found)> {
        self.rows.iter().flat_map(|(bytes, remembered)| {
            let list = match remembered {
                Remembered::One(row, count) => vec![(row.clone(), *count)],
                Remembered::Several(list) => list.clone(),
            };
            let found =
                list.into_iter()
                    .zip(0..)
                    .map(|((row, count), turn)| Found { row, count, turn });
            found.map(|found| (&bytes[..], found))
        })
    }

    /// By which rows are known.
    pub(super) fn row_bytes(
        &self,
        columns: &[ArrayRef],
        rows: usize,
    ) -> Result<Vec<Box<[u8]>>, EngineError> {
        if columns.is_empty() {
            return Ok(vec![Box::default(); rows]);
        }
        let encoded = self.codec.encode(columns)?;
        Ok(encoded.iter().map(|row| row.data().into()).collect())
    }

    /// The net change of each row, in the order in which rows first occur, so that those of a delta are next to each other: an
    /// order of coming and going within a step means nothing.
    pub(super) fn net(&self, input: &[Delta]) -> Result<Vec<NetRow>, EngineError> {
        let mut net: Vec<NetRow> = Vec::new();
        let mut places: HashMap<Box<[u8]>, usize> = HashMap::new();
        for (index, delta) in input.iter().enumerate() {
            let rows = self.row_bytes(delta.batch.columns(), delta.num_rows())?;
            for (row, bytes) in rows.into_iter().enumerate() {
                let weight = delta.weights.at(row);
                match places.entry(bytes) {
                    Entry::Occupied(at) => net[*at.get()].weight += weight,
                    Entry::Vacant(free) => {
                        net.push(NetRow {
                            row_bytes: free.key().clone(),
                            delta: index,
                            row: row as u32,
                            weight,
                        });
                        free.insert(net.len() - 1);
                    }
                }
            }
        }
        Ok(net)
    }

    /// Tells the turn.
    pub(super) fn remember(&mut self, row: &[u8], found: FoundRow, count: i64) -> i64 {
        let held = found.as_ref().map_or(0, |found| found.len());
        let Some(known) = self.rows.get_mut(row) else {
            self.entries += 1;
            self.row_bytes += heap_bytes(row.len()) + heap_bytes(held);
            self.rows.insert(row.into(), Remembered::One(found, count));
            return 0;
        };
        let list = match known {
            Remembered::One(same, weight) if *same == found => {
                *weight += count;
                return 0;
            }
            Remembered::One(other, weight) => {
                *known = Remembered::Several(vec![(other.take(), *weight)]);
                match known {
                    Remembered::Several(list) => list,
                    Remembered::One(..) => return 0,
                }
            }
            Remembered::Several(list) => list,
        };
        // The last come is the first to go, so what came in between stays in between.
        match list.last_mut().filter(|(same, _)| *same == found) {
            Some((_, weight)) => *weight += count,
            None => {
                self.entries += 1;
                self.row_bytes += heap_bytes(held);
                list.push((found, count));
            }
        }
        list.len() as i64 - 1
    }

    /// Takes `count` of a row away; returns what they had found, with how many of them did.
    pub(super) fn forget(&mut self, row: &[u8], count: i64) -> Result<Vec<Found>, EngineError> {
        let too_many =
            || EngineError::internal("more rows were taken from a lookup than had come to it");
        let known = self.rows.get_mut(row).ok_or_else(too_many)?;
        let mut list = match known {
            Remembered::One(found, weight) => vec![(found.clone(), *weight)],
            Remembered::Several(list) => std::mem::take(list),
        };
        let mut left = count;
        let mut gone = Vec::new();
        while left > 0 {
            let turn = list.len() as i64 - 1;
            let (found, weight) = list.last_mut().ok_or_else(too_many)?;
            let taken = left.min(*weight);
            gone.push(Found {
                row: found.clone(),
                count: taken,
                turn,
            });
            *weight -= taken;
            left -= taken;
            if *weight == 0 {
                self.entries -= 1;
                self.row_bytes -= heap_bytes(found.as_ref().map_or(0, |found| found.len()));
                list.pop();
            }
        }
        match list.len() {
            0 => {
                self.row_bytes -= heap_bytes(row.len());
                self.rows.remove(row);
            }
            _ => *known = Remembered::Several(list),
        }
        Ok(gone)
    }

    pub(super) fn figures(&self) -> StateFigures {
        let slot = size_of::<Box<[u8]>>() + size_of::<Remembered>() + 1;
        let unsaved = self.unsaved.as_ref().map_or(0, Unsaved::bytes);
        StateFigures {
            entries: self.entries,
            bytes: self.rows.capacity() * slot + self.row_bytes + unsaved,
            spilled: 0,
        }
    }
}
