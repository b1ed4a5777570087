//! The one worker: turns what has arrived into epochs, in order.
//!
//! Invariant: an epoch is in the log before it is visible, and on disk before a table change in it is acknowledged. While the log
//! cannot be written nothing is published or acknowledged: statements are refused, and what sources delivered is logged once that
//! can be done again.

mod draft;
mod log;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Epoch, EpochInfo, Weights};
use thalweg_state::{Multiplicity, WeightedBatch};
use tokio::sync::oneshot;

use self::draft::{CatalogStep, Draft};
use self::log::{LOG_RETRY, NotLogged};
use crate::error::EngineError;
use crate::inbox::{Command, Definition, Delivery, Registration, TableChange, Work};
use crate::job::Job;
use crate::segments::History;
use crate::shared::Shared;
use crate::source::{OnError, Source, SourceState, encode_offsets, spawn_driver};
use crate::subscription::HIDDEN_OIDS;

/// How often old versions are dropped.
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// Assigns epochs.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    last_at_ms: i64,
    last_epoch: Instant,
    last_sync: Instant,
    last_collect: Instant,
    unsynced: bool,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        let last_at_ms = shared.latest_info().at_ms;
        Self {
            shared,
            last_at_ms,
            last_epoch: now,
            last_sync: now,
            last_collect: now,
            unsynced: false,
        }
    }

    /// Runs until the inbox is closed.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while let Some(mut work) = shared.inbox.take(&shared.config, self.idle()) {
            if self.tick_due() {
                work.tick = true;
            }
            // A broken invariant in one epoch leaves memory in a state that no later epoch may build on.
            let step = AssertUnwindSafe(|| {
                if !work.is_empty() {
                    self.step(work);
                }
                self.maintain();
            });
            if catch_unwind(step).is_err() {
                let broken = EngineError::internal("the engine stopped at a broken invariant");
                let error = self.stop_logging(broken);
                shared.inbox.abandon(&error);
                shared.bump();
                return;
            }
        }
        if self.unsynced {
            self.sync();
        }
    }

    fn idle(&self) -> Duration {
        if self.unsynced {
            self.shared.config.group_fsync
        } else if self.shared.log_fault().is_some() {
            LOG_RETRY
        } else if self.now_wanted() {
            self.shared.config.now_interval / 4
        } else {
            COLLECT_INTERVAL
        }
    }

    fn now_wanted(&self) -> bool {
        self.shared.jobs.read().values().any(|job| job.uses_now)
    }

    fn tick_due(&self) -> bool {
        self.last_epoch.elapsed() >= self.shared.config.now_interval && self.now_wanted()
    }

    fn maintain(&mut self) {
        let due = self.unsynced && self.last_sync.elapsed() >= self.shared.config.group_fsync;
        if due || self.shared.log_fault().is_some() {
            self.sync();
        }
        if self.last_collect.elapsed() >= COLLECT_INTERVAL {
            self.last_collect = Instant::now();
            self.collect();
            self.expire();
            self.start_drivers();
        }
    }

    fn stop_logging(&self, error: EngineError) -> EngineError {
        tracing::error!(%error, "the worker has stopped, no change is accepted until a restart");
        self.shared.fatal.lock().get_or_insert(error).clone()
    }

    fn step(&mut self, work: Work) {
        let mut draft = Draft::default();
        draft.entry.epoch = self.shared.latest() + 1;
        let now_us = self.shared.clock.now_us();
        draft.entry.at_ms = self.last_at_ms.max(now_us.div_euclid(1000));
        let mut definitions = Vec::new();
        for command in work.commands {
            match command {
                Command::Drop { oids, reply } => {
                    let _ = reply.send(self.drop_objects(&oids));
                }
                Command::Register { what, reply } => {
                    draft.registrations.push(*what);
                    draft.replies.push(reply);
                }
                Command::Define { what, reply } => definitions.push((*what, reply)),
            }
        }
        for submission in work.submissions {
            self.take_changes(submission.changes, submission.reply, &mut draft);
        }
        for delivery in work.deliveries {
            self.take_delivery(delivery, &mut draft);
        }
        for (source, letters) in work.dead {
            draft.dead.entry(source).or_default().extend(letters);
        }
        self.start_ready_sources(&mut draft);
        self.bury(&mut draft, now_us);
        if !draft.is_empty() || work.tick {
            self.commit(draft);
        }
        for (definition, reply) in definitions {
            self.define(definition, reply);
        }
    }

    /// All changes of a statement or block go into the draft, or none.
    fn take_changes(&self, changes: Vec<TableChange>, reply: Reply<EpochInfo>, draft: &mut Draft) {
        let gone = |change: &&TableChange| self.shared.relation(change.stored.oid).is_none();
        if let Some(gone) = changes.iter().find(gone) {
            let _ = reply.send(Err(EngineError::Unknown(gone.stored.oid)));
            return;
        }
        for change in changes {
            let oid = change.stored.oid;
            draft.entry.dml.push((oid.0, change.record));
            draft.entry.sinks.extend(change.sink);
            draft.changes.entry(oid).or_default().extend(change.deltas);
            draft.tables.push(change.stored);
        }
        draft.statements.push(reply);
    }

    /// DDL has an epoch of its own: the catalog may refuse it, which must not touch anyone else's changes.
    fn define(&mut self, what: Definition, reply: Reply<EpochInfo>) {
        let mut draft = Draft::default();
        draft.entry.epoch = self.shared.latest() + 1;
        let now_ms = self.shared.clock.now_us().div_euclid(1000);
        draft.entry.at_ms = self.last_at_ms.max(now_ms);
        self.take_changes(what.changes, reply, &mut draft);
        if draft.statements.is_empty() {
            return;
        }
        draft.entry.dml.extend(what.records);
        draft.entry.forgotten = what.drop.iter().map(|oid| oid.0).collect();
        draft.registrations = what.registrations;
        draft.dropped = what.drop;
        draft.paused = what.pause;
        draft.catalog = Some(CatalogStep {
            append: what.append,
            publish: what.publish,
        });
        self.commit(draft);
    }

    fn take_delivery(&self, delivery: Delivery, draft: &mut Draft) {
        let Some(source) = self.shared.sources.read().get(&delivery.source).cloned() else {
            return;
        };
        if source.state.lock().generation != delivery.generation {
            return;
        }
        let batch = delivery.batch;
        let now_us = self.shared.clock.now_us();
        // Users' expressions run here; one that panics stops its source alone.
        let shape = AssertUnwindSafe(|| source.shape.apply(&batch, now_us));
        let shaped = catch_unwind(shape).unwrap_or_else(|_| {
            Err(EngineError::internal(
                "a column or constraint stopped at a broken invariant",
            ))
        });
        let shaped = match shaped {
            Ok(shaped) => shaped,
            Err(error) => {
                source.fail(&self.shared, "XX000", error.to_string());
                return;
            }
        };
        if let Some(reason) = shaped.failure {
            source.fail(&self.shared, "23514", reason);
            return;
        }
        let mut dead = batch.dead;
        source.state.lock().dead += shaped.dead.len() as u64;
        dead.extend(shaped.dead);
        if let Some(first) = dead.first() {
            match source.on_error {
                OnError::Ignore => {}
                OnError::DeadLetter => draft.dead.entry(source.oid).or_default().extend(dead),
                OnError::Fail => {
                    source.fail(&self.shared, "22000", source.stopped_at(first));
                    return;
                }
            }
        }
        if shaped.rows.num_rows() > 0 {
            draft
                .changes
                .entry(source.oid)
                .or_default()
                .push(Delta::insert(shaped.rows));
            let built = draft.built.entry(source.oid).or_default();
            built.push(delivery.columns);
        }
        source.state.lock().received.extend(batch.offsets);
        draft.moved.insert(source.oid, source);
    }

    /// Sources that are wanted, and of which it is known by now where to begin to follow them.
    fn start_ready_sources(&self, draft: &mut Draft) {
        for source in self.shared.sources.read().values() {
            let mut state = source.state.lock();
            if state.started || state.consumers.is_empty() {
                continue;
            }
            let Some(target) = state.target.clone() else {
                continue;
            };
            state.start(&source.start, &target);
            draft.changes.entry(source.oid).or_default();
            draft.started.push(Arc::clone(source));
            draft.moved.insert(source.oid, Arc::clone(source));
        }
    }

    fn bury(&self, draft: &mut Draft, now_us: i64) {
        let mut fresh = std::mem::take(&mut draft.dead);
        for (source, log) in self.shared.dead.read().iter() {
            let letters = fresh.remove(source).unwrap_or_default();
            if letters.is_empty() && !log.is_due(now_us) {
                continue;
            }
            match log.add(letters, draft.entry.epoch, now_us) {
                Ok(change) => {
                    if !change.deltas.is_empty() {
                        draft
                            .changes
                            .entry(log.relation.oid)
                            .or_default()
                            .extend(change.deltas);
                    }
                    draft.entry.dead.extend(change.records);
                    draft.entry.dead.extend(change.left);
                    draft
                        .entry
                        .dead_expired
                        .extend(change.expired.into_iter().map(|key| (source.0, key)));
                }
                Err(error) => self.shared.fail(&log.relation, "XX000", error.to_string()),
            }
        }
    }

    fn commit(&mut self, mut draft: Draft) {
        for (oid, source) in &draft.moved {
            let state = source.state.lock();
            draft
                .entry
                .offsets
                .push((oid.0, encode_offsets(&state.received)));
        }
        // Table changes are acknowledged, so they reach the disk now; the rest is read again after a crash.
        let due = self.last_sync.elapsed() >= self.shared.config.group_fsync;
        let (mut append, publish) = match draft.catalog.take() {
            Some(step) => (Some(step.append), Some(step.publish)),
            None => (None, None),
        };
        let is_definition = append.is_some();
        let acknowledged = append.is_some() || !draft.entry.dml.is_empty();
        let durable = acknowledged || (self.unsynced && due);
        while let Err(error) = self.append(&draft.entry, durable, append.take()) {
            let goes_on = match &error {
                NotLogged::Refused(error) => {
                    draft.refuse(error);
                    let replies = draft.replies.drain(..);
                    replies.for_each(|reply| drop(reply.send(Err(error.clone()))));
                    false
                }
                NotLogged::Failed(error) => {
                    self.log_fails(error, &draft.tables);
                    draft.refuse(error);
                    // What a definition would bring is gone with it; what sources have handed over is with nobody else any more.
                    let waits = !is_definition && !draft.is_empty();
                    self.try_log(waits) && waits
                }
            };
            if !goes_on {
                return;
            }
        }
        self.unsynced = !durable;
        let info = EpochInfo {
            epoch: Epoch(draft.entry.epoch),
            at_ms: draft.entry.at_ms,
        };
        self.publish(info, &mut draft, publish);
        if durable {
            self.synced();
        }
        for reply in draft.statements.into_iter().chain(draft.replies) {
            let _ = reply.send(Ok(info));
        }
    }

    fn publish(
        &mut self,
        info: EpochInfo,
        draft: &mut Draft,
        show_catalog: Option<Box<dyn FnOnce() + Send>>,
    ) {
        let epoch = info.epoch.0;
        for (oid, deltas) in std::mem::take(&mut draft.changes) {
            let Some(relation) = self.shared.relation(oid) else {
                continue;
            };
            let mut history = relation.history.lock();
            for columns in draft.built.remove(&oid).iter().flatten() {
                history.built_with(epoch, columns);
            }
            let published = history.publish(epoch, deltas);
            drop(history);
            if let Err(error) = published {
                self.shared.fail(&relation, "XX000", error.to_string());
            }
        }
        for source in &draft.started {
            source.history.history.lock().set_live(true, epoch);
        }
        for source in draft.moved.values() {
            source.state.lock().bind(epoch);
        }
        let mut started = Vec::new();
        for what in std::mem::take(&mut draft.registrations) {
            self.register(what, epoch, &mut started);
        }
        for (oid, paused) in std::mem::take(&mut draft.paused) {
            self.shared.set_paused(oid, paused, epoch);
        }
        // Whoever finds a name in the catalog finds its object here: new objects are in place before, old ones go after.
        if let Some(show) = show_catalog {
            show();
        }
        if !draft.dropped.is_empty() {
            self.detach(&draft.dropped);
        }
        let jobs: Vec<_> = self
            .shared
            .jobs
            .read()
            .values()
            .filter(|job| job.linear)
            .cloned()
            .collect();
        for job in jobs {
            job.step_with_worker(&self.shared, epoch);
        }
        self.last_at_ms = info.at_ms;
        self.last_epoch = Instant::now();
        self.shared.publish(info);
        for source in started {
            spawn_driver(&self.shared, &source);
        }
    }

    /// Puts a new object in place. One lock at a time: readers take them in another order.
    fn register(&self, what: Registration, epoch: u64, started: &mut Vec<Arc<Source>>) {
        if let Some((relation, version)) = what.content {
            relation.history.lock().start(epoch, version, true);
            self.shared.relations.write().insert(relation.oid, relation);
        }
        if let Some(source) = what.source {
            self.shared
                .relations
                .write()
                .insert(source.oid, Arc::clone(&source.history));
            self.shared.sources.write().insert(source.oid, source);
        }
        if let Some((source, log)) = what.dead {
            self.shared.dead.write().insert(source, log);
        }
        let Some(job) = what.job else { return };
        for keeper in &job.keepers {
            if self.shared.job(keeper.oid).is_none() {
                self.start_job(keeper, epoch, started);
            }
        }
        self.start_job(&job, epoch, started);
        self.shared
            .relations
            .write()
            .insert(job.relation.oid, Arc::clone(&job.relation));
    }

    fn start_job(&self, job: &Arc<Job>, epoch: u64, started: &mut Vec<Arc<Source>>) {
        job.created.store(epoch, Ordering::SeqCst);
        for source in self.shared.sources.read().values() {
            if !job.inputs.iter().any(|input| input.oid == source.oid) {
                continue;
            }
            let mut state = source.state.lock();
            if state.consumers.is_empty() {
                started.push(Arc::clone(source));
            }
            let columns = job.columns_read(source.oid).clone();
            state.consumers.insert(job.oid, columns);
            source.want_columns(&mut state);
        }
        job.show_at_rest(&self.shared, epoch);
        self.shared.jobs.write().insert(job.oid, Arc::clone(job));
        self.shared.checkpoints.arrived(job);
    }

    fn drop_objects(&self, oids: &[Oid]) -> Result<(), EngineError> {
        self.detach(oids);
        // The logs hold nothing of a subscription's query.
        let numbers: Vec<u32> = oids
            .iter()
            .map(|oid| oid.0)
            .filter(|oid| *oid < HIDDEN_OIDS)
            .collect();
        if numbers.is_empty() {
            return Ok(());
        }
        Ok(self.shared.store.forget(&numbers)?)
    }

    /// Takes objects out of memory, and what only they needed.
    fn detach(&self, oids: &[Oid]) {
        self.detach_all(oids);
        let idle = self.idle_keepers();
        if !idle.is_empty() {
            self.detach_all(&idle);
        }
    }

    /// What keeps the rows of a source that no view is computed from any more. One that a view about to be created holds stays.
    fn idle_keepers(&self) -> Vec<Oid> {
        let mut idle = Vec::new();
        for source in self.shared.sources.read().values() {
            let mut keeper = source.keeper.lock();
            let jobs = self.shared.jobs.read();
            let Some(oid) = keeper.as_ref().map(|keeper| keeper.oid) else {
                continue;
            };
            let used = jobs
                .values()
                .any(|job| job.keepers.iter().any(|keeper| keeper.oid == oid));
            // Views that are not registered yet have taken theirs from here, under this lock.
            let held = keeper.as_ref().map_or(0, Arc::strong_count);
            let registered = usize::from(jobs.contains_key(&oid));
            if !used && held <= 1 + registered {
                *keeper = None;
                idle.push(oid);
            }
        }
        idle
    }

    fn detach_all(&self, oids: &[Oid]) {
        self.shared.checkpoints.forget(oids);
        for oid in oids {
            if let Some(job) = self.shared.jobs.write().remove(oid) {
                job.cancel();
            }
            self.shared.relations.write().remove(oid);
            // From here on its folder is nobody's to look after.
            self.shared.archives.write().remove(oid);
            self.shared
                .dead
                .write()
                .retain(|_, log| log.relation.oid != *oid);
            if let Some(source) = self.shared.sources.write().remove(oid) {
                drop(source.stop());
            }
        }
        for source in self.shared.sources.read().values() {
            let mut state = source.state.lock();
            let consumed = !state.consumers.is_empty();
            state
                .consumers
                .retain(|consumer, _| !oids.contains(consumer));
            if !consumed || !state.consumers.is_empty() {
                source.want_columns(&mut state);
                continue;
            }
            // A source that nothing reads is not consumed and keeps no rows.
            let generation = state.generation + 1;
            *state = SourceState {
                generation,
                ..SourceState::default()
            };
            drop(state);
            *source.history.history.lock() = History::of_changes(Arc::clone(&source.history.codec));
            *source.history.failure.lock() = None;
        }
        self.shared.bump();
    }

    /// Tries again where the system had no thread to give.
    fn start_drivers(&self) {
        let sources: Vec<_> = self.shared.sources.read().values().cloned().collect();
        let wanted = |source: &&Arc<Source>| {
            let state = source.state.lock();
            state.driver_failed && !state.consumers.is_empty()
        };
        for source in sources.iter().filter(wanted) {
            spawn_driver(&self.shared, source);
        }
    }

    /// Asks for an epoch when dead letters have to leave.
    fn expire(&self) {
        let now_us = self.shared.clock.now_us();
        if self
            .shared
            .dead
            .read()
            .values()
            .any(|log| log.is_due(now_us))
        {
            let _ = self.shared.inbox.tick();
        }
    }

    /// Drops versions that no new reader may ask for.
    fn collect(&self) {
        let window_ms =
            i64::try_from(self.shared.config.snapshot_history.as_millis()).unwrap_or(i64::MAX);
        // Epochs stand still while a clock that was set back catches up; what they may drop does not.
        let elapsed_ms = i64::try_from(self.last_epoch.elapsed().as_millis()).unwrap_or(i64::MAX);
        let cutoff = self
            .last_at_ms
            .saturating_add(elapsed_ms)
            .saturating_sub(window_ms);
        let horizon = {
            let mut epochs = self.shared.epochs.lock();
            while epochs.get(1).is_some_and(|next| next.at_ms <= cutoff) {
                epochs.pop_front();
            }
            epochs.front().map_or(0, |info| info.epoch.0)
        };
        for relation in self.shared.relations.read().values() {
            // How long the rows of a source stay is up to the views that read it.
            if !relation.is_stream() {
                relation.history.lock().collect(horizon);
            }
        }
        let idle = self.idle_keepers();
        if !idle.is_empty() {
            self.detach_all(&idle);
        }
        self.collect_streams(horizon);
    }

    fn collect_streams(&self, horizon: u64) {
        let latest = self.shared.latest();
        let mut taken: BTreeMap<Oid, u64> = BTreeMap::new();
        for job in self.shared.jobs.read().values() {
            let through = job.relation.through(latest).unwrap_or(0);
            if job.oid != job.relation.oid {
                job.relation.history.lock().collect(horizon);
            }
            for input in job.inputs.iter().filter(|input| input.is_stream()) {
                let all = taken.entry(input.oid).or_insert(u64::MAX);
                *all = (*all).min(through);
            }
        }
        let bytes_max = self.shared.config.stream_bytes_max;
        for source in self.shared.sources.read().values() {
            source.state.lock().collect(horizon);
            let all = taken.get(&source.oid).copied().unwrap_or(u64::MAX);
            let mut history = source.history.history.lock();
            history.collect_known(horizon);
            history.forget_changes_over(all.min(latest), bytes_max);
        }
    }
}

/// A change in the form of the log.
pub(crate) fn weighted(delta: &Delta) -> WeightedBatch {
    let weights = match &delta.weights {
        Weights::Ones => Multiplicity::Constant(1),
        Weights::Constant(weight) => Multiplicity::Constant(*weight),
        Weights::Each(weights) => Multiplicity::Each(weights.to_vec()),
    };
    WeightedBatch {
        batch: delta.batch.clone(),
        weights,
    }
}
