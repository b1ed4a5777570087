//! Proves that a table is what its runs and the log after them add up to, whenever it was saved, merged or read again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use thalweg_engine::EngineConfig;

use crate::harness::Db;

const DML: TableDefinition<'_, (u32, u64, u32), &[u8]> = TableDefinition::new("dml_log");

/// Checkpoints are made only when a test asks for one.
pub(crate) fn never_saved() -> EngineConfig {
    EngineConfig {
        checkpoint_interval: Duration::from_secs(3600),
        ..EngineConfig::default()
    }
}

fn save(db: &Db) -> bool {
    db.engine.checkpoint().expect("saves")
}

fn log_entries(file: &Path) -> u64 {
    let database = Database::open(file).expect("opens");
    let txn = database.begin_read().expect("reads");
    let log = txn.open_table(DML).expect("a log");
    log.len().expect("counts")
}

#[test]
fn a_restart_reads_the_runs_and_then_the_log() {
    let mut db = Db::with(never_saved());
    db.ok(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, at TIMESTAMP); CREATE TABLE m (v INT)",
    );
    assert!(!save(&db), "empty tables are nothing to save");
    db.ok("INSERT INTO t VALUES (1, 'one', NULL), (2, NULL, TIMESTAMP '2024-01-01 00:00:00')");
    db.ok("INSERT INTO m VALUES (7), (7), (8)");
    assert!(save(&db) && !save(&db), "what is saved is not saved again");
    let closed = db.close();
    assert_eq!((log_entries(&closed.file()), closed.runs().len()), (0, 2));
    let mut db = closed.open().expect("reopens");
    assert_eq!(db.rows("SELECT v FROM m"), ["7", "7", "8"]);
    assert!(!save(&db), "a restart changes nothing");
    db.ok("UPDATE t SET name = 'two' WHERE id = 2; DELETE FROM t WHERE id = 1");
    db.ok("INSERT INTO t VALUES (3, 'three', NULL); DELETE FROM m WHERE v = 7");
    let rows = db.rows("SELECT * FROM t");
    // Read from the log over the runs, then saved from there, then read from several runs.
    for _ in 0..2 {
        db = db.reopen();
        assert_eq!(db.rows("SELECT * FROM t"), rows);
        assert_eq!(db.rows("SELECT v FROM m"), ["8"]);
        save(&db);
    }
    let report = db.fails("INSERT INTO t VALUES (3, 'again', NULL)");
    assert_eq!(report.sqlstate, "23505");
    db.ok("INSERT INTO t VALUES (1, 'free again', NULL)");
    let made = db.engine.status().checkpoints;
    assert!(
        made.iter()
            .all(|one| one.error.is_none() && one.runs > 0 && one.bytes > 0)
    );
    assert_eq!(made.last().map(|one| one.number), Some(2));
}

/// A row that came and went between two checkpoints is in no run, and its log entries go all the same.
#[test]
fn what_cancels_is_not_written() {
    let mut db = Db::with(never_saved());
    db.ok("CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1); DELETE FROM t");
    assert!(save(&db));
    let closed = db.close();
    assert_eq!((log_entries(&closed.file()), closed.runs().len()), (0, 0));
    assert!(
        closed
            .open()
            .expect("reopens")
            .rows("SELECT id FROM t")
            .is_empty()
    );
}

#[test]
fn checkpoints_are_made_without_being_asked_for() {
    let mut db = Db::with(EngineConfig {
        checkpoint_interval: Duration::from_millis(20),
        ..EngineConfig::default()
    });
    db.ok("CREATE TABLE t (id INT); INSERT INTO t VALUES (1)");
    db.until("a checkpoint", |status| !status.checkpoints.is_empty());
    let (oid, made) = (db.oid("t").0, db.engine.status().checkpoints.len());
    db.ok("INSERT INTO t VALUES (2)");
    db.until("another one", |status| status.checkpoints.len() > made);
    let closed = db.close();
    assert_eq!(log_entries(&closed.file()), 0, "of table {oid}");
    assert_eq!(
        closed.open().expect("reopens").rows("SELECT id FROM t"),
        ["1", "2"]
    );
}

