//! How much memory the parts of the server hold, and what happens when it is more than they may.
//!
//! Invariant: a buffer that several versions share is counted once, for the first part that has it. While the sum is over the limit
//! nothing that can wait adds to it: sources are not read, scans stand still, and changes that leave a table with more rows are
//! refused. Taking rows away, dropping and reading go on, and everything else does by itself once there is room again.

mod count;
mod queries;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use thalweg_catalog::Report;
use thalweg_connectors::{Delta, WriterMemory};

pub(crate) use self::count::{Counted, heap_bytes};
pub(crate) use self::queries::QueryMemory;
use crate::disk;
use crate::error::EngineError;
use crate::job::Job;
use crate::shared::{Shared, Stored};
use crate::subscription::Feed;

/// How often memory is added up while there is plenty.
const LOOK: Duration = Duration::from_secs(1);

/// The same when less than a quarter is left.
const LOOK_CLOSELY: Duration = Duration::from_millis(100);

/// What one part of the server holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPart {
    /// What it is, such as `view v: state`.
    pub component: String,
    /// Bytes in memory.
    pub bytes: usize,
    /// Bytes that it may have, when it has a limit of its own.
    pub limit: Option<usize>,
    /// Bytes that it keeps on disk for want of memory.
    pub spilled: u64,
}

/// The budget, and how it stands.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    /// The most that what one view's operators remember may have in memory, however much there is.
    one_state_max: usize,
    /// All parts together, when they were last added up.
    used: AtomicUsize,
    full: AtomicBool,
    /// Bytes that what one view's operators remember may have in memory.
    state_max: Arc<AtomicUsize>,
    pub(crate) queries: Arc<QueryMemory>,
    /// For views that are computed anew, so that queries leave them what they need.
    pub(crate) recomputing: Arc<QueryMemory>,
    feeds: Mutex<Vec<Weak<Feed>>>,
    /// For files that archives write.
    pub(crate) writers: Arc<WriterMemory>,
}

impl Memory {
    pub(crate) fn new(limit: usize, one_state_max: usize) -> Self {
        Self {
            limit,
            one_state_max,
            used: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            state_max: Arc::new(AtomicUsize::new(
                room_for_state(limit, 0).min(one_state_max),
            )),
            queries: Arc::new(QueryMemory::new(limit / 4)),
            recomputing: Arc::new(QueryMemory::new(limit / 2)),
            feeds: Mutex::default(),
            writers: Arc::new(WriterMemory::new(limit / 8)),
        }
    }

    /// Nothing may be added that can wait.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    /// Bytes that what one view's operators remember may have in memory; the rest belongs on disk.
    pub(crate) fn state_max(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.state_max)
    }

    /// Counts what waits for a subscription's reader, as long as it is there.
    pub(crate) fn follow(&self, feed: &Arc<Feed>) {
        let mut feeds = self.feeds.lock();
        feeds.retain(|feed| feed.strong_count() > 0);
        feeds.push(Arc::downgrade(feed));
    }

    /// Refuses a change that leaves a table with more rows while there is no memory for them.
    pub(crate) fn admit(&self, stored: &Stored, deltas: &[Delta]) -> Result<(), EngineError> {
        let more: i64 = deltas.iter().map(net_rows).sum();
        if more <= 0 || !self.is_full() {
            return Ok(());
        }
        let (used, limit) = (self.used.load(Ordering::SeqCst), self.limit);
        Err(Report {
            detail: Some(format!(
                "{used} bytes are held where memory_limit is {limit} bytes; {} would get {more} rows more.",
                stored.label()
            )),
            hint: Some(
                "Delete rows, drop views that are not needed, or start the server with a larger memory_limit. \
                 sys.memory tells who holds how much."
                    .into(),
            ),
            ..Report::new("53200", "there is no memory for more rows")
        }
        .into())
    }

    /// Takes over what the parts hold now; true when that begins or ends a time without room.
    fn set(&self, used: usize, state: &[usize]) -> bool {
        self.used.store(used, Ordering::SeqCst);
        let others = used.saturating_sub(state.iter().sum());
        let room = room_for_state(self.limit, others);
        let most = share(state, room).min(self.one_state_max);
        self.state_max.store(most, Ordering::SeqCst);
        let before = self.full.load(Ordering::SeqCst);
        let full = is_full(used, self.limit, before);
        self.full.store(full, Ordering::SeqCst);
        before != full
    }
}

