//! The log of a sink that delivers exactly once: what each checkpoint found changed, until the outside system has committed it.
//!
//! Invariant: the runs of a sink's log add up to the content of its query at the epoch through which they go, and one transaction
//! names runs and record. So what a start computes differs from them by exactly what has not been staged yet. Nothing is staged
//! before this server's writer has taken over: what a marker outside is compared with was all staged by an earlier one.

mod parts;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parking_lot::Mutex;
use thalweg_catalog::{Relation, SinkSpec};
use thalweg_connectors::{Delta, Form, Marker, Staged};
use thalweg_state::{RunShape, Save, StateError, WeightedBatch};

use crate::checkpoint::{Saved, from_log, report};
use crate::error::EngineError;
use crate::job::Job;
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::worker::weighted;

use parts::Parts;
pub(crate) use record::{Entry, Record};

/// Most bytes of one part, about.
const PART_BYTES_MAX: usize = 64 << 20;
/// Default of `sink_log.max_bytes`.
const LOG_BYTES_MAX: u64 = 10_000_000_000;
/// In the runs of a sink that appends rows: where a row stands among them.
const ORDER: &str = "_order";

/// The log of one sink.
#[derive(Debug)]
pub(crate) struct SinkLog {
    stored: Arc<Stored>,
    form: Form,
    /// Columns of the sink's key.
    key: Vec<usize>,
    shape: RunShape,
    bytes_max: u64,
    state: Mutex<State>,
    /// Somebody waits for what epochs through this one changed.
    wanted: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    saved: Saved,
    record: Record,
    /// The record on disk is an older one.
    behind: bool,
    /// The first run that the record on disk says is waiting.
    first_on_disk: Option<u64>,
    /// The writer of this server has taken over, so that staging may begin.
    taken_over: bool,
    /// The owner accepts that what was delivered before comes again.
    accepted: bool,
    /// Nothing changed since the newest entry through this epoch.
    reached: u64,
}

/// What to do about the marker that an outside system holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What is staged behind this marker is missing there.
    After(Option<Marker>),
    /// It holds what this data dir does not know of.
    Ahead(Marker),
    /// It does not hold what was committed to it.
    Behind(Option<Marker>),
}

/// Compares the newest marker outside with the record.
pub(crate) fn judge(outside: Option<Marker>, record: &Record, accepted: bool) -> Verdict {
    let staged = |marker: Marker| {
        record
            .entries
            .iter()
            .any(|entry| entry.epoch == marker.epoch)
    };
    match outside {
        known if known == record.delivered => Verdict::After(known),
        Some(marker) if staged(marker) && Some(marker) > record.delivered => {
            Verdict::After(outside)
        }
        _ if accepted => Verdict::After(record.delivered),
        Some(marker) if outside > record.delivered => Verdict::Ahead(marker),
        older => Verdict::Behind(older),
    }
}

impl SinkLog {
    /// Reads what an earlier run of the server has left, and has `stored` begin with the content that was staged.
    pub(crate) fn open(
        shared: &Shared,
        relation: &Relation,
        spec: &SinkSpec,
        form: Form,
        stored: &Arc<Stored>,
    ) -> Result<Arc<Self>, EngineError> {
        let key = match (form, &spec.format) {
            (Form::Upsert, Some(format)) => format.key.clone(),
            _ => Vec::new(),
        };
        let log = Self {
            stored: Arc::clone(stored),
            form,
            shape: shape(form, &stored.schema(), &key)?,
            key,
            bytes_max: spec
                .option("sink_log.max_bytes")
                .and_then(thalweg_catalog::option::parse_bytes)
                .unwrap_or(LOG_BYTES_MAX),
            state: Mutex::default(),
            wanted: AtomicU64::new(0),
        };
        let oid = relation.oid.0;
        let mut record = Record::default();
        shared.store.read_sink(oid, |_, bytes| {
            record = Record::decode(bytes)?;
            Ok(())
        })?;
        let runs = &shared.checkpoints.runs;
        let through = runs.table(oid)?.through;
        if through > 0 {
            let mut version = Version::empty(Arc::clone(&stored.codec));
            runs.read_table(oid, &log.shape, |rows| {
                version = version.with(&[log.of_run(&rows)?])?;
                Ok::<_, EngineError>(())
            })?;
            let version = Arc::new(version);
            let mut history = stored.history.lock();
            history.start(through, Arc::clone(&version), false);
            log.state.lock().saved = Saved {
                through,
                version: Some(version),
            };
        }
        let first = record.first_run();
        runs.hold(oid, first);
        let mut state = log.state.lock();
        state.first_on_disk = first;
        state.reached = through;
        state.record = record;
        drop(state);
        Ok(Arc::new(log))
    }

