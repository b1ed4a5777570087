//! Proves what happens when memory runs out: sources wait, new rows are refused, queries fail alone, state goes to disk, and all of
//! it ends by itself when there is room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thalweg_engine::{EngineConfig, JobPhase};

use crate::harness::Db;

const MB: usize = 1 << 20;

fn limited(memory_max: usize) -> EngineConfig {
    EngineConfig {
        memory_max,
        workers: 2,
        // Old versions are memory too.
        snapshot_history: std::time::Duration::from_secs(2),
        ..EngineConfig::default()
    }
}

fn phase(db: &Db, view: &str) -> Option<JobPhase> {
    let jobs = db.engine.status().jobs;
    jobs.iter()
        .find(|job| job.name == view)
        .map(|job| job.phase)
}

#[test]
fn sources_wait_and_rows_are_refused_until_there_is_room() {
    let mut db = Db::with(limited(6 * MB));
    db.ok("CREATE TABLE t (k BIGINT, note TEXT)");
    db.ok("CREATE SOURCE s (id BIGINT, v BIGINT) WITH (connector = 'datagen', rows_per_second = 2000, \
        fields.id.kind = 'sequence', fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 9, seed = 7)");
    db.ok("CREATE MATERIALIZED VIEW few AS SELECT v, count(*) AS n FROM s GROUP BY v");
    let fill =
        "INSERT INTO t SELECT i, repeat('x', 500) || i::text FROM generate_series(1, 4000) AS g(i)";
    let mut session = db.session();
    let refused = (0..100).find_map(|_| {
        db.until("memory is looked at", |status| !status.memory.is_empty());
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        session.run(fill).err()
    });
    let refused = refused.expect("there is no room for so many rows");
    assert_eq!(refused.sqlstate, "53200", "{refused:?}");
    assert!(
        refused
            .hint
            .is_some_and(|hint| hint.contains("memory_limit"))
    );
    db.until("the sources wait", |status| {
        let held = |source: &thalweg_engine::SourceStatus| source.health == "HELD";
        status.memory_full && status.sources.iter().all(held)
    });
    assert_eq!(phase(&db, "few"), Some(JobPhase::Held));
    // What is there can be read and taken away.
    let records = db.engine.status().sources[0].records;
    assert_eq!(session.rows("SELECT count(*) > 3000 FROM t"), ["true"]);
    session
        .run("DELETE FROM t WHERE k > 10")
        .expect("rows may go");
    db.until("the sources go on", |status| {
        !status.memory_full && status.sources[0].records > records + 4_000
    });
    assert_eq!(phase(&db, "few"), Some(JobPhase::Running));
    db.ok("INSERT INTO t VALUES (1, 'there is room')");
}

#[test]
fn hungry_queries_fail_alone() {
    let config = EngineConfig {
        query_memory_max: 4 * MB,
        ..limited(64 * MB)
    };
    let mut db = Db::with(config);
    db.ok("CREATE TABLE t (k BIGINT, v BIGINT); CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t");
    let hungry = "SELECT count(*) FROM generate_series(1, 400000) AS a(i) JOIN generate_series(1, 400000) AS b(i) ON a.i = b.i";
    let over = Arc::new(AtomicBool::new(false));
    let queries: Vec<_> = (0..20)
        .map(|_| {
            let (mut session, over) = (db.session(), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut failed = 0;
                while !over.load(Ordering::SeqCst) || failed == 0 {
                    let error = session
                        .run(hungry)
                        .expect_err("needs more than it may have");
                    assert_eq!(error.sqlstate, "53200", "{error:?}");
                    failed += 1;
                }
                failed
            })
        })
        .collect();
    let mut session = db.session();
    for n in 1..=20 {
        session
            .run("INSERT INTO t VALUES (1, 1)")
            .expect("is not their business");
        assert_eq!(session.rows("SELECT n FROM n"), [n.to_string()]);
    }
    over.store(true, Ordering::SeqCst);
    let failed: u32 = queries
        .into_iter()
        .map(|query| query.join().expect("fails alone"))
        .sum();
    assert!(failed >= 20, "{failed}");
    db.until("what they had is free", |status| {
        let mut parts = status.memory.iter();
        parts.any(|part| part.component == "queries" && part.bytes == 0)
    });
}

