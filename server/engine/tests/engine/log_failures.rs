//! Proves that a log which cannot be written for a while, at whatever step, costs nothing but the time: statements are refused and are
//! not there, sources wait and lose and double nothing, and everything goes on without a restart.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thalweg_engine::EngineConfig;
use thalweg_state::{Disk, FaultyDisk, SystemDisk};

use crate::harness::Db;

/// Far beyond what any condition here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

const CREATE: [&str; 6] = [
    "CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)",
    "CREATE TABLE plain (id BIGINT)",
    "CREATE SOURCE s (id BIGINT) WITH (connector = 'datagen', rows_per_second = 2000, fields.id.kind = 'sequence')",
    "CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS n, count(DISTINCT id) AS ids, max(id) - min(id) + 1 AS span FROM s",
    "CREATE MATERIALIZED VIEW sums AS SELECT v, count(*) AS n FROM t GROUP BY v",
    "CREATE MATERIALIZED VIEW joined AS SELECT t.id FROM t JOIN plain ON t.id = plain.id",
];

fn over(disk: &FaultyDisk) -> Db {
    let config = EngineConfig {
        checkpoint_interval: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        ..EngineConfig::default()
    };
    let mut closed = Db::with(config).close();
    closed.folder.disk = Arc::new(disk.clone()) as Arc<dyn Disk>;
    let mut db = closed.open().expect("opens");
    CREATE.iter().for_each(|sql| db.ok(sql));
    db
}

/// Inserts, of which some are refused; the ids that were acknowledged. Each id is tried twice.
fn insert(db: &Db, from: i64, there: &mut BTreeSet<i64>, refused: &mut BTreeSet<i64>) {
    for id in from..from + 8 {
        let mut session = db.session();
        let row = session.run(&format!("INSERT INTO t VALUES ({id}, {})", id % 3));
        let known = match row {
            Ok(_) => there.insert(id),
            Err(report) => {
                assert!(["53100", "58030"].contains(&report.sqlstate), "{report:?}");
                refused.insert(id)
            }
        };
        assert!(known);
        // The index of the key has what the log has: neither a refused row nor the lack of one that is there.
        let again = session.run(&format!("INSERT INTO t VALUES ({id}, {})", id % 3));
        match again {
            Ok(_) => assert!(refused.remove(&id) && there.insert(id)),
            Err(report) if report.sqlstate == "23505" => assert!(there.contains(&id), "{report:?}"),
            Err(report) => assert!(["53100", "58030"].contains(&report.sqlstate), "{report:?}"),
        }
        let _plain = session.run(&format!("INSERT INTO plain VALUES ({id})"));
    }
}

fn check(db: &mut Db, there: &BTreeSet<i64>, at: &str) {
    let ids = db.rows("SELECT id FROM t ORDER BY id");
    let expected: Vec<String> = there.iter().map(i64::to_string).collect();
    assert_eq!(sorted(ids), sorted(expected), "{at}");
    let sums = db.rows("SELECT sum(n) FROM sums");
    assert_eq!(sums, [there.len().to_string()], "{at}");
    let joined = db.rows("SELECT id FROM joined");
    let direct = db.rows("SELECT t.id FROM t JOIN plain ON t.id = plain.id");
    assert_eq!(sorted(joined), sorted(direct), "{at}");
    assert_eq!(
        db.rows("SELECT n = ids AND n = span FROM seen"),
        ["true"],
        "{at}"
    );
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

/// The source moves, and statements are accepted.
fn goes_on(db: &mut Db, id: i64, there: &mut BTreeSet<i64>) {
    let records = db.engine.status().sources[0].records;
    db.until("the source goes on", |status| {
        status.sources[0].records > records
    });
    db.until_ok(&format!("INSERT INTO t VALUES ({id}, 1)"));
    there.insert(id);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = db.engine.checkpoint() {
        assert!(Instant::now() < deadline, "{error}");
    }
    db.ok("FLUSH");
}

#[test]
fn a_log_that_fails_at_any_step_is_written_on() {
    let disk = FaultyDisk::new(Arc::new(SystemDisk), "redb");
    let mut db = over(&disk);
    let (mut there, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let faults = (0..40)
        .step_by(2)
        .map(|after| (after, 1, ErrorKind::StorageFull));
    let longer = (0..40).step_by(8).map(|after| (after, 6, ErrorKind::Other));
    for (round, (after, times, kind)) in faults.chain(longer).enumerate() {
        let at = format!("{times} failures after {after} steps");
        let from = 100 * (round as i64 + 1);
        disk.fail(after, times, kind);
        let deadline = Instant::now() + PATIENCE;
        let mut next = from;
        while disk.failed() < times && next < from + 80 {
            assert!(Instant::now() < deadline, "{at}");
            insert(&db, next, &mut there, &mut refused);
            next += 8;
        }
        disk.mend();
        goes_on(&mut db, from + 90, &mut there);
        check(&mut db, &there, &at);
        if round % 12 == 11 {
            db = db.reopen();
            check(&mut db, &there, &format!("{at}, again"));
        }
    }
    assert!(!refused.is_empty(), "no statement met a failure");
    db = db.reopen();
    check(&mut db, &there, "at the end");
}

/// While nothing can be written statements are refused at once, queries are answered, and the state says why.
#[test]
fn a_full_disk_is_waited_out() {
    let disk = FaultyDisk::new(Arc::new(SystemDisk), "redb");
    let mut db = over(&disk);
    let (mut there, mut refused) = (BTreeSet::new(), BTreeSet::new());
    insert(&db, 0, &mut there, &mut refused);
    assert_eq!(there.len(), 8);
    db.ok("FLUSH");
    disk.fail(0, u64::MAX, ErrorKind::StorageFull);
    let waits = |status: &thalweg_engine::EngineStatus| status.sources[0].health == "HELD";
    db.until("the source waits", waits);
    let detail = db.engine.status().sources[0].detail.clone();
    assert_eq!(detail.as_deref(), Some("the log cannot be written"));
    assert_eq!(db.rows("SELECT count(*) FROM t"), ["8"]);
    for refused in [
        "INSERT INTO t VALUES (50, 1)",
        "DELETE FROM t",
        "UPDATE t SET v = 9",
    ] {
        let report = db.session().run(refused).expect_err("there is no room");
        assert_eq!(report.sqlstate, "53100", "{refused}: {report:?}");
    }
    disk.mend();
    goes_on(&mut db, 60, &mut there);
    check(&mut db, &there, "after it was mended");
    db = db.reopen();
    check(&mut db, &there, "again");
}
