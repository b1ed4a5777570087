//! Proves that the query of an exactly-once sink goes on from its checkpoint: whatever its source has lost meanwhile, wherever the
//! server was killed, and however far the outside system lags, each change comes once and nothing is taken back that stands.
//!
//! The source is a folder of files that come and go; a table that no one takes rows from says what there ever was.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thalweg_engine::EngineConfig;
use thalweg_state::{Checkpoint, CrashAction, CrashPoints, JobRecord, Point};

use crate::exactly_once::{Fault, World, sink, wanted};
use crate::harness::Db;
use crate::resume::{anew, part};

/// Sinks by the way their queries are kept, with the query over a relation named `{}`, which is append-only, and a table `t`.
const SINKS: [(&str, &str, bool); 6] = [
    ("rows", "SELECT id, v FROM {}", false),
    ("high", "SELECT id FROM {} WHERE v > 5", false),
    (
        "groups",
        "SELECT v AS k, count(*) AS n, max(id) AS z, count(DISTINCT id % 7) AS d FROM {} GROUP BY v",
        true,
    ),
    (
        "joined",
        "SELECT s.id AS k, t.w FROM {} s JOIN t ON s.v = t.v",
        true,
    ),
    (
        "ranked",
        "SELECT id AS k, rank() OVER (PARTITION BY v ORDER BY id) AS r FROM {}",
        true,
    ),
    (
        "single",
        "SELECT 1 AS k, count(*) AS n, coalesce(sum(id), 0) AS s FROM {}",
        true,
    ),
];

/// The files of a source, the sinks over it, and what these have to say.
struct Rig {
    folder: tempfile::TempDir,
    parts: i64,
    worlds: Vec<(&'static str, World)>,
}

impl Rig {
    /// Beginnings are handed on in parts of so many bytes.
    fn new(checkpoint_interval: Duration, early_bytes_max: usize) -> (Rig, Db) {
        let mut names: Vec<_> = SINKS.iter().map(|(name, ..)| *name).collect();
        names.push("viewed");
        let rig = Rig {
            folder: tempfile::tempdir().expect("a folder"),
            parts: 0,
            worlds: names
                .into_iter()
                .map(|name| (name, World::default()))
                .collect(),
        };
        let mut db = Db::with(EngineConfig {
            file_root: rig.folder.path().to_path_buf(),
            checkpoint_interval,
            early_bytes_max,
            ..World::config_of(rig.worlds.clone())
        });
        db.ok("CREATE SOURCE s (id BIGINT, v BIGINT) WITH (connector = 'file', path = 'part_*.json', follow = 'true')");
        db.ok("CREATE TABLE ever (id BIGINT, v BIGINT); CREATE TABLE t (v BIGINT PRIMARY KEY, w TEXT)");
        db.ok("INSERT INTO t VALUES (1, 'one'), (2, 'two'), (7, 'seven')");
        db.ok("CREATE MATERIALIZED VIEW per_v AS SELECT v AS k, count(*) AS n, min(id) AS a FROM s GROUP BY v");
        (rig, db)
    }

    fn create(&self, db: &mut Db) {
        for (name, query, keyed) in SINKS {
            let key = if keyed { ", primary_key = 'k'" } else { "" };
            let query = query.replace("{}", "s");
            db.ok(&format!(
                "CREATE SINK {name} AS {query} WITH (connector = 'kafka', delivery = 'exactly_once'{key})"
            ));
        }
        db.ok("CREATE SINK viewed AS SELECT k, n, a FROM per_v WITH (connector = 'kafka', delivery = 'exactly_once', primary_key = 'k')");
    }

    fn world(&self, sink: &str) -> &World {
        let world = self.worlds.iter().find(|(name, _)| *name == sink);
        &world.expect("a world").1
    }

    /// Ten more rows.
    fn grow(&mut self, db: &mut Db) {
        part(self.folder.path(), self.parts);
        let rows = (0..10).map(|row| format!("({}, {row})", self.parts * 10 + row));
        let rows: Vec<_> = rows.collect();
        db.ok(&format!("INSERT INTO ever VALUES {}", rows.join(", ")));
        self.parts += 1;
    }

    /// The source forgets everything so far.
    fn expire(&self) {
        for file in std::fs::read_dir(self.folder.path()).expect("lists") {
            std::fs::remove_file(file.expect("a file").path()).expect("removes");
        }
    }

    /// Waits until all sinks have delivered everything; one that could not write its beginning tries again.
    fn settle(&self, db: &mut Db) {
        let names = SINKS.iter().map(|(name, ..)| *name);
        names
            .chain(["viewed"])
            .for_each(|name| db.until_ok(&format!("WAIT FOR {name}")));
    }

