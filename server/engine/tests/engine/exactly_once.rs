//! Proves that a sink which commits what checkpoints stage gives its readers every change once, in order, whatever fails.
//!
//! The outside system is scripted: it fails before or after it has taken a delivery, knows the writer that took over last, and
//! remembers every change it was given. What its readers see is the sum of those.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thalweg_catalog::{Relation, RelationKind};
use thalweg_connectors::{
    ArchiveError, CommittingSink, ConnectorError, Due, Form, HbaseError, Marker, Staged,
};
use thalweg_engine::{EngineConfig, EngineStatus, SessionFloor, Writers};

use crate::checkpoints::never_saved;
use crate::harness::Db;

/// What goes wrong with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody answers the one who wants to take over.
    TakeOver,
    /// Nothing of the delivery arrives.
    Before,
    /// It arrives, and the answer does not.
    After,
    /// Another server has taken over for good.
    ShutOut,
}

/// What an outside system holds.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    writer: u64,
    pub(crate) marker: Option<Marker>,
    /// Rows as text with how often they were inserted less how often they were deleted, in order of arrival.
    pub(crate) rows: Vec<(String, i64)>,
    stamps: Vec<i64>,
    pub(crate) faults: VecDeque<Fault>,
    /// Deliveries that wait for a commit.
    pub(crate) gathers: bool,
    /// Whoever finds another writer is shut out for good.
    strict: bool,
    parts: u32,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct World(Arc<Mutex<Outside>>);

impl World {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Outside> {
        self.0.lock().expect("nobody panicked")
    }

    /// The rows that readers see, each as often as it is there.
    pub(crate) fn seen(&self) -> BTreeMap<String, i64> {
        let mut seen = BTreeMap::new();
        for (row, weight) in &self.lock().rows {
            *seen.entry(row.clone()).or_insert(0) += weight;
        }
        seen.retain(|_, count| *count != 0);
        seen
    }

    fn config(&self) -> EngineConfig {
        World::config_of(vec![("out", self.clone())])
    }

    /// An engine whose sinks write to a world each.
    pub(crate) fn config_of(worlds: Vec<(&'static str, World)>) -> EngineConfig {
        let open = move |relation: &Relation| -> Box<dyn CommittingSink> {
            let RelationKind::Sink(spec) = &relation.kind else {
                panic!("{} is no sink", relation.name);
            };
            let form = match spec.format {
                Some(_) => Form::Upsert,
                None => Form::Append,
            };
            let world = worlds.iter().find(|(sink, _)| *sink == relation.name);
            let (_, world) = world.expect("a world for each sink");
            Box::new(Scripted {
                world: world.clone(),
                form,
                writer: 0,
                gathered: Vec::new(),
            })
        };
        EngineConfig {
            writers: Some(Writers(Arc::new(open))),
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(5),
            sink_part_rows_max: 3,
            ..never_saved()
        }
    }
}

struct Scripted {
    world: World,
    form: Form,
    writer: u64,
    gathered: Vec<Staged>,
}

fn broken() -> ConnectorError {
    ConnectorError::Internal("the script says so".into())
}

impl Scripted {
    /// Takes what was gathered.
    fn settle(&mut self) -> Result<Option<Marker>, ConnectorError> {
        let mut outside = self.world.lock();
        if outside.writer != self.writer && outside.strict {
            let archive = "w".to_owned();
            return Err(ArchiveError::Fenced { archive }.into());
        }
        if outside.writer != self.writer {
            return Err(ConnectorError::Fenced { writer: "w".into() });
        }
        let fault = match self.gathered.is_empty() {
            true => None,
            false => outside.faults.pop_front(),
        };
        if fault == Some(Fault::Before) {
            return Err(broken());
        }
        if fault == Some(Fault::ShutOut) {
            let row = "w".to_owned();
            return Err(HbaseError::ShutOut { row }.into());
        }
        for staged in self.gathered.drain(..) {
            assert!(Some(staged.marker) > outside.marker, "{staged:?}");
            let again = outside
                .marker
                .is_some_and(|m| m.epoch == staged.marker.epoch);
            let last = outside.stamps.last().copied().unwrap_or(0);
            assert!(staged.stamp_ms > last || (again && staged.stamp_ms == last));
            outside.stamps.push(staged.stamp_ms);
            outside.marker = Some(staged.marker);
            outside.parts += 1;
            for delta in &staged.changes {
                assert!(self.form == Form::Upsert || delta.weights.all_positive());
                for (row, text) in texts(&delta.batch).into_iter().enumerate() {
                    outside.rows.push((text, delta.weights.at(row)));
                }
            }
        }
        if fault == Some(Fault::After) {
            return Err(broken());
        }
        Ok(outside.marker)
    }
}

#[async_trait]
impl CommittingSink for Scripted {
    fn form(&self) -> Form {
        self.form
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn take_over(&mut self) -> Result<Option<Marker>, ConnectorError> {
        let mut outside = self.world.lock();
        if outside.faults.front() == Some(&Fault::TakeOver) {
            outside.faults.pop_front();
            return Err(broken());
        }
        outside.writer += 1;
        self.writer = outside.writer;
        Ok(outside.marker)
    }

    async fn deliver(&mut self, staged: &Staged) -> Result<Option<Marker>, ConnectorError> {
        self.gathered.push(staged.clone());
        let (gathers, marker) = {
            let outside = self.world.lock();
            (outside.gathers, outside.marker)
        };
        if gathers {
            return Ok(marker);
        }
        self.settle()
    }

    async fn commit(&mut self, due: Due) -> Result<Option<Marker>, ConnectorError> {
        match due {
            Due::Now => self.settle(),
            Due::IfRipe => Ok(self.world.lock().marker),
        }
    }
}

fn texts(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("prints"))
        .collect();
    let row = |row| {
        let values = columns.iter().map(|column| column.value(row).to_string());
        values.collect::<Vec<_>>().join("|")
    };
    (0..batch.num_rows()).map(row).collect()
}

pub(crate) fn wanted(db: &Db, query: &str) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for row in db.rows(query) {
        *rows.entry(row).or_insert(0) += 1;
    }
    rows
}

