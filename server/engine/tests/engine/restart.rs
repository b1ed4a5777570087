//! Proves that a restart gives the same answers, and that damage is an error that names the record.

use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableTable, TableDefinition};

use thalweg_state::{EpochEntry, Store};

use crate::checkpoints::never_saved;
use crate::harness::Db;
use crate::sources::generator;

const DML: TableDefinition<'_, (u32, u64, u32), &[u8]> = TableDefinition::new("dml_log");

#[test]
fn tables_views_and_sources_come_back() {
    let mut db = Db::new();
    generator(&mut db);
    db.ok("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)");
    db.ok("CREATE MATERIALIZED VIEW j AS SELECT t.name, count(*) AS n FROM s JOIN t ON s.v = t.id GROUP BY t.name");
    db.ok("INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, NULL); UPDATE t SET name = 'TWO' WHERE id = 2");
    db.ok("DELETE FROM t WHERE id = 3; WAIT FOR j; FLUSH");
    let (table, view) = (db.rows("SELECT * FROM t"), db.rows("SELECT * FROM j"));
    assert_eq!(view.len(), 2);
    let before = db.engine.latest();
    let mut db = db.reopen();
    let after = db.engine.latest();
    assert!(after.epoch > before.epoch && after.at_ms >= before.at_ms);
    assert_eq!(db.rows("SELECT * FROM t"), table);
    assert_eq!(db.rows("SELECT * FROM j"), view);
    // The key index came back too.
    assert_eq!(
        db.fails("INSERT INTO t VALUES (1, 'again')").sqlstate,
        "23505"
    );
    db.ok("INSERT INTO t VALUES (3, 'three'); FLUSH");
    assert_eq!(db.rows("SELECT count(*) FROM j"), ["3"]);
    let mut db = db.reopen();
    assert_eq!(db.rows("SELECT count(*) FROM j"), ["3"]);
    db.ok("DROP MATERIALIZED VIEW j; DROP TABLE t");
    let db = db.reopen();
    assert_eq!(db.engine.status().jobs.len(), 0);
}

/// A session that is still there does not keep the file of an engine that was shut down, and gets an error.
#[test]
fn the_file_is_free_at_once_after_a_shutdown() {
    let mut db = Db::new();
    generator(&mut db);
    db.ok("CREATE TABLE t (id INT); CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM s JOIN t ON t.id = s.v");
    let mut session = db.session();
    session.run("INSERT INTO t VALUES (1)").expect("inserts");
    let db = db.reopen();
    assert_eq!(db.rows("SELECT id FROM t"), ["1"]);
    let report = session
        .run("INSERT INTO t VALUES (2)")
        .expect_err("is stopped");
    assert_eq!(report.sqlstate, "57P01", "{report:?}");
    assert_eq!(db.rows("SELECT id FROM t"), ["1"]);
}

#[test]
fn a_damaged_log_entry_is_named_and_harms_nobody_else() {
    let mut db = Db::with(never_saved());
    db.ok("CREATE TABLE t (id INT); INSERT INTO t VALUES (1)");
    db.ok("CREATE TABLE u (id INT); INSERT INTO u VALUES (2)");
    db.ok("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t; FLUSH");
    let closed = db.close();
    {
        let database = Arc::new(Database::open(closed.file()).expect("opens"));
        let txn = database.begin_write().expect("writes");
        {
            let mut log = txn.open_table(DML).expect("a log");
            let (key, mut bytes) = {
                let (key, bytes) = log.first().expect("reads").expect("an entry");
                (key.value(), bytes.value().to_vec())
            };
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            log.insert(key, bytes.as_slice()).expect("writes");
        }
        txn.commit().expect("commits");
    }
    let mut db = closed.open().expect("opens");
    for statement in [
        "SELECT id FROM t",
        "SELECT n FROM n",
        "INSERT INTO t VALUES (3)",
        "DELETE FROM t",
    ] {
        let report = db.fails(statement);
        assert_eq!(report.sqlstate, "55000", "{statement}: {report:?}");
        let detail = report.detail.unwrap_or_default();
        assert!(detail.contains("DML log entry"), "{statement}: {detail}");
    }
    assert!(
        db.engine
            .status()
            .errors
            .iter()
            .any(|error| error.name == "t" && error.sqlstate == "XX001")
    );
    db.ok("INSERT INTO u VALUES (4); FLUSH");
    assert_eq!(db.rows("SELECT id FROM u"), ["2", "4"]);
    // What is broken can be dropped.
    db.ok("DROP MATERIALIZED VIEW n; DROP TABLE t");
    assert_eq!(db.reopen().rows("SELECT id FROM u"), ["2", "4"]);
}

