//! Checkpoints of tables: writes what has changed as runs, names them in the manifest and cuts the log; and the way back.
//!
//! Invariant: at every moment a table is what its runs and the log after them add up to. A checkpoint is off the worker's thread,
//! which it holds up only to pin a version; one that fails changes nothing, and the next one tries again from the same place.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Weights};
use thalweg_state::{
    CheckpointInfo, Multiplicity, RunShape, Runs, Save, StateError, WeightedBatch,
};

use crate::batch::conform;
use crate::error::EngineError;
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::sink_log::Staging;
use crate::status::{CheckpointStatus, ErrorRecord};
use crate::table::Table;
use crate::worker::weighted;

/// Checkpoints that `sys.checkpoints` shows.
const SHOWN_MAX: usize = 1000;

/// How long a table is left alone after a merge of its runs has failed.
const MERGE_BACKOFF: Duration = Duration::from_secs(60);

/// What the newest checkpoint has of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Saved {
    /// Every change through this epoch.
    pub(crate) through: u64,
    /// The content then; none before the first checkpoint.
    pub(crate) version: Option<Arc<Version>>,
}

/// What the threads that save and merge share.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    pub(crate) runs: Runs,
    /// Held while a checkpoint is made.
    turn: Mutex<()>,
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
    pub(crate) fn new(runs: Runs) -> Self {
        let newest = runs.newest();
        let shown = (newest.number > 0).then(|| CheckpointStatus::of(newest, Duration::ZERO));
        Self {
            runs,
            turn: Mutex::default(),
            wish: Mutex::default(),
            wake: Condvar::new(),
            shown: Mutex::new(shown.into_iter().collect()),
        }
    }

    pub(crate) fn stop(&self) {
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
    fn pause(&self, wait: Duration) -> bool {
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
        let saved = guarded(|| save(shared));
        wait = match saved {
            Ok(_) => interval,
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

/// Makes a checkpoint; false when nothing has changed since the last one.
pub(crate) fn save(shared: &Shared) -> Result<bool, EngineError> {
    let checkpoints = &shared.checkpoints;
    let turn = checkpoints.turn.lock();
    // A log that has stopped may hold an epoch that memory does not have.
    if shared.fatal.lock().is_some() {
        return Ok(false);
    }
    let (began, started_at_us) = (Instant::now(), shared.clock.now_us());
    let epoch = shared.latest();
    tracing::trace!(epoch, "checkpoint writes runs");
    let relations: Vec<Arc<Stored>> = shared.relations.read().values().cloned().collect();
    let (mut saves, mut pinned) = (Vec::new(), Vec::new());
    for stored in &relations {
        match save_table(shared, stored, epoch) {
            Ok(None) => {}
            Ok(Some((save, version))) => {
                saves.push(save);
                pinned.push((stored, version));
            }
            // One table that cannot be saved keeps its log; the others go on.
            Err(error) => report(shared, stored, "could not be saved", &error),
        }
    }
    let mut staging = Staging::of(shared, epoch);
    let (staged, records) = staging.saves(shared);
    saves.extend(staged);
    if saves.is_empty() && records.is_empty() {
        tracing::trace!(epoch, "checkpoint ends");
        staging.idle(shared);
        return Ok(false);
    }
    let started_at_ms = started_at_us.div_euclid(1000);
    tracing::trace!(epoch, "checkpoint commits");
    let committed = checkpoints
        .runs
        .commit_with(epoch, started_at_ms, saves, &records);
    tracing::trace!(epoch, "checkpoint ends");
    let shown = match committed {
        Ok(info) => {
            for (stored, version) in pinned {
                if let Some(table) = &stored.table {
                    *table.saved.lock() = Saved {
                        through: epoch,
                        version: Some(version),
                    };
                }
            }
            staging.committed(shared);
            CheckpointStatus::of(info, began.elapsed())
        }
        Err(error) => {
            let info = CheckpointInfo {
                number: checkpoints.runs.newest().number + 1,
                epoch,
                started_at_ms,
                ..CheckpointInfo::default()
            };
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

/// Writes what has changed in a table since it was last saved.
fn save_table(
    shared: &Shared,
    stored: &Stored,
    epoch: u64,
) -> Result<Option<(Save, Arc<Version>)>, EngineError> {
    // Content that could not be brought up to date is no content to save.
    let Some(table) = stored
        .table
        .as_ref()
        .filter(|_| stored.failure.lock().is_none())
    else {
        return Ok(None);
    };
    let saved = table.saved.lock().clone();
    let (version, logged) = {
        let history = stored.history.lock();
        let Some(version) = history.at(epoch, epoch) else {
            return Ok(None);
        };
        if saved
            .version
            .as_ref()
            .is_some_and(|saved| Arc::ptr_eq(saved, &version))
        {
            return Ok(None);
        }
        let reaches = saved.through >= history.changes_after();
        let logged = reaches
            .then(|| history.delta(saved.through, epoch))
            .flatten();
        (version, logged)
    };
    let changes = match (logged, &saved.version) {
        (Some(changes), _) => changes,
        (None, Some(saved)) => saved.diff_to(&version)?,
        (None, None) => version.content()?,
    };
    let changes: Vec<WeightedBatch> = changes.iter().map(weighted).collect();
    let runs = shared
        .checkpoints
        .runs
        .write(&shape(stored, table)?, &changes)?;
    let save = Save {
        table: stored.oid.0,
        since: saved.through,
        through: epoch,
        runs,
    };
    Ok(Some((save, version)))
}

fn shape(stored: &Stored, table: &Table) -> Result<RunShape, StateError> {
    let key = table.key.as_ref().map(|key| key.positions.as_slice());
    RunShape::new(stored.schema(), key.unwrap_or_default())
}

pub(crate) fn report(shared: &Shared, stored: &Stored, what: &str, error: &EngineError) {
    let message = format!("{} {what}: {error}", stored.label());
    tracing::error!("{message}");
    let (sqlstate, at_us) = (error.report().sqlstate, shared.clock.now_us());
    shared.record_error(ErrorRecord::of(stored, sqlstate, message, at_us, None));
}

/// Merges runs, one table at a time, and removes files that nothing names, until the engine stops.
pub(crate) fn merge_on(shared: &Shared) {
    let checkpoints = &shared.checkpoints;
    let mut rested: BTreeMap<u32, Instant> = BTreeMap::new();
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

fn merge(shared: &Shared, rested: &mut BTreeMap<u32, Instant>) {
    let checkpoints = &shared.checkpoints;
    while !checkpoints.stopping() {
        // A table that is not in place yet may be reading the runs that a merge would remove.
        let ready = |oid: u32| {
            let stored = shared.relation(Oid(oid))?;
            let table = stored.table.as_ref()?;
            (!rested.contains_key(&oid)).then(|| shape(&stored, table).ok())?
        };
        let reserve = shared.config.disk_reserve;
        let stopping = || checkpoints.stopping();
        match checkpoints.runs.merge_once(reserve, ready, &stopping) {
            Ok(None) => return,
            Ok(Some(table)) => tracing::debug!(table, "runs merged"),
            Err((_, StateError::Cancelled)) => return,
            Err((oid, error)) => {
                if let Some(stored) = shared.relation(Oid(oid)) {
                    report(shared, &stored, "could not be merged", &error.into());
                }
                rested.insert(oid, Instant::now() + MERGE_BACKOFF);
            }
        }
    }
}

/// The content that a table's runs and the log after them add up to.
pub(crate) fn recover(shared: &Shared, stored: &Stored) -> Result<Arc<Version>, EngineError> {
    let Some(table) = &stored.table else {
        return Ok(Arc::new(Version::empty(Arc::clone(&stored.codec))));
    };
    let (runs, oid) = (&shared.checkpoints.runs, stored.oid.0);
    let through = runs.table(oid)?.through;
    let mut version = Version::empty(Arc::clone(&stored.codec));
    let name = format!("a run of {}", stored.label());
    runs.read_table(oid, &shape(stored, table)?, |rows| {
        version = version.with(&[from_log(&rows, stored, &name)?])?;
        Ok::<_, EngineError>(())
    })?;
    let saved = Arc::new(version);
    *table.saved.lock() = Saved {
        through,
        version: Some(Arc::clone(&saved)),
    };
    let log = shared.store.table_log(oid, through)?;
    if log.entries.is_empty() {
        return Ok(saved);
    }
    let mut version = saved.with(&[])?;
    for entry in &log.entries {
        let (epoch, seq) = (entry.epoch, entry.seq);
        let name = format!("DML log entry {epoch}/{seq} of {}", stored.label());
        let deltas = entry
            .changes
            .iter()
            .map(|change| from_log(change, stored, &name))
            .collect::<Result<Vec<_>, _>>()?;
        version = version.with(&deltas)?;
    }
    Ok(Arc::new(version))
}

pub(crate) fn from_log(
    change: &WeightedBatch,
    stored: &Stored,
    name: &str,
) -> Result<Delta, EngineError> {
    let batch = conform(&change.batch, &stored.schema()).map_err(|error| EngineError::Storage {
        sqlstate: "XX001",
        message: format!("{name} is corrupt: {error}"),
    })?;
    let weights = match &change.weights {
        Multiplicity::Constant(1) => Weights::Ones,
        Multiplicity::Constant(weight) => Weights::Constant(*weight),
        Multiplicity::Each(weights) => Weights::Each(weights.clone().into()),
    };
    Ok(Delta { batch, weights })
}
