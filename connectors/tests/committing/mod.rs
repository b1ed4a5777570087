//! The conformance test of sinks that deliver exactly once: whoever implements `CommittingSink` runs it.
//!
//! Invariant: it knows the sink by its contract alone, and what came by an independent reader of what readers may see.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use thalweg_connectors::{CommittingSink, Delta, Due, Form, Marker, Staged, Weights};

/// A delivery of insertions into a sink of one column `n`.
pub(crate) fn staged(marker: Marker, rows: &[i64]) -> Staged {
    changed(marker, &[], rows)
}

/// A delivery that deletes rows and inserts others.
pub(crate) fn changed(marker: Marker, deleted: &[i64], inserted: &[i64]) -> Staged {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let rows = deleted.iter().chain(inserted).copied();
    let values = Arc::new(Int64Array::from_iter_values(rows));
    let weights = deleted.iter().map(|_| -1).chain(inserted.iter().map(|_| 1));
    Staged {
        marker,
        stamp_ms: marker.epoch as i64 * 1000,
        changes: vec![Delta {
            batch: RecordBatch::try_new(schema, vec![values]).expect("one column"),
            weights: Weights::Each(weights.collect()),
        }],
        frontier: BTreeMap::new(),
    }
}

/// The only part of a delivery.
pub(crate) fn whole(epoch: u64) -> Marker {
    Marker {
        epoch,
        part: 0,
        last: true,
    }
}

fn part(epoch: u64, part: u32, last: bool) -> Marker {
    Marker { epoch, part, last }
}

/// Hands a delivery over and has it committed.
async fn commit(sink: &mut dyn CommittingSink, staged: &Staged) {
    let marker = sink.deliver(staged).await.expect("delivers");
    if marker == Some(staged.marker) {
        return;
    }
    let marker = sink.commit(Due::Now).await.expect("commits");
    assert_eq!(marker, Some(staged.marker));
}

/// Proves the contract: `open` gives a new writer of one and the same sink, `seen` the rows that its readers see, sorted.
pub(crate) async fn conforms<R: Future<Output = Vec<i64>>>(
    open: impl Fn() -> Box<dyn CommittingSink>,
    seen: impl Fn() -> R,
) {
    let mut first = open();
    first
        .check()
        .await
        .expect("the outside system has what it needs");
    assert_eq!(
        first.take_over().await.expect("takes over"),
        None,
        "a new sink"
    );
    assert_eq!(first.commit(Due::Now).await.expect("nothing to do"), None);
    commit(first.as_mut(), &staged(whole(10), &[1, 2])).await;
    assert_eq!(seen().await, [1, 2]);

    // The writer dies; the next one learns how far it came, and so sends nothing twice.
    drop(first);
    let mut second = open();
    assert_eq!(
        second.take_over().await.expect("takes over"),
        Some(whole(10))
    );
    commit(second.as_mut(), &staged(part(20, 0, false), &[3])).await;
    drop(second);
    let mut third = open();
    let half = Some(part(20, 0, false));
    assert_eq!(third.take_over().await.expect("takes over"), half);
    commit(third.as_mut(), &staged(part(20, 1, true), &[4])).await;
    assert_eq!(seen().await, [1, 2, 3, 4]);

    // What was handed over and not committed is not there, and does not come later.
    let mut fourth = open();
    assert_eq!(
        fourth.take_over().await.expect("takes over"),
        Some(part(20, 1, true))
    );
    let refused = third.deliver(&staged(whole(30), &[5])).await;
    let refused = match refused {
        Ok(_) => third.commit(Due::Now).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(
        refused.is_err(),
        "a writer that was shut out commits nothing"
    );
    assert_eq!(seen().await, [1, 2, 3, 4]);
    commit(fourth.as_mut(), &staged(whole(30), &[6])).await;
    assert_eq!(seen().await, [1, 2, 3, 4, 6]);

    // Two take over, the later one counts; then it is the other way round.
    let mut fifth = open();
    assert_eq!(
        fifth.take_over().await.expect("takes over"),
        Some(whole(30))
    );
    assert_eq!(
        fourth.take_over().await.expect("takes over"),
        Some(whole(30))
    );
    commit(fourth.as_mut(), &staged(whole(40), &[7])).await;
    assert!(
        fifth.deliver(&staged(whole(40), &[7])).await.is_err()
            || fifth.commit(Due::Now).await.is_err()
    );
    assert_eq!(seen().await, [1, 2, 3, 4, 6, 7]);

    if fourth.form() == Form::Upsert {
        // The writer that was shut out and the one that counts are both gone.
        drop((fourth, fifth));
        let mut last = open();
        assert_eq!(last.take_over().await.expect("takes over"), Some(whole(40)));
        commit(last.as_mut(), &changed(whole(50), &[1, 3], &[8])).await;
        assert_eq!(seen().await, [2, 4, 6, 7, 8]);
    }
}
