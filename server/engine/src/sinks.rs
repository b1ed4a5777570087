//! Delivers the changes of a sink's query: one task per sink, which waits and fails alone.
//!
//! Invariant: only changes of durable epochs leave the system, in order, each until the outlet accepted it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thalweg_catalog::Oid;
use thalweg_connectors::{ConnectorError, Delta, Epoch, EpochInfo, Form, Sink};

use crate::choose::newest;
use crate::committing::{self, Open};
use crate::early::Part;
use crate::error::EngineError;
use crate::into_table::TableOutlet;
use crate::job::Job;
use crate::messages::MessageOutlet;
use crate::relation::Version;
use crate::shared::Shared;
use crate::status::ErrorRecord;

/// Where a sink's rows go.
pub(crate) enum Outlet {
    /// A connector that takes changes; after a restart, or when its query failed, it gets the whole content again.
    Rows(Box<dyn Sink>),
    /// A connector that takes messages.
    Messages(Box<MessageOutlet>),
    /// A table of our own.
    Table(Box<TableOutlet>),
    /// A connector that commits what checkpoints stage.
    Committing(Form, Open),
}

/// Starts the task that delivers.
pub(crate) fn start(shared: &Arc<Shared>, job: Arc<Job>, outlet: Outlet) {
    let engine = Arc::clone(shared);
    match (outlet, job.log.get().cloned()) {
        (Outlet::Committing(_, open), Some(log)) => {
            shared
                .wires
                .spawn(committing::deliver(engine, job, log, open));
        }
        (outlet, _) => {
            shared.wires.spawn(deliver(engine, job, outlet));
        }
    }
}

/// What a sink is given at once.
#[derive(Debug)]
enum Load {
    /// Rows of no epoch yet.
    Part(Part),
    /// Everything that is new at an epoch.
    Epoch(u64, Arc<Version>),
}

impl Load {
    fn epoch(&self) -> u64 {
        match self {
            Load::Part(part) => part.epoch,
            Load::Epoch(epoch, _) => *epoch,
        }
    }
}

/// Runs until the sink is dropped or the engine stops.
async fn deliver(shared: Arc<Shared>, job: Arc<Job>, mut outlet: Outlet) {
    let mut progress = shared.subscribe();
    let mut delivered: Option<(u64, Arc<Version>)> = None;
    let mut backoff = shared.config.backoff_min;
    // A part that was taken is nowhere else.
    let mut taken: Option<Part> = None;
    while !is_over(&shared, &job) {
        let done = delivered.as_ref().map(|(epoch, _)| *epoch);
        let Some(load) = next_load(&shared, &job, done, &mut taken) else {
            if progress.changed().await.is_err() {
                return;
            }
            continue;
        };
        let sent = tokio::select! {
            sent = send(&shared, &job, &mut outlet, &load, delivered.as_ref()) => sent,
            () = over(&shared, &job) => return,
        };
        let epoch = load.epoch();
        note_refused(&shared, &job, epoch, &mut outlet);
        if let Outlet::Rows(sink) = &outlet {
            let rows = sink.rows_written();
            job.rows_delivered.store(rows, Ordering::SeqCst);
        }
        match (sent, load) {
            (Ok(()), load) => {
                backoff = shared.config.backoff_min;
                if let Load::Epoch(epoch, version) = load {
                    if matches!(outlet, Outlet::Rows(_)) {
                        job.relation.history.lock().forget_changes(epoch);
                    }
                    delivered = Some((epoch, version));
                    job.delivered.store(epoch, Ordering::SeqCst);
                }
                *job.delivery_failure.lock() = None;
                shared.bump();
            }
            (Err(error), load) => {
                if let Load::Part(part) = load {
                    taken = Some(part);
                }
                note_failure(&shared, &job, epoch, &error);
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    () = over(&shared, &job) => return,
                }
                backoff = (backoff * 2).min(shared.config.backoff_max);
            }
        }
    }
}

/// What comes next: parts that were handed over before an epoch was published come before it.
fn next_load(
    shared: &Shared,
    job: &Job,
    done: Option<u64>,
    taken: &mut Option<Part>,
) -> Option<Load> {
    // Looked for first: a part that comes later belongs to a later epoch than this.
    let found = next(shared, job, done);
    if let Some(part) = taken.take() {
        return Some(Load::Part(part));
    }
    if let Some(handing) = job.handing.get() {
        let durable = shared.durable.load(Ordering::SeqCst);
        if let Some(part) = handing.take(durable) {
            return Some(Load::Part(part));
        }
        if !handing.is_empty() {
            return None;
        }
    }
    found.map(|(epoch, version)| Load::Epoch(epoch, version))
}

/// Returns when the sink has delivered everything of `epoch`.
pub(crate) async fn delivered(shared: &Shared, job: &Job, epoch: u64) -> Result<(), EngineError> {
    let mut progress = shared.subscribe();
    if let Some(log) = job.log.get() {
        log.want(epoch);
        shared.checkpoints.ask();
    }
    while job.delivered.load(Ordering::SeqCst) < epoch {
        if job.is_dropped() {
            return Err(EngineError::Unknown(job.relation.oid));
        }
        if let Some(paused) = shared.stuck(job.relation.oid) {
            return Err(paused);
        }
        if let Some(error) = shared.halted() {
            return Err(error);
        }
        if progress.changed().await.is_err() {
            return Err(EngineError::Stopping);
        }
    }
    Ok(())
}

