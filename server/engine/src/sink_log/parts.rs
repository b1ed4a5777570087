//! Cuts what a checkpoint has staged into deliveries of bounded size.
//!
//! Invariant: the cut depends on the entry alone, so a delivery that was interrupted is cut again where it was; and the rows of
//! one key are in one part.

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::compute::kernels::cmp::not_distinct;
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use thalweg_connectors::{Delta, Marker, Staged, Weights};

use super::record::Entry;
use crate::error::EngineError;

/// Takes the rows of an entry in order and gives its parts.
pub(super) struct Parts<'a, F> {
    entry: &'a Entry,
    key: &'a [usize],
    /// Parts before this one are passed over.
    from: u32,
    next: u32,
    waiting: Vec<Delta>,
    rows: usize,
    take: F,
}

impl<'a, F: FnMut(Staged) -> bool> Parts<'a, F> {
    pub(super) fn new(entry: &'a Entry, from: u32, key: &'a [usize], take: F) -> Self {
        Self {
            entry,
            key,
            from,
            next: 0,
            waiting: Vec::new(),
            rows: 0,
            take,
        }
    }

    /// Takes rows; false when no more are wanted.
    pub(super) fn push(&mut self, delta: Delta) -> Result<bool, EngineError> {
        let most = self.entry.part_rows.max(1) as usize;
        self.rows += delta.num_rows();
        self.waiting.push(delta);
        // One row more than a part may get: its key may be that of the part's last row. And another, for the last part.
        while self.rows > most + 1 {
            let all = together(&self.waiting)?;
            let cut = most + usize::from(self.same_key(&all, most)?);
            let (part, rest) = (slice(&all, 0, cut), slice(&all, cut, self.rows - cut));
            self.rows = rest.num_rows();
            self.waiting = vec![rest];
            if !self.give(vec![part], false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives the last part; there always is one.
    pub(super) fn finish(mut self) -> Result<(), EngineError> {
        let rest = std::mem::take(&mut self.waiting);
        self.give(rest, true);
        Ok(())
    }

    fn give(&mut self, changes: Vec<Delta>, last: bool) -> bool {
        let part = self.next;
        self.next += 1;
        if part < self.from {
            return true;
        }
        (self.take)(Staged {
            marker: Marker {
                epoch: self.entry.epoch,
                part,
                last,
            },
            stamp_ms: self.entry.stamp_ms,
            changes,
            frontier: self.entry.frontier.clone(),
        })
    }

    /// Whether row `row` has the key of the row before it.
    fn same_key(&self, rows: &Delta, row: usize) -> Result<bool, EngineError> {
        for position in self.key {
            let Some(column) = rows.batch.columns().get(*position) else {
                continue;
            };
            let (before, here): (ArrayRef, ArrayRef) =
                (column.slice(row - 1, 1), column.slice(row, 1));
            if not_distinct(&before, &here)?.false_count() > 0 {
                return Ok(false);
            }
        }
        Ok(!self.key.is_empty())
    }
}

fn slice(rows: &Delta, from: usize, count: usize) -> Delta {
    Delta {
        batch: rows.batch.slice(from, count),
        weights: match &rows.weights {
            Weights::Each(weights) => Weights::Each(weights.slice(from, count)),
            other => other.clone(),
        },
    }
}

fn together(parts: &[Delta]) -> Result<Delta, EngineError> {
    let Some(first) = parts.first() else {
        return Err(EngineError::internal("a part without rows is cut"));
    };
    if parts.len() == 1 {
        return Ok(first.clone());
    }
    let batches = parts.iter().map(|part| &part.batch);
    let weights = parts
        .iter()
        .flat_map(|part| (0..part.num_rows()).map(|row| part.weights.at(row)));
    Ok(Delta {
        batch: concat_batches(&first.batch.schema(), batches)?,
        weights: Weights::Each(weights.collect()),
    })
}

/// The rows that were inserted.
pub(crate) fn insertions(delta: Delta) -> Result<Delta, EngineError> {
    if delta.weights.all_positive() {
        return Ok(delta);
    }
    let inserted = |row: &usize| delta.weights.at(*row) > 0;
    let rows: Vec<usize> = (0..delta.num_rows()).filter(inserted).collect();
    let kept: BooleanArray = (0..delta.num_rows())
        .map(|row| Some(inserted(&row)))
        .collect();
    Ok(Delta {
        batch: filter_record_batch(&delta.batch, &kept)?,
        weights: Weights::Each(rows.iter().map(|row| delta.weights.at(*row)).collect()),
    })
}
