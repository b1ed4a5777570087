//! Deliveries into an archive, handed over again after every failure as the engine does it: none is lost, none is there twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::FutureExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use thalweg_catalog::{Column, SqlType};

use super::layout::Layout;
use super::sink::ArchiveSink;
use super::table::{ArchiveTable, Parts};
use super::tests::{columns, ids, on_every_store, orphans, parts, rows, table};
use super::vacuum_tests::ids_at;
use crate::commit::{CommittingSink, Due, Marker, Staged};
use crate::context::ManualClock;
use crate::delta::{Delta, Weights};
use crate::error::ConnectorError;
use crate::store::scripted::{Fault, Kind, ScriptedStore};

#[path = "../../tests/committing/mod.rs"]
mod committing;

pub(super) const DELIVERIES: u64 = 3;

pub(super) fn marker(number: u64) -> Marker {
    committing::whole(number * 10)
}

/// Delivery `number` inserts three rows of its own, one of them by a weight of its batch.
pub(super) fn staged(number: u64) -> Staged {
    let id = number as i64 * 3;
    let weighted = Delta {
        batch: rows(&[id + 2, id]),
        weights: Weights::Each(vec![1, 0].into()),
    };
    let offsets = BTreeMap::from([("0".to_owned(), number * 100)]);
    Staged {
        marker: marker(number),
        stamp_ms: number as i64,
        changes: vec![Delta::insert(rows(&[id, id + 1])), weighted],
        frontier: BTreeMap::from([("clicks".to_owned(), offsets)]),
    }
}

fn sink(store: &ScriptedStore) -> ArchiveSink {
    ArchiveSink::new(Arc::new(table(store)))
}

/// Delivers what is not committed, commits after every second delivery, and ends with everything committed.
pub(super) async fn run(sink: &mut ArchiveSink) -> Result<(), ConnectorError> {
    let committed = sink.take_over().await?;
    for number in 1..=DELIVERIES {
        if Some(marker(number)) <= committed {
            continue;
        }
        let before = sink.deliver(&staged(number)).await?;
        assert!(before < Some(marker(number)), "rows are gathered");
        if number % 2 == 0 {
            assert_eq!(sink.commit(Due::Now).await?, Some(marker(number)));
        }
    }
    if committed < Some(marker(DELIVERIES)) {
        assert_eq!(sink.commit(Due::Now).await?, Some(marker(DELIVERIES)));
    }
    Ok(())
}

async fn check(store: &ScriptedStore, at: &str) {
    let all: Vec<i64> = (3..(DELIVERIES as i64 + 1) * 3).collect();
    assert_eq!(ids(store).await, all, "{at}");
    let snapshot = table(&store.shared()).snapshot().await.expect("a snapshot");
    let reached = snapshot.reached("here/1").expect("a commit");
    assert_eq!(reached.marker, marker(DELIVERIES), "{at}");
    let next = reached.frontier.get("clicks").and_then(|at| at.get("0"));
    assert_eq!(next, Some(&(DELIVERIES * 100)), "{at}");
}

on_every_store! {
    no_failure_of_the_store_loses_or_doubles_a_delivery,
    a_sink_that_slept_through_a_take_over_adds_nothing,
    the_contract_of_sinks_that_commit,
    rows_are_gathered_until_they_are_old_or_a_file_is_full,
    another_writers_marker_is_not_taken_for_ones_own,
    who_is_fenced_takes_over_only_when_asked_again,
    a_row_that_no_folder_can_hold_is_left_out_and_told,
}

