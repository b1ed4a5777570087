//! What checkpoints keep of a job: its content, what its operators remember, and where its inputs stood.
//!
//! Invariant: everything saved of a job is of one epoch, at which it was taken while nothing else could change it. Changes that
//! were taken for a checkpoint that did not come about go into the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Offsets};
use thalweg_state::{JobRecord, NewRun, RunShape, Save, StatePart, WeightedBatch, hash};

use super::record::Record;
use crate::dataflow::SpilledTables;
use crate::error::EngineError;
use crate::job::Job;
use crate::memory::Counted;
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::sink_log::Stage;
use crate::subscription::HIDDEN_OIDS;
use crate::worker::weighted;

/// Changes when the state of the same plan is kept in another form: state saved under another number is never read.
const STATE_FORMAT: u32 = 1;

/// Rows of state that are read from disk and sorted in memory at once.
const SPILLED_RUN_BYTES: usize = 32 << 20;

/// The saving side of a job.
#[derive(Debug)]
pub(crate) struct Saving {
    /// Of the plan and the form of its state.
    pub(super) fingerprint: u64,
    /// The state tables: the content, then those of the operators.
    pub(super) shapes: Vec<RunShape>,
    /// The epoch at which the job is wanted for a checkpoint.
    wanted: AtomicU64,
    pub(super) state: Mutex<SavingState>,
}

#[derive(Debug, Default)]
pub(super) struct SavingState {
    /// What the newest checkpoint has.
    pub(super) saved: Option<SavedJob>,
    /// What the next one will have.
    pub(super) taken: Option<TakenJob>,
    /// What has changed in the operators' state tables since the newest checkpoint.
    pub(super) unsaved: StateChanges,
    /// Since when the job is behind what the tables' runs hold.
    pub(super) behind_since: Option<Instant>,
    /// It did not come to its group's epoch in time; until then the others are saved without it.
    pub(super) left_out_until: Option<Instant>,
}

/// What a checkpoint writes of one job.
pub(super) struct Written {
    pub(super) saves: Vec<Save>,
    pub(super) record: JobRecord,
    /// Of a sink that delivers exactly once.
    pub(super) stage: Option<Stage>,
}

#[derive(Debug, Clone)]
pub(super) struct SavedJob {
    pub(super) record: Record,
    pub(super) content: Arc<Version>,
}

/// A job at the epoch of a checkpoint.
#[derive(Debug, Clone)]
pub(super) struct TakenJob {
    pub(super) record: Record,
    pub(super) content: Arc<Version>,
}

/// Changes of the operators' state tables, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateChanges {
    /// They are all of the state, not what changed since the newest checkpoint.
    pub(crate) whole: bool,
    pub(crate) tables: Vec<Vec<Delta>>,
    /// More rows of the tables, which are on disk; only when they are all of the state.
    pub(crate) spilled: Vec<SpilledTables>,
}

impl StateChanges {
    fn add(&mut self, later: StateChanges) {
        if later.whole || self.tables.is_empty() {
            *self = StateChanges {
                whole: later.whole || self.whole,
                tables: later.tables,
                spilled: later.spilled,
            };
            return;
        }
        for (table, changes) in self.tables.iter_mut().zip(later.tables) {
            table.extend(changes);
        }
    }
}

