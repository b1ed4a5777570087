//! The argument values of each group, counted and in order, for functions without an exact inverse.
//!
//! Invariant: a function sees the values a group has now, as often as they occur (once for DISTINCT), in the order its ORDER BY
//! asks for and otherwise in the order of the values; so its result does not depend on when they came. Sums of floating-point
//! numbers are computed here too: added in one order, a sum that lost a value is the sum without it, and NaN leaves with its row.

mod codec;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, ScalarValue};

pub(super) use self::codec::ValueCodec;
use self::codec::{Kept, Reading};
use super::StepContext;
use super::on_disk::{bytes, number, part};
use crate::error::EngineError;
use crate::memory::heap_bytes;

/// Values with how often each is there.
type Counted = BTreeMap<Box<[u8]>, i64>;

/// Values and last results of all groups.
#[derive(Debug)]
pub(super) struct ValueSets {
    codec: Arc<ValueCodec>,
    sets: Vec<Counted>,
    results: Results,
    changed: Vec<bool>,
    entries: usize,
    /// Entries of which more were taken than came.
    below: usize,
    value_bytes: usize,
    /// Bytes of the trees that the values are in.
    tree_bytes: usize,
    /// Bytes of results that are allocated one by one.
    result_bytes: usize,
    /// What has changed since it was saved, when that is followed: by slot.
    unsaved: Option<HashMap<u32, Counted>>,
    /// Bytes of those values.
    unsaved_bytes: usize,
}

/// Values with the slots they belong to, and how often each is there.
pub(super) struct SlotValues {
    pub(super) slots: Vec<u32>,
    pub(super) values: Vec<ArrayRef>,
    pub(super) weights: Vec<i64>,
}

/// Last results by slot.
#[derive(Debug)]
enum Results {
    Counts(Vec<i64>),
    Scalars(Vec<ScalarValue>),
}

impl ValueSets {
    pub(super) fn new(codec: Arc<ValueCodec>) -> Self {
        let results = match codec.reading {
            Reading::CountDistinct => Results::Counts(Vec::new()),
            _ => Results::Scalars(Vec::new()),
        };
        Self {
            codec,
            sets: Vec::new(),
            results,
            changed: Vec::new(),
            entries: 0,
            below: 0,
            value_bytes: 0,
            tree_bytes: 0,
            result_bytes: 0,
            unsaved: None,
            unsaved_bytes: 0,
        }
    }

    /// Begins anew to follow what changes.
    pub(super) fn track(&mut self) {
        self.unsaved = Some(HashMap::new());
        self.unsaved_bytes = 0;
    }

    /// Follows changes no more.
    pub(super) fn lose_track(&mut self) {
        self.unsaved = None;
        self.unsaved_bytes = 0;
    }

    /// Bytes of what has changed since it was saved.
    pub(super) fn unsaved_bytes(&self) -> usize {
        let slots = self.unsaved.as_ref().map_or(0, HashMap::capacity);
        self.unsaved_bytes + slots * (size_of::<(u32, Counted)>() + 1)
    }

    /// Keeps some slots, which are numbered in their order from here on. No change may wait to be saved.
    pub(super) fn keep(&mut self, slots: &[u32]) {
        let (mut sets, mut entries, mut value_bytes) = (Vec::with_capacity(slots.len()), 0, 0);
        self.below = 0;
        for slot in slots {
            let set = std::mem::take(&mut self.sets[*slot as usize]);
            entries += set.len();
            self.below += below(&set);
            value_bytes += set
                .keys()
                .map(|value| heap_bytes(value.len()))
                .sum::<usize>();
            sets.push(set);
        }
        self.tree_bytes = sets.iter().map(|set| tree_bytes(set.len())).sum();
        (self.sets, self.entries, self.value_bytes) = (sets, entries, value_bytes);
        self.changed = slots
            .iter()
            .map(|slot| self.changed[*slot as usize])
            .collect();
        self.result_bytes = 0;
        match &mut self.results {
            Results::Counts(counts) => {
                *counts = slots.iter().map(|slot| counts[*slot as usize]).collect();
            }
            Results::Scalars(scalars) => {
                let kept = slots
                    .iter()
                    .map(|slot| std::mem::replace(&mut scalars[*slot as usize], ScalarValue::Null));
                *scalars = kept.collect();
                self.result_bytes = scalars.iter().map(beside).sum();
            }
        }
    }

