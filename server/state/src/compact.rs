//! Which runs of a table to merge, and the merge.
//!
//! Invariant: a merge holds the same rows with the same weights as the runs it was made from; what cancels is in none. Its memory
//! is a batch of each run and one of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use arrow::record_batch::RecordBatch;

use crate::codec::{Multiplicity, WeightedBatch};
use crate::error::StateError;
use crate::key::Keys;
use crate::run::{
    BATCH_ROWS, Picked, RowPicker, Run, RunInfo, RunRows, RunShape, overflow, place_of,
};

/// A merge takes at least this many runs of similar size.
const MERGE_MIN: usize = 4;

/// A merge takes at most this many runs: each costs a batch of memory.
const MERGE_MAX: usize = 32;

/// Runs up to this size are all similar.
const SMALL_BYTES: u64 = 64 << 10;

/// How much larger the next size is.
const SIZE_STEP: u64 = 4;

/// Rows that may be there in vain before a table is rewritten whole.
const WASTE_ROWS_MIN: u64 = 65_536;

/// A merge lets go of batches when this many are waiting for rows picked from them.
const BATCHES_HELD_MAX: usize = 2 * MERGE_MAX;

/// A merge of at most so many bytes goes on below the reserve: without it files pile up by the second.
const SMALL_MERGE_BYTES: u64 = 64 << 20;

/// Bytes of `disk_reserve` that rows which come never use: they are for what makes room.
pub const fn disk_floor(disk_reserve: u64) -> u64 {
    disk_reserve / 8
}

/// Whether a merge of `bytes` may begin where `free` bytes are free. At worst nothing cancels, and old and new are there together.
pub(crate) fn has_room(bytes: u64, free: u64, disk_reserve: u64) -> bool {
    let reserve = match bytes <= SMALL_MERGE_BYTES {
        true => disk_floor(disk_reserve),
        false => disk_reserve,
    };
    free.saturating_sub(bytes) >= reserve
}

/// Runs to merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) runs: Vec<RunInfo>,
    pub(crate) bytes: u64,
    /// Level of the result.
    pub(crate) level: u8,
}

impl Choice {
    fn of(runs: Vec<RunInfo>) -> Self {
        let deepest = runs.iter().map(|run| run.level).max().unwrap_or(0);
        Self {
            bytes: runs.iter().map(|run| run.bytes).sum(),
            level: deepest.saturating_add(1),
            runs,
        }
    }
}

/// The runs to merge next: all of them when most rows are there in vain, else as soon as enough are of similar size.
pub(crate) fn choose(runs: &[RunInfo]) -> Option<Choice> {
    if runs.len() < 2 {
        return None;
    }
    let rows: u64 = runs.iter().map(|run| run.rows).sum();
    let net: i64 = runs.iter().fold(0, |net, run| net.saturating_add(run.net));
    let left = u64::try_from(net).unwrap_or(0);
    let wasteful = rows > left.saturating_mul(2).saturating_add(WASTE_ROWS_MIN);
    if wasteful && runs.len() <= MERGE_MAX {
        return Some(Choice::of(runs.to_vec()));
    }
    let mut by_size = runs.to_vec();
    by_size.sort_by_key(|run| (size_class(run.bytes), run.number));
    by_size
        .chunk_by(|a, b| size_class(a.bytes) == size_class(b.bytes))
        .find(|similar| similar.len() >= MERGE_MIN)
        .map(|similar| {
            let end = similar.len().min(MERGE_MAX);
            Choice::of(similar.get(..end).unwrap_or(similar).to_vec())
        })
}

fn size_class(bytes: u64) -> u32 {
    let (mut class, mut end) = (0, SMALL_BYTES);
    while bytes > end {
        class += 1;
        end = end.saturating_mul(SIZE_STEP);
    }
    class
}

/// Where a row belongs: its bucket and its bytes.
type RowPlace = (u8, Vec<u8>);

