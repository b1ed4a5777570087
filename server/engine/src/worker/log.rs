//! The worker's way to the log, and what it does while that is closed.
//!
//! Invariant: statements are refused from the first failure on until the log was written again; what was refused is not in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use thalweg_state::EpochEntry;

use super::Worker;
use crate::error::EngineError;
use crate::shared::Stored;
use crate::transaction::Append;

/// How often a log that cannot be written is tried.
pub(super) const LOG_RETRY: Duration = Duration::from_millis(50);

/// Why an epoch is not in the log.
pub(super) enum NotLogged {
    /// It was refused, or the worker is broken.
    Refused(EngineError),
    /// The log could not be written.
    Failed(EngineError),
}

impl Worker {
    pub(super) fn sync(&mut self) {
        if self.shared.fatal.lock().is_some() {
            return;
        }
        match self.shared.store.sync() {
            Ok(()) => {
                self.log_works();
                self.synced();
            }
            Err(error) => self.log_fails(&error.into(), &[]),
        }
    }

    /// Refuses statements, and has sources stand still.
    pub(super) fn log_fails(&self, error: &EngineError, tables: &[Arc<Stored>]) {
        if self.shared.inbox.fault().is_none() {
            tracing::error!(%error, "the epoch log cannot be written, statements are refused and sources wait until it can be");
        }
        self.shared.inbox.refuse(error, tables);
        self.shared.bump();
    }

    fn log_works(&self) {
        if self.shared.inbox.fault().is_some() {
            tracing::warn!("the epoch log can be written again");
            self.shared.inbox.accept();
            self.shared.checkpoints.ask();
            self.shared.bump();
        }
    }

    /// Tries whether the log can be written, until it can when there is something for it; false when it cannot.
    pub(super) fn try_log(&self, something: bool) -> bool {
        while let Err(error) = self.shared.store.sync() {
            self.log_fails(&error.into(), &[]);
            if !something || !self.shared.checkpoints.pause(LOG_RETRY) {
                return false;
            }
        }
        self.log_works();
        true
    }

    pub(super) fn synced(&mut self) {
        self.unsynced = false;
        self.last_sync = Instant::now();
        self.shared
            .durable
            .store(self.shared.latest(), Ordering::SeqCst);
        self.shared.bump();
    }

    /// Writes an epoch to the log; the error is what whoever waits for the epoch is told.
    pub(super) fn append(
        &self,
        entry: &EpochEntry,
        durable: bool,
        append: Option<Append>,
    ) -> Result<(), NotLogged> {
        if let Some(error) = self.shared.fatal.lock().clone() {
            return Err(NotLogged::Refused(error));
        }
        let logged = match append {
            Some(append) => self.shared.store.append_with(entry, append),
            None => self.shared.store.append(entry, durable).map(Ok),
        };
        match logged {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(NotLogged::Refused(refused.into())),
            Err(error) => Err(NotLogged::Failed(error.into())),
        }
    }
}
