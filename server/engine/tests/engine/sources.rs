//! Proves that a source is read once for all its views, and that ad-hoc reads, early views and late views agree.

use std::time::Duration;

use crate::harness::Db;

const DATAGEN: &str = "CREATE SOURCE s (id BIGINT, v BIGINT) WITH (connector = 'datagen', rows = 5000, \
    fields.id.kind = 'sequence', fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 99, seed = 7)";

pub(crate) fn generator(db: &mut Db) {
    db.ok(DATAGEN);
}

#[test]
fn views_and_ad_hoc_reads_agree() {
    let mut db = Db::new();
    generator(&mut db);
    let adhoc = db.rows("SELECT count(*), sum(v), max(id) FROM s");
    assert!(adhoc[0].starts_with("5000|"), "{adhoc:?}");
    db.ok(
        "CREATE MATERIALIZED VIEW early AS SELECT count(*) AS n, sum(v) AS s, max(id) AS m FROM s",
    );
    db.ok("CREATE MATERIALIZED VIEW few AS SELECT id, v FROM s WHERE v < 10; WAIT FOR early");
    assert_eq!(db.rows("SELECT n, s, m FROM early"), adhoc);
    db.ok("CREATE MATERIALIZED VIEW late AS SELECT count(*) AS n, sum(v) AS s, max(id) AS m FROM s; WAIT FOR late");
    assert_eq!(db.rows("SELECT n, s, m FROM late"), adhoc);
    assert_eq!(
        db.rows("SELECT id, v FROM few"),
        db.rows("SELECT id, v FROM s WHERE v < 10")
    );
    // In one query with views the source is read at their epoch.
    assert_eq!(
        db.rows("SELECT e.n = (SELECT count(*) FROM s) FROM early e"),
        ["true"]
    );
    let status = db.engine.status();
    assert_eq!(status.sources.len(), 1);
    assert_eq!(status.sources[0].consumers.len(), 3);
    assert_eq!(status.sources[0].offsets.get("0"), Some(&5000));
}

#[test]
fn a_source_is_consumed_only_while_something_reads_it() {
    let mut db = Db::new();
    generator(&mut db);
    assert_eq!(db.engine.status().sources[0].health, "IDLE");
    db.ok("CREATE MATERIALIZED VIEW a AS SELECT count(*) AS n FROM s; WAIT FOR a");
    assert_eq!(db.rows("SELECT n FROM a"), ["5000"]);
    db.ok("DROP MATERIALIZED VIEW a");
    let status = db.engine.status();
    assert_eq!(status.sources[0].health, "IDLE");
    assert_eq!(status.memory_bytes, 0, "{status:#?}");
    db.ok("CREATE MATERIALIZED VIEW a AS SELECT count(*) AS n FROM s; WAIT FOR a");
    assert_eq!(db.rows("SELECT n FROM a"), ["5000"]);
}

#[test]
fn a_paced_source_keeps_flowing() {
    let mut db = Db::new();
    db.ok("CREATE SOURCE s (id BIGINT) WITH (connector = 'datagen', rows_per_second = 2000, fields.id.kind = 'sequence')");
    db.ok("CREATE MATERIALIZED VIEW a AS SELECT count(*) AS n, max(id) AS m FROM s");
    db.ok("CREATE MATERIALIZED VIEW b AS SELECT id FROM s WHERE id % 2 = 0");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let mut session = db.session();
    let mut last = 0_i64;
    while last < 2000 {
        // A prefix of the source at every epoch, and the same one in both views.
        let rows = session.rows("SELECT a.n, a.m, (SELECT count(*) FROM b) FROM a");
        let numbers: Vec<i64> = rows[0]
            .split('|')
            .map(|text| text.parse().unwrap_or(0))
            .collect();
        assert!(
            numbers[0] >= last && numbers[0] - numbers[1] <= 1,
            "{rows:?}"
        );
        assert!((numbers[0] - 2 * numbers[2]).abs() <= 1, "{rows:?}");
        last = numbers[0];
        assert!(std::time::Instant::now() < deadline, "only {last} rows");
    }
}

#[test]
fn a_sink_takes_the_changes() {
    let mut db = Db::new();
    db.ok(
        "CREATE TABLE t (v INT); CREATE SINK k AS SELECT v FROM t WITH (connector = 'blackhole')",
    );
    db.ok("INSERT INTO t VALUES (1)");
    let written = db.engine.latest().epoch;
    db.until("delivery", |status| {
        status.jobs[0]
            .delivered
            .is_some_and(|epoch| epoch >= written)
    });
    db.ok("DROP SINK k");
    assert!(db.engine.status().jobs.is_empty());
}

/// Rows that break a constraint are dead letters once, however often the source is read, and the rest flows.
#[test]
fn broken_rows_are_dead_letters_once() {
    let mut db = Db::new();
    db.ok("CREATE SOURCE s (id BIGINT, twice BIGINT AS (id * 2), CHECK (id % 10 <> 3) ON VIOLATION DEAD_LETTER) \
           WITH (connector = 'datagen', rows = 100, fields.id.kind = 'sequence', fields.id.start = 0)");
    assert_eq!(
        db.rows("SELECT count(*), sum(twice) - 2 * sum(id) FROM s"),
        ["90|0"]
    );
    db.ok("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s; WAIT FOR v");
    assert_eq!(db.rows("SELECT n FROM v"), ["90"]);
    let letters = "SELECT count(*), min(reason), min(\"offset\"), max(\"offset\") FROM s_errors";
    assert_eq!(db.rows(letters), ["10|constraint|3|93"]);
    let db = db.reopen();
    assert_eq!(db.rows("SELECT n FROM v"), ["90"]);
    assert_eq!(db.rows(letters), ["10|constraint|3|93"]);
}
