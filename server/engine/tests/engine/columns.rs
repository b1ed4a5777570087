//! Proves that a source's rows are built with what its views read, and that no view is ever given rows that lack what it reads.
//!
//! `THALWEG_SEED=n` replays a seed, `THALWEG_COLUMN_CASES=n` runs more of them.

use std::io::Write;
use std::path::Path;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use thalweg_engine::{EngineConfig, EngineStatus};

use crate::checkpoints::never_saved;
use crate::harness::Db;
use crate::random::seeded;

/// Views that read different columns and fields, each kept in one of the ways there are.
const VIEWS: [(&str, &str); 9] = [
    ("whole", "SELECT * FROM s"),
    ("counted", "SELECT count(*) AS n FROM s"),
    (
        "kinds",
        "SELECT event_type, count(*) AS n FROM s GROUP BY event_type",
    ),
    (
        "prices",
        "SELECT (bid).auction AS a, count(*) AS n, sum((bid).price) AS p, max((bid).channel) AS c FROM s WHERE event_type = 2 GROUP BY (bid).auction",
    ),
    (
        "people",
        "SELECT (person).id AS id, (person).name AS name FROM s WHERE event_type = 0",
    ),
    (
        "sellers",
        "SELECT DISTINCT (auction).seller AS seller FROM s WHERE event_type = 1",
    ),
    (
        "sold",
        "SELECT (a.auction).category AS c, (b.bid).price AS p FROM s a JOIN s b ON (a.auction).id = (b.bid).auction WHERE a.event_type = 1 AND b.event_type = 2",
    ),
    (
        "either",
        "SELECT (bid).bidder AS who FROM s WHERE event_type = 2 UNION ALL SELECT (auction).seller FROM s WHERE event_type = 1",
    ),
    (
        "ranked",
        "SELECT (person).id AS id, rank() OVER (ORDER BY (person).city) AS r FROM s WHERE event_type = 0",
    ),
];

const EVENTS: u64 = 4_000;

fn offset(status: &EngineStatus) -> u64 {
    status.sources[0].offsets.get("0").copied().unwrap_or(0)
}

/// Views come and go while their source flows, over restarts too; each that is there equals its query, and so does each that comes
/// later.
#[test]
fn views_that_come_and_go_equal_their_queries() {
    let given = std::env::var("THALWEG_COLUMN_CASES");
    let cases = given.ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let mut random = seeded("views_that_come_and_go_equal_their_queries");
    (0..cases).for_each(|_| come_and_go(&mut random));
}

fn come_and_go(random: &mut ChaCha8Rng) {
    let workers = [1, 2, 4][random.random_range(0..3)];
    let stream_bytes_max = [0, 4096, 256 << 20][random.random_range(0..3)];
    println!("{workers} workers, {stream_bytes_max} bytes");
    let mut db = Db::with(EngineConfig {
        workers,
        stream_bytes_max,
        // Small polls: rows of several forms are on their way at once.
        epoch_rows_max: 64,
        ..never_saved()
    });
    db.ok(&format!(
        "CREATE SOURCE s (event_type INT, \
         person STRUCT<id BIGINT, name TEXT, city TEXT>, \
         auction STRUCT<id BIGINT, seller BIGINT, category BIGINT>, \
         bid STRUCT<auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT>) \
         WITH (connector = 'nexmark', events = {EVENTS}, rate = 8000, seed = 4)"
    ));
    let mut there: Vec<usize> = Vec::new();
    for _ in 0..14 {
        let view = random.random_range(0..VIEWS.len());
        let (name, query) = VIEWS[view];
        match (
            there.iter().position(|known| *known == view),
            random.random_range(0..8),
        ) {
            (_, 0) => {
                db.engine.checkpoint().expect("saves");
            }
            (_, 1) => db = db.reopen(),
            (Some(at), _) => {
                db.ok(&format!("DROP MATERIALIZED VIEW {name}"));
                there.remove(at);
            }
            (None, _) => {
                db.ok(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"));
                there.push(view);
            }
        }
        let rows = random.random_range(0..400);
        let until = (offset(&db.engine.status()) + rows).min(EVENTS);
        db.until("rows", |status| {
            status.sources[0].consumers.is_empty() || offset(status) >= until
        });
    }
    let missing = (0..VIEWS.len()).filter(|view| !there.contains(view));
    for (name, query) in missing.map(|view| VIEWS[view]) {
        db.ok(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"));
    }
    db.until("the end", |status| offset(status) == EVENTS);
    for when in ["at the end", "after a restart"] {
        let mut session = db.session();
        for (name, query) in VIEWS {
            db.ok(&format!("WAIT FOR {name}"));
            let (shown, wanted) = (
                session.rows(&format!("SELECT * FROM {name}")),
                session.rows(query),
            );
            assert_eq!(shown.len(), wanted.len(), "{name} {when}");
            assert!(
                shown == wanted,
                "{name} {when}: {:?}",
                difference(&shown, &wanted)
            );
        }
        drop(session);
        db = db.reopen();
    }
}

fn difference<'r>(shown: &'r [String], wanted: &'r [String]) -> Option<(&'r String, &'r String)> {
    shown
        .iter()
        .zip(wanted)
        .find(|(shown, wanted)| shown != wanted)
}

/// A file that a source follows.
fn followed(columns: &str) -> (tempfile::TempDir, Db) {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "");
    let mut db = Db::with(EngineConfig {
        file_root: folder.path().to_path_buf(),
        ..never_saved()
    });
    db.ok(&format!(
        "CREATE SOURCE s ({columns}) WITH (connector = 'file', path = 'rows.json', follow = 'true')"
    ));
    (folder, db)
}

