//! Proves transaction blocks: nobody sees a part of one, conflicts are found by row, and rows and definitions share one fate.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use thalweg_catalog::{Change, apply};
use thalweg_engine::Definitions;
use thalweg_sql::parse;

use crate::harness::{Db, Session};

/// Where the child of the crash test works, and at which point it dies.
const CRASH_FOLDER: &str = "THALWEG_TEST_CRASH_FOLDER";
const CRASH_POINT: &str = "THALWEG_TEST_CRASH_POINT";

fn run(session: &mut Session, sql: &str) {
    session
        .run(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

#[test]
fn a_block_sees_its_rows_and_nobody_else_does() {
    let mut db = Db::new();
    db.ok("CREATE TABLE k (id INT PRIMARY KEY, v INT); CREATE TABLE m (v INT)");
    db.ok("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM k");
    db.ok("INSERT INTO k VALUES (1, 10), (2, 20); INSERT INTO m VALUES (5), (5), (6); FLUSH");
    let mut block = db.session();
    block.begin();
    run(&mut block, "INSERT INTO k VALUES (3, 30)");
    run(&mut block, "UPDATE k SET v = v + 1 WHERE id <> 2");
    run(&mut block, "DELETE FROM k WHERE id = 2");
    run(&mut block, "INSERT INTO k VALUES (2, 99)");
    run(
        &mut block,
        "INSERT INTO k VALUES (3, 0) ON CONFLICT (id) DO UPDATE SET v = k.v * 2",
    );
    assert_eq!(block.rows("SELECT id, v FROM k"), ["1|11", "2|99", "3|62"]);
    assert_eq!(
        block
            .run("INSERT INTO k VALUES (2, 0)")
            .expect_err("there")
            .sqlstate,
        "23505"
    );
    run(&mut block, "UPDATE m SET v = 7 WHERE v = 5");
    run(&mut block, "INSERT INTO m SELECT v FROM m");
    run(&mut block, "DELETE FROM m WHERE v = 6");
    assert_eq!(block.rows("SELECT v FROM m"), ["7", "7", "7", "7"]);
    // Views show what is committed.
    assert_eq!(block.rows("SELECT n FROM n"), ["2"]);
    assert_eq!(db.rows("SELECT id, v FROM k"), ["1|10", "2|20"]);
    assert_eq!(db.rows("SELECT v FROM m"), ["5", "5", "6"]);
    block.commit().expect("commits");
    assert_eq!(block.rows("SELECT id, v FROM k"), ["1|11", "2|99", "3|62"]);
    assert_eq!(db.rows("SELECT v FROM m"), ["7", "7", "7", "7"]);
    db.ok("FLUSH");
    assert_eq!(db.rows("SELECT n FROM n"), ["3"]);
    let db = db.reopen();
    assert_eq!(db.rows("SELECT id, v FROM k"), ["1|11", "2|99", "3|62"]);
    assert_eq!(db.rows("SELECT v FROM m"), ["7", "7", "7", "7"]);
}

#[test]
fn rollback_leaves_nothing() {
    let mut db = Db::new();
    db.ok("CREATE TABLE k (id INT PRIMARY KEY); INSERT INTO k VALUES (1)");
    let mut block = db.session();
    block.begin();
    run(&mut block, "DELETE FROM k");
    run(&mut block, "INSERT INTO k VALUES (2)");
    block.rollback();
    assert_eq!(block.rows("SELECT id FROM k"), ["1"]);
    // The key that was staged is free, the one that was to go is taken.
    run(&mut block, "INSERT INTO k VALUES (2)");
    assert_eq!(db.fails("INSERT INTO k VALUES (1)").sqlstate, "23505");
    assert_eq!(db.reopen().rows("SELECT id FROM k"), ["1", "2"]);
}

#[test]
fn an_empty_block_is_no_epoch() {
    let mut db = Db::new();
    db.ok("CREATE TABLE k (id INT PRIMARY KEY)");
    let before = db.engine.latest();
    let mut block = db.session();
    block.begin();
    run(&mut block, "INSERT INTO k VALUES (1)");
    run(&mut block, "DELETE FROM k");
    block.commit().expect("commits");
    assert_eq!(db.engine.latest(), before);
}

#[test]
fn of_two_blocks_that_change_a_row_one_fails() {
    let mut db = Db::new();
    db.ok("CREATE TABLE k (id INT PRIMARY KEY, v INT); CREATE TABLE m (v INT)");
    db.ok("INSERT INTO k VALUES (1, 1), (2, 2); INSERT INTO m VALUES (1), (1), (2)");
    for (first, second, conflict) in [
        (
            "UPDATE k SET v = v + 1 WHERE id = 1",
            "UPDATE k SET v = v + 10 WHERE id = 1",
            true,
        ),
        (
            "UPDATE k SET v = v + 1 WHERE id = 1",
            "UPDATE k SET v = v + 10 WHERE id = 2",
            false,
        ),
        (
            "INSERT INTO k VALUES (3, 3)",
            "INSERT INTO k VALUES (3, 4)",
            true,
        ),
        (
            "DELETE FROM k WHERE id = 3",
            "INSERT INTO k VALUES (4, 4)",
            false,
        ),
        (
            "UPDATE m SET v = 3 WHERE v = 2",
            "DELETE FROM m WHERE v = 2",
            true,
        ),
        (
            "INSERT INTO m VALUES (4)",
            "INSERT INTO m VALUES (4)",
            false,
        ),
        (
            "DELETE FROM m WHERE v = 4",
            "INSERT INTO m VALUES (4)",
            false,
        ),
    ] {
        let (mut one, mut two) = (db.session(), db.session());
        one.begin();
        two.begin();
        run(&mut one, first);
        run(&mut two, second);
        one.commit().expect("the first commits");
        let report = two.commit().err();
        let state = report.as_ref().map(|report| report.sqlstate);
        assert_eq!(state, conflict.then_some("40001"), "{first} / {second}");
        if let Some(report) = report {
            let message = "could not serialize access due to concurrent update";
            assert_eq!(report.message, message);
        }
    }
    let rows = ["1|3", "2|12", "4|4"];
    assert_eq!(db.rows("SELECT id, v FROM k"), rows);
    assert_eq!(db.rows("SELECT v FROM m"), ["1", "1", "3", "4"]);
    // What a block has changed may go away under it while it is open.
    let mut block = db.session();
    block.begin();
    run(&mut block, "UPDATE k SET v = 0 WHERE id = 1");
    db.ok("DELETE FROM k WHERE id = 1");
    let report = block.run("SELECT id FROM k").expect_err("overtaken");
    assert_eq!(report.sqlstate, "40001");
    assert_eq!(block.commit().expect_err("overtaken").sqlstate, "40001");
    assert_eq!(db.reopen().rows("SELECT id FROM k"), ["2", "4"]);
}

/// Money moves between two tables in blocks of several sessions, against each other; every reader finds the sum.
#[test]
fn a_reader_sees_a_block_whole_or_not_at_all() {
    let mut db = Db::new();
    db.ok("CREATE TABLE a (id INT PRIMARY KEY, v INT); CREATE TABLE b (id INT PRIMARY KEY, v INT)");
    db.ok("INSERT INTO a VALUES (1, 100), (2, 100), (3, 100); INSERT INTO b VALUES (1, 100), (2, 100), (3, 100)");
    let movers: Vec<_> = (1..=3)
        .map(|mover| {
            let mut session = db.session();
            std::thread::spawn(move || {
                let mut moved = 0;
                for turn in 0..30 {
                    session.begin();
                    let id = 1 + (mover + turn) % 3;
                    let both = [
                        format!("UPDATE a SET v = v - 1 WHERE id = {id}"),
                        format!("UPDATE b SET v = v + 1 WHERE id = {id}"),
                    ];
                    let done = both
                        .iter()
                        .try_for_each(|sql| session.run(sql).map(drop))
                        .and_then(|()| session.commit());
                    match done {
                        Ok(_) => moved += 1,
                        Err(report) => {
                            assert_eq!(report.sqlstate, "40001", "{report:?}");
                            session.rollback();
                        }
                    }
                }
                moved
            })
        })
        .collect();
    let mut reader = db.session();
    let sum = "SELECT sum(v) FROM (SELECT v FROM a UNION ALL SELECT v FROM b) AS x";
    while !movers.iter().all(|mover| mover.is_finished()) {
        assert_eq!(reader.rows(sum), ["600"]);
    }
    let moved: i64 = movers
        .into_iter()
        .map(|mover| mover.join().expect("moves"))
        .sum();
    assert!(moved > 0);
    assert_eq!(db.rows("SELECT sum(v) FROM a"), [(300 - moved).to_string()]);
    let db = db.reopen();
    assert_eq!(db.rows("SELECT sum(v) FROM b"), [(300 + moved).to_string()]);
    assert_eq!(db.rows(sum), ["600"]);
}

/// Sessions insert keys one by one; none is lost, none is doubled, whoever wins.
#[test]
fn insertions_of_many_sessions_share_a_key() {
    let mut db = Db::new();
    db.ok("CREATE TABLE k (id INT PRIMARY KEY, v INT)");
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let mut session = db.session();
            std::thread::spawn(move || {
                let mut won = 0;
                for id in 0..40 {
                    match session.run(&format!("INSERT INTO k VALUES ({id}, 0)")) {
                        Ok(_) => won += 1,
                        Err(report) => assert_eq!(report.sqlstate, "23505"),
                    }
                    run(
                        &mut session,
                        &format!("UPDATE k SET v = v + 1 WHERE id = {id}"),
                    );
                }
                won
            })
        })
        .collect();
    let won: i32 = writers
        .into_iter()
        .map(|writer| writer.join().expect("writes"))
        .sum();
    assert_eq!(won, 40);
    let each = "SELECT count(*), min(v), max(v) FROM k";
    assert_eq!(db.rows(each), ["40|4|4"]);
    assert_eq!(db.reopen().rows(each), ["40|4|4"]);
}

