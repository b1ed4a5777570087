//! Checkpoints: writes what has changed as runs, names them in the manifest and cuts the log; and merges runs.
//!
//! Invariant: a checkpoint is off the worker's thread, which it holds up only to pin a version; one that fails changes nothing,
//! and the next one tries again from the same place. What a job needs of a table's past stays in the log until the job is saved at
//! a later epoch, for a limited time.

mod jobs;
mod record;
mod resume;
mod rounds;
mod tables;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use thalweg_catalog::Oid;
use thalweg_connectors::Offsets;
use thalweg_state::{Checkpoint, CheckpointInfo, RunShape, Runs, Save, StateError, StatePart};

pub(crate) use self::jobs::{Saving, StateChanges};
use self::record::Record;
pub(crate) use self::resume::{go_back, resume};
use self::rounds::{Round, gather, renew};
pub(crate) use self::tables::from_log;
pub(crate) use self::tables::{Saved, recover};
use self::tables::{save_table, shape};
use crate::error::EngineError;
use crate::job::Job;
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::sink_log::{Staging, is_awaited};
use crate::status::{CheckpointStatus, ErrorRecord};

/// Checkpoints that `sys.checkpoints` shows.
const SHOWN_MAX: usize = 1000;

/// How long a table is left alone after a merge of its runs has failed.
const MERGE_BACKOFF: Duration = Duration::from_secs(60);

/// How long a checkpoint waits for jobs to come to its epoch. Those that have not go into a later one.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same when it is asked for.
const PATIENCE_ASKED: Duration = Duration::from_secs(5);

/// How long a table's log is kept for a job that does not get on; after that the job begins anew at a restart.
const HELD_MAX: Duration = Duration::from_secs(15 * 60);

/// What the threads that save and merge share.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    pub(crate) runs: Runs,
    /// Held while a checkpoint is made.
    turn: Mutex<()>,
    /// Groups of jobs on their way to a checkpoint.
    rounds: Mutex<Vec<Round>>,
    /// What is saved of jobs that have not been started yet.
    unclaimed: Mutex<BTreeMap<Oid, Result<Vec<u8>, StateError>>>,
    /// What was saved of jobs that go on from it and are not in place yet, so that no checkpoint knows of them.
    arriving: Mutex<BTreeMap<Oid, Vec<u8>>>,
    /// Whether to stop, or to make the next one now.
    wish: Mutex<Wish>,
    wake: Condvar,
    shown: Mutex<VecDeque<CheckpointStatus>>,
}

#[derive(Debug, Default)]
struct Wish {
    stop: bool,
    save: bool,
}

impl Checkpoints {
    /// # Errors
    /// When the records of jobs cannot be read.
    pub(crate) fn new(runs: Runs) -> Result<Self, StateError> {
        let newest = runs.newest();
        let shown = (newest.number > 0).then(|| CheckpointStatus::of(newest, Duration::ZERO));
        let records = runs.jobs()?.into_iter();
        let unclaimed = records.map(|(object, record)| (Oid(object), record));
        Ok(Self {
            unclaimed: Mutex::new(unclaimed.collect()),
            arriving: Mutex::default(),
            runs,
            turn: Mutex::default(),
            rounds: Mutex::default(),
            wish: Mutex::default(),
            wake: Condvar::new(),
            shown: Mutex::new(shown.into_iter().collect()),
        })
    }

    /// What was saved of a job, the first time it is asked for.
    fn claim(&self, object: Oid) -> Option<Result<Vec<u8>, StateError>> {
        let mut unclaimed = self.unclaimed.lock();
        let record = unclaimed.remove(&object);
        if let Some(Ok(bytes)) = &record {
            self.arriving.lock().insert(object, bytes.clone());
        }
        record
    }

    /// The job is in place: from now on checkpoints see it.
    pub(crate) fn arrived(&self, job: &Job) {
        self.arriving.lock().remove(&jobs::object(job));
    }

    /// What was saved of jobs that are not in place yet.
    fn awaited(&self) -> Vec<Record> {
        let unclaimed = self.unclaimed.lock();
        let arriving = self.arriving.lock();
        let records = unclaimed.values().flatten().chain(arriving.values());
        records.filter_map(|bytes| Record::decode(bytes)).collect()
    }

