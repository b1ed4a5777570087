//! Proves the edges of the manifest: formats, saves that do not fit, tables that go meanwhile, merges, and what is left of failures.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use thalweg_state::{
    Checkpoint, CheckpointInfo, CrashAction, CrashPoints, DataDir, Disk, EpochEntry, FORMAT,
    Multiplicity, Point, PowerDisk, RunShape, Runs, Save, StateError, Store, WeightedBatch,
    encode_batches,
};

const FOLDER: &str = "/data";

fn shape() -> RunShape {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    RunShape::new(Arc::new(schema), &[0]).expect("supported")
}

fn rows(ids: std::ops::Range<i64>, weight: i64) -> WeightedBatch {
    let ids: Arc<Int64Array> = Arc::new(ids.collect::<Vec<_>>().into());
    WeightedBatch {
        batch: RecordBatch::try_new(shape().schema(), vec![ids]).expect("one column"),
        weights: Multiplicity::Constant(weight),
    }
}

fn open(disk: &PowerDisk, points: &CrashPoints) -> Result<(Store, Runs), StateError> {
    let dir = DataDir::open(Arc::new(disk.clone()), Path::new(FOLDER), points.clone())?;
    let store = Store::open_in(&dir)?;
    let runs = Runs::open(&dir, &store)?;
    Ok((store, runs))
}

fn fresh() -> (PowerDisk, Store, Runs) {
    let disk = PowerDisk::new();
    let (store, runs) = open(&disk, &CrashPoints::none()).expect("opens");
    (disk, store, runs)
}

fn save(runs: &Runs, table: u32, since: u64, through: u64, changes: &[WeightedBatch]) -> Save {
    Save {
        table: table.into(),
        since: Some(since),
        through,
        runs: runs.write(&shape(), changes).expect("writes"),
        gone: Vec::new(),
    }
}

fn commit(runs: &Runs, epoch: u64, saves: Vec<Save>) -> Result<CheckpointInfo, StateError> {
    runs.commit(Checkpoint {
        epoch,
        saves,
        ..Checkpoint::default()
    })
}

fn files(disk: &PowerDisk) -> usize {
    disk.list(&Path::new(FOLDER).join("runs"))
        .expect("lists")
        .len()
}

fn count(runs: &Runs, table: u32) -> i64 {
    let opened = runs.open_table(table, &shape()).expect("opens");
    let batches = opened.iter().flat_map(|run| run.scan());
    batches
        .map(|rows| {
            let rows = rows.expect("reads");
            match rows.weights {
                Multiplicity::Constant(weight) => weight * rows.batch.num_rows() as i64,
                Multiplicity::Each(weights) => weights.iter().sum(),
            }
        })
        .sum()
}

fn put(disk: &PowerDisk, name: &str, text: &str) {
    let file = disk.create(&Path::new(FOLDER).join(name)).expect("creates");
    file.write_at(0, text.as_bytes()).expect("writes");
}

#[test]
fn a_later_format_is_refused_with_the_way_out() {
    let (disk, store, runs) = fresh();
    drop((store, runs));
    put(
        &disk,
        "FORMAT",
        &format!("thalweg data format {}\n", FORMAT + 1),
    );
    let error = open(&disk, &CrashPoints::none()).expect_err("is later");
    assert!(matches!(error, StateError::NewerFormat { found, known } if found == known + 1));
    assert!(error.hint().is_some_and(|hint| hint.contains("--data-dir")));
    put(&disk, "FORMAT", "something else");
    let error = open(&disk, &CrashPoints::none()).expect_err("is damaged");
    assert_eq!(error.sqlstate(), "XX001");
}

/// A dir from before there were formats has everything in its log.
#[test]
fn a_dir_without_a_format_is_taken_over() {
    let (disk, store, runs) = fresh();
    let entry = EpochEntry {
        epoch: 1,
        dml: vec![(7, encode_batches(&[rows(0..3, 1)]).expect("encodes"))],
        ..EpochEntry::default()
    };
    store.append(&entry, true).expect("appends");
    drop((store, runs));
    disk.remove(&Path::new(FOLDER).join("FORMAT"))
        .expect("removes");
    let (store, runs) = open(&disk, &CrashPoints::none()).expect("opens");
    assert_eq!(store.table_log(7, 0).expect("reads").entries.len(), 1);
    assert_eq!(runs.newest().number, 0);
    drop((store, runs));
    open(&disk, &CrashPoints::none()).expect("has a format now");
}