    /// What readers see is what there ever was, and rows that only come were never taken back.
    fn check(&self, db: &Db, when: &str) {
        for (name, query, keyed) in SINKS {
            let world = self.world(name);
            let expected = wanted(db, &query.replace("{}", "ever"));
            assert_eq!(world.seen(), expected, "{name} {when}");
            let back = world.lock().rows.iter().filter(|row| row.1 < 0).count();
            assert!(keyed || back == 0, "{name} {when}: {back} rows taken back");
        }
        let expected = wanted(db, "SELECT v, count(*), min(id) FROM ever GROUP BY v");
        assert_eq!(self.world("viewed").seen(), expected, "viewed {when}");
    }
}

/// Checkpoints come when they are asked for.
const NEVER: Duration = Duration::from_secs(3600);

/// Every kind of query goes on, reads only what it has not seen, and takes nothing back of what the source has lost.
#[test]
fn what_a_source_has_lost_stays_delivered() {
    let (mut rig, mut db) = Rig::new(NEVER, 1);
    rig.grow(&mut db);
    rig.create(&mut db);
    rig.grow(&mut db);
    rig.settle(&mut db);
    rig.check(&db, "at first");
    db.engine.checkpoint().expect("saves");
    for round in 0..4 {
        let closed = db.close();
        rig.expire();
        db = closed.open().expect("opens");
        if round > 1 {
            // One more kill before anything has come.
            db = db.reopen();
        }
        assert_eq!(anew(&db), Vec::<String>::new());
        db.ok(&format!(
            "INSERT INTO t VALUES ({}, 'of round {round}')",
            round + 3
        ));
        rig.grow(&mut db);
        rig.settle(&mut db);
        rig.check(&db, &format!("in round {round}"));
        db.engine.checkpoint().expect("saves");
    }
    // The records on disk say by now what was delivered.
    db.engine.checkpoint().expect("saves");
    let oids: Vec<_> = SINKS.map(|(name, ..)| (name, db.oid(name).0)).into();
    db.close().with_runs(|runs| {
        for (name, oid) in oids {
            let kept = runs.table(oid).expect("is read").runs.len();
            let only_rows = name == "rows" || name == "high";
            assert_eq!(kept == 0, only_rows, "{name} keeps {kept} runs");
        }
    });
}

/// A query whose state is damaged on disk goes back to its checkpoint. What it gave after that and no checkpoint has staged is void,
/// and comes once with what follows, though its source has lost what the checkpoint had.
#[test]
fn a_query_that_fails_gives_once_what_was_not_staged() {
    const KEYS: i64 = 20_000;
    let (files, world) = (tempfile::tempdir().expect("a folder"), World::default());
    let mut db = Db::with(EngineConfig {
        file_root: files.path().to_path_buf(),
        // Most groups have to be on disk, whatever else takes memory at the moment.
        state_memory_max: 1 << 18,
        sink_part_rows_max: 100_000,
        ..World::config_of(vec![("out", world.clone())])
    });
    db.ok("CREATE SOURCE s (k BIGINT) WITH (connector = 'file', path = 'part_*.json', follow = 'true')");
    db.ok("CREATE SINK out AS SELECT k, count(*) AS n FROM s GROUP BY k WITH (connector = 'kafka', delivery = 'exactly_once', primary_key = 'k')");
    let mut counts = BTreeMap::new();
    let mut add = |file: i64, keys: i64| {
        let rows: String = (0..keys).map(|k| format!("{{\"k\": {k}}}\n")).collect();
        std::fs::write(files.path().join(format!("part_{file}.json")), rows).expect("writes");
        (0..keys).for_each(|k| *counts.entry(k).or_insert(0) += 1);
        let row = |(k, n): (&i64, &i64)| (format!("{k}|{n}"), 1);
        counts.iter().map(row).collect::<BTreeMap<_, i64>>()
    };
    let all = add(0, KEYS);
    db.ok("WAIT FOR out");
    assert_eq!(world.seen(), all);
    db.engine.checkpoint().expect("saves");
    std::fs::remove_dir_all(files.path()).expect("removes");
    std::fs::create_dir(files.path()).expect("makes a folder");
    add(1, 500);
    db.ok("WAIT FOR s");
    let epoch = db.engine.latest().epoch;
    db.until("that the query has the rows", |status| {
        sink(status).epoch >= Some(epoch)
    });
    assert!(
        sink(&db.engine.status()).staged < Some(epoch),
        "it is not staged"
    );
    db.until("that groups are on disk", |status| {
        status.memory.iter().any(|part| part.spilled > 0)
    });
    let spilled = db.spilled_files();
    assert!(!spilled.is_empty(), "nothing is on disk");
    for file in spilled {
        let bytes = std::fs::metadata(&file).expect("is there").len();
        std::fs::write(&file, vec![0; bytes as usize]).expect("writes");
    }
    let all = add(2, KEYS / 2);
    db.until_ok("WAIT FOR out");
    assert_eq!(world.seen(), all);
    let errors = db.engine.status().errors;
    let mut errors = errors.iter();
    assert!(errors.any(|error| error.message.contains("checksum")));
    assert_eq!(anew(&db), Vec::<String>::new());
}

/// Nobody takes deliveries over several restarts: what was staged meanwhile comes once and in order, when somebody does.
#[test]
fn what_waits_survives_restarts() {
    let (mut rig, mut db) = Rig::new(NEVER, 1);
    rig.create(&mut db);
    rig.grow(&mut db);
    rig.settle(&mut db);
    for round in 0..4 {
        for (_, world) in &rig.worlds {
            world.lock().faults = vec![Fault::TakeOver; 1_000_000].into();
        }
        let closed = db.close();
        rig.expire();
        db = closed.open().expect("opens");
        rig.grow(&mut db);
        db.ok(
            "WAIT FOR per_v; DELETE FROM t WHERE v = 2; INSERT INTO t VALUES (2, 'again'); FLUSH",
        );
        db.engine.checkpoint().expect("saves");
        let waiting = sink(&db.engine.status()).waiting_bytes;
        assert!(waiting.is_some_and(|bytes| bytes > 0), "in round {round}");
    }
    let closed = db.close();
    rig.expire();
    for (_, world) in &rig.worlds {
        world.lock().faults = [Fault::After, Fault::Before].into();
    }
    let mut db = closed.open().expect("opens");
    assert_eq!(anew(&db), Vec::<String>::new());
    rig.settle(&mut db);
    rig.check(&db, "at last");
    let rows: Vec<String> = rig
        .world("high")
        .lock()
        .rows
        .iter()
        .map(|row| row.0.clone())
        .collect();
    let ordered = (0..rig.parts * 10).filter(|id| id % 10 > 5);
    assert_eq!(rows, ordered.map(|id| id.to_string()).collect::<Vec<_>>());
}

/// A data dir that was restored counts epochs anew. What it stages at the epoch of a delivery that the newer copy made is not taken
/// for that delivery.
#[test]
fn a_restored_data_dir_takes_no_foreign_delivery_for_its_own() {
    let world = World::default();
    let mut db = Db::with(World::config_of(vec![("out", world.clone())]));
    db.ok("CREATE TABLE e (n BIGINT)");
    db.ok(
        "CREATE SINK out AS SELECT n FROM e WITH (connector = 'kafka', delivery = 'exactly_once')",
    );
    db.ok("INSERT INTO e VALUES (1); WAIT FOR out");
    db.engine.checkpoint().expect("saves");
    let closed = db.close();
    let (folder, copy) = (closed.file(), tempfile::tempdir().expect("a folder"));
    let folder = folder.parent().expect("a folder");
    copy_all(folder, copy.path());
    let mut db = closed.open().expect("opens");
    db.ok("INSERT INTO e VALUES (2); INSERT INTO e VALUES (3); WAIT FOR out");
    let newest = world.lock().marker.expect("was delivered").epoch;
    let closed = db.close();
    std::fs::remove_dir_all(folder).expect("removes");
    copy_all(copy.path(), folder);
    world.lock().faults = vec![Fault::TakeOver; 1_000_000].into();
    let mut db = closed.open().expect("opens");
    // An entry for each epoch.
    for n in 0.. {
        db.ok(&format!("INSERT INTO e VALUES ({}); FLUSH", 10 + n));
        db.engine.checkpoint().expect("saves");
        if db.engine.latest().epoch.0 > newest + 2 {
            break;
        }
    }
    let mut db = db.reopen();
    world.lock().faults.clear();
    let foreign = |status: &thalweg_engine::EngineStatus| {
        let error = sink(status).error.as_ref();
        error.is_some_and(|error| error.contains("does not know of"))
    };
    db.until("that the marker is foreign", foreign);
    let before = world.lock().rows.len();
    assert_eq!(before, 3, "{:?}", world.lock().rows);
    // Before the writer goes on: it passes over what its marker has.
    world.lock().marker = None;
    db.engine.resume_sink(db.oid("out")).expect("is a sink");
    db.ok("WAIT FOR out");
    let all = wanted(&db, "SELECT n FROM e WHERE n >= 10");
    let mut seen = world.seen();
    seen.retain(|row, _| row.len() > 1);
    assert_eq!(seen, all);
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a folder");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_all(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copies")),
        }
    }
}

