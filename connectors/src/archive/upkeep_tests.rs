//! Upkeep of an archive: what closes, what goes and what stays, under failures of the store at every operation, and how many
//! requests it takes to find out what an archive holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::CHECKPOINT_COMMITS;
use super::layout::Layout;
use super::manifest::{MANIFESTS, REPLACED, SUCCESS};
use super::sink::ArchiveSink;
use super::snapshot::Snapshot;
use super::table::{ArchiveTable, Parts};
use super::tests::{columns, on_every_store, orphans, parts, rows};
use super::vacuum_tests::{fill, ids_at, listed};
use crate::commit::{CommittingSink, Due, Marker, Staged};
use crate::context::ManualClock;
use crate::delta::Delta;
use crate::store::scripted::{Fault, Kind, ScriptedStore};

/// 2025-10-09, a year after the days of the rows.
const NOW_US: i64 = 1_760_000_000_000_000;
const GRACE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(NOW_US))
}

fn table_with(
    store: &ScriptedStore,
    clock: &Arc<ManualClock>,
    retention: Option<Duration>,
) -> ArchiveTable {
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    ArchiveTable::of(Parts {
        clock: clock.clone(),
        close_grace: GRACE,
        retention,
        ..parts(store, layout, None)
    })
}

/// An archive with rows 1 to 12, each insert of three rows in files of its own.
async fn filled(
    store: &ScriptedStore,
    clock: &Arc<ManualClock>,
    retention: Option<Duration>,
) -> ArchiveTable {
    let archive = table_with(store, clock, retention);
    fill(&archive).await;
    archive
}

/// The folders that have a marker.
fn marked(store: &ScriptedStore) -> Vec<String> {
    let content = store.content().into_keys();
    let folder = |path: String| Some(path.strip_suffix(SUCCESS)?.trim_end_matches('/').to_owned());
    content.filter_map(folder).collect()
}

async fn held(archive: &ArchiveTable) -> Vec<i64> {
    let snapshot = archive.snapshot().await.expect("a snapshot");
    ids_at(archive, &snapshot).await
}

fn all() -> Vec<i64> {
    (1..=12).collect()
}

/// Ids that who lists folders finds, markers aside.
fn foreign(store: &ScriptedStore) -> Vec<i64> {
    let plain = ScriptedStore::default();
    for (path, bytes) in store.content() {
        if !path.ends_with(SUCCESS) {
            plain.damage(&path, Some(bytes));
        }
    }
    listed(&plain)
}

on_every_store! {
    a_partition_without_new_rows_gets_large_files_and_a_marker,
    rows_older_than_retention_go_and_readers_of_before_find_them,
    no_failure_of_the_store_costs_upkeep_a_row,
    nobody_takes_over_for_upkeep_and_dead_attempts_are_swept,
    rows_of_a_partition_that_gets_no_more_are_committed,
    few_requests_tell_what_an_archive_of_many_commits_holds,
}

async fn a_partition_without_new_rows_gets_large_files_and_a_marker(kind: Kind) {
    let (store, clock) = (ScriptedStore::of(kind), clock());
    let archive = filled(&store, &clock, None).await;
    archive.upkeep().await.expect("upkeep");
    assert_eq!(marked(&store), Vec::<String>::new());
    clock.advance(GRACE);
    archive.upkeep().await.expect("upkeep");
    let folders = [
        "dt=2024-10-04",
        "dt=2024-10-05",
        "dt=__HIVE_DEFAULT_PARTITION__",
    ];
    assert_eq!(marked(&store), folders);
    let snapshot = archive.snapshot().await.expect("a snapshot");
    assert_eq!(snapshot.files().len(), 3);
    assert_eq!((held(&archive).await, foreign(&store)), (all(), all()));
    // A second look finds nothing to do, with a request for the newest commit each time it is needed.
    let before = store.operations();
    archive.upkeep().await.expect("upkeep");
    assert!(store.operations() - before < 10);
    // The marker goes with the first row that comes late, and comes back.
    archive.insert(&[rows(&[15])], 9).await.expect("rows");
    assert_eq!(marked(&store), folders[1..]);
    archive.upkeep().await.expect("upkeep");
    assert_eq!(marked(&store), folders[1..]);
    clock.advance(GRACE);
    archive.upkeep().await.expect("upkeep");
    assert_eq!(marked(&store), folders);
    let expected: Vec<i64> = (1..=12).chain([15]).collect();
    assert_eq!(
        (held(&archive).await, foreign(&store)),
        (expected.clone(), expected)
    );
    // A new process does not know of the markers, and takes them away all the same.
    drop(archive);
    let archive = table_with(&store, &clock, None);
    archive.insert(&[rows(&[18, 19])], 10).await.expect("rows");
    assert_eq!(marked(&store), folders[2..]);
}