    /// The values of a slot as bytes, for [`ValueSets::read`] of this process.
    pub(super) fn write(&self, slot: usize, out: &mut Vec<u8>) {
        let set = &self.sets[slot];
        out.extend_from_slice(&(set.len() as u64).to_le_bytes());
        for (value, count) in set {
            out.extend_from_slice(&(value.len() as u64).to_le_bytes());
            out.extend_from_slice(value);
            out.extend_from_slice(&count.to_le_bytes());
        }
    }

    /// Takes over the values that were written of a slot, which is empty. That is no change that would have to be saved.
    pub(super) fn read(&mut self, slot: usize, group: &mut &[u8]) -> Result<(), EngineError> {
        let values = u64::from_le_bytes(part(group)?);
        let set = &mut self.sets[slot];
        for _ in 0..values {
            let length = usize::try_from(u64::from_le_bytes(part(group)?));
            let value = bytes(group, length.unwrap_or(usize::MAX))?;
            self.value_bytes += heap_bytes(value.len());
            set.insert(value.into(), number(group)?);
        }
        self.entries += set.len();
        self.below += below(set);
        self.tree_bytes += tree_bytes(set.len());
        self.changed[slot] = true;
        Ok(())
    }

    /// Values of some slots.
    pub(super) fn entries_of(&self, slots: &[u32]) -> usize {
        slots
            .iter()
            .map(|slot| self.sets[*slot as usize].len())
            .sum()
    }

    /// The values of some slots that are there.
    pub(super) fn all(&self, slots: &[u32]) -> Result<SlotValues, ArrowError> {
        let sets = slots.iter().map(|slot| (*slot, &self.sets[*slot as usize]));
        self.with_slots(sets)
    }

    /// What has changed in some slots since it was saved, or in all of them; from now on it counts as saved.
    pub(super) fn take_changes(&mut self, slots: Option<&[u32]>) -> Result<SlotValues, ArrowError> {
        let taken: Vec<(u32, Counted)> = match (&mut self.unsaved, slots) {
            (None, _) => Vec::new(),
            (Some(unsaved), None) => {
                self.unsaved_bytes = 0;
                std::mem::take(unsaved).into_iter().collect()
            }
            (Some(unsaved), Some(slots)) => slots
                .iter()
                .filter_map(|slot| unsaved.remove_entry(slot))
                .collect(),
        };
        for (_, set) in taken.iter().filter(|_| slots.is_some()) {
            let bytes = set.keys().map(|value| heap_bytes(value.len()));
            self.unsaved_bytes -= tree_bytes(set.len()) + bytes.sum::<usize>();
        }
        self.with_slots(taken.iter().map(|(slot, set)| (*slot, set)))
    }

    fn with_slots<'a>(
        &self,
        sets: impl Iterator<Item = (u32, &'a Counted)>,
    ) -> Result<SlotValues, ArrowError> {
        let (mut slots, mut weights, mut bytes) = (Vec::new(), Vec::new(), Vec::<&[u8]>::new());
        for (slot, set) in sets {
            for (value, count) in set.iter().filter(|(_, count)| **count != 0) {
                slots.push(slot);
                weights.push(*count);
                bytes.push(value.as_ref());
            }
        }
        Ok(SlotValues {
            slots,
            values: self.codec.decode_all(bytes.into_iter())?,
            weights,
        })
    }

    /// Takes saved values back in, each into its slot.
    pub(super) fn restore(
        &mut self,
        slots: &[u32],
        values: &[ArrayRef],
        weights: impl Fn(usize) -> i64,
    ) -> Result<(), ArrowError> {
        let codec = Arc::clone(&self.codec);
        let rows = codec.encode(values)?;
        for (row, slot) in slots.iter().enumerate() {
            // What was saved adds up only as a whole, so all of it counts before any of it is of no more use.
            self.change(*slot as usize, rows.row(row).data(), weights(row));
        }
        Ok(())
    }

