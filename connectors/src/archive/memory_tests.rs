//! Archives that may hold little memory: many partitions, large rows, several writers, sorted files and objects in parts.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use thalweg_catalog::{Column, SqlType};

use super::encode::Encoding;
use super::layout::Layout;
use super::memory::WriterMemory;
use super::sink::ArchiveSink;
use super::sink_tests::{marker, staged};
use super::table::{ArchiveTable, Parts};
use super::tests::parts;
use crate::commit::{CommittingSink, Due, Staged};
use crate::delta::Delta;
use crate::options::Options;
use crate::store::scripted::{Kind, ScriptedStore};

/// Partitions of the rows.
const PARTITIONS: i64 = 50;
/// Bytes of a text.
const TEXT: usize = 400;

fn columns() -> [Column; 3] {
    [
        Column::data("id", 1, SqlType::Int8),
        Column::data("part", 2, SqlType::Int8),
        Column::data("text", 3, SqlType::Text),
    ]
}

/// Rows with these ids and texts that cannot be compressed to nothing, in turn of all partitions.
fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    let text = |id: i64| -> String {
        let mut state = id as u64 + 1;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(b'!' + ((state >> 33) % 90) as u8)
        };
        (0..TEXT).map(|_| next()).collect()
    };
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(Int64Array::from_iter_values(
            ids.clone().map(|id| id % PARTITIONS),
        )),
        Arc::new(StringViewArray::from_iter_values(ids.map(text))),
    ];
    RecordBatch::try_new(layout.schema(), arrays).expect("a batch")
}

fn archive(
    store: &ScriptedStore,
    memory: &Arc<WriterMemory>,
    sort_by: Option<&str>,
) -> Arc<ArchiveTable> {
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    let none = Default::default();
    let encoding = Encoding::new(layout.file_schema(), Options(&none), sort_by);
    Arc::new(ArchiveTable::of(Parts {
        fed: true,
        encoding: encoding.expect("an encoding"),
        writer_memory: Arc::clone(memory),
        file_bytes: 1 << 30,
        ..parts(store, layout, None)
    }))
}

async fn open(archive: &Arc<ArchiveTable>) -> ArchiveSink {
    archive.claim().await.expect("a claim");
    let mut sink = ArchiveSink::new(Arc::clone(archive));
    sink.take_over().await.expect("a take-over");
    sink
}

fn delivery(number: u64, ids: std::ops::Range<i64>) -> Staged {
    Staged {
        changes: vec![Delta::insert(rows(ids))],
        ..staged(number)
    }
}

