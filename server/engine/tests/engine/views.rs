//! Proves that views follow their inputs, whatever they are built on, and that a failing one stays alone.

use std::time::Duration;

use crate::harness::Db;

#[test]
fn views_follow_tables_and_views() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v INT); INSERT INTO t VALUES (1, 10), (1, 20), (2, 30)");
    // Without state, with state, and each over the other.
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
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
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

/// A total that does not fit is NULL with a record, until the rows that made it so are gone; with 'fail' it stops the view.
#[test]
fn a_total_out_of_range_is_null_and_comes_back() {
    let nines = "90000000000000000000000000000000000000";
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v NUMERIC(38, 0))");
    db.ok("CREATE MATERIALIZED VIEW s AS SELECT k, sum(v) AS s, count(*) AS n FROM t GROUP BY k");
    db.ok("CREATE MATERIALIZED VIEW strict WITH (on_compute_error = 'fail') AS SELECT sum(v) AS s FROM t");
    db.ok(&format!("INSERT INTO t VALUES (1, {nines}), (2, 5); FLUSH"));
    db.ok(&format!("INSERT INTO t VALUES (1, {nines}); FLUSH"));
    assert_eq!(db.rows("SELECT k, s, n FROM s"), ["1|null|2", "2|5|1"]);
    db.until("the strict view fails", |status| {
        let mut jobs = status.jobs.iter();
        jobs.any(|job| job.name == "strict" && job.phase.as_str() == "ERROR")
    });
    let errors = db.engine.status().errors;
    let of_s: Vec<_> = errors.iter().filter(|error| error.name == "s").collect();
    assert_eq!(of_s.len(), 1, "{errors:#?}");
    assert_eq!(of_s[0].sqlstate, "22003");
    db.ok(&format!("INSERT INTO t VALUES (1, -{nines}); FLUSH"));
    assert_eq!(
        db.rows("SELECT k, s, n FROM s"),
        [format!("1|{nines}|3"), "2|5|1".to_owned()]
    );
    db.until("the strict view recovers", |status| {
        let mut jobs = status.jobs.iter();
        jobs.all(|job| job.phase.as_str() == "RUNNING")
    });
}

/// NOT IN with NULL on either side, with and without a condition on the outer row, against the same said with NOT EXISTS.
#[test]
fn not_in_knows_null() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v INT); CREATE TABLE u (k INT, v INT)");
    db.ok("CREATE MATERIALIZED VIEW plain AS SELECT k, v FROM t WHERE v NOT IN (SELECT v FROM u)");
    db.ok("CREATE MATERIALIZED VIEW plain_said AS SELECT k, v FROM t \
           WHERE NOT EXISTS (SELECT 1 FROM u WHERE (u.v = t.v) IS NOT FALSE)");
    db.ok("CREATE MATERIALIZED VIEW by_key AS SELECT k, v FROM t WHERE v NOT IN (SELECT v FROM u WHERE u.k = t.k)");
    db.ok(
        "CREATE MATERIALIZED VIEW by_key_said AS SELECT k, v FROM t \
           WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND (u.v = t.v) IS NOT FALSE)",
    );
    let steps = [
        (
            "INSERT INTO t VALUES (1, 1), (1, NULL), (2, 2), (NULL, 3), (2, 2)",
            5,
            5,
        ),
        ("INSERT INTO u VALUES (1, 2)", 2, 4),
        ("INSERT INTO u VALUES (2, NULL)", 0, 2),
        ("DELETE FROM u WHERE v = 2", 0, 3),
        ("DELETE FROM u WHERE v IS NULL", 5, 5),
        (
            "INSERT INTO u VALUES (2, 2), (NULL, 7); UPDATE t SET v = 4 WHERE k = 1",
            3,
            3,
        ),
    ];
    for (sql, plain, by_key) in steps {
        db.ok(&format!("{sql}; FLUSH"));
        let rows = |view: &str| db.rows(&format!("SELECT k, v FROM {view}"));
        assert_eq!(rows("plain"), rows("plain_said"), "{sql}");
        assert_eq!(rows("by_key"), rows("by_key_said"), "{sql}");
        assert_eq!(
            (rows("plain").len(), rows("by_key").len()),
            (plain, by_key),
            "{sql}"
        );
    }
}

/// What is kept by changes remembers something while there are rows; what is not says that it recomputes.
#[test]
fn views_say_how_they_are_kept() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v INT); INSERT INTO t VALUES (1, 10), (2, 20)");
    db.ok("CREATE MATERIALIZED VIEW a AS SELECT k, max(v) AS m FROM t GROUP BY k");
    db.ok("CREATE MATERIALIZED VIEW b AS SELECT x.k FROM t x LEFT JOIN t y ON x.k = y.v");
    db.ok("CREATE MATERIALIZED VIEW c AS SELECT v FROM t ORDER BY v LIMIT 1; FLUSH");
    assert_eq!(db.rows("SELECT v FROM c"), ["10"]);
    let status = db.engine.status();
    let of = |name: &str| {
        let job = status
            .jobs
            .iter()
            .find(|job| job.name == name)
            .expect("a job");
        (job.mode, job.state_bytes > 0)
    };
    assert_eq!(of("a"), ("incremental", true));
    assert_eq!(of("b"), ("incremental", true));
    assert_eq!(of("c"), ("recompute", false));
}
