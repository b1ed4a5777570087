//! Proves what a subscription promises: every durable epoch whole, once and in order, and that a stalled reader costs only itself.
//!
//! Invariant: what a reader has summed up is compared with what a query of the same epoch says.

use std::collections::BTreeMap;
use std::time::Duration;

use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use thalweg_connectors::Delta;
use thalweg_engine::{
    EngineConfig, EngineError, FollowEvent, FollowFrom, FollowOptions, Followed, SessionFloor,
    Subscription,
};

use crate::harness::Db;
use crate::random::{change, seeded};

const PATIENCE: Duration = Duration::from_secs(120);

/// What a reader knows.
#[derive(Default)]
struct Reader {
    content: BTreeMap<String, i64>,
    /// The content behind each change or snapshot.
    epochs: Vec<(u64, BTreeMap<String, i64>)>,
    mark: u64,
}

impl Reader {
    fn add(&mut self, epoch: u64, deltas: &[Delta]) {
        let last = self.epochs.last().map_or(0, |(epoch, _)| *epoch);
        assert!(epoch > last, "epoch {epoch} came after {last}");
        assert!(
            epoch >= self.mark,
            "epoch {epoch} came after mark {}",
            self.mark
        );
        for delta in deltas {
            let options = FormatOptions::default().with_null("null");
            let columns: Vec<ArrayFormatter<'_>> = (delta.batch.columns().iter())
                .map(|column| ArrayFormatter::try_new(column, &options).expect("prints"))
                .collect();
            for row in 0..delta.num_rows() {
                let cells: Vec<String> = columns.iter().map(|c| c.value(row).to_string()).collect();
                *self.content.entry(cells.join("|")).or_default() += delta.weights.at(row);
            }
        }
        self.content.retain(|_, count| *count != 0);
        assert!(
            self.content.values().all(|count| *count > 0),
            "{:?}",
            self.content
        );
        self.epochs.push((epoch, self.content.clone()));
    }

    /// Reads until everything up to `epoch` is there.
    fn read(&mut self, db: &Db, from: &mut Subscription, epoch: u64) -> Result<(), EngineError> {
        db.runtime.block_on(async {
            while self.mark <= epoch {
                let next = tokio::time::timeout(PATIENCE, from.next());
                match next.await.expect("the subscription tells something")? {
                    Some(FollowEvent::Snapshot { epoch, rows }) => {
                        let whole = rows.into_iter().map(|batch| Delta {
                            weights: thalweg_connectors::Weights::Constant(1),
                            batch,
                        });
                        self.add(epoch, &whole.collect::<Vec<_>>());
                    }
                    Some(FollowEvent::Changes { epoch, deltas }) => self.add(epoch, &deltas),
                    Some(FollowEvent::Progress(mark)) => {
                        assert!(mark >= self.mark, "mark {mark} came after {}", self.mark);
                        self.mark = mark;
                    }
                    None => panic!("the subscription ended"),
                }
            }
            Ok(())
        })
    }
}

fn follow(
    db: &Db,
    name: &str,
    from: FollowFrom,
    snapshot: bool,
) -> Result<Subscription, EngineError> {
    let options = FollowOptions {
        snapshot,
        from,
        up_to: None,
    };
    let mut floor = SessionFloor::default();
    let followed = Followed::Relation(db.oid(name));
    db.runtime
        .block_on(db.engine.subscribe(followed, options, &mut floor))
}

fn counted(rows: Vec<String>) -> BTreeMap<String, i64> {
    let mut content = BTreeMap::new();
    for row in rows {
        *content.entry(row).or_default() += 1;
    }
    content
}

