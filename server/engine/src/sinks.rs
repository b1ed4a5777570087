//! Delivers the changes of a sink's query.
//!
//! Invariant: only changes of durable epochs leave the system, in order, each until the sink accepted it; after a restart the
//! whole content is delivered again, so delivery is at least once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thalweg_connectors::{ConnectorError, Delta, Epoch, EpochInfo, Sink};

use crate::choose::newest;
use crate::error::EngineError;
use crate::job::Job;
use crate::relation::Version;
use crate::shared::Shared;
use crate::status::ErrorRecord;

/// Runs until the sink is dropped or the engine stops.
pub(crate) async fn deliver(shared: Arc<Shared>, job: Arc<Job>, mut sink: Box<dyn Sink>) {
    let mut progress = shared.subscribe();
    let mut delivered: Option<(u64, Arc<Version>)> = None;
    let mut backoff = shared.config.backoff_min;
    while !job.is_dropped() && !shared.is_stopping() {
        let Some((epoch, version)) =
            next(&shared, &job, delivered.as_ref().map(|(epoch, _)| *epoch))
        else {
            if progress.changed().await.is_err() {
                return;
            }
            continue;
        };
        match send(
            &shared,
            sink.as_mut(),
            epoch,
            &version,
            delivered.as_ref().map(|(_, version)| version),
        )
        .await
        {
            Ok(()) => {
                delivered = Some((epoch, version));
                backoff = shared.config.backoff_min;
                job.delivered.store(epoch, Ordering::SeqCst);
                *job.delivery_failure.lock() = None;
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(sink = %job.relation.name, reason, "sink failed, retrying");
                let at_us = shared.clock.now_us();
                shared.record_error(ErrorRecord::of(
                    &job.relation,
                    error.report().sqlstate,
                    reason.clone(),
                    at_us,
                    Some(epoch),
                ));
                *job.delivery_failure.lock() = Some(reason);
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(shared.config.backoff_max);
            }
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
    shared: &Shared,
    sink: &mut dyn Sink,
    epoch: u64,
    version: &Version,
    delivered: Option<&Arc<Version>>,
) -> Result<(), EngineError> {
    let changes: Vec<Delta> = match delivered {
        Some(delivered) => delivered.diff_to(version)?,
        None => version.content()?,
    };
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
