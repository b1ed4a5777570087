//! Proves that a disk which takes its time to write a checkpoint holds up nobody: views go on, and what they do meanwhile is in the
//! next checkpoint.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use thalweg_state::{Disk, DiskFile, SystemDisk};

use crate::checkpoints::never_saved;
use crate::harness::Db;

/// Far beyond what any condition here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The file system, where at some moment no more runs can be begun.
#[derive(Debug, Default)]
struct SlowDisk {
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    /// Runs that can still be begun; `None` for any number.
    left: Option<usize>,
    /// Somebody wants to begin one more.
    waits: bool,
}

impl SlowDisk {
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

impl Disk for SlowDisk {
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
        SystemDisk.free_bytes(folder)
    }
}

#[test]
fn a_view_goes_on_while_a_checkpoint_writes_it() {
    let disk = Arc::new(SlowDisk::default());
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
