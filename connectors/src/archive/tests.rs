//! An archive under failures of its store at every operation, beside other writers, and with damaged content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Date32Array, Float64Array, Int64Array, StringViewArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::FutureExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use thalweg_catalog::{Column, SqlType};

use super::error::ArchiveError;
use super::layout::Layout;
use super::manifest::{MANIFESTS, STAGING, manifest_path};
use super::table::{ArchiveTable, Parts};
use crate::context::ManualClock;
use crate::options::Options;
use crate::store::scripted::{Fault, Kind, ScriptedStore};

/// Runs tests over files that are renamed, and over objects.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod on_files {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::store::scripted::Kind::Files).await;
            })*
        }
        mod on_objects {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::store::scripted::Kind::Objects).await;
            })*
        }
    };
}
pub(super) use on_every_store;

pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::data("id", 1, SqlType::Int8),
        Column::data("dt", 2, SqlType::Date),
        Column::data("name", 3, SqlType::Text),
        Column::data("x", 4, SqlType::Float8),
    ]
}

/// An archive in this store that commits what is delivered only when it is told to.
pub(super) fn parts(store: &ScriptedStore, layout: Layout, sort_by: Option<&str>) -> Parts {
    let options = BTreeMap::from([("row.group.rows".to_owned(), "3".to_owned())]);
    let encoding = super::encode::Encoding::new(layout.file_schema(), Options(&options), sort_by);
    Parts {
        store: store.store(),
        layout,
        encoding: encoding.expect("an encoding"),
        file_bytes: 1 << 20,
        rollover: Duration::MAX,
        fed: false,
        feed: None,
        target_bytes: 1 << 20,
        reader_grace: Duration::from_secs(60),
        close_grace: Duration::from_secs(900),
        retention: None,
        writer: "here/1".into(),
        attach: false,
        writer_memory: Arc::default(),
        clock: Arc::new(ManualClock::new(1_000_000)),
    }
}

fn table_with(store: &ScriptedStore, sort_by: Option<&str>, attach: bool) -> ArchiveTable {
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    ArchiveTable::of(Parts {
        attach,
        ..parts(store, layout, sort_by)
    })
}

pub(super) fn table(store: &ScriptedStore) -> ArchiveTable {
    table_with(store, None, false)
}

/// Rows with these ids, over two partitions and NULL.
pub(super) fn rows(ids: &[i64]) -> RecordBatch {
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    let day = |id: &i64| (id % 3 != 2).then_some(20_000 + (id % 3) as i32);
    let name = |id: &i64| (id % 4 != 0).then(|| format!("n{id}"));
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        Arc::new(Date32Array::from_iter(ids.iter().map(day))),
        Arc::new(StringViewArray::from_iter(ids.iter().map(name))),
        Arc::new(Float64Array::from_iter_values(
            ids.iter().map(|id| *id as f64),
        )),
    ];
    RecordBatch::try_new(layout.schema(), arrays).expect("a batch")
}

/// Ids in the files that the manifests name, in order, read apart from all code under test but the manifests.
pub(super) async fn ids(store: &ScriptedStore) -> Vec<i64> {
    let snapshot = table(&store.shared()).snapshot().await.expect("a snapshot");
    let content = store.content();
    let mut ids = Vec::new();
    let mut paths = BTreeSet::new();
    for file in snapshot.files() {
        assert!(
            paths.insert(file.path.clone()),
            "{} is named twice",
            file.path
        );
        let bytes = content
            .get(&file.path)
            .expect("a file that a manifest names");
        assert_eq!(bytes.len() as u64, file.bytes, "{}", file.path);
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes.clone()))
            .expect("a Parquet file")
            .build()
            .expect("a reader");
        let mut count = 0;
        for batch in reader {
            let batch = batch.expect("rows");
            assert_eq!(
                batch.num_columns(),
                3,
                "the partition column is no part of a file"
            );
            count += batch.num_rows() as u64;
            let values = batch.column(0).as_primitive::<Int64Type>().clone();
            for id in values.values() {
                let expected = match id % 3 {
                    2 => "dt=__HIVE_DEFAULT_PARTITION__/",
                    1 => "dt=2024-10-05/",
                    _ => "dt=2024-10-04/",
                };
                assert!(file.path.starts_with(expected), "{id} in {}", file.path);
            }
            ids.extend(values.values());
        }
        assert_eq!(count, file.rows, "{}", file.path);
    }
    ids.sort_unstable();
    ids
}