/// A block that creates a table, fills it, and changes one that was there before.
fn create_and_fill(
    db: &Db,
    append: thalweg_engine::Append,
    publish: impl FnOnce() + Send + 'static,
) -> (Session, Arc<thalweg_catalog::Catalog>, Definitions) {
    let create = "CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL, CHECK (v > 0))";
    let statement = parse(create).expect("parses").remove(0).statement;
    let table = db.table(&statement).expect("defines");
    let change = Change::CreateRelation(Box::new(table.clone()));
    let catalog = Arc::new(apply(&db.catalog, &change).expect("applies"));
    let mut block = db.session();
    block.begin();
    block.stage(&catalog, &table);
    assert_eq!(block.rows("SELECT id FROM t"), Vec::<String>::new());
    run(&mut block, "INSERT INTO t SELECT id, id * 10 FROM u");
    run(&mut block, "UPDATE t SET v = v + 1 WHERE id = 1");
    run(&mut block, "DELETE FROM u WHERE id = 1");
    let refused = block
        .run("INSERT INTO t VALUES (9, 0)")
        .expect_err("checked");
    assert_eq!(refused.sqlstate, "23514");
    assert_eq!(block.rows("SELECT id, v FROM t"), ["1|11", "2|20"]);
    let definitions = Definitions {
        catalog: Arc::clone(&catalog),
        create: vec![(table, None)],
        drop: Vec::new(),
        pause: Vec::new(),
        append,
        publish: Box::new(publish),
    };
    (block, catalog, definitions)
}