async fn no_failure_of_the_store_loses_or_doubles_a_delivery(kind: Kind) {
    for fault in kind.faults() {
        for operation in 0.. {
            let store = ScriptedStore::of(kind);
            table(&store).claim().await.expect("a claim");
            store.fail_at(operation, fault);
            let first = run(&mut sink(&store)).await;
            if store.is_waiting() {
                break;
            }
            let at = format!("{fault:?} at operation {operation}: {first:?}");
            let store = match fault {
                Fault::DownBefore | Fault::DownAfter => store.restarted(),
                Fault::Refused | Fault::Ambiguous | Fault::Late(_) => store,
            };
            // Whoever opens the sink next hands over again what is not committed.
            run(&mut sink(&store)).await.expect(&at);
            check(&store, &at).await;
            let late = matches!(fault, Fault::Late(_));
            assert!(late || orphans(&store).await.is_empty(), "{at}");
            assert!(operation < 2_000, "the deliveries never end");
        }
    }
}

async fn a_sink_that_slept_through_a_take_over_adds_nothing(kind: Kind) {
    for operation in 0.. {
        let store = ScriptedStore::of(kind);
        table(&store).claim().await.expect("a claim");
        let mut other = sink(&store.shared());
        let (done, finished) = tokio::sync::oneshot::channel();
        store.pause_at(operation, move || {
            // What sleeps may be given up before the other is done.
            let all = tokio::spawn(async move { done.send(run(&mut other).await) });
            async move { drop(all.await) }.boxed()
        });
        let slept = run(&mut sink(&store)).await;
        if store.is_waiting() {
            break;
        }
        let at = format!("asleep at operation {operation}: {slept:?}");
        finished.await.expect("an end").expect(&at);
        check(&store, &at).await;
    }
}

async fn the_contract_of_sinks_that_commit(kind: Kind) {
    let store = ScriptedStore::of(kind);
    let number = Column::data("n", 1, SqlType::Int8);
    let layout = Layout::new(&[number], &[]).expect("a layout");
    let open = || {
        let parts = parts(&store.shared(), layout.clone(), None);
        Box::new(ArchiveSink::new(Arc::new(ArchiveTable::of(parts)))) as Box<dyn CommittingSink>
    };
    let seen = || async {
        let parts = parts(&store.shared(), layout.clone(), None);
        let snapshot = ArchiveTable::of(parts)
            .snapshot()
            .await
            .expect("a snapshot");
        let content = store.content();
        let mut all = Vec::new();
        for file in snapshot.files() {
            let bytes = Bytes::from(content[&file.path].clone());
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("a file");
            for batch in reader.build().expect("a reader") {
                let batch = batch.expect("rows");
                all.extend(batch.column(0).as_primitive::<Int64Type>().values());
            }
        }
        all.sort_unstable();
        all
    };
    committing::conforms(open, seen).await;
}

async fn rows_are_gathered_until_they_are_old_or_a_file_is_full(kind: Kind) {
    let store = ScriptedStore::of(kind);
    table(&store).claim().await.expect("a claim");
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    let clock = Arc::new(ManualClock::new(0));
    let limited = |file_bytes| {
        let parts = Parts {
            rollover: Duration::from_secs(300),
            file_bytes,
            clock: clock.clone(),
            ..parts(&store, layout.clone(), None)
        };
        ArchiveSink::new(Arc::new(ArchiveTable::of(parts)))
    };
    let mut patient = limited(1 << 20);
    assert_eq!(patient.take_over().await, Ok(None));
    assert_eq!(patient.deliver(&staged(1)).await, Ok(None));
    clock.advance(Duration::from_secs(299));
    assert_eq!(patient.deliver(&staged(2)).await, Ok(None));
    clock.advance(Duration::from_secs(1));
    assert_eq!(patient.commit(Due::IfRipe).await, Ok(Some(marker(2))));
    // The age is that of the oldest row.
    assert_eq!(patient.deliver(&staged(3)).await, Ok(Some(marker(2))));
    drop(patient);
    let mut hasty = limited(1);
    assert_eq!(hasty.take_over().await, Ok(Some(marker(2))));
    assert_eq!(hasty.deliver(&staged(3)).await, Ok(Some(marker(3))));
    // The first part of a delivery is not all of it.
    let mut half = staged(4);
    half.marker.last = false;
    assert_eq!(hasty.deliver(&half).await, Ok(Some(marker(3))));
    assert_eq!(ids(&store).await, (3..12).collect::<Vec<i64>>());
}

