//! Proves that a source is read once for all its views, and that ad-hoc reads, early views and late views agree.

use std::time::Duration;

use thalweg_connectors::{Clock, SystemClock};
use thalweg_engine::{EngineConfig, JobPhase};

use crate::checkpoints::never_saved;
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
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
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

/// A figure of the relation that a source's views read.
fn held(db: &Db) -> (i64, usize) {
    let status = db.engine.status();
    let mut relations = status.relations.iter();
    let source = relations.find(|relation| relation.kind == "source");
    source.map_or((0, 0), |source| (source.rows, source.bytes))
}

/// Views that are kept by changes need no rows of their source in memory; one that is recomputed does, as long as it is there.
#[test]
fn rows_of_a_source_stay_only_for_views_that_need_all_of_them() {
    let mut db = Db::new();
    generator(&mut db);
    db.ok("CREATE MATERIALIZED VIEW n AS SELECT v, count(*) AS n FROM s GROUP BY v; WAIT FOR n");
    assert_eq!(db.rows("SELECT sum(n) FROM n"), ["5000"]);
    assert_eq!(held(&db), (0, 0));
    let top = "SELECT id, row_number() OVER (PARTITION BY v ORDER BY id) AS r FROM s";
    db.ok(&format!(
        "CREATE MATERIALIZED VIEW top AS {top}; CREATE MATERIALIZED VIEW again AS {top}"
    ));
    db.ok("WAIT FOR top; WAIT FOR again");
    let adhoc = db.rows(&format!("SELECT sum(id * r) FROM ({top})"));
    assert_eq!(db.rows("SELECT sum(id * r) FROM top"), adhoc);
    assert_eq!(db.rows("SELECT sum(id * r) FROM again"), adhoc);
    assert!(
        db.engine
            .status()
            .jobs
            .iter()
            .any(|job| job.mode == "recompute")
    );
    let (rows, bytes) = held(&db);
    assert!(rows == 5000 && bytes > 0, "{rows} rows, {bytes} bytes");
    db.ok("DROP MATERIALIZED VIEW top");
    assert_eq!(held(&db).0, 5000);
    db.ok("DROP MATERIALIZED VIEW again");
    db.until("the rows to leave", |status| {
        status.sources[0].consumers.len() == 1
    });
    assert_eq!(held(&db), (0, 0));
    assert_eq!(db.rows("SELECT sum(n) FROM n"), ["5000"]);
}

/// After a restart without a checkpoint all views begin at once, and their source is read once, not once for each.
#[test]
fn views_that_begin_together_share_a_scan() {
    let mut db = Db::with(never_saved());
    generator(&mut db);
    for view in 0..10 {
        db.ok(&format!(
            "CREATE MATERIALIZED VIEW v{view} AS SELECT count(*) AS n FROM s WHERE v % 10 = {view}"
        ));
    }
    db.ok("FLUSH");
    let counts = |db: &Db| {
        (0..10)
            .map(|view| db.rows(&format!("SELECT n FROM v{view}")))
            .collect::<Vec<_>>()
    };
    let before = counts(&db);
    let db = db.reopen();
    assert_eq!(counts(&db), before);
    let scanned = db.engine.status().sources[0].scanned;
    // Each by itself would read 50,000. On a machine with little time for us some come too late for the others' scan.
    assert!(
        (5000..50_000).contains(&scanned),
        "{scanned} records for ten views"
    );
    assert_eq!(db.engine.status().sources[0].records, 5000);
}