#[test]
fn a_table_is_created_with_its_rows() {
    let mut db = Db::new();
    db.ok("CREATE TABLE u (id INT PRIMARY KEY); INSERT INTO u VALUES (1), (2)");
    let refuse = Box::new(|_: &_| {
        Err(thalweg_catalog::Report {
            sqlstate: "XX001",
            message: "refused".into(),
            detail: None,
            hint: None,
            position: None,
        })
    });
    let (mut block, _, definitions) = create_and_fill(&db, refuse, || panic!("not published"));
    let report = block.commit_with(Some(definitions)).expect_err("refused");
    assert_eq!(
        (report.sqlstate, report.message.as_str()),
        ("XX001", "refused")
    );
    assert_eq!(db.rows("SELECT id FROM u"), ["1", "2"]);

    let (mut block, catalog, definitions) = create_and_fill(&db, Box::new(|_| Ok(())), || ());
    let epoch = block.commit_with(Some(definitions)).expect("commits");
    assert_eq!(db.engine.latest().epoch, epoch);
    db.catalog = catalog;
    assert_eq!(db.rows("SELECT id, v FROM t"), ["1|11", "2|20"]);
    assert_eq!(db.rows("SELECT id FROM u"), ["2"]);
    assert_eq!(db.fails("INSERT INTO t VALUES (2, 2)").sqlstate, "23505");
    let db = db.reopen();
    assert_eq!(db.rows("SELECT id, v FROM t"), ["1|11", "2|20"]);
    assert_eq!(db.rows("SELECT id FROM u"), ["2"]);
}