fn wait(db: &mut Db) {
    db.ok("WAIT FOR out");
}

const TABLE: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, g BIGINT, v BIGINT)";
const GROUPS: &str = "SELECT g, count(*) AS n, sum(v) AS total FROM t GROUP BY g";
const KEYED: &str = "WITH (connector = 'kafka', delivery = 'exactly_once', primary_key = 'g')";

fn grouped(world: &World) -> Db {
    let mut db = Db::with(world.config());
    db.ok(TABLE);
    db.ok(&format!("CREATE SINK out AS {GROUPS} {KEYED}"));
    db
}

/// As [`grouped`], with a log that is full as soon as anything waits in it.
fn small_log(world: &World) -> Db {
    let mut db = Db::with(world.config());
    db.ok(TABLE);
    db.ok(&format!(
        "CREATE SINK out AS {GROUPS} {}",
        KEYED.replace(')', ", sink_log.max_bytes = '1')")
    ));
    db
}

pub(crate) fn sink(status: &EngineStatus) -> &thalweg_engine::JobStatus {
    let sink = status.jobs.iter().find(|job| job.kind == "sink");
    sink.expect("a sink")
}

/// Each way a delivery can end, and what is staged, checkpointed and delivered around it.
#[test]
fn every_way_to_fail_gives_every_change_once() {
    for script in [
        vec![],
        vec![Fault::TakeOver],
        vec![Fault::Before],
        vec![Fault::After],
        vec![Fault::Before, Fault::After, Fault::TakeOver, Fault::After],
    ] {
        let world = World::default();
        let mut db = grouped(&world);
        db.ok("INSERT INTO t SELECT v, v % 7, v FROM unnest(array[1,2,3,4,5,6,7,8,9,10]) AS x(v)");
        world.lock().faults = script.clone().into();
        wait(&mut db);
        assert_eq!(world.seen(), wanted(&db, GROUPS), "{script:?}");
        // Killed after the delivery: the record on disk does not know of it.
        let before = world.lock().rows.len();
        db = db.reopen();
        wait(&mut db);
        assert_eq!(world.lock().rows.len(), before, "{script:?}: again");
        // Changed after the checkpoint: lost by a kill and computed again.
        db.ok("UPDATE t SET v = v + 1 WHERE g < 3; DELETE FROM t WHERE g = 5");
        world.lock().faults = script.clone().into();
        db = db.reopen();
        wait(&mut db);
        assert_eq!(world.seen(), wanted(&db, GROUPS), "{script:?}");
        // Staged, and killed before it was delivered.
        let nobody = vec![Fault::TakeOver; 100_000];
        world.lock().faults = [vec![Fault::Before], nobody].concat().into();
        db.ok("INSERT INTO t VALUES (100, 100, 1), (101, 5, 1)");
        db.ok("FLUSH");
        db.engine.checkpoint().expect("saves");
        db.until("a failed delivery", |status| sink(status).error.is_some());
        let closed = db.close();
        world.lock().faults = script.clone().into();
        let mut db = closed.open().expect("opens");
        wait(&mut db);
        assert_eq!(world.seen(), wanted(&db, GROUPS), "{script:?}");
        assert!(world.lock().parts > 3, "a delivery has several parts");
        let status = db.engine.status();
        assert_eq!(
            (sink(&status).error.as_ref(), sink(&status).waiting_bytes),
            (None, Some(0))
        );
    }
}

