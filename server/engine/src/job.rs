//! Keeps one view up to date: by the change of its inputs, with or without state, or by recomputation and diff.
//!
//! Invariant: whatever is published at an epoch is the plan's result over the inputs of exactly that epoch. A run that fails,
//! panics included, changes nothing but its own job, which backs off and tries again. State exists only while it stands where the
//! published content does; without state a run starts from the inputs' content, and that is also how a view begins. What a
//! source no longer holds is read again (`backfill`).

mod next;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use datafusion::logical_expr::LogicalPlan;
use parking_lot::Mutex;
use thalweg_catalog::Oid;
use thalweg_connectors::{ColumnsRead, Delta, Offsets};
use thalweg_planner::stream::Keeping;
use thalweg_planner::{ErrorSink, Reads, StreamNode, ViewPlan};

use self::next::Next;
use crate::backfill::Places;
use crate::checkpoint::Saving;
use crate::compute_errors::ComputeErrors;
use crate::config::STACK_BYTES;
use crate::dataflow::OutsideTables;
use crate::early::Handing;
use crate::error::EngineError;
use crate::hybrid::recomputed_hybrid;
use crate::lookups::Lookups;
use crate::pause::Rest;
use crate::run::Standing;
use crate::scan::ScanProgress;
use crate::shared::{Shared, Stored};
use crate::sink_log::SinkLog;
use crate::stateless::{Stateless, is_stateless};
use crate::status::ErrorRecord;
use crate::subscription::HIDDEN_OIDS;

/// The worker steps smaller changes itself; larger ones would hold up the next epoch.
const WORKER_ROWS_MAX: usize = 131_072;

/// As for rows: every view and every acknowledgment waits while the worker steps one.
const WORKER_TIME_MAX: Duration = Duration::from_millis(10);

/// Steps of fewer rows take about as long as one of this many.
const ROWS_PER_STEP: usize = 256;

/// A view, the query of a sink or of a subscription, or what keeps the rows of a source.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its own: what keeps a source's rows has the source's OID as a relation, but not as a job.
    pub(crate) oid: Oid,
    pub(crate) relation: Arc<Stored>,
    pub(crate) uses_now: bool,
    /// What is run: the guarded plan reporting to `errors`, or the one whose compute errors stop the view. `None` for what
    /// keeps its input's rows as they are.
    pub(crate) logical: Option<LogicalPlan>,
    pub(crate) errors: Arc<ComputeErrors>,
    pub(crate) inputs: Vec<Arc<Stored>>,
    /// What is read of each source; all of those that are not here.
    pub(crate) columns: BTreeMap<Oid, ColumnsRead>,
    /// Sources among the inputs whose rows begin in archives.
    pub(crate) histories: BTreeMap<Oid, Oid>,
    /// Jobs that keep the rows of sources among the inputs.
    pub(crate) keepers: Vec<Arc<Job>>,
    /// No state: stepped by the change of its inputs.
    pub(crate) linear: bool,
    /// How it is kept when it is kept by changes and needs state.
    pub(crate) stateful: Option<StreamNode>,
    pub(crate) dataflow: Mutex<Option<Standing>>,
    /// Where the published content stands, for when the changes since then are gone; only over sources.
    pub(crate) stands: Mutex<Option<(u64, Places)>>,
    /// The scans that its first result waits for.
    pub(crate) backfill: Mutex<Vec<Arc<ScanProgress>>>,
    /// What checkpoints keep of it; `None` when it begins anew at every start.
    pub(crate) saving: Option<Saving>,
    pub(crate) state_bytes: AtomicUsize,
    /// Bytes of what is remembered on disk, for want of memory.
    pub(crate) spilled_bytes: AtomicU64,
    /// Bytes of its first result, while that is being made.
    pub(crate) building_bytes: AtomicUsize,
    /// Whether it stands still.
    pub(crate) rest: Rest,
    pub(crate) strict_errors: bool,
    pub(crate) created: AtomicU64,
    /// What waits for delivery, of a sink that delivers exactly once.
    pub(crate) log: OnceLock<Arc<SinkLog>>,
    /// What a sink that takes changes is given before its first epoch.
    pub(crate) handing: OnceLock<Arc<Handing>>,
    /// Rows that a sink which keeps no content has taken since the server started, deletions included.
    pub(crate) rows_delivered: AtomicU64,
    /// Newest epoch a sink has accepted.
    pub(crate) delivered: AtomicU64,
    /// Why the sink does not accept changes.
    pub(crate) delivery_failure: Mutex<Option<String>>,
    /// Rows are looked up in tables of outside systems, which may let it wait for as long as they like.
    pub(crate) looks_up: bool,
    /// How far its sources had been read when state was saved that could not be taken over; by source.
    pub(crate) had: Mutex<BTreeMap<Oid, Offsets>>,
    dropped: Arc<AtomicBool>,
    pub(crate) state: Mutex<JobState>,
    pub(crate) stateless: Mutex<Option<Stateless>>,
}