/// Tables, views kept by changes and views that are recomputed, under random changes; and a second reader that starts at a mark.
#[test]
fn every_durable_epoch_is_told_whole_once_and_in_order() {
    let mut random = seeded("every_durable_epoch_is_told_whole_once_and_in_order");
    let mut db = Db::new();
    db.ok("CREATE TABLE t (k INT, v INT); INSERT INTO t VALUES (1, 1), (2, 2)");
    db.ok(
        "CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k",
    );
    db.ok("CREATE MATERIALIZED VIEW top AS SELECT k, v FROM t ORDER BY v DESC, k LIMIT 3; FLUSH");
    for (name, columns) in [("t", "k, v"), ("sums", "k, n, s"), ("top", "k, v")] {
        let mut subscription = follow(&db, name, FollowFrom::Now, true).expect("follows");
        let mut reader = Reader::default();
        let mut session = db.session();
        for _ in 0..20 {
            change(&mut random, &mut session);
        }
        let middle = session.floor.floor.0;
        reader.read(&db, &mut subscription, middle).expect("reads");
        let mark = reader.mark;
        for _ in 0..20 {
            change(&mut random, &mut session);
        }
        let last = session.floor.floor.0;
        reader.read(&db, &mut subscription, last).expect("reads");
        let expected = counted(session.rows(&format!("SELECT {columns} FROM {name}")));
        assert_eq!(reader.content, expected, "{name}");

        let mut late = Reader {
            content: reader.at(mark),
            ..Reader::default()
        };
        let mut rest = follow(&db, name, FollowFrom::After(mark), false).expect("continues");
        late.read(&db, &mut rest, last).expect("reads");
        let tail = reader.epochs.iter().filter(|(epoch, _)| *epoch >= mark);
        assert_eq!(late.epochs, tail.cloned().collect::<Vec<_>>(), "{name}");
    }
}

impl Reader {
    /// The content below a mark.
    fn at(&self, mark: u64) -> BTreeMap<String, i64> {
        let before = self.epochs.iter().rev().find(|(epoch, _)| *epoch < mark);
        before
            .map(|(_, content)| content.clone())
            .unwrap_or_default()
    }
}

/// Its changes are let go, it is told so, and the writer, the view and another reader never notice.
#[test]
fn a_stalled_reader_is_told_and_holds_up_nobody() {
    let mut db = Db::with(EngineConfig {
        subscription_bytes_max: 1_000,
        snapshot_history: Duration::from_millis(100),
        ..EngineConfig::default()
    });
    db.ok("CREATE TABLE t (k INT, v TEXT)");
    db.ok("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t; FLUSH");
    let mut stalled = follow(&db, "t", FollowFrom::Now, true).expect("follows");
    let mut before = Reader::default();
    before.read(&db, &mut stalled, 0).expect("reads");
    let mut healthy = follow(&db, "n", FollowFrom::Now, true).expect("follows");
    let mut reader = Reader::default();
    let mut session = db.session();
    let mut written = 0;
    // More than the stalled reader's share fits into.
    let mut needed = None;
    let deadline = std::time::Instant::now() + PATIENCE;
    // Until the history that it would need next is gone.
    while needed.is_none_or(|mark| follow(&db, "t", FollowFrom::After(mark), false).is_ok()) {
        assert!(
            std::time::Instant::now() < deadline,
            "history is kept for ever"
        );
        let long = "x".repeat(500);
        session
            .run(&format!("INSERT INTO t VALUES ({written}, '{long}')"))
            .expect("nothing holds the writer up");
        written += 1;
        let epoch = session.floor.floor.0;
        if written == 10 {
            needed = Some(epoch);
        }
        reader
            .read(&db, &mut healthy, epoch)
            .expect("the other reader reads on");
    }
    assert_eq!(reader.content, counted(vec![written.to_string()]));
    assert_eq!(session.rows("SELECT n FROM n"), [written.to_string()]);
    let error = before
        .read(&db, &mut stalled, session.floor.floor.0)
        .expect_err("changes are missing");
    let report = error.report();
    assert_eq!(report.sqlstate, "53400", "{report:?}");
    assert!(report.hint.is_some(), "{report:?}");
    // What it was given before is whole.
    assert!(
        before.content.len() < written,
        "{} of {written}",
        before.content.len()
    );
}
