//! Proves that a disk which takes its time to write a checkpoint holds up nobody, what views do meanwhile being in the next one; and
//! that a disk which is nearly full lets rows wait, until there is room.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use thalweg_engine::{EngineConfig, JobPhase};
use thalweg_state::{Disk, DiskFile, SystemDisk};

use crate::checkpoints::never_saved;
use crate::harness::Db;

/// Far beyond what any condition here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The file system, where at some moment no more runs can be begun, or little is free.
#[derive(Debug, Default)]
struct ScriptedDisk {
    gate: Mutex<Gate>,
    changed: Condvar,
    free_bytes: Mutex<Option<u64>>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Runs that can still be begun; `None` for any number.
    left: Option<usize>,
    /// Somebody wants to begin one more.
    waits: bool,
}

impl ScriptedDisk {
    fn tell_free(&self, bytes: u64) {
        *self.free_bytes.lock().expect("nobody panicked") = Some(bytes);
    }

    /// Lets so many more runs be begun.
    fn allow(&self, runs: Option<usize>) {
        let mut gate = self.gate.lock().expect("nobody panicked");
        (gate.left, gate.waits) = (runs, false);
        self.changed.notify_all();
    }

    fn until_somebody_waits(&self) {
        let gate = self.gate.lock().expect("nobody panicked");
        let waits = self
            .changed
            .wait_timeout_while(gate, PATIENCE, |gate| !gate.waits);
        let (_gate, timed_out) = waits.expect("nobody panicked");
        assert!(!timed_out.timed_out(), "nobody writes a run");
    }

    /// Fails when it is not let through for very long: then something waits for the checkpoint that must not.
    fn pass(&self) -> io::Result<()> {
        let mut gate = self.gate.lock().expect("nobody panicked");
        gate.waits |= gate.left == Some(0);
        self.changed.notify_all();
        let closed = |gate: &mut Gate| gate.left == Some(0);
        let opened = self.changed.wait_timeout_while(gate, PATIENCE, closed);
        let (mut gate, timed_out) = opened.expect("nobody panicked");
        if timed_out.timed_out() {
            return Err(io::Error::other("the gate stayed shut"));
        }
        gate.left = gate.left.map(|left| left - 1);
        Ok(())
    }
}

impl Disk for ScriptedDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if path.extension().is_some_and(|kind| kind == "run") {
            self.pass()?;
        }
        SystemDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        SystemDisk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        SystemDisk.create_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        SystemDisk.sync_folder(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        SystemDisk.list(folder)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let told = *self.free_bytes.lock().expect("nobody panicked");
        told.map_or_else(|| SystemDisk.free_bytes(folder), Ok)
    }
}

#[test]
fn a_view_goes_on_while_a_checkpoint_writes_it() {
    let disk = Arc::new(ScriptedDisk::default());
    let mut closed = Db::with(never_saved()).close();
    closed.folder.disk = Arc::clone(&disk) as Arc<dyn Disk>;
    let mut db = closed.open().expect("opens");
    db.ok("CREATE TABLE t (k BIGINT, v BIGINT)");
    db.ok(
        "CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS n, max(v) AS m FROM t GROUP BY k",
    );
    db.ok("CREATE MATERIALIZED VIEW total AS SELECT sum(n) AS n FROM sums");
    db.ok("INSERT INTO t SELECT i % 5, i FROM generate_series(1, 100) AS g(i); FLUSH");
    // The table's own run, and then no more: the views have been taken, and the first of them is being written.
    disk.allow(Some(1));
    let engine = db.engine.clone();
    let saving = std::thread::spawn(move || engine.checkpoint());
    disk.until_somebody_waits();
    for round in 1..=5 {
        db.ok("INSERT INTO t SELECT i % 5, i FROM generate_series(101, 110) AS g(i); DELETE FROM t WHERE v = 7; FLUSH");
        let expected = 99 + 10 * round;
        assert_eq!(db.rows("SELECT n FROM total"), [expected.to_string()]);
    }
    disk.allow(None);
    let saved = saving.join().expect("no panic");
    assert!(saved.expect("saves"));
    // What came meanwhile is in no checkpoint yet, and then in the next.
    for saves in [false, true] {
        db = db.reopen();
        assert_eq!(db.rows("SELECT n FROM total"), ["149"]);
        assert_eq!(db.rows("SELECT sum(n), max(m) FROM sums"), ["149|110"]);
        db.ok("INSERT INTO t VALUES (1, 1); DELETE FROM t WHERE k = 1 AND v = 1; FLUSH");
        db.ok("INSERT INTO t VALUES (1, 1); FLUSH");
        assert!(!saves || db.engine.checkpoint().expect("saves"));
    }
}

