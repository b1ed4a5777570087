//! One run of a view: what its content changes by when its inputs move to another epoch.
//!
//! Invariant: a run changes nothing but the state it took out of the job; what it found is published as a whole, at the epoch it
//! was computed for, or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use thalweg_catalog::Oid;
use thalweg_connectors::Delta;
use thalweg_planner::StreamNode;

use crate::backfill::Places;
use crate::batch::{RunLimits, collect_blocking, conform, with_relations};
use crate::dataflow::{Dataflow, Room, StepContext};
use crate::error::EngineError;
use crate::job::{Job, rows_of};
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::sink_log::EarlyRuns;
use crate::snapshot::SnapshotTable;
use crate::stateless::Stateless;
use crate::status::ErrorRecord;

/// A dataflow, and the epoch of the inputs that its state is of.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) dataflow: Dataflow,
    pub(crate) epoch: u64,
}

/// What a run has to publish.
pub(crate) struct Outcome {
    pub(crate) epoch: u64,
    pub(crate) deltas: Vec<Delta>,
    pub(crate) standing: Option<Standing>,
    pub(crate) places: Option<Places>,
    /// What of a history of changes alone was published after this epoch is void: the deltas are all since then.
    pub(crate) since: Option<u64>,
    /// What comes before the deltas and is on disk already.
    pub(crate) early: Option<EarlyRuns>,
}

impl Job {
    /// Brings the view to `target`, or to a later epoch when it has to read its sources again.
    pub(crate) fn advance(&self, shared: &Arc<Shared>, target: u64) -> Result<(), EngineError> {
        let latest = shared.latest();
        let done = self.relation.history.lock().through(latest);
        let outcome = match &self.stateful {
            Some(root) => self.flow(shared, target, root)?,
            None => self.step_or_recompute(shared, target, done)?,
        };
        let Some(outcome) = outcome else {
            return Ok(());
        };
        // A dropped view must not come back, and one that the worker has taken over meanwhile is ahead of this run.
        let mut history = self.relation.history.lock();
        if !self.is_dropped() && !history.is_live() && history.through(shared.latest()) == done {
            if let Some(since) = outcome.since {
                if self
                    .log
                    .get()
                    .is_some_and(|log| log.saved_through() != since)
                {
                    return Ok(());
                }
                let nothing = history.newest();
                history.resume(since, nothing);
                self.log.get().inspect(|log| log.void_early());
            }
            // Whoever finds the epoch known finds these.
            if let (Some(early), Some(log)) = (outcome.early, self.log.get()) {
                log.hold_early(outcome.epoch, early);
            }
            history.publish(outcome.epoch, outcome.deltas)?;
            *self.dataflow.lock() = outcome.standing;
            *self.stands.lock() = outcome.places.map(|places| (outcome.epoch, places));
            drop(history);
            self.has_caught_up();
        }
        Ok(())
    }

    /// What has been published, for a run that computes the whole content. Nobody else publishes meanwhile.
    pub(crate) fn published(&self, shared: &Shared) -> Result<Arc<Version>, EngineError> {
        let history = self.relation.history.lock();
        if let Some(log) = self.log.get().filter(|_| !history.keeps_content()) {
            drop(history);
            return Ok(Arc::new(log.published(shared)?));
        }
        Ok(history.newest())
    }

    /// The change of a view without state.
    fn step_or_recompute(
        &self,
        shared: &Arc<Shared>,
        target: u64,
        done: Option<u64>,
    ) -> Result<Option<Outcome>, EngineError> {
        // Of content that was read back no reader knows the epoch.
        let resumed = || self.stands.lock().as_ref().map(|(epoch, _)| *epoch);
        let done = self.stands_at().or(done).or_else(resumed);
        let changes = done
            .filter(|_| self.linear && !self.starts_over())
            .and_then(|done| self.input_changes(done, target));
        let deltas = match changes {
            Some(changes) => Some(self.step(shared, target, &changes)?),
            None if self.linear && self.can_read_again(done) => {
                return self.read_again(shared, target, done, None);
            }
            None => self.recompute(shared, target)?,
        };
        Ok(deltas.map(|deltas| Outcome {
            epoch: target,
            deltas,
            standing: None,
            places: self.places_to_keep(shared, target),
            since: None,
            early: None,
        }))
    }