/// Rows that are appended come in their order, those of a restart behind those before it.
#[test]
fn appended_rows_keep_their_order() {
    let world = World::default();
    let mut db = Db::with(world.config());
    db.ok("CREATE TABLE e (n BIGINT)");
    db.ok("CREATE SINK out AS SELECT n, n * 2 AS twice FROM e WITH (connector = 'kafka', delivery = 'exactly_once')");
    let mut last = 0;
    for round in 0..6 {
        for _ in 0..3 {
            let rows: Vec<String> = (last..last + 7).map(|n| format!("({n})")).collect();
            db.ok(&format!("INSERT INTO e VALUES {}", rows.join(", ")));
            last += 7;
        }
        world.lock().faults = [Fault::After, Fault::Before].into();
        match round % 3 {
            0 => wait(&mut db),
            1 => db = db.reopen(),
            _ => drop(db.engine.checkpoint()),
        }
    }
    wait(&mut db);
    let rows: Vec<String> = world.lock().rows.iter().map(|row| row.0.clone()).collect();
    let expected: Vec<String> = (0..last).map(|n| format!("{n}|{}", n * 2)).collect();
    assert_eq!(rows, expected);
}

/// What is gathered counts when it is committed, and is handed over again when the server stopped before.
#[test]
fn what_is_gathered_is_not_delivered_yet() {
    let world = World::default();
    world.lock().gathers = true;
    let mut db = grouped(&world);
    db.ok("INSERT INTO t VALUES (1, 1, 1)");
    wait(&mut db);
    assert_eq!(world.seen(), wanted(&db, GROUPS));
    db.ok("INSERT INTO t VALUES (2, 2, 2); FLUSH");
    db.ok("INSERT INTO t VALUES (3, 1, 2)");
    db.engine.checkpoint().expect("saves");
    let mut db = db.reopen();
    world.lock().faults = [Fault::After].into();
    wait(&mut db);
    assert_eq!(world.seen(), wanted(&db, GROUPS));
}

/// Markers that this data dir knows nothing of stop the sink until its owner accepts that rows come again.
#[test]
fn a_foreign_marker_stops_the_sink_until_it_is_accepted() {
    for marker in [
        Some(Marker {
            epoch: 1_000_000,
            part: 0,
            last: true,
        }),
        None,
    ] {
        let world = World::default();
        let mut db = grouped(&world);
        db.ok("INSERT INTO t VALUES (1, 1, 1)");
        wait(&mut db);
        // One more checkpoint: the record knows what was delivered.
        db.engine.checkpoint().expect("saves");
        let closed = db.close();
        {
            let mut outside = world.lock();
            outside.marker = marker;
            outside.rows.clear();
        }
        let mut db = closed.open().expect("opens");
        db.ok("INSERT INTO t VALUES (2, 2, 2)");
        db.until("an error", |status| sink(status).error.is_some());
        // FLUSH does not wait for a sink that is in state ERROR.
        db.ok("FLUSH");
        for _ in 0..3 {
            db.engine.checkpoint().expect("saves");
        }
        assert!(world.seen().is_empty());
        // A writer has taken over; what it finds from now on is its own.
        world.lock().marker = None;
        let oid = db.oid("out");
        db.engine.resume_sink(oid).expect("is a sink");
        wait(&mut db);
        assert_eq!(world.seen(), BTreeMap::from([("2|1|2".to_owned(), 1)]));
        let table = db.oid("t");
        assert!(db.engine.resume_sink(table).is_err());
    }
}

/// Another writer shuts ours out; ours takes over again and goes on where the markers say.
#[test]
fn two_writers_double_nothing() {
    let world = World::default();
    let mut db = grouped(&world);
    for round in 0..5 {
        db.ok(&format!("INSERT INTO t VALUES ({round}, {round}, 1)"));
        world.lock().writer += 100;
        wait(&mut db);
        assert_eq!(world.seen(), wanted(&db, GROUPS));
    }
}