fn write(folder: &Path, rows: &str) {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("rows.json"));
    file.and_then(|mut file| file.write_all(rows.as_bytes()))
        .expect("writes");
}

fn builds(db: &Db, columns: &str) {
    db.until(columns, |status| status.sources[0].columns == columns);
}

/// What the reader builds is what those read who are there now; it is told before one that begins takes over from its scan.
#[test]
fn a_reader_builds_what_is_read_now() {
    let (folder, mut db) = followed("id BIGINT, v BIGINT, o STRUCT<x BIGINT, y TEXT>");
    let mut rows = 0;
    let mut grow = |db: &Db| {
        (0..5).for_each(|_| {
            rows += 1;
            write(
                folder.path(),
                &format!("{{\"id\": {rows}, \"v\": 2, \"o\": {{\"x\": 3, \"y\": \"a\"}}}}\n"),
            );
        });
        db.until("the rows", |status| status.sources[0].records == rows);
        rows
    };
    db.ok("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM s; WAIT FOR n");
    builds(&db, "");
    for round in 0..3 {
        grow(&db);
        db.ok("CREATE MATERIALIZED VIEW v AS SELECT sum(v) AS v FROM s; WAIT FOR v");
        builds(&db, "v");
        grow(&db);
        db.ok("CREATE MATERIALIZED VIEW x AS SELECT sum((o).x) AS x, count((o).x) AS n FROM s WHERE v = 2; WAIT FOR x");
        builds(&db, "o.x, v");
        let n = grow(&db);
        let all = [format!("{n}|{}|{}|{n}", 2 * n, 3 * n)];
        db.until("all of it", |_| {
            db.rows("SELECT n.n, v.v, x.x, x.n FROM n, v, x") == all
        });
        if round == 0 {
            db.ok("CREATE MATERIALIZED VIEW r AS SELECT id, rank() OVER (ORDER BY (o).y, id) AS r FROM s; WAIT FOR r");
            builds(&db, "*");
            let n = grow(&db);
            db.until("all of them", |_| {
                db.rows("SELECT max(r) FROM r") == [n.to_string()]
            });
            db.ok("DROP MATERIALIZED VIEW r");
            builds(&db, "o.x, v");
        }
        db.ok("DROP MATERIALIZED VIEW v");
        builds(&db, "o.x, v");
        db.ok("DROP MATERIALIZED VIEW x");
        builds(&db, "");
    }
    // The last view gone, nothing is read; the next begins with everything.
    db.ok("DROP MATERIALIZED VIEW n; CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n, sum(v) AS v FROM s; WAIT FOR n");
    assert_eq!(
        db.rows("SELECT n, v FROM n"),
        [format!("{rows}|{}", 2 * rows)]
    );
}

/// Which records are faulty, and how they are shown, does not depend on who reads.
#[test]
fn faults_do_not_depend_on_who_reads() {
    let letters = |query: &str, columns: &str, count: usize| {
        let (folder, mut db) = followed(columns);
        db.ok(&format!(
            "CREATE MATERIALIZED VIEW one AS {query}; WAIT FOR one"
        ));
        write(
            folder.path(),
            "{\"id\": 1, \"v\": 1, \"w\": \"a\"}\n{\"id\": 2, \"v\": \"x\"}\n{\"id\": 3, \"v\": 9, \"w\": \"b\"}\n{\"v\": 4}\n",
        );
        db.until("the records", |status| status.sources[0].records == 4);
        let shown = "SELECT reason, \"offset\", message, payload FROM s_errors";
        db.until("the letters", |_| db.rows(shown).len() >= count);
        db.rows(shown)
    };
    let plain = "id BIGINT NOT NULL, v BIGINT, w TEXT";
    let checked = "id BIGINT NOT NULL, v BIGINT, w TEXT, twice BIGINT AS (id * 2), CHECK (v < 5) ON VIOLATION DEAD_LETTER";
    for (columns, count) in [(plain, 2), (checked, 3)] {
        let whole = letters("SELECT * FROM s", columns, count);
        assert_eq!(whole.len(), count, "{whole:?}");
        for query in [
            "SELECT count(*) AS n FROM s",
            "SELECT id FROM s WHERE v > 0",
        ] {
            assert_eq!(letters(query, columns, count), whole, "{query}");
        }
    }
}
