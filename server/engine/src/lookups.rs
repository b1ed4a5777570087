//! Lookups of views in tables that outside systems keep.
//!
//! Invariant: a view whose lookup gets no answer waits, says so, and goes on where it was once there is one; it never takes silence
//! for the absence of a row. Only the thread of the view's own run waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::record_batch::RecordBatch;
use thalweg_catalog::{Oid, Report};
use thalweg_connectors::{FoundRow, HbaseLookup};
use tokio::runtime::Handle;

use crate::dataflow::{KeyedRows, OutsideTables};
use crate::error::EngineError;
use crate::shared::{Shared, Stored};
use crate::status::ErrorRecord;

/// How often a lookup that waits looks whether anybody still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The tables of one view's lookups.
pub(crate) struct Lookups {
    pub(crate) shared: Weak<Shared>,
    pub(crate) view: Arc<Stored>,
    /// The view is gone.
    pub(crate) dropped: Arc<AtomicBool>,
}

impl OutsideTables for Lookups {
    fn open(&self, oid: Oid, wanted: &[usize]) -> Result<Arc<dyn KeyedRows>, EngineError> {
        let shared = self.shared.upgrade().ok_or(EngineError::Stopping)?;
        let external = shared.external.read().get(&oid).cloned();
        let external = external.ok_or(EngineError::Unknown(oid))?;
        let lookup = external.table.lookup(wanted);
        Ok(Arc::new(Finder {
            lookup: Arc::new(lookup.map_err(|error| error.report())?),
            wires: external.wires.clone(),
            shared: Weak::clone(&self.shared),
            view: Arc::clone(&self.view),
            dropped: Arc::clone(&self.dropped),
        }))
    }
}

/// Finds rows for a view, whose run waits as long as the outside system does not answer: nothing else of the view can go on, and
/// a result without the answer would be wrong.
#[derive(Debug)]
struct Finder {
    lookup: Arc<HbaseLookup>,
    wires: Handle,
    shared: Weak<Shared>,
    view: Arc<Stored>,
    dropped: Arc<AtomicBool>,
}

impl Finder {
    /// The engine, as long as somebody wants the view.
    fn wanted(&self) -> Result<Arc<Shared>, EngineError> {
        let shared = self.shared.upgrade().filter(|shared| !shared.is_stopping());
        let shared = shared.filter(|_| !self.dropped.load(Ordering::SeqCst));
        shared.ok_or(EngineError::Stopping)
    }

    /// Asks once.
    fn ask(&self, keys: &[ArrayRef]) -> Result<Result<Vec<FoundRow>, Report>, EngineError> {
        let (sender, answer) = mpsc::sync_channel(1);
        let (lookup, keys) = (Arc::clone(&self.lookup), keys.to_vec());
        let asking = self.wires.spawn(async move {
            // Whoever asked may be gone.
            let _ = sender.send(lookup.rows(&keys).await);
        });
        loop {
            match answer.recv_timeout(LOOK_AGAIN) {
                Ok(answer) => return Ok(answer.map_err(|error| error.report())),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(EngineError::internal("a lookup broke off"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if let Err(over) = self.wanted() {
                        asking.abort();
                        return Err(over);
                    }
                }
            }
        }
    }

    /// Tells what the view waits for.
    fn waits(&self, shared: &Shared, report: &Report) {
        let reason = match &report.detail {
            Some(detail) => format!("{}: {detail}", report.message),
            None => report.message.clone(),
        };
        tracing::warn!(view = %self.view.name, error = %reason, "lookup failed, retrying");
        let at_us = shared.clock.now_us();
        let record = ErrorRecord::of(&self.view, report.sqlstate, reason.clone(), at_us, None);
        shared.record_error(record);
        *self.view.failure.lock() = Some(reason);
        shared.bump();
    }
}

impl KeyedRows for Finder {
    fn find(&self, keys: &[ArrayRef]) -> Result<Vec<FoundRow>, EngineError> {
        let mut told: Option<Report> = None;
        let mut pause = Duration::ZERO;
        loop {
            let report = match self.ask(keys)? {
                Ok(rows) => {
                    if told.is_some() {
                        *self.view.failure.lock() = None;
                    }
                    return Ok(rows);
                }
                Err(report) => report,
            };
            let shared = self.wanted()?;
            let config = &shared.config;
            pause = (pause * 2).clamp(config.backoff_min, config.backoff_max);
            if told.as_ref() != Some(&report) {
                self.waits(&shared, &report);
                told = Some(report);
            }
            let until = Instant::now() + pause;
            drop(shared);
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left.min(LOOK_AGAIN));
                self.wanted()?;
            }
        }
    }

    fn decode(&self, rows: &[&[u8]]) -> Result<RecordBatch, EngineError> {
        let decoded = self.lookup.decode(rows.iter().copied());
        Ok(decoded.map_err(|error| error.report())?)
    }

    fn encode(&self, columns: &[ArrayRef]) -> Result<Vec<Arc<[u8]>>, EngineError> {
        let encoded = self.lookup.encode(columns);
        Ok(encoded.map_err(|error| error.report())?)
    }
}
