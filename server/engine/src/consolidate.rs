//! Nets weighted rows: equal rows of opposite sign cancel.
//!
//! Invariant: the result is the same multiset as the input; a row is in it with negative weight only when deletions outnumber
//! insertions. Rows that nothing deletes are passed through without being encoded, so the cost follows the deletions.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::row::Rows;
use thalweg_connectors::{Delta, Weights};

use crate::chunk::{Chunk, RowCodec, hash};

/// A chunk that counts as it is, or with all weights negated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) chunk: &'a Chunk,
    pub(crate) sign: i64,
}

/// How much of one row is still to be cancelled, and where a copy of it is.
struct Debt {
    owed: i64,
    term: usize,
    row: usize,
    /// Which of the encoded rows are its bytes.
    encoded: (usize, usize),
    /// An older one with the same hash.
    next: Option<usize>,
}

/// Debts by the rows' bytes, which stay where they were encoded.
#[derive(Default)]
struct Debts {
    /// The newest debt of each hash.
    newest: HashMap<u64, usize, PassThrough>,
    debts: Vec<Debt>,
    encoded: Vec<Rows>,
}

impl Debts {
    fn find(&self, hash: u64, bytes: &[u8]) -> Option<usize> {
        let mut next = self.newest.get(&hash).copied();
        while let Some(debt) = next.and_then(|at| self.debts.get(at)) {
            let (rows, row) = debt.encoded;
            let held = self.encoded.get(rows).map(|rows| rows.row(row));
            if held.is_some_and(|held| held.data() == bytes) {
                return next;
            }
            next = debt.next;
        }
        None
    }

    /// Adds what some rows of a term, which are given with their bytes, take away.
    fn add(&mut self, index: usize, term: &Term<'_>, rows: &[u32], encoded: Rows) {
        let place = self.encoded.len();
        self.encoded.push(encoded);
        self.debts.reserve(rows.len());
        self.newest.reserve(rows.len());
        for (at, row) in rows.iter().enumerate() {
            let row = *row as usize;
            let owed = -(term.chunk.weight(row) * term.sign);
            let Some(bytes) = self.encoded.get(place).map(|rows| rows.row(at)) else {
                continue;
            };
            let hash = hash(bytes.data());
            let known = self.find(hash, bytes.data());
            if let Some(debt) = known.and_then(|known| self.debts.get_mut(known)) {
                debt.owed += owed;
                continue;
            }
            let next = self.newest.insert(hash, self.debts.len());
            self.debts.push(Debt {
                owed,
                term: index,
                row,
                encoded: (place, at),
                next,
            });
        }
    }
}