/// Sources and new rows wait while there is little room, everything else goes on, and nothing is lost.
#[test]
fn rows_wait_while_the_disk_is_nearly_full() {
    const MB: u64 = 1 << 20;
    let disk = Arc::new(ScriptedDisk::default());
    disk.tell_free(5_000 * MB);
    let config = EngineConfig {
        disk_reserve: 800 * MB,
        ..EngineConfig::default()
    };
    let mut closed = Db::with(config).close();
    closed.folder.disk = Arc::clone(&disk) as Arc<dyn Disk>;
    let mut db = closed.open().expect("opens");
    db.ok("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT); INSERT INTO t VALUES (1, 1), (2, 2)");
    db.ok("CREATE SOURCE s (id BIGINT) WITH (connector = 'datagen', rows_per_second = 5000, fields.id.kind = 'sequence')");
    db.ok("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n, count(DISTINCT id) AS ids FROM s; CREATE MATERIALIZED VIEW sums AS SELECT sum(v) AS v FROM t");
    for round in 1..=3 {
        disk.tell_free(99 * MB);
        db.until("the source waits", |status| {
            status.sources[0].health == "HELD"
        });
        let status = db.engine.status();
        let reason = status.sources[0].detail.as_deref();
        assert_eq!(reason, Some("the disk of the data dir is nearly full"));
        let view = status.jobs.iter().find(|job| job.name == "n");
        assert_eq!(view.map(|view| view.phase), Some(JobPhase::Held));
        for refused in ["INSERT INTO t VALUES (10, 1)", "UPDATE t SET v = v + 1"] {
            let mut session = db.session();
            let report = session.run(refused).expect_err("there is no room");
            assert_eq!(report.sqlstate, "53100", "{refused}: {report:?}");
        }
        let mut session = db.session();
        session.begin();
        let insert = session.run("INSERT INTO t VALUES (10, 1)");
        insert.expect("nothing is written yet");
        let report = session.commit().expect_err("there is no room");
        assert_eq!(report.sqlstate, "53100", "{report:?}");
        // Reading, DDL and taking rows away need next to nothing.
        db.ok("CREATE TABLE other (k BIGINT); DROP TABLE other");
        db.ok(&format!("DELETE FROM t WHERE k = {round}"));
        assert_eq!(
            db.rows("SELECT count(*) FROM t WHERE k < 3"),
            [(2 - round.min(2)).to_string()]
        );
        assert!(db.engine.checkpoint().is_ok());
        let records = db.engine.status().sources[0].records;
        disk.tell_free(126 * MB);
        db.until("the source goes on", |status| {
            status.sources[0].records > records
        });
        db.until_ok(&format!("INSERT INTO t VALUES ({}, {round})", 100 + round));
    }
    db = db.reopen();
    assert_eq!(db.rows("SELECT k FROM t ORDER BY k"), ["101", "102", "103"]);
    assert_eq!(db.rows("SELECT v FROM sums"), ["6"]);
    assert_eq!(db.rows("SELECT n = ids FROM n"), ["true"]);
}