/// A save that would double or lose rows is refused, and nothing of it stays.
#[test]
fn a_save_must_begin_where_the_last_one_ended() {
    let (disk, _store, runs) = fresh();
    let first = save(&runs, 7, 0, 5, &[rows(0..3, 1)]);
    commit(&runs, 5, vec![first]).expect("commits");
    for since in [0, 4, 6] {
        let again = save(&runs, 7, since, 8, &[rows(3..5, 1)]);
        let error = commit(&runs, 8, vec![again]).expect_err("does not fit");
        assert!(
            matches!(error, StateError::Discontinuous { through: 5, .. }),
            "{error}"
        );
    }
    runs.collect().expect("collects");
    assert_eq!((files(&disk), count(&runs, 7)), (1, 3));
    let next = save(&runs, 7, 5, 8, &[rows(3..5, 1)]);
    assert_eq!(commit(&runs, 8, vec![next]).expect("commits").number, 2);
    assert_eq!(count(&runs, 7), 5);
}

/// Runs that a save lets go of do not count any more, and their files go, once it is committed.
#[test]
fn a_save_lets_go_of_runs() {
    let (disk, store, runs) = fresh();
    for epoch in 0..3 {
        let next = save(&runs, 7, epoch, epoch + 1, &[rows(0..3, 1)]);
        commit(&runs, epoch + 1, vec![next]).expect("commits");
    }
    let known = runs.table(7).expect("is read").runs;
    let gone: Vec<u64> = known.iter().take(2).map(|run| run.number).collect();
    let let_go = |since| Save {
        gone: gone.clone(),
        ..save(&runs, 7, since, 4, &[rows(3..5, 1)])
    };
    commit(&runs, 4, vec![let_go(9)]).expect_err("does not fit");
    runs.collect().expect("collects");
    assert_eq!((files(&disk), count(&runs, 7)), (3, 9));
    commit(&runs, 4, vec![let_go(3)]).expect("commits");
    runs.collect().expect("collects");
    assert_eq!((files(&disk), count(&runs, 7)), (2, 5));
    drop((store, runs));
    let (_store, runs) = open(&disk, &CrashPoints::none()).expect("opens");
    assert_eq!((files(&disk), count(&runs, 7)), (2, 5));
}

#[test]
fn a_table_that_is_dropped_during_a_checkpoint_does_not_come_back() {
    let (disk, store, runs) = fresh();
    let both = vec![
        save(&runs, 7, 0, 1, &[rows(0..3, 1)]),
        save(&runs, 8, 0, 1, &[rows(0..2, 1)]),
    ];
    store.forget(&[7]).expect("forgets");
    commit(&runs, 1, both).expect("commits");
    assert_eq!(runs.tables(), [8]);
    store.forget(&[8]).expect("forgets");
    runs.collect().expect("collects");
    assert_eq!((runs.tables(), files(&disk)), (vec![], 0));
    drop((store, runs));
    let (_store, runs) = open(&disk, &CrashPoints::none()).expect("opens");
    assert!(runs.tables().is_empty());
}

#[test]
fn files_that_nothing_names_go_at_the_next_start() {
    let (disk, store, runs) = fresh();
    let kept = save(&runs, 7, 0, 1, &[rows(0..3, 1)]);
    commit(&runs, 1, vec![kept]).expect("commits");
    drop((store, runs));
    put(&disk, "runs/00000000000000aa.run", "half a run");
    put(&disk, "runs/notes.txt", "not ours");
    let (_store, runs) = open(&disk, &CrashPoints::none()).expect("opens");
    assert_eq!((files(&disk), count(&runs, 7)), (2, 3));
}

#[test]
fn merges_keep_the_rows_and_leave_space() {
    let (disk, _store, runs) = fresh();
    for epoch in 0..6_u64 {
        let start = epoch as i64 * 10;
        let changes = [rows(start..start + 10, 1), rows(start - 5..start, -1)];
        let part = if epoch == 0 { &changes[..1] } else { &changes };
        let next = save(&runs, 7, epoch, epoch + 1, part);
        commit(&runs, epoch + 1, vec![next]).expect("commits");
    }
    let before = count(&runs, 7);
    let merge = |reserve| {
        runs.merge_once(reserve, |_| Some(shape()), &|| false)
            .map_err(|(_, error)| error)
    };
    // Of the reserve an eighth is kept from small merges too.
    disk.limit_free(Some(1 << 17));
    assert_eq!(merge(1 << 20).expect("looks"), None, "the reserve is kept");
    let cancelled = runs.merge_once(0, |_| Some(shape()), &|| true);
    assert!(matches!(cancelled, Err((_, StateError::Cancelled))));
    assert_eq!(merge(0).expect("merges"), Some(7.into()));
    assert_eq!(merge(0).expect("looks"), None);
    runs.collect().expect("collects");
    let after = runs.table(7).expect("reads");
    assert_eq!(
        (after.runs.len(), files(&disk), count(&runs, 7)),
        (1, 1, before)
    );
    assert_eq!(after.runs[0].rows, 35, "what cancels is gone");
    assert_eq!((after.runs[0].level, after.through), (1, 6));
}

