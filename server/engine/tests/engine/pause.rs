//! Proves that what is paused stands still, over restarts too, while everything else goes on, and that nothing is passed over or
//! done twice when it goes on.
//!
//! `THALWEG_SEED=n` replays a seed; `THALWEG_ROUNDS=n` makes the random test longer.

use rand::Rng;
use thalweg_connectors::Epoch;
use thalweg_engine::{EngineStatus, JobPhase};

use crate::exactly_once::World;
use crate::harness::{Db, Rows};
use crate::random::{VIEWS, change, seeded};
use crate::resume::{OF_FILES, anew, file_source, part, save, views_of_files};

fn phase(db: &Db, name: &str) -> JobPhase {
    let jobs = db.engine.status().jobs;
    let job = jobs.iter().find(|job| job.name == name);
    job.expect("a job").phase
}

fn content(db: &Db, name: &str) -> Rows {
    db.rows(&format!("SELECT * FROM {name}"))
}

/// Whatever is paused, changed, saved and restarted: a paused view holds what it held when PAUSE returned, and every other one is
/// its query over what it reads, paused views included.
#[test]
fn views_that_stand_still_and_views_that_do_not() {
    let mut random = seeded("views_that_stand_still_and_views_that_do_not");
    let rounds = std::env::var("THALWEG_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(24);
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v INT)");
    for (name, query) in VIEWS {
        db.ok(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"));
    }
    let mut held: [Option<Rows>; VIEWS.len()] = Default::default();
    for round in 0..rounds {
        let mut session = db.session();
        for _ in 0..random.random_range(0..4) {
            change(&mut random, &mut session);
        }
        let chosen = random.random_range(0..VIEWS.len());
        let name = VIEWS[chosen].0;
        match (&held[chosen], random.random_range(0..3)) {
            (None, 0 | 1) => {
                // One that has never been computed has nothing to hold.
                db.ok("FLUSH");
                let begun = std::time::Instant::now();
                db.ok(&format!("ALTER MATERIALIZED VIEW {name} PAUSE"));
                println!(
                    "round {round}: {name} came to rest in {:?}",
                    begun.elapsed()
                );
                held[chosen] = Some(content(&db, name));
                assert_eq!(phase(&db, name), JobPhase::Paused);
            }
            (Some(_), 0 | 1) => {
                db.ok(&format!("ALTER MATERIALIZED VIEW {name} RESUME; FLUSH"));
                held[chosen] = None;
            }
            _ => {}
        }
        for ((name, query), held) in VIEWS.iter().zip(&held) {
            let rows = session.rows(&format!("SELECT * FROM {name}"));
            match held {
                Some(held) => assert_eq!(&rows, held, "{name} paused in round {round}"),
                None => assert_eq!(rows, session.rows(query), "{name} in round {round}"),
            }
        }
        drop(session);
        if random.random_range(0..6) == 0 {
            db.engine.checkpoint().expect("saves");
        }
        if random.random_range(0..8) == 0 {
            db = db.reopen();
        }
    }
    for ((name, _), held) in VIEWS.iter().zip(&held) {
        if held.is_some() {
            db.ok(&format!("ALTER MATERIALIZED VIEW {name} RESUME"));
        }
    }
    db.ok("FLUSH");
    let mut session = db.session();
    for (name, query) in VIEWS {
        let rows = session.rows(&format!("SELECT * FROM {name}"));
        assert_eq!(rows, session.rows(query), "{name} in the end");
    }
}

/// What comes while a view of a source is paused is read when it goes on, once, and what the source has lost before stays.
#[test]
fn a_paused_view_of_a_source_goes_on_where_it_was() {
    let (folder, mut db) = views_of_files();
    for (name, _) in OF_FILES {
        db.ok(&format!("ALTER MATERIALIZED VIEW {name} PAUSE"));
    }
    let held: Vec<Rows> = OF_FILES
        .iter()
        .map(|(name, _)| content(&db, name))
        .collect();
    assert_eq!(held[0].len(), 8);
    part(folder.path(), 2);
    let read = |status: &EngineStatus| status.sources[0].records;
    db.until("the new file", |status| read(status) == 30);
    let closed = db.close();
    std::fs::remove_file(folder.path().join("part_0.json")).expect("removes");
    let mut db = closed.open().expect("reopens");
    for ((name, _), held) in OF_FILES.iter().zip(&held) {
        assert_eq!(&content(&db, name), held, "{name}");
        assert_eq!(phase(&db, name), JobPhase::Paused);
        assert_eq!(db.fails(&format!("WAIT FOR {name}")).sqlstate, "55000");
    }
    part(folder.path(), 3);
    for (name, _) in OF_FILES {
        db.ok(&format!(
            "ALTER MATERIALIZED VIEW {name} RESUME; WAIT FOR {name}"
        ));
    }
    assert_eq!(anew(&db), Vec::<String>::new());
    assert_eq!(content(&db, "plain").len(), 16);
    assert_eq!(
        db.rows("SELECT min(n), max(n), max(z) FROM counted"),
        ["4|4|39"]
    );
    assert_eq!(db.rows("SELECT count(*), max(r) FROM ranked"), ["40|40"]);
    assert_eq!(db.rows("SELECT n FROM twice"), ["160"]);
}

/// A paused source is not read, its views stay readable and others go on; a view that begins meanwhile has what lies before.
#[test]
fn a_paused_source_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    part(folder.path(), 0);
    let mut db = file_source(folder.path());
    db.ok("CREATE TABLE t (v INT); CREATE MATERIALIZED VIEW other AS SELECT count(*) AS n FROM t");
    db.ok("CREATE MATERIALIZED VIEW early AS SELECT count(*) AS n FROM s; WAIT FOR early");
    db.ok("ALTER SOURCE s PAUSE");
    assert_eq!(db.engine.status().sources[0].health, "PAUSED");
    part(folder.path(), 1);
    db.ok("CREATE MATERIALIZED VIEW late AS SELECT max(id) AS z FROM s; INSERT INTO t VALUES (1); FLUSH");
    for _ in 0..2 {
        assert_eq!(db.rows("SELECT n, z FROM early, late"), ["10|9"]);
        assert_eq!(db.rows("SELECT n FROM other"), ["1"]);
        assert_eq!(db.fails("WAIT FOR early").sqlstate, "55000");
        save_if_moved(&db);
        db = db.reopen();
    }
    assert_eq!(db.engine.status().sources[0].health, "PAUSED");
    db.ok("ALTER SOURCE s RESUME; WAIT FOR early; WAIT FOR late");
    assert_eq!(db.rows("SELECT n, z FROM early, late"), ["20|19"]);
}