/// A run's next row.
struct Head<'a> {
    rows: RunRows<'a>,
    batch: RecordBatch,
    weights: Multiplicity,
    keys: Keys,
    row: usize,
    /// Where the picker has the batch.
    slot: Option<usize>,
}

impl<'a> Head<'a> {
    fn open(rows: RunRows<'a>, shape: &RunShape) -> Result<Option<Self>, StateError> {
        let mut head = Self {
            rows,
            batch: RecordBatch::new_empty(shape.schema()),
            weights: Multiplicity::Constant(0),
            keys: Keys::default(),
            row: 0,
            slot: None,
        };
        Ok(head.load(shape)?.then_some(head))
    }

    /// Reads the next batch that has rows; false at the end.
    fn load(&mut self, shape: &RunShape) -> Result<bool, StateError> {
        for rows in self.rows.by_ref() {
            let WeightedBatch { batch, weights } = rows?;
            if batch.num_rows() == 0 {
                continue;
            }
            shape.keys_into(&batch, &mut self.keys)?;
            (self.batch, self.weights) = (batch, weights);
            (self.row, self.slot) = (0, None);
            return Ok(true);
        }
        Ok(false)
    }

    fn advance(&mut self, shape: &RunShape) -> Result<bool, StateError> {
        self.row += 1;
        Ok(self.row < self.keys.rows() || self.load(shape)?)
    }

    fn weight(&self) -> i64 {
        match &self.weights {
            Multiplicity::Constant(weight) => *weight,
            Multiplicity::Each(weights) => weights.get(self.row).copied().unwrap_or(0),
        }
    }

    /// Its row, kept by the picker from now on.
    fn pending(&mut self, picker: &mut RowPicker) -> Pending {
        let slot = match self.slot {
            Some(slot) => slot,
            None => *self.slot.insert(picker.add(self.batch.clone())),
        };
        Pending {
            slot,
            row: self.row,
            net: self.weight(),
        }
    }

    /// Writes down where its row belongs.
    fn put_place(&self, place: &mut RowPlace) {
        let (bucket, key) = place_of(&self.keys, self.row);
        place.0 = bucket;
        place.1.clear();
        place.1.extend_from_slice(key);
    }
}

/// A row that may be in more runs than those it was found in so far.
struct Pending {
    /// Which of the picker's batches has it.
    slot: usize,
    row: usize,
    net: i64,
}

/// Merges runs: `emit` gets their net rows in order, `step` is asked now and then whether to go on. Its error ends the merge.
pub(crate) fn merge<E: From<StateError>>(
    runs: &[Run],
    shape: &RunShape,
    mut step: impl FnMut() -> Result<(), E>,
    mut emit: impl FnMut(Picked) -> Result<(), E>,
) -> Result<(), E> {
    let (mut heads, mut order) = (Vec::new(), BinaryHeap::new());
    for run in runs {
        if let Some(head) = Head::open(run.scan(), shape)? {
            let mut place = RowPlace::default();
            head.put_place(&mut place);
            order.push(Reverse((place, heads.len())));
            heads.push(head);
        }
    }
    let (mut picker, mut seen) = (RowPicker::new(), 0_usize);
    let (mut place, mut pending) = (RowPlace::default(), None::<Pending>);
    while let Some(mut next) = order.peek_mut() {
        let Reverse((next_place, at)) = &mut *next;
        let at = *at;
        let same = pending.as_mut().filter(|_| *next_place == place);
        if let Some(same) = same {
            let weight = heads.get(at).map_or(0, Head::weight);
            same.net = same.net.checked_add(weight).ok_or_else(overflow)?;
        } else {
            pick(&mut picker, pending.take(), &place);
            if picker.is_full() || picker.batches() > BATCHES_HELD_MAX {
                picker.take(shape)?.map(&mut emit).transpose()?;
                picker.forget_batches();
                heads.iter_mut().for_each(|head| head.slot = None);
            }
            place.clone_from(next_place);
            pending = heads.get_mut(at).map(|head| head.pending(&mut picker));
            seen += 1;
            if seen.is_multiple_of(BATCH_ROWS) {
                step()?;
            }
        }
        let head = heads.get_mut(at);
        let head = head.map(|head| head.advance(shape).map(|more| more.then_some(head)));
        match head.transpose()?.flatten() {
            Some(head) => head.put_place(next_place),
            None => drop(PeekMut::pop(next)),
        }
    }
    pick(&mut picker, pending, &place);
    step()?;
    picker.take(shape)?.map(emit).transpose()?;
    Ok(())
}

