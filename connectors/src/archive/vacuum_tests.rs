//! VACUUM of an archive under failures of its store at every operation: no row is lost or doubled, for readers of manifests and for
//! those who list folders.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::layout::Layout;
use super::manifest::{MANIFESTS, REPLACED, STAGING};
use super::sink::ArchiveSink;
use super::snapshot::Snapshot;
use super::table::{ArchiveTable, Parts};
use super::tests::{columns, on_every_store, orphans, parts, rows};
use super::vacuum::{Vacuumed, exchange};
use crate::commit::{CommittingSink, Due, Staged};
use crate::context::ManualClock;
use crate::store::scripted::{Fault, Kind, ScriptedStore};

fn table_at(store: &ScriptedStore, fed: bool, clock: Arc<ManualClock>) -> ArchiveTable {
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    ArchiveTable::of(Parts {
        fed,
        clock,
        ..parts(store, layout, None)
    })
}

fn table(store: &ScriptedStore) -> ArchiveTable {
    table_at(store, false, Arc::new(ManualClock::new(1_000_000)))
}

pub(super) fn ids_in(bytes: Vec<u8>) -> Vec<i64> {
    use arrow::array::AsArray;
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).expect("a file");
    let mut ids = Vec::new();
    for batch in reader.build().expect("a reader") {
        let batch = batch.expect("rows");
        let column = batch
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>();
        ids.extend(column.values());
    }
    ids
}

/// Ids that a reader finds who has this snapshot.
pub(super) async fn ids_at(table: &ArchiveTable, snapshot: &Snapshot) -> Vec<i64> {
    let mut ids = Vec::new();
    for file in snapshot.files() {
        let bytes = table.read(file, 0..file.bytes).await.expect("a file");
        ids.extend(ids_in(bytes.to_vec()));
    }
    ids.sort_unstable();
    ids
}

/// Ids that who lists folders finds.
pub(super) fn listed(store: &ScriptedStore) -> Vec<i64> {
    let hidden = |path: &str| {
        [MANIFESTS, STAGING, REPLACED]
            .iter()
            .any(|at| path.starts_with(at))
    };
    let content = store.content().into_iter();
    let mut ids: Vec<i64> = content
        .filter(|(path, _)| !hidden(path))
        .flat_map(|(_, bytes)| ids_in(bytes))
        .collect();
    ids.sort_unstable();
    ids
}

/// Four commits with rows 1 to 12, into a new archive.
pub(super) async fn fill(archive: &ArchiveTable) {
    archive.claim().await.expect("a claim");
    for epoch in 0..4_i64 {
        let ids = [epoch * 3 + 1, epoch * 3 + 2, epoch * 3 + 3];
        let inserted = archive.insert(&[rows(&ids)], epoch as u64 + 1).await;
        inserted.expect("rows");
    }
}

async fn filled(store: &ScriptedStore) -> ArchiveTable {
    let archive = table(store);
    fill(&archive).await;
    archive
}

fn all() -> Vec<i64> {
    (1..=12).collect()
}

on_every_store! {
    small_files_become_one_in_each_partition,
    no_failure_of_the_store_loses_or_doubles_a_row,
    a_vacuum_beside_a_sink_keeps_what_both_commit,
}

#[tokio::test]
async fn files_are_moved_aside_at_the_same_time() {
    let store = ScriptedStore::default();
    let gone: Vec<String> = (0..8).map(|at| format!("a/part-{at}.parquet")).collect();
    for path in &gone {
        store.damage(path, Some(b"rows".to_vec()));
    }
    let aside = |store: &ScriptedStore| {
        let content = store.content().into_keys();
        content.filter(|path| path.starts_with(REPLACED)).count()
    };
    let others = store.clone();
    store.pause_at(0, move || {
        // The first one is slow, and none of the others waits for it.
        let until = async move {
            while aside(&others) < 7 {
                tokio::task::yield_now().await;
            }
        };
        until.boxed()
    });
    let moved = exchange(&store, 1, &gone, &[]);
    let moved = tokio::time::timeout(Duration::from_secs(20), moved).await;
    moved.expect("no file waits").expect("an exchange");
    assert_eq!(aside(&store), 8);
}