impl Saving {
    /// `None` for a job that begins anew at every start.
    pub(crate) fn of(
        job: &Job,
        shared: &Arc<Shared>,
        keeps_content: bool,
    ) -> Result<Option<Self>, EngineError> {
        let hidden_query = job.oid == job.relation.oid && job.oid.0 >= HIDDEN_OIDS;
        if hidden_query || !keeps_content || job.uses_now {
            return Ok(None);
        }
        let mut schemas = vec![job.relation.schema()];
        if let Some(root) = &job.stateful {
            schemas.extend(job.new_flow(shared, root)?.state_tables()?);
        }
        let mut text = format!("{STATE_FORMAT}\n");
        if let Some(logical) = &job.logical {
            text.push_str(&stable_names(&logical.display_indent_schema().to_string()));
        }
        for input in &job.inputs {
            text.push_str(&format!("\nreads {}", input.oid.0));
        }
        let mut shapes = Vec::with_capacity(schemas.len());
        for schema in schemas {
            let types = schema.fields().iter().map(|field| field.data_type());
            text.push_str(&format!("\n{:?}", types.collect::<Vec<_>>()));
            // What holds values that cannot be stored is computed anew.
            let Ok(shape) = RunShape::new(schema, &[]) else {
                return Ok(None);
            };
            shapes.push(shape);
        }
        Ok(Some(Self {
            fingerprint: hash(text.as_bytes()),
            shapes,
            wanted: AtomicU64::new(0),
            state: Mutex::default(),
        }))
    }

    /// Asks the job to come to an epoch, or to go on as it likes.
    pub(super) fn want(&self, epoch: u64) {
        self.wanted.store(epoch, Ordering::SeqCst);
    }
}