#[derive(Debug, Default)]
pub(crate) struct JobState {
    running: bool,
    retry_at: Option<Instant>,
    backoff: Option<Duration>,
    last_run: Option<Instant>,
    /// The newest epoch when the last run began.
    last_latest: Option<u64>,
    /// Where the run that is under way will end, as far as is known.
    target: Option<u64>,
    /// Rows of the last step, and how long it took.
    pub(crate) last_step: Option<(usize, Duration)>,
    pub(crate) runs: u64,
    pub(crate) run_time: Duration,
}

/// What a plan reads of the sources among its inputs.
fn columns_read(root: &StreamNode, inputs: &[Arc<Stored>]) -> BTreeMap<Oid, ColumnsRead> {
    let mut all = root.columns_read();
    let sources = inputs.iter().filter(|input| input.is_stream());
    let columns_of = |input: &Arc<Stored>| {
        let schema = input.schema();
        let mut columns = ColumnsRead::none();
        for (position, reads) in all.remove(&input.oid).unwrap_or_default() {
            let Some(field) = schema.fields().get(position) else {
                continue;
            };
            match reads {
                Reads::Whole => columns.add(field.name()),
                Reads::Fields(fields) => {
                    fields
                        .iter()
                        .for_each(|name| columns.add_field(field.name(), name));
                }
            }
        }
        (input.oid, columns)
    };
    sources.map(columns_of).collect()
}

/// What is read of a source that the plan does not tell of.
static EVERYTHING: ColumnsRead = ColumnsRead::all();