/// Where what was saved cannot be used, a sink compares with what it has delivered; one of which nothing is kept says that it
/// cannot go on, and delivers nothing a second time.
#[test]
fn a_sink_whose_place_is_lost_doubles_nothing() {
    for damage in ["plan", "record", "all"] {
        let (mut rig, mut db) = Rig::new(NEVER, 1);
        rig.create(&mut db);
        rig.grow(&mut db);
        rig.settle(&mut db);
        db.engine.checkpoint().expect("saves");
        let oids: Vec<u32> = SINKS.map(|(name, ..)| db.oid(name).0).into();
        let closed = db.close();
        closed.with_runs(|runs| {
            let mut records = runs.jobs().expect("reads");
            let damaged = oids.iter().map(|oid| {
                let mut record = records.remove(oid).expect("a job").expect("whole");
                match damage {
                    "plan" => record[3] ^= 1,
                    _ => drop(record.pop()),
                }
                JobRecord {
                    object: *oid,
                    record: (damage != "all").then_some(record),
                    parts: 9,
                }
            });
            let jobs = damaged.collect();
            runs.commit(Checkpoint {
                jobs,
                ..Checkpoint::default()
            })
            .expect("commits");
        });
        let mut db = closed.open().expect("opens");
        rig.grow(&mut db);
        let lost = |name: &str| damage != "plan" && (name == "rows" || name == "high");
        for (name, query, _) in SINKS {
            let world = rig.world(name);
            if lost(name) {
                let status = db.engine.status();
                let job = status.jobs.iter().find(|job| job.name == name);
                let error = job.and_then(|job| job.error.clone()).unwrap_or_default();
                assert!(
                    error.contains("cannot go on where it was"),
                    "{name}: {error}"
                );
                let seen: i64 = world.seen().values().sum();
                assert!(seen == 10 || seen == 4, "{name}: {seen} rows");
            } else {
                db.ok(&format!("WAIT FOR {name}"));
                let expected = wanted(&db, &query.replace("{}", "ever"));
                assert_eq!(world.seen(), expected, "{name} without its {damage}");
            }
        }
    }
}