/// Runs in a process of its own, which it ends in the middle of COMMIT.
#[test]
fn crashing_child() {
    let (Ok(folder), Ok(point)) = (std::env::var(CRASH_FOLDER), std::env::var(CRASH_POINT)) else {
        return;
    };
    let (mut db, log) = Db::at(Path::new(&folder));
    let log = Arc::new(log);
    let statement = parse("CREATE TABLE u (id INT PRIMARY KEY)").expect("parses");
    let table = db.table(&statement.first().expect("one").statement);
    let change = Change::CreateRelation(Box::new(table.expect("defines")));
    log.append(&db.catalog, &[change]).expect("logs");
    db.ok("CREATE TABLE u (id INT PRIMARY KEY); INSERT INTO u VALUES (1), (2)");
    let (before, at_append) = (Arc::clone(&db.catalog), point == "append");
    let (send, taken) = std::sync::mpsc::channel::<Vec<Change>>();
    let append = Box::new(move |transaction: &_| {
        let changes = taken.recv().expect("the changes");
        let appended = log.append_in(transaction, &before, &changes);
        if at_append {
            std::process::abort();
        }
        appended.map(drop).map_err(|error| error.report())
    });
    let (mut block, _, definitions) = create_and_fill(&db, append, || std::process::abort());
    let created = definitions.create.iter();
    let changes = created.map(|(table, _)| Change::CreateRelation(Box::new(table.clone())));
    send.send(changes.collect()).expect("sends");
    let outcome = block.commit_with(Some(definitions));
    panic!("the process outlived its end: {outcome:?}");
}

#[test]
fn a_crash_in_commit_keeps_all_or_nothing() {
    for (point, rows_of_u, rows_of_t) in [
        ("append", vec!["1", "2"], None),
        ("publish", vec!["2"], Some(vec!["1|11", "2|20"])),
    ] {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["transactions::crashing_child", "--exact", "--nocapture"])
            .env(CRASH_FOLDER, folder.path())
            .env(CRASH_POINT, point)
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&child.stderr).into_owned();
        assert!(!child.status.success(), "{point}: {said}");
        assert!(!said.contains("panicked"), "{point}: {said}");
        let (db, _log) = Db::at(folder.path());
        assert_eq!(db.rows("SELECT id FROM u"), rows_of_u, "{point}");
        let there = db.catalog.find("public", "t").is_some();
        assert_eq!(there, rows_of_t.is_some(), "{point}");
        if let Some(rows) = rows_of_t {
            assert_eq!(db.rows("SELECT id, v FROM t"), rows);
        }
        db.engine.shutdown();
    }
}