    pub(super) fn grow(&mut self, slots: usize) {
        self.sets.resize_with(slots, BTreeMap::new);
        // A new group has no result yet, not even the one of no values.
        self.changed.resize(slots, true);
        match &mut self.results {
            Results::Counts(counts) => counts.resize(slots, 0),
            Results::Scalars(scalars) => scalars.resize(slots, ScalarValue::Null),
        }
    }

    pub(super) fn add(&mut self, slot: usize, value: &[u8], weight: i64) {
        let set = &self.sets[slot];
        let held = match self.codec.kept {
            // Where rows are never taken away, one that is makes a count negative, which `refresh` finds.
            _ if weight < 0 => None,
            Kept::First => set.first_key_value(),
            Kept::Last => set.last_key_value(),
            Kept::All | Kept::Result => None,
        };
        if let Some((extreme, count)) = held {
            let is_better = match self.codec.kept {
                Kept::First => value < extreme.as_ref(),
                _ => value > extreme.as_ref(),
            };
            if !is_better {
                return;
            }
            let (extreme, count) = (extreme.clone(), *count);
            self.change(slot, &extreme, -count);
        }
        self.change(slot, value, weight);
    }

    /// Counts a value more or less often.
    fn change(&mut self, slot: usize, value: &[u8], weight: i64) {
        self.changed[slot] = true;
        if let Some(unsaved) = &mut self.unsaved {
            let set = unsaved.entry(slot as u32).or_default();
            let trees = tree_bytes(set.len());
            match count(set, value, weight) {
                Counting::Begun => self.unsaved_bytes += heap_bytes(value.len()),
                Counting::Ended => self.unsaved_bytes -= heap_bytes(value.len()),
                Counting::GoesOn { .. } => {}
            }
            self.unsaved_bytes = self.unsaved_bytes + tree_bytes(set.len()) - trees;
        }
        let set = &mut self.sets[slot];
        let trees = tree_bytes(set.len());
        match count(set, value, weight) {
            Counting::Begun => {
                self.entries += 1;
                self.value_bytes += heap_bytes(value.len());
                self.below += usize::from(weight < 0);
            }
            Counting::Ended => {
                self.entries -= 1;
                self.value_bytes -= heap_bytes(value.len());
                self.below -= usize::from(weight > 0);
            }
            Counting::GoesOn { now } => {
                self.below += usize::from(now < 0);
                self.below -= usize::from(now - weight < 0);
            }
        }
        self.tree_bytes = self.tree_bytes + tree_bytes(set.len()) - trees;
    }

    /// Forgets the values that no result will ever depend on.
    fn keep_worth(&mut self, slot: usize, result: &ScalarValue) -> Result<(), EngineError> {
        let set = &self.sets[slot];
        let kept = match self.codec.kept {
            Kept::All => return Ok(()),
            Kept::First => set.first_key_value().map(|(value, _)| value.clone()),
            Kept::Last => set.last_key_value().map(|(value, _)| value.clone()),
            // A result that could not be computed is none of the values.
            Kept::Result if result.is_null() || self.codec.types() != [result.data_type()] => {
                return Ok(());
            }
            Kept::Result => {
                let row = self.codec.encode(&[result.to_array()?])?;
                Some(row.row(0).data().into())
            }
        };
        for (value, count) in set.clone() {
            self.change(slot, &value, -count);
        }
        if let Some(value) = kept {
            self.change(slot, &value, 1);
        }
        self.changed[slot] = false;
        Ok(())
    }

    pub(super) fn refresh(
        &mut self,
        cx: &StepContext<'_>,
        slots: &[u32],
    ) -> Result<(), EngineError> {
        for slot in slots {
            let slot = *slot as usize;
            if !std::mem::take(&mut self.changed[slot]) {
                continue;
            }
            if self.below > 0 {
                return Err(EngineError::internal(
                    "more values were taken from a group than it had",
                ));
            }
            let set = &self.sets[slot];
            let beyond_worth = self.codec.kept != Kept::All && set.len() > 1;
            let mut worth = None;
            match &mut self.results {
                Results::Counts(counts) => counts[slot] = set.len() as i64,
                Results::Scalars(scalars) => {
                    let result = match self.codec.compute(set) {
                        Ok(value) => value,
                        Err(error) => {
                            cx.failed(error)?;
                            ScalarValue::try_from(&self.codec.result)?
                        }
                    };
                    worth = beyond_worth.then(|| result.clone());
                    self.result_bytes += beside(&result);
                    let before = std::mem::replace(&mut scalars[slot], result);
                    self.result_bytes -= beside(&before);
                }
            }
            if let Some(result) = worth {
                self.keep_worth(slot, &result)?;
            }
        }
        Ok(())
    }

