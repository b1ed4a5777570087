//! Keeps one view up to date: by the change of its inputs, with or without state, or by recomputation and diff.
//!
//! Invariant: whatever is published at an epoch is the plan's result over the inputs of exactly that epoch. A run that fails,
//! panics included, changes nothing but its own job, which backs off and tries again. State exists only while it stands where the
//! published content does; without state a run starts from the inputs' content, and that is also how a view begins.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use datafusion::logical_expr::LogicalPlan;
use parking_lot::Mutex;
use thalweg_catalog::Oid;
use thalweg_connectors::Delta;
use thalweg_planner::stream::Keeping;
use thalweg_planner::{ErrorSink, Planner, StreamNode, ViewPlan};

use crate::batch::{RunLimits, collect_blocking, conform, with_relations};
use crate::choose::{Range, common, newest, roundest_after};
use crate::compute_errors::ComputeErrors;
use crate::dataflow::{Dataflow, StepContext};
use crate::error::EngineError;
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::snapshot::SnapshotTable;
use crate::stateless::{Stateless, is_stateless};
use crate::status::ErrorRecord;

/// The worker steps smaller changes itself; larger ones would hold up the next epoch.
const WORKER_ROWS_MAX: usize = 131_072;

/// As for rows: every view and every acknowledgment waits while the worker steps one.
const WORKER_TIME_MAX: Duration = Duration::from_millis(10);

/// Steps of fewer rows take about as long as one of this many.
const ROWS_PER_STEP: usize = 256;

/// A view, or the query of a sink.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) relation: Arc<Stored>,
    pub(crate) uses_now: bool,
    /// What is run: the guarded plan reporting to `errors`, or the one whose compute errors stop the view.
    logical: LogicalPlan,
    errors: Arc<ComputeErrors>,
    pub(crate) inputs: Vec<Arc<Stored>>,
    /// No state: stepped by the change of its inputs.
    pub(crate) linear: bool,
    /// How it is kept when it is kept by changes and needs state.
    stateful: Option<StreamNode>,
    dataflow: Mutex<Option<Standing>>,
    state_bytes: AtomicUsize,
    strict_errors: bool,
    pub(crate) created: AtomicU64,
    /// Newest epoch a sink has accepted.
    pub(crate) delivered: AtomicU64,
    /// Why the sink does not accept changes.
    pub(crate) delivery_failure: Mutex<Option<String>>,
    dropped: AtomicBool,
    state: Mutex<JobState>,
    stateless: Mutex<Option<Stateless>>,
}

#[derive(Debug, Default)]
pub(crate) struct JobState {
    running: bool,
    retry_at: Option<Instant>,
    backoff: Option<Duration>,
    last_run: Option<Instant>,
    /// The newest epoch when the last run began.
    last_latest: Option<u64>,
    /// Rows of the last step, and how long it took.
    last_step: Option<(usize, Duration)>,
    pub(crate) runs: u64,
    pub(crate) run_time: Duration,
}

/// A dataflow, and the epoch of the inputs that its state is of.
#[derive(Debug)]
struct Standing {
    dataflow: Dataflow,
    epoch: u64,
}

/// What a job does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Idle,
    /// Nothing that it reads changed through this epoch.
    Extend(u64),
    /// Compute at this epoch.
    Run(u64),
}