/// The ids in the files of an archive, in order, and the most row groups of a file.
async fn found(store: &ScriptedStore, archive: &ArchiveTable) -> (Vec<i64>, usize) {
    let snapshot = archive.snapshot().await.expect("a snapshot");
    let content = store.content();
    let (mut ids, mut groups) = (Vec::new(), 0);
    for file in snapshot.files() {
        let bytes = Bytes::from(content[&file.path].clone());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("a file");
        groups = groups.max(reader.metadata().num_row_groups());
        for batch in reader.build().expect("a reader") {
            let batch = batch.expect("rows");
            ids.extend(batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    ids.sort_unstable();
    (ids, groups)
}

async fn many_partitions_stay_within_their_memory(kind: Kind, sort_by: Option<&str>) {
    let (batches, rows_of_one) = (20_u64, 1_000_i64);
    let limit = 1_000_000;
    let mut most = Vec::new();
    for limit in [usize::MAX, limit] {
        let store = ScriptedStore::of(kind);
        let memory = Arc::new(WriterMemory::new(limit));
        let archive = archive(&store, &memory, sort_by);
        let mut sink = open(&archive).await;
        let mut held = 0;
        for number in 1..=batches {
            let first = (number as i64 - 1) * rows_of_one;
            let delivered = sink
                .deliver(&delivery(number, first..first + rows_of_one))
                .await;
            assert_eq!(delivered, Ok(None));
            assert_eq!(memory.used(), archive.held_bytes(), "what passed is gone");
            held = held.max(memory.used());
        }
        most.push(held);
        assert_eq!(sink.commit(Due::Now).await, Ok(Some(marker(batches))));
        assert_eq!((memory.used(), archive.held_bytes()), (0, 0));
        let (ids, groups) = found(&store, &archive).await;
        let all: Vec<i64> = (0..batches as i64 * rows_of_one).collect();
        assert!(ids == all, "{} rows of {}", ids.len(), all.len());
        let files = archive.snapshot().await.expect("a snapshot").files().len();
        if kind == Kind::Files {
            // Row groups end, files do not.
            assert_eq!(files, PARTITIONS as usize);
            assert_eq!(groups > 1, limit != usize::MAX, "{groups} row groups");
        }
    }
    assert!(most[0] > 3 * limit, "{most:?}: there is something to save");
    assert!(most[1] <= limit, "{most:?}");
}

#[tokio::test]
async fn many_partitions_of_files_stay_within_their_memory() {
    many_partitions_stay_within_their_memory(Kind::Files, None).await;
}

#[tokio::test]
async fn many_partitions_of_sorted_files_stay_within_their_memory() {
    many_partitions_stay_within_their_memory(Kind::Files, Some("id desc")).await;
}

/// What waits to be a part of an object is held too.
#[tokio::test]
async fn many_partitions_of_objects_stay_within_their_memory() {
    many_partitions_stay_within_their_memory(Kind::Objects, None).await;
}

#[tokio::test]
async fn archives_share_what_there_is_and_one_that_gets_no_rows_gives_way() {
    let limit = 1_000_000;
    let memory = Arc::new(WriterMemory::new(limit));
    let stores = [ScriptedStore::default(), ScriptedStore::default()];
    let [idle, busy] = stores.each_ref().map(|store| archive(store, &memory, None));
    let mut idle_sink = open(&idle).await;
    let delivered = idle_sink.deliver(&delivery(1, 0..1_800)).await;
    assert_eq!(delivered, Ok(None));
    let alone = idle.held_bytes();
    assert!(alone > limit / 2 && alone <= limit, "{alone}: alone it may");
    let mut busy_sink = open(&busy).await;
    for number in 1..=5 {
        let first = (number as i64 - 1) * 1_000;
        let next = delivery(number, first..first + 1_000);
        assert_eq!(busy_sink.deliver(&next).await, Ok(None));
        // As the engine asks every second.
        assert_eq!(idle_sink.commit(Due::IfRipe).await, Ok(None));
        assert!(memory.used() <= limit, "{}", memory.used());
    }
    let shared = [idle.held_bytes(), busy.held_bytes()];
    assert!(
        shared[0] < alone && shared[1] > limit / 4,
        "{shared:?} of {alone}"
    );
    for (sink, number) in [(&mut idle_sink, 1), (&mut busy_sink, 5)] {
        assert_eq!(sink.commit(Due::Now).await, Ok(Some(marker(number))));
    }
    for ((store, archive), rows) in stores.iter().zip([&idle, &busy]).zip([1_800, 5_000]) {
        assert!(found(store, archive).await.0 == (0..rows).collect::<Vec<i64>>());
    }
    // A writer that is gone holds nothing.
    let delivered = busy_sink.deliver(&delivery(6, 5_000..6_000)).await;
    assert_eq!(delivered, Ok(Some(marker(5))));
    assert!(busy.held_bytes() > 0);
    drop(busy_sink);
    assert_eq!((busy.held_bytes(), memory.used()), (0, 0));
}

#[tokio::test]
async fn a_vacuum_keeps_one_file_of_each_partition_in_little_memory() {
    let memory = Arc::new(WriterMemory::new(100_000));
    let store = ScriptedStore::default();
    let archive = archive(&store, &memory, None);
    let mut sink = open(&archive).await;
    for number in 1..=4 {
        let first = (number as i64 - 1) * 500;
        let delivered = sink.deliver(&delivery(number, first..first + 500)).await;
        delivered.expect("rows");
        sink.commit(Due::Now).await.expect("a commit");
    }
    let done = archive.vacuum().await.expect("a vacuum");
    assert_eq!(done.written, PARTITIONS as usize);
    let snapshot = archive.snapshot().await.expect("a snapshot");
    assert_eq!(snapshot.files().len(), PARTITIONS as usize);
    assert_eq!((memory.used(), archive.held_bytes()), (0, 0));
    assert!(found(&store, &archive).await.0 == (0..2_000).collect::<Vec<i64>>());
}