/// Two servers on copies of one data dir do not shut each other out in turn: the one that was shut out stays out until its owner
/// says otherwise, also over a restart.
#[test]
fn a_writer_that_was_shut_out_stays_out() {
    let world = World::default();
    let mut db = grouped(&world);
    db.ok("INSERT INTO t VALUES (1, 1, 1)");
    wait(&mut db);
    let took_over = world.lock().writer;
    world.lock().faults = [Fault::ShutOut].into();
    db.ok("INSERT INTO t VALUES (2, 2, 2); FLUSH");
    db.engine.checkpoint().expect("saves");
    let says = |status: &EngineStatus| {
        let error = sink(status).error.as_ref();
        error.is_some_and(|error| error.contains("another server delivers"))
    };
    db.until("what it waits for", says);
    for _ in 0..3 {
        db.engine.checkpoint().expect("saves");
    }
    let mut db = db.reopen();
    db.until("that it still waits", says);
    db.ok("INSERT INTO t VALUES (3, 3, 3); FLUSH");
    db.engine.checkpoint().expect("saves");
    assert_eq!(world.lock().writer, took_over, "nobody has taken over");
    assert_eq!(world.seen(), BTreeMap::from([("1|1|1".to_owned(), 1)]));
    let oid = db.oid("out");
    db.engine.resume_sink(oid).expect("is a sink");
    wait(&mut db);
    assert_eq!(world.seen(), wanted(&db, GROUPS));
    // And from then on it is a sink like any other.
    let mut db = db.reopen();
    db.ok("INSERT INTO t VALUES (4, 4, 4)");
    wait(&mut db);
    assert_eq!(world.seen(), wanted(&db, GROUPS));
}

/// Of two servers that write to one place the one that took over last goes on and the other stops, whether it finds out with a
/// delivery or with a commit; neither takes over again by itself.
#[test]
fn two_servers_do_not_take_over_from_each_other_in_turn() {
    let says = |status: &EngineStatus| {
        let error = sink(status).error.as_ref();
        error.is_some_and(|error| error.contains("another server delivers"))
    };
    for gathers in [false, true] {
        let world = World::default();
        world.lock().strict = true;
        world.lock().gathers = gathers;
        let resume = |db: &Db| {
            // What the other one has delivered is not what this one compares with.
            world.lock().marker = None;
            world.lock().stamps.clear();
            db.engine.resume_sink(db.oid("out")).expect("is a sink");
        };
        let shut_out = |db: &Db| {
            db.until("that it is shut out", |status| {
                db.engine.checkpoint().expect("saves");
                says(status)
            });
        };
        let mut first = small_log(&world);
        first.ok("INSERT INTO t VALUES (1, 1, 1)");
        wait(&mut first);
        let mut second = small_log(&world);
        second.until("what it finds", |status| sink(status).error.is_some());
        resume(&second);
        second.ok("INSERT INTO t VALUES (1, 2, 1)");
        wait(&mut second);
        let took_over = world.lock().writer;
        for id in 2..5 {
            first.ok(&format!("INSERT INTO t VALUES ({id}, {id}, 1)"));
            shut_out(&first);
            second.ok(&format!("INSERT INTO t VALUES ({id}, 2, {id})"));
            wait(&mut second);
            assert_eq!(world.lock().writer, took_over, "{gathers}");
        }
        resume(&first);
        wait(&mut first);
        second.ok("INSERT INTO t VALUES (7, 2, 7)");
        shut_out(&second);
        assert_eq!(world.lock().writer, took_over + 1, "{gathers}");
    }
}

/// At its limit only the sink's job waits; it goes on when the log is delivered.
#[test]
fn a_full_log_holds_up_its_own_sink_only() {
    let world = World::default();
    let mut db = Db::with(world.config());
    db.ok(TABLE);
    db.ok("CREATE MATERIALIZED VIEW other AS SELECT g, count(*) AS n FROM t GROUP BY g");
    db.ok(&format!(
        "CREATE SINK out AS {GROUPS} {}",
        KEYED.replace(')', ", sink_log.max_bytes = '1')")
    ));
    wait(&mut db);
    world.lock().faults = [vec![Fault::Before], vec![Fault::TakeOver; 100_000]]
        .concat()
        .into();
    db.ok("INSERT INTO t VALUES (1, 1, 1); FLUSH");
    db.engine.checkpoint().expect("saves");
    let full = |status: &EngineStatus| sink(status).waiting_bytes.is_some_and(|b| b > 0);
    db.until("a full log", full);
    let stood = sink(&db.engine.status()).epoch;
    for id in 2..20 {
        db.ok(&format!(
            "INSERT INTO t VALUES ({id}, {id}, 1); WAIT FOR other"
        ));
        db.engine.checkpoint().expect("saves");
    }
    assert_eq!(sink(&db.engine.status()).epoch, stood);
    assert_eq!(db.rows("SELECT count(*) FROM other"), ["19"]);
    world.lock().faults.clear();
    wait(&mut db);
    assert_eq!(world.seen(), wanted(&db, GROUPS));
}

