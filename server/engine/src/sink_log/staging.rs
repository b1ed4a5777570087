//! What sinks put into a checkpoint: their changes since the one before, and their records.
//!
//! Invariant: what is staged goes through the epoch that its job is saved at, in the same transaction, when the job can go on from
//! there; then nothing that was delivered is needed again. Of other jobs it goes through the newest epoch that they know. What
//! could not be made durable is staged with the next checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use thalweg_connectors::{Delta, Form, Offsets};
use thalweg_state::Save;

use super::{Entry, PART_BYTES_MAX, Record, SinkLog};
use crate::checkpoint::{Saved, report};
use crate::error::EngineError;
use crate::job::Job;
use crate::relation::Version;
use crate::shared::{Shared, Stored};

/// What one sink puts into a checkpoint.
#[derive(Debug)]
pub(crate) struct Stage {
    save: Option<Save>,
    saved: Option<Saved>,
    through: Option<u64>,
    record: Record,
    /// The record has to be written.
    write: bool,
}

impl SinkLog {
    /// What a checkpoint has to save of a job that can go on from it, at the epoch it is saved at.
    pub(crate) fn stage_with_job(
        &self,
        shared: &Shared,
        job: &Job,
        epoch: u64,
        content: &Arc<Version>,
    ) -> Result<Stage, EngineError> {
        let mut stage = self.stage(shared, job, epoch, content)?;
        // The place of the log moves with that of the job, whether there is anything to deliver or not.
        let since = self.saved_through();
        let save = stage.save.get_or_insert_with(|| self.moved(since, epoch));
        if !self.keeps {
            save.gone = self.delivered_runs(shared, &stage.record)?;
            stage.write |= !stage.record.partial;
            stage.record.partial = true;
        }
        stage.saved = Some(Saved {
            through: epoch,
            version: Some(Arc::clone(content)),
        });
        Ok(stage)
    }

    /// What a checkpoint has to save of a job that begins anew at every start: everything that is known by `epoch`.
    fn stage_alone(
        &self,
        shared: &Shared,
        job: &Job,
        epoch: u64,
    ) -> Result<Option<Stage>, EngineError> {
        let known = {
            let history = self.stored.history.lock();
            let through = history.through(epoch);
            let through = through.filter(|through| *through >= self.saved_through());
            through.and_then(|through| Some((through, history.at(through, epoch)?)))
        };
        match known {
            Some((through, content)) => self.stage(shared, job, through, &content).map(Some),
            None => self.stage_record(shared, None),
        }
    }

    /// What a checkpoint has to save of a job whose state it does not have.
    fn stage_without_job(&self, shared: &Shared, epoch: u64) -> Result<Option<Stage>, EngineError> {
        let saved = self.state.lock().saved.clone();
        let (through, changes, version) = {
            let history = self.stored.history.lock();
            let through = history.through(epoch);
            let Some(through) = through.filter(|through| *through >= saved.through) else {
                drop(history);
                return self.stage_record(shared, None);
            };
            let version = history
                .at(through, epoch)
                .filter(|_| history.keeps_content());
            (through, history.delta(saved.through, through), version)
        };
        let none_early = self.early_through(through).runs.is_empty();
        let mut same = none_early && changes.is_some_and(|changes| is_nothing(&changes));
        if let (false, Some(before), Some(now)) = (same, &saved.version, &version) {
            // Changes may cancel out, and content be put together anew; that is found out only when somebody waits for it.
            let awaited = || self.staged_through() < self.wanted.load(Ordering::SeqCst);
            same = Arc::ptr_eq(before, now) || (awaited() && is_nothing(&before.diff_to(now)?));
        }
        let reached = same.then_some(through);
        self.stage_record(shared, reached)
    }

    /// No more than what the outside system has committed meanwhile, and that nothing has changed through `reached`.
    fn stage_record(
        &self,
        shared: &Shared,
        reached: Option<u64>,
    ) -> Result<Option<Stage>, EngineError> {
        let (record, write, since) = {
            let state = self.state.lock();
            (state.record.clone(), state.behind, state.saved.through)
        };
        if !write && reached.is_none() {
            return Ok(None);
        }
        let mut save = None;
        if write && record.partial {
            let gone = self.delivered_runs(shared, &record)?;
            save = (!gone.is_empty()).then(|| Save {
                gone,
                ..self.moved(since, since)
            });
        }
        Ok(Some(Stage {
            save,
            saved: None,
            through: reached,
            record,
            write,
        }))
    }

