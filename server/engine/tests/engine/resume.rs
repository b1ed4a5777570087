//! Proves that views go on from the newest checkpoint, whatever their sources have lost meanwhile, and begin anew when they must.

use std::path::Path;

use thalweg_engine::{EngineConfig, JobPhase};
use thalweg_state::{Checkpoint, JobRecord, Runs};

use crate::checkpoints::never_saved;
use crate::harness::Db;
use crate::sources::generator;

pub(crate) fn save(db: &Db) {
    assert!(db.engine.checkpoint().expect("saves"), "nothing was saved");
}

/// What was computed from its inputs again, and why.
pub(crate) fn anew(db: &Db) -> Vec<String> {
    let status = db.engine.status();
    let errors = status
        .errors
        .iter()
        .filter(|error| error.sqlstate == "01000");
    errors.map(|error| error.message.clone()).collect()
}

const VIEWS: [(&str, &str); 9] = [
    (
        "few",
        "SELECT id, v, 'x' || CAST(v AS TEXT) AS x FROM s WHERE v < 10",
    ),
    (
        "sums",
        "SELECT v, count(*) AS n, sum(id) AS s, avg(id) AS a, bool_or(id > 4000) AS b FROM s GROUP BY v",
    ),
    (
        "ends",
        "SELECT v % 7 AS k, min(id) AS a, max(id) AS z, count(DISTINCT v) AS n, string_agg(CAST(v AS TEXT), ',' ORDER BY id DESC) FILTER (WHERE id < 9) AS t FROM s GROUP BY v % 7",
    ),
    (
        "total",
        "SELECT count(*) AS n, sum(id::double precision) AS f FROM s",
    ),
    ("kinds", "SELECT DISTINCT v FROM s"),
    ("joined", "SELECT s.id, t.w FROM s JOIN t ON s.v = t.v"),
    (
        "padded",
        "SELECT t.w, s.id FROM t LEFT JOIN s ON t.v = s.v AND s.id < 50",
    ),
    (
        "above",
        "SELECT k.v, j.w FROM kinds k LEFT JOIN joined j ON j.id = k.v",
    ),
    (
        "ranked",
        "SELECT id, rank() OVER (PARTITION BY v ORDER BY id) AS r FROM s WHERE v < 5",
    ),
];

