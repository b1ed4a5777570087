//! Joins of two changing inputs.
//!
//! Invariant: the right input's change meets the left input as it was, then the left input's change meets the right input as it
//! is now; each half is exact on its own. A row with NULL in its key has no partners and is not kept. The weight of a row's
//! partners decides whether it is padded (outer), shown (semi) or hidden (anti); it is counted for each row, after the residual.

mod saved;
mod spilled;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, new_null_array};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::row::Rows;
use datafusion::logical_expr::JoinType;
use datafusion::physical_expr::PhysicalExpr;
use thalweg_connectors::Delta;
use thalweg_state::SpillFolder;

use self::saved::Unsaved;
use super::arrangement::{Additions, Arrangement, NONE, Removal};
use super::group::by_shard;
use super::keys::{EncodedKeys, KeyCodec};
use super::linear::batch_of;
use super::parallel::each_shard;
use super::signs::{by_sign, is_added, keep_rows, take_rows, taken, weighted};
use super::{Operator, StateFigures, StepContext, net};
use crate::chunk::{RowCodec, hash};
use crate::compute_errors::muted;
use crate::error::EngineError;

/// Pairs that are put together at once.
const PAIRS_MAX: usize = 16_384;

/// Left or right.
type Side = usize;
const LEFT: Side = 0;
const RIGHT: Side = 1;

/// What a row without or with partners means for the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lone {
    /// Without partners: itself, padded with NULL.
    Padded,
    /// With partners: itself.
    Shown,
    /// Without partners: itself.
    Hidden,
    /// Itself, and whether it has partners.
    Marked,
}

/// What a join puts out.
#[derive(Debug)]
pub(super) struct JoinSpec {
    pairs: bool,
    lone: [Option<Lone>; 2],
    inputs: [SchemaRef; 2],
    pair: SchemaRef,
    filter: Option<Arc<dyn PhysicalExpr>>,
    output: SchemaRef,
}

impl JoinSpec {
    pub(super) fn new(
        kind: JoinType,
        inputs: [SchemaRef; 2],
        pair: SchemaRef,
        filter: Option<Arc<dyn PhysicalExpr>>,
        output: SchemaRef,
    ) -> Self {
        let (pairs, lone) = match kind {
            JoinType::Inner => (true, [None, None]),
            JoinType::Left => (true, [Some(Lone::Padded), None]),
            JoinType::Right => (true, [None, Some(Lone::Padded)]),
            JoinType::Full => (true, [Some(Lone::Padded), Some(Lone::Padded)]),
            JoinType::LeftSemi => (false, [Some(Lone::Shown), None]),
            JoinType::LeftAnti => (false, [Some(Lone::Hidden), None]),
            JoinType::LeftMark => (false, [Some(Lone::Marked), None]),
            JoinType::RightSemi => (false, [None, Some(Lone::Shown)]),
            JoinType::RightAnti => (false, [None, Some(Lone::Hidden)]),
            JoinType::RightMark => (false, [None, Some(Lone::Marked)]),
        };
        Self {
            pairs,
            lone,
            inputs,
            pair,
            filter,
            output,
        }
    }

    /// Output rows for rows of one side that have (`matched`) or do not have partners; `None` when those are not in the output.
    fn lone_rows(
        &self,
        side: Side,
        rows: &RecordBatch,
        matched: bool,
    ) -> Result<Option<RecordBatch>, EngineError> {
        let count = rows.num_rows();
        let own = rows.columns().iter().cloned();
        let columns: Vec<ArrayRef> = match (self.lone[side], matched) {
            (None, _) | (Some(Lone::Padded | Lone::Hidden), true) | (Some(Lone::Shown), false) => {
                return Ok(None);
            }
            (Some(Lone::Shown | Lone::Hidden), _) => own.collect(),
            (Some(Lone::Marked), matched) => {
                let mark: ArrayRef = Arc::new(BooleanArray::from(vec![matched; count]));
                own.chain([mark]).collect()
            }
            (Some(Lone::Padded), false) => {
                let other = self.inputs[1 - side].fields().iter();
                let nulls = other.map(|field| new_null_array(field.data_type(), count));
                if side == LEFT {
                    own.chain(nulls).collect()
                } else {
                    nulls.chain(own).collect()
                }
            }
        };
        Ok(Some(batch_of(&self.output, columns, count)?))
    }
}