fn save_if_moved(db: &Db) {
    db.engine.checkpoint().expect("saves");
}

/// While one view is paused others are saved, those that read it too; after a restart they go on from there.
#[test]
fn checkpoints_do_without_what_is_paused() {
    let (folder, mut db) = views_of_files();
    db.ok("CREATE TABLE t (v BIGINT, w TEXT); INSERT INTO t VALUES (1, 'one')");
    db.ok("CREATE MATERIALIZED VIEW above AS SELECT c.z, t.w FROM counted c JOIN t ON c.v = t.v");
    db.ok("CREATE MATERIALIZED VIEW beside AS SELECT s.id, c.z FROM s JOIN counted c ON c.v = s.v; WAIT FOR beside");
    db.ok("ALTER MATERIALIZED VIEW counted PAUSE");
    part(folder.path(), 2);
    db.until("the new file", |status| status.sources[0].records == 30);
    db.ok("INSERT INTO t VALUES (2, 'two'); FLUSH");
    save(&db);
    db = db.reopen();
    assert_eq!(anew(&db), Vec::<String>::new());
    assert_eq!(db.rows("SELECT z, w FROM above"), ["11|one", "12|two"]);
    assert_eq!(
        db.rows("SELECT count(*), max(id), max(z) FROM beside"),
        ["30|29|19"]
    );
    db.ok("ALTER MATERIALIZED VIEW counted RESUME; WAIT FOR above; WAIT FOR beside");
    assert_eq!(db.rows("SELECT z, w FROM above"), ["21|one", "22|two"]);
    assert_eq!(
        db.rows("SELECT count(*), max(id), min(z) FROM beside"),
        ["30|29|20"]
    );
    assert_eq!(anew(&db), Vec::<String>::new());
}

/// A paused view without content says so at once; what does not wait for it goes on.
#[test]
fn a_view_that_was_paused_before_it_was_computed() {
    let mut db = Db::with(crate::checkpoints::never_saved());
    db.ok("CREATE TABLE t (v INT); INSERT INTO t VALUES (1)");
    // Its content is not saved: it depends on the clock.
    db.ok("CREATE MATERIALIZED VIEW clocked AS SELECT v FROM t WHERE now() > '2000-01-01'::timestamptz; FLUSH");
    db.ok("ALTER MATERIALIZED VIEW clocked PAUSE");
    assert_eq!(content(&db, "clocked"), ["1"]);
    db = db.reopen();
    let error = db.fails("SELECT * FROM clocked");
    assert_eq!(
        (error.sqlstate, error.message.as_str()),
        ("55000", "materialized view \"clocked\" is paused")
    );
    db.ok("CREATE MATERIALIZED VIEW other AS SELECT count(*) AS n FROM t; INSERT INTO t VALUES (2); FLUSH");
    assert_eq!(db.rows("SELECT n FROM other"), ["2"]);
    db.ok("ALTER MATERIALIZED VIEW clocked RESUME; FLUSH");
    assert_eq!(content(&db, "clocked"), ["1", "2"]);
}

/// A paused sink that delivers exactly once gives its readers nothing, over a restart too; afterwards each change is there once.
#[test]
fn a_paused_sink_delivers_nothing() {
    let world = World::default();
    let mut db = Db::with(World::config_of(vec![("out", world.clone())]));
    db.ok("CREATE TABLE t (k INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1, 1)");
    db.ok("CREATE SINK out AS SELECT k, v FROM t WITH (connector = 'kafka', delivery = 'exactly_once', primary_key = 'k')");
    db.ok("WAIT FOR out; ALTER SINK out PAUSE");
    assert_eq!(phase(&db, "out"), JobPhase::Paused);
    let before = world.seen();
    assert_eq!(before.len(), 1);
    for round in 2..4 {
        db.ok(&format!(
            "INSERT INTO t VALUES ({round}, 0); UPDATE t SET v = v + 1; FLUSH"
        ));
        db.engine.checkpoint().expect("saves");
        assert_eq!(db.fails("WAIT FOR out").sqlstate, "55000");
        assert_eq!(world.seen(), before);
        db = db.reopen();
    }
    db.ok("ALTER SINK out RESUME; WAIT FOR out");
    let rows = world.seen();
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows.values().all(|count| *count == 1), "{rows:?}");
    let job = |status: &EngineStatus| status.jobs.iter().find(|job| job.name == "out").cloned();
    let job = job(&db.engine.status()).expect("a job");
    assert!(job.delivered > Some(Epoch(0)) && job.phase == JobPhase::Running);
}
