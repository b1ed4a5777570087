//! Proves that views follow their inputs, whatever they are built on, and that a failing one stays alone.

use std::time::Duration;

use crate::harness::Db;

#[test]
fn views_follow_tables_and_views() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v INT); INSERT INTO t VALUES (1, 10), (1, 20), (2, 30)");
    // Stateless, recomputed, stateless over recomputed, recomputed over stateless.
    db.ok("CREATE MATERIALIZED VIEW big AS SELECT k, v * 2 AS d FROM t WHERE v >= 20");
    db.ok("CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS s FROM t GROUP BY k");
    db.ok("CREATE MATERIALIZED VIEW high AS SELECT k FROM sums WHERE s >= 30");
    db.ok("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM big");
    db.ok("CREATE MATERIALIZED VIEW joint AS SELECT k FROM t UNION ALL SELECT d FROM big");
    assert_eq!(db.rows("SELECT k, d FROM big"), ["1|40", "2|60"]);
    assert_eq!(db.rows("SELECT k, s FROM sums"), ["1|30", "2|30"]);
    assert_eq!(db.rows("SELECT k FROM high"), ["1", "2"]);
    db.ok("DELETE FROM t WHERE v = 20; INSERT INTO t VALUES (3, 99), (3, 99); UPDATE t SET v = 31 WHERE k = 2; FLUSH");
    assert_eq!(db.rows("SELECT k, d FROM big"), ["2|62", "3|198", "3|198"]);
    assert_eq!(db.rows("SELECT k, s FROM sums"), ["1|10", "2|31", "3|198"]);
    assert_eq!(db.rows("SELECT k FROM high"), ["2", "3"]);
    assert_eq!(db.rows("SELECT n FROM n"), ["3"]);
    assert_eq!(
        db.rows("SELECT k FROM joint"),
        ["1", "198", "198", "2", "3", "3", "62"]
    );
    db.ok("DELETE FROM t; FLUSH");
    for view in ["big", "sums", "high", "joint"] {
        assert_eq!(
            db.rows(&format!("SELECT * FROM {view}")),
            Vec::<String>::new(),
            "{view}"
        );
    }
    let status = db.engine.status();
    assert!(
        status.jobs.iter().all(|job| job.error.is_none()),
        "{status:#?}"
    );
}

#[test]
fn a_query_joins_views_at_one_epoch() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v INT); INSERT INTO t VALUES (1, 10)");
    db.ok("CREATE MATERIALIZED VIEW a AS SELECT sum(v) AS s FROM t; CREATE MATERIALIZED VIEW b AS SELECT count(*) AS n FROM t");
    assert_eq!(
        db.rows("SELECT a.s, b.n, (SELECT max(v) FROM t) FROM a, b"),
        ["10|1|10"]
    );
}

#[test]
fn a_failing_view_stays_alone() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (v INT); INSERT INTO t VALUES (1)");
    db.ok("CREATE MATERIALIZED VIEW bad WITH (on_compute_error = 'fail') AS SELECT sum(10 / v) AS x FROM t");
    db.ok("CREATE MATERIALIZED VIEW good AS SELECT count(*) AS n FROM t");
    assert_eq!(db.rows("SELECT x FROM bad"), ["10"]);
    db.ok("INSERT INTO t VALUES (0)");
    db.until("the view fails", |status| {
        status.jobs.iter().any(|job| job.phase.as_str() == "ERROR")
    });
    let report = db.fails("SELECT x FROM bad");
    assert_eq!(report.sqlstate, "55000");
    assert!(report.hint.expect("a hint").contains("eventual"));
    // FLUSH waits for the views that work.
    db.ok("FLUSH");
    assert_eq!(db.rows("SELECT n FROM good"), ["2"]);
    assert_eq!(db.session().eventual().rows("SELECT x FROM bad"), ["10"]);
    assert!(
        db.engine
            .status()
            .errors
            .iter()
            .any(|error| error.name == "bad")
    );
    // The job retries alone and recovers.
    db.ok("DELETE FROM t WHERE v = 0");
    db.until("the view recovers", |status| {
        status
            .jobs
            .iter()
            .all(|job| job.phase.as_str() == "RUNNING")
    });
    assert_eq!(db.rows("SELECT x FROM bad"), ["10"]);
}

/// However the epochs of the bad row and of its removal fall, the next try is where the row is gone.
#[test]
fn a_failed_view_recovers_in_an_idle_system() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (v INT); CREATE TABLE other (v INT); INSERT INTO t VALUES (5)");
    db.ok("CREATE MATERIALIZED VIEW step WITH (on_compute_error = 'fail') AS SELECT 10 / v AS x FROM t");
    db.ok("CREATE MATERIALIZED VIEW whole WITH (on_compute_error = 'fail') AS SELECT sum(10 / v) AS x FROM t");
    for _ in 0..3 {
        db.ok("INSERT INTO other VALUES (1); INSERT INTO t VALUES (0)");
        db.until("both views fail", |status| {
            status.jobs.iter().all(|job| job.phase.as_str() == "ERROR")
        });
        db.ok("DELETE FROM t WHERE v = 0");
        db.until("both views recover", |status| {
            let jobs = &mut status.jobs.iter();
            jobs.all(|job| job.phase.as_str() == "RUNNING" && job.lag_epochs == 0)
        });
        assert_eq!(db.rows("SELECT x FROM step"), ["2"]);
        assert_eq!(db.rows("SELECT x FROM whole"), ["2"]);
    }
}

#[test]
fn now_moves_without_input() {
    let mut db = Db::new();
    db.ok("CREATE MATERIALIZED VIEW clock AS SELECT now() AS t");
    let first = db.rows("SELECT t FROM clock");
    assert_eq!(first.len(), 1);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while db.rows("SELECT t FROM clock") == first {
        assert!(std::time::Instant::now() < deadline, "now() stands still");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_dropped_view_is_gone_and_others_go_on() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (v INT); CREATE MATERIALIZED VIEW a AS SELECT sum(v) AS s FROM t");
    db.ok("CREATE MATERIALIZED VIEW b AS SELECT v FROM t WHERE v > 1; INSERT INTO t VALUES (2); DROP MATERIALIZED VIEW a; FLUSH");
    assert_eq!(db.rows("SELECT v FROM b"), ["2"]);
    assert_eq!(db.engine.status().jobs.len(), 1);
}

/// A row whose value cannot be computed is NULL in the view, with one record, and an error ad hoc.
#[test]
fn compute_errors_are_recorded_once() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (v INT); INSERT INTO t VALUES (5), (0)");
    db.ok("CREATE MATERIALIZED VIEW step AS SELECT 10 / v AS x FROM t");
    db.ok("CREATE MATERIALIZED VIEW whole AS SELECT max(10 / v) AS x, count(*) AS n FROM t");
    assert_eq!(db.rows("SELECT x FROM step"), ["2", "null"]);
    assert_eq!(db.rows("SELECT x, n FROM whole"), ["2|2"]);
    db.ok("INSERT INTO t VALUES (2); FLUSH; DELETE FROM t WHERE v = 0; FLUSH");
    assert_eq!(db.rows("SELECT x FROM step"), ["2", "5"]);
    assert_eq!(db.fails("SELECT 10 / (v - 2) FROM t").sqlstate, "22012");
    let errors = db.engine.status().errors;
    for view in ["step", "whole"] {
        let records: Vec<_> = errors.iter().filter(|error| error.name == view).collect();
        assert_eq!(records.len(), 1, "{errors:#?}");
        assert_eq!(
            (records[0].sqlstate.as_str(), records[0].rows),
            ("22012", 1)
        );
    }
}
