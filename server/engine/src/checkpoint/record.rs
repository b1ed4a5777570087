//! Where a saved job stands, as bytes.
//!
//! Invariant: `decode(encode(x)) = x`, and any other bytes are an error, never another place.

use std::collections::BTreeMap;

use thalweg_catalog::Oid;
use thalweg_connectors::Offsets;

use crate::source::{decode_offsets, encode_offsets};

const FORMAT: u8 = 1;

/// The epoch that a job's state is of, and what it was computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Of the plan and the form of its state.
    pub(super) fingerprint: u64,
    pub(super) epoch: u64,
    /// Where that epoch ends in the sources it reads.
    pub(super) streams: BTreeMap<Oid, Offsets>,
    /// Tables it reads.
    pub(super) tables: Vec<Oid>,
    /// Views it reads, and sources whose rows are kept for it: they are saved at the same epoch.
    pub(super) jobs: Vec<Oid>,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        put_count(&mut out, self.streams.len());
        for (oid, offsets) in &self.streams {
            let offsets = encode_offsets(offsets);
            out.extend_from_slice(&oid.0.to_le_bytes());
            put_count(&mut out, offsets.len());
            out.extend_from_slice(&offsets);
        }
        for oids in [&self.tables, &self.jobs] {
            put_count(&mut out, oids.len());
            oids.iter()
                .for_each(|oid| out.extend_from_slice(&oid.0.to_le_bytes()));
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (FORMAT, mut rest) = bytes.split_first().map(|(first, rest)| (*first, rest))? else {
            return None;
        };
        let fingerprint = u64::from_le_bytes(take(&mut rest)?);
        let epoch = u64::from_le_bytes(take(&mut rest)?);
        let mut streams = BTreeMap::new();
        for _ in 0..number(&mut rest)? {
            let oid = Oid(number(&mut rest)?);
            let length = number(&mut rest)?;
            let (offsets, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            streams.insert(oid, decode_offsets(offsets)?);
            rest = after;
        }
        let [tables, jobs] = [oids(&mut rest)?, oids(&mut rest)?];
        rest.is_empty().then_some(Self {
            fingerprint,
            epoch,
            streams,
            tables,
            jobs,
        })
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_le_bytes());
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_le_bytes)
}

fn oids(bytes: &mut &[u8]) -> Option<Vec<Oid>> {
    let count = number(bytes)?;
    (0..count).map(|_| number(bytes).map(Oid)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_is_read_back_and_no_part_of_one_is(
            fingerprint: u64,
            epoch: u64,
            streams in prop::collection::btree_map(any::<u32>(), prop::collection::btree_map("[a-z]{0,3}", any::<u64>(), 0..3), 0..3),
            tables in prop::collection::vec(any::<u32>(), 0..4),
            jobs in prop::collection::vec(any::<u32>(), 0..4),
            cut: prop::sample::Index,
        ) {
            let oids = |numbers: Vec<u32>| numbers.into_iter().map(Oid).collect::<Vec<_>>();
            let streams = streams.into_iter().map(|(oid, offsets)| (Oid(oid), offsets.into_iter().collect()));
            let record = Record { fingerprint, epoch, streams: streams.collect(), tables: oids(tables), jobs: oids(jobs) };
            let bytes = record.encode();
            prop_assert_eq!(Record::decode(&bytes), Some(record));
            let part = bytes.get(..cut.index(bytes.len())).unwrap_or_default();
            prop_assert_eq!(Record::decode(part), None);
        }
    }
}