    /// How its runs are laid out.
    pub(crate) fn shape(&self) -> RunShape {
        self.shape.clone()
    }

    /// True when so much waits that the sink's job has to.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() >= self.bytes_max
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> u64 {
        self.state
            .lock()
            .record
            .entries
            .iter()
            .map(|e| e.bytes)
            .sum()
    }

    /// The epoch through which everything is staged, or would be if it had changed anything.
    pub(crate) fn staged_through(&self) -> u64 {
        self.state.lock().reached
    }

    /// Asks for everything through `epoch` to be delivered as soon as can be.
    pub(crate) fn want(&self, epoch: u64) {
        self.wanted.fetch_max(epoch, Ordering::SeqCst);
    }

    /// Whether somebody waits for more than has been delivered.
    pub(crate) fn is_wanted(&self) -> bool {
        self.delivered_through() < self.wanted.load(Ordering::SeqCst)
    }

    /// Has the marker that a new writer found decide what is to be sent.
    pub(crate) fn take_over(&self, outside: Option<Marker>) -> Verdict {
        let mut state = self.state.lock();
        let verdict = judge(outside, &state.record, state.accepted);
        if let Verdict::After(marker) = verdict {
            state.taken_over = true;
            state.accepted = false;
            state.trim(marker);
        }
        verdict
    }

    /// Accepts that what was delivered before comes again.
    pub(crate) fn accept(&self) {
        self.state.lock().accepted = true;
    }

    pub(crate) fn is_accepted(&self) -> bool {
        self.state.lock().accepted
    }

    /// Notes what the outside system has committed.
    pub(crate) fn committed(&self, marker: Option<Marker>) {
        self.state.lock().trim(marker);
    }

    /// Everything through this epoch is outside.
    pub(crate) fn delivered_through(&self) -> u64 {
        let state = self.state.lock();
        match state.record.entries.front() {
            Some(entry) => entry.before,
            None => state.reached,
        }
    }

    /// The oldest entry that was not handed over yet, and the first of its parts that was not.
    pub(crate) fn next(&self, handed: Option<Marker>) -> Option<(Entry, u32)> {
        let state = self.state.lock();
        let handed = handed.max(state.record.delivered);
        let mut entries = state.record.entries.iter();
        match handed {
            None => entries.next().map(|entry| (entry.clone(), 0)),
            Some(marker) => entries.find_map(|entry| {
                if entry.epoch > marker.epoch {
                    Some((entry.clone(), 0))
                } else if entry.epoch == marker.epoch && !marker.last {
                    Some((entry.clone(), marker.part.saturating_add(1)))
                } else {
                    None
                }
            }),
        }
    }