#[test]
fn runs_are_merged_and_dropped_tables_leave_no_file() {
    let mut db = Db::with(EngineConfig {
        checkpoint_interval: Duration::from_millis(20),
        disk_reserve: 0,
        ..EngineConfig::default()
    });
    db.ok("CREATE TABLE t (id INT PRIMARY KEY, v INT); CREATE TABLE u (id INT)");
    db.ok("INSERT INTO u VALUES (1)");
    for id in 0..12 {
        db.ok(&format!(
            "INSERT INTO t VALUES ({id}, 0); UPDATE t SET v = v + 1"
        ));
        save(&db);
    }
    let few = |db: &Db| db.runs().len() < 8;
    while !few(&db) {
        db.until("a merge", |_| true);
    }
    let expected: Vec<String> = (0..12).map(|id| format!("{id}|{}", 12 - id)).collect();
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    let mut db = db.reopen();
    assert_eq!(sorted(db.rows("SELECT * FROM t")), sorted(expected));
    db.ok("DROP TABLE t");
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while db.runs().len() > 1 {
        assert!(
            std::time::Instant::now() < deadline,
            "files of a dropped table stay"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(db.reopen().rows("SELECT id FROM u"), ["1"]);
}

#[test]
fn a_damaged_or_missing_run_is_named_and_harms_nobody_else() {
    for missing in [false, true] {
        let mut db = Db::with(never_saved());
        db.ok("CREATE TABLE t (id INT); INSERT INTO t VALUES (1)");
        assert!(save(&db));
        db.ok("CREATE TABLE u (id INT); INSERT INTO u VALUES (2)");
        db.ok("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t; FLUSH");
        assert!(save(&db));
        let closed = db.close();
        let run = closed.runs().first().expect("a run").clone();
        if missing {
            std::fs::remove_file(&run).expect("removes");
        } else {
            let mut content = std::fs::read(&run).expect("reads");
            let at = content.len() - 40;
            content[at] ^= 1;
            std::fs::write(&run, content).expect("writes");
        }
        let mut db = closed.open().expect("opens");
        for statement in ["SELECT id FROM t", "SELECT n FROM n", "DELETE FROM t"] {
            let report = db.fails(statement);
            assert_eq!(report.sqlstate, "55000", "{statement}: {report:?}");
            let detail = report.detail.unwrap_or_default();
            assert!(
                detail.contains("0000000000000000.run"),
                "{statement}: {detail}"
            );
        }
        db.ok("INSERT INTO u VALUES (4); FLUSH");
        assert!(save(&db));
        let mut db = db.reopen();
        assert_eq!(db.rows("SELECT id FROM u"), ["2", "4"]);
        db.ok("DROP MATERIALIZED VIEW n; DROP TABLE t");
        assert_eq!(db.reopen().rows("SELECT id FROM u"), ["2", "4"]);
    }
}

/// Rows, checkpoints, merges and restarts in any order: a table is what its statements made it.
#[test]
fn any_order_of_checkpoints_and_restarts_gives_the_same_table() {
    let seed = std::env::var("THALWEG_SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("replay: THALWEG_SEED={seed}");
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut db = Db::with(EngineConfig {
        disk_reserve: 0,
        ..never_saved()
    });
    db.ok("CREATE TABLE t (id INT PRIMARY KEY, v TEXT); CREATE TABLE m (v INT)");
    let (mut keyed, mut plain) = (BTreeMap::new(), BTreeMap::<i32, usize>::new());
    for step in 0..150 {
        let id = dice.random_range(0..12);
        match dice.random_range(0..10) {
            0..4 => {
                let v = format!("{step}");
                db.ok(&format!(
                    "INSERT INTO t VALUES ({id}, '{v}') ON CONFLICT (id) DO UPDATE SET v = excluded.v"
                ));
                keyed.insert(id, v);
            }
            4 => {
                db.ok(&format!("DELETE FROM t WHERE id < {id}"));
                keyed.retain(|key, _| *key >= id);
            }
            5 | 6 => {
                db.ok(&format!("INSERT INTO m VALUES ({id}), ({id})"));
                *plain.entry(id).or_default() += 2;
            }
            7 => {
                db.ok(&format!("DELETE FROM m WHERE v = {id}"));
                plain.remove(&id);
            }
            8 => drop(save(&db)),
            _ => db = db.reopen(),
        }
        if step % 10 == 0 {
            let mut expected: Vec<_> = keyed.iter().map(|(id, v)| format!("{id}|{v}")).collect();
            expected.sort();
            assert_eq!(db.rows("SELECT id, v FROM t"), expected, "step {step}");
            let mut expected: Vec<_> = plain
                .iter()
                .flat_map(|(v, count)| std::iter::repeat_n(v.to_string(), *count))
                .collect();
            expected.sort();
            assert_eq!(db.rows("SELECT v FROM m"), expected, "step {step}");
        }
    }
}