async fn another_writers_marker_is_not_taken_for_ones_own(kind: Kind) {
    let store = ScriptedStore::of(kind);
    table(&store).claim().await.expect("a claim");
    run(&mut sink(&store)).await.expect("deliveries");
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    let mut other = ArchiveSink::new(Arc::new(ArchiveTable::of(Parts {
        writer: "elsewhere/1".into(),
        ..parts(&store, layout, None)
    })));
    assert_eq!(other.take_over().await, Ok(None));
    other.deliver(&staged(9)).await.expect("rows");
    assert_eq!(other.commit(Due::Now).await, Ok(Some(marker(9))));
    let mut back = sink(&store);
    assert_eq!(back.take_over().await, Ok(Some(marker(DELIVERIES))));
    // What it is told is behind that, it adds, whatever the folder holds: the engine decides what is missing.
    assert_eq!(back.deliver(&staged(1)).await, Ok(None));
    assert_eq!(back.commit(Due::Now).await, Ok(Some(marker(1))));
}

async fn who_is_fenced_takes_over_only_when_asked_again(kind: Kind) {
    /// How the first one finds out: when it commits, by a commit of VACUUM, or when it begins again after a failure.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Finds {
        Commit,
        Beside,
        Anew,
    }
    for finds in [Finds::Commit, Finds::Beside, Finds::Anew] {
        let store = ScriptedStore::of(kind);
        let layout = Layout::new(&columns(), &[1]).expect("a layout");
        let fed = |store: &ScriptedStore| {
            let parts = parts(store, layout.clone(), None);
            Arc::new(ArchiveTable::of(Parts { fed: true, ..parts }))
        };
        let (first, second) = (fed(&store), fed(&store.shared()));
        first.claim().await.expect("a claim");
        let mut ours = ArchiveSink::new(Arc::clone(&first));
        ours.take_over().await.expect("a take-over");
        for number in [1, 2] {
            ours.deliver(&staged(number)).await.expect("rows");
            ours.commit(Due::Now).await.expect("a commit");
        }
        let mut theirs = ArchiveSink::new(Arc::clone(&second));
        assert_eq!(theirs.take_over().await, Ok(Some(marker(2))));
        let failed = match finds {
            Finds::Commit => {
                ours.deliver(&staged(3)).await.expect("rows");
                ours.commit(Due::Now).await.map(drop)
            }
            Finds::Beside => {
                let vacuumed = first.vacuum().await.map_err(|error| error.sqlstate());
                assert_eq!(vacuumed, Err("55000"));
                ours.deliver(&staged(3)).await.expect("rows");
                ours.commit(Due::Now).await.map(drop)
            }
            Finds::Anew => {
                ours = ArchiveSink::new(Arc::clone(&first));
                ours.take_over().await.map(drop)
            }
        };
        let failed = failed.expect_err("another one writes");
        assert!(failed.shuts_out(), "{finds:?}: {failed}");
        assert_eq!(theirs.deliver(&staged(3)).await, Ok(None));
        assert_eq!(theirs.commit(Due::Now).await, Ok(Some(marker(3))));
        check(&store, &format!("{finds:?}")).await;
        // Its owner wants it back.
        let mut ours = ArchiveSink::new(first);
        assert_eq!(ours.take_over().await, Ok(Some(marker(3))), "{finds:?}");
        theirs.deliver(&staged(4)).await.expect("rows");
        let failed = theirs.commit(Due::Now).await.expect_err("it is fenced");
        assert!(failed.shuts_out(), "{finds:?}: {failed}");
    }
}