    /// Reads an entry part by part, beginning with part `from`. Blocks; stops when `take` says no.
    pub(crate) fn read(
        &self,
        shared: &Shared,
        entry: &Entry,
        from: u32,
        take: &mut dyn FnMut(Staged) -> bool,
    ) -> Result<(), EngineError> {
        let runs = &shared.checkpoints.runs;
        let mut wanted = true;
        let mut parts = Parts::new(entry, from, &self.key, |staged| {
            wanted = wanted && take(staged);
            wanted
        });
        let read = runs.read_runs(self.stored.oid.0, &entry.runs, &self.shape, |rows| {
            let delta = self.of_run(&rows)?;
            let delta = match self.form {
                Form::Upsert => delta,
                Form::Append => parts::insertions(delta)?,
            };
            match parts.push(delta)? {
                true => Ok(()),
                false => Err(EngineError::Stopping),
            }
        });
        match read {
            Ok(()) => parts.finish(),
            Err(EngineError::Stopping) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What a checkpoint of `epoch` has to save.
    fn stage(&self, shared: &Shared, job: &Job, epoch: u64) -> Result<Option<Stage>, EngineError> {
        let stored = &self.stored;
        let (saved, mut record, behind) = {
            let state = self.state.lock();
            if !state.taken_over {
                return Ok(None);
            }
            (state.saved.clone(), state.record.clone(), state.behind)
        };
        let found = {
            let history = stored.history.lock();
            let through = history.through(epoch).filter(|e| *e >= saved.through);
            let version = through.and_then(|through| history.at(through, epoch));
            let logged = through.and_then(|through| history.delta(saved.through, through));
            through
                .zip(version)
                .map(|(e, version)| (e, version, logged))
        };
        let Some((through, version, logged)) = found else {
            return Ok(behind.then(|| Stage::record(record)));
        };
        let same = |saved: &Arc<Version>| Arc::ptr_eq(saved, &version);
        if saved.version.as_ref().is_some_and(same) {
            return Ok(Some(Stage::reached(through, record, behind)));
        }
        let changes = match (logged, &saved.version) {
            (Some(changes), _) => changes,
            (None, Some(saved)) => saved.diff_to(&version)?,
            (None, None) => version.content()?,
        };
        let bytes: usize = changes
            .iter()
            .map(|d| d.batch.get_array_memory_size())
            .sum();
        let rows: usize = changes.iter().map(Delta::num_rows).sum();
        let inserts = changes.iter().any(has_insertions);
        let mut order = record.order;
        let changes = self.to_run(&changes, &mut order)?;
        let runs = shared.checkpoints.runs.write(&self.shape, &changes)?;
        if runs.is_empty() {
            let saved = Saved {
                version: Some(version),
                ..saved
            };
            return Ok(Some(Stage {
                saved: Some(saved),
                ..Stage::reached(through, record, behind)
            }));
        }
        record.order = order;
        if inserts || self.form == Form::Upsert {
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
        Ok(Some(Stage {
            save: Some(Save {
                table: stored.oid.0.into(),
                since: Some(saved.through),
                through,
                runs,
            }),
            saved: Some(Saved {
                through,
                version: Some(version),
            }),
            through: Some(through),
            record,
            write: true,
        }))
    }

    /// Takes over what a checkpoint has committed.
    fn staged(&self, shared: &Shared, stage: Stage) {
        let mut state = self.state.lock();
        // What was delivered meanwhile is in the present record and not in the one that was written.
        let delivered = state.record.delivered;
        let first = stage.record.first_run();
        if stage.write {
            state.behind = delivered != stage.record.delivered;
            state.first_on_disk = first;
        }
        state.record = stage.record;
        state.record.trim(delivered);
        if let Some(saved) = stage.saved {
            state.saved = saved;
        }
        if let Some(through) = stage.through {
            state.reached = state.reached.max(through);
        }
        drop(state);
        if stage.write {
            shared.checkpoints.runs.hold(self.stored.oid.0, first);
        }
    }

    /// Rows as the runs hold them.
    fn to_run(
        &self,
        changes: &[Delta],
        order: &mut i64,
    ) -> Result<Vec<WeightedBatch>, EngineError> {
        if self.form == Form::Upsert {
            return Ok(changes.iter().map(weighted).collect());
        }
        changes
            .iter()
            .map(|delta| {
                let end = order.saturating_add(delta.num_rows() as i64);
                let places: ArrayRef = Arc::new(Int64Array::from_iter_values(*order..end));
                *order = end;
                let columns = std::iter::once(places).chain(delta.batch.columns().iter().cloned());
                let batch = RecordBatch::try_new(self.shape.schema(), columns.collect())?;
                Ok(weighted(&Delta {
                    batch,
                    weights: delta.weights.clone(),
                }))
            })
            .collect()
    }

    /// Rows of a run as they were staged.
    fn of_run(&self, rows: &WeightedBatch) -> Result<Delta, EngineError> {
        let rows = match self.form {
            Form::Upsert => rows.clone(),
            Form::Append => {
                let columns = rows.batch.columns().iter().skip(1).cloned().collect();
                let options = RecordBatchOptions::new().with_row_count(Some(rows.batch.num_rows()));
                let schema = self.stored.schema();
                WeightedBatch {
                    batch: RecordBatch::try_new_with_options(schema, columns, &options)?,
                    weights: rows.weights.clone(),
                }
            }
        };
        let name = format!("a run of {}", self.stored.label());
        from_log(&rows, &self.stored.schema(), &name)
    }
}

impl State {
    fn trim(&mut self, marker: Option<Marker>) {
        self.behind |= self.record.trim(marker);
    }
}

fn shape(form: Form, schema: &SchemaRef, key: &[usize]) -> Result<RunShape, StateError> {
    match form {
        Form::Upsert => RunShape::new(Arc::clone(schema), key),
        Form::Append => {
            let order = Arc::new(Field::new(ORDER, DataType::Int64, false));
            let fields: Vec<_> = std::iter::once(order)
                .chain(schema.fields().iter().cloned())
                .collect();
            RunShape::in_order(Arc::new(Schema::new(fields)), &[0])
        }
    }
}

fn has_insertions(delta: &Delta) -> bool {
    (0..delta.num_rows()).any(|row| delta.weights.at(row) > 0)
}

/// Where the sources end that a job without state reads and nothing else.
fn frontier(job: &Job, epoch: u64) -> BTreeMap<String, thalweg_connectors::Offsets> {
    let place = |input: &Arc<Stored>| {
        let offsets = input.source()?.offsets_at(epoch)?;
        Some((input.name.clone(), offsets))
    };
    let places = job.inputs.iter().map(place).collect::<Option<_>>();
    places.filter(|_| job.linear).unwrap_or_default()
}

/// What one sink puts into a checkpoint.
#[derive(Debug)]
struct Stage {
    save: Option<Save>,
    saved: Option<Saved>,
    through: Option<u64>,
    record: Record,
    /// The record has to be written.
    write: bool,
}

impl Stage {
    fn record(record: Record) -> Self {
        Self {
            save: None,
            saved: None,
            through: None,
            record,
            write: true,
        }
    }

    fn reached(through: u64, record: Record, write: bool) -> Self {
        Self {
            through: Some(through),
            write,
            ..Self::record(record)
        }
    }
}

/// What all sinks put into one checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    stages: Vec<(Arc<Job>, Arc<SinkLog>, Stage)>,
}

impl Staging {
    /// Writes the runs of all sinks that have a log. One that cannot be staged keeps what it has, and the others go on.
    pub(crate) fn of(shared: &Shared, epoch: u64) -> Self {
        let mut staging = Self::default();
        let jobs: Vec<Arc<Job>> = shared.jobs.read().values().cloned().collect();
        for job in jobs {
            let Some(log) = job.log.get().cloned() else {
                continue;
            };
            match log.stage(shared, &job, epoch) {
                Ok(stage) => staging.stages.extend(stage.map(|stage| (job, log, stage))),
                Err(error) => report(shared, &job.relation, "could not be staged", &error),
            }
        }
        staging
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

#[cfg(test)]
mod tests;