    /// The changes through an epoch, at which the content is the given one, with the record that names them.
    fn stage(
        &self,
        shared: &Shared,
        job: &Job,
        through: u64,
        content: &Arc<Version>,
    ) -> Result<Stage, EngineError> {
        let (saved, mut record, behind, taken_over) = {
            let state = self.state.lock();
            let record = state.record.clone();
            (state.saved.clone(), record, state.behind, state.taken_over)
        };
        let changes = self.changes(&saved, through, content)?;
        let early = self.early_through(through);
        let mut stage = Stage {
            save: None,
            saved: Some(Saved {
                version: Some(Arc::clone(content)),
                ..saved
            }),
            through: Some(through),
            write: behind,
            record: Record::default(),
        };
        if is_nothing(&changes) && early.runs.is_empty() {
            stage.record = record;
            return Ok(stage);
        }
        let bytes: usize = changes
            .iter()
            .map(|d| d.batch.get_array_memory_size())
            .sum();
        let (bytes, rows) = (bytes + early.bytes, early.rows + rows_of(&changes));
        let inserts = early.rows > 0 || changes.iter().any(has_insertions);
        record.order = record.order.max(early.order);
        let changes = self.to_run(&changes, &mut record.order)?;
        let mut runs = early.runs;
        runs.extend(shared.checkpoints.runs.write(&self.shape, &changes)?);
        if !runs.is_empty() && (inserts || self.form == Form::Upsert) {
            let at_ms = shared.at_ms(through);
            let at_ms = at_ms.unwrap_or_else(|| shared.latest_info().at_ms);
            record.stamp_ms = record.stamp_ms.saturating_add(1).max(at_ms);
            let part = PART_BYTES_MAX / (bytes / rows.max(1)).max(1);
            record.entries.push_back(Entry {
                epoch: through,
                before: saved.through,
                stamp_ms: record.stamp_ms,
                part_rows: part.clamp(1, shared.config.sink_part_rows_max) as u32,
                bytes: runs.iter().map(|run| run.info().bytes).sum(),
                runs: runs.iter().map(|run| run.info().number).collect(),
                frontier: frontier(job, through),
            });
        }
        if taken_over {
            record.offer();
        }
        stage.save = Some(Save {
            runs,
            ..self.moved(saved.through, through)
        });
        stage.saved = Some(Saved {
            through,
            version: Some(Arc::clone(content)),
        });
        stage.record = record;
        stage.write = true;
        Ok(stage)
    }

    fn changes(
        &self,
        saved: &Saved,
        through: u64,
        content: &Arc<Version>,
    ) -> Result<Vec<Delta>, EngineError> {
        let (keeps_content, logged) = {
            let history = self.stored.history.lock();
            let logged = history.delta(saved.through, through);
            (history.keeps_content(), logged)
        };
        if !keeps_content {
            return logged
                .ok_or_else(|| EngineError::internal("changes went that were not staged yet"));
        }
        match (&saved.version, logged) {
            (Some(before), _) if Arc::ptr_eq(before, content) => Ok(Vec::new()),
            (_, Some(changes)) => Ok(changes),
            (Some(before), None) => Ok(before.diff_to(content)?),
            (None, None) => Ok(content.content()?),
        }
    }