/// A sink that gathers deliveries for large commits commits when its log is full: nothing else would ever empty it.
#[test]
fn a_full_log_is_committed_whatever_the_sink_waits_for() {
    let world = World::default();
    let mut db = small_log(&world);
    wait(&mut db);
    world.lock().gathers = true;
    for id in 1..4 {
        db.ok(&format!("INSERT INTO t VALUES ({id}, {id}, 1)"));
        db.until("a commit", |_| {
            db.engine.checkpoint().expect("saves");
            world.seen().contains_key(&format!("{id}|1|1"))
        });
    }
}

/// What was delivered is merged, what waits is not, and a restart finds both.
#[test]
fn delivered_runs_are_merged() {
    let world = World::default();
    let mut db = Db::with(EngineConfig {
        checkpoint_interval: Duration::from_millis(5),
        disk_reserve: 0,
        ..world.config()
    });
    db.ok(TABLE);
    db.ok(&format!("CREATE SINK out AS {GROUPS} {KEYED}"));
    for round in 0..12 {
        db.ok(&format!("INSERT INTO t VALUES ({round}, {}, 1)", round % 3));
        wait(&mut db);
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    // The sink, its query's state and the table: each round leaves a run of each, and a few of each stay.
    while db.runs().len() > 16 {
        assert!(std::time::Instant::now() < deadline, "{:?}", db.runs());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    world.lock().faults = vec![Fault::TakeOver; 1_000_000].into();
    world.lock().writer += 1;
    for round in 20..30 {
        db.ok(&format!(
            "INSERT INTO t VALUES ({round}, {}, 1); FLUSH",
            round % 3
        ));
        db.engine.checkpoint().expect("saves");
    }
    let closed = db.close();
    world.lock().faults.clear();
    let mut db = closed.open().expect("opens");
    wait(&mut db);
    assert_eq!(world.seen(), wanted(&db, GROUPS));
}

/// A dropped sink leaves nothing that a new one could find, and its log goes.
#[test]
fn a_dropped_sink_leaves_nothing() {
    let world = World::default();
    let mut db = grouped(&world);
    db.ok("INSERT INTO t VALUES (1, 1, 1)");
    wait(&mut db);
    db.ok("DROP SINK out");
    *world.lock() = Outside::default();
    db.ok(&format!("CREATE SINK out AS {GROUPS} {KEYED}"));
    wait(&mut db);
    assert_eq!(world.seen(), wanted(&db, GROUPS));
    let mut db = db.reopen();
    wait(&mut db);
    assert_eq!(world.seen(), wanted(&db, GROUPS));
}

/// Random changes, checkpoints, restarts and faults: whenever the sink has caught up, its readers see the query's rows once.
#[test]
fn random_histories_are_delivered_once() {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    let (cases, first) = (
        number("THALWEG_SINK_CASES", 6),
        number("THALWEG_SINK_SEED", 1),
    );
    for seed in first..first + cases {
        eprintln!("THALWEG_SINK_SEED={seed} THALWEG_SINK_CASES=1");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let world = World::default();
        world.lock().gathers = random.random_bool(0.3);
        let mut db = grouped(&world);
        for _ in 0..random.random_range(5..25) {
            let (id, g) = (random.random_range(0..30), random.random_range(0..6));
            match random.random_range(0..10) {
                0..3 => db.ok(&format!(
                    "INSERT INTO t VALUES ({id}, {g}, {id}) ON CONFLICT (id) DO UPDATE SET g = excluded.g"
                )),
                3 => db.ok(&format!("DELETE FROM t WHERE id >= {id}")),
                4 => db.ok(&format!("UPDATE t SET v = v + 1 WHERE g = {g}")),
                5 => drop(db.engine.checkpoint().expect("saves")),
                6 => db = db.reopen(),
                7 | 8 => {
                    let fault = [Fault::TakeOver, Fault::Before, Fault::After];
                    let fault = fault[random.random_range(0..fault.len())];
                    world.lock().faults.push_back(fault);
                }
                _ => {
                    wait(&mut db);
                    assert_eq!(world.seen(), wanted(&db, GROUPS), "seed {seed}");
                }
            }
        }
        wait(&mut db);
        assert_eq!(world.seen(), wanted(&db, GROUPS), "seed {seed}");
        let floor = &mut SessionFloor::default();
        db.runtime
            .block_on(db.engine.flush(floor))
            .expect("flushes");
    }
}
