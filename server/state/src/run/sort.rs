//! Nets and sorts changes, a bucket at a time.
//!
//! Invariant: rows come out in the order of a run, each once, with the sum of its weights. Rows are compared by numbers made of
//! those bytes in which the keys of a bucket differ, and by the keys themselves only where more bytes than that differ.

use std::cmp::Ordering;

use super::{Picked, RowPicker, RunShape, overflow, place_of};
use crate::codec::{Multiplicity, WeightedBatch};
use crate::error::StateError;
use crate::hash::BUCKETS;
use crate::key::Keys;

/// Nets changes and hands their rows to `take` in order.
pub(crate) fn sorted(
    changes: &[WeightedBatch],
    shape: &RunShape,
    take: &mut dyn FnMut(Option<Picked>) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let parts = parted(changes, shape)?;
    let mut picker = RowPicker::new();
    for change in changes {
        picker.add(change.batch.clone());
    }
    let mut order = Vec::new();
    for (bucket, part) in (0..BUCKETS).zip(parts) {
        let heads = Heads::of(&part);
        heads.sort(&part, &mut order);
        for same in order.chunk_by(|a, b| heads.compare(&part, a, b).is_eq()) {
            let mut net = 0_i64;
            for slot in same {
                let (batch, row) = part.place(slot);
                let weight = changes.get(batch).map_or(0, |change| weight(change, row));
                net = net.checked_add(weight).ok_or_else(overflow)?;
            }
            let Some(slot) = same.first().filter(|_| net != 0) else {
                continue;
            };
            let (batch, row) = part.place(slot);
            picker.pick(batch, row, net, (bucket, part.key(slot)));
            if picker.is_full() {
                take(picker.take(shape)?)?;
            }
        }
    }
    take(picker.take(shape)?)
}

fn weight(change: &WeightedBatch, row: usize) -> i64 {
    match &change.weights {
        Multiplicity::Constant(weight) => *weight,
        Multiplicity::Each(weights) => weights.get(row).copied().unwrap_or(0),
    }
}

/// The rows of each bucket.
fn parted(changes: &[WeightedBatch], shape: &RunShape) -> Result<Vec<Part>, StateError> {
    let count: usize = changes.iter().map(|change| change.batch.num_rows()).sum();
    let too_many = |_| StateError::TooLarge(count);
    u32::try_from(count).map_err(too_many)?;
    let mut parts: Vec<Part> = Vec::new();
    parts.resize_with(usize::from(BUCKETS), Part::default);
    let mut keys = Keys::default();
    for (number, change) in (0_u32..).zip(changes) {
        shape.keys_into(&change.batch, &mut keys)?;
        if number == 0 {
            parts.iter_mut().for_each(|part| part.expect(count, &keys));
        }
        for row in 0..keys.rows() {
            let (bucket, key) = place_of(&keys, row);
            if let Some(part) = parts.get_mut(usize::from(bucket)) {
                part.bytes.extend_from_slice(key);
                part.rows.push(Row {
                    batch: number,
                    row: row as u32,
                    end: part.bytes.len(),
                });
            }
        }
    }
    Ok(parts)
}

/// Where a row is, and where its key ends among those of its bucket.
#[derive(Debug, Clone, Copy)]
struct Row {
    batch: u32,
    row: u32,
    end: usize,
}

/// The rows of one bucket with their keys, in the order they came in.
#[derive(Debug, Default)]
struct Part {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

impl Part {
    /// Makes room for its share of all rows, if they are like the first ones: a copy that grows costs several times as much.
    fn expect(&mut self, rows: usize, first: &Keys) {
        let share = rows / usize::from(BUCKETS);
        let rows = share + share / 8;
        self.rows.reserve(rows);
        let bytes = first.bytes().checked_div(first.rows()).unwrap_or(0);
        self.bytes.reserve(rows.saturating_mul(bytes));
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.rows.iter().map(move |row| {
            let key = self.bytes.get(start..row.end).unwrap_or_default();
            start = row.end;
            key
        })
    }

    fn place(&self, slot: &Slot) -> (usize, usize) {
        let row = self.rows.get(slot.number as usize);
        row.map_or((0, 0), |row| (row.batch as usize, row.row as usize))
    }

    fn key(&self, slot: &Slot) -> &[u8] {
        let at = slot.number as usize;
        let before = at.checked_sub(1).and_then(|before| self.rows.get(before));
        let end = self.rows.get(at).map_or(0, |row| row.end);
        let start = before.map_or(0, |before| before.end);
        self.bytes.get(start..end).unwrap_or_default()
    }
}

/// Bytes of a key that are compared as numbers.
const HEAD_BYTES: usize = 16;

/// A row of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    head: [u64; 2],
    number: u32,
}

/// Which bytes of a bucket's keys are their heads: the first in which they differ, with zeros behind the end of a key. None of the
/// keys begins another, so two of different lengths differ before either ends.
#[derive(Debug)]
struct Heads {
    places: Vec<usize>,
    /// Keys differ in no other bytes.
    tell_all: bool,
}

impl Heads {
    fn of(part: &Part) -> Self {
        let mut keys = part.keys();
        let first = keys.next().unwrap_or_default();
        let mut differs = vec![0_u8; first.len()];
        let (mut shortest, mut longest) = (first.len(), first.len());
        for key in keys {
            let pairs = differs.iter_mut().zip(key.iter().zip(first));
            pairs.for_each(|(differs, (byte, first))| *differs |= byte ^ first);
            (shortest, longest) = (shortest.min(key.len()), longest.max(key.len()));
        }
        let differs =
            |at: &usize| *at >= shortest || differs.get(*at).is_none_or(|bits| *bits != 0);
        let mut places = (0..longest).filter(differs);
        let heads = places.by_ref().take(HEAD_BYTES).collect();
        Self {
            places: heads,
            tell_all: places.next().is_none(),
        }
    }

    fn head(&self, key: &[u8]) -> [u64; 2] {
        let mut bytes = [0; HEAD_BYTES];
        for (byte, at) in bytes.iter_mut().zip(&self.places) {
            *byte = key.get(*at).copied().unwrap_or(0);
        }
        let number = u128::from_be_bytes(bytes);
        [(number >> 64) as u64, number as u64]
    }

    /// Equal rows come in the order they came in.
    fn sort(&self, part: &Part, order: &mut Vec<Slot>) {
        order.clear();
        order.reserve(part.rows.len());
        order.extend((0_u32..).zip(part.keys()).map(|(number, key)| Slot {
            head: self.head(key),
            number,
        }));
        if self.tell_all {
            order.sort_unstable();
        } else {
            order.sort_unstable_by(|a, b| {
                let keys = self.compare(part, a, b);
                keys.then(a.number.cmp(&b.number))
            });
        }
    }

    fn compare(&self, part: &Part, a: &Slot, b: &Slot) -> Ordering {
        match a.head.cmp(&b.head) {
            Ordering::Equal if !self.tell_all => part.key(a).cmp(part.key(b)),
            order => order,
        }
    }
}