    /// A save without runs.
    fn moved(&self, since: u64, through: u64) -> Save {
        Save {
            table: self.stored.oid.0.into(),
            since: Some(since),
            through,
            runs: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Runs before the first that waits.
    fn delivered_runs(&self, shared: &Shared, record: &Record) -> Result<Vec<u64>, EngineError> {
        let table = shared.checkpoints.runs.table(self.stored.oid.0)?;
        let first = record.first_run();
        let numbers = table.runs.iter().map(|run| run.number);
        Ok(numbers.take_while(|run| Some(*run) != first).collect())
    }

    /// Takes over what a checkpoint has committed.
    fn staged(&self, shared: &Shared, stage: Stage) {
        let mut state = self.state.lock();
        // What a writer did meanwhile is in the present record and not in the one that was written.
        let (delivered, offered) = (state.record.delivered, state.record.offered);
        let shut_out = state.record.shut_out;
        let first = stage.record.first_run();
        if stage.write {
            state.behind = false;
            state.first_on_disk = first;
            state.offered_on_disk = stage.record.offered;
        }
        state.record = stage.record;
        state.trim(delivered);
        state.behind |= offered > state.record.offered;
        state.record.offered = state.record.offered.max(offered);
        state.behind |= shut_out != state.record.shut_out;
        state.record.shut_out = shut_out;
        if state.taken_over {
            state.offer();
        }
        if let Some(saved) = stage.saved {
            state.saved = saved;
            let through = state.saved.through;
            state.early.take_if(|early| early.epoch <= through);
        }
        if let Some(through) = stage.through {
            state.reached = state.reached.max(through);
        }
        let saved_through = state.saved.through;
        drop(state);
        let mut history = self.stored.history.lock();
        if !history.keeps_content() {
            history.forget_changes(saved_through);
        }
        drop(history);
        if stage.write {
            shared.checkpoints.runs.hold(self.stored.oid.0, first);
        }
    }
}

fn is_nothing(changes: &[Delta]) -> bool {
    changes.iter().all(|delta| delta.num_rows() == 0)
}

fn rows_of(changes: &[Delta]) -> usize {
    changes.iter().map(Delta::num_rows).sum()
}

fn has_insertions(delta: &Delta) -> bool {
    (0..delta.num_rows()).any(|row| delta.weights.at(row) > 0)
}

/// Where the sources end that a job without state reads and nothing else.
fn frontier(job: &Job, epoch: u64) -> BTreeMap<String, Offsets> {
    let place = |input: &Arc<Stored>| {
        let offsets = input.source()?.offsets_at(epoch)?;
        Some((input.name.clone(), offsets))
    };
    let places = job.inputs.iter().map(place).collect::<Option<_>>();
    places.filter(|_| job.linear).unwrap_or_default()
}

/// What all sinks put into one checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    stages: Vec<(Arc<Job>, Arc<SinkLog>, Stage)>,
}

impl Staging {
    /// Takes what is saved together with its job.
    pub(crate) fn add(&mut self, job: &Arc<Job>, stage: Stage) {
        if let Some(log) = job.log.get() {
            self.stages.push((Arc::clone(job), Arc::clone(log), stage));
        }
    }

    /// Writes the runs of the sinks whose jobs cannot be saved, and adds what there is to say of the others that are not in this
    /// checkpoint. One that cannot be staged keeps what it has, and the others go on.
    pub(crate) fn add_rest(&mut self, shared: &Shared, epoch: u64) {
        let jobs: Vec<Arc<Job>> = shared.jobs.read().values().cloned().collect();
        for job in jobs {
            let known = self.stages.iter().any(|(own, ..)| Arc::ptr_eq(own, &job));
            let Some(log) = job.log.get().filter(|_| !known) else {
                continue;
            };
            let stage = match job.stages_alone(shared) {
                true => log.stage_alone(shared, &job, epoch),
                false => log.stage_without_job(shared, epoch),
            };
            match stage {
                Ok(Some(stage)) => self.add(&job, stage),
                Ok(None) => {}
                Err(error) => report(shared, &job.relation, "could not be staged", &error),
            }
        }
    }

    /// What the checkpoint has to name: runs, and the records of the sinks.
    pub(crate) fn saves(&mut self, shared: &Shared) -> (Vec<Save>, Vec<(u32, Vec<u8>)>) {
        let mut saves = Vec::new();
        let mut records = Vec::new();
        for (job, log, stage) in &mut self.stages {
            let oid = job.relation.oid.0;
            saves.extend(stage.save.take());
            if stage.write {
                records.push((oid, stage.record.encode()));
            }
            // As soon as the manifest names a run it might be merged.
            if log.state.lock().first_on_disk.is_none() {
                shared.checkpoints.runs.hold(oid, stage.record.first_run());
            }
        }
        (saves, records)
    }

    /// Has the sinks deliver what the checkpoint has made durable.
    pub(crate) fn committed(self, shared: &Shared) {
        self.finish(shared, |_| true);
    }

    /// There was nothing to make durable.
    pub(crate) fn idle(self, shared: &Shared) {
        self.finish(shared, |stage| !stage.write);
    }

    fn finish(self, shared: &Shared, counts: impl Fn(&Stage) -> bool) {
        let mut any = false;
        for (job, log, stage) in self.stages {
            if counts(&stage) {
                any |= stage.write;
                log.staged(shared, stage);
                let through = log.delivered_through();
                any |= job.delivered.fetch_max(through, Ordering::SeqCst) < through;
            }
        }
        if any {
            shared.bump();
        }
    }
}

/// True when somebody waits for what is not staged yet.
pub(crate) fn is_awaited(shared: &Shared) -> bool {
    let jobs = shared.jobs.read();
    let mut logs = jobs.values().filter_map(|job| job.log.get());
    logs.any(|log| log.staged_through() < log.wanted.load(Ordering::SeqCst))
}