/// Whether rows only come, or replace others, merges write at most half as much again as they read, on each level.
#[test]
fn merges_write_little_more_than_they_read() {
    for replaced in [0, 900] {
        let (_disk, _store, runs) = fresh();
        for epoch in 0..120_u64 {
            let start = epoch as i64 * 1_000;
            let gone = (start - 1_000).max(0)..(start - 1_000 + replaced).max(0);
            let changes = [rows(start..start + 1_000, 1), rows(gone, -1)];
            let next = save(&runs, 7, epoch, epoch + 1, &changes);
            commit(&runs, epoch + 1, vec![next]).expect("commits");
            let merge = || runs.merge_once(0, |_| Some(shape()), &|| false);
            while merge().expect("merges").is_some() {}
        }
        let merged = runs.merged();
        assert!(merged.len() > 1, "{merged:?}");
        for (level, bytes) in merged {
            assert!(
                bytes.read > 0 && bytes.written > 0,
                "level {level}: {bytes:?}"
            );
            assert!(
                bytes.written * 2 <= bytes.read * 3,
                "level {level}: {bytes:?}"
            );
        }
    }
}

/// What is written long before its transaction is still there when a transaction fails, and goes with the last who has it.
#[test]
fn a_run_waits_for_its_transaction() {
    let (disk, _store, runs) = fresh();
    let written = runs.write(&shape(), &[rows(0..10, 1)]).expect("writes");
    let save_after = |since| Save {
        table: 7.into(),
        since: Some(since),
        through: 8,
        runs: written.clone(),
        gone: Vec::new(),
    };
    let refused = commit(&runs, 8, vec![save_after(5)]);
    assert!(matches!(refused, Err(StateError::Discontinuous { .. })));
    runs.collect().expect("collects");
    assert_eq!(files(&disk), 1, "somebody has it still");
    commit(&runs, 8, vec![save_after(0)]).expect("commits");
    drop(written);
    drop(runs.write(&shape(), &[rows(0..5, 1)]).expect("writes"));
    runs.collect().expect("collects");
    assert_eq!((files(&disk), count(&runs, 7)), (1, 10));
}

/// Who stops does not wait for what is being written, and what was committed stays.
#[test]
fn nothing_is_written_after_a_stop() {
    let (disk, store, runs) = fresh();
    let kept = save(&runs, 7, 0, 1, &[rows(0..3, 1)]);
    commit(&runs, 1, vec![kept]).expect("commits");
    runs.stop();
    let refused = runs.write(&shape(), &[rows(3..100_000, 1)]);
    assert!(matches!(refused, Err(StateError::Cancelled)));
    drop((store, runs));
    let (_store, runs) = open(&disk, &CrashPoints::none()).expect("opens");
    assert_eq!((files(&disk), count(&runs, 7)), (1, 3));
    runs.write(&shape(), &[rows(3..5, 1)])
        .expect("writes again");
}

/// Tables whose rows all cancel end with no run.
#[test]
fn a_merge_of_nothing_is_no_run() {
    let (disk, _store, runs) = fresh();
    for epoch in 0..4 {
        let weight = if epoch % 2 == 0 { 1 } else { -1 };
        let next = save(&runs, 7, epoch, epoch + 1, &[rows(0..100, weight)]);
        commit(&runs, epoch + 1, vec![next]).expect("commits");
    }
    let merged = runs.merge_once(0, |_| Some(shape()), &|| false);
    assert_eq!(
        merged.map_err(|(_, error)| error).expect("merges"),
        Some(7.into())
    );
    runs.collect().expect("collects");
    assert_eq!((files(&disk), count(&runs, 7)), (0, 0));
}