impl Job {
    /// With `strict_errors` compute errors stop the view instead of giving NULL.
    pub(crate) fn new(
        planner: &Planner,
        relation: Arc<Stored>,
        plan: ViewPlan,
        inputs: Vec<Arc<Stored>>,
        strict_errors: bool,
    ) -> Result<Arc<Self>, EngineError> {
        let linear = !inputs.is_empty()
            && plan.stream.keeping == Keeping::RowByRow
            && is_stateless(&plan.stream.root);
        let errors = Arc::new(ComputeErrors::default());
        let logical = if strict_errors {
            plan.unguarded
        } else {
            let sink: Arc<dyn ErrorSink> = Arc::clone(&errors) as _;
            planner.bind_error_sink(plan.plan, &sink)?
        };
        let stream = (plan.stream.keeping == Keeping::Incremental && !inputs.is_empty())
            .then(|| planner.stream(&logical))
            .filter(|stream| stream.keeping == Keeping::Incremental);
        Ok(Arc::new(Self {
            stateful: stream.map(|stream| stream.root),
            dataflow: Mutex::new(None),
            state_bytes: AtomicUsize::new(0),
            strict_errors,
            relation,
            uses_now: plan.uses_now,
            logical,
            errors,
            inputs,
            linear,
            created: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivery_failure: Mutex::new(None),
            dropped: AtomicBool::new(false),
            state: Mutex::default(),
            stateless: Mutex::new(None),
        }))
    }