/// Files that are neither staged nor named by a manifest.
pub(super) async fn orphans(store: &ScriptedStore) -> Vec<String> {
    let snapshot = table(&store.shared()).snapshot().await.expect("a snapshot");
    let live: BTreeSet<&str> = snapshot
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    store
        .content()
        .into_keys()
        .filter(|path| !path.starts_with(MANIFESTS) && !path.starts_with(STAGING))
        .filter(|path| !live.contains(path.as_str()))
        .collect()
}

on_every_store! {
    rows_come_back_with_what_is_known_of_them,
    no_failure_of_the_store_loses_or_doubles_a_row,
    a_take_over_that_fails_leaves_everything_to_the_next,
    a_writer_that_slept_through_a_take_over_commits_nothing,
    a_folder_with_rows_is_taken_only_on_demand,
    damage_is_an_error_that_names_the_file,
}

async fn rows_come_back_with_what_is_known_of_them(kind: Kind) {
    let store = ScriptedStore::of(kind);
    let archive = table_with(&store, Some("name desc, id"), false);
    archive.claim().await.expect("a claim");
    assert_eq!(ids(&store).await, Vec::<i64>::new());
    archive
        .insert(&[rows(&[1, 2, 3]), rows(&[4, 7, 10, 13])], 5)
        .await
        .expect("rows");
    archive.insert(&[rows(&[6])], 9).await.expect("rows");
    assert_eq!(ids(&store).await, [1, 2, 3, 4, 6, 7, 10, 13]);
    let snapshot = archive.snapshot().await.expect("a snapshot");
    assert_eq!(snapshot.head().number, 3);
    let of = |partition: Option<&str>, epoch: u64| {
        let found = snapshot.files().iter().find(|file| {
            file.partition == [partition.map(str::to_owned)] && file.first_epoch == epoch
        });
        Arc::clone(found.expect("a file"))
    };
    let file = of(Some("2024-10-05"), 5);
    assert_eq!((file.rows, file.last_epoch), (5, 5));
    let id = file.columns.get("id").expect("a range");
    assert_eq!(
        (id.min.as_deref(), id.max.as_deref(), id.nulls),
        (Some("1"), Some("13"), Some(0))
    );
    let name = file.columns.get("name").expect("a range");
    assert_eq!(
        (name.min.as_deref(), name.max.as_deref(), name.nulls),
        (Some("n1"), Some("n7"), Some(1))
    );
    // Parquet's order of floating point leaves NaN out, so nothing is told.
    assert!(!file.columns.contains_key("x"));
    // Row groups of three rows, each sorted.
    let bytes = store.content().remove(&file.path).expect("a file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).expect("a file");
    let groups = reader.metadata().row_groups().to_vec();
    assert_eq!(
        groups
            .iter()
            .map(|group| group.num_rows())
            .collect::<Vec<_>>(),
        [3, 2]
    );
    assert_eq!(groups[0].sorting_columns().map(Vec::len), Some(2));
    assert!(of(None, 5).path.contains("__HIVE_DEFAULT_PARTITION__"));
    assert_eq!(of(Some("2024-10-04"), 9).rows, 1);
    assert!(orphans(&store).await.is_empty());
}

async fn no_failure_of_the_store_loses_or_doubles_a_row(kind: Kind) {
    for fault in kind.faults() {
        for operation in 0.. {
            let store = ScriptedStore::of(kind);
            let archive = table(&store);
            archive.claim().await.expect("a claim");
            archive.insert(&[rows(&[1, 2, 3])], 1).await.expect("rows");
            store.fail_at(operation, fault);
            let first = archive.insert(&[rows(&[4, 5, 6])], 2).await;
            if store.is_waiting() {
                break;
            }
            let at = format!("{fault:?} at operation {operation}: {first:?}");
            let down = matches!(fault, Fault::DownBefore | Fault::DownAfter);
            let later = match down {
                true => table(&store.restarted()),
                false => archive,
            };
            later.insert(&[rows(&[7, 8])], 3).await.expect(&at);
            let all = ids(&store).await;
            let with = [1, 2, 3, 4, 5, 6, 7, 8];
            let without = [1, 2, 3, 7, 8];
            match first {
                Ok(()) => assert_eq!(all, with, "{at}"),
                Err(ArchiveError::Unknown { .. }) => {
                    assert!(all == with || all == without, "{at}: {all:?}");
                }
                Err(_) => assert_eq!(all, without, "{at}"),
            }
            let late = matches!(fault, Fault::Late(_));
            assert!(late || orphans(&store).await.is_empty(), "{at}");
            assert!(operation < 200, "the insert never ends");
        }
    }
}

async fn a_take_over_that_fails_leaves_everything_to_the_next(kind: Kind) {
    for fault in kind.faults() {
        for operation in 0.. {
            let store = ScriptedStore::of(kind);
            let archive = table(&store);
            archive.claim().await.expect("a claim");
            archive.insert(&[rows(&[1, 2, 3])], 1).await.expect("rows");
            let second = store.shared();
            let other = table(&second);
            second.fail_at(operation, fault);
            let taken = other.insert(&[rows(&[4, 5])], 2).await;
            if second.is_waiting() {
                break;
            }
            let third = table(&second.restarted());
            third.insert(&[rows(&[7, 8])], 3).await.expect("rows");
            let all = ids(&store).await;
            let at = format!("{fault:?} at operation {operation}: {taken:?}");
            let (with, without) = ([1, 2, 3, 4, 5, 7, 8], [1, 2, 3, 7, 8]);
            match taken {
                Ok(()) => assert_eq!(all, with, "{at}"),
                Err(ArchiveError::Unknown { .. }) => assert!(all == with || all == without, "{at}"),
                Err(_) => assert_eq!(all, without, "{at}"),
            }
            // The first writer finds out, and stays out.
            for _ in 0..2 {
                let error = archive.insert(&[rows(&[9])], 4).await.expect_err(&at);
                assert!(
                    matches!(error, ArchiveError::Fenced { .. }),
                    "{at}: {error:?}"
                );
            }
            assert_eq!(ids(&store).await, all, "{at}");
        }
    }
}

async fn a_writer_that_slept_through_a_take_over_commits_nothing(kind: Kind) {
    for operation in 0.. {
        let store = ScriptedStore::of(kind);
        let sleeper = table(&store);
        sleeper.claim().await.expect("a claim");
        sleeper.insert(&[rows(&[1])], 1).await.expect("rows");
        let other = table(&store.shared());
        let (done, finished) = tokio::sync::oneshot::channel();
        store.pause_at(operation, move || {
            // What sleeps may be given up before the other is done.
            let insert = async move { done.send(other.insert(&[rows(&[7])], 2).await) };
            let insert = tokio::spawn(insert);
            async move { drop(insert.await) }.boxed()
        });
        let slept = sleeper.insert(&[rows(&[4])], 3).await;
        if store.is_waiting() {
            break;
        }
        finished.await.expect("an end").expect("rows of the other");
        let at = format!("asleep at operation {operation}: {slept:?}");
        let expected: &[i64] = match slept {
            Ok(()) => &[1, 4, 7],
            Err(ArchiveError::Unknown { .. }) => panic!("{at}"),
            Err(_) => &[1, 7],
        };
        assert_eq!(ids(&store).await, expected, "{at}");
        let again = sleeper.insert(&[rows(&[10])], 4).await;
        assert!(
            matches!(again, Err(ArchiveError::Fenced { .. })),
            "{at}: {again:?}"
        );
        assert_eq!(ids(&store).await, expected, "{at}");
    }
}

async fn a_folder_with_rows_is_taken_only_on_demand(kind: Kind) {
    let store = ScriptedStore::of(kind);
    table(&store).claim().await.expect("a claim");
    // Nothing was written yet, so nothing is in danger.
    let archive = table(&store);
    archive.claim().await.expect("a claim of an empty archive");
    archive.insert(&[rows(&[1])], 1).await.expect("rows");
    let error = table(&store).claim().await.expect_err("occupied");
    assert_eq!(error.sqlstate(), "42710");
    table_with(&store, None, true)
        .claim()
        .await
        .expect("attached");
    assert_eq!(ids(&store).await, [1]);
}

async fn damage_is_an_error_that_names_the_file(kind: Kind) {
    let store = ScriptedStore::of(kind);
    let archive = table(&store);
    archive.claim().await.expect("a claim");
    for id in 0..4 {
        archive.insert(&[rows(&[id])], 1).await.expect("rows");
    }
    let path = manifest_path(3);
    let whole = store.content().remove(&path);
    for (content, expected) in [
        (
            None,
            "manifest 3 of archive \"scripted\" is missing".to_owned(),
        ),
        (
            Some(b"{".to_vec()),
            format!("file \"{path}\" of an archive is damaged"),
        ),
    ] {
        store.damage(&path, content);
        let error = table(&store).snapshot().await.expect_err("damage");
        assert_eq!((error.to_string(), error.sqlstate()), (expected, "XX001"));
        let error = table(&store)
            .insert(&[rows(&[9])], 1)
            .await
            .expect_err("damage");
        assert_eq!(error.sqlstate(), "XX001");
    }
    store.damage(&path, whole);
    assert_eq!(ids(&store).await, [0, 1, 2, 3]);
}
