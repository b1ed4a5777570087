//! The log of a sink that delivers exactly once: what each checkpoint found changed, until the outside system has committed it.
//!
//! Invariant: the runs of a sink's log add up to the changes of its query through one epoch, which is the epoch its job is saved at
//! when the job can go on from a checkpoint; one transaction names runs, record and the job's place. So what the job gives after a
//! start is exactly what has not been staged yet. A writer is given only what a record on disk says it may have been given: so a
//! marker outside is never taken for that of an entry which nobody can have delivered.

mod early;
mod parts;
mod record;
mod staging;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parking_lot::Mutex;
use thalweg_catalog::{Relation, Report, SinkSpec};
use thalweg_connectors::{Delta, Form, Marker, Staged};
use thalweg_state::{RunShape, StateError, WeightedBatch};

use crate::checkpoint::{Saved, from_log};
use crate::error::EngineError;
use crate::job::Job;
use crate::memory::Counted;
use crate::relation::Version;
use crate::segments::History;
use crate::shared::{Shared, Stored};
use crate::worker::weighted;

pub(crate) use early::EarlyRuns;
use parts::Parts;
pub(crate) use parts::insertions;
pub(crate) use record::{Entry, Record};
pub(crate) use staging::{Stage, Staging, is_awaited};

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
    /// Runs stay when they are delivered, so that together they are the content of the query.
    keeps: bool,
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
    /// Entries through this epoch may be given to a writer: the record on disk says so.
    offered_on_disk: u64,
    /// The writer of this server has taken over.
    taken_over: bool,
    /// The owner accepts that what was delivered before comes again.
    accepted: bool,
    /// Nothing changed since the newest entry through this epoch.
    reached: u64,
    /// On disk and not staged yet.
    early: Option<EarlyRuns>,
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
            .any(|entry| entry.epoch == marker.epoch && entry.epoch <= record.offered)
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
    /// Reads what an earlier run of the server has left, and has the job begin with what was staged.
    pub(crate) fn open(
        shared: &Shared,
        relation: &Relation,
        spec: &SinkSpec,
        form: Form,
        job: &Job,
    ) -> Result<Arc<Self>, EngineError> {
        let stored = &job.relation;
        let key = match (form, &spec.format, spec.into) {
            (Form::Upsert, Some(format), _) => format.key.clone(),
            (Form::Upsert, None, Some(table)) => {
                let tables = shared.external.read();
                let table = tables.get(&table).ok_or(EngineError::Unknown(table))?;
                table.key.clone()
            }
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
            keeps: !job.is_only_a_place(),
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
        let first = record.first_run();
        runs.hold(oid, first);
        {
            let mut state = log.state.lock();
            state.first_on_disk = first;
            state.offered_on_disk = record.offered;
            state.reached = through;
            state.record = record;
            state.saved.through = through;
        }
        if job.is_incremental() {
            // Changes are all that it gives and all that is asked of it.
            let mut history = History::of_changes(Arc::clone(&stored.codec));
            let nothing = history.newest();
            history.resume(through, nothing);
            *stored.history.lock() = history;
        } else if through > 0 {
            let version = Arc::new(log.content(shared)?);
            let mut history = stored.history.lock();
            history.resume(through, Arc::clone(&version));
            log.state.lock().saved.version = Some(version);
        }
        Ok(Arc::new(log))
    }

    /// What the runs add up to.
    fn content(&self, shared: &Shared) -> Result<Version, EngineError> {
        let mut version = Version::empty(Arc::clone(&self.stored.codec));
        let runs = &shared.checkpoints.runs;
        runs.read_table(self.stored.oid.0, &self.shape, |rows| {
            version = version.with(&[self.of_run(&rows)?])?;
            Ok::<_, EngineError>(())
        })?;
        Ok(version)
    }

    /// What was published, for a job that has to compute its whole content anew: staged or not. Waits for a checkpoint that is
    /// being made.
    pub(crate) fn published(&self, shared: &Shared) -> Result<Version, EngineError> {
        let _turn = shared.checkpoints.turn();
        self.require_content()?;
        if self.state.lock().early.is_some() {
            return Err(EngineError::internal(
                "a sink begins again before its beginning is staged",
            ));
        }
        let content = self.content(shared)?;
        let since = self.saved_through();
        let unsaved = self.stored.history.lock().delta(since, u64::MAX);
        let unsaved = unsaved
            .ok_or_else(|| EngineError::internal("changes went that were not staged yet"))?;
        Ok(content.with(&unsaved)?)
    }

    /// Refuses to have the query computed anew when what was delivered is not known any more.
    pub(crate) fn require_content(&self) -> Result<(), EngineError> {
        if !self.state.lock().record.partial {
            return Ok(());
        }
        Err(Report {
            detail: Some(
                "What it has delivered is not kept, and where it stood in its sources is lost."
                    .into(),
            ),
            hint: Some("Drop it and create it again; its target then gets all rows anew.".into()),
            ..Report::new(
                "55000",
                format!("{} cannot go on where it was", self.stored.label()),
            )
        }
        .into())
    }

    /// The epoch through which the runs go.
    pub(crate) fn saved_through(&self) -> u64 {
        self.state.lock().saved.through
    }

    /// False when runs are only there until they are delivered, so that nothing needs to merge them.
    pub(crate) fn keeps(&self) -> bool {
        self.keeps
    }

    /// How its runs are laid out.
    pub(crate) fn shape(&self) -> RunShape {
        self.shape.clone()
    }

    /// True when so much waits that the sink's job has to.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() >= self.bytes_max
    }

    /// Counts the content that was staged last.
    pub(crate) fn count(&self, counted: &mut Counted) {
        if let Some(version) = &self.state.lock().saved.version {
            version.count(counted);
        }
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
            state.behind |= state.record.shut_out;
            state.record.shut_out = false;
            state.trim(marker);
            state.offer();
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

    /// Another server writes as this sink: until the owner says so, also after a restart, no writer of ours takes over.
    pub(crate) fn shut_out(&self) {
        let mut state = self.state.lock();
        state.behind |= !state.record.shut_out;
        state.record.shut_out = true;
        state.taken_over = false;
        // What was accepted before is not what is asked now.
        state.accepted = false;
    }

    pub(crate) fn is_shut_out(&self) -> bool {
        self.state.lock().record.shut_out
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
        let offered = |entry: &&Entry| entry.epoch <= state.offered_on_disk;
        let mut entries = state.record.entries.iter().take_while(offered);
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

    /// The epoch through which a writer may be given what waits, once a checkpoint has said so.
    pub(crate) fn needs_record(&self) -> Option<u64> {
        let state = self.state.lock();
        let waits = state.taken_over && state.record.offered > state.offered_on_disk;
        waits.then_some(state.record.offered)
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
                Form::Append => insertions(delta)?,
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

    fn offer(&mut self) {
        self.behind |= self.record.offer();
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

#[cfg(test)]
mod tests;