/// A join.
#[derive(Debug)]
pub(super) struct Join {
    spec: JoinSpec,
    inputs: [Operator; 2],
    keys: [Vec<Arc<dyn PhysicalExpr>>; 2],
    null_equal: bool,
    key_codec: KeyCodec,
    codecs: Arc<[RowCodec; 2]>,
    shards: Vec<[Arrangement; 2]>,
    /// What has changed since it was saved, when that is followed.
    unsaved: Option<Unsaved>,
}

/// One input's change, evaluated.
struct Change {
    delta: Delta,
    keys: EncodedKeys,
    encoded: Option<Rows>,
    /// Rows of each shard.
    rows: Vec<Vec<u32>>,
}

impl Change {
    /// The whole row as bytes, empty when it has no columns.
    fn row(&self, row: u32) -> &[u8] {
        self.encoded
            .as_ref()
            .map_or(&[], |rows| rows.row(row as usize).data())
    }
}

impl Join {
    pub(super) fn new(
        spec: JoinSpec,
        inputs: [Operator; 2],
        keys: [Vec<Arc<dyn PhysicalExpr>>; 2],
        null_equal: bool,
        shards: usize,
        folder: Option<&Arc<SpillFolder>>,
    ) -> Result<Self, EngineError> {
        let types = keys[LEFT]
            .iter()
            .map(|expr| expr.data_type(&spec.inputs[LEFT]))
            .collect::<Result<Vec<DataType>, _>>()?;
        let right = keys[RIGHT]
            .iter()
            .map(|expr| expr.data_type(&spec.inputs[RIGHT]))
            .collect::<Result<Vec<DataType>, _>>()?;
        if types != right {
            return Err(EngineError::internal("the keys of a join differ in type"));
        }
        let key_codec = KeyCodec::new(&types)?;
        let codecs = Arc::new([
            RowCodec::new(Arc::clone(&spec.inputs[LEFT]))?,
            RowCodec::new(Arc::clone(&spec.inputs[RIGHT]))?,
        ]);
        // Without equal keys every row meets every other: all of them are needed always.
        let folder = folder.filter(|_| !types.is_empty());
        let side = |side: Side| Arrangement::new(&key_codec, spec.lone[side].is_some(), folder);
        let shards = (0..shards).map(|_| [side(LEFT), side(RIGHT)]).collect();
        Ok(Self {
            spec,
            inputs,
            keys,
            null_equal,
            key_codec,
            codecs,
            shards,
            unsaved: None,
        })
    }

    pub(super) fn state(&self) -> StateFigures {
        let own = self.shards.iter().flatten().map(|side| StateFigures {
            entries: side.rows(),
            bytes: side.bytes(),
            spilled: side.disk_bytes(),
        });
        let unsaved = self.unsaved.as_ref().map_or(0, |unsaved| unsaved.bytes);
        let below = self.inputs[LEFT].state().plus(self.inputs[RIGHT].state());
        own.fold(below.and_bytes(unsaved), StateFigures::plus)
    }

    pub(super) fn step(&mut self, cx: &StepContext<'_>) -> Result<Vec<Delta>, EngineError> {
        let mut out = Vec::new();
        for side in [RIGHT, LEFT] {
            let deltas = self.inputs[side].step(cx)?;
            let changes = self.evaluate(cx, side, deltas, &mut out)?;
            if changes.is_empty() {
                continue;
            }
            self.note(side, &changes)?;
            out.extend(self.take_in(side, &changes, false)?);
        }
        Ok(out)
    }

    /// Meets the other input with a change of one, and keeps it. What a `quiet` one would put out was put out before.
    fn take_in(
        &mut self,
        side: Side,
        changes: &[Change],
        quiet: bool,
    ) -> Result<Vec<Delta>, EngineError> {
        let rows = changes.iter().map(|change| change.delta.num_rows()).sum();
        let (spec, codecs) = (&self.spec, &*self.codecs);
        let halves = each_shard(&mut self.shards, rows, |shard, sides| {
            let half = Half {
                spec,
                side,
                codecs,
                sides,
                quiet,
                out: Vec::new(),
                touched: HashMap::new(),
            };
            half.step(changes, shard)
        })?;
        Ok(halves.into_iter().flatten().collect())
    }