async fn rows_older_than_retention_go_and_readers_of_before_find_them(kind: Kind) {
    let (store, clock) = (ScriptedStore::of(kind), clock());
    let archive = filled(&store, &clock, Some(400 * DAY)).await;
    clock.advance(GRACE);
    archive.upkeep().await.expect("upkeep");
    let before = archive.snapshot().await.expect("a snapshot");
    assert_eq!(ids_at(&archive, &before).await, all());
    // The end of 2024-10-04 is 400 days ago, that of the 5th is not.
    clock.set_us(((20_001 + 400) * 86_400) * 1_000_000);
    archive.upkeep().await.expect("upkeep");
    let left: Vec<i64> = all().into_iter().filter(|id| id % 3 != 0).collect();
    assert_eq!(
        (held(&archive).await, foreign(&store)),
        (left.clone(), left)
    );
    assert_eq!(
        marked(&store),
        ["dt=2024-10-05", "dt=__HIVE_DEFAULT_PARTITION__"]
    );
    assert_eq!(ids_at(&archive, &before).await, all());
    clock.advance(Duration::from_secs(61));
    archive.upkeep().await.expect("upkeep");
    assert!(
        !store
            .content()
            .keys()
            .any(|path| path.starts_with(REPLACED))
    );
    // What has no day goes by when it came, a large file by the newest of its rows.
    clock.set_us(NOW_US + 399 * 86_400 * 1_000_000);
    archive.upkeep().await.expect("upkeep");
    assert_eq!(held(&archive).await, [2, 5, 8, 11]);
    clock.advance(DAY);
    archive.upkeep().await.expect("upkeep");
    assert_eq!((held(&archive).await, foreign(&store)), (vec![], vec![]));
    assert_eq!(marked(&store), Vec::<String>::new());
}

async fn no_failure_of_the_store_costs_upkeep_a_row(kind: Kind) {
    for fault in Fault::ALL {
        for operation in 0.. {
            let (store, clock) = (ScriptedStore::of(kind), clock());
            let archive = filled(&store, &clock, Some(2_000 * DAY)).await;
            clock.advance(GRACE);
            store.fail_at(operation, fault);
            let done = archive.upkeep().await;
            if store.is_waiting() {
                break;
            }
            let at = format!("{fault:?} at operation {operation}: {done:?}");
            let reader = table_with(&store.shared(), &clock, None);
            assert_eq!(held(&reader).await, all(), "{at}");
            let found = foreign(&store);
            let once: BTreeSet<i64> = found.iter().copied().collect();
            assert_eq!(found.len(), once.len(), "{at}");
            let later = match fault {
                Fault::DownBefore | Fault::DownAfter => {
                    table_with(&store.restarted(), &clock, Some(2_000 * DAY))
                }
                Fault::Refused | Fault::Ambiguous | Fault::Late(_) => archive,
            };
            // Upkeep waits for who writes, and then does what is left.
            later.insert(&[rows(&[13])], 9).await.expect(&at);
            clock.advance(GRACE);
            later.upkeep().await.expect(&at);
            let expected: Vec<i64> = (1..=13).collect();
            assert_eq!(held(&later).await, expected, "{at}");
            assert_eq!(foreign(&store), expected, "{at}");
            assert_eq!(marked(&store).len(), 3, "{at}");
            let left = orphans(&store).await.into_iter();
            let left: Vec<_> = left
                .filter(|path| !path.starts_with(REPLACED) && !path.ends_with(SUCCESS))
                .collect();
            assert_eq!(left, Vec::<String>::new(), "{at}");
            assert!(operation < 500, "the upkeep never ends");
        }
    }
}

async fn nobody_takes_over_for_upkeep_and_dead_attempts_are_swept(kind: Kind) {
    let (store, clock) = (ScriptedStore::of(kind), clock());
    drop(filled(&store, &clock, None).await);
    let dead = "dt=2024-10-04/part-000001-000000000009-000099.parquet";
    let theirs = "dt=2024-10-04/part-00000-9f3a-c000.snappy.parquet";
    // Those of archives that were put into folders below look like its own.
    let below = [
        "eu/part-000001-000000000009-000099.parquet",
        "eu/dt=2024-10-04/part-000001-000000000009-000099.parquet",
        "dt=2024-10-04/eu=1/part-000001-000000000009-000099.parquet",
    ];
    for path in [dead, theirs].into_iter().chain(below) {
        store.damage(path, Some(b"bytes".to_vec()));
    }
    clock.advance(GRACE);
    let archive = table_with(&store, &clock, Some(DAY));
    let before = store.content();
    archive.upkeep().await.expect("upkeep");
    assert_eq!(store.content(), before);
    archive.insert(&[rows(&[13])], 9).await.expect("rows");
    archive.upkeep().await.expect("upkeep");
    assert!(!store.content().contains_key(dead));
    for path in [theirs].into_iter().chain(below) {
        assert!(store.content().contains_key(path), "{path}");
    }
    // Somebody else writes now: there is nothing to do here.
    let other = table_with(&store.shared(), &clock, None);
    other.insert(&[rows(&[14])], 10).await.expect("rows");
    clock.advance(GRACE);
    let before = store.content();
    archive.upkeep().await.expect("upkeep");
    assert_eq!(store.content(), before);
}