fn net_rows(delta: &Delta) -> i64 {
    (0..delta.num_rows()).map(|row| delta.weights.at(row)).sum()
}

/// Between nine tenths of the limit and all of it nothing changes, so that sources do not stop and go with every epoch.
fn is_full(used: usize, limit: usize, before: bool) -> bool {
    used > if before { limit / 10 * 9 } else { limit }
}

/// What is left for remembered state beside `others`, short of where sources are held back.
fn room_for_state(limit: usize, others: usize) -> usize {
    (limit / 10 * 8).saturating_sub(others)
}

/// Bytes that each may have, so that all of them fit into `room`: those that have less leave the rest to the others.
fn share(sizes: &[usize], room: usize) -> usize {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let (mut room, mut left) = (room, sizes.len());
    for size in &sizes {
        let level = room / left;
        if *size >= level {
            return level;
        }
        room -= size;
        left -= 1;
    }
    // Everything fits. What is free is for whoever grows first; the next look corrects it.
    sizes.last().copied().unwrap_or(0) + room / sizes.len().max(1)
}

/// What every part holds, largest groups first: relations, jobs, then what is in no relation.
pub(crate) fn parts(shared: &Shared) -> Vec<MemoryPart> {
    let mut parts = Vec::new();
    let mut counted = Counted::default();
    let mut add = |component: String, bytes: usize, spilled: u64| {
        if bytes > 0 || spilled > 0 {
            parts.push(MemoryPart {
                component,
                bytes,
                limit: None,
                spilled,
            });
        }
    };
    let relations: Vec<Arc<Stored>> = shared.relations.read().values().cloned().collect();
    let mut jobs: Vec<Arc<Job>> = shared.jobs.read().values().cloned().collect();
    for relation in &relations {
        add(
            name(relation, "content"),
            content(relation, &mut counted),
            0,
        );
        add(name(relation, "key index"), index_bytes(relation), 0);
    }
    // What keeps the rows of a source is no relation that has a name.
    jobs.sort_by_key(|job| job.oid);
    for job in &jobs {
        add(
            name(&job.relation, "content"),
            content(&job.relation, &mut counted),
            0,
        );
        let building = job.building_bytes.load(Ordering::SeqCst);
        add(name(&job.relation, "content being built"), building, 0);
        let spilled = job.spilled_bytes.load(Ordering::SeqCst);
        add(name(&job.relation, "state"), job.state_bytes(), spilled);
        job.count_saved(&mut counted);
        if let Some(log) = job.log.get() {
            log.count(&mut counted);
        }
        add(
            name(&job.relation, "kept for its next checkpoint"),
            counted.take(),
            0,
        );
        if let Some((_, places)) = job.stands.lock().as_ref() {
            places.count(&mut counted);
        }
        add(
            name(&job.relation, "inputs as it read them"),
            counted.take(),
            0,
        );
    }
    for relation in &relations {
        if let Some(table) = &relation.table
            && let Some(version) = &table.saved.lock().version
        {
            version.count(&mut counted);
        }
        add(
            name(relation, "kept for its next checkpoint"),
            counted.take(),
            0,
        );
    }
    for archive in shared.archives.read().values() {
        let component = format!("archive {}: files being written", archive.name());
        add(component, archive.held_bytes(), 0);
    }
    for log in shared.dead.read().values() {
        add(name(&log.relation, "index"), log.bytes(), 0);
    }
    add("inbox".into(), shared.inbox.bytes(), 0);
    let feeds = shared.memory.feeds.lock();
    let waiting = feeds.iter().filter_map(Weak::upgrade);
    let waiting = waiting.map(|feed| feed.count(&mut counted)).count();
    add(format!("subscriptions ({waiting})"), counted.take(), 0);
    drop(feeds);
    let (queries, recomputing) = (&shared.memory.queries, &shared.memory.recomputing);
    for (component, pool) in [("queries", queries), ("recomputed views", recomputing)] {
        parts.push(MemoryPart {
            component: component.into(),
            bytes: pool.used(),
            limit: Some(pool.limit()),
            spilled: 0,
        });
    }
    parts
}