    /// The net change of one input with its keys. Rows that cannot have partners are put out here.
    fn evaluate(
        &self,
        cx: &StepContext<'_>,
        side: Side,
        deltas: Vec<Delta>,
        out: &mut Vec<Delta>,
    ) -> Result<Vec<Change>, EngineError> {
        let codec = &self.codecs[side];
        let mut changes = Vec::new();
        for delta in net(codec, deltas)? {
            for delta in by_sign(&delta)? {
                let columns = self.keys[side]
                    .iter()
                    .map(|expr| cx.evaluate(expr, &delta))
                    .collect::<Result<Vec<_>, _>>()?;
                let keys = self.key_codec.encode(&columns)?;
                let null = |row: &u32| !self.null_equal && keys.is_null(*row as usize);
                let all = 0..delta.num_rows() as u32;
                let (alone, kept): (Vec<u32>, Vec<u32>) = all.partition(null);
                if let Some(alone) = taken(&delta, &alone)?
                    && let Some(batch) = self.spec.lone_rows(side, &alone.batch, false)?
                {
                    let weights = alone.weights;
                    out.push(Delta { batch, weights });
                }
                let rows = by_shard(&keys, kept.into_iter(), self.shards.len());
                let encoded = if codec.schema.fields().is_empty() {
                    None
                } else {
                    Some(codec.encode(delta.batch.columns())?)
                };
                changes.push(Change {
                    delta,
                    keys,
                    encoded,
                    rows,
                });
            }
        }
        Ok(changes)
    }
}

/// One input's change meeting the other input, in one shard.
struct Half<'a> {
    spec: &'a JoinSpec,
    side: Side,
    codecs: &'a [RowCodec; 2],
    sides: &'a mut [Arrangement; 2],
    /// Nothing is put out.
    quiet: bool,
    out: Vec<Delta>,
    /// Rows of the other input whose partners changed, with the weight of their partners before.
    touched: HashMap<u32, i64>,
}

/// Candidate pairs: a row of the change by its place in the shard's list, and a row of the other input.
#[derive(Default)]
struct Pairs {
    places: Vec<u32>,
    others: Vec<u32>,
}