    /// Whether something was saved of a job that has not been started.
    fn is_unclaimed(&self, object: Oid) -> bool {
        self.unclaimed.lock().contains_key(&object)
    }

    /// True when something that was saved reads the job and is not in place yet.
    fn is_read_by_awaited(&self, object: Oid) -> bool {
        let mut records = self.awaited().into_iter();
        records.any(|record| record.jobs.contains(&object))
    }

    /// Waits until no checkpoint is being made, and keeps others from making one.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock()
    }

    /// How many that were saved at these offsets of a source have not been started.
    pub(crate) fn unclaimed_from(&self, source: Oid, from: &Offsets) -> usize {
        let unclaimed = self.unclaimed.lock();
        let records = unclaimed.values().flatten();
        let from_there = |record: &Record| record.streams.get(&source) == Some(from);
        records
            .filter_map(|bytes| Record::decode(bytes))
            .filter(from_there)
            .count()
    }

    /// Forgets what was saved of objects that are gone or cannot be started.
    pub(crate) fn forget(&self, objects: &[Oid]) {
        let mut unclaimed = self.unclaimed.lock();
        unclaimed.retain(|object, _| !objects.contains(object));
        let mut arriving = self.arriving.lock();
        arriving.retain(|object, _| !objects.contains(object));
    }

    /// Has whoever saves or merges end soon: what is not committed by now is made again after a start.
    pub(crate) fn stop(&self) {
        self.runs.stop();
        self.wish.lock().stop = true;
        self.wake.notify_all();
    }

    /// Asks for a checkpoint now: somebody waits for what it stages.
    pub(crate) fn ask(&self) {
        self.wish.lock().save = true;
        self.wake.notify_all();
    }

    fn stopping(&self) -> bool {
        self.wish.lock().stop
    }

    /// Waits for the next checkpoint; false when the engine stops.
    fn pause_to_save(&self, wait: Duration) -> bool {
        self.pause_until(wait, |wish| std::mem::take(&mut wish.save))
    }

    /// Waits; false when the engine stops.
    pub(crate) fn pause(&self, wait: Duration) -> bool {
        self.pause_until(wait, |_| false)
    }

    fn pause_until(&self, wait: Duration, due: impl Fn(&mut Wish) -> bool) -> bool {
        let deadline = Instant::now() + wait;
        let mut wish = self.wish.lock();
        while !wish.stop {
            if due(&mut wish) {
                return true;
            }
            if self.wake.wait_until(&mut wish, deadline).timed_out() {
                return !wish.stop;
            }
        }
        false
    }

    /// Recent checkpoints, oldest first.
    pub(crate) fn shown(&self) -> Vec<CheckpointStatus> {
        self.shown.lock().iter().cloned().collect()
    }

    fn show(&self, what: CheckpointStatus) {
        let mut shown = self.shown.lock();
        shown.push_back(what);
        while shown.len() > SHOWN_MAX {
            shown.pop_front();
        }
    }
}

/// Makes checkpoints until the engine stops.
pub(crate) fn save_on(shared: &Shared) {
    let interval = shared.config.checkpoint_interval;
    let mut wait = interval;
    while shared.checkpoints.pause_to_save(wait) {
        let saved = guarded(|| save(shared, PATIENCE, false));
        wait = match saved {
            // Jobs may have needed a little longer than the checkpoint did.
            Ok(_) if is_awaited(shared) => PATIENCE.min(interval),
            Ok(_) => interval,
            Err(EngineError::Stopping) => return,
            Err(error) => {
                tracing::error!(%error, "checkpoint failed");
                (wait * 2).clamp(interval, shared.config.backoff_max.max(interval))
            }
        };
    }
}

/// A panic ends one attempt, and nothing that counts was changed before it.
fn guarded<T>(run: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        Err(EngineError::internal(
            "a checkpoint or merge stopped at a broken invariant",
        ))
    })
}

/// Makes a checkpoint when it is asked for; false when nothing has changed since the last one.
pub(crate) fn save_now(shared: &Shared) -> Result<bool, EngineError> {
    save(shared, PATIENCE_ASKED, true)
}

/// What a checkpoint will have when it is committed.
#[derive(Default)]
struct Draft {
    saves: Vec<Save>,
    tables: Vec<(Arc<Stored>, Arc<Version>)>,
    jobs: Vec<thalweg_state::JobRecord>,
    rounds: Vec<Round>,
    staging: Staging,
}