async fn rows_of_a_partition_that_gets_no_more_are_committed(kind: Kind) {
    let (store, clock) = (ScriptedStore::of(kind), clock());
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    let archive = Arc::new(ArchiveTable::of(Parts {
        fed: true,
        clock: clock.clone(),
        close_grace: GRACE,
        ..parts(&store, layout, None)
    }));
    archive.claim().await.expect("a claim");
    let mut sink = ArchiveSink::new(Arc::clone(&archive));
    sink.take_over().await.expect("a take-over");
    let staged = |epoch, ids: &[i64]| Staged {
        marker: Marker {
            epoch,
            part: 0,
            last: true,
        },
        stamp_ms: 1,
        changes: vec![Delta::insert(rows(ids))],
        frontier: Default::default(),
    };
    sink.deliver(&staged(1, &[1, 3])).await.expect("rows");
    clock.advance(GRACE / 2);
    // One of the two partitions goes on, the other one waits for more and is not marked.
    assert_eq!(sink.deliver(&staged(2, &[4])).await, Ok(None));
    clock.advance(GRACE / 2 - Duration::from_millis(1));
    archive.upkeep().await.expect("upkeep");
    assert_eq!(sink.commit(Due::IfRipe).await, Ok(None));
    clock.advance(Duration::from_millis(1));
    let committed = sink.commit(Due::IfRipe).await.expect("a commit");
    assert_eq!(committed.map(|marker| marker.epoch), Some(2));
    assert_eq!(
        (held(&archive).await, marked(&store).len()),
        (vec![1, 3, 4], 0)
    );
    // Rows that wait for their commit keep a partition open.
    clock.advance(GRACE - Duration::from_millis(1));
    sink.deliver(&staged(3, &[6])).await.expect("rows");
    clock.advance(Duration::from_millis(1));
    archive.upkeep().await.expect("upkeep");
    assert_eq!(marked(&store), ["dt=2024-10-05"]);
}

/// What is the same in two snapshots of one archive.
fn facts(snapshot: &Snapshot) -> String {
    let mut files: Vec<_> = snapshot.files().iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let reached = snapshot.reached("here/1");
    format!(
        "{:?} {:?} {reached:?} {files:?}",
        snapshot.head(),
        snapshot.shape()
    )
}

async fn few_requests_tell_what_an_archive_of_many_commits_holds(kind: Kind) {
    let (store, clock) = (ScriptedStore::of(kind), clock());
    let archive = filled(&store, &clock, None).await;
    for id in 13..(13 + CHECKPOINT_COMMITS as i64) {
        archive
            .insert(&[rows(&[id])], id as u64)
            .await
            .expect("rows");
    }
    archive.upkeep().await.expect("upkeep");
    archive
        .insert(&[rows(&[1_000])], 1_000)
        .await
        .expect("rows");
    let newest = archive.snapshot().await.expect("a snapshot");
    let checkpoints = |store: &ScriptedStore| {
        let content = store.content().into_keys();
        let found = content.filter(|path| path.ends_with(".checkpoint.json"));
        found.collect::<Vec<_>>()
    };
    assert_eq!(checkpoints(&store).len(), 1);
    let cold = |store: &ScriptedStore| table_with(store, &clock, None);
    let reader = store.shared();
    let loaded = cold(&reader).snapshot().await.expect("a snapshot");
    assert_eq!(facts(&loaded), facts(&newest));
    // The list, the checkpoint, and the manifest of the commit after it.
    assert_eq!(reader.operations(), 3);
    // A query of one who has looked before asks for the next commit only.
    let reader = store.shared();
    let warm = cold(&reader);
    warm.snapshot().await.expect("a snapshot");
    let before = reader.operations();
    warm.snapshot().await.expect("a snapshot");
    assert_eq!(reader.operations() - before, 1);
    // One that is damaged costs time only.
    for path in checkpoints(&store) {
        let mut bytes = store.content()[&path].clone();
        bytes.truncate(bytes.len() / 2);
        store.damage(&path, Some(bytes));
    }
    let loaded = cold(&store.shared()).snapshot().await.expect("a snapshot");
    assert_eq!(facts(&loaded), facts(&newest));
    // Checkpoints do not pile up, and who takes over goes on from one.
    drop(archive);
    let archive = cold(&store);
    for id in 0..(3 * CHECKPOINT_COMMITS as i64) {
        archive
            .insert(&[rows(&[2_000 + id])], 2_000)
            .await
            .expect("rows");
        archive.upkeep().await.expect("upkeep");
    }
    assert_eq!(checkpoints(&store).len(), 2);
    let newest = archive.snapshot().await.expect("a snapshot");
    let reader = store.shared();
    let loaded = cold(&reader).snapshot().await.expect("a snapshot");
    assert_eq!(facts(&loaded), facts(&newest));
    assert!(reader.operations() as u64 <= 3 + CHECKPOINT_COMMITS);
    let manifests = store.content().into_keys();
    let manifests = manifests.filter(|path| path.starts_with(MANIFESTS));
    assert_eq!(manifests.count() as u64, newest.head().number + 2);
}