    /// The change of a view with state, and the state to keep once it is published. The state is taken out of the job for the
    /// step, so that a step which fails or panics leaves none. `None` when the inputs' versions of that epoch are gone.
    fn flow(
        &self,
        shared: &Arc<Shared>,
        target: u64,
        root: &StreamNode,
    ) -> Result<Option<Outcome>, EngineError> {
        let standing = self.dataflow.lock().take().filter(|_| !self.has_failed());
        let changes = standing
            .as_ref()
            .and_then(|standing| self.input_changes(standing.epoch, target));
        let codec = &self.relation.codec;
        let places = || self.places_to_keep(shared, target);
        match (standing, changes) {
            (Some(Standing { mut dataflow, .. }), Some(changes)) => {
                let deltas = dataflow.step(&self.step_context(&changes), codec)?;
                self.record_compute_errors(shared, target, self.errors.take_step());
                Ok(Some(self.outcome(dataflow, target, deltas, places())))
            }
            (standing, _)
                if self.can_read_again(standing.as_ref().map(|standing| standing.epoch)) =>
            {
                let done = standing.as_ref().map(|standing| standing.epoch);
                let dataflow = standing.map(|standing| standing.dataflow);
                self.read_again(shared, target, done, dataflow)
            }
            _ => {
                let Some(content) = self.content_at(target, shared.latest())? else {
                    return Ok(None);
                };
                let mut dataflow = self.new_flow(shared, root)?;
                let rows = dataflow.step(&self.step_context(&content), codec)?;
                let deltas = self.published(shared)?.diff_to_content(rows)?;
                self.record_compute_errors(shared, target, self.errors.take_run());
                Ok(Some(self.outcome(dataflow, target, deltas, None)))
            }
        }
    }

    pub(crate) fn new_flow(
        &self,
        shared: &Arc<Shared>,
        root: &StreamNode,
    ) -> Result<Dataflow, EngineError> {
        let schema = self.relation.schema();
        let (planner, workers) = (&shared.planner, shared.config.workers);
        let room = Room {
            folder: shared.checkpoints.runs.spill(),
            most: shared.memory.state_max(),
        };
        let outside = self.outside(shared);
        Dataflow::new(planner, root, schema, workers, outside, Some(room))
    }

    /// The whole content of the inputs at an epoch.
    fn content_at(
        &self,
        epoch: u64,
        latest: u64,
    ) -> Result<Option<BTreeMap<Oid, Vec<Delta>>>, EngineError> {
        let mut content = BTreeMap::new();
        for input in &self.inputs {
            let Some(version) = input.at(epoch, latest) else {
                return Ok(None);
            };
            content.insert(input.oid, positive_content(input, &version)?);
        }
        Ok(Some(content))
    }

    pub(crate) fn outcome(
        &self,
        dataflow: Dataflow,
        epoch: u64,
        deltas: Vec<Delta>,
        places: Option<Places>,
    ) -> Outcome {
        self.note_state(&dataflow);
        Outcome {
            epoch,
            deltas,
            standing: Some(Standing { dataflow, epoch }),
            places,
            since: None,
            early: None,
        }
    }

    /// Tells how much a dataflow of the job remembers, as it is now.
    pub(crate) fn note_state(&self, dataflow: &Dataflow) {
        let state = dataflow.state();
        self.state_bytes.store(state.bytes, Ordering::SeqCst);
        self.spilled_bytes.store(state.spilled, Ordering::SeqCst);
    }

    /// Has what operators remember move to disk, as far as it is more than `most` bytes and can, unless somebody steps the job.
    pub(crate) fn make_room(&self, most: usize) {
        if !self.begin() {
            return;
        }
        if let Some(standing) = self.dataflow.lock().as_mut() {
            standing.dataflow.make_room(most);
            self.note_state(&standing.dataflow);
        }
        self.end();
    }