/// What a sink has delivered is read when it delivers again: a record that cannot be read is the sink's own trouble.
#[test]
fn a_damaged_record_of_deliveries_stops_its_sink_alone() {
    const SINKS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("sink_log");
    let mut db = Db::new();
    db.ok("CREATE TABLE t (id INT); CREATE TABLE one (id INT); CREATE TABLE two (id INT)");
    db.ok("CREATE SINK a INTO one AS SELECT id FROM t; CREATE SINK b INTO two AS SELECT id FROM t");
    db.ok("INSERT INTO t VALUES (1), (2); WAIT FOR a; WAIT FOR b");
    let broken = db.oid("a").0;
    let closed = db.close();
    let whole = {
        let database = Database::open(closed.file()).expect("opens");
        let txn = database.begin_write().expect("writes");
        let whole = {
            let mut log = txn.open_table(SINKS).expect("a log");
            let records: Vec<_> = log
                .range((broken, 0)..(broken + 1, 0))
                .expect("reads")
                .map(|record| record.expect("a record"))
                .map(|(key, bytes)| (key.value(), bytes.value().to_vec()))
                .collect();
            assert!(!records.is_empty(), "nothing was delivered");
            for (key, _) in &records {
                log.insert(key, &b"no record"[..]).expect("writes");
            }
            records
        };
        txn.commit().expect("commits");
        whole
    };
    let mut db = closed.open().expect("opens");
    db.ok("INSERT INTO t VALUES (3); WAIT FOR b");
    assert_eq!(db.rows("SELECT id FROM two"), ["1", "2", "3"]);
    db.until("that its sink says so", |status| {
        let errors = status.errors.iter();
        let mut own = errors.filter(|error| error.name == "a");
        own.any(|error| error.message.contains("is corrupt: its checksum"))
    });
    assert_eq!(db.rows("SELECT id FROM one"), ["1", "2"]);
    // With its record back it goes on where it was.
    let closed = db.close();
    {
        let database = Database::open(closed.file()).expect("opens");
        let txn = database.begin_write().expect("writes");
        {
            let mut log = txn.open_table(SINKS).expect("a log");
            for (key, bytes) in &whole {
                log.insert(key, bytes.as_slice()).expect("writes");
            }
        }
        txn.commit().expect("commits");
    }
    let mut db = closed.open().expect("opens");
    db.ok("WAIT FOR a");
    assert_eq!(db.rows("SELECT id FROM one"), ["1", "2", "3"]);
}

/// A relation that a source feeds is not readable before it is back where it was, and the error names who is late.
#[test]
fn a_source_that_is_not_back_yet_is_named() {
    // Without a checkpoint the view begins where the source does.
    let mut db = Db::with(never_saved());
    generator(&mut db);
    db.ok("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM s; WAIT FOR n");
    assert_eq!(db.rows("SELECT n FROM n"), ["5000"]);
    let source = db.oid("s");
    let closed = db.close();
    {
        // What the log says was read is more than the generator will ever make.
        let database = Arc::new(Database::open(closed.file()).expect("opens"));
        let store = Store::open(database).expect("opens");
        let mut offsets = 1_u32.to_le_bytes().to_vec();
        offsets.extend_from_slice(b"0");
        offsets.extend_from_slice(&6000_u64.to_le_bytes());
        let last = store.last_epoch().expect("reads").expect("an epoch");
        let entry = EpochEntry {
            epoch: last.epoch + 1,
            at_ms: last.at_ms,
            offsets: vec![(source.0, offsets)],
            ..EpochEntry::default()
        };
        store.append(&entry, true).expect("appends");
    }
    let db = closed.open().expect("reopens");
    let report = db
        .session()
        .patience(Duration::from_millis(300))
        .run("SELECT n FROM n")
        .expect_err("is late");
    assert_eq!(report.sqlstate, "55000");
    assert!(report.message.contains("\"n\""), "{report:?}");
    assert!(report.detail.expect("a detail").contains("source \"s\""));
    assert!(
        report
            .hint
            .expect("a hint")
            .contains("SET consistency = 'eventual'")
    );
    let job = &db.engine.status().jobs[0];
    assert_eq!(
        (job.phase.as_str(), job.backfill),
        ("BACKFILLING", Some((5000, 6000)))
    );
}