fn name(relation: &Stored, what: &str) -> String {
    let kind = match relation.kind {
        "materialized view" => "view",
        other => other,
    };
    format!("{kind} {}: {what}", relation.name)
}

fn content(relation: &Stored, counted: &mut Counted) -> usize {
    // The lock is for taking hold of the versions only: the worker waits for it.
    let (versions, changes) = relation.history.lock().held();
    versions
        .iter()
        .rev()
        .for_each(|version| version.count(counted));
    for deltas in changes {
        deltas.iter().for_each(|delta| counted.delta(delta));
    }
    counted.take()
}

fn index_bytes(relation: &Stored) -> usize {
    let table = relation.table.as_ref();
    let key = table.and_then(|table| table.key.as_ref());
    key.map_or(0, |key| key.bytes())
}

/// Adds memory up now and then, looks at the disk too, and acts on both, until the engine stops.
pub(crate) fn watch(shared: &Shared) {
    let memory = &shared.memory;
    let mut wait = LOOK_CLOSELY;
    while shared.checkpoints.pause(wait) {
        disk::look(shared);
        look(shared);
        let close = memory.used.load(Ordering::SeqCst) > memory.limit / 4 * 3;
        wait = match close {
            true => LOOK_CLOSELY,
            false => shared.disk.wait(LOOK_CLOSELY, LOOK),
        };
    }
}

fn look(shared: &Shared) {
    let memory = &shared.memory;
    let jobs: Vec<Arc<Job>> = shared.jobs.read().values().cloned().collect();
    let state: Vec<usize> = jobs.iter().map(|job| job.state_bytes()).collect();
    let used = parts(shared).iter().map(|part| part.bytes).sum();
    if memory.set(used, &state) {
        let (limit, full) = (memory.limit, memory.is_full());
        tracing::warn!(
            used,
            limit,
            held_back = full,
            "memory_limit is {}",
            if full { "reached" } else { "respected again" }
        );
        shared.bump();
    }
    // Jobs whose inputs stand still do not come by to make room themselves.
    let most = memory.state_max.load(Ordering::SeqCst);
    for job in jobs.iter().filter(|job| job.state_bytes() > most) {
        job.make_room(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_little_leaves_the_rest_to_others() {
        // (sizes, room, what each may have)
        let cases: [(&[usize], usize, usize); 8] = [
            (&[], 100, 100),
            (&[10], 100, 100),
            (&[200], 100, 100),
            (&[10, 20], 100, 55),
            (&[10, 200], 100, 90),
            (&[10, 90, 200], 100, 45),
            (&[50, 60, 70], 90, 30),
            (&[5, 5], 0, 0),
        ];
        for (sizes, room, most) in cases {
            assert_eq!(share(sizes, room), most, "{sizes:?} in {room}");
            let kept: usize = sizes.iter().map(|size| *size.min(&most)).sum();
            assert!(kept <= room, "{sizes:?} in {room}");
        }
    }

    #[test]
    fn what_was_held_back_goes_on_when_a_tenth_is_free() {
        assert!(!is_full(1_000, 1_000, false) && is_full(1_001, 1_000, false));
        assert!(is_full(901, 1_000, true) && !is_full(900, 1_000, true));
        assert_eq!(room_for_state(1_000, 900), 0);
        assert_eq!(room_for_state(1_000, 100), 700);
    }
}