    pub(crate) fn cancel(&self) {
        self.dropped.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::SeqCst)
    }

    /// Kept by changes, not by recomputation.
    pub(crate) fn is_incremental(&self) -> bool {
        self.linear || self.stateful.is_some()
    }

    /// Bytes that are remembered between runs, beside the content.
    pub(crate) fn state_bytes(&self) -> usize {
        self.state_bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn figures(&self) -> (u64, Duration) {
        let state = self.state.lock();
        (state.runs, state.run_time)
    }

    fn begin(&self) -> bool {
        let mut state = self.state.lock();
        let free = !state.running
            && state.retry_at.is_none_or(|at| at <= Instant::now())
            && !self.is_dropped();
        state.running |= free;
        free
    }

    fn end(&self) {
        self.state.lock().running = false;
    }

    /// Starts what is due; called by the scheduler whenever something happened.
    pub(crate) fn consider(self: &Arc<Self>, shared: &Arc<Shared>) {
        if self.relation.history.lock().is_live() || !self.begin() {
            return;
        }
        match self.next(shared) {
            Next::Idle => self.end(),
            Next::Extend(epoch) => {
                self.relation.history.lock().extend(epoch);
                self.end();
                shared.bump();
            }
            Next::Run(epoch) => {
                let (job, shared) = (Arc::clone(self), Arc::clone(shared));
                let batch = shared.batch.handle().clone();
                batch.spawn_blocking(move || job.run(&shared, epoch));
            }
        }
    }

    fn next(&self, shared: &Shared) -> Next {
        let latest = shared.latest();
        let created = self.created.load(Ordering::SeqCst);
        let oldest = shared.epochs.lock().front().map_or(0, |info| info.epoch.0);
        let lists: Vec<_> = self
            .inputs
            .iter()
            .map(|input| input.known(latest))
            .collect();
        let known =
            common(lists.iter().map(Vec::as_slice)).unwrap_or_else(|| vec![(created, latest)]);
        let done = self.relation.through(latest);
        // The wall clock of epochs before the window is gone, and so are most versions.
        let after = done
            .unwrap_or(created.saturating_sub(1))
            .max(oldest.saturating_sub(1));
        let Some(target) = self.choose(shared, &known, after) else {
            return Next::Idle;
        };
        if let (Some(done), Some(newest)) = (done, newest(&known)) {
            let still = |epoch| {
                self.inputs
                    .iter()
                    .all(|input| input.history.lock().unchanged(done, epoch, latest))
            };
            match [newest, target].into_iter().find(|epoch| still(*epoch)) {
                Some(epoch) if !self.uses_now => return Next::Extend(epoch),
                // Only time has passed.
                Some(_) if !self.now_due(shared) => return Next::Idle,
                _ => {}
            }
        }
        Next::Run(target)
    }

    fn choose(&self, shared: &Shared, known: &[Range], after: u64) -> Option<u64> {
        let newest = newest(known).filter(|epoch| *epoch > after);
        // What made a run fail may be gone by now, and must not be computed again. And when nothing has happened since the last
        // run began, all views that are behind can meet at the end.
        let idle = self.state.lock().last_latest == Some(shared.latest());
        if idle || self.has_failed() {
            return newest;
        }
        // A run takes its time; begun near the end of the window it would end beyond it, where no live table is known.
        let young = shared.middle_epoch().saturating_sub(1).max(after);
        roundest_after(known, young).or_else(|| roundest_after(known, after))
    }

    fn has_failed(&self) -> bool {
        self.state.lock().backoff.is_some()
    }

    fn now_due(&self, shared: &Shared) -> bool {
        let state = self.state.lock();
        state
            .last_run
            .is_none_or(|last| last.elapsed() >= shared.config.now_interval.mul_f32(0.9))
    }

    fn run(&self, shared: &Arc<Shared>, target: u64) {
        let started = Instant::now();
        self.state.lock().last_latest = Some(shared.latest());
        let run = catch_unwind(AssertUnwindSafe(|| self.advance(shared, target)));
        let result = run.unwrap_or_else(|_| {
            Err(EngineError::internal(
                "the view stopped at a broken invariant",
            ))
        });
        {
            let mut state = self.state.lock();
            state.last_run = Some(started);
            state.runs += 1;
            state.run_time += started.elapsed();
        }
        self.settle(shared, target, result);
        self.end();
        shared.bump();
    }

    fn settle(&self, shared: &Shared, target: u64, result: Result<(), EngineError>) {
        let Err(error) = result else {
            let mut state = self.state.lock();
            state.backoff = None;
            state.retry_at = None;
            *self.relation.failure.lock() = None;
            return;
        };
        if self.is_dropped() || shared.is_stopping() {
            return;
        }
        self.errors.mute(false);
        self.errors.discard();
        let mut state = self.state.lock();
        let backoff = state.backoff.map_or(shared.config.backoff_min, |last| {
            (last * 2).min(shared.config.backoff_max)
        });
        state.backoff = Some(backoff);
        state.retry_at = Some(Instant::now() + backoff);
        drop(state);
        let report = error.report();
        tracing::warn!(view = %self.relation.name, error = %report.message, "view failed, retrying");
        let at_us = shared.clock.now_us();
        let reason = match &report.detail {
            Some(detail) => format!("{}: {detail}", report.message),
            None => report.message.clone(),
        };
        shared.record_error(ErrorRecord::of(
            &self.relation,
            report.sqlstate,
            reason.clone(),
            at_us,
            Some(target),
        ));
        *self.relation.failure.lock() = Some(reason);
    }

    /// Brings the view to `target`.
    fn advance(&self, shared: &Arc<Shared>, target: u64) -> Result<(), EngineError> {
        let latest = shared.latest();
        let (done, old) = {
            let history = self.relation.history.lock();
            (history.through(latest), history.newest())
        };
        // After a failure the changes hold the row that failed even when a later one takes it back; the content does not.
        let changes = done
            .filter(|_| self.linear && !self.has_failed())
            .and_then(|done| self.input_changes(done, target));
        let mut standing = None;
        let deltas = match (changes, &self.stateful) {
            (Some(changes), _) => Some(self.step(shared, target, &changes)?),
            (None, Some(root)) => self
                .flow(shared, target, &old, root)?
                .map(|(deltas, flow)| {
                    standing = Some(flow);
                    deltas
                }),
            (None, None) => self.recompute(shared, target, &old)?,
        };
        let Some(deltas) = deltas else {
            return Ok(());
        };
        // A dropped view must not come back, and one that the worker has taken over meanwhile is ahead of this run.
        let mut history = self.relation.history.lock();
        if !self.is_dropped() && !history.is_live() && history.through(shared.latest()) == done {
            history.publish(target, deltas)?;
            *self.dataflow.lock() = standing;
        }
        Ok(())
    }

    /// The change of a view with state, and the state to keep once it is published. The state is taken out of the job for the
    /// step, so that a step which fails or panics leaves none. `None` when the inputs' versions of that epoch are gone.
    fn flow(
        &self,
        shared: &Shared,
        target: u64,
        old: &Version,
        root: &StreamNode,
    ) -> Result<Option<(Vec<Delta>, Standing)>, EngineError> {
        let standing = self.dataflow.lock().take().filter(|_| !self.has_failed());
        let changes = standing
            .as_ref()
            .and_then(|standing| self.input_changes(standing.epoch, target));
        let codec = &self.relation.codec;
        if let (Some(Standing { mut dataflow, .. }), Some(changes)) = (standing, changes) {
            let deltas = dataflow.step(&self.step_context(&changes), codec)?;
            self.record_compute_errors(shared, target, self.errors.take_step());
            return Ok(Some(self.stands(dataflow, target, deltas)));
        }
        let latest = shared.latest();
        let mut content = BTreeMap::new();
        for input in &self.inputs {
            let Some(version) = input.at(target, latest) else {
                return Ok(None);
            };
            let deltas = version.content()?;
            if !deltas.iter().all(|delta| delta.weights.all_positive()) {
                return Err(EngineError::InvalidAccumulation {
                    object: input.label(),
                });
            }
            content.insert(input.oid, deltas);
        }
        let schema = self.relation.schema();
        let mut dataflow = Dataflow::new(&shared.planner, root, schema, shared.config.workers)?;
        let rows = dataflow.step(&self.step_context(&content), codec)?;
        let deltas = old.diff_to_content(rows)?;
        self.record_compute_errors(shared, target, self.errors.take_run());
        Ok(Some(self.stands(dataflow, target, deltas)))
    }

    fn stands(&self, dataflow: Dataflow, epoch: u64, deltas: Vec<Delta>) -> (Vec<Delta>, Standing) {
        self.state_bytes
            .store(dataflow.state().bytes, Ordering::SeqCst);
        (deltas, Standing { dataflow, epoch })
    }

    fn step_context<'a>(&'a self, changes: &'a BTreeMap<Oid, Vec<Delta>>) -> StepContext<'a> {
        StepContext {
            changes,
            errors: &self.errors,
            strict: self.strict_errors,
        }
    }

    fn input_changes(&self, since: u64, through: u64) -> Option<BTreeMap<Oid, Vec<Delta>>> {
        self.inputs
            .iter()
            .map(|input| Some((input.oid, input.history.lock().delta(since, through)?)))
            .collect()
    }

    fn step(
        &self,
        shared: &Shared,
        epoch: u64,
        changes: &BTreeMap<Oid, Vec<Delta>>,
    ) -> Result<Vec<Delta>, EngineError> {
        if changes
            .values()
            .all(|deltas| deltas.iter().all(|delta| delta.num_rows() == 0))
        {
            return Ok(Vec::new());
        }
        let mut stateless = self.stateless.lock();
        if stateless.is_none() {
            let schema = self.relation.schema();
            *stateless = Some(Stateless::new(
                &shared.batch,
                &shared.planner,
                &self.logical,
                &self.inputs,
                schema,
            )?);
        }
        let Some(plan) = stateless.as_ref() else {
            return Ok(Vec::new());
        };
        let started = Instant::now();
        let deltas = plan.step(&shared.batch, changes, &self.errors)?;
        self.state.lock().last_step = Some((rows_of(changes), started.elapsed()));
        self.record_compute_errors(shared, epoch, self.errors.take_step());
        Ok(deltas)
    }

    /// `None` when the inputs' versions of that epoch were dropped before the run began: another epoch has to be chosen.
    fn recompute(
        &self,
        shared: &Shared,
        target: u64,
        old: &Version,
    ) -> Result<Option<Vec<Delta>>, EngineError> {
        let latest = shared.latest();
        let mut tables = BTreeMap::new();
        for input in &self.inputs {
            let Some(version) = input.at(target, latest) else {
                return Ok(None);
            };
            tables.insert(input.oid, SnapshotTable::new(input, &version)?);
        }
        let plan = with_relations(self.logical.clone(), &mut |oid| match tables.get(&oid) {
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
            memory: shared.config.job_memory_max,
        };
        let plan = shared.planner.bind_now(plan, limits.now_us)?;
        let rows = collect_blocking(&shared.batch, &shared.planner, &plan, limits)?;
        let schema = self.relation.schema();
        let rows = rows
            .iter()
            .map(|batch| conform(batch, &schema))
            .collect::<Result<Vec<_>, _>>()?;
        let deltas = old.diff_to_rows(rows)?;
        self.record_compute_errors(shared, target, self.errors.take_run());
        Ok(Some(deltas))
    }

    /// Records what the rows that gave NULL raised.
    fn record_compute_errors(
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

    /// Steps a stateless view inside the worker's epoch, when all its inputs are known there and it is up to date itself.
    pub(crate) fn step_with_worker(&self, shared: &Arc<Shared>, epoch: u64) {
        let before = epoch - 1;
        let relation = &self.relation;
        let ready = {
            let history = relation.history.lock();
            history.through(before) == Some(before)
                && self
                    .inputs
                    .iter()
                    .all(|input| input.history.lock().is_live())
        };
        if !ready {
            relation.history.lock().set_live(false, before);
            return;
        }
        if !self.begin() {
            relation.history.lock().set_live(false, before);
            return;
        }
        let last_step = self.state.lock().last_step;
        let changes = self.input_changes(before, epoch).filter(|changes| {
            let rows = rows_of(changes);
            rows <= WORKER_ROWS_MAX && expected_time(last_step, rows) <= WORKER_TIME_MAX
        });
        let result = match changes {
            Some(changes) => catch_unwind(AssertUnwindSafe(|| self.step(shared, epoch, &changes)))
                .unwrap_or_else(|_| {
                    Err(EngineError::internal(
                        "the view stopped at a broken invariant",
                    ))
                })
                .and_then(|deltas| {
                    let mut history = relation.history.lock();
                    history.publish(epoch, deltas)?;
                    history.set_live(true, epoch);
                    Ok(())
                }),
            None => {
                relation.history.lock().set_live(false, before);
                self.end();
                return;
            }
        };
        if result.is_err() {
            relation.history.lock().set_live(false, before);
        }
        self.settle(shared, epoch, result);
        self.end();
    }
}

fn rows_of(changes: &BTreeMap<Oid, Vec<Delta>>) -> usize {
    changes.values().flatten().map(Delta::num_rows).sum()
}

/// How long a step of `rows` rows will take, judged by the last one.
fn expected_time(last: Option<(usize, Duration)>, rows: usize) -> Duration {
    let Some((last_rows, last_time)) = last else {
        return Duration::ZERO;
    };
    let (rows, last_rows) = (rows as f64, last_rows.max(1) as f64);
    let factor = if rows > last_rows {
        (rows / last_rows.max(ROWS_PER_STEP as f64)).max(1.0)
    } else {
        rows / last_rows
    };
    last_time.mul_f64(factor)
}

/// Starts due jobs until the engine stops.
pub(crate) fn schedule(shared: &Arc<Shared>) {
    const LOOK_AGAIN: Duration = Duration::from_millis(100);
    let mut seen = 0;
    while !shared.is_stopping() {
        let jobs: Vec<_> = shared.jobs.read().values().cloned().collect();
        jobs.iter().for_each(|job| job.consider(shared));
        seen = shared.wait_for_bump(seen, LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_step_is_foreseen() {
        let ms = Duration::from_millis;
        let slow = |last, rows| expected_time(last, rows) > WORKER_TIME_MAX;
        assert!(!slow(None, 100_000));
        // 10 us a row: a hundred rows are nothing, a hundred thousand are a second.
        let regex = Some((1_000, ms(10)));
        assert!(!slow(regex, 100) && slow(regex, 100_000));
        // What a step costs whatever its size is not taken for the cost of a row.
        assert!(!slow(Some((1, ms(1))), 256) && slow(Some((1, ms(20))), 1));
    }
}