const KEYED: &str = "(SELECT id % 20000 AS k, v FROM s UNION ALL SELECT k, v FROM t)";

fn build(db: &mut Db) {
    db.ok("CREATE TABLE t (k BIGINT, v BIGINT)");
    db.ok("CREATE SOURCE s (id BIGINT, v BIGINT) WITH (connector = 'datagen', rows = 40000, \
        fields.id.kind = 'sequence', fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 99999, seed = 7)");
    db.ok(&format!(
        "CREATE MATERIALIZED VIEW often AS SELECT k, count(*) AS n, sum(v) AS s, max(v) AS m FROM {KEYED} q GROUP BY k HAVING count(*) > 2"
    ));
    db.ok(&format!(
        "CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS g, sum(n) AS n, sum(m) AS m, sum(d) AS d FROM \
         (SELECT k, count(*) AS n, max(v) AS m, count(DISTINCT v) AS d FROM {KEYED} q GROUP BY k) p"
    ));
    db.ok(
        "CREATE MATERIALIZED VIEW paired AS SELECT count(*) AS g, count(t.v) AS n, sum(q.v) AS m, min(t.v) AS a FROM \
         (SELECT id % 20000 AS k, v FROM s) q LEFT JOIN t ON q.k = t.k",
    );
    db.ok(WAIT);
}

const WAIT: &str = "WAIT FOR often; WAIT FOR sums; WAIT FOR paired";

fn change(db: &mut Db, round: i64) {
    db.ok(&format!(
        "INSERT INTO t SELECT i * 37 % 20000, i + {round} FROM generate_series(1, 400) AS g(i)"
    ));
    db.ok(&format!(
        "DELETE FROM t WHERE k % 7 = {}; {WAIT}",
        round % 7
    ));
}

fn shown(db: &Db) -> [Vec<String>; 3] {
    [
        "SELECT g, n, m, d FROM sums",
        "SELECT k, n, s, m FROM often",
        "SELECT g, n, m, a FROM paired",
    ]
    .map(|sql| db.rows(sql))
}

/// State of about ten times what memory has room for, through changes, checkpoints and restarts.
#[test]
fn state_larger_than_memory_is_right_through_restarts() {
    let (mut free, mut cramped) = (Db::new(), Db::with(limited(3 * MB / 2)));
    build(&mut free);
    build(&mut cramped);
    assert_eq!(shown(&cramped), shown(&free));
    let spilled = |db: &Db| -> u64 {
        db.engine
            .status()
            .memory
            .iter()
            .map(|part| part.spilled)
            .sum()
    };
    assert!(
        spilled(&cramped) > 1 << 20,
        "{:#?}",
        cramped.engine.status().memory
    );
    for round in 0..3 {
        for db in [&mut free, &mut cramped] {
            change(db, round);
        }
        assert_eq!(shown(&cramped), shown(&free), "round {round}");
        cramped.engine.checkpoint().expect("saves");
        cramped = cramped.reopen();
        cramped.ok(WAIT);
        assert_eq!(
            shown(&cramped),
            shown(&free),
            "round {round}, after a restart"
        );
        let errors = cramped.engine.status().errors;
        assert!(errors.is_empty(), "goes on from its checkpoint: {errors:?}");
    }
    assert!(
        spilled(&cramped) > 1 << 20,
        "{:#?}",
        cramped.engine.status().memory
    );
    cramped.ok(
        "DROP MATERIALIZED VIEW paired; DROP MATERIALIZED VIEW sums; DROP MATERIALIZED VIEW often",
    );
    assert_eq!(spilled(&cramped), 0);
}
