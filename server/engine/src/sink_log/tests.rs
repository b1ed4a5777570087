//! The decisions of the log as tables: what a marker means, what a record forgets, where a delivery is cut.

use std::collections::BTreeMap;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use proptest::prelude::*;
use thalweg_connectors::Weights;

use super::*;

fn marker(epoch: u64, part: u32, last: bool) -> Marker {
    Marker { epoch, part, last }
}

fn entry(epoch: u64) -> Entry {
    Entry {
        epoch,
        before: epoch - 5,
        stamp_ms: epoch as i64,
        part_rows: 2,
        bytes: 10,
        runs: vec![epoch, epoch + 1],
        frontier: BTreeMap::from([("s".to_owned(), BTreeMap::from([("0".to_owned(), 7)]))]),
    }
}

fn record(delivered: Option<Marker>, epochs: &[u64]) -> Record {
    Record {
        delivered,
        stamp_ms: 1,
        order: 2,
        offered: epochs.last().copied().unwrap_or(0),
        partial: false,
        shut_out: true,
        entries: epochs.iter().map(|epoch| entry(*epoch)).collect(),
    }
}

#[test]
fn a_marker_says_what_is_missing_or_does_not_fit() {
    let known = Some(marker(10, 0, true));
    let (first, half) = (Some(marker(20, 1, true)), Some(marker(20, 0, false)));
    let log = record(known, &[20, 30]);
    for (outside, accepted, verdict) in [
        (known, false, Verdict::After(known)),
        (first, false, Verdict::After(first)),
        (half, false, Verdict::After(half)),
        (
            Some(marker(30, 7, true)),
            false,
            Verdict::After(Some(marker(30, 7, true))),
        ),
        // Of no checkpoint that we know, before or behind.
        (
            Some(marker(25, 0, true)),
            false,
            Verdict::Ahead(marker(25, 0, true)),
        ),
        (
            Some(marker(99, 0, true)),
            false,
            Verdict::Ahead(marker(99, 0, true)),
        ),
        (
            Some(marker(5, 0, true)),
            false,
            Verdict::Behind(Some(marker(5, 0, true))),
        ),
        (None, false, Verdict::Behind(None)),
        (None, true, Verdict::After(known)),
        (Some(marker(99, 0, true)), true, Verdict::After(known)),
        (first, true, Verdict::After(first)),
    ] {
        assert_eq!(
            judge(outside, &log, accepted),
            verdict,
            "{outside:?} {accepted}"
        );
    }
    // What no writer has been given yet cannot be what the marker is of.
    let blind = Record {
        offered: 20,
        ..record(known, &[20, 30])
    };
    let other = marker(30, 0, true);
    assert_eq!(judge(Some(other), &blind, false), Verdict::Ahead(other));
    assert_eq!(judge(first, &blind, false), Verdict::After(first));
    // A sink that is new finds nothing, and has delivered nothing.
    assert_eq!(
        judge(None, &record(None, &[20]), false),
        Verdict::After(None)
    );
}

#[test]
fn a_record_forgets_what_is_outside() {
    let mut log = record(None, &[10, 20, 30]);
    assert!(!log.trim(None));
    assert!(log.trim(Some(marker(20, 0, false))));
    assert_eq!(log.first_run(), Some(20), "a part of it is missing");
    assert!(
        !log.trim(Some(marker(10, 0, true))),
        "an older marker is no news"
    );
    assert!(log.trim(Some(marker(20, 1, true))));
    assert_eq!((log.entries.len(), log.first_run()), (1, Some(30)));
    log.entries.push_back(entry(40));
    assert!(
        log.offer() && !log.offer(),
        "what is offered is no news twice"
    );
    let bytes = log.encode();
    assert_eq!(Record::decode(&bytes), Ok(log));
    // As it was written before it said whether another server writes.
    let mut old = bytes.clone();
    old[0] = 2;
    old.remove(40);
    let found = Record::decode(&old).expect("is read");
    assert_eq!((found.shut_out, found.entries.len()), (false, 2));
    // And when nothing was staged before a writer had taken over.
    old[0] = 1;
    old.drain(31..40);
    let old = Record::decode(&old).expect("is read");
    assert_eq!(
        (old.offered, old.partial, old.entries.len()),
        (40, false, 2)
    );
    for end in 0..bytes.len() {
        assert!(Record::decode(&bytes[..end]).is_err(), "{end}");
    }
}

proptest! {
    /// Parts hold every row once, in order and within their size, a key's rows together, and do not depend on how the rows came;
    /// beginning with a later part gives the same parts from there on.
    #[test]
    fn a_delivery_is_cut_alike_each_time(
        keys in prop::collection::vec((0_u8..2, any::<bool>()), 0..40),
        most in 1_u32..6,
        pieces in prop::collection::vec(1_usize..9, 1..6),
        from in 0_u32..4,
    ) {
        // Sorted keys, at most two rows of each.
        let mut rows: Vec<i64> = Vec::new();
        let mut key = 0;
        for (step, twice) in keys {
            key += i64::from(step) + 1;
            rows.push(key);
            rows.extend(twice.then_some(key));
        }
        let cut = |pieces: &[usize], from| {
            let entry = Entry { part_rows: most, ..entry(9) };
            let mut parts = Vec::new();
            let mut cutter = Parts::new(&entry, from, &[0], |staged| {
                parts.push(staged);
                true
            });
            let (mut rest, mut sizes) = (rows.as_slice(), pieces.iter().cycle());
            while !rest.is_empty() {
                let size = sizes.next().copied().unwrap_or(1).min(rest.len());
                let (piece, later) = rest.split_at(size);
                rest = later;
                cutter.push(delta(piece)).expect("cuts");
            }
            cutter.finish().expect("cuts");
            parts
                .iter()
                .map(|staged| (staged.marker, staged.changes.iter().flat_map(values).collect::<Vec<_>>()))
                .collect::<Vec<_>>()
        };
        let parts = cut(&pieces, 0);
        let all: Vec<i64> = parts.iter().flat_map(|(_, rows)| rows.clone()).collect();
        prop_assert_eq!(&all, &rows);
        for (at, (found, rows)) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            prop_assert_eq!(*found, marker(9, at as u32, last));
            prop_assert!(rows.len() <= most as usize + 1);
            prop_assert!(last || rows.last() != parts[at + 1].1.first());
        }
        prop_assert_eq!(&cut(&[1], 0), &parts);
        prop_assert_eq!(cut(&pieces, from), parts.into_iter().skip(from as usize).collect::<Vec<_>>());
    }
}

fn delta(rows: &[i64]) -> Delta {
    let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
    let values: Int64Array = rows.iter().copied().collect();
    Delta {
        batch: RecordBatch::try_new(schema, vec![Arc::new(values)]).expect("one column"),
        weights: Weights::Each(rows.iter().map(|_| 1).collect()),
    }
}

fn values(delta: &Delta) -> Vec<i64> {
    delta
        .batch
        .column(0)
        .as_primitive::<Int64Type>()
        .values()
        .to_vec()
}
