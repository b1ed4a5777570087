//! Begins a job where its newest checkpoint left it, at a start or when it has lost its state.
//!
//! Invariant: a job goes on from saved state only when that state is of the same plan, kept in the same form, and everything the
//! job reads can be given as it was at that epoch. Otherwise it is computed from its inputs as they are now, and says so, as long as
//! they have all that it had been computed from; a sink whose deliveries are not kept cannot be, and is refused.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;

use parking_lot::MutexGuard;
use thalweg_state::{StateError, StatePart};

use super::jobs::{Feeder, SavedJob, Saving, StateChanges, feeder, object};
use super::record::Record;
use super::tables::{content_at, content_of_runs, from_log};
use crate::backfill::Places;
use crate::dataflow::Dataflow;
use crate::error::EngineError;
use crate::job::Job;
use crate::relation::Version;
use crate::run::Standing;
use crate::shared::Shared;
use crate::status::ErrorRecord;

/// Gives a job that is not in place yet the state that was saved of it, and that of what keeps its sources' rows.
pub(crate) fn resume(shared: &Arc<Shared>, job: &Job) -> Result<(), EngineError> {
    for keeper in &job.keepers {
        resume_one(shared, keeper);
    }
    let goes_on = resume_one(shared, job);
    match job.log.get().filter(|_| !goes_on) {
        Some(log) => log.require_content(),
        None => Ok(()),
    }
}

/// Tells whether it goes on.
fn resume_one(shared: &Arc<Shared>, job: &Job) -> bool {
    // What was created just now, or has gone on already, has nothing here, and does not wait for a checkpoint that is being made.
    if !shared.checkpoints.is_unclaimed(object(job)) {
        return false;
    }
    // Held until the job has gone on: once it is claimed nothing else keeps what it reads from being saved at a later epoch.
    let turn = shared.checkpoints.turn.lock();
    let Some(claimed) = shared.checkpoints.claim(object(job)) else {
        return false;
    };
    let record = claimed
        .as_ref()
        .ok()
        .and_then(|bytes| Record::decode(bytes));
    let resumed = claimed
        .map_err(EngineError::from)
        .and_then(|bytes| try_resume(shared, job, &bytes, &turn));
    drop(turn);
    let reason = match resumed {
        Ok(Ok(())) => return true,
        Ok(Err(reason)) => reason,
        Err(error) => error.to_string(),
    };
    // A sink has rules of its own for what it has delivered.
    if let Some(record) = record.filter(|_| job.log.get().is_none()) {
        *job.had.lock() = record.streams;
    }
    let message = format!(
        "{} is computed from its inputs as they are now: {reason}",
        job.relation.label()
    );
    tracing::warn!("{message}");
    let at_us = shared.clock.now_us();
    shared.record_error(ErrorRecord::of(
        &job.relation,
        "01000",
        message,
        at_us,
        None,
    ));
    false
}

/// The inner error says why the saved state does not fit.
fn try_resume(
    shared: &Arc<Shared>,
    job: &Job,
    bytes: &[u8],
    turn: &MutexGuard<'_, ()>,
) -> Result<Result<(), String>, EngineError> {
    let Some(saving) = job.saving() else {
        return Ok(Err("it is kept in another way than before".into()));
    };
    let Some(record) = Record::decode(bytes) else {
        return Ok(Err("the record of its state is corrupt".into()));
    };
    // Where a sink stands in its sources is the same whatever it makes of their rows.
    let is_place = job.log.get().is_some() && job.is_only_a_place();
    if record.fingerprint != saving.fingerprint && !is_place {
        return Ok(Err(
            "its plan is another than the one it was saved for".into()
        ));
    }
    let epoch = record.epoch;
    // Each takes seconds when there are millions of rows.
    let (content, loaded) = std::thread::scope(|scope| {
        let content = std::thread::Builder::new()
            .name("thalweg-content".into())
            .spawn_scoped(scope, || content_of(shared, job, saving))
            .map_err(EngineError::internal)?;
        let loaded = load(shared, job, saving, &record, turn);
        // A panic ends this attempt as it would here.
        let content = content.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok::<_, EngineError>((content?, loaded?))
    })?;
    let (places, flow) = match loaded {
        Ok(found) => (Some((epoch, found.places)), found.flow),
        // What it holds is shown until it goes on; then it is computed anew.
        Err(_) if job.is_still() && job.log.get().is_none() => (None, None),
        Err(reason) => return Ok(Err(reason)),
    };
    if job.log.get().is_none() {
        let mut history = job.relation.history.lock();
        history.resume(epoch, Arc::clone(&content));
    }
    job.was_found_at(epoch);
    *job.stands.lock() = places;
    *job.dataflow.lock() = flow.map(|dataflow| Standing { dataflow, epoch });
    saving.state.lock().saved = Some(SavedJob { record, content });
    tracing::info!(job = %job.relation.name, epoch, "goes on from its checkpoint");
    Ok(Ok(()))
}

/// The rows of a job as they were saved.
fn content_of(shared: &Shared, job: &Job, saving: &Saving) -> Result<Arc<Version>, EngineError> {
    match job.log.get() {
        // What is staged is in place.
        Some(_) => Ok(job.relation.history.lock().newest()),
        None => content_saved(shared, job, saving),
    }
}

