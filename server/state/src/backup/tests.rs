//! Proves that a power loss during a backup or a restore leaves a whole one or none.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;
use crate::codec::{Multiplicity, WeightedBatch};
use crate::folder::DataDir;
use crate::io::PowerDisk;
use crate::run::RunShape;
use crate::runs::{Checkpoint, Runs, Save};
use crate::store::Store;

const DATA: &str = "/data";
const BACKUP: &str = "/backups/one";
const OTHER: TableDefinition<'_, u64, u64> = TableDefinition::new("of_somebody_else");

fn shape() -> RunShape {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    RunShape::new(Arc::new(schema), &[0]).expect("supported")
}

fn open(disk: &PowerDisk, folder: &str) -> Result<(DataDir, Runs), StateError> {
    let dir = DataDir::open(
        Arc::new(disk.clone()),
        Path::new(folder),
        CrashPoints::none(),
    )?;
    let store = Store::open(dir.database())?;
    let runs = Runs::open(&dir, &store)?;
    Ok((dir, runs))
}

fn save(runs: &Runs, through: u64) {
    let ids: Arc<Int64Array> = Arc::new((0..through as i64).collect::<Vec<_>>().into());
    let rows = WeightedBatch {
        batch: RecordBatch::try_new(shape().schema(), vec![ids]).expect("one column"),
        weights: Multiplicity::Constant(1),
    };
    let save = Save {
        table: 7.into(),
        since: None,
        through,
        runs: runs.write(&shape(), &[rows]).expect("writes"),
        gone: Vec::new(),
    };
    runs.commit(Checkpoint {
        epoch: through,
        saves: vec![save],
        ..Checkpoint::default()
    })
    .expect("commits");
}

fn count(runs: &Runs) -> usize {
    let mut rows = 0;
    runs.read_table(7, &shape(), |batch| {
        rows += batch.batch.num_rows();
        Ok::<_, StateError>(())
    })
    .expect("reads");
    rows
}

fn back_up(runs: &Runs) -> Result<Backup, StateError> {
    runs.back_up(Path::new(BACKUP), 5, "test", |copying| copying.table(OTHER))
}

fn put_back(disk: &PowerDisk) -> Result<Backup, StateError> {
    let (from, to) = (Path::new(BACKUP), Path::new("/again"));
    restore(disk, &CrashPoints::none(), from, to)
}

/// What a restore gives is what was there when the backup was made, though runs were replaced and removed since.
#[test]
fn a_backup_holds_one_moment() {
    let disk = PowerDisk::new();
    let (dir, runs) = open(&disk, DATA).expect("opens");
    let database = dir.database();
    let txn = database.begin_write().expect("begins");
    txn.open_table(OTHER)
        .expect("opens")
        .insert(1, 2)
        .expect("inserts");
    txn.commit().expect("commits");
    save(&runs, 10);
    let held = runs.back_up(Path::new(BACKUP), 5, "test", |copying| {
        save(&runs, 20);
        runs.collect()?;
        copying.table(OTHER)
    });
    let made = held.expect("is made");
    assert_eq!((made.checkpoint, made.files.len()), (1, 2));
    runs.collect().expect("collects");
    assert_eq!(disk.list(Path::new("/data/runs")).expect("lists").len(), 1);
    assert_eq!(put_back(&disk).expect("restores"), made);
    let (dir, runs) = open(&disk, "/again").expect("opens");
    assert_eq!(count(&runs), 10);
    let txn = redb::ReadableDatabase::begin_read(dir.database().as_ref()).expect("begins");
    let other = txn.open_table(OTHER).expect("is there");
    assert_eq!(other.get(1).expect("reads").map(|v| v.value()), Some(2));
    let partly = runs.back_up(Path::new("/partly"), 5, "test", |_| Ok(()));
    let partly = partly.expect_err("a table is left out").to_string();
    assert!(partly.contains("of_somebody_else"), "{partly}");
}

/// Runs that are no leftover of a backup stay, and what a backup has left that did not end goes.
#[test]
fn only_leftovers_of_a_backup_are_replaced() {
    let disk = PowerDisk::new();
    let (_dir, runs) = open(&disk, DATA).expect("opens");
    save(&runs, 10);
    let folder = Path::new(BACKUP).join("runs");
    let file = folder.join("00000000000000ff.run");
    disk.create_folder(&folder).expect("creates");
    disk.create(&file).expect("creates");
    assert!(matches!(back_up(&runs), Err(StateError::Taken(_))));
    disk.open(&file).expect("is still there");
    let begun = Path::new(BACKUP).join(DATABASE_FILE_COPY);
    disk.create(&begun).expect("creates");
    let made = back_up(&runs).expect("begins anew");
    assert_eq!(
        disk.list(&folder).expect("lists").len() + 1,
        made.files.len()
    );
}

#[test]
fn a_power_loss_leaves_a_whole_backup_or_none() {
    let mut whole = 0;
    for cut in 0.. {
        let disk = PowerDisk::new();
        let (_dir, runs) = open(&disk, DATA).expect("opens");
        save(&runs, 10);
        disk.cut_after(cut);
        let made = back_up(&runs);
        for seed in 0..4 {
            let image = disk.image(cut * 4 + seed);
            match put_back(&image) {
                Ok(_) => {
                    whole += 1;
                    let (_dir, runs) = open(&image, "/again").expect("opens");
                    assert_eq!(count(&runs), 10, "cut {cut}, seed {seed}");
                }
                Err(StateError::NoBackup { .. }) => {
                    assert!(made.is_err(), "cut {cut}, seed {seed}: it was acknowledged");
                }
                Err(error) => panic!("cut {cut}, seed {seed}: {error}"),
            }
        }
        if made.is_ok() {
            break;
        }
    }
    assert!(whole > 0);
}

#[test]
fn a_power_loss_leaves_a_whole_data_dir_or_none() {
    let disk = PowerDisk::new();
    let (_dir, runs) = open(&disk, DATA).expect("opens");
    save(&runs, 10);
    back_up(&runs).expect("is made");
    for cut in 0.. {
        let disk = disk.image(cut);
        disk.cut_after(cut);
        let ended = put_back(&disk);
        for seed in 0..4 {
            let image = disk.image(cut * 4 + seed);
            match open(&image, "/again") {
                Ok((_dir, runs)) => {
                    // Nothing was begun, or all is there.
                    let rows = count(&runs);
                    assert!(
                        rows == 10 || (rows == 0 && ended.is_err()),
                        "cut {cut}, seed {seed}"
                    );
                }
                Err(StateError::NotWhole { .. }) => {
                    assert!(
                        ended.is_err(),
                        "cut {cut}, seed {seed}: it was acknowledged"
                    );
                    put_back(&image).expect("goes well the next time");
                    let (_dir, runs) = open(&image, "/again").expect("opens");
                    assert_eq!(count(&runs), 10, "cut {cut}, seed {seed}");
                }
                Err(error) => panic!("cut {cut}, seed {seed}: {error}"),
            }
        }
        if ended.is_ok() {
            break;
        }
    }
}
