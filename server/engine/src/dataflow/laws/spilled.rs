//! State that does not fit into memory: room for the laws' flows, a larger random test, and what state takes against what is told.
//!
//! Invariant: how much room there is changes no result; `THALWEG_SPILL_ROWS` makes the tests larger.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thalweg_state::{PowerDisk, SpillFolder};

use super::{Changes, Flow, Room, Row, TABLES, World, variable};

/// Room for nothing; the disk is one in memory.
pub(super) fn no_room() -> Room {
    room(0)
}

fn room(most: usize) -> Room {
    let disk = Arc::new(PowerDisk::default());
    let folder = SpillFolder::open(disk, PathBuf::from("/spill"));
    Room {
        folder: Arc::new(folder.expect("an empty disk")),
        most: Arc::new(AtomicUsize::new(most)),
    }
}

/// A row whose group, by `j`, is one of many.
fn row(random: &mut ChaCha8Rng, groups: i64) -> Row {
    Row {
        i: Some(random.random_range(0..40)),
        j: Some(random.random_range(0..groups)),
        w: Some(["a", "b", "ab", "a longer text than fits a view"][random.random_range(0..4)]),
        f: Some(f64::from(random.random_range(-8..9)) / 4.0),
        d: Some(random.random_range(-500..500)),
        b: Some(random.random_bool(0.5)),
    }
}

const GROUPED: &str = "SELECT j AS x0, count(*) AS x1, sum(d) AS x2, avg(i) AS x3, max(w) AS x4, count(DISTINCT i) AS x5, \
    bool_or(b) AS x6, sum(f) AS x7 FROM r GROUP BY j";

/// Groups by a key that is kept as allocated bytes, joined with others, and grouped again.
const NESTED: &str = "SELECT q.x1, count(*) AS n, min(q.w) AS m FROM (SELECT r.w || CAST(r.j AS text) AS w, count(*) AS x1 \
    FROM r GROUP BY r.w || CAST(r.j AS text)) q JOIN s ON q.x1 = s.j GROUP BY q.x1";

/// Rows of both sides with and without partners; a few keys have most of the rows of one side.
const OUTER: &str = "SELECT r.i AS x0, r.w AS x1, s.i AS x2, s.d AS x3 FROM r FULL JOIN s ON r.j = s.j AND r.i < s.i";

/// Rows by whether they have partners, under an aggregation that moves as well.
const LONE: &str = "SELECT q.j AS x0, count(*) AS x1 FROM (SELECT r.j, r.w FROM r WHERE NOT EXISTS \
    (SELECT 1 FROM s WHERE s.i = r.i AND s.d < r.d) AND EXISTS (SELECT 1 FROM s WHERE s.w = r.w)) q GROUP BY q.j";

/// One input on both sides.
const TWICE: &str =
    "SELECT a.w AS x0, b.d AS x1 FROM r a JOIN r b ON a.j = b.j AND a.w || 'x' = b.w || 'x'";

/// Random insertions and deletions with state many times the room, whose size changes as it goes.
#[test]
fn state_larger_than_its_room_gives_the_same_rows() {
    let seed = variable("DATAFLOW_SEED", 7);
    let rows = variable("THALWEG_SPILL_ROWS", 6_000) as usize;
    println!(
        "replay: DATAFLOW_SEED={seed} THALWEG_SPILL_ROWS={rows} cargo test -p thalweg-engine --lib spilled"
    );
    let world = World::new(false);
    let queries = [
        (GROUPED, 1),
        (GROUPED, 3),
        (NESTED, 2),
        (OUTER, 2),
        (LONE, 1),
        (TWICE, 1),
    ];
    for (sql, shards) in queries {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let view = world.view(sql).expect("plans");
        let room = room(40_000);
        let mut free = Flow::new(&world, &view, shards, "in memory");
        let mut cramped = Flow::within(&world, &view, shards, "without room", Some(room.clone()));
        let mut content: Vec<Vec<Row>> = vec![Vec::new(); TABLES.len()];
        let mut spilled = 0;
        for step in 0..24 {
            room.most
                .store([40_000, 8_000, 0, 200_000][step % 4], Ordering::SeqCst);
            let mut changes: Vec<Changes> = vec![Vec::new(); TABLES.len()];
            for _ in 0..rows / 24 {
                for (table, many) in [(0, rows as i64 / 3), (1, 6)] {
                    let held = &mut content[table];
                    if random.random_bool(0.3) && !held.is_empty() {
                        let row = held.swap_remove(random.random_range(0..held.len()));
                        changes[table].push((row, -1));
                    } else {
                        let row = row(random, many);
                        held.push(row.clone());
                        changes[table].push((row, 1));
                    }
                }
            }
            let deltas = world.deltas(&changes);
            free.step(&deltas).expect("steps");
            cramped.step(&deltas).expect("steps");
            assert_eq!(cramped.rows(), free.rows(), "step {step} of {sql}");
            let (all, state) = (free.dataflow.state(), cramped.dataflow.state());
            assert_eq!(state.entries, all.entries, "step {step} of {sql}");
            spilled = spilled.max(state.spilled);
        }
        assert!(spilled > 40_000, "only {spilled} bytes were ever on disk");
        let back: Vec<Changes> = content
            .iter()
            .map(|rows| rows.iter().map(|row| (row.clone(), -1)).collect())
            .collect();
        cramped.step(&world.deltas(&back)).expect("steps");
        assert_eq!(cramped.rows().expect("reads"), Vec::<String>::new());
        let state = cramped.dataflow.state();
        assert_eq!((state.entries, state.spilled), (0, 0), "{sql}");
    }
}

