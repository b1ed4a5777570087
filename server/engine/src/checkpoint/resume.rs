//! Begins a job where its newest checkpoint left it.
//!
//! Invariant: a job goes on from saved state only when that state is of the same plan, kept in the same form, and everything the
//! job reads can be given as it was at that epoch. Otherwise it is computed from its inputs as they are now, and says so; a sink
//! whose deliveries are not kept cannot be, and is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use thalweg_state::{StateError, StatePart};

use super::jobs::{Feeder, SavedJob, Saving, feeder, object};
use super::record::Record;
use super::tables::{content_at, content_of_runs, from_log};
use crate::backfill::Places;
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
    let resumed = claimed
        .map_err(EngineError::from)
        .and_then(|bytes| try_resume(shared, job, &bytes, &turn));
    drop(turn);
    let reason = match resumed {
        Ok(Ok(())) => return true,
        Ok(Err(reason)) => reason,
        Err(error) => error.to_string(),
    };
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
            Some(Feeder::Job(feeding)) => feeding.saved_content(epoch),
            None => None,
        };
        let Some(content) = content else {
            let label = input.label();
            return Ok(Err(format!("{label} is not known as it was at that time")));
        };
        contents.insert(input.oid, content);
    }
    let content = read_state(shared, job, saving, epoch)?;
    *job.stands.lock() = Some((epoch, Places::at(epoch, streams, contents)));
    saving.state.lock().saved = Some(SavedJob { record, content });
    tracing::info!(job = %job.relation.name, epoch, "goes on from its checkpoint");
    Ok(Ok(()))
}

/// Reads the content, and puts the operators' state in place.
fn read_state(
    shared: &Arc<Shared>,
    job: &Job,
    saving: &Saving,
    epoch: u64,
) -> Result<Arc<Version>, EngineError> {
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
    let content = match job.log.get() {
        // What is staged is in place.
        Some(_) => job.relation.history.lock().newest(),
        None => {
            let (_, shape) = tables
                .first()
                .ok_or_else(|| EngineError::internal("a job is saved without content"))?;
            let content = Arc::new(content_of_runs(shared, &job.relation, shape)?);
            let mut history = job.relation.history.lock();
            history.resume(epoch, Arc::clone(&content));
            content
        }
    };
    let Some(root) = &job.stateful else {
        return Ok(content);
    };
    let mut dataflow = job.new_flow(shared, root)?;
    for (table, shape) in tables.iter().skip(1) {
        let name = format!("a run of what {} remembers", job.relation.label());
        runs.read_table(*table, shape, |rows| {
            let delta = from_log(&rows, &shape.schema(), &name)?;
            dataflow.restore(table.part as usize - 1, &delta)
        })?;
    }
    dataflow.restored()?;
    // Errors of values that are computed again were recorded when they came.
    job.errors.discard();
    job.state_bytes
        .store(dataflow.state().bytes, Ordering::SeqCst);
    *job.dataflow.lock() = Some(Standing { dataflow, epoch });
    Ok(content)
}