impl Half<'_> {
    fn step(mut self, changes: &[Change], shard: usize) -> Result<Vec<Delta>, EngineError> {
        let keys = changes.iter().flat_map(|change| {
            let rows = change.rows[shard].iter();
            rows.map(|row| change.keys.bytes(*row as usize))
        });
        for (side, codec) in self.sides.iter_mut().zip(self.codecs) {
            side.fetch(codec, keys.clone())?;
        }
        for change in changes {
            let rows = &change.rows[shard];
            if !rows.is_empty() {
                self.change(change, rows)?;
            }
        }
        if !self.quiet {
            self.turn()?;
        }
        self.sides.iter_mut().for_each(Arrangement::tidy);
        Ok(self.out)
    }

    fn change(&mut self, change: &Change, rows: &[u32]) -> Result<(), EngineError> {
        let other = 1 - self.side;
        let mut matches = vec![0_i64; rows.len()];
        if self.quiet && self.spec.lone == [None, None] {
            // Nobody asks for partners.
            return self.apply(change, rows, matches);
        }
        let mut pairs = Pairs::default();
        for (place, row) in (0_u32..).zip(rows) {
            let mut partner = self.sides[other].first(change.keys.bytes(*row as usize));
            while partner != NONE {
                pairs.places.push(place);
                pairs.others.push(partner);
                partner = self.sides[other].next(partner);
                if pairs.places.len() >= PAIRS_MAX {
                    self.pairs(change, rows, &mut matches, std::mem::take(&mut pairs))?;
                }
            }
        }
        self.pairs(change, rows, &mut matches, pairs)?;
        self.lone(change, rows, &matches)?;
        self.apply(change, rows, matches)
    }

    /// Counts and puts out candidate pairs that pass the residual.
    fn pairs(
        &mut self,
        change: &Change,
        rows: &[u32],
        matches: &mut [i64],
        mut pairs: Pairs,
    ) -> Result<(), EngineError> {
        if pairs.places.is_empty() {
            return Ok(());
        }
        let added = is_added(&change.delta);
        let mut joined = None;
        let put_out = self.spec.pairs && !self.quiet;
        if put_out || self.spec.filter.is_some() {
            let mut batch = self.joined(change, rows, &pairs)?;
            if let Some(filter) = &self.spec.filter {
                let mask = muted(!added, || {
                    filter.evaluate(&batch)?.into_array(batch.num_rows())
                })?;
                let mask = mask.as_boolean();
                if mask.true_count() < batch.num_rows() {
                    batch = keep_rows(&batch, mask)?;
                    let kept = |row: usize| mask.is_valid(row) && mask.value(row);
                    let mut row = 0..;
                    pairs.places.retain(|_| row.next().is_some_and(kept));
                    let mut row = 0..;
                    pairs.others.retain(|_| row.next().is_some_and(kept));
                }
            }
            joined = Some(batch);
        }
        let other = 1 - self.side;
        let mut weights = Vec::with_capacity(pairs.places.len());
        for (place, partner) in pairs.places.iter().zip(&pairs.others) {
            let weight = change.delta.weights.at(rows[*place as usize] as usize);
            let partners = self.sides[other].weight(*partner);
            matches[*place as usize] += partners;
            if self.spec.lone[other].is_some() {
                let before = self.sides[other].matches(*partner);
                self.touched.entry(*partner).or_insert(before);
                self.sides[other].add_match(*partner, weight);
            }
            weights.push(weight * partners);
        }
        if put_out && let Some(batch) = joined {
            let batch = batch_of(&self.spec.output, batch.columns().to_vec(), weights.len())?;
            self.out.extend(weighted(batch, weights));
        }
        Ok(())
    }

    /// Columns of the left, then of the right row of each pair.
    fn joined(
        &self,
        change: &Change,
        rows: &[u32],
        pairs: &Pairs,
    ) -> Result<RecordBatch, EngineError> {
        let own = pairs.places.iter().map(|place| rows[*place as usize]);
        let own = take_rows(&change.delta.batch, &own.collect::<Vec<_>>())?;
        let other = 1 - self.side;
        let others = self.sides[other].gather(&pairs.others, &self.spec.inputs[other])?;
        let (left, right) = if self.side == LEFT {
            (&own, &others)
        } else {
            (&others, &own)
        };
        let columns = left.columns().iter().chain(right.columns()).cloned();
        Ok(batch_of(
            &self.spec.pair,
            columns.collect(),
            pairs.places.len(),
        )?)
    }

    /// Puts out rows of the change by whether they have partners.
    fn lone(&mut self, change: &Change, rows: &[u32], matches: &[i64]) -> Result<(), EngineError> {
        if self.quiet || self.spec.lone[self.side].is_none() {
            return Ok(());
        }
        for matched in [false, true] {
            let kept: Vec<u32> = rows
                .iter()
                .zip(matches)
                .filter(|(_, count)| (**count > 0) == matched)
                .map(|(row, _)| *row)
                .collect();
            if let Some(delta) = taken(&change.delta, &kept)?
                && let Some(batch) = self.spec.lone_rows(self.side, &delta.batch, matched)?
            {
                let weights = delta.weights;
                self.out.push(Delta { batch, weights });
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        change: &Change,
        rows: &[u32],
        matches: Vec<i64>,
    ) -> Result<(), EngineError> {
        let own = &mut self.sides[self.side];
        let weight = |row: &u32| change.delta.weights.at(*row as usize);
        if is_added(&change.delta) {
            let batch = if rows.len() == change.delta.num_rows() {
                change.delta.batch.clone()
            } else {
                take_rows(&change.delta.batch, rows)?
            };
            let keys = rows.iter().map(|row| change.keys.bytes(*row as usize));
            return own.add(Additions {
                batch: crate::chunk::compact_views(batch)?,
                keys: keys.collect(),
                weights: rows.iter().map(weight).collect(),
                hashes: rows.iter().map(|row| hash(change.row(*row))).collect(),
                matches: self.spec.lone[self.side].map(|_| matches),
            });
        }
        let removals = rows.iter().map(|row| Removal {
            key: change.keys.bytes(*row as usize),
            hash: hash(change.row(*row)),
            row: change.row(*row),
            count: -weight(row),
        });
        own.remove(&removals.collect::<Vec<_>>(), &self.codecs[self.side])
    }

    /// Puts out the other input's rows that got their first partner or lost their last.
    fn turn(&mut self) -> Result<(), EngineError> {
        let other = 1 - self.side;
        let mut touched: Vec<(u32, i64)> = self.touched.drain().collect();
        touched.sort_unstable();
        for now in [false, true] {
            let mut turned = Vec::new();
            for (row, before) in &touched {
                let after = self.sides[other].matches(*row);
                if after < 0 {
                    return Err(EngineError::internal(
                        "a row lost more partners than it had",
                    ));
                }
                if (*before > 0) != (after > 0) && (after > 0) == now {
                    turned.push(*row);
                }
            }
            if turned.is_empty() {
                continue;
            }
            let arrangement = &self.sides[other];
            let rows = arrangement.gather(&turned, &self.spec.inputs[other])?;
            for (matched, sign) in [(!now, -1), (now, 1)] {
                if let Some(batch) = self.spec.lone_rows(other, &rows, matched)? {
                    let weights = turned.iter().map(|row| arrangement.weight(*row) * sign);
                    self.out.extend(weighted(batch, weights.collect()));
                }
            }
        }
        Ok(())
    }
}