/// A view that finds the changes it waits for gone reads them again, and shows neither a gap nor a double.
#[test]
fn a_view_that_was_left_behind_reads_again() {
    let config = EngineConfig {
        stream_bytes_max: 0,
        ..EngineConfig::default()
    };
    let mut db = Db::with(config);
    db.ok("CREATE SOURCE s (id BIGINT, v BIGINT) WITH (connector = 'datagen', rows_per_second = 3000, \
           fields.id.kind = 'sequence', fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 9, seed = 3)");
    db.ok("CREATE TABLE t (v BIGINT PRIMARY KEY, w BIGINT); INSERT INTO t SELECT i, 1 FROM generate_series(0, 9) AS g(i)");
    db.ok("CREATE MATERIALIZED VIEW rows AS SELECT id FROM s");
    db.ok("CREATE MATERIALIZED VIEW kept AS SELECT id, rank() OVER (ORDER BY id) AS r FROM s WHERE v = 0");
    db.ok("CREATE MATERIALIZED VIEW joined AS SELECT count(*) AS n, sum(w) AS w, max(s.id) AS m FROM s JOIN t USING (v)");
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    let (mut session, mut last, mut weight) = (db.session(), 0_i64, 1_i64);
    while last < 15_000 {
        let rows = session.rows(
            "SELECT j.n, j.w, j.m, (SELECT count(*) FROM rows), (SELECT max(id) FROM rows), \
            (SELECT count(*) - coalesce(max(r), 0) FROM kept) FROM joined j",
        );
        let numbers: Vec<i64> = rows[0]
            .split('|')
            .map(|text| text.parse().unwrap_or(0))
            .collect();
        let [n, w, m, count, max, apart] = numbers[..] else {
            panic!("{rows:?}")
        };
        assert!(
            n >= last && n == count && m == max && apart == 0,
            "{rows:?}"
        );
        assert!(
            w == n * weight && (n == 0 || m - n <= 1),
            "{rows:?} at weight {weight}"
        );
        if n > last + 2000 {
            weight += 1;
            session
                .run(&format!("UPDATE t SET w = {weight}"))
                .expect("updates");
            last = n;
        }
        assert!(std::time::Instant::now() < deadline, "only {last} rows");
    }
    assert!(db.engine.status().sources[0].scanned > 0);
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
    assert_eq!(db.engine.status().jobs[0].rows, 1);
    // A row that is taken back is told too.
    db.ok("DELETE FROM t; WAIT FOR k");
    assert_eq!(db.engine.status().jobs[0].rows, 2);
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

/// A view over old bad records shows them all as letters, though the reader that follows the source has found newer ones by then.
#[test]
fn bad_records_of_history_are_letters_beside_newer_ones() {
    let files = tempfile::tempdir().expect("a scratch folder");
    let path = files.path().join("s.json");
    let line = |n: i64| match n % 100 {
        50 => format!("bad {n}\n"),
        _ => format!("{{\"id\": {n}}}\n"),
    };
    let old: String = (0..600).map(line).collect();
    std::fs::write(&path, &old).expect("writes");
    let mut db = Db::with(EngineConfig {
        file_root: files.path().to_owned(),
        ..EngineConfig::default()
    });
    db.ok(
        "CREATE SOURCE s (id BIGINT) WITH (connector = 'file', path = 's.json', follow = 'true', \
           source_rate_limit = 200)",
    );
    db.ok("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s");
    let end = old.len() as u64;
    db.until("the source to be followed", |status| {
        status.sources[0].offsets.get("s.json") == Some(&end)
    });
    let mut file = std::fs::File::options().append(true).open(&path);
    let file = file.as_mut().expect("a file");
    std::io::Write::write_all(file, b"worse\n").expect("appends");
    let newest = format!("SELECT count(*) FROM s_errors WHERE \"offset\" >= {end}");
    db.until("the newest bad record to be a letter", |_| {
        db.rows(&newest) == ["1"]
    });
    db.ok("WAIT FOR v");
    assert_eq!(db.rows("SELECT n FROM v"), ["594"]);
    assert_eq!(db.rows("SELECT count(*) FROM s_errors"), ["7"]);
}

/// A view that waits for answers of an outside system holds up no other that begins at the same place of the same source.
#[test]
fn a_view_that_waits_for_an_outside_system_scans_alone() {
    let mut db = Db::with(EngineConfig {
        epoch_rows_max: 100,
        ..never_saved()
    });
    generator(&mut db);
    // Nobody listens there.
    db.ok("CREATE TABLE h (k BIGINT PRIMARY KEY, found TEXT) \
           WITH (connector = 'hbase', thrift.servers = '127.0.0.1:1', table = 'h', family = 'd')");
    let count = |db: &mut Db, name: &str| {
        db.ok(&format!(
            "CREATE MATERIALIZED VIEW {name} AS SELECT count(*) AS n FROM s"
        ));
    };
    let others = ["a", "b", "c", "d", "e", "f", "g", "i"];
    others[..4].iter().for_each(|name| count(&mut db, name));
    db.ok(
        "CREATE MATERIALIZED VIEW waits AS SELECT s.id, h.found FROM s \
           LEFT JOIN h FOR SYSTEM_TIME AS OF PROCTIME() ON h.k = s.id",
    );
    others[4..].iter().for_each(|name| count(&mut db, name));
    // All begin at once.
    let db = db.reopen();
    let reached = |status: &thalweg_engine::EngineStatus, name: &str| {
        let mut jobs = status.jobs.iter();
        jobs.any(|job| job.name == name && job.epoch.is_some())
    };
    db.until("the other views to have begun", |status| {
        others.iter().all(|name| reached(status, name))
    });
    assert_eq!(db.rows("SELECT a.n + e.n FROM a, e"), ["10000"]);
    assert!(!reached(&db.engine.status(), "waits"));
}

/// A reader that has to be given up is a reason that its source and its views show, with the time of the next try; what was read stays
/// readable, and reading goes on by itself.
#[test]
fn a_source_that_cannot_be_read_says_why_and_so_do_its_views() {
    let files = tempfile::tempdir().expect("a scratch folder");
    let path = files.path().join("s.json");
    let lines =
        |count: i64| -> String { (0..count).map(|n| format!("{{\"id\": {n}}}\n")).collect() };
    std::fs::write(&path, lines(10)).expect("writes");
    let mut db = Db::with(EngineConfig {
        file_root: files.path().to_owned(),
        ..EngineConfig::default()
    });
    db.ok(
        "CREATE SOURCE s (id BIGINT) WITH (connector = 'file', path = 's.json', follow = 'true')",
    );
    db.ok("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s; WAIT FOR v");
    db.ok("CREATE MATERIALIZED VIEW above AS SELECT n + 1 AS n FROM v; WAIT FOR above");
    // It cannot be read on from where it was.
    std::fs::write(&path, lines(3)).expect("writes");
    let said = |reason: &Option<String>| {
        let reason = reason.as_deref().unwrap_or_default();
        reason.contains("had") && reason.contains("before")
    };
    db.until("the reason to be told", |status| {
        let source = &status.sources[0];
        let mut jobs = status.jobs.iter();
        source.health == "ERROR"
            && said(&source.detail)
            && jobs.all(|job| job.phase == JobPhase::Error && said(&job.error))
    });
    let status = db.engine.status();
    let earliest = SystemClock.now_us() - 60_000_000;
    let due = |job: &thalweg_engine::JobStatus| job.retry_at_us.is_some_and(|at| at > earliest);
    assert!(status.jobs.iter().all(due), "{status:#?}");
    assert_eq!(db.rows("SELECT n FROM above"), ["11"]);
    std::fs::write(&path, lines(12)).expect("writes");
    db.until("the source to be read again", |status| {
        let mut jobs = status.jobs.iter();
        let well = |job: &thalweg_engine::JobStatus| {
            job.phase == JobPhase::Running && job.error.is_none() && job.retry_at_us.is_none()
        };
        status.sources[0].health == "RUNNING" && jobs.all(well)
    });
    db.until("the rows to have come", |_| {
        db.rows("SELECT n FROM above") == ["13"]
    });
}

/// A source that has never been reached is in state ERROR with its views, and tells why.
#[test]
fn a_view_that_waits_for_its_source_tells_why() {
    let mut db = Db::new();
    db.ok("CREATE SOURCE s (id BIGINT) \
           WITH (connector = 'file', path = 'hdfs://127.0.0.1:1/s.json', follow = 'true')");
    db.ok("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s");
    db.until("the reason to be told", |status| {
        let (source, job) = (&status.sources[0], &status.jobs[0]);
        source.health == "ERROR"
            && source.detail.is_some()
            && job.error == source.detail
            && job.phase == JobPhase::Error
    });
}