/// A plan's text without the numbers that planning gives to names of its own.
fn stable_names(text: &str) -> String {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("__") {
        let (before, name) = rest.split_at(at);
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let (name, after) = name.split_at(name.find(|c| !is_part(c)).unwrap_or(name.len()));
        let next = names.len();
        let number = *names.entry(name).or_insert(next);
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        out.push_str(before);
        match kind.len() < name.len() && kind.ends_with('_') {
            true => out.push_str(&format!("{kind}{number}")),
            false => out.push_str(name),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// What feeds one input of a job.
pub(super) enum Feeder {
    Source(Arc<crate::source::Source>),
    Table,
    Job(Arc<Job>),
}

/// `None` for what has no past: errors relations, and what could not be started.
pub(super) fn feeder(shared: &Shared, job: &Job, input: &Arc<Stored>) -> Option<Feeder> {
    if let Some(source) = input.source() {
        return Some(Feeder::Source(source));
    }
    if input.table.is_some() {
        return Some(Feeder::Table);
    }
    let mut keepers = job.keepers.iter();
    let keeper = keepers.find(|keeper| Arc::ptr_eq(&keeper.relation, input));
    let feeding = keeper.cloned().or_else(|| shared.job(input.oid))?;
    Some(Feeder::Job(feeding))
}

impl Job {
    /// The epoch at which the job is to stop for a checkpoint, when it has not come to it.
    pub(crate) fn wanted_at(&self, done: u64) -> Option<u64> {
        let wanted = self.saving()?.wanted.load(Ordering::SeqCst);
        (wanted > done).then_some(wanted)
    }

    pub(crate) fn saving(&self) -> Option<&Saving> {
        self.saving.as_ref()
    }

    /// True when all that there is to save of it is where its sources stood: they take nothing back, and it remembers nothing.
    pub(crate) fn is_only_a_place(&self) -> bool {
        self.saving.is_some() && self.linear && self.inputs.iter().all(|input| input.is_stream())
    }

    /// True when it, and every view under it, may be saved at all.
    fn can_go_on(&self, shared: &Shared) -> bool {
        let goes_on = |input: &Arc<Stored>| match feeder(shared, self, input) {
            Some(Feeder::Job(feeding)) => feeding.can_go_on(shared),
            Some(Feeder::Source(_) | Feeder::Table) => true,
            None => false,
        };
        self.saving().is_some() && self.inputs.iter().all(goes_on)
    }

    /// True for a sink whose changes are staged without its state: that is never saved, or comes too late for its group.
    pub(crate) fn stages_alone(&self, shared: &Shared) -> bool {
        !self.can_go_on(shared) || self.is_left_out()
    }

    /// True while its group is saved without it.
    fn is_left_out(&self) -> bool {
        self.saving().is_some_and(|saving| {
            let until = saving.state.lock().left_out_until;
            until.is_some_and(|until| Instant::now() < until)
        })
    }

    /// Its content as it was saved, when that is what something saw that was saved at this epoch. What reads it is saved with it,
    /// and at a later epoch only while it stands still.
    pub(super) fn saved_content(&self, epoch: u64) -> Option<Arc<Version>> {
        let state = self.saving()?.state.lock();
        let saved = state.saved.as_ref()?;
        (saved.record.epoch <= epoch).then(|| Arc::clone(&saved.content))
    }

    /// The epoch of its newest checkpoint.
    pub(crate) fn saved_at(&self) -> Option<u64> {
        let state = self.saving()?.state.lock();
        state.saved.as_ref().map(|saved| saved.record.epoch)
    }

    /// False for a job that has never been computed. One that goes on from its checkpoint is not seen at first, and counts: saved
    /// without it, what it reads would be of another epoch than it is.
    fn is_there_or_will_be(&self, shared: &Shared) -> bool {
        let was_saved = |saving: &Saving| saving.state.lock().saved.is_some();
        self.relation.through(shared.latest()).is_some() || self.saving().is_some_and(was_saved)
    }

    /// True when everything that a checkpoint needs of the job is there, or will be.
    pub(crate) fn can_be_saved(&self, shared: &Shared) -> bool {
        self.saving().is_some()
            && !self.is_dropped()
            && !self.has_failed()
            && !self.is_held()
            && !self.is_away()
            && !self.waits_outside()
            && !self.is_left_out()
            && self.is_there_or_will_be(shared)
            && self
                .inputs
                .iter()
                .all(|input| match feeder(shared, self, input) {
                    Some(Feeder::Job(feeding)) => {
                        feeding.is_saved_at_rest() || feeding.can_be_saved(shared)
                    }
                    Some(Feeder::Source(_) | Feeder::Table) => true,
                    None => false,
                })
    }

    /// True when an input has moved on since the job was saved. A job that feeds it may have been saved without it meanwhile.
    pub(crate) fn has_moved(&self, shared: &Shared) -> bool {
        let Some(saving) = self.saving() else {
            return false;
        };
        let state = saving.state.lock();
        let Some(saved) = &state.saved else {
            return true;
        };
        self.inputs.iter().any(|input| match input.source() {
            Some(source) => {
                let now = source.offsets_at(shared.latest());
                now.as_ref() != saved.record.streams.get(&input.oid)
            }
            None => input.history.lock().changed_at() > saved.record.epoch,
        })
    }

    /// Takes what a checkpoint needs, when the job stands at the epoch it is wanted at. The caller sees to it that nobody else
    /// steps the job meanwhile.
    pub(crate) fn take(&self, shared: &Shared) -> bool {
        let Some(saving) = self.saving() else {
            return false;
        };
        let mut state = saving.state.lock();
        // Under the lock: what was wanted before it was saved must not be taken once more after that.
        let epoch = saving.wanted.load(Ordering::SeqCst);
        if let Some(taken) = &state.taken {
            return taken.record.epoch == epoch;
        }
        if epoch == 0 || self.is_dropped() {
            return false;
        }
        let Some(content) = self.relation.at(epoch, shared.latest()) else {
            return false;
        };
        // What is seen at the epoch is not of it then.
        if self.is_away() {
            return false;
        }
        let Some(record) = self.record_at(shared, epoch, saving.fingerprint) else {
            return false;
        };
        if self.stateful.is_some() {
            let mut standing = self.dataflow.lock();
            let Some(standing) = standing.as_mut().filter(|held| held.epoch == epoch) else {
                return false;
            };
            match standing.dataflow.take_changes() {
                Ok(changes) => state.unsaved.add(changes),
                Err(error) => {
                    super::report(shared, &self.relation, "could not be saved", &error);
                    return false;
                }
            }
        }
        state.taken = Some(TakenJob { record, content });
        true
    }

    fn record_at(&self, shared: &Shared, epoch: u64, fingerprint: u64) -> Option<Record> {
        let mut record = Record {
            fingerprint,
            epoch,
            streams: BTreeMap::new(),
            tables: Vec::new(),
            jobs: Vec::new(),
        };
        for input in &self.inputs {
            match feeder(shared, self, input)? {
                Feeder::Source(source) => {
                    let offsets: Offsets = source.offsets_at(epoch)?;
                    record.streams.insert(input.oid, offsets);
                }
                Feeder::Table => record.tables.push(input.oid),
                Feeder::Job(_) => record.jobs.push(input.oid),
            }
        }
        Some(record)
    }

    /// Counts what waits for its next checkpoint, and the content that it will be compared with.
    pub(crate) fn count_saved(&self, counted: &mut Counted) {
        let Some(saving) = self.saving() else { return };
        // Whoever takes what is to be saved holds it, perhaps for a while.
        let Some(state) = saving.state.try_lock() else {
            return;
        };
        if let Some(saved) = &state.saved {
            saved.content.count(counted);
        }
        if let Some(taken) = &state.taken {
            taken.content.count(counted);
        }
        let unsaved = state.unsaved.tables.iter().flatten();
        unsaved.for_each(|delta| counted.delta(delta));
    }

    /// True when it was taken at this epoch.
    pub(super) fn is_taken_at(&self, epoch: u64) -> bool {
        let taken = |saving: &Saving| {
            let state = saving.state.lock();
            let taken = state.taken.as_ref();
            taken.is_some_and(|taken| taken.record.epoch == epoch)
        };
        self.saving().is_some_and(taken)
    }

    /// Writes what was taken. Whoever steps the job looks at the same state after each step, so it is not held meanwhile: what was
    /// taken, and what has changed, stay as they are until it is saved or given up.
    pub(super) fn write(&self, shared: &Shared) -> Result<Written, EngineError> {
        let unready = || EngineError::internal("a job is saved before it was taken");
        let saving = self.saving().ok_or_else(unready)?;
        let (taken, saved, unsaved) = {
            let state = saving.state.lock();
            let taken = state.taken.clone().ok_or_else(unready)?;
            (taken, state.saved.clone(), state.unsaved.clone())
        };
        let (object, epoch) = (self.relation.oid.0, taken.record.epoch);
        let since = saved.as_ref().map(|saved| saved.record.epoch);
        let log = self.log.get();
        let stage = log
            .map(|log| log.stage_with_job(shared, self, epoch, &taken.content))
            .transpose()?;
        let content = match log {
            Some(_) => Vec::new(),
            None => self.content_changes(saved.as_ref(), &taken, epoch)?,
        };
        let whole = unsaved.whole || since.is_none();
        let mut saves = Vec::with_capacity(saving.shapes.len());
        let mut tables = unsaved.tables.iter();
        for (part, shape) in (0_u32..).zip(&saving.shapes) {
            let (since, changes): (_, &[Delta]) = match part {
                // What is staged is the content.
                0 if log.is_some() => continue,
                0 => (since, &content),
                _ => {
                    let changes = tables.next().map(Vec::as_slice).unwrap_or_default();
                    (since.filter(|_| !whole), changes)
                }
            };
            let changes: Vec<WeightedBatch> = changes.iter().map(weighted).collect();
            let mut runs = shared.checkpoints.runs.write(shape, &changes)?;
            if let Some(table) = (part as usize).checked_sub(1) {
                for spilled in &unsaved.spilled {
                    write_spilled(shared, shape, spilled, table, &mut runs)?;
                }
            }
            saves.push(Save {
                table: StatePart { object, part },
                since,
                through: epoch,
                runs,
                gone: Vec::new(),
            });
        }
        let record = JobRecord {
            object,
            record: Some(taken.record.encode()),
            parts: saving.shapes.len() as u32,
        };
        Ok(Written {
            saves,
            record,
            stage,
        })
    }

    fn content_changes(
        &self,
        saved: Option<&SavedJob>,
        taken: &TakenJob,
        epoch: u64,
    ) -> Result<Vec<Delta>, EngineError> {
        let Some(saved) = saved else {
            return Ok(taken.content.content()?);
        };
        if Arc::ptr_eq(&saved.content, &taken.content) {
            return Ok(Vec::new());
        }
        let since = saved.record.epoch;
        let logged = {
            let history = self.relation.history.lock();
            let reaches = since >= history.changes_after();
            reaches.then(|| history.delta(since, epoch)).flatten()
        };
        match logged {
            Some(changes) => Ok(changes),
            None => Ok(saved.content.diff_to(&taken.content)?),
        }
    }

    /// Epochs from which on it needs the logs of the tables that it reads: that of its newest checkpoint, for a limited time, and
    /// that of the next. `saved_now` when the next one is about to be committed.
    pub(super) fn needs_logs_from(
        &self,
        saved_now: bool,
        limit: std::time::Duration,
    ) -> impl Iterator<Item = u64> {
        let epochs = self.saving().map(|saving| {
            let state = saving.state.lock();
            let wanted = saving.wanted.load(Ordering::SeqCst);
            let behind = state.behind_since.map(|since| since.elapsed());
            let saved = state.saved.as_ref().map(|saved| saved.record.epoch);
            let saved = saved.filter(|_| !saved_now && behind.is_none_or(|time| time < limit));
            [saved, (wanted > 0).then_some(wanted)]
        });
        epochs.into_iter().flatten().flatten()
    }

    /// What was taken is in the manifest now.
    pub(super) fn was_saved(&self, shared: &Shared) {
        let Some(saving) = self.saving() else { return };
        let mut state = saving.state.lock();
        saving.want(0);
        let Some(TakenJob { record, content }) = state.taken.take() else {
            return;
        };
        let epoch = record.epoch;
        state.saved = Some(SavedJob { record, content });
        state.unsaved = StateChanges::default();
        state.behind_since = None;
        drop(state);
        self.rest_where_saved(shared, epoch);
    }

    /// What was taken is not saved; its changes stay for the next checkpoint.
    pub(super) fn was_not_saved(&self) {
        let Some(saving) = self.saving() else { return };
        saving.want(0);
        saving.state.lock().taken = None;
    }
}

/// Writes the rows of a state table that are on disk, as many at once as memory has room for.
fn write_spilled(
    shared: &Shared,
    shape: &RunShape,
    spilled: &SpilledTables,
    table: usize,
    runs: &mut Vec<NewRun>,
) -> Result<(), EngineError> {
    let (mut waiting, mut bytes) = (Vec::new(), 0);
    let mut write = |waiting: &mut Vec<WeightedBatch>| -> Result<(), EngineError> {
        runs.extend(shared.checkpoints.runs.write(shape, waiting)?);
        waiting.clear();
        Ok(())
    };
    spilled.each(table, &mut |delta| {
        bytes += delta.batch.get_array_memory_size();
        waiting.push(weighted(&delta));
        if bytes >= SPILLED_RUN_BYTES {
            bytes = 0;
            write(&mut waiting)?;
        }
        Ok(())
    })?;
    write(&mut waiting)
}

/// The relation's OID of a job, under which it is saved.
pub(super) fn object(job: &Job) -> Oid {
    job.relation.oid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_planning_numbers_do_not_tell_plans_apart() {
        let early = "Join: a.k = __sub_3.k\n  __sub_3 __mark_4 a__b x";
        let late = "Join: a.k = __sub_17.k\n  __sub_17 __mark_18 a__b x";
        assert_eq!(stable_names(early), stable_names(late));
        let other = "Join: a.k = __sub_3.k\n  __sub_4 __mark_4 a__b x";
        assert_ne!(stable_names(early), stable_names(other));
        assert_eq!(stable_names("plain"), "plain");
    }
}