fn pick(picker: &mut RowPicker, pending: Option<Pending>, place: &RowPlace) {
    if let Some(Pending { slot, row, net }) = pending.filter(|pending| pending.net != 0) {
        picker.pick(slot, row, net, (place.0, &place.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u64, bytes: u64, rows: u64, net: i64) -> RunInfo {
        RunInfo {
            number,
            bytes,
            tail: 0,
            tail_crc: 0,
            rows,
            net,
            level: (number % 3) as u8,
            buckets: (0, 63),
        }
    }

    #[test]
    fn small_merges_go_on_when_the_reserve_is_used_up() {
        const MB: u64 = 1 << 20;
        // (bytes of the runs, free, whether they are merged), with a reserve of 2 GB
        let cases = [
            (1_000 * MB, 3_072 * MB, true),
            (1_000 * MB, 3_000 * MB, false),
            (64 * MB, 1_000 * MB, true),
            (65 * MB, 1_000 * MB, false),
            (64 * MB, 320 * MB, true),
            (64 * MB, 319 * MB, false),
            (MB, 0, false),
        ];
        for (bytes, free, merged) in cases {
            assert_eq!(
                has_room(bytes, free, 2_048 * MB),
                merged,
                "{bytes} of {free}"
            );
        }
    }

    #[test]
    fn enough_runs_of_similar_size_are_merged() {
        const KB: u64 = 1 << 10;
        const MB: u64 = 1 << 20;
        // (sizes, the sizes that are merged)
        let cases: [(&[u64], &[u64]); 7] = [
            (&[], &[]),
            (&[KB, KB, KB], &[]),
            (&[KB, 2 * KB, 60 * KB, KB], &[KB, 2 * KB, 60 * KB, KB]),
            (&[100 * MB, KB, KB, KB], &[]),
            (&[100 * MB, KB, KB, KB, KB], &[KB, KB, KB, KB]),
            (&[MB, MB, MB, MB, KB, KB], &[MB, MB, MB, MB]),
            // The small ones first: they are the most work for a reader and the least for the merge.
            (&[MB, MB, MB, MB, KB, KB, KB, KB], &[KB, KB, KB, KB]),
        ];
        for (sizes, merged) in cases {
            let runs: Vec<RunInfo> = (0..)
                .zip(sizes)
                .map(|(number, bytes)| run(number, *bytes, 10, 10))
                .collect();
            let chosen = choose(&runs).map(|choice| {
                assert_eq!(choice.bytes, merged.iter().sum::<u64>());
                choice.runs.iter().map(|run| run.bytes).collect::<Vec<_>>()
            });
            assert_eq!(chosen.unwrap_or_default(), merged, "{sizes:?}");
        }
    }

    #[test]
    fn a_table_of_deletions_is_rewritten() {
        let big = [
            run(1, 1 << 30, 1_000_000, 1_000_000),
            run(2, 1 << 20, 900_000, -900_000),
        ];
        let choice = choose(&big).expect("is worth while");
        assert_eq!((choice.runs.len(), choice.level), (2, 3));
        let few = [
            run(1, 1 << 30, 1_000_000, 1_000_000),
            run(2, 1 << 20, 900, -900),
        ];
        assert_eq!(choose(&few), None);
    }

    #[test]
    fn a_merge_takes_a_bounded_number() {
        let many: Vec<RunInfo> = (0..100).map(|number| run(number, 1, 1, 1)).collect();
        assert_eq!(
            choose(&many).map(|choice| choice.runs.len()),
            Some(MERGE_MAX)
        );
    }
}