    pub(crate) fn step_context<'a>(
        &'a self,
        changes: &'a BTreeMap<Oid, Vec<Delta>>,
    ) -> StepContext<'a> {
        StepContext {
            changes,
            errors: &self.errors,
            strict: self.strict_errors,
        }
    }

    pub(crate) fn input_changes(
        &self,
        since: u64,
        through: u64,
    ) -> Option<BTreeMap<Oid, Vec<Delta>>> {
        self.inputs
            .iter()
            .map(|input| {
                let columns = self.columns_read(input.oid);
                let changes = input.history.lock().delta_of(since, through, columns)?;
                Some((input.oid, changes))
            })
            .collect()
    }

    pub(crate) fn step(
        &self,
        shared: &Shared,
        epoch: u64,
        changes: &BTreeMap<Oid, Vec<Delta>>,
    ) -> Result<Vec<Delta>, EngineError> {
        let deltas = self.apply(shared, changes)?;
        self.record_compute_errors(shared, epoch, self.errors.take_step());
        Ok(deltas)
    }

    /// What a view without state makes of changes.
    pub(crate) fn apply(
        &self,
        shared: &Shared,
        changes: &BTreeMap<Oid, Vec<Delta>>,
    ) -> Result<Vec<Delta>, EngineError> {
        if changes
            .values()
            .all(|deltas| deltas.iter().all(|delta| delta.num_rows() == 0))
        {
            return Ok(Vec::new());
        }
        let Some(logical) = &self.logical else {
            return Ok(changes.values().flatten().cloned().collect());
        };
        let mut stateless = self.stateless.lock();
        let plan = match &mut *stateless {
            Some(plan) => plan,
            none => none.insert(Stateless::new(
                &shared.batch,
                &shared.planner,
                logical,
                &self.inputs,
                self.relation.schema(),
            )?),
        };
        let started = Instant::now();
        let deltas = plan.step(&shared.batch, changes, &self.errors)?;
        self.state.lock().last_step = Some((rows_of(changes), started.elapsed()));
        Ok(deltas)
    }

    /// `None` when the inputs' versions of that epoch were dropped before the run began: another epoch has to be chosen.
    fn recompute(&self, shared: &Shared, target: u64) -> Result<Option<Vec<Delta>>, EngineError> {
        let latest = shared.latest();
        let mut tables = BTreeMap::new();
        for input in &self.inputs {
            let Some(version) = input.at(target, latest) else {
                return Ok(None);
            };
            tables.insert(input.oid, SnapshotTable::new(input, &version)?);
        }
        let Some(logical) = &self.logical else {
            return Ok(None);
        };
        let plan = with_relations(logical.clone(), &mut |oid| match tables.get(&oid) {
            Some(table) => Ok(Arc::clone(table) as _),
            None => Err(datafusion::error::DataFusionError::Internal(format!(
                "a view reads OID {} without saying so",
                oid.0
            ))),
        })?;
        let at_ms = shared
            .at_ms(target)
            .unwrap_or_else(|| shared.latest_info().at_ms);
        let limits = RunLimits {
            now_us: at_ms.saturating_mul(1000),
            memory: shared
                .memory
                .recomputing
                .query(shared.config.job_memory_max),
        };
        let plan = shared.planner.bind_now(plan, limits.now_us)?;
        let rows = collect_blocking(&shared.batch, &shared.planner, &plan, limits)?;
        let schema = self.relation.schema();
        let rows = rows
            .iter()
            .map(|batch| conform(batch, &schema))
            .collect::<Result<Vec<_>, _>>()?;
        let deltas = self.published(shared)?.diff_to_rows(rows)?;
        self.record_compute_errors(shared, target, self.errors.take_run());
        Ok(Some(deltas))
    }

    /// Records what the rows that gave NULL raised.
    pub(crate) fn record_compute_errors(
        &self,
        shared: &Shared,
        epoch: u64,
        errors: Vec<(&'static str, String, u64)>,
    ) {
        for (sqlstate, message, rows) in errors {
            let at_us = shared.clock.now_us();
            let record = ErrorRecord::of(&self.relation, sqlstate, message, at_us, Some(epoch));
            shared.record_error(ErrorRecord { rows, ..record });
        }
    }
}

/// The rows of a version, of which none may be there less than not at all.
pub(crate) fn positive_content(
    input: &Stored,
    version: &Version,
) -> Result<Vec<Delta>, EngineError> {
    let deltas = version.content()?;
    if deltas.iter().all(|delta| delta.weights.all_positive()) {
        return Ok(deltas);
    }
    Err(EngineError::InvalidAccumulation {
        object: input.label(),
    })
}