/// Where the inputs of a job stood, and what its operators remembered.
struct Found {
    places: Places,
    flow: Option<Dataflow>,
}

/// A job as its newest checkpoint has it.
pub(crate) struct Back {
    pub(crate) epoch: u64,
    pub(crate) places: Places,
    pub(crate) content: Arc<Version>,
    pub(crate) flow: Option<Dataflow>,
}

/// What a job that has lost its state, or its place, can go on from; `None` when that is not all there any more. Waits for a
/// checkpoint that is being made.
pub(crate) fn go_back(shared: &Arc<Shared>, job: &Job) -> Result<Option<Back>, EngineError> {
    let turn = shared.checkpoints.turn();
    let Some(saving) = job.saving() else {
        return Ok(None);
    };
    let saved = {
        let state = saving.state.lock();
        let saved = state.saved.as_ref();
        saved.map(|saved| (saved.record.clone(), Arc::clone(&saved.content)))
    };
    let Some((record, content)) = saved else {
        return Ok(None);
    };
    // A part that was staged alone is ahead of the rest, and damaged runs are no state.
    let Found { places, flow } = match load(shared, job, saving, &record, &turn) {
        Ok(Ok(found)) => found,
        Ok(Err(reason)) => return not_back(job, &reason),
        Err(error @ EngineError::Storage { .. }) => return not_back(job, &error.to_string()),
        Err(error) => return Err(error),
    };
    // What has changed since is computed again, and so is what the next checkpoint will have.
    job.was_not_saved();
    saving.state.lock().unsaved = StateChanges::default();
    let epoch = record.epoch;
    tracing::info!(job = %job.relation.name, epoch, "goes back to its checkpoint");
    Ok(Some(Back {
        epoch,
        places,
        content,
        flow,
    }))
}

fn not_back(job: &Job, reason: &str) -> Result<Option<Back>, EngineError> {
    tracing::warn!(job = %job.relation.name, reason, "cannot go back to its checkpoint");
    Ok(None)
}

/// Reads the state of a job, and finds its inputs as they were. The inner error says why it cannot go on from there.
fn load(
    shared: &Arc<Shared>,
    job: &Job,
    saving: &Saving,
    record: &Record,
    turn: &MutexGuard<'_, ()>,
) -> Result<Result<Found, String>, EngineError> {
    let epoch = record.epoch;
    let (mut streams, mut contents) = (BTreeMap::new(), BTreeMap::new());
    for input in &job.inputs {
        let content: Option<Arc<Version>> = match feeder(shared, job, input) {
            Some(Feeder::Source(_)) => {
                let Some(offsets) = record.streams.get(&input.oid) else {
                    return Ok(Err(format!("it was not saved with {}", input.label())));
                };
                streams.insert(input.oid, offsets.clone());
                continue;
            }
            Some(Feeder::Table) => content_at(shared, input, epoch, turn)?,
            // It may have gone on by now.
            Some(Feeder::Job(feeding)) => feeding
                .saved_content(epoch)
                .or_else(|| input.at(epoch, shared.latest())),
            None => None,
        };
        let Some(content) = content else {
            let label = input.label();
            return Ok(Err(format!("{label} is not known as it was at that time")));
        };
        contents.insert(input.oid, content);
    }
    let flow = read_state(shared, job, saving, epoch)?;
    Ok(Ok(Found {
        places: Places::at(epoch, streams, contents),
        flow,
    }))
}

fn content_saved(shared: &Shared, job: &Job, saving: &Saving) -> Result<Arc<Version>, EngineError> {
    let shape = saving
        .shapes
        .first()
        .ok_or_else(|| EngineError::internal("a job is saved without content"))?;
    let content = content_of_runs(shared, &job.relation, shape)?;
    Ok(Arc::new(content))
}

/// Reads what the operators remember.
fn read_state(
    shared: &Arc<Shared>,
    job: &Job,
    saving: &Saving,
    epoch: u64,
) -> Result<Option<Dataflow>, EngineError> {
    let runs = &shared.checkpoints.runs;
    let object = object(job).0;
    let parts = (0_u32..).map(|part| StatePart { object, part });
    let tables: Vec<_> = parts.zip(&saving.shapes).collect();
    for (table, _) in &tables {
        let through = runs.table(*table)?.through;
        if through != epoch {
            let error = StateError::Discontinuous {
                table: *table,
                since: epoch,
                through,
            };
            return Err(error.into());
        }
    }
    let Some(root) = &job.stateful else {
        return Ok(None);
    };
    let mut dataflow = job.new_flow(shared, root)?;
    for (table, shape) in tables.iter().skip(1) {
        let net: i64 = runs.table(*table)?.runs.iter().map(|run| run.net).sum();
        let rows = usize::try_from(net).unwrap_or(0);
        dataflow.expect(table.part as usize - 1, rows)?;
        let name = format!("a run of what {} remembers", job.relation.label());
        runs.read_table(*table, shape, |rows| {
            let delta = from_log(&rows, &shape.schema(), &name)?;
            dataflow.restore(table.part as usize - 1, &delta)
        })?;
    }
    dataflow.restored()?;
    // Errors of values that are computed again were recorded when they came.
    job.errors.discard();
    job.note_state(&dataflow);
    Ok(Some(dataflow))
}