impl Job {
    /// With `strict_errors` compute errors stop the view instead of giving NULL.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        relation: Arc<Stored>,
        plan: ViewPlan,
        mut inputs: Vec<Arc<Stored>>,
        strict_errors: bool,
    ) -> Result<Arc<Self>, EngineError> {
        let planner = &shared.planner;
        let histories = plan.hybrids.histories().map_err(|error| error.report())?;
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
        // What is computed from all rows needs them kept.
        let mut keepers = Vec::new();
        if !linear && stream.is_none() {
            if !histories.is_empty() {
                return Err(recomputed_hybrid().into());
            }
            for input in &mut inputs {
                if let Some(source) = input.source() {
                    let keeper = source.keeper(shared)?;
                    *input = Arc::clone(&keeper.relation);
                    keepers.push(keeper);
                }
            }
        }
        let columns = match (&stream, linear) {
            (Some(stream), _) => columns_read(&stream.root, &inputs),
            (None, true) => columns_read(&planner.stream(&logical).root, &inputs),
            (None, false) => BTreeMap::new(),
        };
        let mut job = Self {
            columns,
            histories,
            keepers,
            stateful: stream.map(|stream| stream.root),
            strict_errors,
            looks_up: !plan.lookups.is_empty(),
            uses_now: plan.uses_now,
            logical: Some(logical),
            errors,
            linear,
            ..Self::idle(relation.oid, relation, inputs)
        };
        let keeps_content = job.relation.history.lock().keeps_content();
        job.saving = Saving::of(&job, shared, keeps_content)?;
        Ok(Arc::new(job))
    }

    /// Keeps the rows of a source under the source's OID.
    pub(crate) fn keeper(
        shared: &Arc<Shared>,
        source: &Arc<Stored>,
    ) -> Result<Arc<Self>, EngineError> {
        let schema = source.schema();
        let relation = Stored::new(source.oid, &source.name, source.kind, schema, None)?;
        let number = shared.hidden.fetch_add(1, Ordering::SeqCst);
        let mut job = Self {
            linear: true,
            ..Self::idle(
                Oid(HIDDEN_OIDS | number),
                relation,
                vec![Arc::clone(source)],
            )
        };
        job.saving = Saving::of(&job, shared, true)?;
        Ok(Arc::new(job))
    }

    fn idle(oid: Oid, relation: Arc<Stored>, inputs: Vec<Arc<Stored>>) -> Self {
        Self {
            oid,
            columns: BTreeMap::new(),
            histories: BTreeMap::new(),
            keepers: Vec::new(),
            stateful: None,
            dataflow: Mutex::new(None),
            stands: Mutex::new(None),
            backfill: Mutex::default(),
            saving: None,
            state_bytes: AtomicUsize::new(0),
            spilled_bytes: AtomicU64::new(0),
            building_bytes: AtomicUsize::new(0),
            rest: Rest::default(),
            strict_errors: false,
            relation,
            uses_now: false,
            logical: None,
            errors: Arc::new(ComputeErrors::default()),
            inputs,
            linear: false,
            created: AtomicU64::new(0),
            log: OnceLock::new(),
            handing: OnceLock::new(),
            rows_delivered: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            delivery_failure: Mutex::new(None),
            looks_up: false,
            had: Mutex::default(),
            dropped: Arc::default(),
            state: Mutex::default(),
            stateless: Mutex::new(None),
        }
    }

    /// What is read of an input, when that is a source.
    pub(crate) fn columns_read(&self, source: Oid) -> &ColumnsRead {
        self.columns.get(&source).unwrap_or(&EVERYTHING)
    }

    pub(crate) fn cancel(&self) {
        self.dropped.store(true, Ordering::SeqCst);
    }

    /// Where the view's lookups find their tables.
    pub(crate) fn outside(&self, shared: &Arc<Shared>) -> Arc<dyn OutsideTables> {
        Arc::new(Lookups {
            shared: Arc::downgrade(shared),
            view: Arc::clone(&self.relation),
            dropped: Arc::clone(&self.dropped),
        })
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::SeqCst)
    }

    /// So much waits for delivery that nothing may be added to it.
    pub(crate) fn is_held(&self) -> bool {
        self.log.get().is_some_and(|log| log.is_full())
    }

    /// A table that it looks up in does not answer: it may be long until it moves, and others are saved without it.
    pub(crate) fn waits_outside(&self) -> bool {
        self.looks_up && self.relation.failure.lock().is_some()
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

    /// Keeps others from stepping it until `end`; false when somebody does already, or it is not due.
    pub(crate) fn begin(&self) -> bool {
        let due = self.state.lock().retry_at;
        due.is_none_or(|at| at <= Instant::now()) && self.begin_now()
    }

    /// The same, due or not.
    pub(crate) fn begin_now(&self) -> bool {
        let mut state = self.state.lock();
        let free = !state.running && !self.is_dropped();
        state.running |= free;
        free
    }

    /// Does not wait for the time at which it would be tried again.
    pub(crate) fn retry_now(&self) {
        self.state.lock().retry_at = None;
    }

    /// When it is tried again, after a failure of itself or of what keeps the rows that it reads.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        let own = self.state.lock().retry_at;
        own.or_else(|| self.keepers.iter().find_map(|keeper| keeper.retry_at()))
    }

    pub(crate) fn end(&self) {
        self.state.lock().running = false;
    }

    /// Starts what is due; called by the scheduler whenever something happened.
    pub(crate) fn consider(self: &Arc<Self>, shared: &Arc<Shared>) {
        let waits = self.rests(shared) || self.relation.history.lock().is_live() || self.is_held();
        if waits || !self.begin() {
            return;
        }
        match self.next(shared) {
            Next::Idle => self.end(),
            Next::Extend(epoch) => {
                self.extend(epoch);
                self.take(shared);
                self.end();
                shared.bump();
            }
            Next::Run(epoch) => self.start_run(shared, epoch),
        }
    }

    /// Nothing changed through `epoch`, so the state is that epoch's too.
    fn extend(&self, epoch: u64) {
        if let Some(standing) = self.dataflow.lock().as_mut() {
            let mut stands = self.stands.lock();
            if let Some((at, _)) = stands.as_mut().filter(|(at, _)| *at == standing.epoch) {
                *at = epoch;
            }
            standing.epoch = epoch;
        }
        self.relation.history.lock().extend(epoch);
        self.has_caught_up();
    }

    fn start_run(self: &Arc<Self>, shared: &Arc<Shared>, epoch: u64) {
        let (job, engine) = (Arc::clone(self), Arc::clone(shared));
        let run = move || job.run(&engine, epoch);
        if !self.looks_up && !self.has_to_read(epoch) {
            shared.batch.handle().spawn_blocking(run);
            return;
        }
        // An outside system may let it wait for long, and threads for runs are few.
        let spawned = std::thread::Builder::new()
            .name("thalweg-backfill".into())
            .stack_size(STACK_BYTES)
            .spawn(run);
        if let Err(error) = spawned {
            self.settle(shared, epoch, Err(EngineError::internal(error)));
            self.end();
        }
    }

    /// After a failure the changes hold the row that failed even when a later one takes it back; the content does not. The rows
    /// of a source are not taken back, so what is not state can go on where it was.
    pub(crate) fn starts_over(&self) -> bool {
        let streams = self.inputs.iter().all(|input| input.is_stream());
        self.has_failed() && (self.stateful.is_some() || !streams)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state.lock().backoff.is_some()
    }

    fn run(&self, shared: &Arc<Shared>, target: u64) {
        let started = Instant::now();
        {
            let mut state = self.state.lock();
            (state.last_latest, state.target) = (Some(shared.latest()), Some(target));
        }
        let run = catch_unwind(AssertUnwindSafe(|| self.advance(shared, target)));
        let result = run.unwrap_or_else(|_| {
            Err(EngineError::internal(
                "the view stopped at a broken invariant",
            ))
        });
        {
            let mut state = self.state.lock();
            (state.last_run, state.target) = (Some(started), None);
            state.runs += 1;
            state.run_time += started.elapsed();
        }
        self.settle(shared, target, result);
        self.take(shared);
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
        if self.dataflow.lock().is_none() {
            self.state_bytes.store(0, Ordering::SeqCst);
            self.spilled_bytes.store(0, Ordering::SeqCst);
        }
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

    /// Steps a stateless view inside the worker's epoch, when all its inputs are known there and it is up to date itself.
    pub(crate) fn step_with_worker(&self, shared: &Arc<Shared>, epoch: u64) {
        let before = epoch - 1;
        let relation = &self.relation;
        if self.is_still() {
            return;
        }
        let moves = !self.is_paused() && self.stands_at().is_none();
        let is_live = |input: &Arc<Stored>| input.history.lock().is_live();
        let ready = moves
            && !self.is_held()
            && relation.history.lock().through(before) == Some(before)
            && self.inputs.iter().all(is_live);
        if !ready || !self.begin() {
            self.leave_to_runs(shared, before);
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
                self.leave_to_runs(shared, before);
                self.end();
                return;
            }
        };
        if result.is_err() {
            self.leave_to_runs(shared, before);
        }
        self.settle(shared, epoch, result);
        self.end();
    }

    /// The worker does not step it any more; where it stands is known for as long as nobody else does.
    fn leave_to_runs(&self, shared: &Shared, before: u64) {
        let was_live = self.relation.history.lock().is_live();
        if was_live && let Some(places) = self.places_to_keep(shared, before) {
            *self.stands.lock() = Some((before, places));
        }
        self.relation.history.lock().set_live(false, before);
    }
}

/// Rows of all inputs' changes.
pub(crate) fn rows_of(changes: &BTreeMap<Oid, Vec<Delta>>) -> usize {
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
        // Whoever still holds a job is taken for someone who needs it.
        drop(jobs);
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