/// Returns when a sink that delivers exactly once has delivered everything of `epoch`, or fails to.
pub(crate) async fn handed_over(shared: &Shared, oid: Oid, epoch: u64) -> Result<(), EngineError> {
    let Some(job) = shared.job(oid).filter(|job| job.log.get().is_some()) else {
        return Ok(());
    };
    let failed = async {
        let mut progress = shared.subscribe();
        while job.delivery_failure.lock().is_none() {
            if progress.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        done = delivered(shared, &job, epoch) => match done {
            // Dropped or paused meanwhile.
            Err(EngineError::Unknown(_) | EngineError::Paused { .. }) => Ok(()),
            done => done,
        },
        () = failed => Ok(()),
    }
}

/// Rows that the outside system will not take are rows of `sys.errors`; the sink goes on without them.
fn note_refused(shared: &Shared, job: &Job, epoch: u64, outlet: &mut Outlet) {
    if let Outlet::Messages(messages) = outlet {
        record_refused(shared, job, epoch, messages.take_refused());
    }
}

pub(crate) fn record_refused(shared: &Shared, job: &Job, epoch: u64, refused: Vec<ConnectorError>) {
    for error in refused {
        let report = error.report();
        let reason = match &report.detail {
            Some(detail) => format!("{}: {detail}", report.message),
            None => report.message.clone(),
        };
        let (at_us, state) = (shared.clock.now_us(), report.sqlstate);
        let record = ErrorRecord::of(&job.relation, state, reason, at_us, Some(epoch));
        shared.record_error(record);
    }
}

pub(crate) fn note_failure(shared: &Shared, job: &Job, epoch: u64, error: &EngineError) {
    let report = error.report();
    let reason = match &report.detail {
        Some(detail) => format!("{}: {detail}", report.message),
        None => report.message.clone(),
    };
    tracing::warn!(sink = %job.relation.name, reason, "sink failed, retrying");
    let at_us = shared.clock.now_us();
    shared.record_error(ErrorRecord::of(
        &job.relation,
        report.sqlstate,
        reason.clone(),
        at_us,
        Some(epoch),
    ));
    *job.delivery_failure.lock() = Some(reason);
}

pub(crate) fn is_over(shared: &Shared, job: &Job) -> bool {
    job.is_dropped() || shared.is_stopping()
}

/// Returns when there is nothing to deliver any more: a broker that does not answer must not keep a dropped sink alive.
pub(crate) async fn over(shared: &Shared, job: &Job) {
    let mut progress = shared.subscribe();
    while !is_over(shared, job) {
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// What a connector of changes has not got, oldest first. Its job keeps that until it is delivered, and no content.
fn changes_since(job: &Job, done: Option<u64>, epoch: u64) -> Result<Vec<Delta>, EngineError> {
    let history = job.relation.history.lock();
    let since = done.unwrap_or(history.changes_after());
    history.delta(since, epoch).ok_or_else(|| {
        EngineError::internal("the changes that a sink waits for are not kept any more")
    })
}

/// The newest durable epoch after `done` at which the content is known.
fn next(shared: &Shared, job: &Job, done: Option<u64>) -> Option<(u64, Arc<Version>)> {
    if job.is_paused() {
        return None;
    }
    let durable = shared.durable.load(Ordering::SeqCst);
    let latest = shared.latest().min(durable);
    let history = job.relation.history.lock();
    let epoch = newest(&history.known(latest))?;
    if done.is_some_and(|done| epoch <= done) {
        return None;
    }
    Some((epoch, history.at(epoch, latest)?))
}

async fn send(
    shared: &Arc<Shared>,
    job: &Job,
    outlet: &mut Outlet,
    load: &Load,
    delivered: Option<&(u64, Arc<Version>)>,
) -> Result<(), EngineError> {
    let before = delivered.map(|(_, version)| version);
    match (outlet, load) {
        (Outlet::Rows(sink), Load::Part(part)) => {
            write(shared, sink.as_mut(), part.epoch, &part.changes).await
        }
        (Outlet::Rows(sink), Load::Epoch(epoch, _)) => {
            let changes = changes_since(job, delivered.map(|(epoch, _)| *epoch), *epoch)?;
            write(shared, sink.as_mut(), *epoch, &changes).await
        }
        (Outlet::Messages(messages), Load::Epoch(_, version)) => {
            messages.deliver(version, before).await
        }
        (Outlet::Table(table), Load::Epoch(_, version)) => {
            table.deliver(shared, version, before).await
        }
        (Outlet::Committing(..), _) => Err(EngineError::internal(
            "a sink that commits has no log of what to commit",
        )),
        (Outlet::Messages(_) | Outlet::Table(_), Load::Part(_)) => Err(EngineError::internal(
            "a sink that compares contents is given a part of one",
        )),
    }
}

/// What changed between two versions; everything when there is no older one.
pub(crate) fn changes(
    version: &Version,
    delivered: Option<&Arc<Version>>,
) -> Result<Vec<Delta>, EngineError> {
    Ok(match delivered {
        Some(delivered) => delivered.diff_to(version)?,
        None => version.content()?,
    })
}

async fn write(
    shared: &Shared,
    sink: &mut dyn Sink,
    epoch: u64,
    changes: &[Delta],
) -> Result<(), EngineError> {
    if changes.iter().all(|delta| delta.num_rows() == 0) {
        return Ok(());
    }
    let at_ms = shared
        .at_ms(epoch)
        .unwrap_or_else(|| shared.latest_info().at_ms);
    let info = EpochInfo {
        epoch: Epoch(epoch),
        at_ms,
    };
    sink.write(info, changes)
        .await
        .map_err(|error: ConnectorError| error.report().into())
}