/// Whatever step of a checkpoint fails, it can be made again, and nothing is lost or doubled.
#[test]
fn a_failed_step_changes_nothing() {
    for point in [
        Point::RunCreate,
        Point::RunWrite,
        Point::RunFinish,
        Point::RunSync,
        Point::RunFolder,
        Point::ManifestBegin,
        Point::ManifestCommit,
    ] {
        let disk = PowerDisk::new();
        let points = CrashPoints::armed(point, 2, CrashAction::Error);
        let (store, runs) = open(&disk, &points).expect("opens");
        let first = save(&runs, 7, 0, 1, &[rows(0..3, 1)]);
        commit(&runs, 1, vec![first]).expect("the first hit passes");
        let second = || -> Result<(), StateError> {
            let next = Save {
                table: 7.into(),
                since: Some(1),
                through: 2,
                runs: runs.write(&shape(), &[rows(3..9, 1)])?,
                gone: Vec::new(),
            };
            commit(&runs, 2, vec![next]).map(drop)
        };
        let error = second().expect_err("the second fails");
        assert!(error.to_string().contains("crash point"), "{error}");
        assert_eq!(count(&runs, 7), 3, "{}", point.name());
        second().expect("the third passes");
        runs.collect().expect("collects");
        assert_eq!((count(&runs, 7), files(&disk)), (9, 2), "{}", point.name());
        drop((store, runs));
        let (_store, runs) = open(&disk, &CrashPoints::none()).expect("opens");
        assert_eq!(count(&runs, 7), 9);
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_the_log() {
    let (disk, _store, runs) = fresh();
    disk.limit_free(Some(100));
    let error = runs
        .write(&shape(), &[rows(0..1000, 1)])
        .expect_err("is full");
    assert_eq!(error.sqlstate(), "53100");
    assert!(error.hint().is_some());
    disk.limit_free(None);
    runs.collect().expect("collects");
    assert_eq!(files(&disk), 0);
    let next = save(&runs, 7, 0, 1, &[rows(0..1000, 1)]);
    commit(&runs, 1, vec![next]).expect("commits");
    assert_eq!(count(&runs, 7), 1000);
}

/// Runs that somebody needs one by one stay as they are, are read together in their order, and are merged once they are let go.
#[test]
fn held_runs_stay_apart() {
    let (_, _, runs) = fresh();
    let mut numbers = Vec::new();
    for epoch in 1..=8_u64 {
        let id = epoch as i64;
        let save = save(&runs, 7, epoch - 1, epoch, &[rows(id..id + 1, 1)]);
        numbers.extend(save.runs.iter().map(|run| run.info().number));
        if epoch == 4 {
            runs.hold(7, numbers.last().copied());
        }
        commit(&runs, epoch, vec![save]).expect("commits");
    }
    let merge = || runs.merge_once(0, |_| Some(shape()), &|| false);
    assert_eq!(merge().expect("looks"), None, "three are too few");
    let held = numbers.get(3..).expect("eight runs");
    let mut read = Vec::new();
    runs.read_runs(7, held, &shape(), |rows| {
        read.push(rows.batch.num_rows());
        Ok::<_, StateError>(())
    })
    .expect("reads");
    assert_eq!(read.iter().sum::<usize>(), 5);
    runs.hold(7, None);
    assert_eq!(merge().expect("merges"), Some(7.into()));
    let gone = runs.read_runs(7, held, &shape(), |_| Ok::<_, StateError>(()));
    assert!(gone.expect_err("was merged").to_string().contains("run"));
    assert_eq!(count(&runs, 7), 8);
}

/// A sink's record is there with the checkpoint, in the place of what its log had; a dropped sink gets none.
#[test]
fn the_record_of_a_sink_comes_with_its_checkpoint() {
    let (_, store, runs) = fresh();
    let read = |sink| {
        let mut records = Vec::new();
        let take = |seq, record: &[u8]| {
            records.push((seq, record.to_vec()));
            Ok(())
        };
        store.read_sink(sink, take).expect("reads");
        records
    };
    for seq in 0..3 {
        store.append_sink(7, seq, b"old", true).expect("appends");
    }
    store.forget(&[8]).expect("forgets");
    runs.commit(Checkpoint {
        epoch: 1,
        sinks: vec![(7, b"new".to_vec()), (8, b"new".to_vec())],
        ..Checkpoint::default()
    })
    .expect("commits");
    assert_eq!((read(7), read(8)), (vec![(0, b"new".to_vec())], vec![]));
}

/// A data dir keeps the name that it was given first.
#[test]
fn a_data_dir_keeps_its_name() {
    let (disk, store, _) = fresh();
    assert_eq!(store.installation([1; 16]).expect("is named"), [1; 16]);
    store.close();
    drop(store);
    let (store, _) = open(&disk, &CrashPoints::none()).expect("opens");
    assert_eq!(store.installation([2; 16]).expect("is named"), [1; 16]);
}