/// What goes wrong in a checkpoint, in an outside system and with the server, in any order, while the source forgets what was
/// taken from it: readers see every change once.
#[test]
fn random_histories_over_a_source_that_forgets() {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    let cases = number("THALWEG_SINK_CASES", 2);
    let first = number("THALWEG_SINK_SEED", 1);
    for seed in first..first + cases {
        eprintln!("THALWEG_SINK_SEED={seed} THALWEG_SINK_CASES=1");
        history(&mut ChaCha8Rng::seed_from_u64(seed), seed);
    }
}

const STEPS: [Point; 8] = [
    Point::RunCreate,
    Point::RunWrite,
    Point::RunSync,
    Point::RunFolder,
    Point::ManifestBegin,
    Point::ManifestCommit,
    Point::ManifestDone,
    Point::RunRemove,
];

fn history(random: &mut ChaCha8Rng, seed: u64) {
    let early = [1, 1_000, 1 << 20][random.random_range(0..3)];
    let (mut rig, mut db) = Rig::new(Duration::from_millis(20), early);
    if random.random_bool(0.5) {
        rig.grow(&mut db);
    }
    rig.create(&mut db);
    for _ in 0..random.random_range(8..20) {
        let v = random.random_range(0..10);
        match random.random_range(0..12) {
            0..3 => rig.grow(&mut db),
            3 => db.ok(&format!("DELETE FROM t WHERE v = {v}")),
            4 => db.ok(&format!(
                "INSERT INTO t VALUES ({v}, 'w{v}') ON CONFLICT (v) DO UPDATE SET w = t.w || '+'"
            )),
            5 | 6 => {
                let faults = [Fault::TakeOver, Fault::Before, Fault::After];
                let (_, world) = &rig.worlds[random.random_range(0..rig.worlds.len())];
                let fault = faults[random.random_range(0..faults.len())];
                world.lock().faults.push_back(fault);
            }
            7 | 8 => {
                let step = STEPS[random.random_range(0..STEPS.len())];
                let hit = random.random_range(1..30);
                let points = CrashPoints::armed(step, hit, CrashAction::Error);
                db = db.close().failing(points).open().expect("opens");
            }
            9 => {
                rig.settle(&mut db);
                if db.engine.checkpoint().is_err() {
                    continue;
                }
                let closed = db.close();
                rig.expire();
                db = closed.open().expect("opens");
                assert_eq!(anew(&db), Vec::<String>::new(), "seed {seed}");
            }
            _ => {
                rig.settle(&mut db);
                rig.check(&db, &format!("with seed {seed}"));
            }
        }
    }
    rig.settle(&mut db);
    rig.check(&db, &format!("in the end, with seed {seed}"));
}