/// Nets the terms.
pub(crate) fn consolidate(codec: &RowCodec, terms: &[Term<'_>]) -> Result<Vec<Delta>, ArrowError> {
    if codec.schema.fields().is_empty() {
        return Ok(net_without_columns(codec, terms));
    }
    let mut debts = collect_debts(codec, terms)?;
    let mut out = Vec::new();
    for term in terms {
        if let Some(delta) = surviving(codec, term, &mut debts)? {
            out.push(delta);
        }
    }
    let mut left = debts.debts;
    left.retain(|debt| debt.owed > 0);
    left.sort_unstable_by_key(|debt| (debt.term, debt.row));
    for group in left.chunk_by(|a, b| a.term == b.term) {
        let Some(term) = group.first().and_then(|debt| terms.get(debt.term)) else {
            continue;
        };
        let rows = UInt32Array::from_iter_values(group.iter().map(|debt| debt.row as u32));
        let batch = take_record_batch(&term.chunk.delta.batch, &rows)?;
        out.push(Delta {
            batch,
            weights: Weights::Each(group.iter().map(|debt| -debt.owed).collect()),
        });
    }
    Ok(out)
}

fn collect_debts(codec: &RowCodec, terms: &[Term<'_>]) -> Result<Debts, ArrowError> {
    let mut debts = Debts::default();
    for (index, term) in terms.iter().enumerate() {
        if term.sign > 0 && term.chunk.positive {
            continue;
        }
        let rows: Vec<u32> = (0..term.chunk.rows())
            .filter(|row| term.chunk.weight(*row) * term.sign < 0)
            .map(|row| row as u32)
            .collect();
        if !rows.is_empty() {
            let encoded = encode_rows(codec, term.chunk, &rows)?;
            debts.add(index, term, &rows, encoded);
        }
    }
    Ok(debts)
}

/// What is left of a term's positive rows after paying debts.
fn surviving(
    codec: &RowCodec,
    term: &Term<'_>,
    debts: &mut Debts,
) -> Result<Option<Delta>, ArrowError> {
    let chunk = term.chunk;
    let whole = chunk.positive && term.sign > 0;
    let positive = |row: &usize| chunk.weight(*row) * term.sign > 0;
    let (mut candidates, mut hashes): (Vec<u32>, Vec<u64>) = Default::default();
    if !debts.debts.is_empty() {
        let row_hashes = chunk.hashes(codec)?;
        for (row, hash) in (0..chunk.rows()).zip(row_hashes.iter()) {
            if positive(&row) && debts.newest.contains_key(hash) {
                candidates.push(row as u32);
                hashes.push(*hash);
            }
        }
    }
    if candidates.is_empty() && whole {
        return Ok((chunk.rows() > 0).then(|| chunk.delta.clone()));
    }
    let mut weights: Vec<i64> = (0..chunk.rows())
        .map(|row| (chunk.weight(row) * term.sign).max(0))
        .collect();
    let encoded = encode_rows(codec, chunk, &candidates)?;
    for ((row, hash), bytes) in candidates.iter().zip(hashes).zip(encoded.iter()) {
        let debt = debts.find(hash, bytes.data());
        let debt = debt.and_then(|debt| debts.debts.get_mut(debt));
        if let (Some(debt), Some(weight)) = (debt, weights.get_mut(*row as usize)) {
            let paid = debt.owed.min(*weight);
            debt.owed -= paid;
            *weight -= paid;
        }
    }
    let kept = UInt32Array::from_iter_values(
        (0_u32..)
            .zip(&weights)
            .filter(|(_, weight)| **weight > 0)
            .map(|(row, _)| row),
    );
    if kept.is_empty() {
        return Ok(None);
    }
    let batch = take_record_batch(&chunk.delta.batch, &kept)?;
    weights.retain(|weight| *weight > 0);
    let weights = if weights.iter().all(|weight| *weight == 1) {
        Weights::Ones
    } else {
        Weights::Each(weights.into())
    };
    Ok(Some(Delta { batch, weights }))
}

fn encode_rows(codec: &RowCodec, chunk: &Chunk, rows: &[u32]) -> Result<Rows, ArrowError> {
    if rows.len() == chunk.rows() {
        return codec.encode(chunk.delta.batch.columns());
    }
    let batch = take_record_batch(
        &chunk.delta.batch,
        &UInt32Array::from_iter_values(rows.iter().copied()),
    )?;
    codec.encode(batch.columns())
}

/// All rows of a relation without columns are equal, so only their number counts.
fn net_without_columns(codec: &RowCodec, terms: &[Term<'_>]) -> Vec<Delta> {
    let net: i64 = terms.iter().map(|term| term.chunk.net() * term.sign).sum();
    if net == 0 {
        return Vec::new();
    }
    let options = RecordBatchOptions::new().with_row_count(Some(net.unsigned_abs() as usize));
    RecordBatch::try_new_with_options(Arc::clone(&codec.schema), Vec::new(), &options)
        .map(|batch| {
            if net > 0 {
                Delta::insert(batch)
            } else {
                Delta::delete(batch)
            }
        })
        .into_iter()
        .collect()
}

/// Repeats rows as often as their weight says; `None` when a weight is negative.
pub(crate) fn expand(deltas: &[Delta]) -> Result<Option<Vec<RecordBatch>>, ArrowError> {
    let mut out = Vec::with_capacity(deltas.len());
    for delta in deltas {
        if !delta.weights.all_positive() {
            return Ok(None);
        }
        if (0..delta.num_rows()).all(|row| delta.weights.at(row) == 1) {
            out.push(delta.batch.clone());
            continue;
        }
        let rows = (0..delta.num_rows())
            .flat_map(|row| std::iter::repeat_n(row as u32, delta.weights.at(row) as usize));
        out.push(take_record_batch(
            &delta.batch,
            &UInt32Array::from_iter_values(rows),
        )?);
    }
    Ok(Some(out))
}

/// Keys that are hashes already.
pub(crate) type PassThrough = BuildHasherDefault<IdentityHasher>;

/// Uses the last `u64` written as the hash.
#[derive(Debug, Default)]
pub(crate) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Hashes row bytes with the chunk hash.
#[derive(Debug, Default)]
pub(crate) struct BytesHasher(u64);

impl Hasher for BytesHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= hash(bytes);
    }

    // The length prefix of a slice; `hash` already mixes the length in.
    fn write_usize(&mut self, _: usize) {}
}