/// Makes a checkpoint of the tables, and of the jobs that come within `patience` to where they are wanted: the newest epoch when
/// `all` is to be saved.
fn save(shared: &Shared, patience: Duration, all: bool) -> Result<bool, EngineError> {
    let checkpoints = &shared.checkpoints;
    let turn = checkpoints.turn.lock();
    // A log that has stopped may hold an epoch that memory does not have.
    if shared.fatal.lock().is_some() {
        return Ok(false);
    }
    let (began, started_at_us) = (Instant::now(), shared.clock.now_us());
    let mut rounds = checkpoints.rounds.lock();
    renew(shared, &mut rounds, all);
    let whole = gather(shared, &mut rounds, patience);
    drop(rounds);
    let epoch = shared.latest();
    tracing::trace!(epoch, "checkpoint writes runs");
    let mut draft = Draft::default();
    draft_tables(shared, epoch, &mut draft);
    draft_jobs(shared, whole, &mut draft);
    let mut staging = std::mem::take(&mut draft.staging);
    staging.add_rest(shared, epoch);
    if checkpoints.stopping() {
        draft.rounds.iter().for_each(Round::give_up);
        return Err(EngineError::Stopping);
    }
    let (staged, sinks) = staging.saves(shared);
    draft.saves.extend(staged);
    if draft.saves.is_empty() && sinks.is_empty() {
        tracing::trace!(epoch, "checkpoint ends");
        staging.idle(shared);
        return Ok(false);
    }
    tracing::trace!(epoch, "checkpoint commits");
    let info = CheckpointInfo {
        number: checkpoints.runs.newest().number + 1,
        epoch,
        started_at_ms: started_at_us.div_euclid(1000),
        ..CheckpointInfo::default()
    };
    let committed = checkpoints.runs.commit(Checkpoint {
        epoch,
        started_at_ms: info.started_at_ms,
        saves: draft.saves,
        held: held_logs(shared, &draft.rounds),
        jobs: draft.jobs,
        sinks,
    });
    tracing::trace!(epoch, "checkpoint ends");
    let shown = match committed {
        Ok(info) => {
            note_saved(shared, epoch, draft.tables, &draft.rounds);
            staging.committed(shared);
            CheckpointStatus::of(info, began.elapsed())
        }
        Err(error) => {
            draft.rounds.iter().for_each(Round::give_up);
            let failed = CheckpointStatus {
                error: Some(error.to_string()),
                ..CheckpointStatus::of(info, began.elapsed())
            };
            checkpoints.show(failed);
            return Err(error.into());
        }
    };
    tracing::debug!(epoch, runs = shown.runs, bytes = shown.bytes, "checkpoint");
    checkpoints.show(shown);
    drop(turn);
    checkpoints.runs.committed()?;
    Ok(true)
}

/// Has what is in a checkpoint of this epoch know that.
fn note_saved(
    shared: &Shared,
    epoch: u64,
    tables: Vec<(Arc<Stored>, Arc<Version>)>,
    rounds: &[Round],
) {
    for (stored, version) in tables {
        if let Some(table) = &stored.table {
            *table.saved.lock() = Saved::at(epoch, version);
        }
    }
    let saved = rounds.iter().flat_map(|round| &round.jobs);
    saved.for_each(|job| job.was_saved(shared));
}

fn draft_tables(shared: &Shared, epoch: u64, draft: &mut Draft) {
    let relations: Vec<Arc<Stored>> = shared.relations.read().values().cloned().collect();
    for stored in relations {
        match save_table(shared, &stored, epoch) {
            Ok(None) => {}
            Ok(Some((save, version))) => {
                draft.saves.push(save);
                draft.tables.push((stored, version));
            }
            // One table that cannot be saved keeps its log; the others go on.
            Err(error) => report(shared, &stored, "could not be saved", &error),
        }
    }
}

