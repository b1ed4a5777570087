//! Proves that a sink which begins over much history gets it in parts: memory holds a few of them, and readers see every row once.

use std::cell::Cell;
use std::time::Duration;

use thalweg_engine::EngineConfig;
use thalweg_state::{CrashAction, CrashPoints, Point};

use crate::exactly_once::{World, sink, wanted};
use crate::harness::Db;

/// A generator with so many rows, at once.
fn source(db: &mut Db, rows: u64) {
    db.ok(&format!(
        "CREATE SOURCE s (id BIGINT, v BIGINT) WITH (connector = 'datagen', rows = {rows}, fields.id.kind = 'sequence', fields.id.start = 0, \
         fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 99, seed = 7)"
    ));
}

/// Parts of some hundred rows; a checkpoint is made when it is asked for.
fn in_parts(world: &World) -> EngineConfig {
    EngineConfig {
        early_bytes_max: 8_000,
        epoch_rows_max: 2_000,
        sink_part_rows_max: 700,
        ..World::config_of(vec![("out", world.clone())])
    }
}

const APPENDING: &str = "CREATE SINK out AS SELECT id, v FROM s WHERE v < 50 WITH (connector = 'kafka', delivery = 'exactly_once')";

/// What was written before there was a checkpoint counts with it, in order; without one it is rubbish, and comes again.
#[test]
fn a_beginning_is_on_disk_before_it_is_staged() {
    let world = World::default();
    let mut db = Db::with(in_parts(&world));
    source(&mut db, 20_000);
    db.ok(APPENDING);
    for round in 0..2 {
        db.until("the beginning", |status| sink(status).epoch.is_some());
        let runs = db.runs().len();
        assert!(runs >= 5, "{runs} parts in round {round}");
        assert!(world.lock().rows.is_empty(), "nothing was staged");
        // Killed before a checkpoint: all of it goes, and nothing is missed.
        db = db.reopen();
    }
    db.ok("WAIT FOR out");
    let rows: Vec<String> = world.lock().rows.iter().map(|row| row.0.clone()).collect();
    let mut expected: Vec<(i64, String)> = db
        .rows("SELECT id, v FROM s WHERE v < 50")
        .into_iter()
        .map(|row| {
            (
                row.split('|')
                    .next()
                    .and_then(|id| id.parse().ok())
                    .unwrap_or(-1),
                row,
            )
        })
        .collect();
    expected.sort_unstable();
    let expected: Vec<String> = expected.into_iter().map(|(_, row)| row).collect();
    assert!(
        rows == expected,
        "{} rows of {}",
        rows.len(),
        expected.len()
    );
    assert_eq!(sink(&db.engine.status()).rows, expected.len() as i64);
    // Delivered, it leaves nothing behind.
    let mut db = db.reopen();
    db.ok("WAIT FOR out");
    db.engine.checkpoint().expect("saves");
    assert_eq!(world.lock().rows.len(), expected.len());
}

/// Whatever step fails while parts are written or staged, readers see every row once.
#[test]
fn a_beginning_that_fails_loses_and_doubles_nothing() {
    let steps = [
        (Point::RunCreate, 4),
        (Point::RunWrite, 3),
        (Point::RunSync, 2),
        (Point::ManifestBegin, 1),
        (Point::ManifestCommit, 1),
        (Point::ManifestDone, 1),
    ];
    for (point, hit) in steps {
        let world = World::default();
        let mut db = Db::with(EngineConfig {
            checkpoint_interval: Duration::from_millis(20),
            ..in_parts(&world)
        });
        source(&mut db, 6_000);
        let points = CrashPoints::armed(point, hit, CrashAction::Error);
        db = db.close().failing(points).open().expect("opens");
        db.ok(APPENDING);
        db.until_ok("WAIT FOR out");
        assert_eq!(
            world.seen(),
            wanted(&db, "SELECT id, v FROM s WHERE v < 50"),
            "{point:?}"
        );
        let mut db = db.reopen();
        db.ok("WAIT FOR out");
        assert_eq!(
            world.seen(),
            wanted(&db, "SELECT id, v FROM s WHERE v < 50"),
            "{point:?}"
        );
    }
}

/// A sink of changes is given its beginning while that is read, and its rows are counted.
#[test]
fn a_beginning_does_not_have_to_fit_into_memory() {
    let mut db = Db::with(EngineConfig {
        early_bytes_max: 200_000,
        ..EngineConfig::default()
    });
    source(&mut db, 600_000);
    db.ok("CREATE SINK k AS SELECT id, v FROM s WITH (connector = 'blackhole')");
    let most = Cell::new(0);
    db.until("everything", |status| {
        let parts = status.memory.iter();
        let held = parts.filter(|part| part.component.starts_with("sink k: content"));
        most.set(most.get().max(held.map(|part| part.bytes).sum::<usize>()));
        sink(status).rows == 600_000
    });
    // All of it takes 10 MB; a part is a batch of 32,768 rows, and four are at most in one hand or another.
    assert!(most.get() < 4 << 20, "{} bytes were held", most.get());
    db.ok("WAIT FOR k");
    assert_eq!(sink(&db.engine.status()).rows, 600_000);
}
