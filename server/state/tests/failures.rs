//! Proves that a data file which fails at any step, once or for a while, is used on without a restart: what was acknowledged is there,
//! what was refused is not, and neither changes with a power loss after it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use thalweg_state::{
    Checkpoint, CrashAction, CrashPoints, DataDir, EpochEntry, FaultyDisk, Multiplicity, Point,
    PowerDisk, RunShape, Runs, Save, StateError, Store, WeightedBatch, encode_batches,
};

const TABLE: u32 = 7;
const SOURCE: u32 = 8;
const SINK: u32 = 9;

/// Far beyond what any condition here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than any of the steps that a test makes fail.
const STEPS_MAX: u64 = 400;

fn shape() -> RunShape {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    RunShape::new(Arc::new(schema), &[0]).expect("supported")
}

fn rows(ids: &[i64]) -> WeightedBatch {
    let ids = Int64Array::from(ids.to_vec());
    let batch = RecordBatch::try_new(shape().schema(), vec![Arc::new(ids)]);
    WeightedBatch {
        batch: batch.expect("one column"),
        weights: Multiplicity::Constant(1),
    }
}

fn ids(rows: &WeightedBatch) -> Vec<i64> {
    rows.batch
        .column(0)
        .as_primitive::<Int64Type>()
        .values()
        .to_vec()
}

/// What is to be in a data dir.
#[derive(Debug, Default, Clone, PartialEq)]
struct Content {
    epoch: u64,
    ids: Vec<i64>,
    offsets: Option<Vec<u8>>,
    sink: Vec<u64>,
}

struct World {
    store: Store,
    runs: Runs,
}

impl World {
    fn open(disk: Arc<dyn thalweg_state::Disk>, points: CrashPoints) -> Result<World, StateError> {
        let dir = DataDir::open(disk, Path::new("/data"), points)?;
        let store = Store::open_in(&dir)?;
        let runs = Runs::open(&dir, &store)?;
        Ok(World { store, runs })
    }

    fn content(&self) -> Result<Content, StateError> {
        let mut content = Content {
            epoch: self.store.last_epoch()?.map_or(0, |record| record.epoch),
            offsets: self.store.source_offsets(SOURCE)?,
            ..Content::default()
        };
        self.runs.read_table(TABLE, &shape(), |rows| {
            content.ids.extend(ids(&rows));
            Ok::<_, StateError>(())
        })?;
        let through = self.runs.table(TABLE)?.through;
        for entry in self.store.table_log(TABLE, through)?.entries {
            content.ids.extend(entry.changes.iter().flat_map(ids));
        }
        content.ids.sort_unstable();
        self.store.read_sink(SINK, |seq, _| {
            content.sink.push(seq);
            Ok(())
        })?;
        Ok(content)
    }

    /// Everything that a server writes, each step until it is done. A step that failed is made again with other content, so that it
    /// shows when the failed one counts after all.
    fn write(&self, content: &mut Content) {
        let mut id = 1_000;
        for round in 0..3_u64 {
            let mut fresh = until_done(|| {
                let mut entry = entry(content.epoch + 1, round);
                id += 1;
                entry.dml = vec![(TABLE, encode_batches(&[rows(&[id])])?)];
                self.store.append(&entry, true)?;
                Ok(vec![id])
            });
            content.epoch += 1;
            content.ids.append(&mut fresh);
            // It is seen before it is on disk, and must be there with the next that is.
            until_done(|| {
                self.store
                    .append(&entry(content.epoch + 1, round + 10), false)
            });
            content.epoch += 1;
            content.offsets = Some(vec![round as u8 + 10]);
            until_done(|| self.store.append_sink(SINK, round, b"sent", round == 2));
            content.sink.push(round);
            until_done(|| self.checkpoint(content.epoch));
        }
        until_done(|| self.store.sync());
    }

    fn checkpoint(&self, epoch: u64) -> Result<(), StateError> {
        let through = self.runs.table(TABLE)?.through;
        let log = self.store.table_log(TABLE, through)?.entries;
        let changes: Vec<_> = log.into_iter().flat_map(|entry| entry.changes).collect();
        let save = Save {
            table: TABLE.into(),
            since: Some(through),
            through: epoch,
            runs: self.runs.write(&shape(), &changes)?,
            gone: Vec::new(),
        };
        let committed = self.runs.commit(Checkpoint {
            epoch,
            saves: vec![save],
            ..Checkpoint::default()
        });
        committed.map(drop)
    }
}

fn entry(epoch: u64, offset: u64) -> EpochEntry {
    EpochEntry {
        epoch,
        at_ms: epoch as i64,
        offsets: vec![(SOURCE, vec![offset as u8])],
        ..EpochEntry::default()
    }
}

fn until_done<T>(mut step: impl FnMut() -> Result<T, StateError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match step() {
            Ok(done) => return done,
            Err(error) => {
                assert!(Instant::now() < deadline, "{error}");
                std::thread::yield_now();
            }
        }
    }
}

