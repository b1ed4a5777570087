//! Delivers the changes of a sink's query: one task per sink, which waits and fails alone.
//!
//! Invariant: only changes of durable epochs leave the system, in order, each until the outlet accepted it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thalweg_connectors::{ConnectorError, Delta, Epoch, EpochInfo, Sink};

use crate::choose::newest;
use crate::error::EngineError;
use crate::into_table::TableOutlet;
use crate::job::Job;
use crate::messages::MessageOutlet;
use crate::relation::Version;
use crate::shared::Shared;
use crate::status::ErrorRecord;

/// Where a sink's rows go.
pub(crate) enum Outlet {
    /// A connector that takes changes; after a restart it gets the whole content again.
    Rows(Box<dyn Sink>),
    /// A connector that takes messages.
    Messages(Box<MessageOutlet>),
    /// A table of our own.
    Table(Box<TableOutlet>),
}

/// Starts the task that delivers.
pub(crate) fn start(shared: &Arc<Shared>, job: Arc<Job>, outlet: Outlet) {
    shared.wires.spawn(deliver(Arc::clone(shared), job, outlet));
}

/// Runs until the sink is dropped or the engine stops.
async fn deliver(shared: Arc<Shared>, job: Arc<Job>, mut outlet: Outlet) {
    let mut progress = shared.subscribe();
    let mut delivered: Option<(u64, Arc<Version>)> = None;
    let mut backoff = shared.config.backoff_min;
    while !is_over(&shared, &job) {
        let Some((epoch, version)) =
            next(&shared, &job, delivered.as_ref().map(|(epoch, _)| *epoch))
        else {
            if progress.changed().await.is_err() {
                return;
            }
            continue;
        };
        let before = delivered.as_ref().map(|(_, version)| version);
        let sent = tokio::select! {
            sent = send(&shared, &mut outlet, epoch, &version, before) => sent,
            () = over(&shared, &job) => return,
        };
        match sent {
            Ok(()) => {
                delivered = Some((epoch, version));
                backoff = shared.config.backoff_min;
                job.delivered.store(epoch, Ordering::SeqCst);
                *job.delivery_failure.lock() = None;
                shared.bump();
            }
            Err(error) => {
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

/// Returns when the sink has delivered everything of `epoch`.
pub(crate) async fn delivered(shared: &Shared, job: &Job, epoch: u64) -> Result<(), EngineError> {
    let mut progress = shared.subscribe();
    while job.delivered.load(Ordering::SeqCst) < epoch {
        if job.is_dropped() {
            return Err(EngineError::Unknown(job.relation.oid));
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

fn note_failure(shared: &Shared, job: &Job, epoch: u64, error: &EngineError) {
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

fn is_over(shared: &Shared, job: &Job) -> bool {
    job.is_dropped() || shared.is_stopping()
}

/// Returns when there is nothing to deliver any more: a broker that does not answer must not keep a dropped sink alive.
async fn over(shared: &Shared, job: &Job) {
    let mut progress = shared.subscribe();
    while !is_over(shared, job) {
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// The newest durable epoch after `done` at which the content is known.
fn next(shared: &Shared, job: &Job, done: Option<u64>) -> Option<(u64, Arc<Version>)> {
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
    outlet: &mut Outlet,
    epoch: u64,
    version: &Arc<Version>,
    delivered: Option<&Arc<Version>>,
) -> Result<(), EngineError> {
    match outlet {
        Outlet::Rows(sink) => write(shared, sink.as_mut(), epoch, version, delivered).await,
        Outlet::Messages(messages) => messages.deliver(version, delivered).await,
        Outlet::Table(table) => table.deliver(shared, version, delivered).await,
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
    version: &Version,
    delivered: Option<&Arc<Version>>,
) -> Result<(), EngineError> {
    let changes = changes(version, delivered)?;
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
    sink.write(info, &changes)
        .await
        .map_err(|error: ConnectorError| error.report().into())
}
