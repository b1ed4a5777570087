//! Proves the behaviour of tables: constraints in Postgres' words, multiset semantics without a key, upserts with one.

use datafusion::common::ScalarValue;

use crate::harness::Db;

#[test]
fn rows_are_a_multiset_without_a_key() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (a INT, b TEXT)");
    db.ok("INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, 'y')");
    assert_eq!(db.rows("SELECT a, b FROM t"), ["1|x", "1|x", "2|y"]);
    db.ok("UPDATE t SET b = 'z' WHERE a = 1");
    assert_eq!(db.rows("SELECT a, b FROM t"), ["1|z", "1|z", "2|y"]);
    let mut session = db.session();
    assert_eq!(
        session.run("DELETE FROM t WHERE b = 'z'").expect("deletes"),
        ["2"]
    );
    assert_eq!(session.rows("SELECT a, b FROM t"), ["2|y"]);
    assert_eq!(
        session
            .run("DELETE FROM t WHERE b = 'z'")
            .expect("deletes nothing"),
        ["0"]
    );
}

#[test]
fn constraints_speak_postgres() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL, s TEXT, CHECK (v < 100))");
    db.ok("INSERT INTO t VALUES (1, 10, 'one'), (2, 20, NULL)");
    let report = db.fails("INSERT INTO t VALUES (3, 30, 'x'), (1, 11, 'again')");
    assert_eq!(report.sqlstate, "23505");
    assert_eq!(
        report.message,
        "duplicate key value violates unique constraint \"t_pkey\""
    );
    assert_eq!(
        report.detail.as_deref(),
        Some("Key (id)=(1) already exists.")
    );
    let report = db.fails("INSERT INTO t VALUES (4, 40, 'x'), (4, 41, 'y')");
    assert_eq!(report.sqlstate, "23505");
    let report = db.fails("INSERT INTO t VALUES (5, NULL, 'five')");
    assert_eq!(report.sqlstate, "23502");
    assert_eq!(
        report.message,
        "null value in column \"v\" of relation \"t\" violates not-null constraint"
    );
    assert_eq!(
        report.detail.as_deref(),
        Some("Failing row contains (5, null, five).")
    );
    let report = db.fails("INSERT INTO t VALUES (6, 100, 'six')");
    assert_eq!(report.sqlstate, "23514");
    assert_eq!(
        report.message,
        "new row for relation \"t\" violates check constraint \"t_check\""
    );
    assert_eq!(
        report.detail.as_deref(),
        Some("Failing row contains (6, 100, six).")
    );
    let report = db.fails("UPDATE t SET id = 1 WHERE id = 2");
    assert_eq!(
        (report.sqlstate, report.detail.as_deref()),
        ("23505", Some("Key (id)=(1) already exists."))
    );
    let report = db.fails("UPDATE t SET v = v * 50");
    assert_eq!(report.sqlstate, "23514");
    // A failed statement changes nothing, and a swap of keys is no conflict.
    assert_eq!(db.rows("SELECT id, v FROM t"), ["1|10", "2|20"]);
    db.ok("UPDATE t SET id = 3 - id");
    assert_eq!(db.rows("SELECT id, v FROM t"), ["1|20", "2|10"]);
}

#[test]
fn equal_floats_are_one_key() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (id DOUBLE PRECISION PRIMARY KEY); INSERT INTO t VALUES (0.0)");
    assert_eq!(
        db.fails("INSERT INTO t VALUES (-1e0 * 0)").sqlstate,
        "23505"
    );
    db.ok("DELETE FROM t; INSERT INTO t VALUES (1)");
    assert_eq!(db.rows("SELECT id FROM t"), ["1.0"]);
}

#[test]
fn conflicts_can_be_skipped_or_updated() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (id INT PRIMARY KEY, v INT)");
    db.ok("INSERT INTO t VALUES (1, 1)");
    let mut session = db.session();
    let skip = "INSERT INTO t VALUES (1, 9), (2, 2), (2, 3) ON CONFLICT DO NOTHING";
    assert_eq!(session.run(skip).expect("skips"), ["1"]);
    assert_eq!(session.rows("SELECT id, v FROM t"), ["1|1", "2|2"]);
    let add = "INSERT INTO t VALUES (1, 10), (3, 3) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v RETURNING id, v";
    let mut rows = session.run(add).expect("updates");
    rows.sort();
    assert_eq!(rows, ["1|11", "3|3"]);
    let twice = "INSERT INTO t VALUES (1, 1), (1, 2) ON CONFLICT (id) DO UPDATE SET v = excluded.v";
    assert_eq!(session.run(twice).expect_err("twice").sqlstate, "21000");
    assert_eq!(session.rows("SELECT id, v FROM t"), ["1|11", "2|2", "3|3"]);
}

#[test]
fn parameters_reach_every_part_of_an_insert() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (id INT PRIMARY KEY, v INT)");
    let sql = "INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = t.v + $3 WHERE t.v < $4 RETURNING v + $5";
    let mut session = db.session();
    let mut run = |values: [i32; 5]| {
        session
            .insert(sql, &values.map(ScalarValue::from))
            .expect("inserts")
    };
    assert_eq!(run([1, 10, 0, 0, 1]), ["11"]);
    assert_eq!(run([1, 0, 5, 100, 2]), ["17"]);
    assert_eq!(run([1, 0, 5, 15, 2]), Vec::<String>::new());
    assert_eq!(db.rows("SELECT id, v FROM t"), ["1|15"]);
}

#[test]
fn returning_gives_the_rows() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (id INT PRIMARY KEY, v INT)");
    let mut session = db.session();
    assert_eq!(
        session
            .run("INSERT INTO t VALUES (1, 5) RETURNING id, v + 1")
            .expect("inserts"),
        ["1|6"]
    );
    assert_eq!(
        session
            .run("UPDATE t SET v = 7 RETURNING v")
            .expect("updates"),
        ["7"]
    );
    assert_eq!(
        session.run("DELETE FROM t RETURNING id").expect("deletes"),
        ["1"]
    );
    assert_eq!(session.rows("SELECT id FROM t"), Vec::<String>::new());
}

#[test]
fn truncate_and_drop_leave_nothing() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    let oid = db.oid("t");
    let mut floor = Default::default();
    let removed = db
        .runtime
        .block_on(db.engine.truncate(oid, &mut floor))
        .expect("truncates");
    assert_eq!(removed, 2);
    assert_eq!(db.rows("SELECT id FROM t"), Vec::<String>::new());
    db.ok("INSERT INTO t VALUES (1)");
    db.ok("DROP TABLE t");
    assert!(db.engine.status().relations.is_empty());
    let db = db.reopen();
    assert!(db.engine.status().relations.is_empty());
}

#[test]
fn a_session_reads_its_writes() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (id INT); CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t");
    let mut session = db.session();
    for n in 1..=20 {
        session.run("INSERT INTO t VALUES (1)").expect("inserts");
        assert_eq!(session.rows("SELECT n FROM n"), [n.to_string()]);
    }
}