    pub(super) fn result_type(&self) -> &DataType {
        &self.codec.result
    }

    pub(super) fn results(&self, slots: &[u32]) -> Result<ArrayRef, DataFusionError> {
        let array: ArrayRef = match &self.results {
            Results::Counts(counts) => {
                let counts = slots.iter().map(|slot| counts[*slot as usize]);
                Arc::new(Int64Array::from_iter_values(counts))
            }
            Results::Scalars(scalars) => {
                let held = slots.iter().map(|slot| match &scalars[*slot as usize] {
                    ScalarValue::Null => ScalarValue::try_from(&self.codec.result),
                    other => Ok(other.clone()),
                });
                ScalarValue::iter_to_array(held.collect::<Result<Vec<_>, _>>()?)?
            }
        };
        if array.data_type() == &self.codec.result {
            return Ok(array);
        }
        Ok(cast(&array, &self.codec.result)?)
    }

    pub(super) fn clear(&mut self, slot: usize) {
        let set = std::mem::take(&mut self.sets[slot]);
        self.entries -= set.len();
        self.below -= below(&set);
        self.tree_bytes -= tree_bytes(set.len());
        self.value_bytes -= set.keys().map(|key| heap_bytes(key.len())).sum::<usize>();
        self.changed[slot] = true;
        match &mut self.results {
            Results::Counts(counts) => counts[slot] = 0,
            Results::Scalars(scalars) => {
                let before = std::mem::replace(&mut scalars[slot], ScalarValue::Null);
                self.result_bytes -= beside(&before);
            }
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    pub(super) fn bytes(&self) -> usize {
        let results = match &self.results {
            Results::Counts(counts) => counts.capacity() * size_of::<i64>(),
            Results::Scalars(scalars) => scalars.capacity() * size_of::<ScalarValue>(),
        };
        let sets = self.sets.capacity() * size_of::<Counted>() + self.changed.capacity();
        results + self.result_bytes + sets + self.tree_bytes + self.value_bytes
    }
}

/// What became of an entry.
enum Counting {
    /// It is there from now on.
    Begun,
    /// It is gone.
    Ended,
    /// It was there and is.
    GoesOn { now: i64 },
}

/// Counts a value; one that is there no times has no entry.
fn count(set: &mut Counted, value: &[u8], weight: i64) -> Counting {
    match set.get_mut(value) {
        Some(count) => {
            *count += weight;
            match *count {
                0 => {
                    set.remove(value);
                    Counting::Ended
                }
                now => Counting::GoesOn { now },
            }
        }
        None => {
            set.insert(value.into(), weight);
            Counting::Begun
        }
    }
}

/// Entries of which more were taken than came.
fn below(set: &Counted) -> usize {
    set.values().filter(|count| **count < 0).count()
}

/// Values that a node of a tree has room for.
const NODE_VALUES: usize = 11;

/// A node: its values with their counts, and what it knows of its parent.
const NODE_BYTES: usize = NODE_VALUES * (size_of::<Box<[u8]>>() + size_of::<i64>()) + 16;

/// What a tree of so many values takes: nodes of more than one are about two thirds full.
fn tree_bytes(values: usize) -> usize {
    let nodes = match values {
        0 => 0,
        1..=NODE_VALUES => 1,
        many => many.div_ceil(NODE_VALUES * 2 / 3) + 1,
    };
    nodes * heap_bytes(NODE_BYTES)
}

/// What a result takes beside its place.
fn beside(result: &ScalarValue) -> usize {
    result.size() - size_of::<ScalarValue>()
}