async fn small_files_become_one_in_each_partition(kind: Kind) {
    let store = ScriptedStore::of(kind);
    let clock = Arc::new(ManualClock::new(1_000_000));
    drop(filled(&store).await);
    let archive = table_at(&store, false, clock.clone());
    let before = archive.snapshot().await.expect("a snapshot");
    assert_eq!(before.files().len(), 12);
    let done = archive.vacuum().await.expect("a vacuum");
    assert_eq!(
        done,
        Vacuumed {
            replaced: 12,
            written: 3
        }
    );
    let after = archive.snapshot().await.expect("a snapshot");
    assert_eq!(after.files().len(), 3);
    for file in after.files() {
        assert_eq!((file.first_epoch, file.last_epoch, file.rows), (1, 4, 4));
    }
    // Who reads an older commit finds its files.
    for snapshot in [&before, &after] {
        assert_eq!(ids_at(&archive, snapshot).await, all());
    }
    assert_eq!(listed(&store), all());
    // What is large stays as it is, and rows are added as before.
    assert_eq!(archive.vacuum().await, Ok(Vacuumed::default()));
    archive.insert(&[rows(&[13])], 9).await.expect("rows");
    let replaced = |store: &ScriptedStore| {
        let content = store.content();
        content
            .keys()
            .filter(|path| path.starts_with(REPLACED))
            .count()
    };
    assert_eq!(replaced(&store), 12);
    clock.advance(Duration::from_secs(61));
    archive.vacuum().await.expect("a vacuum");
    // The file of row 13 and the large one of its partition are new to that folder.
    assert_eq!(replaced(&store), 2);
    assert_eq!(listed(&store), (1..=13).collect::<Vec<i64>>());
}

async fn no_failure_of_the_store_loses_or_doubles_a_row(kind: Kind) {
    for fault in Fault::ALL {
        for operation in 0.. {
            let store = ScriptedStore::of(kind);
            let archive = filled(&store).await;
            store.fail_at(operation, fault);
            let done = archive.vacuum().await;
            if store.is_waiting() {
                break;
            }
            let at = format!("{fault:?} at operation {operation}: {done:?}");
            let down = matches!(fault, Fault::DownBefore | Fault::DownAfter);
            let reader = store.shared();
            let reader = table(&reader);
            let snapshot = reader.snapshot().await.expect(&at);
            assert_eq!(ids_at(&reader, &snapshot).await, all(), "{at}");
            let foreign = listed(&store);
            let mut once = foreign.clone();
            once.dedup();
            assert_eq!(foreign, once, "{at}");
            let later = match down {
                true => table(&store.restarted()),
                false => archive,
            };
            later.insert(&[rows(&[13])], 9).await.expect(&at);
            let snapshot = later.snapshot().await.expect(&at);
            let expected: Vec<i64> = (1..=13).collect();
            assert_eq!(ids_at(&later, &snapshot).await, expected, "{at}");
            assert_eq!(listed(&store), expected, "{at}");
            let orphans = orphans(&store).await.into_iter();
            let orphans: Vec<_> = orphans.filter(|path| !path.starts_with(REPLACED)).collect();
            assert_eq!(orphans, Vec::<String>::new(), "{at}");
            assert!(operation < 500, "the vacuum never ends");
        }
    }
}

async fn a_vacuum_beside_a_sink_keeps_what_both_commit(kind: Kind) {
    let clock = || Arc::new(ManualClock::new(1_000_000));
    for operation in 0.. {
        let store = ScriptedStore::of(kind);
        drop(filled(&store).await);
        let archive = Arc::new(table_at(&store, true, clock()));
        assert_eq!(
            archive.vacuum().await.map_err(|error| error.sqlstate()),
            Err("55000")
        );
        let mut sink = ArchiveSink::new(Arc::clone(&archive));
        sink.take_over().await.expect("a take-over");
        let staged = Staged {
            marker: crate::commit::Marker {
                epoch: 9,
                part: 0,
                last: true,
            },
            stamp_ms: 1,
            changes: vec![crate::delta::Delta::insert(rows(&[13, 14]))],
            frontier: Default::default(),
        };
        sink.deliver(&staged).await.expect("rows");
        let (done, mut committed) = tokio::sync::mpsc::channel(1);
        store.pause_at(operation, move || {
            let commit = async move { done.send(sink.commit(Due::Now).await).await };
            let commit = tokio::spawn(commit);
            // What is asleep may hold what the commit waits for.
            async move { drop(tokio::time::timeout(Duration::from_millis(20), commit).await) }
                .boxed()
        });
        let done = archive.vacuum().await;
        if store.is_waiting() {
            break;
        }
        let at = format!("beside operation {operation}: {done:?}");
        let expected: Vec<i64> = (1..=14).collect();
        let committed = committed.recv().await.expect("an end").expect(&at);
        assert_eq!(committed, Some(staged.marker), "{at}");
        let snapshot = archive.snapshot().await.expect(&at);
        assert_eq!(ids_at(&archive, &snapshot).await, expected, "{at}");
        // Files of the sink are among them when they were there by then.
        assert!(done.expect(&at).replaced >= 12, "{at}");
        assert_eq!(listed(&store), expected, "{at}");
    }
}