/// Writes what was taken of jobs; a group of which one cannot be written is not saved.
fn draft_jobs(shared: &Shared, rounds: Vec<Round>, draft: &mut Draft) {
    for round in rounds {
        let mut written = Vec::new();
        let failed = round.jobs.iter().find_map(|job| match job.write(shared) {
            Ok(parts) => {
                written.push((job, parts));
                None
            }
            Err(error) => Some((job, error)),
        });
        match failed {
            None => {
                for (job, parts) in written {
                    draft.saves.extend(parts.saves);
                    draft.jobs.push(parts.record);
                    if let Some(stage) = parts.stage {
                        draft.staging.add(job, stage);
                    }
                }
                draft.rounds.push(round);
            }
            Some((job, error)) => {
                report(shared, &job.relation, "could not be saved", &error);
                round.give_up();
            }
        }
    }
}

/// How far back the logs of tables are needed, for jobs that are saved at an earlier epoch than the tables, or will be.
fn held_logs(shared: &Shared, rounds: &[Round]) -> BTreeMap<u32, u64> {
    let mut held: BTreeMap<u32, u64> = BTreeMap::new();
    let mut hold = |table: Oid, at: u64| {
        let epoch = held.entry(table.0).or_insert(at);
        *epoch = at.min(*epoch);
    };
    for record in shared.checkpoints.awaited() {
        let tables = record.tables.iter();
        tables.for_each(|table| hold(*table, record.epoch));
    }
    let jobs: Vec<_> = shared.jobs.read().values().cloned().collect();
    for job in jobs {
        let saved_now = rounds.iter().any(|round| round.saves(&job));
        for epoch in job.needs_logs_from(saved_now, HELD_MAX) {
            let tables = job.inputs.iter().filter(|input| input.table.is_some());
            tables.for_each(|table| hold(table.oid, epoch));
        }
    }
    held
}

pub(crate) fn report(shared: &Shared, stored: &Stored, what: &str, error: &EngineError) {
    // Work that is given up because the engine stops is no failure.
    if shared.checkpoints.stopping() {
        return;
    }
    let message = format!("{} {what}: {error}", stored.label());
    tracing::error!("{message}");
    let (sqlstate, at_us) = (error.report().sqlstate, shared.clock.now_us());
    shared.record_error(ErrorRecord::of(stored, sqlstate, message, at_us, None));
}

/// Merges runs, one table at a time, and removes files that nothing names, until the engine stops.
pub(crate) fn merge_on(shared: &Shared) {
    let checkpoints = &shared.checkpoints;
    let mut rested: BTreeMap<StatePart, Instant> = BTreeMap::new();
    while checkpoints.pause(shared.config.checkpoint_interval) {
        rested.retain(|_, until| *until > Instant::now());
        let merged = guarded(|| {
            merge(shared, &mut rested);
            Ok(checkpoints.runs.collect()?)
        });
        if let Err(error) = merged {
            tracing::error!(%error, "could not clean up after merges");
        }
    }
}

fn merge(shared: &Shared, rested: &mut BTreeMap<StatePart, Instant>) {
    let checkpoints = &shared.checkpoints;
    while !checkpoints.stopping() {
        // A table that is not in place yet may be reading the runs that a merge would remove.
        let ready = |part: StatePart| match rested.contains_key(&part) {
            true => None,
            false => shape_of(shared, part),
        };
        let reserve = shared.config.disk_reserve;
        let stopping = || checkpoints.stopping();
        match checkpoints.runs.merge_once(reserve, ready, &stopping) {
            Ok(None) => return,
            Ok(Some(table)) => tracing::debug!(%table, "runs merged"),
            Err((_, StateError::Cancelled)) => return,
            Err((part, error)) => {
                if let Some(stored) = shared.relation(Oid(part.object)) {
                    report(shared, &stored, "could not be merged", &error.into());
                }
                rested.insert(part, Instant::now() + MERGE_BACKOFF);
            }
        }
    }
}

/// The shape of a state table of something that is in place.
fn shape_of(shared: &Shared, part: StatePart) -> Option<RunShape> {
    let oid = Oid(part.object);
    let table = shared.relation(oid).and_then(|stored| {
        let table = stored.table.as_ref()?;
        shape(&stored, table).ok()
    });
    let jobs = shared.jobs.read();
    let job = jobs.values().find(|job| job.relation.oid == oid);
    if let Some(log) = job.and_then(|job| job.log.get())
        && part.part == 0
    {
        return log.keeps().then(|| log.shape());
    }
    let shapes = job
        .and_then(|job| job.saving())
        .map(|saving| &saving.shapes);
    table.or_else(|| shapes?.get(part.part as usize).cloned())
}