async fn a_row_that_no_folder_can_hold_is_left_out_and_told(kind: Kind) {
    let store = ScriptedStore::of(kind);
    let columns = [
        Column::data("n", 1, SqlType::Int8),
        Column::data("part", 2, SqlType::Text),
    ];
    let layout = Layout::new(&columns, &[1]).expect("a layout");
    let archive = Arc::new(ArchiveTable::of(parts(&store, layout.clone(), None)));
    archive.claim().await.expect("a claim");
    let long = "x".repeat(300);
    let batch = |rows: &[(i64, &str)]| {
        let numbers = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
        let texts = StringViewArray::from_iter_values(rows.iter().map(|row| row.1));
        let arrays: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(texts)];
        RecordBatch::try_new(layout.schema(), arrays).expect("a batch")
    };
    let mut sink = ArchiveSink::new(Arc::clone(&archive));
    sink.take_over().await.expect("a take-over");
    let delivery = Staged {
        changes: vec![
            Delta::insert(batch(&[(1, "a"), (2, &long), (3, "a"), (4, &long)])),
            Delta::insert(batch(&[(5, &long)])),
            Delta::insert(batch(&[(6, "b")])),
        ],
        ..staged(1)
    };
    sink.deliver(&delivery).await.expect("the others");
    assert_eq!(sink.commit(Due::Now).await, Ok(Some(marker(1))));
    let snapshot = archive.snapshot().await.expect("a snapshot");
    assert_eq!(
        snapshot.files().iter().map(|file| file.rows).sum::<u64>(),
        3
    );
    assert_eq!(ids_at(&archive, &snapshot).await, [1, 3, 6]);
    let refused = sink.take_refused();
    assert_eq!((refused.len(), sink.take_refused().len()), (3, 0));
    for error in refused {
        let report = error.report();
        let detail = report.detail.expect("a limit");
        assert_eq!(report.sqlstate, "22001");
        assert!(report.message.contains("\"part\""), "{}", report.message);
        assert!(detail.contains("305 bytes, and 240"), "{detail}");
    }
    // A statement is refused as a whole.
    let archive = ArchiveTable::of(parts(&store.shared(), layout.clone(), None));
    let rows = [batch(&[(7, "c")]), batch(&[(8, "c"), (9, &long)])];
    let refused = archive.insert(&rows, 9).await.expect_err("too long");
    assert_eq!(refused.sqlstate(), "22001");
    let snapshot = archive.snapshot().await.expect("a snapshot");
    assert_eq!(ids_at(&archive, &snapshot).await, [1, 3, 6]);
}

/// Rows of many partitions in turn, as a key with many values gives them.
#[tokio::test]
async fn hundreds_of_partitions_make_a_file_each_and_few_are_open() {
    let store = ScriptedStore::default();
    let layout = Layout::new(&columns(), &[0]).expect("a layout");
    let archive = Arc::new(ArchiveTable::of(Parts {
        fed: true,
        ..parts(&store, layout, None)
    }));
    archive.claim().await.expect("a claim");
    let mut sink = ArchiveSink::new(Arc::clone(&archive));
    sink.take_over().await.expect("a take-over");
    let ids: Vec<i64> = (0..300).collect();
    let delivery = |number| Staged {
        changes: (0..3).map(|_| Delta::insert(rows(&ids))).collect(),
        ..staged(number)
    };
    assert_eq!(sink.deliver(&delivery(1)).await, Ok(None));
    assert_eq!(sink.commit(Due::Now).await, Ok(Some(marker(1))));
    let snapshot = archive.snapshot().await.expect("a snapshot");
    assert_eq!(snapshot.files().len(), 300);
    // Files that wait make a commit due before there are too many.
    assert_eq!(sink.deliver(&delivery(2)).await, Ok(Some(marker(1))));
    assert_eq!(sink.deliver(&delivery(3)).await, Ok(Some(marker(3))));
    let snapshot = archive.snapshot().await.expect("a snapshot");
    assert!((600..900).contains(&snapshot.files().len()));
    let done = archive.vacuum().await.expect("a vacuum");
    assert_eq!(done.written, 300);
    let snapshot = archive.snapshot().await.expect("a snapshot");
    assert_eq!(snapshot.files().len(), 300);
    let held: u64 = snapshot.files().iter().map(|file| file.rows).sum();
    assert_eq!(held, 300 * 9);
    assert!(store.open_most() <= 100, "{} at once", store.open_most());
}