/// What is there, now, after a start and after power losses, is exactly what was acknowledged.
fn check(world: World, power: &PowerDisk, content: &Content, at: &str) {
    let found = until_done(|| world.content());
    assert_eq!(&found, content, "{at}");
    for seed in 0..3 {
        let image = Arc::new(power.image(seed));
        let world = World::open(image, CrashPoints::none()).expect("recovers");
        assert_eq!(
            &world.content().expect("reads"),
            content,
            "{at}, image {seed}"
        );
    }
    world.store.close();
    drop(world);
    let world = World::open(Arc::new(power.clone()), CrashPoints::none()).expect("opens");
    assert_eq!(&world.content().expect("reads"), content, "{at}, again");
}

#[test]
fn a_file_that_fails_at_any_step_is_used_on() {
    let mut hits: BTreeMap<u64, u64> = BTreeMap::new();
    for (times, kind) in [
        (1, ErrorKind::StorageFull),
        (1, ErrorKind::Other),
        (4, ErrorKind::Other),
    ] {
        for after in 0..STEPS_MAX {
            let power = PowerDisk::new();
            let disk = FaultyDisk::new(Arc::new(power.clone()), "redb");
            let world = World::open(Arc::new(disk.clone()), CrashPoints::none()).expect("opens");
            disk.fail(after, times, kind);
            let mut content = Content::default();
            world.write(&mut content);
            if disk.failed() == 0 {
                assert!(after > 30, "only {after} steps");
                break;
            }
            *hits.entry(times).or_default() += 1;
            disk.mend();
            check(
                world,
                &power,
                &content,
                &format!("{times} failures after {after} steps"),
            );
        }
    }
    println!("{hits:?} places of failure");
}

/// A sync that failed may have written anything or nothing: what was written before it is written again.
#[test]
fn an_error_after_a_commit_is_decided_by_the_file() {
    for hit in 1..=6 {
        for point in [
            Point::LogBegin,
            Point::LogCommit,
            Point::LogDone,
            Point::ManifestCommit,
        ] {
            let power = PowerDisk::new();
            let points = CrashPoints::armed(point, hit, CrashAction::Error);
            let world = World::open(Arc::new(power.clone()), points).expect("opens");
            let mut content = Content::default();
            world.write(&mut content);
            check(world, &power, &content, &format!("{}:{hit}", point.name()));
        }
    }
}

/// A drop that came to nothing drops nothing: the next checkpoint still knows the table.
#[test]
fn what_a_failed_drop_names_is_still_saved() {
    let power = PowerDisk::new();
    let points = CrashPoints::armed(Point::LogCommit, 2, CrashAction::Error);
    let world = World::open(Arc::new(power.clone()), points).expect("opens");
    let mut content = Content {
        epoch: 1,
        ids: vec![1],
        ..Content::default()
    };
    let mut first = EpochEntry {
        epoch: 1,
        ..EpochEntry::default()
    };
    first.dml = vec![(TABLE, encode_batches(&[rows(&[1])]).expect("encodes"))];
    world.store.append(&first, true).expect("appends");
    let dropping = EpochEntry {
        epoch: 2,
        forgotten: vec![TABLE],
        ..EpochEntry::default()
    };
    assert!(world.store.append(&dropping, true).is_err());
    world.checkpoint(1).expect("saves");
    assert_eq!(world.runs.table(TABLE).expect("reads").through, 1);
    world.store.append(&entry(2, 1), true).expect("appends");
    (content.epoch, content.offsets) = (2, Some(vec![1]));
    check(world, &power, &content, "after a failed drop");
}

/// While a file cannot be opened again nothing is taken for done, and readers are told why.
#[test]
fn a_file_that_stays_broken_says_why() {
    let power = PowerDisk::new();
    let disk = FaultyDisk::new(Arc::new(power.clone()), "redb");
    let world = World::open(Arc::new(disk.clone()), CrashPoints::none()).expect("opens");
    let mut content = Content::default();
    world.write(&mut content);
    disk.fail(0, u64::MAX, ErrorKind::StorageFull);
    let waiting = std::thread::scope(|scope| {
        let (store, epoch) = (world.store.clone(), content.epoch + 1);
        let writer = scope.spawn(move || store.append(&entry(epoch, 99), true));
        let deadline = Instant::now() + PATIENCE;
        while disk.failed() < 2 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let refused = world
            .store
            .sync()
            .expect_err("it is not known what is there");
        assert_eq!(refused.sqlstate(), "53100", "{refused}");
        disk.mend();
        writer.join().expect("no panic")
    });
    // Whatever it says is what is there.
    if waiting.is_ok() {
        (content.epoch, content.offsets) = (content.epoch + 1, Some(vec![99]));
    }
    check(world, &power, &content, "after it was mended");
}