/// A disk that can take no more costs room, not results.
#[test]
fn what_cannot_be_written_stays_in_memory() {
    let world = World::new(false);
    let view = world.view(GROUPED).expect("plans");
    let disk = PowerDisk::default();
    disk.limit_free(Some(10_000));
    let folder = SpillFolder::open(Arc::new(disk), PathBuf::from("/spill")).expect("opens");
    let room = Room {
        folder: Arc::new(folder),
        most: Arc::new(AtomicUsize::new(0)),
    };
    let mut free = Flow::new(&world, &view, 1, "in memory");
    let mut cramped = Flow::within(&world, &view, 1, "without room", Some(room));
    let random = &mut ChaCha8Rng::seed_from_u64(3);
    for _ in 0..6 {
        let rows = (0..400).map(|_| (row(random, 300), 1)).collect();
        let deltas = world.deltas(&[rows, Vec::new(), Vec::new()]);
        free.step(&deltas).expect("steps");
        cramped.step(&deltas).expect("steps");
        assert_eq!(cramped.rows(), free.rows());
    }
    assert!(cramped.dataflow.state().bytes > 10_000);
}

/// Set in a process that does nothing but fill state.
const ALONE: &str = "THALWEG_MEMORY_ALONE";

/// What is told of state's size is what the process grew by, within a quarter. Measured in a process of its own, because others'
/// tests come and go in this one.
#[test]
fn what_is_told_of_state_is_what_it_takes() {
    if std::env::var_os(ALONE).is_none() {
        let program = std::env::current_exe().expect("this test");
        let test = "dataflow::laws::spilled::what_is_told_of_state_is_what_it_takes";
        let alone = std::process::Command::new(program)
            .args(["--exact", test, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .expect("starts");
        let said = String::from_utf8_lossy(&alone.stdout).into_owned();
        assert!(alone.status.success() && said.contains("told "), "{said}");
        return;
    }
    let world = World::new(false);
    let counted = "SELECT j AS x0, count(*) AS x1, sum(d) AS x2 FROM r GROUP BY j";
    let valued = "SELECT r.w || CAST(r.j AS text) AS x0, max(d) AS x1, count(DISTINCT i) AS x2 FROM r GROUP BY r.w || CAST(r.j AS text)";
    let joined = "SELECT r.i, s.i AS k FROM r JOIN s ON r.j = s.j AND r.i > s.i";
    for sql in [counted, valued, joined] {
        let view = world.view(sql).expect("plans");
        let mut flow = Flow::new(&world, &view, 1, "counted");
        let random = &mut ChaCha8Rng::seed_from_u64(1);
        let mut feed = |flow: &mut Flow, steps: usize| {
            for _ in 0..steps {
                let rows = (0..2_000).map(|_| (row(random, 1 << 40), 1)).collect();
                let deltas = world.deltas(&[rows, Vec::new(), Vec::new()]);
                flow.step(&deltas).expect("steps");
                flow.content = flow.content.with(&[]).expect("copies");
                // Only the state counts here.
                flow.content = crate::relation::Version::empty(Arc::clone(&flow.codec));
            }
        };
        feed(&mut flow, 2);
        let (before, told_before) = (resident_bytes(), flow.dataflow.state().bytes);
        feed(&mut flow, 60);
        let grown = resident_bytes().saturating_sub(before);
        let told = flow.dataflow.state().bytes - told_before;
        println!("told {told} bytes, grew by {grown}: {sql}");
        // Freed pages that stay with the allocator, and buffers of the last step, are in the growth.
        let slack = grown / 4 + (4 << 20);
        assert!(
            told.abs_diff(grown) <= slack,
            "told {told}, grew by {grown}: {sql}"
        );
        // What is freed would be taken again, and not seen as growth.
        std::mem::forget(flow);
    }
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}
