//! Proves the promises under random load: every view equals its query, and every read sees one epoch.
//!
//! `THALWEG_SEED=n` replays a seed; each test prints the one it uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::harness::{Db, Session};

pub(crate) fn seeded(test: &str) -> ChaCha8Rng {
    let given = std::env::var("THALWEG_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| std::process::id() as u64 ^ 0x7468_616c);
    println!("replay: THALWEG_SEED={seed} cargo test -p thalweg-engine {test}");
    ChaCha8Rng::seed_from_u64(seed)
}

pub(crate) fn change(random: &mut ChaCha8Rng, session: &mut Session) {
    let (k, v) = (random.random_range(0..6), random.random_range(0..10));
    let sql = match random.random_range(0..10) {
        0..=4 => {
            let rows: Vec<String> = (0..random.random_range(1..5))
                .map(|_| {
                    format!(
                        "({}, {})",
                        random.random_range(0..6),
                        random.random_range(0..10)
                    )
                })
                .collect();
            format!("INSERT INTO t VALUES {}", rows.join(", "))
        }
        5 => format!("INSERT INTO t VALUES ({k}, NULL)"),
        6 | 7 => format!("DELETE FROM t WHERE k = {k} AND v < {v}"),
        8 => format!("UPDATE t SET v = v + 1, k = {k} WHERE v = {v}"),
        _ => format!("DELETE FROM t WHERE v = {v}"),
    };
    session
        .run(&sql)
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

pub(crate) const VIEWS: [(&str, &str); 10] = [
    ("v_filter", "SELECT k, v + 1 AS w FROM t WHERE v > 3"),
    (
        "v_union",
        "SELECT k FROM t WHERE v > 5 UNION ALL SELECT v FROM t",
    ),
    (
        "v_sum",
        "SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k",
    ),
    ("v_distinct", "SELECT DISTINCT v FROM t"),
    (
        "v_join",
        "SELECT a.k, b.n FROM v_filter a JOIN v_sum b ON a.k = b.k",
    ),
    ("v_over", "SELECT k FROM v_sum WHERE n > 2"),
    ("v_self", "SELECT a.v, b.k FROM t a JOIN t b ON a.k = b.v"),
    (
        "v_full",
        "SELECT a.k, b.n FROM t a FULL JOIN v_sum b ON a.v = b.n AND b.s > a.k",
    ),
    (
        "v_lone",
        "SELECT k FROM v_sum s WHERE NOT EXISTS (SELECT 1 FROM t WHERE t.v = s.k AND t.k < s.n)",
    ),
    (
        "v_values",
        "SELECT v, count(DISTINCT k) AS n, min(k) AS a, max(k) FILTER (WHERE k < 4) AS z FROM t GROUP BY v",
    ),
];

/// For every prefix of random changes, also over a restart, each view equals its query.
#[test]
fn every_view_equals_its_query() {
    let mut random = seeded("every_view_equals_its_query");
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v INT)");
    for (index, (name, query)) in VIEWS.iter().enumerate() {
        // Views are created before, between and after changes.
        let mut session = db.session();
        for _ in 0..index {
            change(&mut random, &mut session);
        }
        db.ok(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"));
    }
    for round in 0..30 {
        let mut session = db.session();
        for _ in 0..random.random_range(1..4) {
            change(&mut random, &mut session);
        }
        for (name, query) in VIEWS {
            assert_eq!(
                session.rows(&format!("SELECT * FROM {name}")),
                session.rows(query),
                "{name} in round {round}"
            );
        }
        drop(session);
        if random.random_range(0..6) == 0 {
            db.engine.checkpoint().expect("saves");
        }
        if round == 15 || random.random_range(0..10) == 0 {
            db = db.reopen();
        }
    }
}

/// Views that begin, are left behind and come back after restarts while their source flows, each equal to its query over the whole
/// source in the end.
#[test]
fn every_view_of_a_moving_source_equals_its_query() {
    let mut random = seeded("every_view_of_a_moving_source_equals_its_query");
    let stream_bytes_max = [0, 4096, 256 << 20][random.random_range(0..3)];
    let mut db = Db::with(thalweg_engine::EngineConfig {
        stream_bytes_max,
        ..Default::default()
    });
    db.ok("CREATE SOURCE t (k BIGINT, v BIGINT) WITH (connector = 'datagen', rows = 6000, rows_per_second = 2000, seed = 5, \
           fields.k.kind = 'random', fields.k.start = 0, fields.k.end = 999, \
           fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 999)");
    let read = |status: &thalweg_engine::EngineStatus| status.sources[0].offsets.get("0").copied();
    for (name, query) in VIEWS {
        let rows = read(&db.engine.status()).unwrap_or(0) + random.random_range(0..600);
        db.until("rows", |status| {
            status.sources[0].consumers.is_empty() || read(status) >= Some(rows.min(6000))
        });
        db.ok(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"));
        if random.random_range(0..4) == 0 {
            db.engine.checkpoint().expect("saves");
        }
        if random.random_range(0..5) == 0 {
            db = db.reopen();
        }
    }
    db.until("the end", |status| read(status) == Some(6000));
    for round in 0..2 {
        let mut session = db.session();
        for (name, query) in VIEWS {
            db.ok(&format!("WAIT FOR {name}"));
            assert_eq!(
                session.rows(&format!("SELECT * FROM {name}")),
                session.rows(query),
                "{name} in round {round}, {stream_bytes_max} bytes"
            );
        }
        drop(session);
        db = db.reopen();
    }
}

/// Two views over one table, a concurrent writer that keeps an invariant across both: every read must find it, and the epochs a
/// session sees never go back.
#[test]
fn every_read_sees_one_epoch() {
    let mut random = seeded("every_read_sees_one_epoch");
    let mut db = Db::new();
    db.ok("CREATE TABLE account (id INT PRIMARY KEY, v INT)");
    db.ok("INSERT INTO account VALUES (1, 100), (2, 100), (3, 100), (4, 100)");
    db.ok("CREATE MATERIALIZED VIEW low AS SELECT sum(v) AS s FROM account WHERE id <= 2");
    db.ok("CREATE MATERIALIZED VIEW high AS SELECT id, v FROM account WHERE id > 2");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (mut session, stop) = (db.session(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut moves = 0;
            while !stop.load(Ordering::SeqCst) || moves < 20 {
                let (from, to, amount) = (
                    random.random_range(1..=2),
                    random.random_range(3..=4),
                    random.random_range(-9..=9),
                );
                let sql = format!(
                    "UPDATE account SET v = CASE WHEN id = {from} THEN v - {amount} ELSE v + {amount} END WHERE id = {from} OR id = {to}"
                );
                session
                    .run(&sql)
                    .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                moves += 1;
            }
        })
    };
    let mut session = db.session();
    let mut last = session.floor.floor;
    for _ in 0..100 {
        let rows = session.rows(
            "SELECT low.s + (SELECT sum(v) FROM high), (SELECT sum(v) FROM account) FROM low",
        );
        assert_eq!(rows, ["400|400"]);
        assert!(session.floor.floor >= last);
        last = session.floor.floor;
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().expect("the writer ends");
}

/// Concurrent inserts are all there, once.
#[test]
fn concurrent_writers_lose_nothing() {
    let mut db = Db::new();
    db.ok("CREATE TABLE t (w INT, n INT); CREATE TABLE u (id INT PRIMARY KEY, n INT)");
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut session = db.session();
            std::thread::spawn(move || {
                for n in 0..15 {
                    session.run(&format!("INSERT INTO t VALUES ({writer}, {n})")).expect("inserts");
                    let sql = "INSERT INTO u VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = u.n + excluded.n";
                    session.run(sql).expect("upserts");
                }
            })
        })
        .collect();
    writers
        .into_iter()
        .for_each(|writer| writer.join().expect("the writer ends"));
    assert_eq!(
        db.rows("SELECT count(*), count(DISTINCT w * 100 + n) FROM t"),
        ["60|60"]
    );
    assert_eq!(db.rows("SELECT n FROM u"), ["60"]);
    let db = db.reopen();
    assert_eq!(db.rows("SELECT count(*) FROM t"), ["60"]);
}