fn views(db: &mut Db) {
    generator(db);
    db.ok("CREATE TABLE t (v BIGINT, w TEXT); INSERT INTO t VALUES (1, 'one'), (2, 'two'), (2, 'two'), (NULL, NULL), (1000, 'none')");
    for (name, query) in VIEWS {
        db.ok(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"));
    }
    VIEWS
        .iter()
        .for_each(|(name, _)| db.ok(&format!("WAIT FOR {name}")));
}

fn check(db: &Db, when: &str) {
    for (name, query) in VIEWS {
        let mut session = db.session();
        assert_eq!(
            session.rows(&format!("SELECT * FROM {name}")),
            session.rows(query),
            "{name} {when}"
        );
    }
}

/// Every way of keeping a view goes on where it was, reads nothing of its source again, and follows what comes.
#[test]
fn views_go_on_from_a_checkpoint() {
    let mut db = Db::with(never_saved());
    views(&mut db);
    save(&db);
    assert!(
        !db.engine.checkpoint().expect("saves"),
        "what is saved is not saved again"
    );
    for round in 0..3 {
        // What comes after the checkpoint is in the log only.
        db.ok(&format!("INSERT INTO t VALUES ({round}, 'new'), (3, NULL)"));
        db.ok(&format!(
            "UPDATE t SET w = 'two of {round}' WHERE v = 2; DELETE FROM t WHERE v = 1"
        ));
        db = db.reopen();
        check(&db, "after a restart");
        assert_eq!(anew(&db), Vec::<String>::new());
        assert_eq!(db.engine.status().sources[0].scanned, 0, "in round {round}");
        db.ok(&format!(
            "INSERT INTO t VALUES (1, 'again {round}'); DELETE FROM t WHERE v = 3"
        ));
        check(&db, "after changes");
        save(&db);
    }
}

pub(crate) fn file_source(folder: &Path) -> Db {
    let mut db = Db::with(EngineConfig {
        file_root: folder.to_path_buf(),
        ..never_saved()
    });
    db.ok("CREATE SOURCE s (id BIGINT, v BIGINT) WITH (connector = 'file', path = 'part_*.json', follow = 'true')");
    db
}

pub(crate) fn part(folder: &Path, number: i64) {
    let rows = (0..10).map(|row| format!("{{\"id\": {}, \"v\": {row}}}\n", number * 10 + row));
    std::fs::write(
        folder.join(format!("part_{number}.json")),
        rows.collect::<String>(),
    )
    .expect("writes");
}

/// Views of files, each kept in another way.
pub(crate) const OF_FILES: [(&str, &str); 4] = [
    ("plain", "SELECT id FROM s WHERE v > 5"),
    (
        "counted",
        "SELECT v, count(*) AS n, max(id) AS z FROM s GROUP BY v",
    ),
    ("ranked", "SELECT id, rank() OVER (ORDER BY id) AS r FROM s"),
    (
        "twice",
        "SELECT count(*) AS n FROM s a JOIN s b ON a.v = b.v",
    ),
];

/// Two files, and what is computed from them.
pub(crate) fn views_of_files() -> (tempfile::TempDir, Db) {
    let folder = tempfile::tempdir().expect("a folder");
    part(folder.path(), 0);
    part(folder.path(), 1);
    let mut db = file_source(folder.path());
    for (name, query) in OF_FILES {
        db.ok(&format!(
            "CREATE MATERIALIZED VIEW {name} AS {query}; WAIT FOR {name}"
        ));
    }
    (folder, db)
}

/// What has come while nothing ran is read once for all views that stood at one place.
#[test]
fn a_gap_is_read_once_for_all_views() {
    let (folder, db) = views_of_files();
    save(&db);
    let closed = db.close();
    (2..5).for_each(|number| part(folder.path(), number));
    let mut db = closed.open().expect("reopens");
    for (name, query) in OF_FILES {
        db.ok(&format!("WAIT FOR {name}"));
        assert_eq!(
            db.rows(&format!("SELECT * FROM {name}")),
            db.rows(query),
            "{name}"
        );
    }
    assert_eq!(anew(&db), Vec::<String>::new());
    let scanned = db.engine.status().sources[0].scanned;
    assert!(scanned <= 30, "{scanned} records of a gap of 30 were read");
}

/// A view that fails goes back to its newest checkpoint, and keeps what its source has lost.
#[test]
fn a_view_that_fails_goes_back_to_its_checkpoint() {
    let (folder, mut db) = views_of_files();
    db.ok("CREATE TABLE t (v BIGINT PRIMARY KEY, w BIGINT)");
    db.ok("INSERT INTO t VALUES (0, 1), (1, 2), (2, 4), (3, 5), (4, 2), (5, 1)");
    db.ok("CREATE MATERIALIZED VIEW strict WITH (on_compute_error = 'fail') AS SELECT t.w, count(*) AS n, sum(s.id) AS ids, sum(100 / t.w) AS q FROM s JOIN t ON s.v = t.v GROUP BY t.w");
    db.ok("CREATE MATERIALIZED VIEW above AS SELECT sum(n) AS n, sum(ids) AS ids FROM strict; WAIT FOR above");
    assert_eq!(db.rows("SELECT * FROM above"), ["12|90"]);
    for round in 0..3 {
        db.engine.checkpoint().expect("saves");
        let last = round + 1;
        std::fs::remove_file(folder.path().join(format!("part_{last}.json"))).expect("removes");
        if round == 0 {
            std::fs::remove_file(folder.path().join("part_0.json")).expect("removes");
        }
        db.ok("UPDATE t SET w = 0 WHERE v = 3");
        db.until("the failure", |status| {
            let mut jobs = status.jobs.iter().filter(|job| job.name == "strict");
            jobs.any(|job| job.error.is_some())
        });
        part(folder.path(), last + 1);
        if round == 2 {
            // What was saved before it failed is what a restart finds.
            db = db.reopen();
        }
        db.ok(&format!("UPDATE t SET w = {} WHERE v = 3", round + 6));
        db.until_ok("WAIT FOR above");
        let n = 18 + 6 * round;
        let ids: i64 = (0..last + 2).map(|file| file * 60 + 15).sum();
        assert_eq!(db.rows("SELECT * FROM above"), [format!("{n}|{ids}")]);
        assert_eq!(
            db.rows(&format!("SELECT n FROM strict WHERE w = {}", round + 6)),
            [(last + 2).to_string()]
        );
    }
    assert_eq!(anew(&db), Vec::<String>::new());
}

/// What a source has forgotten is still in the views that had it, with what comes later.
#[test]
fn rows_that_a_source_has_lost_stay_in_views() {
    let (folder, db) = views_of_files();
    let before: Vec<_> = OF_FILES
        .iter()
        .map(|(name, _)| db.rows(&format!("SELECT * FROM {name}")))
        .collect();
    save(&db);
    let closed = db.close();
    std::fs::remove_file(folder.path().join("part_0.json")).expect("removes");
    let mut db = closed.open().expect("reopens");
    for ((name, _), before) in OF_FILES.iter().zip(&before) {
        assert_eq!(&db.rows(&format!("SELECT * FROM {name}")), before, "{name}");
    }
    assert_eq!(anew(&db), Vec::<String>::new());
    part(folder.path(), 2);
    db.until("the new rows", |status| {
        status
            .relations
            .iter()
            .any(|one| one.name == "plain" && one.rows == 12)
    });
    db.ok("WAIT FOR counted; WAIT FOR twice");
    assert_eq!(
        db.rows("SELECT min(n), max(n), max(z) FROM counted"),
        ["3|3|29"]
    );
    assert_eq!(db.rows("SELECT n FROM twice"), ["90"]);
}

/// Objects that came or went after the checkpoint are what the catalog says.
#[test]
fn a_restart_follows_the_catalog() {
    let mut db = Db::with(never_saved());
    generator(&mut db);
    db.ok("CREATE TABLE t (v BIGINT); INSERT INTO t VALUES (1)");
    db.ok("CREATE MATERIALIZED VIEW a AS SELECT count(*) AS n FROM s; CREATE MATERIALIZED VIEW b AS SELECT count(*) AS n FROM t");
    db.ok("WAIT FOR a; WAIT FOR b");
    save(&db);
    let files = db.runs().len();
    db.ok("DROP MATERIALIZED VIEW a; CREATE MATERIALIZED VIEW c AS SELECT sum(v) AS n FROM t; INSERT INTO t VALUES (2)");
    let mut db = db.reopen();
    assert_eq!(db.rows("SELECT b.n, c.n FROM b, c"), ["2|3"]);
    assert_eq!(anew(&db), Vec::<String>::new());
    assert!(db.runs().len() < files, "files of a dropped view stay");
    // A job that was never saved holds no log, and is saved with the next checkpoint.
    db.ok("DROP MATERIALIZED VIEW b");
    save(&db);
    let db = db.reopen();
    assert_eq!(db.rows("SELECT n FROM c"), ["3"]);
}

/// Changes what is saved of a job.
fn change(runs: &Runs, oid: u32, how: impl FnOnce(&mut Vec<u8>)) {
    let mut jobs = runs.jobs().expect("reads");
    let mut record = jobs.remove(&oid).expect("a job").expect("whole");
    how(&mut record);
    let jobs = vec![JobRecord {
        object: oid,
        record: Some(record),
        parts: 9,
    }];
    let committed = runs.commit(Checkpoint {
        jobs,
        ..Checkpoint::default()
    });
    committed.expect("commits");
}

/// The saved state is of another plan then.
fn other_plan(record: &mut Vec<u8>) {
    record[3] ^= 1;
}

/// A view that cannot go on from its state, and whose source has lost some of what it was computed from, is in state ERROR: it would
/// silently become another one. It says what to do, others go on, and so does it when the rows are back.
#[test]
fn a_view_is_not_computed_from_a_part_of_what_it_had() {
    let (folder, mut db) = views_of_files();
    db.ok("CREATE MATERIALIZED VIEW above AS SELECT sum(n) AS n FROM counted; WAIT FOR above");
    save(&db);
    let oid = db.oid("counted").0;
    let closed = db.close();
    closed.with_runs(|runs| change(runs, oid, other_plan));
    let lost = folder.path().join("part_0.json");
    let content = std::fs::read(&lost).expect("reads");
    std::fs::remove_file(&lost).expect("removes");
    let mut db = closed.open().expect("reopens");
    for _ in 0..2 {
        db.until("the reason to be told", |status| {
            let mut jobs = status.jobs.iter().filter(|job| job.name == "counted");
            jobs.any(|job| {
                let reason = job.error.as_deref().unwrap_or_default();
                job.phase == JobPhase::Error
                    && reason.contains("part_0.json")
                    && reason.contains("DROP")
            })
        });
        for query in ["SELECT * FROM counted", "SELECT n FROM above"] {
            let refused = db.fails(query);
            assert_eq!(refused.sqlstate, "55000", "{refused:?}");
            assert!(
                refused
                    .detail
                    .is_some_and(|why| why.contains("CREATE it again"))
            );
        }
        // Whoever goes on from its state has what it had.
        assert_eq!(db.rows("SELECT n FROM twice"), ["40"]);
        // It is the same after another start.
        db.engine.checkpoint().expect("saves");
        db = db.reopen();
    }
    std::fs::write(&lost, content).expect("writes");
    db.until_ok("WAIT FOR counted");
    assert_eq!(db.rows("SELECT v, n FROM counted WHERE v = 3"), ["3|2"]);
    db.until_ok("WAIT FOR above");
    assert_eq!(db.rows("SELECT n FROM above"), ["20"]);
}

/// State that was saved for another plan, or is damaged, is not read: the view begins anew and says why.
#[test]
fn state_of_another_plan_is_not_read() {
    for damage in ["plan", "record", "run"] {
        let mut db = Db::with(never_saved());
        generator(&mut db);
        db.ok("CREATE MATERIALIZED VIEW n AS SELECT v, count(*) AS n FROM s GROUP BY v; CREATE MATERIALIZED VIEW m AS SELECT max(n) AS m FROM n");
        db.ok("WAIT FOR m");
        save(&db);
        let (rows, oid) = (db.rows("SELECT * FROM n"), db.oid("n").0);
        let closed = db.close();
        if damage == "run" {
            for run in closed.runs() {
                let mut content = std::fs::read(&run).expect("reads");
                let at = content.len() - 40;
                content[at] ^= 1;
                std::fs::write(&run, content).expect("writes");
            }
        } else {
            closed.with_runs(|runs| match damage {
                "plan" => change(runs, oid, other_plan),
                _ => change(runs, oid, |record| record.truncate(record.len() - 1)),
            });
        }
        let mut db = closed.open().expect("reopens");
        assert_eq!(db.rows("SELECT * FROM n"), rows);
        let why = anew(&db);
        assert_eq!(why.len(), 2, "{why:?}");
        assert!(
            why[0].contains("\"n\"") && why[0].contains(damage),
            "{why:?}"
        );
        // A view that is not computed yet is not saved.
        db.ok("WAIT FOR m");
        save(&db);
        let db = db.reopen();
        assert_eq!(db.rows("SELECT * FROM n"), rows);
        assert_eq!(anew(&db), Vec::<String>::new(), "it is saved as it is now");
    }
}
